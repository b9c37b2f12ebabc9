"""The command ``fastscore reproduce``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Literal

from ..ranks import TIMEOUT, joined
from ..reproduce.request import Request
from .flags import either


def reproduce(
    recipe: Literal["cifar10"],
    /,
    request: Request,
    out: Path | None = None,
    dry_run: bool = False,
    cuda_graph: bool = False,
    no_cuda_graph: bool = False,
    sampling_batch_size: int = 500,
    device: str = "auto",
    quiet: bool = False,
    rank_timeout: float = TIMEOUT,
    *,
    options: Any,
) -> None:
    """Reproduce a paper's CIFAR-10 numbers: data, hours, training, the choice of a snapshot, 50,000 samples a seed, a report.

    Writes a folder: plan.json, run/ (an ordinary run), selection/ and selection.json, samples/, measures/, and report.md,
    report.html, which are written anew after each stage. Kill it at any moment; the same command goes on. With --dry-run it says
    how long each part takes on this machine, by each sampler, and ends. On several devices:
    torchrun --standalone --nproc-per-node N -m -- fastscore reproduce ...

    Args:
        recipe: What is to be reproduced.
        request: what of it is otherwise.
        out: The folder; runs/cifar10-MODEL where not given.
        dry_run: Measure how fast this machine is, print a table of hours, and end.
        cuda_graph: On a GPU, record an iteration as a CUDA graph and replay it: no other numbers, less work for the host. By default
            on one GPU.
        no_cuda_graph: Record none.
        sampling_batch_size: Samples drawn at a time: more takes more memory.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        quiet: No progress bars.
        rank_timeout: With torchrun: seconds without a sign of life after which a rank is given up, and all end.
        options: of the sampler.
    """
    from ..reproduce.stages import reproduce as run_stages

    graph = either("cuda_graph", cuda_graph, no_cuda_graph)
    request = dataclasses.replace(request, sampler_options=options.given(), cuda_graph=graph)
    folder = out or Path("runs") / f"cifar10-{request.model}"
    try:
        with joined(rank_timeout) as ranks:
            written = run_stages(
                request,
                folder,
                dry_run=dry_run,
                device=device,
                batch_size=sampling_batch_size,
                progress=not quiet,
                ranks=ranks,
            )
    except KeyboardInterrupt:
        print(
            f"\nstopped; what was done is kept in {folder}, of training all up to the last checkpoint, and the same command goes on",
            file=sys.stderr,
        )
        sys.exit(130)
    if ranks.leads:
        print("\n".join(f"look at {path}" for path in written))
