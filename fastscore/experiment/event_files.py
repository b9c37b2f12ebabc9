"""The lines of metrics.jsonl as TensorBoard's event files, where that package is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._core.errors import require

FOLDER = "tensorboard"


class EventFiles:
    """Writes event files into RUN/tensorboard: called with a line of metrics.jsonl, adds its numbers at its iteration.

    They are ``loss``, ``lr``, ``grad_norm``, ``images_per_second``, and the mean loss of each noise level as
    ``loss_per_sigma/0`` and so on, the largest noise first.

    Args:
        run: the run folder.
        step: iterations done: what an earlier process wrote after them is hidden, since it is made again.

    Raises:
        MissingDependency: tensorboard is not installed.
    """

    def __init__(self, run: Path, step: int):
        require("tensorboard", FOLDER)
        writer = require("torch.utils.tensorboard", FOLDER).SummaryWriter
        self._writer = writer(str(run / FOLDER), purge_step=step + 1)

    def __call__(self, record: dict[str, Any]) -> None:
        step = record["step"]
        for name, value in record.items():
            if name == "loss_per_sigma":
                for level, loss in enumerate(value):
                    if loss is not None:  # no sample had that level
                        self._writer.add_scalar(f"{name}/{level}", loss, step)
            elif name != "step" and value is not None:
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Let go of the file."""
        self._writer.close()
