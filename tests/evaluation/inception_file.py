"""A file of weights for Inception-v3, drawn at random, which features and metrics can be tested with."""

from __future__ import annotations

import io
import math
from pathlib import Path

import torch

from fastscore.rng import Philox

from ..conftest import optional


def write_inception(path: str | Path, seed: int = 0) -> Path:
    """Write weights of the published file's names and shapes to ``path``; skips the test where torch-fidelity is not there.

    They are scaled so that images that differ have features and classes that differ: mean square 2 / fan-in and no shifts,
    of the last layer more.
    """
    module = optional("torch_fidelity.feature_extractor_inceptionv3")

    class Unread(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            """There is nothing to read yet."""

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    values = Unread("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing).state_dict()
    for step, (name, value) in enumerate(values.items()):
        if value.dim() > 1:  # the others stay as a network is made
            scale = (60 if name == "fc.weight" else 1) * math.sqrt(2 / value[0].numel())
            value.copy_(Philox(seed, step=step).randn(*value.shape) * scale)
    torch.save(values, path)
    return Path(path)
