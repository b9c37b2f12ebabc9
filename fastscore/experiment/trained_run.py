"""A trained run: its network, ready to sample, and how it is to be sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks, graphs
from ..samplers import SAMPLERS, Sampler
from . import checkpoint, classifier_folder
from .acceleration import compiled
from .build import make_model, pick_device, placed
from .classes import Asked, asked
from .config import TrainConfig
from .precision import PRECISIONS, check, for_sampling, resolve
from .sampler_options import default_sampler, options_of


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
        folder: the run folder that it was loaded from, where its classifier and its data's moments are.
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
    folder: Path | None = None

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
        folder=run,
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
    classifier_scale: float | None = None,
    **options: Any,
) -> TrainedRun:
    """``trained`` with another sampler, or other values of its options, or asked for a class.

    Args:
        trained: from :func:`load_run`; not changed.
        sampler: a key of :data:`fastscore.samplers.SAMPLERS`; None: as ``trained`` has it.
        label: the class of all samples, from 0; ``"each"``: sample k is of class k mod K. Of a network with classes, or with
            ``classifier_scale``.
        guidance: w of :func:`fastscore.guidance.classifier_free`; by default 1, the network's score of that class.
        guidance_interval: (low, high), the noise sigma / alpha at which w holds; elsewhere it is 1.
        classifier_scale: of :func:`fastscore.guidance.classifier`, of a network without classes, by the classifier in the run
            folder (:func:`fastscore.experiment.classifier.train_classifier`).
        options: values of the sampler's options; those that are None stay as they are.

    Raises:
        TypeError, ValueError: an unknown sampler, a value out of its range, or an option that the sampler does not take.
        CheckpointError: the run folder has no classifier, a damaged one, or one of other data or noise.
    """
    sampler = trained.sampler if sampler is None else checks.one_of("sampler", sampler, SAMPLERS)
    given = {name: value for name, value in options.items() if value is not None}
    settings = {o.name: o.setting for o in SAMPLERS[sampler].options if o.setting and o.name in given}
    for option in SAMPLERS[sampler].options:
        if option.name in settings:  # by the name that was asked for; the run's setting has another
            option.check(option.name, given[option.name])
    config = dataclasses.replace(trained.config, **{setting: given[name] for name, setting in settings.items()})
    kept = trained.given if sampler == trained.sampler else {}
    others = {name: value for name, value in given.items() if name not in settings}
    classes = trained.asked
    if classifier_scale is not None and classes.classifier is None:
        classes = _with_classifier(trained, classifier_scale)
    classes = asked(config, label, guidance, guidance_interval, classes, classifier_scale)
    changed = dataclasses.replace(trained, config=config, sampler=sampler, given={**kept, **others}, asked=classes)
    complete = options_of(config, sampler, changed.given)  # which says what is wrong
    if classes.classifier is not None and complete.get("interpolate") and config.model in ("ncsn", "ncsndeeper"):
        raise ValueError(
            f"interpolate must be left out with classifier_scale (--classifier-scale) for {config.model}, got True: with a "
            "classifier it is asked at its noise levels alone, by no more steps (--steps) than there are levels"
        )
    return changed


def _with_classifier(trained: TrainedRun, scale: float) -> Asked:
    """What is asked of ``trained``, with the classifier of its run folder."""
    if trained.config.num_classes:
        raise ValueError(
            f"classifier_scale must be left out for a network of classes, got {scale!r}: guidance (--guidance) is its own"
        )
    if trained.folder is None:
        raise ValueError(f"classifier_scale must be left out for a run that load_run did not load, got {scale!r}")
    network, checksum = classifier_folder.read(trained.folder, trained.config)
    return dataclasses.replace(trained.asked, classifier=network.to(trained.device), checksum=checksum)
