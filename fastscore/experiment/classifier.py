"""A classifier of a run's noisy samples, for classifier guidance: ``fastscore train-classifier``."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import data as datasets
from .._core import checks
from .._core.errors import DataError, FastscoreError, NonFiniteLoss, require
from ..data import Data, GaussianMixture, ImageData
from ..models import NoiseClassifier
from ..ops import perturb
from ..rng import Philox, Stream
from . import checkpoint, classifier_folder, limits
from .acceleration import tf32
from .build import make_data, make_sigmas, pick_device, resident
from .config import TrainConfig
from .progress import counting

_LEVELS, _TESTED, _AT_A_TIME, _MOMENTS = 10, 2000, 500, 4096
_LOOKED = 100  # iterations until the losses are read: to read each would make a GPU wait
_MOST = {"iterations": 2**32, "batch_size": 2**32}  # steps and samples of one seed
_SLOWEST, _FASTEST = 1.2e-38, 3.4e37  # Adam divides it by 1 - beta1 = 0.1, in float32


@dataclass(frozen=True)
class Training:
    """How a classifier is trained: Adam with decoupled weight decay, its rate half a cosine from ``lr`` to 0.

    Attributes:
        iterations, batch_size, lr: of the training. width: of the network. seed: of weights, batches and noise.
    """

    iterations: int = 1000
    batch_size: int = 128
    lr: float = 2e-3
    width: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for a number out of its range."""
        for name in ("iterations", "batch_size", "width"):
            checks.integer(name, getattr(self, name), low=1, high=_MOST.get(name))
        if not _SLOWEST <= checks.positive("lr", self.lr) <= _FASTEST:
            raise ValueError(
                f"lr must be from {_SLOWEST} to {_FASTEST}, by which Adam steps in float32, got {self.lr:g}"
            )
        checks.integer("seed", self.seed, low=0, high=2**63 - 1)


