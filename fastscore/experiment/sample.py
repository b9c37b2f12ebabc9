"""Samples from a trained run."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks, graphs
from .._core.errors import NonFiniteSamples
from ..rng import Philox
from ..samplers import SAMPLERS, Callback, Sampler, Trajectory
from . import checkpoint, limits, sample_folder
from .acceleration import compiled, deterministic, tf32
from .build import make_model, moments_of_data, pick_device, placed
from .classes import Asked, asked
from .config import TrainConfig
from .precision import PRECISIONS, check, for_sampling, resolve
from .progress import progress_bar
from .ranks import ALONE, Ranks
from .sampler_options import default_sampler, options_of
from .scores import begins_about_the_mean, for_sampler

_SAMPLING_SEED = 1 << 63  # added to the seed, so that samples never share numbers with training, whose seeds are less


@dataclass(frozen=True)
class TrainedRun:
    """A network ready to sample, what it was trained with, and how it is to be sampled.

    Attributes:
        config: the settings that it was trained with, and is sampled with where a sampler's option is one of them.
        network: in eval mode, with weights in float32; shape: of a sample; device: where the network is; iteration: the checkpoint's.
        weights: "raw", or the name of their moving average: "ema", "ema-0.9999". identity: the run's random number. sha256: of the weights' file.
        precision: what the network is computed in where it is sampled, fp32, bf16 or fp16.
        sampler: which one draws, by default :func:`default_sampler`'s; given: values of its options that are no settings of ``config``.
        cuda_graph: whether its updates are CUDA graphs; None: as ``config`` says, where the device and the sampler have such.
        asked: the class that samples are asked to be of, and with what guidance.
    """

    config: TrainConfig
    network: nn.Module
    shape: tuple[int, ...]
    device: torch.device
    iteration: int
    weights: str = "raw"
    identity: str = ""
    sha256: str | None = None
    precision: str = "fp32"
    sampler: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    cuda_graph: bool | None = None
    asked: Asked = field(default_factory=Asked)

    def __post_init__(self) -> None:
        """The sampler of the config where none is given."""
        object.__setattr__(self, "sampler", self.sampler or default_sampler(self.config))

    @cached_property
    def score_fn(self) -> nn.Module:
        """The network in its precision: what samplers call."""
        return compiled(for_sampling(self.network, self.precision), self.config.compile)

    @property
    def entry(self) -> Sampler:
        """The sampler's entry in the registry."""
        return SAMPLERS[self.sampler]

    @property
    def options(self) -> dict[str, Any]:
        """The value of each of the sampler's options."""
        return options_of(self.config, self.sampler, self.given)


def load_run(
    run: str | Path,
    *,
    device: str = "auto",
    weights: str = "auto",
    iteration: int | None = None,
    precision: str | None = None,
    cuda_graph: bool | None = None,
) -> TrainedRun:
    """The network of a run's checkpoint, in eval mode.

    Args:
        run: the run folder.
        device: where the network is put.
        weights: ``"ema"``, the moving average; ``"ema-0.9999"``, a further one that the run keeps; ``"raw"``, the weights as the
            optimizer left them; ``"auto"``, the moving average where the run keeps one.
        iteration: which checkpoint or snapshot, by its iteration; None: the last checkpoint.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``, as ``TrainConfig.precision``; None: the run's.
        cuda_graph: whether a sampler's updates are CUDA graphs; None: as the run was trained, where the device and the sampler
            have such.

    Raises:
        CheckpointError: not a run folder, no checkpoint yet (or none of that iteration), or a damaged one.
        ValueError: a moving average that the run does not keep; ``"fp16"`` on a device that does not multiply it; ``cuda_graph`` on one
            that has no graphs.
    """
    run = Path(run)
    config = checkpoint.read_config(run)
    weights = _weights_of(run, config, weights)
    chosen = pick_device(device)
    computed_in = resolve(config, chosen) if precision is None else checks.one_of("precision", precision, PRECISIONS)
    check(computed_in, chosen)
    if cuda_graph is not None:
        graphs.check("cuda_graph", cuda_graph, chosen)

    def read(folder: Path) -> tuple[Path, checkpoint.About, dict[str, Tensor]]:
        return folder, checkpoint.read_about(folder), checkpoint.read_weights(folder, weights)

    folder, about, values = (
        checkpoint.from_latest(run, read) if iteration is None else read(checkpoint.of_iteration(run, iteration))
    )
    network = make_model(config, about.sample_shape)
    checkpoint.load_into(network, values, folder)
    network.requires_grad_(False)
    return TrainedRun(
        config,
        placed(network, chosen).eval(),
        about.sample_shape,
        chosen,
        about.step,
        weights,
        about.run,
        about.checksum(weights),
        computed_in,
        cuda_graph=cuda_graph,
    )


def _weights_of(run: Path, config: TrainConfig, weights: str) -> str:
    """The name of the weights that ``weights`` asks a run for: ``raw``, or that of a moving average."""
    if weights == "auto":
        return "ema" if config.averages else "raw"
    if not config.averages and (weights == "ema" or str(weights).startswith("ema-")):
        raise ValueError(
            f"weights must be 'raw' or 'auto' for {run}, which keeps no moving average (ema is 0), got {weights!r}"
        )
    return checks.one_of("weights", weights, ("auto", *config.averages, "raw"))


