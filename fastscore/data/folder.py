"""Any folder of images, cropped to squares and resized to one size."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from .. import _check
from ..errors import DataError, require
from .images import ImageData

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def folder(root: str | os.PathLike, image_size: int, *, channels: int = 3, dequantize: str = "none",
           flips: bool = False) -> ImageData:
    """All images below ``root``, in the order of their paths, as uint8 [N, channels, image_size, image_size].

    Each is turned as its EXIF data says, cropped to its centre square, and resized with pillow's antialiased
    bicubic filter. A transparent part keeps its hidden colour; of an animation the first frame is taken. All
    images are held in memory: N * channels * image_size^2 bytes.

    Args:
        root: the folder, searched with all folders in it; names that begin with a dot are left out.
        image_size: H = W, in pixels.
        channels: 3 (RGB) or 1 (grey).
        dequantize, flips: see :class:`ImageData`.

    Raises:
        DataError: no such folder, no image in it, or an image that does not read (the text names it) or has
            more than 8 bits a channel.
        MissingDependency: pillow is not installed.
    """
    _check.integer("image_size", image_size, low=1)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {_check.describe(channels)}")
    require("PIL.Image", "train")
    base = Path(root)
    if not base.is_dir():
        raise DataError(f"root (fastscore train: --data-dir) must be a folder of images; there is no folder "
                        f"{str(base.resolve())!r}")
    paths = sorted(path for path in base.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
                   and not any(part.startswith(".") for part in path.relative_to(base).parts))
    if not paths:
        raise DataError(f"the folder {str(base.resolve())!r} has no image in it or below it; "
                        f"files with these endings are read: {', '.join(SUFFIXES)}")
    images = torch.empty(len(paths), channels, image_size, image_size, dtype=torch.uint8)
    for i, path in enumerate(paths):
        images[i] = _read(path, image_size, "RGB" if channels == 3 else "L")
    return ImageData(images, name=base.resolve().name, dequantize=dequantize, flips=flips)


def _read(path: Path, size: int, mode: str) -> Tensor:
    """One image, cropped and resized: uint8 [C, size, size]."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"the image {str(path)!r} has more than 8 bits a channel (pillow's mode "
                                f"{image.mode!r}), which would be clipped: convert it to 8 bits")
            image = ImageOps.exif_transpose(image).convert(mode)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    except DataError:
        raise
    except Exception as error:  # pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(f"the image {str(path)!r} does not read ({type(error).__name__}: {error}): "
                        "replace or remove it") from error
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(size, size, -1).permute(2, 0, 1)
