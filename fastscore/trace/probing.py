"""Probing: Rademacher probes split by colour, so that near elements, which a score couples most, do not disturb.

With m colours, v_k = z where the element's colour is k, else 0, one z of signs per block: a block's estimate is the SUM

    sum_k v_k^T J v_k = sum_ij [colour i = colour j] z_i z_j J_ij = tr J + sum_(i != j of one colour) z_i z_j J_ij.

It is unbiased, costs m products, and its variance is 4 times the sum of S_ij^2 over the pairs i < j of one colour,
S = (J + J^T) / 2: where S falls off with distance and each colour is spread out (:mod:`~fastscore.trace.coloring`),
that is less than the 1/m of all pairs that m Rademacher probes leave. The error is judged from ``blocks``
independent z.
One colour is plain Rademacher.

Source: Bekas, Kokiopoulou & Saad 2007, "An estimator for the diagonal of a matrix"; Tang & Saad 2012.
"""

from __future__ import annotations

from torch import Tensor

from ..ops import Probes
from ._plan import Plan, mean_and_error
from .hutchinson import quadratic_forms
from .products import Products


def probing(products: Products, plan: Plan) -> tuple[Tensor, Tensor]:
    """Value and standard error [B] from ``blocks`` estimates of ``num_probes`` / ``blocks`` colours each."""
    probes = Probes.checked(products.x, plan.num_probes, plan.rng, coloring=plan.coloring)
    dots = quadratic_forms(products, probes)
    return mean_and_error(dots.unflatten(0, (plan.blocks, -1)).sum(1))
