"""Bits per dimension of a run's held-out images, beside those of two plain densities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import data, likelihood
from .._images import dequantize
from ..evaluation import metrics
from ..paths import PATHS, Path
from ..rng import Philox, Stream
from ..samplers.parts import conditioning
from .build import make_data, make_sigmas
from .progress import counting
from .scores import on_path
from .trained_run import TrainedRun

IMAGES = 100  # that are looked at
_AT_A_TIME, _ON_CPU = 50, 10  # images; on a CPU fewer, so that the bar says sooner how long it takes
_KNOWN, _GAUSSIAN_LIMIT = 5000, 1024  # of the training images; numbers of one, for a covariance


def check_bits(trained: TrainedRun) -> None:
    """Raise where a run has no bits per dimension.

    Raises:
        ValueError: its samples are points, its network is not computed in float32, or samples are asked to be of a class.
    """
    if len(trained.shape) == 1:
        raise ValueError(
            f"bits_per_dim must be False for points such as {trained.config.data}, which have no grey values, got True: "
            "fastscore.likelihood.log_prob gives their density"
        )
    if trained.precision != "fp32":
        raise ValueError(
            f"precision must be 'fp32' where bits_per_dim is True, got {trained.precision!r}: a trace takes more digits"
        )
    if trained.asked.label is not None:
        raise ValueError(
            f"bits_per_dim must be False with a label, got True with label {trained.asked.label!r}: it is of the network's "
            "density of all images, and the held-out images are of every class"
        )


def evaluate_bits(trained: TrainedRun, seed: int, progress: bool = False) -> dict[str, Any]:
    """What metrics.json says of the likelihood: of the first held-out images (of a data set without such, training images).

    ``progress``: show a bar.
    """
    train, heldout = make_data(trained.config), make_data(trained.config, heldout=True)
    assert isinstance(train, data.ImageData)
    source = heldout if isinstance(heldout, data.ImageData) else train
    images, q = source.images[:IMAGES], source.num_values
    known = _dequantized(train.images[:_KNOWN], q, Philox(seed, step=1 << 31)).flatten(1)
    shape = trained.shape
    score, path, asked = how_to_ask(trained)
    how: dict[str, Any] = asked | {"mean": known.mean(0).reshape(shape)}
    few = known.shape[1] <= _GAUSSIAN_LIMIT
    how |= {"covariance": known.double().T.cov()} if few else {"std": known.std(0).reshape(shape)}
    how |= {name: value.to(trained.device) for name, value in how.items() if isinstance(value, Tensor)}
    found, each = [], _ON_CPU if trained.device.type == "cpu" else _AT_A_TIME
    with counting(len(images), desc="bits per dimension", unit="image", progress=progress) as count:
        for first in range(0, len(images), each):
            rng, part = Philox(seed, sample_offset=first), images[first : first + each].to(trained.device)
            found.append(likelihood.bits_per_dim(score, part, path, num_values=q, rng=rng, **how))
            count(len(part))
    value, probes, dequantization, solver = (
        torch.cat([getattr(part, name).cpu() for part in found]) for name in likelihood.BitsPerDim._fields[:4]
    )
    whole = likelihood.BitsPerDim(value, probes, dequantization, solver, found[0].offset, found[0].evaluations)
    result: dict[str, Any] = {
        "network": whole.mean,
        "error_bar": whole.bar,
        **{f"error_of_{name}": value for name, value in whole.parts.items()},
    }
    x = _dequantized(images, q, Philox(seed)).flatten(1).cpu()
    known = known.cpu()
    nats = x.shape[1] * torch.log(torch.tensor(2.0, dtype=torch.float64))
    if len(known) > x.shape[1] and few:
        result["gaussian_fit"] = whole.offset - float((metrics.gaussian_log_prob(known, x) / nats).mean())
    kernel, bandwidth = metrics.kernel_log_prob(known, x)
    result |= {"kernel_density": whole.offset - float((kernel / nats).mean()), "kernel_bandwidth": bandwidth}
    about = {
        "images": len(images),
        "heldout": source is heldout,
        "grey_values": q,
        "offset": whole.offset,
        "trained_on_dequantized": trained.config.dequantize,
        "network_evaluations_per_image": whole.evaluations,
    }
    return {"bits_per_dim": result | about}


def how_to_ask(trained: TrainedRun) -> tuple[Callable[..., Tensor], Path | Tensor, dict[str, Any]]:
    """Score and path of a run, and ``conditioning`` and ``interpolate`` for a network that is asked between its noise levels."""
    if PATHS[trained.config.path].continuous:
        score = on_path(trained.config, trained.score_fn)
        return score, score.path, {}
    on = conditioning(trained.score_fn, make_sigmas(trained.config), False, True)
    return trained.score_fn, make_sigmas(trained.config), {"conditioning": on, "interpolate": on == "labels"}


def _dequantized(images: Tensor, num_values: int, rng: Philox) -> Tensor:
    u = rng.rand(images.shape, stream=Stream.DEQUANTIZE, device=images.device, dtype=torch.float32)
    return dequantize(images, u, num_values)
