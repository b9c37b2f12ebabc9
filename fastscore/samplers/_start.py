"""Where the chains begin."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import checks
from ..rng import Philox, Stream

STARTS = ("uniform", "normal")


def check_shape(shape: Sequence[int]) -> torch.Size:
    """[B, ...] with B >= 1."""
    try:
        shape = torch.Size(shape)
    except TypeError:
        raise TypeError(f"shape must be a sequence of integers [B, ...], got {checks.describe(shape)}") from None
    if len(shape) == 0 or min(shape) < 1:
        raise ValueError(f"shape must be [B, ...] with every size at least 1, got {tuple(shape)}")
    return shape


def check_device(device: torch.device | str | None, sigmas: object) -> torch.device:
    """The device of the samples, once it is known to be one that tensors can be made on; None: that of ``sigmas``, or where
    they are no tensor torch's default."""
    if device is None:
        return sigmas.device if isinstance(sigmas, Tensor) else torch.empty(0).device
    if torch.compiler.is_compiling():
        return torch.device(device)
    try:
        return torch.empty(0, device=device).device  # of "cuda" with its index, as tensors have it
    except Exception as error:  # each backend of torch has its own: RuntimeError, AssertionError, ImportError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"device must be None or a device of this machine, such as 'cpu' or 'cuda:0', got {checks.describe(device)} "
            f"({reason:.200})"
        ) from None


def check_start(start: str | Tensor, shape: Sequence[int], dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of the samples, once ``start`` and ``dtype`` are known to be right for ``shape`` [B, ...]."""
    if dtype is not None and dtype not in checks.FLOATS:
        raise TypeError(f"dtype must be torch.float16, bfloat16, float32 or float64, or None, got {dtype}")
    if isinstance(start, Tensor):
        checks.floating("start", start)
        checks.not_differentiated("start", start)
        if start.shape != shape:
            raise ValueError(f"start must have shape {tuple(shape)}, got {checks.describe(start)}")
        return dtype or start.dtype
    if not isinstance(start, str) or start not in STARTS:
        raise ValueError(f"start must be 'uniform', 'normal' or a tensor, got {checks.describe(start)}")
    return dtype or torch.get_default_dtype()


def initial(
    start: str | Tensor, shape: Sequence[int], sigma_1: float, rng: Philox, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Where the chains begin: U[0, 1] ("uniform"), N(0, sigma_1^2 I) ("normal"), or the tensor given.

    Of arguments that were checked: the first of ``rng``'s steps may not be taken before the whole call is known to be
    right.
    """
    if isinstance(start, Tensor):
        return start.to(device=device, dtype=dtype, copy=True)
    if start == "uniform":
        return rng.rand(shape, stream=Stream.INIT, dtype=dtype, device=device)
    return sigma_1 * rng.randn(shape, stream=Stream.INIT, dtype=dtype, device=device)


def check_covariance(covariance: Tensor, std: float | Tensor, shape: torch.Size) -> Tensor:
    """``covariance``, [D, D] of samples of D numbers, symmetric; beside it there is no ``std``."""
    checks.floating("covariance", covariance, batched=False)
    D = shape[1:].numel()
    if covariance.shape != (D, D):
        raise ValueError(
            f"covariance must be [D, D] with D = {D}, the numbers of a sample, got {checks.describe(covariance)}"
        )
    if isinstance(std, Tensor) or std != 0:
        raise ValueError(f"std must be left out where covariance is given, got {checks.describe(std)}")
    covariance = covariance.detach().double()
    apart = float((covariance - covariance.mT).abs().max())
    if not apart <= 1e-5 * float(covariance.abs().max()):
        raise ValueError(f"covariance must be finite and symmetric, got entries that differ by {apart:.3g}")
    return covariance


def correlated(z: Tensor, sigma: float, alpha: float, covariance: Tensor) -> Tensor:
    """N(0, sigma^2 I + alpha^2 ``covariance``) of the standard normal ``z`` [B, ...]: L z, float64, L its Cholesky factor.

    Column after column, multiplied and then added: a product of matrices would round by the batch, and by the device. The factor
    itself is of LAPACK (on a GPU of its solver), in float64: its last bits may differ with the number of threads or the device.

    Raises:
        ValueError: ``covariance`` is not positive semidefinite.
    """
    D = covariance.shape[0]
    whole = alpha**2 * covariance + sigma**2 * torch.eye(D, dtype=torch.float64, device=covariance.device)
    factor, failed = torch.linalg.cholesky_ex(whole)
    if int(failed):
        raise ValueError(
            "covariance must be positive semidefinite, got one with an eigenvalue of "
            f"{float(torch.linalg.eigvalsh(covariance).min()):.3g}"
        )
    columns, rows = factor.T.contiguous().to(z.device), z.reshape(len(z), D).T.double().contiguous()
    x = torch.zeros_like(rows)  # [D, B]: what lies together in memory is worked on together
    for j in range(D):
        x[j:] += columns[j, j:, None] * rows[j]
    return x.T.reshape(z.shape)
