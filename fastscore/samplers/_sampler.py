"""How a sampler describes itself to command lines, reports and tables; and the options that many samplers take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from .._core import checks
from .._core.counter import STEPS
from .._core.options import Option, boolean, choice, complete
from ._start import STARTS
from ._steps import given_step_size

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Sampler:
    """An entry of :data:`SAMPLERS`: a way to draw samples from a network that was trained at several noise levels.

    Below, L is the number of noise levels and ``options`` holds a value for each of the entry's options.

    Args:
        name: its key in the registry, and what the command line calls it.
        title: its name in tables and pictures, without a capital where it is not a proper name.
        source: authors and year.
        summary: how it differs from the others, in a few words.
        cost: how many evaluations of the network a sample takes, in words, for the documentation.
        options: the options that it takes.
        run: run(score_fn, shape, sigmas, options, *, rng, device, callback, trajectory, cuda_graph) -> samples of ``shape``
            [B, ...]; all as for :func:`annealed_langevin`, score_fn(x, labels).
        updates: updates(L, options), how often it calls ``callback``; None where samples decide.
        evaluations: evaluations(L, options), how often it calls ``score_fn``; None where samples decide.
        sigma_after: sigma_after(sigmas, options, step), the noise level of the samples after update ``step`` (1 is the
            first); it never grows with ``step``.
        remedy: what to do where samples are not finite; a format string over the options.
        centred: whether ``run`` takes ``mean=`` and ``covariance=`` or ``std=``, of the data, with which it begins where
            ``start`` is ``"normal"``.
        between: between(options), whether it asks for the score between the points of its grid.
        grids: grids(L, options, budget, beyond), the options that decide how often it calls ``score_fn``, in each of the
            ways to do so at most ``budget`` times; ``beyond``: whether there may be more points than levels. Where samples
            decide, tolerances from the loosest on. None: there is no such option.
        searched: the options whose best values differ from budget to budget, so that a comparison must look for them.
        needs: a package that it takes beside torch, and the extra that brings it.
        recordable: recordable(options), whether ``run`` takes ``cuda_graph=True``.
        any_path: whether ``run`` and ``sigma_after`` take a :class:`fastscore.paths.Path` of continuous t in place of sigmas, and
            then score_fn(x, t); "noise level" is then sigma / alpha.
        one_step_a_level: whether it takes ``steps``, of which 0 are one from each level; on a path they are to be given.
    """

    name: str
    title: str
    source: str
    summary: str
    cost: str
    options: tuple[Option, ...]
    run: Callable[..., Tensor]
    updates: Callable[[int, Options], int | None]
    evaluations: Callable[[int, Options], int | None]
    sigma_after: Callable[[Any, Options, int], float]
    remedy: str = "train longer"
    centred: bool = False
    between: Callable[[Options], bool] = lambda options: False
    grids: Callable[[int, Options, int, bool], list[dict[str, Any]]] | None = None
    searched: tuple[str, ...] = ()
    needs: tuple[str, str] | None = None
    recordable: Callable[[Options], bool] = lambda options: True
    any_path: bool = False
    one_step_a_level: bool = False

    def complete(self, given: Options) -> dict[str, Any]:
        """Every option's value, checked: the one of ``given`` (None counts as not given) or its default.

        Raises:
            TypeError, ValueError: a value out of its range, an option that this sampler does not take, or one without
                a default that is not given; the message names it.
        """
        return complete(self.options, given, f"sampler {self.name!r}")


#: The most updates that can be asked for: each takes one of the steps of a seed's random numbers.
MOST = STEPS - 1
STEP_SIZE = Option(
    "step_size",
    float,
    "Langevin step size at the smallest noise level",
    lambda _, value: given_step_size(value, None),
    setting="step_size",
)
STEPS_PER_LEVEL = Option(
    "steps_per_level",
    int,
    "Langevin updates at each noise level",
    partial(checks.integer, low=1),
    default=100,
    setting="steps_per_level",
)
DENOISE = Option(
    "denoise",
    bool,
    "End with the mean of the clean image given the noisy one",
    boolean,
    default=False,
    setting="denoise",
)
START = choice(
    "start",
    STARTS,
    "Where sampling begins: uniform in [0, 1], or normal of the largest noise level",
    default="uniform",
    setting="start",
)
#: The remedy of samplers that take ``step_size``.
SMALLER_STEP_SIZE = (
    "step_size, {step_size:g}, is too large for this network; sample with a smaller --step-size, or train longer"
)
