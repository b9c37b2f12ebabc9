"""What a config describes: noise levels, data, the network with its first weights, and the device."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from .. import data
from ..data.npz import has_test_images
from ..models import build_model
from ..models.refinenet import ScoreRefineNet
from ..paths import PATHS
from ..schedules import geometric_sigmas
from .config import TrainConfig
from .path_bounds import make_path

FROM_FILES = ("mnist", "cifar10", "folder", "npz")  # the data sets that are read from data_dir
_GRAY_SCOTT_IMAGES = 1024


def make_sigmas(config: TrainConfig) -> Tensor:
    """The noise levels [L] of a run, float32, largest first.

    On a path of continuous t they are sigma / alpha at as many of its times, at the nearest of which a loss is shown.
    """
    if PATHS[config.path].continuous:
        path = make_path(config)
        most, least = (math.exp(-float(path.log_snr(t)) / 2) for t in (path.t_max, path.t_min))
        return geometric_sigmas(most, least, config.num_levels)
    return geometric_sigmas(config.sigma_begin, config.sigma_end, config.num_levels)


@overload
def make_data(config: TrainConfig, *, heldout: Literal[False] = False) -> data.Data: ...


@overload
def make_data(config: TrainConfig, *, heldout: bool) -> data.Data | None: ...


def make_data(config: TrainConfig, *, heldout: bool = False) -> data.Data | None:
    """A run's training data, or its held-out part (None where the data set has none)."""
    options: dict[str, Any] = {}
    if config.data in ("digits", "photos"):
        options = {"split": "heldout" if heldout else "train"}
    elif config.data in ("mnist", "cifar10"):
        options = {"root": config.data_dir, "train": not heldout, "download": config.download}
        if config.data == "cifar10":
            options["checksum"] = config.checksum
    elif config.data == "npz":
        options = {"root": config.data_dir, "train": not heldout}
        if heldout and not has_test_images(config.data_dir):
            return None
    elif config.data == "gray_scott":
        options = {
            "num_images": _GRAY_SCOTT_IMAGES,
            "image_size": config.image_size,
            "sample_offset": _GRAY_SCOTT_IMAGES if heldout else 0,
        }
    elif config.data == "folder":
        options = {"root": config.data_dir, "image_size": config.image_size}
        if heldout:
            return None
    loaded = data.load(config.data, **options)
    if isinstance(loaded, data.ImageData):
        return loaded.with_options(dequantize="uniform" if config.dequantize else "none", flips=config.flip)
    return loaded


def resident(loaded: data.Data, device: torch.device) -> data.Data:
    """Image data on ``device``, so that an iteration copies nothing from the host; as it is where that would not do.

    On a GPU whose free memory it would fill by more than half it stays, and each batch's bytes are copied (see
    :meth:`fastscore.data.ImageData.to`). Points are drawn on the CPU, and copied.
    """
    if not isinstance(loaded, data.ImageData) or device == loaded.images.device:
        return loaded
    if device.type == "cuda" and torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info(device)
        if 2 * loaded.images.nbytes > free:
            return loaded
    return loaded.to(device)


def make_model(config: TrainConfig, sample_shape: tuple[int, ...]) -> nn.Module:
    """The run's network with its initial weights, which are a function of ``config.seed`` alone.

    Raises:
        ValueError: the network and the data do not fit together (an mlp for images, say).
    """
    flat = len(sample_shape) == 1
    if flat != (config.model == "mlp"):
        raise ValueError(
            f"model must be 'mlp' for 2-D points and 'ncsn' or 'ncsnv2' for images, got {config.model!r} "
            f"for samples of shape {tuple(sample_shape)} ({config.data})"
        )
    sigmas = make_sigmas(config)
    classes: dict[str, Any] = {"num_classes": config.num_classes} if config.num_classes else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if flat:
            how = dict(classes)
            if PATHS[config.path].continuous:
                how |= {"preconditioned": config.parametrization == "score"}
                how |= {name: value for name, value in config.objective_options.items() if name == "data_std"}
            return build_model("mlp", dim=sample_shape[0], hidden=config.width, sigmas=sigmas, **how)
        size = {"channels": sample_shape[0], "image_size": sample_shape[1], "ngf": config.width}
        levels = {"num_levels": len(sigmas)} if config.model == "ncsn" else {"sigmas": sigmas}
        return build_model(config.model, **size, **levels, **classes)


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """``model``, moved to ``device``, with its weights in the order in memory that is fastest there."""
    model = model.to(device)
    if isinstance(model, ScoreRefineNet):
        model.lay_out()
    return model


def pick_device(name: str) -> torch.device:
    """The device of a config: ``auto`` is CUDA if there is a GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise ValueError("meta tensors hold no numbers")
    except Exception as error:  # each backend of torch has its own: RuntimeError, AssertionError, ImportError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"device must be auto, cpu, or a GPU of this machine such as cuda:0, got {name!r} ({reason})"
        ) from None
    return device
