"""The command ``fastscore inspect``."""

from __future__ import annotations

from pathlib import Path

from .. import terminal


def inspect(
    run: Path,
    /,
    num: int = 500,
    out: Path | None = None,
    seed: int = 0,
    weights: str = "auto",
    checkpoint: int | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """Say at which noise level a run is weak.

    Compares the network with the data at each level: its loss with the best constant's and a Gaussian fit's, its score with the
    true one where that is known, Stein's identity, and whether it is a gradient. Writes inspect.md and inspect.png.

    Args:
        run: The run folder that training wrote.
        num: How many samples at each level.
        out: The folder to write into; the run folder where not given.
        seed: Of the noise.
        weights: ema: their moving average; ema-0.9999: a further one that the run keeps; raw: as the optimizer left them; auto: ema where the run keeps one.
        checkpoint: The iteration whose checkpoint or snapshot to use; by default the last checkpoint.
        data_dir: Folder that holds the data set's files; by default where the run was trained on them.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        quiet: No progress bar.
    """
    from .. import inspection

    if data_dir is not None:
        terminal.check_readable("--data-dir", data_dir)
    report = inspection.inspect(
        run,
        num=num,
        seed=seed,
        weights=weights,
        iteration=checkpoint,
        data_dir=data_dir,
        out=out,
        device=device,
        progress=not quiet,
    )
    folder = out or run
    print(f"{inspection.summary(report)}\nlook at {folder / inspection.PICTURE}\npage: {folder / inspection.PAGE}")
