"""The command ``fastscore compare-samplers``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from .. import terminal
from ..compare import BUDGETS


def compare_samplers(
    run: Path,
    /,
    samplers: tuple[str, ...] = (),
    budgets: tuple[int, ...] = BUDGETS,
    seeds: int = 3,
    samples: int = 1000,
    out: Path | None = None,
    feature: Literal["auto", "pixels", "inception"] = "auto",
    inception: Path | None = None,
    no_inception_checksum: bool = False,
    weights: str = "auto",
    checkpoint: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    data_dir: Path | None = None,
    overwrite: bool = False,
    batch_size: int = 500,
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """Compare all samplers on a trained run, at equal numbers of network evaluations.

    Writes samplers.json (every measurement), samplers.md (a table) and samplers.png: distance to data that the network was
    not trained on, precision, recall and seconds against evaluations, over several seeds. Samplers that depend on a step
    size, as annealed Langevin dynamics, are tuned at each budget first, on another seed. Kill it at any moment: the same
    command goes on, and one with other samplers, budgets or more seeds adds to the table.

    Args:
        run: The run folder that training wrote.
        samplers: Which; all that the run's network can be asked by where not given.
        budgets: The most network evaluations a sample, one or several.
        seeds: How many seeds: 0, 1, ...; their standard deviation is the spread.
        samples: How many samples of each seed.
        out: The folder to write into; the run folder where not given.
        feature: What the Frechet distance is measured on: see fastscore evaluate --help.
        inception: The file of Inception's weights; by default where torch hub keeps it. Implies --feature inception.
        no_inception_checksum: Take weights of Inception other than the published file, too: no distance is a FID then.
        weights: ema: their moving average; ema-0.9999: a further one that the run keeps; raw: as the optimizer left them; auto: ema where the run keeps one.
        checkpoint: The iteration whose checkpoint or snapshot to use; by default the last checkpoint.
        precision: What the network is computed in; by default as the run was trained.
        data_dir: Folder that holds the data set's files; by default where the run was trained on them.
        overwrite: Begin anew where the folder holds a comparison of other settings.
        batch_size: How many at a time: more takes more memory.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        quiet: No progress bar.
    """
    from ..compare import CELLS, PICTURE, TABLE, compare, page

    if data_dir is not None:
        terminal.check_readable("--data-dir", data_dir)
    folder = out or run
    try:
        report = compare(
            run,
            samplers=samplers or None,
            budgets=budgets,
            seeds=seeds,
            samples=samples,
            feature=feature,
            inception=inception,
            inception_checksum=not no_inception_checksum,
            batch_size=batch_size,
            weights=weights,
            iteration=checkpoint,
            precision=precision,
            data_dir=data_dir,
            out=out,
            overwrite=overwrite,
            device=device,
            progress=not quiet,
        )
    except KeyboardInterrupt:
        print(
            f"\nstopped; what was measured is kept in {folder / CELLS}, and the same command goes on",
            file=sys.stderr,
        )
        sys.exit(130)
    print(f"{page(report)}\nlook at {folder / PICTURE}")
    print(f"table: {folder / TABLE}\nall numbers: {folder / CELLS}")
