r"""Gaussian paths x_t = alpha_t x_0 + sigma_t z, z ~ N(0, I): from the data (small t) to noise (large t).

One class has every schedule of the literature; all that solvers and losses need follows from alpha and sigma::

    log-SNR     lambda(t) = 2 log(alpha_t / sigma_t)           strictly decreasing
    dx = f(t) x dt + g(t) dw    f = d log alpha / dt,  g^2 = d sigma^2/dt - 2 f sigma^2 = -sigma^2 dlambda/dt

("variance exploding" is f = 0; the score of x_t given x_0 is -z / sigma_t, whatever alpha). Makers: :func:`ve`, :func:`edm`
and :func:`levels` (alpha = 1), :func:`vp_linear`, :func:`vp_discrete` and :func:`vp_cosine` (alpha^2 + sigma^2 = 1),
:func:`sub_vp`, :func:`rectified` (1 - t, t), and :class:`Path` itself, of any two functions. There is no plain "VP": what
libraries call so ends with an alpha of 0.0066, 0.068 or 0.001.

:data:`PATHS` has those that ``fastscore train --path`` follows.

All is computed in float64, whatever the dtype of t.

Source: Song et al. 2021, "Score-based generative modeling through stochastic differential equations"; Kingma et al. 2021,
"Variational diffusion models" (log-SNR); Karras et al. 2022, "Elucidating the design space of diffusion-based generative
models" (the grid of ``rule="karras"``).
"""

from .makers import edm, levels, rectified, sub_vp, ve, vp_cosine, vp_discrete, vp_linear
from .path import RULES, Grid, Path
from .registry import PATHS, PathKind

__all__ = [
    "PATHS",
    "RULES",
    "Grid",
    "Path",
    "PathKind",
    "edm",
    "levels",
    "rectified",
    "sub_vp",
    "ve",
    "vp_cosine",
    "vp_discrete",
    "vp_linear",
]
