"""The exact trace: one product with every unit direction e_d, or, for a bounded receptive field, with every colour."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import _check
from ._plan import Plan
from .products import Products


def exact(products: Products, plan: Plan) -> tuple[Tensor, Tensor]:
    """The trace [B] and a standard error of 0."""
    value = unit_directions(products)
    return value, torch.zeros_like(value)


def unit_directions(products: Products) -> Tensor:
    """sum_d (J e_d)_d, [B], from D products."""
    x = products.x
    size, value = x.shape[1:].numel(), None
    for first, count in products.chunks(size):
        rows = torch.arange(first, first + count, device=x.device)
        directions = torch.zeros(count, size, dtype=x.dtype, device=x.device)
        directions[torch.arange(count, device=x.device), rows] = 1
        v = directions.reshape(count, 1, *x.shape[1:]).expand(count, *x.shape)
        product = products(v).flatten(2).to(_check.compute_dtype(x))
        part = (product * directions[:, None]).sum((0, 2))
        value = part if value is None else value + part
    return value
