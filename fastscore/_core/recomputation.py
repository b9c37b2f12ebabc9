"""Activation checkpointing: it computes a function again in the backward pass, where its draws must be the same."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from .private_torch import backward_pass

replayed: list[int] = []  # the backward passes in which draws are made again on purpose: Philox.for_checkpoint


def refuse_recomputation(*, recording: bool) -> None:
    """Raise in a backward pass where activation checkpointing computes a function again.

    ``recording``: take it for that, too, that gradients are recorded there, as other libraries' checkpoints do. Else
    the draw is of a compiled function, which does not know of which Philox: then not where one is replayed.
    """
    task = backward_pass()
    if task == -1 or not (
        torch.is_grad_enabled() or _in_a_checkpoint() if recording else task not in replayed and _in_a_checkpoint()
    ):
        return
    raise RuntimeError(
        "this Philox drew in a function that activation checkpointing now computes again, where it "
        "would draw other numbers: pass checkpoint(..., use_reentrant=False, "
        "context_fn=rng.for_checkpoint), with functools.partial(rng.for_checkpoint, other) where it "
        "draws from several, or draw the noise before and hand it in, or make the Philox inside the "
        "function. (To draw in a hook of a backward pass with create_graph, do it under "
        "torch.no_grad().)"
    )


def _in_a_checkpoint() -> bool:
    """Whether torch.utils.checkpoint is among the callers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "torch.utils.checkpoint":
        frame = frame.f_back
    return frame is not None


class Replay(AbstractContextManager):
    """Inside, each Philox draws again what it drew from the making of this context on; then it goes on where it was."""

    def __init__(self, *rngs: Any):
        self.rngs, self.starts = rngs, [rng._mark() for rng in rngs]
        self.left: list[list[tuple[int | Tensor, int | None]]] = []  # one for each time that it is entered

    def __enter__(self) -> None:
        self.left.append([(rng._mark(), rng._task) for rng in self.rngs])
        replayed.append(backward_pass())
        for rng, start in zip(self.rngs, self.starts):
            rng._return_to(start, replayed[-1])

    def __exit__(self, *_: Any) -> None:
        for rng, left in zip(self.rngs, self.left.pop()):
            rng._return_to(*left)
        replayed.pop()
