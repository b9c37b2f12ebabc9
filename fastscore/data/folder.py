"""Any folder of images, cropped to squares and resized to one size."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import DataError, require
from .images import ImageData

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# what these endings stand for, in pillow's names; of each it is known here how deep its channels are
_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM")
_OTHER_ENDING = "with another ending"


def folder(
    root: str | os.PathLike, image_size: int, *, channels: int = 3, dequantize: str = "none", flips: bool = False
) -> ImageData:
    """All images in and below ``root``, in the order of their paths: uint8 [N, channels, image_size, image_size].

    Links to files and to folders are followed, each folder is read once, and a link back to a folder that it lies in
    is left out; so are names that begin with a dot. ``describe()`` says how many images were read, and how many files
    were left out and why.

    Each is turned as its EXIF data says, cropped to its centre square, and resized with pillow's antialiased
    bicubic filter. A transparent part keeps its hidden colour; of an animation the first frame is taken. All
    images are held in memory: N * channels * image_size^2 bytes.

    Args:
        root: the folder, searched with all folders in it.
        image_size: H = W, in pixels.
        channels: 3 (RGB) or 1 (grey).
        dequantize, flips: see :class:`ImageData`.

    Raises:
        DataError: no such folder, one that may not be read, no image in it, or an image that does not read or has
            more than 8 bits per channel (the text names it).
        MissingDependency: pillow is not installed.
    """
    image_size = checks.integer("image_size", image_size, low=1)
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 (grey) or 3 (RGB), got {checks.describe(channels)}")
    require("PIL.Image", "train")
    base = Path(root)
    if not base.is_dir():
        raise DataError(
            f"root (fastscore train: --data-dir) must be a folder of images; there is no folder "
            f"{os.path.abspath(base)!r}"
        )
    paths, left_out = _search(base)
    notes = _notes(left_out)
    if not paths:
        raise DataError(
            f"the folder {os.path.abspath(base)!r} has no image in it or below it; "
            f"files with these endings are read: {', '.join(SUFFIXES)}" + (f"; {notes}" if notes else "")
        )
    images = torch.empty(len(paths), channels, image_size, image_size, dtype=torch.uint8)
    for i, path in enumerate(paths):
        images[i] = _read(path, image_size, "RGB" if channels == 3 else "L")
    return ImageData(images, name=base.resolve().name, dequantize=dequantize, flips=flips, source=base, notes=notes)


def _search(base: Path) -> tuple[list[Path], Counter[tuple[str, str]]]:
    """The image files in and below ``base``, sorted, and how many others there are for each (reason, ending).

    Linked folders come after all that lie there themselves, so that a folder reached both ways keeps its own path.
    """
    paths: list[Path] = []
    left_out: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[int, int]] = set()
    starts = deque([base])
    while starts:
        for here, folders, files in os.walk(starts.popleft(), onerror=_unreadable):
            about = os.stat(here)
            if (about.st_dev, about.st_ino) in seen:
                left_out["links to folders that were read already", ""] += 1
                folders.clear()
                continue
            seen.add((about.st_dev, about.st_ino))
            left_out["hidden", ""] += sum(name.startswith(".") for name in (*folders, *files))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for link in (Path(here, name) for name in folders if os.path.islink(os.path.join(here, name))):
                if Path(here).resolve().is_relative_to(link.resolve()):
                    left_out["links to folders that they lie in", ""] += 1
                else:
                    starts.append(link)
            for path in (Path(here, name) for name in files if not name.startswith(".")):
                if path.suffix.lower() not in SUFFIXES:
                    left_out[_OTHER_ENDING, path.suffix.lower() or "none"] += 1
                elif reason := _no_file(path):
                    left_out[reason, ""] += 1
                else:
                    paths.append(path)
    return sorted(paths), left_out


def _no_file(path: Path) -> str | None:
    """Why ``path`` cannot be an image file, or None."""
    try:
        return None if stat.S_ISREG(path.stat().st_mode) else "pipes, sockets or devices"
    except FileNotFoundError:
        return "links to files that are not there"
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(
        f"{error.filename!r} does not read ({error.strerror}): make it readable, or take it out of the folder of images"
    ) from error


def _notes(left_out: Counter[tuple[str, str]]) -> str:
    """As "left out: 5 files with another ending (.txt 3, .json 2), 1 hidden", or "" where nothing was."""
    counts: Counter[str] = Counter()
    for (reason, _), count in left_out.items():
        counts[reason] += count
    endings = Counter({ending: count for (reason, ending), count in left_out.items() if reason == _OTHER_ENDING})
    shown = [f"{ending} {count}" for ending, count in _by_count(endings)[:4]] + ["..."] * (len(endings) > 4)
    parts = [
        f"{count:,} {reason}" + (f" ({', '.join(shown)})" if reason == _OTHER_ENDING else "")
        for reason, count in _by_count(counts)
        if count
    ]
    return f"left out: {', '.join(parts)}" if parts else ""


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _bits(path: Path, image: Any) -> int:
    """How many bits a channel has in the file; pillow opens some files of 16 as images of 8."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]  # IHDR, always the first chunk: length, name, width, height, depth
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, 1)  # BitsPerSample, one per channel
        return max(bits) if isinstance(bits, tuple) else bits
    if image.format == "PPM":
        arguments = image.tile[0][3]
        maxval = arguments[1] if isinstance(arguments, tuple) and isinstance(arguments[1], int) else 255
        return max(8, maxval.bit_length())
    return 8


def _read(path: Path, size: int, mode: str) -> Tensor:
    """One image, cropped and resized: uint8 [C, size, size]."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if image.format not in _FORMATS:
                raise DataError(
                    f"the image {str(path)!r} is in fact a file of the format {image.format}, whose depth "
                    "is not known here: convert it to PNG or JPEG, 8 bits per channel"
                )
            if image.mode.startswith(("I", "F")) or (bits := _bits(path, image)) > 8:
                what = f"pillow's mode {image.mode!r}" if image.mode.startswith(("I", "F")) else f"{bits} bits"
                raise DataError(
                    f"the image {str(path)!r} has more than 8 bits per channel ({what}), which would be "
                    "lost: convert it to 8 bits per channel, or take it out of the folder"
                )
            image = ImageOps.exif_transpose(image).convert(mode)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    except DataError:
        raise
    except PermissionError as error:
        _unreadable(error)
    except Exception as error:  # pillow raises OSError, SyntaxError, ValueError, struct.error, ...
        raise DataError(
            f"the image {str(path)!r} does not read ({type(error).__name__}: {error}): replace or remove it"
        ) from error
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(size, size, -1).permute(2, 0, 1)
