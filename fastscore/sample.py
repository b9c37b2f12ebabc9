"""Samples from a trained run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import _check, checkpoint, samplers
from .config import TrainConfig
from .errors import require
from .rng import Philox
from .train import make_model, make_sigmas, pick_device

SAMPLERS = ("annealed", "consistent")
_SAMPLING_SEED = 1 << 63  # added to the seed, so that samples never share numbers with training, whose seeds are less


@dataclass(frozen=True)
class TrainedRun:
    """A network ready to sample, and what it was trained with."""

    config: TrainConfig
    network: nn.Module
    shape: tuple[int, ...]
    device: torch.device
    step: int


def load_run(run: str | Path, *, device: str = "auto") -> TrainedRun:
    """The network of a run's last checkpoint, in eval mode: the moving average of its weights where one was kept.

    Raises:
        CheckpointError: not a run folder, no checkpoint yet, or a damaged one; the text says which.
    """
    run = Path(run)
    config = checkpoint.read_config(run)
    where = pick_device(device)
    folder, shape, weights = checkpoint.from_latest(run, lambda newest: (
        newest, checkpoint.read_shape(newest), checkpoint.read_weights(newest, ema=config.ema > 0)))
    network = make_model(config, shape)
    checkpoint.load_into(network, weights, folder)
    network.requires_grad_(False)
    return TrainedRun(config, network.to(where).eval(), shape, where, checkpoint.step_of(folder))


def with_sampling(trained: TrainedRun, *, sampler: str = "annealed", alpha: float | None = None,
                  steps_per_level: int | None = None, denoise: bool | None = None) -> TrainedRun:
    """``trained`` with other sampling settings; those that are None stay as its config has them.

    Args:
        trained: from :func:`load_run`; not changed.
        sampler: which sampler they are for: ``steps_per_level`` is a setting of ``"annealed"`` alone.
        alpha, steps_per_level, denoise: as in :class:`fastscore.config.TrainConfig`.

    Raises:
        ValueError: a number out of its range, or ``steps_per_level`` for another sampler.
    """
    if steps_per_level is not None and sampler != "annealed":
        raise ValueError(f"steps_per_level must be left out where sampler is {sampler!r}, which makes one step a noise "
                         f"level, got {steps_per_level}")
    given = {"alpha": alpha, "steps_per_level": steps_per_level, "denoise": denoise}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(trained, config=dataclasses.replace(trained.config, **changes))


def draw(config: TrainConfig, network: nn.Module, shape: tuple[int, ...], rng: Philox, *, device: torch.device,
         sampler: str = "annealed", trajectory: samplers.Trajectory | None = None,
         callback: samplers._common.Callback | None = None) -> Tensor:
    """Samples [B, ...] by the settings of ``config``; images are clamped to [0, 1] at the very end."""
    _check.one_of("sampler", sampler, SAMPLERS)
    common = dict(rng=rng, start=config.start, denoise=config.denoise, clamp=(0.0, 1.0) if len(shape) == 4 else None,
                  device=device, trajectory=trajectory, callback=callback)
    sigmas = make_sigmas(config)
    if sampler == "annealed":
        return samplers.annealed_langevin(network, shape, sigmas, alpha=config.alpha,
                                          steps_per_level=config.steps_per_level, **common)
    # the least eta that reaches each level removes all the noise that the next level lacks and adds none
    ratio = float((sigmas[1:] / sigmas[:-1]).min()) if len(sigmas) > 1 else 1.0
    eta = min(1.0, max(config.alpha / (2 * config.sigma_end**2), 1 - ratio + 1e-6))
    return samplers.consistent_annealed(network, shape, sigmas, eta=eta, **common)


def num_updates(config: TrainConfig, sampler: str = "annealed") -> int:
    """How many updates :func:`draw` makes."""
    return config.num_levels * config.steps_per_level if sampler == "annealed" else config.num_levels - 1


def sample(trained: TrainedRun, num: int, *, seed: int = 0, sampler: str = "annealed", batch_size: int = 500,
           progress: bool = True, trajectory: samplers.Trajectory | None = None) -> Tensor:
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
    """
    _check.integer("num", num, low=1)
    _check.integer("seed", seed, low=0, high=_SAMPLING_SEED - 1)
    _check.integer("batch_size", batch_size, low=1)
    _check.one_of("sampler", sampler, SAMPLERS)
    parts, batches = [], range(0, num, batch_size)
    bar = None
    if progress:
        bar = require("tqdm", "train").tqdm(total=len(batches) * num_updates(trained.config, sampler),
                                            desc="sampling", unit="step")
    try:
        for first in batches:
            rng = Philox(seed + _SAMPLING_SEED, sample_offset=first)
            shape = (min(batch_size, num - first), *trained.shape)
            parts.append(draw(trained.config, trained.network, shape, rng, device=trained.device, sampler=sampler,
                              trajectory=trajectory if first == 0 else None,
                              callback=None if bar is None else lambda step, x: bar.update()).cpu())
    finally:
        if bar is not None:
            bar.close()
    return torch.cat(parts)


def write_samples(samples: Tensor, out: str | Path) -> list[Path]:
    """``samples.npy`` (all of them, float32) and ``samples.png`` (the first hundred, or a scatter plot of points)."""
    from .pictures import save_grid
    from .plots import save_points

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    array, picture = out / "samples.npy", out / "samples.png"

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, samples.numpy())

    checkpoint.write_atomically(array, write)
    if samples.dim() == 4:
        save_grid(samples[:100], picture)
    else:
        save_points(samples, picture)
    return [picture, array]
