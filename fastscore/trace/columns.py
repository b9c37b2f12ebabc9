"""Probes as the columns of matrices, for the methods that need orthogonal bases."""

from __future__ import annotations

from torch import Tensor

from .._core import checks
from ..ops.fill_probes import Probes
from ..ops.fill_probes import checked as fill_probes
from ._plan import Plan
from .products import Products


def columns(v: Tensor, blocks: int) -> Tensor:
    """[blocks k, B, ...] as [blocks, B, D, k], in the dtype of computation."""
    return v.flatten(2).to(checks.compute_dtype(v)).unflatten(0, (blocks, -1)).permute(0, 2, 3, 1)


def normals(x: Tensor, blocks: int, count: int, plan: Plan) -> Tensor:
    """Normal test vectors [blocks, B, D, count]."""
    return columns(
        fill_probes(Probes.checked(x, blocks * count, plan.rng, distribution="gaussian"), 0, blocks * count), blocks
    )


def times(products: Products, v: Tensor, *, record: bool = True) -> Tensor:
    """J v for the columns of [blocks, B, D, k], of that form."""
    x = products.x
    rows = v.permute(0, 3, 1, 2).reshape(v.shape[0] * v.shape[3], *x.shape).to(x.dtype)
    return columns(products(rows, record=record), v.shape[0])


def shifted(omega: Tensor, product: Tensor, shift: Tensor | None) -> Tensor:
    """(I + shift J) omega from J omega; J omega where there is no shift. Not recorded by autograd."""
    omega, product = omega.detach(), product.detach()
    if shift is None:
        return product
    return omega + shift.reshape(-1, 1, 1) * product
