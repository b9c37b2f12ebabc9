"""Hutch++: the trace over a sketched range exactly, and Hutchinson's estimate of what is left.

Of q products, k = q div 3 go into Y = M S for normal S [D, k], and k into J Q, Q an orthonormal basis of Y's range.
With P = I - Q Q^T, for any square J, symmetric or not (P P = P and the trace is cyclic),

    tr J = tr(Q^T J Q) + tr(P J P),

and the second term is the mean of v^T J v over the other q - 2 k vectors v = sqrt(D - k) P g / |P g|, g normal:
uniform on the sphere of P's range, where E[v v^T] = P. (The paper takes P g of signs g. A uniform direction has
v^T v = D - k without error, so that a multiple of the identity beside a low-rank matrix costs nothing.) Of rank at most
k, M is caught whole: exact.

M = J, or with a ``shift`` s, M = I + s J. The estimate of tr M, undone, (tr(Q^T M Q) + v^T M v - D) / s, is tr(Q^T J Q)
+ v^T J v, the identity's part being k + (D - k): so the shift chooses the range and nothing else. A score's Jacobian at
noise sigma is (Cov / sigma^2 - I) / sigma^2, Cov the posterior's covariance: M has low rank at s = sigma^2, J does not.

The directions are constants to autograd: the gradient is then the same estimator of the gradient's trace, unbiased.

Source: Meyer, Musco, Musco & Woodruff 2021, "Hutch++: Optimal stochastic trace estimation".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._plan import Plan, mean_and_error
from .columns import normals, shifted, times
from .products import Products


def hutchpp(products: Products, plan: Plan) -> tuple[Tensor, Tensor]:
    """Value and standard error [B] from ``blocks`` estimates of ``num_probes`` / ``blocks`` products each."""
    x, blocks = products.x, plan.blocks
    size, q = x.shape[1:].numel(), plan.num_probes // plan.blocks
    k = q // 3
    omega = normals(x, blocks, k, plan)
    basis = torch.linalg.qr(shifted(omega, times(products, omega, record=False), plan.shift)).Q
    g = normals(x, blocks, q - 2 * k, plan)
    g = g - basis @ (basis.mT @ g)
    v = g * ((size - k) ** 0.5 / g.norm(dim=2, keepdim=True))
    within = (basis * times(products, basis)).sum((2, 3))
    return mean_and_error(within + (v * times(products, v)).sum(2).mean(2))