def train_classifier(
    run: str | Path,
    training: Training | None = None,
    *,
    data_dir: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train p(class | x, sigma) on a run's data at the run's noise; writes RUN/classifier.

    The noise of each sample is drawn log-uniformly between the run's largest and smallest (sigma / alpha on a path), and the loss
    is the cross-entropy of its class.

    Args:
        run: the folder of a run that was trained without classes, on labelled data.
        training: how; None: as :class:`Training` has it.
        data_dir: the folder of the data set's files; None: where the run was trained on them.
        device: where it is trained.
        overwrite: replace the classifier that is there.
        progress: show a progress bar.

    Returns:
        What classifier.json holds: "accuracy" has "sigma", "accuracy" and "log_loss" at ten noise levels, "chance", "best" where
        that is known, and of which "samples".

    Raises:
        CheckpointError: not a run folder. DataError: the data have no labels, are not here, or not those of the run.
        FastscoreError: a classifier is there, or another process trains one there. ValueError: the run's network has classes of
            its own, or the training does not fit into memory.
        NonFiniteLoss: the loss is not finite; nothing is written. CannotWrite: a file cannot be written.
    """
    for module in ("safetensors.torch", "matplotlib.figure"):  # which write it, later
        require(module, "train")
    run, training = Path(run), Training() if training is None else training
    config, identity = checkpoint.read_config(run), checkpoint.read_identity(run)
    if config.num_classes:
        raise ValueError(
            f"run must be of a network without classes, got {run}, whose network has {config.num_classes}: it is guided "
            "without a classifier, by fastscore sample RUN --label 7 --guidance 2"
        )
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=str(data_dir))
    data = make_data(config)
    if data.num_classes is None or data.num_classes < 2:
        raise DataError(f"{data.name} has no labels of two classes or more, which a classifier is trained on: {run}")
    if changed := identity.changes(data):
        raise DataError(f"{data.name} is not what {run} was trained on: {'; '.join(changed)} (--data-dir)")
    heldout, where = make_data(config, heldout=True), pick_device(device)
    limits.check_classifier(training.width, training.batch_size, data.shape, where)
    limits.check_epochs(training.iterations, training.batch_size, len(data))
    with classifier_folder.held(run) as lock, tf32(config.tf32):
        if not overwrite and (run / classifier_folder.FOLDER / classifier_folder.ABOUT).exists():
            raise FastscoreError(f"{run / classifier_folder.FOLDER} holds a classifier: --overwrite replaces it")
        network = _trained(config, training, resident(data, where), where, progress)
        accuracy = _accuracy(config, network, data, heldout, training.seed)
        if not all(map(math.isfinite, accuracy["log_loss"])):
            raise _not_finite(training)
        about = classifier_folder.write(run, config, network, identity.with_data(data), vars(training), accuracy, lock)
    if max(accuracy["accuracy"]) <= accuracy["chance"]:
        warnings.warn(
            "the classifier is right no more often than who names the most frequent class, at any noise level, so samples that "
            "it guides are hardly of the class that is asked for: train it longer (--iterations), or with another --lr",
            stacklevel=2,
        )
    return about


def _trained(
    config: TrainConfig, training: Training, data: Data, device: torch.device, progress: bool
) -> NoiseClassifier:
    known = data.batch(0, min(_MOMENTS, len(data)), seed=training.seed)
    mean, std = float(known.mean()), float(known.std().clamp(min=1e-3))
    assert data.num_classes is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        network = NoiseClassifier(data.shape, data.num_classes, training.width, mean, std)
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.lr, weight_decay=0.01)
    most, least = (math.log(float(sigma)) for sigma in make_sigmas(config)[[0, -1]])
    total = torch.zeros((), device=device)
    with counting(training.iterations, desc="training", unit="step", progress=progress) as count:
        for it in range(training.iterations):
            rng = Philox(training.seed).substream(it)
            x, labels = data.batch_with_labels(it, training.batch_size, seed=training.seed, device=device)
            sigma = (least + (most - least) * rng.rand(len(x), stream=Stream.LABELS, device=device)).exp()
            for group in optimizer.param_groups:
                group["lr"] = training.lr * 0.5 * (1 + math.cos(math.pi * it / training.iterations))
            loss = F.cross_entropy(network(perturb(x, sigma, rng)[0], sigma), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
            count(1)
            if it % _LOOKED == 0 and not bool(total.isfinite()):
                break
    if not bool(total.isfinite()):
        raise _not_finite(training)
    return network.eval().requires_grad_(False)


def _not_finite(training: Training) -> NonFiniteLoss:
    return NonFiniteLoss(
        f"the classifier's loss is not finite, and nothing was written: a smaller --lr than {training.lr:g} may help"
    )


def _accuracy(
    config: TrainConfig, network: NoiseClassifier, train: Data, heldout: Data | None, seed: int
) -> dict[str, Any]:
    """How often it is right at ten of the run's noise levels, of samples that it was not trained on where there are such."""
    source = train if heldout is None else heldout
    count = min(_TESTED, len(source)) if isinstance(source, ImageData) else _TESTED
    x, labels = source.batch_with_labels(0, count, seed=seed + 1)
    sigmas = make_sigmas(config)
    chosen = sigmas[torch.linspace(0, len(sigmas) - 1, min(_LEVELS, len(sigmas))).round().long()]
    mixture = datasets.GaussianMixture() if config.data == "mixture" else None
    columns: dict[str, list[float]] = {"sigma": chosen.tolist(), "accuracy": [], "log_loss": []}
    if mixture is not None:
        columns["best"] = []
    for k, sigma in enumerate(columns["sigma"]):
        noisy = perturb(x, sigma, Philox(seed + 1, step=k))[0]
        logits = log_probs(network)(noisy, sigma)
        columns["accuracy"].append(float((logits.argmax(1) == labels).double().mean()))
        columns["log_loss"].append(float(F.nll_loss(logits, labels)))
        if mixture is not None:
            columns["best"].append(float(_posterior(mixture, noisy, sigma).amax(1).exp().mean()))
    chance = int(labels.bincount().max()) / len(labels)  # no float32, which is a bit off the accuracy of who says it
    trained_on = heldout is None and isinstance(source, ImageData)
    return columns | {"chance": chance, "samples": len(x), "of": "training samples" if trained_on else "new samples"}


def log_probs(network: NoiseClassifier) -> Callable[[Tensor, float], Tensor]:
    """log p(y | x, sigma), [B, K] on the CPU, of x [B, ...] and one sigma, without a gradient."""
    device = next(network.parameters()).device

    def found(x: Tensor, sigma: float) -> Tensor:
        with torch.no_grad():
            parts = [
                network(part.to(device), part.new_full((len(part),), sigma).to(device)) for part in x.split(_AT_A_TIME)
            ]
        return torch.cat(parts).log_softmax(1).cpu()

    return found


def _posterior(mixture: GaussianMixture, x: Tensor, sigma: float) -> Tensor:
    """log p(k | x), [B, K], of the mixture with noise."""
    variance = mixture.stds.double().square() + sigma**2
    square = (x.double()[:, None] - mixture.means.double()).square().sum(2)
    logits = mixture.weights.double().log() - x.shape[1] / 2 * variance.log() - square / (2 * variance)
    return logits.log_softmax(1)


def table(about: dict[str, Any]) -> str:
    """The accuracy at each noise level, in Markdown."""
    found = about["accuracy"]
    names = [name for name in ("sigma", "accuracy", "best", "log_loss") if name in found]
    words = {"sigma": "noise level", "accuracy": "right", "best": "the best that there is", "log_loss": "log-loss"}
    rows = [[words[name] for name in names], ["---:"] * len(names)]
    for values in zip(*(found[name] for name in names)):
        shown = dict(zip(names, values))
        rows.append([f"{v:.3g}" if name in ("sigma", "log_loss") else f"{100 * v:.1f} %" for name, v in shown.items()])
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return (
        f"{lines}\nOf {found['samples']} {found['of']} at each level; who names the most frequent class is right for "
        f"{100 * found['chance']:.1f} %.\n"
    )
