"""Hutchinson's estimator: the mean of v^T J v over random directions v with E[v v^T] = I.

E[v^T J v] = sum_ij J_ij E[v_i v_j] = tr J. With S = (J + J^T) / 2, whose trace and quadratic forms are J's, the
variance of one probe is

- Rademacher signs: 4 sum_(i<j) S_ij^2: the diagonal costs nothing, and a diagonal Jacobian is exact at one probe;
- normals: 2 ||S||_F^2: the diagonal counts in full, so a score network's -1/sigma^2 does;
- sphere (length sqrt(D)): 2 D / (D + 2) (||S||_F^2 - tr(S)^2 / D), for (v^T S v)^2 has mean (tr(S)^2 + 2 ||S||_F^2)
  D / (D + 2): a multiple of the identity is exact.

Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines"
(signs); Girard 1989 (normals).
"""

from __future__ import annotations

from torch import Tensor, cat

from ..ops.fill_probes import Probes
from ..ops.fill_probes import checked as fill_probes
from ..ops.probe_dot import checked as probe_dot
from ._plan import Plan, mean_and_error
from .products import Products


def hutchinson(products: Products, plan: Plan) -> tuple[Tensor, Tensor]:
    """Value and standard error [B]: every probe is an estimate of its own."""
    probes = Probes.checked(products.x, plan.num_probes, plan.rng, distribution=plan.method)
    return mean_and_error(quadratic_forms(products, probes))


def quadratic_forms(products: Products, probes: Probes) -> Tensor:
    """v_k^T J v_k for every probe of a handle, [K, B]; directions live only as long as their chunk."""
    return cat(
        [
            probe_dot(products(fill_probes(probes, first, count)), probes, first)
            for first, count in products.chunks(probes.num_probes)
        ]
    )
