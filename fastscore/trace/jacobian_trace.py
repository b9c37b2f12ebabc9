"""jacobian_trace: tr(df/dx) for every sample of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _check
from ..rng import Philox, as_philox
from ._plan import Plan
from .coloring import lattice
from .exact import exact
from .hutchinson import hutchinson
from .probing import probing
from .products import Products

METHODS = {"rademacher": hutchinson, "gaussian": hutchinson, "sphere": hutchinson, "probing": probing, "exact": exact}


class Trace(NamedTuple):
    """value [B], stderr [B], output f(x) [B, ...], evaluations of f a sample."""

    value: Tensor
    stderr: Tensor
    output: Tensor
    evaluations: int


def jacobian_trace(f: Callable[[Tensor], Tensor], x: Tensor, *, method: str | None = None, num_probes: int = 8,
                   blocks: int = 2, coloring: str = "lattice", mode: str = "jvp",
                   shift: float | Tensor | None = None, chunk_size: int | None = None, rng: Philox | None = None,
                   create_graph: bool = False, receptive_field: int | None = None,
                   fd_step: float | Tensor | None = None) -> Trace:
    """tr(df/dx)(x_b) for every sample b."""
    _check.floating("x", x)
    method = method or ("probing" if x.dim() in (3, 4) else "rademacher")
    chosen = lattice(tuple(x.shape[1:]), num_probes // blocks) if method == "probing" else None
    plan = Plan(method, num_probes, blocks, chosen, None, receptive_field, as_philox(rng))
    with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
        products = Products(f, x, mode=mode, chunk_size=chunk_size, fd_step=fd_step)
        value, stderr = METHODS[method](products, plan)
    return Trace(value, stderr, products.output, products.evaluations)