def with_sampling(
    trained: TrainedRun,
    *,
    sampler: str | None = None,
    label: int | str | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    **options: Any,
) -> TrainedRun:
    """``trained`` with another sampler, or other values of its options, or asked for a class.

    Args:
        trained: from :func:`load_run`; not changed.
        sampler: a key of :data:`fastscore.samplers.SAMPLERS`; None: as ``trained`` has it.
        label: the class of all samples, from 0; ``"each"``: sample k is of class k mod K. Of a network with classes.
        guidance: w of :func:`fastscore.guidance.classifier_free`; by default 1, the network's score of that class.
        guidance_interval: (low, high), the noise sigma / alpha at which w holds; elsewhere it is 1.
        options: values of the sampler's options; those that are None stay as they are.

    Raises:
        TypeError, ValueError: an unknown sampler, a value out of its range, or an option that the sampler does not take.
    """
    sampler = trained.sampler if sampler is None else checks.one_of("sampler", sampler, SAMPLERS)
    given = {name: value for name, value in options.items() if value is not None}
    settings = {o.name: o.setting for o in SAMPLERS[sampler].options if o.setting and o.name in given}
    config = dataclasses.replace(trained.config, **{setting: given[name] for name, setting in settings.items()})
    kept = trained.given if sampler == trained.sampler else {}
    others = {name: value for name, value in given.items() if name not in settings}
    classes = asked(config, label, guidance, guidance_interval, trained.asked)
    changed = dataclasses.replace(trained, config=config, sampler=sampler, given={**kept, **others}, asked=classes)
    complete = options_of(config, sampler, changed.given)  # which says what is wrong
    if classes.label is not None and complete.get("interpolate"):
        raise ValueError(
            "interpolate must be left out with a label (--label), got True: guidance asks a network of labels at its noise "
            "levels alone"
        )
    return changed


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
) -> Tensor:
    """Samples [B, ...] by the settings of ``config`` and the options ``given``; images are clamped to [0, 1] at the end.

    Args:
        config: of the run, whose own sampler draws where ``sampler`` is None.
        network: the run's, in its precision.
        shape, rng, device: of the samples.
        sampler, given: a key of :data:`fastscore.samplers.SAMPLERS`, and values of its options that are no settings of
            ``config``.
        trajectory, callback: as for :func:`fastscore.samplers.annealed_langevin`.
        cuda_graph: as :class:`TrainedRun` has it.

    Raises:
        NonFiniteSamples: some are NaN or infinite, before the clamp, which would make infinity look like an image.
    """
    sampler = default_sampler(config) if sampler is None else sampler
    options, entry = options_of(config, sampler, given or {}), SAMPLERS[sampler]
    score_fn, where = for_sampler(config, network, entry)
    if cuda_graph is None:
        cuda_graph = config.cuda_graph and device.type in graphs.KINDS and entry.recordable(options)
    centred = entry.centred and options.get("start") == "normal" and begins_about_the_mean(config)
    about = moments_of_data(config) if centred else {}
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
            **about,
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
        trained: from :func:`load_run`.
        num: how many.
        seed: another seed, other samples.
        sampler, options: which sampler draws, values of its options, and the class asked for; see :func:`with_sampling`.
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
) -> Iterator[Tensor]:
    """The samples of :func:`sample`, batch by batch as they are drawn. Its arguments are checked at the call.

    Of several ``ranks`` each draws whole batches, by turns, so that they are one process's bit for bit; rank 0 is given all
    of them, the others none.
    """
    config = trained.config
    limits.check_num(checks.integer("num", num, low=1))
    seed = checks.integer("seed", seed, low=0, high=_SAMPLING_SEED - 1)
    batch_size = checks.integer("batch_size", batch_size, low=1)
    updates = trained.entry.updates(config.num_levels, trained.options)
    limits.check_batch(config, trained.shape, min(num, batch_size), trained.device)
    firsts = range(0, num, batch_size)
    if ranks.leads and len(firsts) < ranks.count:
        warnings.warn(
            f"{num} samples, {batch_size} at a time, are fewer batches than the {ranks.count} ranks: some have nothing to "
            "do (--batch-size)",
            stacklevel=3,
        )

    def drawn() -> Iterator[Tensor]:
        own = len(range(0, len(firsts), ranks.count))  # batches, of rank 0
        total = None if updates is None else own * updates
        bar = progress_bar(total, desc="sampling", unit="step") if progress and ranks.leads else None

        def make(k: int) -> Tensor:
            size = min(batch_size, num - firsts[k])
            return (
                draw(
                    config,
                    trained.asked.score(config, trained.score_fn, firsts[k], size, trained.device),
                    (size, *trained.shape),
                    Philox(seed + _SAMPLING_SEED, sample_offset=firsts[k]),
                    device=trained.device,
                    sampler=trained.sampler,
                    given=trained.given,
                    trajectory=trajectory if k == 0 else None,
                    callback=None if bar is None else lambda step, x: bar.update(),
                    cuda_graph=trained.cuda_graph,
                )
                .float()
                .cpu()
            )

        try:
            yield from ranks.in_turn([(min(batch_size, num - first), *trained.shape) for first in firsts], make)
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
