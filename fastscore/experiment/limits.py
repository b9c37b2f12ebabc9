"""What is refused before it is tried: a run that does not fit into memory, a count beyond 32-bit numbers.

Sizes are lower bounds, so what is refused could not have run; what passes may still run out of memory.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from .config import TrainConfig

INDICES = 1 << 32  # sample indices and steps of the random numbers are 32-bit words
_SIDES = {"digits": 8, "mnist": 28, "cifar10": 32, "photos": 32}
_POINTS = ("mixture", "two_moons", "checkerboard", "swiss_roll")


def memory(device: torch.device) -> int:
    """Bytes of memory that ``device`` has; on the CPU no more than the process's control group may take."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(there, int(text)) if text.isdigit() else there


def check_num(num: int) -> None:
    """Raise if one seed does not have that many samples."""
    if num > INDICES:
        raise ValueError(f"num must be at most 2^32, the samples of one seed, got {_short(num)}")


def check_kept(num: int, shape: tuple[int, ...], name: str = "num") -> None:
    """Raise where ``num`` samples of ``shape``, an argument called ``name``, do not fit into the machine's memory all together."""
    _fits(name, num, "the samples", 4 * num * math.prod(shape), torch.device("cpu"))


def check_batch(
    config: TrainConfig, shape: tuple[int, ...], batch_size: int, device: torch.device, name: str = "batch_size"
) -> None:
    """Raise where a batch and the network's first layer alone take more memory than ``device`` has.

    Args:
        config: of the run. shape: of one sample, (C, H, W) or (D,). batch_size: how many at a time.
        device: where the network runs. name: of the argument.
    """
    values = math.prod(shape)
    layer = config.width * (values // shape[0] if len(shape) == 3 else 1)
    _fits(name, batch_size, "samples and the network's first layer", 4 * batch_size * (values + layer), device)


def check_run(config: TrainConfig, device: torch.device, ranks: int = 1) -> None:
    """Raise ValueError where a run of ``config`` on so many ``ranks`` does not fit into memory."""
    side = _SIDES.get(config.data, config.image_size)
    shape = (2,) if config.data in _POINTS else (1, side, side)
    copies = 16  # a weight in float32, its gradient, and Adam's two moments
    if len(shape) == 3:
        _fits("image_size", side, "one image", 4 * side**2, device)
    _fits("width", config.width, "weights", copies * (1 if config.model == "mlp" else 9) * config.width**2, device)
    _fits("num_levels", config.num_levels, "the losses of the noise levels", 16 * config.num_levels, device)
    check_batch(config, shape, -(-config.batch_size // (ranks * config.accumulate)), device)


def check_classifier(width: int, batch_size: int, shape: tuple[int, ...], device: torch.device) -> None:
    """Raise ValueError where a :class:`fastscore.models.NoiseClassifier` of samples of ``shape`` does not fit into memory."""
    weights = (18 if len(shape) == 3 else 2) * width**2  # of the second layer, of an MLP and the third
    _fits("width", width, "weights", 16 * weights, device)  # in float32, their gradients, and Adam's two moments
    layer = width * (math.prod(shape[1:]) if len(shape) == 3 else 1)
    _fits(
        "batch_size",
        batch_size,
        "samples and the classifier's first layer",
        4 * batch_size * (math.prod(shape) + layer),
        device,
    )


def check_epochs(iterations: int, batch_size: int, num: int) -> None:
    """Raise ValueError where a training on ``num`` samples takes more epochs than there are ways to shuffle them."""
    epochs = iterations * batch_size / num
    if epochs >= INDICES:
        raise ValueError(
            f"iterations times batch_size must be less than 2^32 epochs of {num:,} "
            f"samples, since each is shuffled by a number of its own, got {epochs:.3g} epochs"
        )


def _fits(name: str, value: int, what: str, size: int, device: torch.device) -> None:
    there = memory(device)
    if size > there:
        raise ValueError(
            f"{name} must be smaller: with {_short(value)}, {what} take at least {_gigabytes(size)}, and "
            f"{device} has {_gigabytes(there)}"
        )


def _gigabytes(size: int) -> str:
    return f"{size >> 30:,} GiB" if size < 1 << 70 else f"2^{size.bit_length() - 1} bytes"


def _short(value: int) -> str:
    long = value.bit_length() > 100  # Python refuses to write more than some thousand digits
    return f"a number of {math.floor(math.log10(abs(value))) + 1} digits" if long else str(value)
