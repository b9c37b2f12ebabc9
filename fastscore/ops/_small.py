"""The operators on few elements, past torch's dispatcher: there Python and the dispatcher cost more than the work.

Each function takes an operator's arguments and serves the plainest of them: contiguous CPU tensors of few elements, a
number or a [B] tensor in the dtype that is computed with, nothing to differentiate, no transform, the native backend.
Anything else, and anything wrong, is None: the operator then goes its ordinary way, which checks and explains.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.private_torch import dispatch_modes
from .._core.registration import written
from ..rng import Noise, Philox, Stream

if not backends.problem("native"):
    from .. import _C

_MOST = 16384  # elements; above, a few microseconds do not count, and threads do
_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # as csrc/cpu/direct.h counts them
_CPU = torch.device("cpu")


def perturb(x: Any, sigma: Any, rng: Any, alpha: Any) -> tuple[Tensor, Noise] | None:
    if not _ready(x) or type(rng) is not Philox or rng._state is not None:
        return None
    sigma, factor = _number_a_row(sigma, x), None if alpha is None else _number_a_row(alpha, x, zero=True)
    if sigma is None or (factor is None and alpha is not None):
        return None
    noise, out, rows = rng.noise_for(x, Stream.PERTURB, transformed=False), torch.empty_like(x), x.size(0)
    if not _C.perturb(
        _TYPES[x.dtype],
        x.data_ptr(),
        out.data_ptr(),
        sigma.data_ptr(),
        sigma.dim(),
        0 if factor is None else factor.data_ptr(),
        0 if factor is None else factor.dim(),
        rows,
        x.numel() // rows,
        *noise.position(),
    ):
        rng._philox_step -= 1
        return None
    backends.last["perturb"] = "native"
    return out, noise


def langevin_step(x: Any, score: Any, alpha: Any, rng: Any, out: Any) -> Tensor | None:
    if not _ready(x) or not _like(score, x) or not (out is None or _like(out, x)):
        return None
    alpha = _number_a_row(alpha, x, zero=True)
    if alpha is None or type(rng) is not Philox or rng._state is not None:
        return None
    noise, rows = rng.noise_for(x, Stream.LANGEVIN, transformed=False), x.size(0)
    target = torch.empty_like(x) if out is None else out
    if not _C.langevin_step(
        _TYPES[x.dtype],
        x.data_ptr(),
        score.data_ptr(),
        target.data_ptr(),
        alpha.data_ptr(),
        alpha.dim(),
        rows,
        x.numel() // rows,
        *noise.position(),
    ):
        rng._philox_step -= 1
        return None
    backends.last["langevin_step"] = "native"
    return target if out is None else written(out)


def dsm_loss(score: Any, noise: Any, sigma: Any, weight: Any) -> Tensor | None:
    if not _ready(score) or type(noise) is not Noise or noise._state is not None or noise._first is not None:
        return None
    sigma = _number_a_row(sigma, score)
    if sigma is None or noise._shape != score.shape or noise._device != _CPU:
        return None
    if type(weight) is not float or not math.isfinite(weight):
        return None
    rows = score.size(0)
    loss = torch.empty(rows, dtype=torch.float64 if score.dtype is torch.float64 else torch.float32)
    if not _C.dsm_loss(
        _TYPES[score.dtype],
        score.data_ptr(),
        loss.data_ptr(),
        sigma.data_ptr(),
        sigma.dim(),
        weight,
        rows,
        score.numel() // rows,
        *noise.position(),
    ):
        return None
    backends.last["dsm_loss"] = "native"
    return loss


def _ready(x: Any) -> bool:
    """Whether plain eager code asks for the native backend, with samples that it takes by address."""
    return (
        not backends.transformed()
        and type(x) is Tensor
        and backends.serves_natively()
        and not dispatch_modes()
        and _plain(x)
        and x.dtype in _TYPES
        and x.dim() > 0
        and 0 < x.numel() <= _MOST
    )


def _plain(t: Tensor) -> bool:
    return t.is_cpu and t.is_contiguous() and not t.is_neg() and not (t.requires_grad and torch.is_grad_enabled())


def _like(t: Any, x: Tensor) -> bool:
    return type(t) is Tensor and t.dtype is x.dtype and t.shape == x.shape and _plain(t)


def _number_a_row(value: Any, x: Tensor, *, zero: bool = False) -> Tensor | None:
    """A number, or one a row, as a tensor [] or [B]; what a tensor holds is looked at in C++."""
    compute = torch.float64 if x.dtype is torch.float64 else torch.float32
    if type(value) is float:
        return checks.constant(value, compute, _CPU) if 0 < value < math.inf or (zero and value == 0) else None
    if type(value) is not Tensor or value.dtype is not compute or not _plain(value):
        return None
    dim = value.dim()
    return value if dim == 0 or (dim == 1 and value.size(0) == x.size(0)) else None
