"""Samples from a trained run."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import samplers
from .._core import checks
from .._core.errors import CheckpointError, NonFiniteSamples
from ..rng import Philox
from . import checkpoint, limits, sample_folder
from .build import make_model, make_sigmas, pick_device
from .config import TrainConfig
from .progress import progress_bar

SAMPLERS = ("annealed", "consistent")
WEIGHTS = ("auto", "ema", "raw")
_SAMPLING_SEED = 1 << 63  # added to the seed, so that samples never share numbers with training, whose seeds are less


@dataclass(frozen=True)
class TrainedRun:
    """A network ready to sample, and what it was trained with. ``weights``: "ema", their moving average, or "raw";
    ``identity``: the run's random number; ``sha256``: of the weights' file."""

    config: TrainConfig
    network: nn.Module
    shape: tuple[int, ...]
    device: torch.device
    step: int
    weights: str = "raw"
    identity: str = ""
    sha256: str | None = None


def load_run(run: str | Path, *, device: str = "auto", weights: str = "auto", step: int | None = None) -> TrainedRun:
    """The network of a run's checkpoint, in eval mode.

    Args:
        run: the run folder.
        device: where the network is put.
        weights: ``"ema"``, the moving average; ``"raw"``, the weights as the optimizer left them; ``"auto"``, the
            moving average where the run keeps one.
        step: the checkpoint's iteration; None: the last.

    Raises:
        CheckpointError: not a run folder, no checkpoint yet (or of that step), or a damaged one; the text says which.
        ValueError: ``"ema"`` of a run that keeps none.
    """
    run = Path(run)
    checks.one_of("weights", weights, WEIGHTS)
    config = checkpoint.read_config(run)
    if weights == "ema" and not config.ema:
        raise ValueError(
            f"weights must be 'raw' or 'auto' for {run}, which keeps no moving average (ema is 0), got 'ema'"
        )
    weights = "ema" if config.ema and weights != "raw" else "raw"
    where = pick_device(device)

    def read(folder: Path) -> tuple[Path, checkpoint.About, dict[str, Tensor]]:
        return folder, checkpoint.read_about(folder), checkpoint.read_weights(folder, ema=weights == "ema")

    folder, about, values = checkpoint.from_latest(run, read) if step is None else read(_checkpoint_of(run, step))
    network = make_model(config, about.sample_shape)
    checkpoint.load_into(network, values, folder)
    network.requires_grad_(False)
    return TrainedRun(
        config,
        network.to(where).eval(),
        about.sample_shape,
        where,
        about.step,
        weights,
        about.run,
        about.checksum(ema=weights == "ema"),
    )


def _checkpoint_of(run: Path, step: int) -> Path:
    checkpoint.latest(run)  # says what to do where there is none
    found = {checkpoint.step_of(folder): folder for folder in checkpoint.steps(run)}
    if step not in found:
        raise CheckpointError(
            f"{run} has no checkpoint of iteration {step} (--checkpoint); it has those of {', '.join(map(str, found))}"
        )
    return found[step]


def with_sampling(
    trained: TrainedRun,
    *,
    sampler: str = "annealed",
    alpha: float | None = None,
    steps_per_level: int | None = None,
    denoise: bool | None = None,
) -> TrainedRun:
    """``trained`` with other sampling settings; those that are None stay as its config has them.

    Args:
        trained: from :func:`load_run`; not changed.
        sampler: which sampler they are for: ``steps_per_level`` is a setting of ``"annealed"`` alone.
        alpha, steps_per_level, denoise: as in :class:`fastscore.experiment.config.TrainConfig`.

    Raises:
        ValueError: a number out of its range, or ``steps_per_level`` for another sampler.
    """
    if steps_per_level is not None and sampler != "annealed":
        raise ValueError(
            f"steps_per_level must be left out where sampler is {sampler!r}, which makes one step a noise "
            f"level, got {steps_per_level}"
        )
    given = {"alpha": alpha, "steps_per_level": steps_per_level, "denoise": denoise}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(trained, config=dataclasses.replace(trained.config, **changes))


def draw(
    config: TrainConfig,
    network: nn.Module,
    shape: tuple[int, ...],
    rng: Philox,
    *,
    device: torch.device,
    sampler: str = "annealed",
    trajectory: samplers.Trajectory | None = None,
    callback: samplers._common.Callback | None = None,
) -> Tensor:
    """Samples [B, ...] by the settings of ``config``; images are clamped to [0, 1] at the very end.

    Raises:
        NonFiniteSamples: some are NaN or infinite, before the clamp, which would make infinity look like an image.
    """
    checks.one_of("sampler", sampler, SAMPLERS)
    common = dict(
        rng=rng, start=config.start, denoise=config.denoise, device=device, trajectory=trajectory, callback=callback
    )
    sigmas = make_sigmas(config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ samples are not finite")  # an error, below
        if sampler == "annealed":
            x = samplers.annealed_langevin(
                network, shape, sigmas, alpha=config.alpha, steps_per_level=config.steps_per_level, **common
            )
        else:
            x = samplers.consistent_annealed(network, shape, sigmas, eta=_least_eta(config, sigmas), **common)
    bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
    if bad:
        raise NonFiniteSamples(
            f"{bad} of {len(x)} samples are not finite: alpha, {config.alpha:g}, is too large a "
            "step size for this network; sample with a smaller --alpha, or train longer"
        )
    return x.clamp(0, 1) if len(shape) == 4 else x


def _least_eta(config: TrainConfig, sigmas: Tensor) -> float:
    """The least eta that reaches each level removes all the noise that the next level lacks and adds none."""
    ratio = float((sigmas[1:] / sigmas[:-1]).min()) if len(sigmas) > 1 else 1.0
    return min(1.0, max(config.alpha / (2 * config.sigma_end**2), 1 - ratio + 1e-6))


def num_updates(config: TrainConfig, sampler: str = "annealed") -> int:
    """How many updates :func:`draw` makes."""
    return config.num_levels * config.steps_per_level if sampler == "annealed" else config.num_levels - 1


def sample(
    trained: TrainedRun,
    num: int,
    *,
    seed: int = 0,
    sampler: str = "annealed",
    batch_size: int = 500,
    progress: bool = True,
    trajectory: samplers.Trajectory | None = None,
) -> Tensor:
    """``num`` samples on the CPU, float32. Sample k has the same noise whatever ``num`` and ``batch_size`` are.

    Args:
        trained: from :func:`load_run`.
        num: how many.
        seed: another seed, other samples.
        sampler: ``"annealed"`` (annealed Langevin dynamics) or ``"consistent"`` (consistent annealed sampling: one
            network evaluation a noise level).
        batch_size: how many at a time; takes memory, changes nothing else (to rounding).
        progress: show a progress bar.
        trajectory: filled from the first batch.

    Raises:
        ValueError: a number out of its range, or an unknown sampler; the message names it.
        NonFiniteSamples: some samples are NaN or infinite.
    """
    return torch.cat(
        list(
            batches(
                trained,
                num,
                seed=seed,
                sampler=sampler,
                batch_size=batch_size,
                progress=progress,
                trajectory=trajectory,
            )
        )
    )


def batches(
    trained: TrainedRun,
    num: int,
    *,
    seed: int = 0,
    sampler: str = "annealed",
    batch_size: int = 500,
    progress: bool = True,
    trajectory: samplers.Trajectory | None = None,
) -> Iterator[Tensor]:
    """The samples of :func:`sample`, batch by batch as they are drawn. Its arguments are checked at the call."""
    config = trained.config
    limits.check_num(checks.integer("num", num, low=1))
    seed = checks.integer("seed", seed, low=0, high=_SAMPLING_SEED - 1)
    batch_size = checks.integer("batch_size", batch_size, low=1)
    checks.one_of("sampler", sampler, SAMPLERS)
    limits.check_batch(config, trained.shape, min(num, batch_size), trained.device)

    def drawn() -> Iterator[Tensor]:
        firsts = range(0, num, batch_size)
        bar = None
        if progress:
            bar = progress_bar(len(firsts) * num_updates(config, sampler), desc="sampling", unit="step")
        try:
            for first in firsts:
                rng = Philox(seed + _SAMPLING_SEED, sample_offset=first)
                shape = (min(batch_size, num - first), *trained.shape)
                yield (
                    draw(
                        config,
                        trained.network,
                        shape,
                        rng,
                        device=trained.device,
                        sampler=sampler,
                        trajectory=trajectory if first == 0 else None,
                        callback=None if bar is None else lambda step, x: bar.update(),
                    )
                    .float()
                    .cpu()
                )
        finally:
            if bar is not None:
                bar.close()

    return drawn()


def settings(trained: TrainedRun, run: Path, num: int, seed: int, sampler: str) -> dict[str, Any]:
    """What samples.json says: all that decides what the samples are, and what drew them."""
    config = trained.config
    return {
        "run": str(run.resolve()),
        "identity": trained.identity,
        "step": trained.step,
        "weights": trained.weights,
        "sha256": trained.sha256,
        "num": num,
        "seed": seed,
        "sampler": sampler,
        "alpha": config.alpha,
        "steps_per_level": config.steps_per_level if sampler == "annealed" else 1,
        "denoise": config.denoise,
        "start": config.start,
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
    sampler: str = "annealed",
    batch_size: int = 500,
    overwrite: bool = False,
    progress: bool = True,
    trajectory: samplers.Trajectory | None = None,
) -> list[Path]:
    """:func:`sample` into the folder ``out``: the paths of samples.png and samples.npy, beside samples.json.

    Raises:
        FastscoreError: ``out`` holds samples of other settings, and ``overwrite`` is False.
        NonFiniteSamples, OSError: and what was there stays; see :func:`sample_folder.write_samples`.
        ValueError: as :func:`sample`. All that can be is told before it samples.
    """
    parts = batches(
        trained, num, seed=seed, sampler=sampler, batch_size=batch_size, progress=progress, trajectory=trajectory
    )
    how = settings(trained, run, num, seed, sampler)
    sample_folder.check_folder("--out", out, make=False)
    if not overwrite:
        sample_folder.check_replaceable(out, how)
    sample_folder.check_folder("--out", out)
    return sample_folder.write_samples(parts, out, how, overwrite=overwrite)
