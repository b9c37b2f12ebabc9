"""How an objective describes itself for trainers, command lines and tables.

A run has noise levels sigmas [L], strictly decreasing. At each iteration every sample of the batch x [B, ...] has a
level, labels int64 [B], and the objective is a loss of each sample at its level, [B], whose mean is minimised.

A run on a :class:`fastscore.paths.Path` of continuous t has no levels: the objective draws the times itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._core import checks
from .._core.options import Option, complete
from ..paths import Path
from ..rng import Philox

#: loss(x [B, ...], or a handle on it, labels int64 [B], rng) -> [B]
BatchLoss = Callable[[Any, Tensor, Philox], Tensor]
#: loss(x [B, ...], rng) -> ([B], the times t, float64 [B], at which they were taken)
PathLoss = Callable[[Tensor, Philox], tuple[Tensor, Tensor]]
SAMPLES = {1: "points", 3: "images"}  # by the dimensions of a sample


@dataclass(frozen=True)
class Objective:
    """An entry of :data:`OBJECTIVES`.

    Args:
        name: its key in the registry, and what the command line calls it.
        title: its name in tables and pictures, without a capital where it is not a proper name.
        source: authors and year.
        summary: how it differs from the others, in a few words.
        bind: ``bind(network, sigmas, weight=..., **options)``, of what :meth:`on` checked, gives the loss that is
            called at every iteration with x, labels and rng, and checks no more than these need. ``network(x, labels)``
            is the score; the loss of a sample at level i has the factor sigma_i^weight. The loss may take as many steps
            of ``rng`` as it likes: nobody else draws from it afterwards. ``bind`` raises ValueError for a network that
            does not fit.
        first_order: whether its loss is a function of the score alone, not of its Jacobian, so that ``torch.compile`` may
            give its gradient.
        whole_batch: whether what it gives a row depends on the other rows, so that a batch may not be worked on in parts.
        options: the options that it takes; ``bind`` takes a value for each by name.
        as_good_in_bf16: whether a network trained by it in bfloat16 was seen to be as good as in float32, so that a
            precision of ``auto`` may choose bfloat16.
        sample_kinds: which kinds of samples it can be computed for, of ``"points"`` [D] and ``"images"`` [C, H, W].
        bind_path: ``bind_path(score_fn, path, weight=..., **options)``, the same on a path of continuous t, where ``score_fn(x,
            t)`` is the score: it gives the loss that is called with x and rng, takes the times from ``rng`` first, and has the
            factor sigma(t)^weight. None: the objective is for noise levels alone.
        reads_images: whether its loss takes a :class:`fastscore.ops.ImageBatch` in place of x too, which it perturbs in
            the pass that reads it; the others are given the images that were read.
    """

    name: str
    title: str
    source: str
    summary: str
    bind: Callable[..., BatchLoss]
    bind_path: Callable[..., PathLoss] | None = None
    first_order: bool = False
    whole_batch: bool = False
    options: tuple[Option, ...] = ()
    sample_kinds: tuple[str, ...] = tuple(SAMPLES.values())
    reads_images: bool = False
    as_good_in_bf16: bool = False

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option's value, checked: the one of ``given`` (None counts as not given) or its default.

        Raises:
            TypeError, ValueError: a value out of its range, or an option that this objective does not take.
        """
        return complete(self.options, given, f"objective {self.name!r}")

    def on(
        self, network: nn.Module, sigmas: Tensor, sample_shape: tuple[int, ...], *, weight: float, **options: Any
    ) -> BatchLoss:
        """The loss of a batch for one network and one set of noise levels, which are checked here and not again.

        Args:
            network: ``network(x, labels)``, x [B, ...] -> [B, ...].
            sigmas: [L], strictly decreasing, on the device of the batches.
            sample_shape: of one sample, [D] or [C, H, W].
            weight: power of sigma.
            options: as for :meth:`complete`.

        Raises:
            TypeError, ValueError: an argument of the wrong kind or value; the objective cannot be computed for such samples, or for this network.
        """
        self._check_samples(sample_shape)
        sigmas, weight = checks.sigmas("sigmas", sigmas), checks.number("weight", weight)
        return self.bind(network, sigmas, weight=weight, **self.complete(options))

    def on_path(
        self,
        score_fn: Callable[[Tensor, Tensor], Tensor],
        path: Path,
        sample_shape: tuple[int, ...],
        *,
        weight: float,
        **options: Any,
    ) -> PathLoss:
        """The loss of a batch for one network and one path of continuous t, which are checked here and not again.

        Args:
            score_fn: ``score_fn(x, t)``, the score at x_t [B, ...] and t [B], such as :func:`fastscore.as_score` gives.
            path: whose t is continuous.
            sample_shape, weight, options: as for :meth:`on`; weight is the power of sigma(t).

        Raises:
            TypeError, ValueError: as :meth:`on`; or the objective is for noise levels alone.
        """
        self._check_samples(sample_shape)
        if self.bind_path is None or path.sigmas is not None:
            raise ValueError(
                f"path must be one of noise levels, paths.levels, for the objective {self.name!r}, got {path!r}"
                if self.bind_path is None
                else f"path must be one of continuous t (on noise levels: on(network, sigmas, ...)), got {path!r}"
            )
        weight = checks.number("weight", weight)
        return self.bind_path(score_fn, path, weight=weight, **self.complete(options))

    def _check_samples(self, sample_shape: tuple[int, ...]) -> None:
        if SAMPLES.get(len(sample_shape)) not in self.sample_kinds:
            raise ValueError(
                f"objective must be one for samples of shape {tuple(sample_shape)}, got {self.name!r}, which is for "
                f"{' and '.join(self.sample_kinds)} alone"
            )
