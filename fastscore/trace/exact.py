"""The exact trace: a product with every unit direction, or with every colour where the receptive field is bounded.

A network whose output at a pixel depends on inputs at most r pixels away (in max-norm; all channels) has J_ij = 0
beyond r. Let p = r + 1, and colour element (c, y, x) by (x + p y + p^2 c) mod C p^2. Two elements of one colour have
dx + p dy + p^2 dc = 0 mod C p^2. Were |dx| < p and |dy| < p, then |dx + p dy| <= (p - 1) (1 + p) < p^2, and it is a
multiple of p^2, so it is 0; then p divides dx, so dx = 0 and dy = 0; then C divides dc, |dc| < C, so dc = 0: they are
one element. So different elements of one colour are at least p > r apart and J_ij = 0 between them: with any signs z
the sum over colours of v_k^T J v_k, v_k = z [colour = k], is tr J, from C p^2 products in place of D = C H W. (For the
whole Jacobian, period 2 r + 1 would be needed; the trace needs r + 1.) A side shorter than p takes its own length as
period.

Source: Curtis, Powell & Reid 1974, "On the estimation of sparse Jacobian matrices".
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import checks
from ..ops.fill_probes import Coloring, Probes
from ..ops.fill_probes import checked as fill_probes
from ._plan import Plan
from .coloring import box
from .hutchinson import quadratic_forms
from .products import Products

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


def exact(products: Products, plan: Plan) -> tuple[Tensor, Tensor]:
    """The trace [B] and a standard error of 0."""
    x, coloring = products.x, None
    if plan.receptive_field is not None:
        coloring = separating(tuple(x.shape[1:]), plan.receptive_field)
    if coloring is None or coloring.colors == x.shape[1:].numel():
        value = unit_directions(products)
    else:
        value = colored(products, plan, coloring)
    return value, torch.zeros_like(value)


def separating(shape: tuple[int, ...], receptive_field: int) -> Coloring:
    """The colouring whose elements of one colour are more than ``receptive_field`` pixels apart."""
    channels, height, width = box(shape)
    across, down = min(receptive_field + 1, width), min(receptive_field + 1, height)
    return Coloring(channels * across * down, width, height, 1, across, across * down)


def unit_directions(products: Products) -> Tensor:
    """sum_d (J e_d)_d, [B], from D products."""
    x = products.x
    size = x.shape[1:].numel()
    value = torch.zeros(len(x), dtype=checks.compute_dtype(x), device=x.device)
    for first, count in products.chunks(size):
        directions = torch.eye(count, size, dtype=x.dtype, device=x.device).roll(first, 1)
        v = directions.reshape(count, 1, *x.shape[1:]).expand(count, *x.shape)
        product = products(v).flatten(2).to(checks.compute_dtype(x))
        value = value + (product * directions[:, None]).sum((0, 2))
    return value


def colored(products: Products, plan: Plan, coloring: Coloring) -> Tensor:
    """sum_k v_k^T J v_k, [B], checked."""
    dots = quadratic_forms(products, Probes.checked(products.x, coloring.colors, plan.rng, coloring=coloring))
    if checks.has_values(dots):
        check_receptive_field(products, plan, coloring, dots.detach())
    return dots.sum(0)


def check_receptive_field(products: Products, plan: Plan, coloring: Coloring, dots: Tensor) -> None:
    """Raise unless other signs give the same ``dots`` [m, B].

    Where elements of one colour are coupled, other signs change a colour's sum. Row b of product j tries colour
    j B + b, so that every colour is tried on some sample for as many products as one sample's trace takes. (Coupling
    that leaves each sum alone, below the tolerance or antisymmetric, does not disturb the trace either.)
    """
    x, m = products.x, coloring.colors
    compute, batch = checks.compute_dtype(x), torch.arange(x.shape[0], device=x.device)
    color = coloring.of(x.shape[1:], x.device)
    signs = Probes.checked(x, -(-m // x.shape[0]), plan.rng)
    for first, count in products.chunks(signs.num_probes):
        tried = (torch.arange(first, first + count, device=x.device)[:, None] * x.shape[0] + batch) % m  # [count, B]
        v = fill_probes(signs, first, count)
        v = v * (color == tried.reshape(*tried.shape, *[1] * color.dim()))
        terms = (v * products(v, record=False)).to(compute).flatten(2)
        again, size, before = terms.sum(2), terms.abs().sum(2), dots[tried, batch]
        bad = (again - before).abs() > TOLERANCE[x.dtype] * size
        if bool(bad.any()):
            j, row = bad.nonzero()[0].tolist()
            raise ValueError(
                f"receptive_field={plan.receptive_field} does not hold: in sample {row}, elements more than "
                f"{plan.receptive_field} apart are coupled (the sum over such a set changed with their signs from "
                f"{float(before[j, row]):.6g} to {float(again[j, row]):.6g}). Give a larger receptive_field, or None"
            )
