"""Samples from a trained run."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._core import checks, graphs
from .._core.errors import NonFiniteSamples
from ..rng import Philox
from ..samplers import SAMPLERS, Callback, Trajectory
from . import limits, moments, sample_folder
from .acceleration import deterministic, tf32
from .config import TrainConfig
from .progress import progress_bar
from .ranks import ALONE, Ranks
from .sampler_options import default_sampler, options_of
from .scores import begins_about_the_mean, for_sampler
from .trained_run import TrainedRun as TrainedRun
from .trained_run import load_run as load_run
from .trained_run import with_sampling as with_sampling

_SAMPLING_SEED = 1 << 63  # added to the seed, so that samples never share numbers with training, whose seeds are less


def draw(
    config: TrainConfig,
    network: nn.Module,
    shape: tuple[int, ...],
    rng: Philox,
    *,
    device: torch.device,
    sampler: str | None = None,
    given: Mapping[str, Any] | None = None,
    trajectory: Trajectory | None = None,
    callback: Callback | None = None,
    cuda_graph: bool | None = None,
    guide: Callable[[Callable[..., Tensor], Any], Callable[..., Tensor]] | None = None,
    about: Callable[[], Mapping[str, Tensor]] | None = None,
) -> Tensor:
    """Samples [B, ...] by the settings of ``config`` and the options ``given``; images are clamped to [0, 1] at the end.

    Args:
        config: of the run, whose own sampler draws where ``sampler`` is None.
        network: the run's, in its precision.
        shape, rng, device: of the samples.
        sampler, given: a key of :data:`fastscore.samplers.SAMPLERS`, and values of its options that are no settings of
            ``config``.
        trajectory, callback: as for :func:`fastscore.samplers.annealed_langevin`.
        cuda_graph: as :class:`fastscore.experiment.trained_run.TrainedRun` has it.
        guide: makes of the score, and of the noise levels or the path that it is called with, the score that draws.
        about: gives the moments of the training data, for samplers that begin about them; None: they are found from the data.

    Raises:
        NonFiniteSamples: some are NaN or infinite, before the clamp, which would make infinity look like an image.
    """
    sampler = default_sampler(config) if sampler is None else sampler
    options, entry = options_of(config, sampler, given or {}), SAMPLERS[sampler]
    score_fn, where = for_sampler(config, network, entry)
    if guide is not None:
        score_fn = guide(score_fn, where)
    if cuda_graph is None:
        cuda_graph = config.cuda_graph and device.type in graphs.KINDS and entry.recordable(options)
    centred = entry.centred and options.get("start") == "normal" and begins_about_the_mean(config)
    begun = {} if not centred else moments.moments_of_data(config) if about is None else about()
    with tf32(config.tf32), deterministic(config.deterministic, device), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ samples are not finite")  # an error, below
        x = entry.run(
            score_fn,
            shape,
            where,
            options,
            rng=rng,
            device=device,
            trajectory=trajectory,
            callback=callback,
            **begun,
            cuda_graph=cuda_graph,
        )
    bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    if bad:
        raise NonFiniteSamples(f"{bad} of {len(x)} samples are not finite: {entry.remedy.format_map(options)}")
    return x.clamp(0, 1) if len(shape) == 4 else x


def sample(
    trained: TrainedRun,
    num: int,
    *,
    seed: int = 0,
    sampler: str | None = None,
    batch_size: int = 500,
    progress: bool = True,
    trajectory: Trajectory | None = None,
    **options: Any,
) -> Tensor:
    """``num`` samples on the CPU, float32. Sample k has the same noise whatever ``num`` and ``batch_size`` are.

    Args:
        trained: from :func:`fastscore.experiment.trained_run.load_run`.
        num: how many.
        seed: another seed, other samples.
        sampler, options: which sampler draws, values of its options, and the class asked for; see :func:`fastscore.experiment.trained_run.with_sampling`.
        batch_size: how many at a time; takes memory, changes nothing else (to rounding).
        progress: show a progress bar.
        trajectory: filled from the first batch.

    Raises:
        ValueError: a number out of its range, or an unknown sampler; the message names it.
        NonFiniteSamples: some samples are NaN or infinite.
    """
    trained = with_sampling(trained, sampler=sampler, **options)
    parts = batches(trained, num, seed=seed, batch_size=batch_size, progress=progress, trajectory=trajectory)
    return torch.cat(list(parts))


def batches(
    trained: TrainedRun,
    num: int,
    *,
    seed: int = 0,
    batch_size: int = 500,
    progress: bool = True,
    trajectory: Trajectory | None = None,
    ranks: Ranks = ALONE,
    first: int = 0,
    broken: Literal["error", "batch", "sample"] = "error",
) -> Iterator[Tensor]:
    """The samples of :func:`sample`, batch by batch as they are drawn, from the ``first`` on. Its arguments are checked at the
    call.

    Of several ``ranks`` each draws whole batches, by turns, so that they are one process's bit for bit; rank 0 is given all
    of them, the others none. A batch with samples that are not finite is an error, or with ``broken`` "batch" all NaN. With
    "sample" those samples alone are NaN: a solver that stops at one does not say which, so the batch is drawn by halves.
    """
    config = trained.config
    limits.check_num(checks.integer("first", first, low=0) + checks.integer("num", num, low=1))
    seed = checks.integer("seed", seed, low=0, high=_SAMPLING_SEED - 1)
    batch_size = checks.integer("batch_size", batch_size, low=1)
    updates = trained.entry.updates(config.num_levels, trained.options)
    limits.check_batch(config, trained.shape, min(num, batch_size), trained.device)
    firsts, end = range(first, first + num, batch_size), first + num
    if ranks.leads and len(firsts) < ranks.count:
        warnings.warn(
            f"{num} samples, {batch_size} at a time, are fewer batches than the {ranks.count} ranks: some have nothing to "
            "do, and fewer at a time would give them something",
            stacklevel=3,
        )

    def drawn() -> Iterator[Tensor]:
        own = len(range(0, len(firsts), ranks.count))  # batches, of rank 0
        total = None if updates is None else own * updates
        bar = progress_bar(total, desc="sampling", unit="step") if progress and ranks.leads else None
        about = cache(partial(moments.of_run, config, trained.folder))

        def make(k: int) -> Tensor:
            return finite(firsts[k], min(batch_size, end - firsts[k]))

        def finite(begin: int, size: int) -> Tensor:
            try:
                return drawn_batch(begin, size)
            except NonFiniteSamples as error:
                if broken == "error":
                    raise NonFiniteSamples(f"{error}{trained.asked.gentler}") from error
                if broken == "batch" or size == 1:
                    return torch.full((size, *trained.shape), math.nan)
            half = size // 2
            return torch.cat([finite(begin, half), finite(begin + half, size - half)])

        def drawn_batch(begin: int, size: int) -> Tensor:
            guide = partial(trained.asked.score, config, first=begin, size=size, device=trained.device)
            return (
                draw(
                    config,
                    trained.score_fn,
                    (size, *trained.shape),
                    Philox(seed + _SAMPLING_SEED, sample_offset=begin),
                    device=trained.device,
                    sampler=trained.sampler,
                    given=trained.given,
                    trajectory=trajectory if begin == first else None,
                    callback=None if bar is None else lambda step, x: bar.update(),
                    cuda_graph=trained.cuda_graph,
                    guide=guide,
                    about=about,
                )
                .float()
                .cpu()
            )

        try:
            yield from ranks.in_turn([(min(batch_size, end - begin), *trained.shape) for begin in firsts], make)
        finally:
            if bar is not None:
                bar.close()

    return drawn()


def settings(trained: TrainedRun, run: Path, num: int, seed: int) -> dict[str, Any]:
    """What samples.json says: all that decides what the samples are, and what drew them."""
    return {
        "run": str(run.resolve()),
        "identity": trained.identity,
        "step": trained.iteration,
        "weights": trained.weights,
        "sha256": trained.sha256,
        "num": num,
        "seed": seed,
        "precision": trained.precision,
        "sampler": trained.sampler,
        **trained.options,
        **trained.asked.described(),
        "shape": list(trained.shape),
        "versions": sample_folder.versions(),
    }


def sample_into(
    out: Path,
    trained: TrainedRun,
    run: Path,
    num: int,
    *,
    seed: int = 0,
    batch_size: int = 500,
    overwrite: bool = False,
    progress: bool = True,
    trajectory: Trajectory | None = None,
    ranks: Ranks = ALONE,
) -> list[Path]:
    """:func:`sample` into the folder ``out``: the paths of samples.png and samples.npy, beside samples.json.

    Of several ``ranks`` all draw (see :func:`batches`), and rank 0 writes.

    Raises:
        FastscoreError: ``out`` holds samples of other settings, and ``overwrite`` is False.
        NonFiniteSamples, OSError: and what was there stays; see :func:`sample_folder.write_samples`.
        ValueError: as :func:`sample`. Whatever can be checked is checked before it samples.
    """
    parts = batches(
        trained, num, seed=seed, batch_size=batch_size, progress=progress, trajectory=trajectory, ranks=ranks
    )
    how = settings(trained, run, num, seed)
    ranks.same("what to sample", json.dumps([how | {"run": "", "batch_size": batch_size}]))
    with ranks.together():
        if ranks.leads:
            sample_folder.check_folder("--out", out, make=False)
            if not overwrite:
                sample_folder.check_replaceable(out, how)
            sample_folder.check_folder("--out", out)
    if ranks.leads:
        return sample_folder.write_samples(parts, out, how, overwrite=overwrite)
    for _ in parts:
        pass  # they are drawn, and sent
    return [out / sample_folder.PICTURE, out / sample_folder.ARRAY]
