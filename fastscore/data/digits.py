"""scikit-learn's handwritten digits: 1,797 images of 8x8, small enough to train on with a CPU."""

from __future__ import annotations

import torch

from .._core import checks
from .._core.errors import require
from ..rng import Philox, Stream
from .images import ImageData

_SPLIT_SEED = 1797  # fixed: the halves are part of the data set


def digits(split: str = "train", *, dequantize: str = "none", flips: bool = False) -> ImageData:
    """Images [N, 1, 8, 8] of the digits, with labels 0 to 9.

    A pixel has one of 17 values v = 0 .. 16, stored as round(255 v / 16). Uniform dequantisation is therefore
    (v + U) / 17, noise as wide as the gap of 17 values (``num_values`` is 17): NCSN's U/256 would leave 17
    spikes far narrower than their distance of 1/16.

    Args:
        split: "train" (898 images), "heldout" (the other 899) or "all" (in scikit-learn's order). The halves
            are drawn once and for all, by a permutation of a fixed seed, so that samples can be compared with
            images that no model was trained on.
        dequantize, flips: see :class:`ImageData`.

    Raises:
        MissingDependency: scikit-learn is not installed.
        ValueError: another split.

    Source: E. Alpaydin, C. Kaynak, "Optical recognition of handwritten digits", UCI (1998), the test set.
    """
    checks.one_of("split", split, ("train", "heldout", "all"))
    bunch = require("sklearn.datasets", "train").load_digits()
    values = torch.from_numpy(bunch.images)  # float64 [1797, 8, 8]
    images = (values * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    if split != "all":
        order = Philox(_SPLIT_SEED).permutation(len(images), stream=Stream.DATA)
        half = len(images) // 2
        kept = order[:half] if split == "train" else order[half:]
        images, labels = images[kept], labels[kept]
    return ImageData(
        images, labels, name=f"digits-{split}", num_values=17, dequantize=dequantize, flips=flips, num_classes=10
    )
