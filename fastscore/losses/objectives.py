"""The table of what a training run may minimise. An entry stands in the file of its loss.

A run has noise levels sigmas [L], strictly decreasing. At each iteration every sample of the batch x [B, ...] has a
level, labels int64 [B], and the objective is a loss of each sample at its level, [B], whose mean is minimised.

A new objective is a file with its loss and a :func:`declare` at its end, imported by the package: the trainer, the
command line and the documentation find it here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .._core import checks
from .._core.options import Option, complete
from ..rng import Philox

#: loss(x [B, ...], labels int64 [B], rng) -> [B]
BatchLoss = Callable[[Tensor, Tensor, Philox], Tensor]
SAMPLES = {1: "points", 3: "images"}  # by the dimensions of a sample


@dataclass(frozen=True)
class Objective:
    """An entry of :data:`OBJECTIVES`.

    Attributes:
        name: what ``--objective`` takes.
        title: its name in tables and pictures.
        help: a sentence for ``--help``, without a capital or a full stop.
        bind: ``bind(network, sigmas, weight=..., **options)`` checks these once and gives the loss that is called at
            every iteration with x, labels and rng. ``network(x, labels)`` is the score; the loss of a sample at
            level i has the factor sigma_i^weight. The loss may take as many steps of ``rng`` as it likes: nobody else
            draws from it afterwards. ``bind`` raises ValueError for a network that does not fit.
        options: what ``bind`` takes by name.
        samples: which kinds of samples it can be computed for, of ``"points"`` [D] and ``"images"`` [C, H, W].
    """

    name: str
    title: str
    help: str
    bind: Callable[..., BatchLoss]
    options: tuple[Option, ...] = ()
    samples: tuple[str, ...] = tuple(SAMPLES.values())

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option's value, as given or its default; TypeError or ValueError for what is no option of this one."""
        return complete(f"objective {self.name!r}", self.options, given)

    def on(
        self, network: nn.Module, sigmas: Tensor, sample_shape: tuple[int, ...], *, weight: float, **options: Any
    ) -> BatchLoss:
        """The loss of a batch for one network and one set of noise levels, checked as far as it can be beforehand.

        Args:
            network: ``network(x, labels)``, x [B, ...] -> [B, ...].
            sigmas: [L], strictly decreasing, on the device of the batches.
            sample_shape: of one sample, [D] or [C, H, W].
            weight: power of sigma.
            options: as :meth:`complete` gave them.

        Raises:
            ValueError: the objective cannot be computed for such samples, or for this network.
        """
        kind = SAMPLES.get(len(sample_shape))
        if kind not in self.samples:
            raise ValueError(
                f"objective must be one for samples of shape {tuple(sample_shape)}, got {self.name!r}, which is for "
                f"{' and '.join(self.samples)} alone"
            )
        return self.bind(network, sigmas, weight=weight, **options)


OBJECTIVES: dict[str, Objective] = {}


def declare(objective: Objective) -> Objective:
    """Put an objective into :data:`OBJECTIVES`. ValueError where the name is taken."""
    if objective.name in OBJECTIVES:
        raise ValueError(f"name must be that of no other objective, got {checks.describe(objective.name)}")
    OBJECTIVES[objective.name] = objective
    return objective


def markdown() -> str:
    """The table for the documentation: an objective a row, then an option of one a row."""
    rows = ["| objective | what it is | samples |", "|---|---|---|"]
    rows += [f"| `{o.name}` | {o.title}: {o.help} | {', '.join(o.samples)} |" for o in OBJECTIVES.values()]
    rows += ["", "| option | objective | default | what it is |", "|---|---|---|---|"]
    rows += [
        f"| `{option.name}` | `{o.name}` | `{option.default}` | {option.help} |"
        for o in OBJECTIVES.values()
        for option in o.options
    ]
    return "\n".join(rows) + "\n"
