"""Score-matching objectives, composed from the operators.

All are functions ``loss(score_fn, x, ..., rng=None, reduction="mean")``. Those of denoising (:func:`dsm`,
:func:`ncsn`) compare the score with the noise, and so do those on any Gaussian path of :mod:`fastscore.paths`: :func:`csm`
(conditional score matching), :func:`ddpm` (its epsilon form), :func:`edm`, :func:`stf` (the target averaged over a batch)
and :func:`esm` (against a known score). The others need no noise: they estimate the implicit objective
E[1/2 ||s||^2 + tr ds/dx], with the trace of the score's Jacobian (:func:`ism`), with directions in its place
(:func:`ssm`, :func:`ssm_vr`, :func:`annealed_ssm_vr`), or with differences (:func:`fd_ssm`).
:func:`gradient_penalty` is the squared norm of that Jacobian.

``conditioning`` says what a ``score_fn`` is called with:

- ``"none"``: ``score_fn(x)``, a network for one noise level;
- ``"labels"``: ``score_fn(x, labels)``, labels int64 [B], indices into ``sigmas`` (as NCSN and NCSNv2);
- ``"sigma"``: ``score_fn(x, sigma)``, sigma [B] of the dtype of computation.

Objectives without that argument call ``score_fn(x)``. ``model_kwargs`` are further arguments, by name.

:data:`OBJECTIVES` has those that ``fastscore train`` minimises.

The gradient of an energy is a score by :func:`fastscore.energy_score`. One that is computed on a detached copy of x, or
under ``no_grad``, gives the denoising losses what they need, and the others no Jacobian, which is an error there.
"""

from ._objective import Objective
from ._times import PROPOSALS, WEIGHTINGS
from .common import PARAMETRIZATIONS, REDUCTIONS, reduce
from .conditional import csm, ddpm, esm
from .dsm import draw_labels, drop_labels, dsm, ncsn
from .edm import edm
from .implicit import ism
from .objectives import OBJECTIVES
from .penalty import gradient_penalty
from .sliced import annealed_ssm_vr, fd_ssm, ssm, ssm_vr
from .target_field import stf, target_field

__all__ = [
    "OBJECTIVES",
    "PARAMETRIZATIONS",
    "PROPOSALS",
    "REDUCTIONS",
    "WEIGHTINGS",
    "Objective",
    "annealed_ssm_vr",
    "csm",
    "ddpm",
    "draw_labels",
    "drop_labels",
    "dsm",
    "edm",
    "esm",
    "fd_ssm",
    "gradient_penalty",
    "ism",
    "ncsn",
    "reduce",
    "ssm",
    "ssm_vr",
    "stf",
    "target_field",
]
