"""Crops of the two photographs that come with scikit-learn: 32x32 colour images that need no download."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import require
from ..rng import Philox, Stream
from .images import ImageData

_SEED = 2019  # fixed: which crops there are is part of the data set
_SIDE, _STRIP = 32, 128
_BANDS = {"train": ((0, 149), (213, 363)), "heldout": ((149, 213), (363, 427))}  # rows of a photograph
_COUNT = {"train": 2500, "heldout": 500}  # crops of a class


def photos(split: str = "train", *, dequantize: str = "none", flips: bool = False) -> ImageData:
    """Images [N, 3, 32, 32] cut out of two photographs (a pagoda, a dahlia), with labels 0 to 9.

    Each photograph, 427 x 640, is cut into five strips from left to right, which are the ten classes (the pagoda's are 0
    to 4), and every strip into four bands from top to bottom: training crops lie in the first and the third, held-out crops
    in the second and the fourth, so that no pixel is in both. Crops of a class differ in their place, and overlap.

    Args:
        split: "train" (25,000 images) or "heldout" (5,000); class after class.
        dequantize, flips: see :class:`ImageData`.

    Raises:
        MissingDependency: scikit-learn or pillow is not installed.
        ValueError: another split.

    Source: ``sklearn.datasets.load_sample_image`` (china.jpg, flower.jpg; CC BY). Another JPEG decoder may give pixels
    that differ by one.
    """
    checks.one_of("split", split, tuple(_BANDS))
    require("PIL.Image", "train")
    read = require("sklearn.datasets", "train").load_sample_image
    pictures = [torch.from_numpy(read(name).copy()) for name in ("china.jpg", "flower.jpg")]
    strips = [picture[:, left : left + _STRIP] for picture in pictures for left in range(0, picture.shape[1], _STRIP)]
    crops = [_crops(strip, _BANDS[split], _COUNT[split], label) for label, strip in enumerate(strips)]
    labels = torch.arange(len(strips)).repeat_interleave(_COUNT[split])
    return ImageData(
        torch.cat(crops),
        labels,
        name=f"photos-{split}",
        dequantize=dequantize,
        flips=flips,
        num_classes=len(strips),
    )


def _crops(strip: Tensor, bands: tuple[tuple[int, int], ...], count: int, label: int) -> Tensor:
    """``count`` crops of different places, uint8 [count, 3, 32, 32], of a strip [H, W, 3], each inside one band."""
    windows = strip.unfold(0, _SIDE, 1).unfold(1, _SIDE, 1)  # by their upper left corner; a view
    tops = torch.cat([torch.arange(top, end - _SIDE + 1) for top, end in bands])
    columns = windows.shape[1]
    places = Philox(_SEED, step=label).permutation(len(tops) * columns, stream=Stream.DATA)[:count]
    return windows[tops[places // columns], places % columns]
