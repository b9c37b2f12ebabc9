"""A score that is NaN or infinite stops a solver, with the update at which it was."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.errors import NonFiniteSamples


class Finite:
    """Sees to it that scores are finite. On an accelerator, for which the host does not wait, that is said at the end.

    Attributes:
        update: the number of the update that is done, the first being 1.
    """

    def __init__(self) -> None:
        self.update = 1
        self._scores: list[tuple[str, Tensor]] = []
        self._sigmas: Sequence[float] = ()
        self._now: Tensor | None = None
        self._first: Tensor | None = None

    def begin(self, sigmas: Sequence[float], device: torch.device, recorded: bool) -> None:
        """Before the updates, at the noise ``sigmas``; ``recorded`` in graphs, where the device counts."""
        if recorded:
            self._sigmas = sigmas
            self._now = torch.ones((), dtype=torch.int64, device=device)
            self._first = torch.full_like(self._now, len(sigmas) + 1)

    def count(self) -> None:
        """An update is done, says the device."""
        assert self._now is not None
        self._now += 1

    def __call__(self, value: Tensor, where: str | None) -> Tensor:
        """``value``, a score, once it is known to be finite.

        Args:
            value: [B, ...].
            where: for the message; None: in a graph.

        Raises:
            NonFiniteSamples: it is not.
        """
        if where is None:
            assert self._now is not None and self._first is not None
            here = torch.where(torch.isfinite(value).all(), self._first, self._now)
            self._first.copy_(torch.minimum(self._first, here))
        elif not backends.transformed():
            where = f"in update {self.update}, {where}"
            if checks.readable(value):
                bad = ~torch.isfinite(value).reshape(len(value), value.shape[1:].numel()).all(1)
                if bool(bad.any()):
                    raise _not_finite(where, f"{int(bad.sum())} of {len(bad)}")
            else:
                self._scores.append((where, torch.isfinite(value).all()))
        return value

    def end(self) -> None:
        """Say of an accelerator's scores which one was not finite."""
        if self._first is not None and (first := int(self._first)) <= len(self._sigmas):
            raise _not_finite(f"in update {first}, from sigma {self._sigmas[first - 1]:.6g}", "some")
        if self._scores and not bool(torch.stack([good for _, good in self._scores]).all()):
            raise _not_finite(next(where for where, good in self._scores if not good), "some")


def _not_finite(where: str, which: str) -> NonFiniteSamples:
    return NonFiniteSamples(
        f"score_fn gave NaN or infinity for {which} samples {where}: sampling stopped there. A network may do so for "
        "samples that are larger than any it was trained with (start, or more steps), or in half precision"
    )
