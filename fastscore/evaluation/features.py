"""Features of images: what the distances of :mod:`fastscore.evaluation.metrics` are measured on.

A ``Features`` is any callable that takes images, floating [N, C, H, W] in [0, 1], to vectors [N, D]. Those
that know classes ("classifier", "inception") also turn their vectors into class probabilities, so that one
pass over the images serves the Frechet distance, the Inception score and the class histogram:

    net = features.make("classifier", images=train_images, labels=train_labels)
    z = net(samples)
    metrics.frechet_distance(net(real), z), metrics.inception_score(net.probabilities(z))
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import DataError, MissingDependency, how_to_install, require

Features = Callable[[Tensor], Tensor]


@runtime_checkable
class ClassFeatures(Protocol):
    """``Features`` that know classes."""

    def __call__(self, images: Tensor, /) -> Tensor:
        """Images [N, C, H, W] in [0, 1] to vectors [N, D]."""

    def probabilities(self, features: Tensor, /) -> Tensor:
        """[N, K]: p(class | image) of vectors [N, D]."""


WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
_FOLDS = 5


def _images(name: str, images: Tensor) -> Tensor:
    """Floating images [N, C, H, W], N >= 1, with every value in [0, 1]."""
    if checks.floating(name, images).dim() != 4 or images.numel() == 0:
        raise ValueError(f"{name} must be [N, C, H, W] and not empty, got {checks.describe(images)}")
    low, high = (float(value) for value in images.detach().aminmax())
    if not (low >= 0 and high <= 1):  # written so that NaN fails
        raise ValueError(f"{name} must be in [0, 1] (clamp samples first), got {low:.4g} to {high:.4g}")
    return images.detach()


def pixel_features() -> Features:
    """The pixels themselves: [N, C, H, W] to [N, C H W], in logical order and the images' dtype.

    Example:
        >>> pixel_features()(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 64])
    """
    return lambda images: _images("images", images).flatten(1)


class ClassifierFeatures:
    """Support vector machines on pixels, one class against the rest, with a temperature: for small sets.

    The features are the K signed distances f_k(x) to the margins; p(k|x) = softmax_k(f(x) / T). T minimises
    the log-loss of out-of-fold values on the training images, 5 folds (Guo et al., "On calibration of modern
    neural networks", 2017). Nothing is random: the same images give the same features. On scikit-learn's
    digits, fitted to one random half: 98.9 % right on the other, log-loss 0.036. The fit's time grows with
    the square of the number of images: above about 20,000 use "pixels" or "inception".

    Attributes:
        num_classes: K.
        temperature: T > 0.
    """

    def __init__(self, images: Tensor, labels: Tensor):
        x, y = self._training_set(images, labels)
        svm, multiclass = require("sklearn.svm", "train"), require("sklearn.multiclass", "train")
        selection = require("sklearn.model_selection", "train")
        self.shape = images.shape[1:]
        self.num_classes = int(y.max()) + 1
        self._model = multiclass.OneVsRestClassifier(svm.SVC(C=10.0, gamma="scale"))
        # folds without shuffling: they are stratified, and depend on nothing but the order of the images
        held_out = selection.cross_val_predict(self._model, x, y, cv=_FOLDS, method="decision_function")
        self.temperature = _temperature(self._columns(held_out), torch.from_numpy(y))
        self._model.fit(x, y)

    @staticmethod
    def _training_set(images: Tensor, labels: Tensor) -> tuple[Any, Any]:
        images = _images("images", images)
        checks.tensor("labels", labels)
        if labels.dtype not in (torch.int64, torch.int32) or labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must be an int64 tensor of shape ({len(images)},), one for each image, got {checks.describe(labels)}"
            )
        counts = torch.bincount(labels.clamp(min=0))
        if int(labels.min()) < 0 or len(counts) < 2 or int(counts.min()) < _FOLDS:
            raise ValueError(
                f"labels must hold each class 0, 1, ..., K-1 (K >= 2) at least {_FOLDS} times, "
                f"got counts {counts.tolist()} and a lowest label of {int(labels.min())}"
            )
        return images.flatten(1).double().cpu().numpy(), labels.long().cpu().numpy()

    @staticmethod
    def _columns(values: Any) -> Tensor:
        """scikit-learn's decision values as [N, K]; of two classes it returns only the second's."""
        values = torch.from_numpy(values)
        return values if values.dim() == 2 else torch.stack([-values, values], 1)

    def __call__(self, images: Tensor) -> Tensor:
        """[N, K] float64: the signed distances of images [N, C, H, W] in [0, 1], on the images' device."""
        if _images("images", images).shape[1:] != self.shape:
            raise ValueError(
                f"images must have the training images' shape after N, {tuple(self.shape)}, got "
                f"{checks.describe(images)}"
            )
        x = images.detach().flatten(1).double().cpu().numpy()
        return self._columns(self._model.decision_function(x)).to(images.device)

    def probabilities(self, features: Tensor) -> Tensor:
        """[N, K]: softmax(f / T) of features [N, K]; its ``argmax(1)`` is the predicted class."""
        return torch.softmax(features / self.temperature, 1)

    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        """The share of ``images`` whose predicted class is their label [N]; use images that were held out."""
        predicted = self(images).argmax(1)
        if checks.tensor("labels", labels).shape != predicted.shape:
            raise ValueError(f"labels must have shape ({len(predicted)},), got {checks.describe(labels)}")
        return float((predicted == labels.to(predicted.device)).double().mean())


def _temperature(values: Tensor, labels: Tensor) -> float:
    """T > 0 that minimises the mean of -log softmax(values / T)[label]; found in log T, where it has one valley."""

    def loss(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(values * math.exp(-log_t), labels))

    minimize = require("scipy.optimize", "train").minimize_scalar  # one valley: the loss is convex in 1/T
    return math.exp(minimize(loss, bounds=(-7.0, 7.0), method="bounded", options={"xatol": 1e-8}).x)


def classifier_features(images: Tensor, labels: Tensor) -> ClassifierFeatures:
    """A classifier fitted to training ``images`` [N, C, H, W] in [0, 1] and ``labels`` [N] int64, 0 to K-1.

    Raises:
        TypeError, ValueError: wrong shapes or values, or a class with fewer than 5 images.
        MissingDependency: scikit-learn is not installed.
    """
    return ClassifierFeatures(images, labels)


class InceptionFeatures:
    """Inception-v3 as FIDs are computed with: TensorFlow's 2015 weights and resizing, by torchmetrics.

    Made by :func:`inception_features`.
    """

    def __init__(self, net: torch.nn.Module, batch_size: int, device: torch.device):
        self._net, self._batch_size, self._device = net.to(device), batch_size, device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """[N, 2048] float32 pool features of images [N, 1 or 3, H, W] in [0, 1], on the images' device.

        Images become 8-bit (rounded), as those on disk are; one channel is repeated to three.
        """
        images = _images("images", images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels, got {checks.describe(images)}")
        parts = []
        for batch in images.split(self._batch_size):
            eight_bit = batch.to(self._device).float().mul(255).round().byte()
            parts.append(self._net(eight_bit.expand(-1, 3, -1, -1)).to(images.device))
        return torch.cat(parts)

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """[N, 1008]: softmax(W f) of pool features [N, 2048], with no bias, as the Inception score does."""
        weight = self._net.get_parameter("fc.weight").detach()
        return torch.softmax(features.to(weight) @ weight.T, 1).to(features.device)


def inception_features(
    *, weights: str | Path | None = None, batch_size: int = 64, device: torch.device | str = "cpu"
) -> InceptionFeatures:
    """Inception's 2048 pool features for the FID, and its class probabilities for the Inception score.

    The network is torchmetrics' (``NoTrainInceptionV3``, ``antialias=False``: TensorFlow's resizing, as
    published FIDs use), which builds on torch-fidelity. Nothing is downloaded: an error names all that
    is missing at once.

    Args:
        weights: the file of weights; by default ``checkpoints/weights-inception-2015-12-05-6726825d.pth`` in
            torch hub's folder (``torch.hub.get_dir()``, mostly ~/.cache/torch/hub).
        batch_size: images in one pass of the network.
        device: where the network runs.

    Raises:
        MissingDependency: torchmetrics or torch-fidelity is not installed.
        DataError: the weights are not on this machine, or damaged; the text says what to put where.

    Source: Heusel et al., 2017 (FID); Salimans et al., 2016 (Inception score).
    """
    batch_size = checks.integer("batch_size", batch_size, low=1)
    path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    advice = "" if path.is_file() else f"download {WEIGHTS_URL} (91 MB) anywhere and put it at {path}"
    missing = [name for name in ("torchmetrics", "torch_fidelity") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"Inception features need {' and '.join(missing)}, not installed: {how_to_install('eval')}"
            + (f"; they also need the network's weights: {advice}" if advice else "")
        )
    if advice:
        raise DataError(f"Inception features need the network's weights, not on this machine: {advice}")
    fid = require("torchmetrics.image.fid", "eval")
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run pickled code
        net = fid.NoTrainInceptionV3(
            name="inception-v3-compat",
            features_list=["2048"],
            antialias=False,
            feature_extractor_weights_path=str(path),
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the Inception weights at {path} do not load ({reason}); the file may be damaged: "
            f"replace it with {WEIGHTS_URL}"
        ) from error
    return InceptionFeatures(net, batch_size, torch.device(device))


FEATURES: dict[str, Callable[..., Features]] = {
    "pixels": pixel_features,
    "classifier": classifier_features,
    "inception": inception_features,
}


def make(name: str, **options: Any) -> Features:
    """The features called ``name``: "pixels", "classifier" (needs ``images`` and ``labels``) or "inception".

    Add your own with ``FEATURES["mine"] = factory``; ``options`` go to the factory.

    Raises:
        ValueError: no such name; the message lists those there are.
    """
    return FEATURES[checks.one_of("name", name, FEATURES)](**options)
