"""The mean and the covariance of a run's training data, about which some samplers begin: found, and kept with the run.

RUN/moments.safetensors is written before the run's first checkpoint, so that its samples are drawn without the data set. It
holds ``mean``, and of the covariance the lower triangle, all that its Cholesky factor is made of, row after row in float64 (38 MB
for 3,072 numbers a sample), or ``std``; and in its header the fingerprint of the data and the SHA-256 of the tensors.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from .. import data
from .._core.errors import CheckpointError, DataError, MissingDependency, require
from .._core.files import check_regular, read, write_atomically
from ..rng import Philox
from . import checkpoint
from .build import make_data
from .config import TrainConfig

_POINTS, _AT_A_TIME = 100_000, 4096  # of points, for their mean; of images, in float
_COVARIANCE_LIMIT = 4096  # numbers of a sample, of which the covariance takes the square
_TRIANGLE = "covariance, lower triangle"


def moments_of(loaded: data.Data) -> dict[str, Tensor]:
    """The ``mean`` of data, float32 of a sample's shape, and their ``covariance``, float64 [D, D], or, of samples of more than
    4,096 numbers, ``std``: with the first noise they are where some samplers begin."""
    if isinstance(loaded, data.PointData):
        drawn = loaded.sample(_POINTS, Philox(0))
        values = drawn if isinstance(drawn, Tensor) else drawn[0]
    else:
        assert isinstance(loaded, data.ImageData)
        values = loaded.images
    parts = values.split(_AT_A_TIME)
    mean = torch.stack([_rows(part).sum(0) for part in parts]).sum(0) / len(values)
    found = {"mean": mean.float().reshape(values.shape[1:])}
    if len(mean) <= _COVARIANCE_LIMIT:
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for part in parts:
            centred = _rows(part) - mean
            covariance += centred.T @ centred
        return found | {"covariance": _symmetric(covariance / len(values))}
    variance = torch.stack([(_rows(part) - mean).square().sum(0) for part in parts]).sum(0) / len(values)
    return found | {"std": variance.sqrt().float().reshape(values.shape[1:])}


def moments_of_data(config: TrainConfig) -> dict[str, Tensor]:
    """:func:`moments_of` a run's training data, which are read.

    Raises:
        DataError: the training data are not here.
    """
    named = {name: getattr(config, name) for name in ("data", "data_dir", "image_size", "download", "checksum")}
    return dict(_moments_of_data(TrainConfig(**named)))


@lru_cache(maxsize=4)
def _moments_of_data(config: TrainConfig) -> dict[str, Tensor]:
    try:
        return moments_of(make_data(config))
    except (DataError, MissingDependency, OSError) as error:
        raise DataError(
            "samples are to begin about the mean of the training data, which are not here (--data-dir, where a command "
            f"takes it, says where they are; --start uniform or --sampler annealed does without): {error}"
        ) from error


def keep(run: Path, loaded: data.Data) -> None:
    """Write moments.safetensors of the data ``loaded`` where ``run`` does not have them yet; ``OSError`` where that fails."""
    path, fingerprint = run / checkpoint.MOMENTS, loaded.fingerprint()
    if path.is_file() and _header(path).get("data") == fingerprint:
        return
    tensors = moments_of(loaded)
    if "covariance" in tensors:
        whole = tensors.pop("covariance")
        tensors[_TRIANGLE] = whole[tuple(torch.tril_indices(*whole.shape))]
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    header = {"data": fingerprint, "sha256": _checksum(tensors)}
    write_atomically(path, require("safetensors.torch", "train").save(tensors, metadata=header))


def check_place(run: Path) -> None:
    """Raise :class:`CheckpointError` where :func:`keep` could not write: a folder is in the way."""
    path = run / checkpoint.MOMENTS
    if path.is_dir() and not path.is_symlink():
        raise CheckpointError(f"{path} is a folder, where the run keeps its data's mean and covariance: move it away")


def kept(run: Path) -> dict[str, Tensor] | None:
    """What :func:`moments_of` the data of ``run`` is, as it was kept; None of a run that has no moments.safetensors.

    Raises:
        CheckpointError: the file is damaged, or of other data than the run's.
    """
    path = run / checkpoint.MOMENTS
    if not os.path.lexists(path):
        return None
    cure = "delete it: the training data are read in its place, and it is written again where the run goes on"
    check_regular(path)
    load, header = require("safetensors.torch", "train").load, _header(path)
    if header and header.get("data") != checkpoint.read_identity(run).fingerprint:
        raise CheckpointError(f"{path} is of other data than {run} was trained on; {cure}")
    try:
        tensors = dict(load(read(path)))
        if header["sha256"] != _checksum(tensors):
            raise ValueError("its checksum is wrong")
        if _TRIANGLE in tensors:
            triangle, size = tensors.pop(_TRIANGLE), tensors["mean"].numel()
            whole = torch.zeros(size, size, dtype=triangle.dtype)
            whole[tuple(torch.tril_indices(size, size))] = triangle
            tensors["covariance"] = _symmetric(whole)
        return tensors
    except OSError:
        raise
    except Exception as error:  # safetensors has its own
        raise CheckpointError(f"{path} is damaged: {error}; {cure}") from error


def of_run(config: TrainConfig, run: Path | None) -> dict[str, Tensor]:
    """The moments of the training data of ``config``: those kept with ``run``, or where there are none found from the data."""
    return (kept(run) if run is not None else None) or moments_of_data(config)


def _header(path: Path) -> dict[str, str]:
    """What the file says of itself; nothing where it is damaged."""
    try:
        with require("safetensors", "train").safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except MissingDependency:
        raise
    except Exception:  # safetensors has its own
        return {}


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype} ".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _symmetric(matrix: Tensor) -> Tensor:
    """The lower triangle and its mirror image: a product with its own transpose is symmetric to rounding only."""
    return matrix.tril() + matrix.tril(-1).T


def _rows(values: Tensor) -> Tensor:
    """Images (bytes too) or points as rows of numbers, float64 on the CPU."""
    return (data.to_float(values) if values.dtype == torch.uint8 else values).flatten(1).double().cpu()
