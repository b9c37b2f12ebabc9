"""The classes of a run: what a conditional network is trained on, and what it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from ..data import Data, ImageData
from ..guidance import class_log_prob, classifier, classifier_free
from ..models import NoiseClassifier
from .config import TrainConfig

EACH = "each"


class ClassesOfBatch(nn.Module):
    """``network`` as objectives call it, (x, labels or sigma), told the classes of the batch that it is in.

    Attributes:
        labels: int64 [B], set before each batch.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.labels: Tensor | None = None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.network(x, condition, class_labels=self.labels)


def check_data(config: TrainConfig, data: Data) -> None:
    """Raise ValueError unless ``data`` has the classes that the run's network is to know."""
    if config.num_classes and data.num_classes != config.num_classes:
        has = "no labels" if data.num_classes is None else f"{data.num_classes} classes"
        raise ValueError(
            f"num_classes must be {data.num_classes or 0} for {data.name}, which has {has} (--num-classes), got "
            f"{config.num_classes}"
        )


def labels_of_batch(data: Data, iteration: int, size: int, *, device: torch.device, **where: Any) -> Tensor:
    """The labels of :meth:`fastscore.data.Data.batch` of the same arguments, int64 [B] on ``device``."""
    if isinstance(data, ImageData) and data.labels is not None:
        index = data.indices(iteration, size, **where)
        return data.labels[index.to(data.labels.device)].to(device)
    return data.batch_with_labels(iteration, size, device=device, **where)[1]


@dataclass(frozen=True)
class Asked:
    """Which classes samples are asked to be of, and how strongly.

    Attributes:
        label: a class, for all samples; ``"each"``: sample k is of class k mod K; None: none.
        guidance: w of classifier-free guidance.
        interval: of the noise sigma / alpha, in which w holds; None: everywhere.
        classifier: of noisy samples, for a network without classes, by whose gradient they are guided; scale: of that;
            checksum: SHA-256 of its weights.
    """

    label: int | str | None = None
    guidance: float = 1.0
    interval: tuple[float, float] | None = None
    classifier: NoiseClassifier | None = None
    scale: float = 1.0
    checksum: str | None = None

    @property
    def evaluations(self) -> int | None:
        """How often the network is evaluated where a score is asked for (and no classifier); None: that depends on the noise."""
        if self.label is None or self.classifier is not None or self.guidance == 1:
            return 1
        if self.interval is not None:
            return None
        return 1 if self.guidance == 0 else 2

    @property
    def gentler(self) -> str:
        """What may help, beside all else, where samples are not finite, as the end of an error's text."""
        if self.label is None:
            return ""
        name, value = ("guidance", self.guidance) if self.classifier is None else ("classifier_scale", self.scale)
        return f". They are guided: a {name} nearer to 1 than {value:g} may help" if abs(value) > 1 else ""

    def described(self) -> dict[str, Any]:
        """By name, for reports; nothing where no class is asked for."""
        if self.label is None:
            return {}
        if self.classifier is not None:
            return {"label": self.label, "classifier_scale": self.scale, "classifier_sha256": self.checksum}
        interval = {} if self.interval is None else {"guidance_interval": list(self.interval)}
        return {"label": self.label, "guidance": self.guidance, **interval}

    def score(
        self,
        config: TrainConfig,
        score_fn: Callable[..., Tensor],
        where: Any,
        *,
        first: int,
        size: int,
        device: torch.device,
    ) -> Callable[..., Tensor]:
        """``score_fn`` for the samples ``first`` to ``first`` + ``size``, called as it is.

        Args:
            config: of the run.
            score_fn, where: what a sampler asks, and its noise levels, as they are without a class.
            first, size, device: of the samples.
        """
        if self.label is None:
            return score_fn
        if isinstance(self.label, int):
            label: int | Tensor = self.label
        else:
            known = config.num_classes if self.classifier is None else self.classifier.num_classes
            label = torch.arange(first, first + size, device=device) % known
        if self.classifier is not None:
            return classifier(score_fn, class_log_prob(self.classifier, label, path=where), scale=self.scale)
        how = {} if self.interval is None else {"interval": self.interval, "path": where}
        return classifier_free(score_fn, label, guidance=self.guidance, **how)


def asked(
    config: TrainConfig,
    label: int | str | None,
    guidance: float | None,
    interval: tuple[float, float] | None,
    before: Asked,
    scale: float | None = None,
) -> Asked:
    """``before`` with what is given, once it is known to be right for the run; ``scale``: of the classifier of ``before``.

    Raises:
        TypeError, ValueError: a label of a run without classes and classifier, or out of range; guidance without a label, or
            beside a classifier; an interval that is none.
    """
    if before.classifier is not None:
        return _by_classifier(before, label, guidance, interval, scale)
    for name, value in (("label", label), ("guidance", guidance), ("guidance_interval", interval)):
        if value is not None and not config.num_classes:
            by_classifier = (
                "by a classifier of the run: fastscore train-classifier RUN, and --label 7 --classifier-scale 4"
            )
            raise ValueError(
                f"{name} must be left out for a network that was trained without classes, got {value!r}; a preset with "
                "them is digits-conditional, and any labelled data set trains one with --num-classes; or it is guided "
                f"{by_classifier}"
            )
    label = before.label if label is None else _label(label, config.num_classes)
    if label is None and (guidance is not None or interval is not None):
        raise ValueError("label must be given with guidance (--label 7, or --label each), got none")
    weight = before.guidance if guidance is None else _weight("guidance", guidance)
    interval = before.interval if interval is None else (float(interval[0]), float(interval[1]))
    if interval is not None and not 0 <= interval[0] < interval[1]:
        raise ValueError(f"guidance_interval must be (low, high) with 0 <= low < high, got {interval}")
    return Asked(label, weight, interval)


def _by_classifier(before: Asked, label: Any, guidance: Any, interval: Any, scale: float | None) -> Asked:
    assert before.classifier is not None
    for name, value in (("guidance", guidance), ("guidance_interval", interval)):
        if value is not None:
            raise ValueError(f"{name} must be left out where a classifier guides (classifier_scale), got {value!r}")
    label = before.label if label is None else _label(label, before.classifier.num_classes)
    if label is None:
        raise ValueError("label must be given with classifier_scale (--label 7, or --label each), got none")
    scale = before.scale if scale is None else _weight("classifier_scale", scale)
    return dataclasses.replace(before, label=label, scale=scale)


def _weight(name: str, value: float) -> float:
    return checks.number(name, value, largest=checks.FLOAT32)


def _label(label: int | str, num_classes: int) -> int | str:
    """A class from 0, or "each"; an integer may be given as text."""
    if label == EACH:
        return EACH
    if isinstance(label, str):
        must = f"label must be a class from 0 to {num_classes - 1}, or {EACH!r}"
        if not label.isascii() or not label.removeprefix("-").isdigit() or len(label) > 18:
            raise ValueError(f"{must}, got {label!r}")
        label = int(label)
    return checks.integer("label", label, low=0, high=num_classes - 1)
