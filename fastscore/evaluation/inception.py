"""Inception-v3, the network of FIDs: read from a file on this machine, whose checksum is compared first."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import torch
from torch import Tensor

from .._core import checks, files
from .._core.errors import DataError, MissingDependency, how_to_install, require
from .._core.float32 import tf32
from ._unit_images import check_unit_images

WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS}"
#: Of the published file, which has 95,628,359 bytes.
WEIGHTS_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


class InceptionFeatures:
    """Inception-v3 as FIDs are computed with: TensorFlow's 2015 weights and resizing, by torch-fidelity.

    Made by :func:`inception_features`.

    Attributes:
        sha256: of the file that the weights were read from.
    """

    def __init__(self, net: torch.nn.Module, batch_size: int, device: torch.device, sha256: str):
        self._net, self._batch_size, self._device, self.sha256 = net.to(device), batch_size, device, sha256

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """[N, 2048] float32 pool features of images [N, 1 or 3, H, W] in [0, 1], on the images' device.

        Images become 8-bit (rounded), as those on disk are; one channel is repeated to three. On a GPU too the network
        is computed in float32 proper, never in TF32.
        """
        images = check_unit_images("images", images)
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels, got {checks.describe(images)}")
        parts = []
        with tf32(False):
            for batch in images.split(self._batch_size):
                eight_bit = batch.to(self._device).float().mul(255).round().byte()
                parts.append(self._net(eight_bit.expand(-1, 3, -1, -1))[0].to(images.device))
        return torch.cat(parts)

    @torch.no_grad()
    def probabilities(self, features: Tensor) -> Tensor:
        """[N, 1008]: softmax(W f) of pool features [N, 2048], with no bias, as the Inception score does."""
        weight = self._net.get_parameter("fc.weight").detach()
        with tf32(False):
            return torch.softmax(features.to(weight) @ weight.T, 1).to(features.device)


def inception_features(
    weights: str | Path | None = None,
    *,
    checksum: bool = True,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
) -> InceptionFeatures:
    """Inception's 2048 pool features for the FID, and its class probabilities for the Inception score.

    The network is torch-fidelity's, which resizes to 299 x 299 as TensorFlow did, as published FIDs do. Nothing is
    downloaded: an error names all that is missing at once. The file is read once, compared with the published
    checksum, and nothing that it holds is run.

    Args:
        weights: the file of weights; by default ``checkpoints/weights-inception-2015-12-05-6726825d.pth`` in
            torch hub's folder (``torch.hub.get_dir()``, mostly ~/.cache/torch/hub).
        checksum: take the published file alone; False: any weights of this network. With others no distance is a FID.
        batch_size: images in one pass of the network: 64 take about 1 GB.
        device: where the network runs.

    Raises:
        MissingDependency: torch-fidelity is not installed.
        DataError: the weights are not on this machine, are another file, or damaged; the text says what to put where.

    Source: Heusel et al., 2017 (FID); Salimans et al., 2016 (Inception score).
    """
    batch_size = checks.integer("batch_size", batch_size, low=1)
    path = Path(weights) if weights is not None else Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS
    advice = "" if path.is_file() else f"download {WEIGHTS_URL} (91 MB) anywhere and put it at {path}"
    if importlib.util.find_spec("torch_fidelity") is None:
        raise MissingDependency(
            f"Inception features need torch_fidelity, not installed: {how_to_install('eval')}"
            + (f"; they also need the network's weights: {advice}" if advice else "")
        )
    if advice:
        raise DataError(f"Inception features need the network's weights, not on this machine: {advice}")
    module = require("torch_fidelity.feature_extractor_inceptionv3", "eval")
    content, sha256 = _read(path, checksum)
    try:
        tensors = io.BytesIO()  # of tensors alone: torch-fidelity would run what a file holds
        torch.save(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), tensors)
        tensors.seek(0)
        net = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=tensors
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the Inception weights at {path} do not load ({reason}); the file may be damaged: "
            f"replace it with {WEIGHTS_URL}"
        ) from error
    return InceptionFeatures(net, batch_size, torch.device(device), sha256)


def _read(path: Path, checksum: bool) -> tuple[bytes, str]:
    """The bytes of the file and their SHA-256, after the comparison with the published one."""
    try:
        content = files.read(path)
    except OSError as error:
        raise DataError(f"the Inception weights at {path} cannot be read: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if checksum and found != WEIGHTS_SHA256:
        raise DataError(
            f"the Inception weights at {path} are not the published file: their SHA-256 is {found}, at {len(content):,} "
            f"bytes, not {WEIGHTS_SHA256}; replace them with {WEIGHTS_URL}, or take these, whose distances are no FIDs, "
            "by checksum=False (--no-inception-checksum)"
        )
    return content, found
