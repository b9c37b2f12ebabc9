"""XTrace: Hutch++ with every product in use: each test vector in turn is left out of the range and judges the rest.

Of q products, n = q / 2 go into Y = M Omega, Omega [D, n] normal, and n into J Q, with Y = Q R. Let Q_i be a basis of
the range of Y without column i, and P_i = I - Q_i Q_i^T. Each i gives an unbiased estimate,

    t_i = tr(Q_i^T J Q_i) + v_i^T J v_i,   v_i = sqrt(D - n + 1) P_i omega_i / |P_i omega_i|,

for omega_i, independent of Q_i, has a uniform direction in P_i's range, of dimension D - n + 1; the estimate is their
mean. No Q_i is made: with s_i the unit vector orthogonal to every column of R but i, which is column i of R^-T,
normalised, Q_i Q_i^T = Q (I - s_i s_i^T) Q^T. So with W = Q^T Omega, u_i = (I - s_i s_i^T) W_i, T = Q^T J Q:

    tr(Q_i^T J Q_i) = tr T - s_i^T T s_i,   P_i omega_i = omega_i - Q u_i,   J P_i omega_i = J omega_i - (J Q) u_i.

Nothing asks for a symmetric J. Of rank r, M is exact at q >= 2 r + 2: all of its range is in every Q_i.

Where Y has not full rank (M = 0, or r < n) R is singular. Diagonal elements below a tolerance are then raised to it,
which makes s_i orthogonal to the range of Y to that tolerance; any such choice gives M's whole range to every Q_i.

M = J, or I + shift J, as in :mod:`~fastscore.trace.hutchpp`: the shift chooses the range. Directions are constants to
autograd, as there.

Source: Epperly, Tropp & Webber 2024, "XTrace: Making the most of every sample in stochastic trace estimation".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._plan import Plan, mean_and_error
from .columns import normals, shifted, times
from .products import Products


def xtrace(products: Products, plan: Plan) -> tuple[Tensor, Tensor]:
    """Value and standard error [B] from ``blocks`` estimates of ``num_probes`` / ``blocks`` products each."""
    x = products.x
    size, n = x.shape[1:].numel(), plan.num_probes // plan.blocks // 2
    omega = normals(x, plan.blocks, n, plan)
    y = times(products, omega)
    basis, r = torch.linalg.qr(shifted(omega, y, plan.shift))
    s = leave_one_out(r)
    z = times(products, basis)
    t = basis.mT @ z
    within = t.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - (s * (t @ s)).sum(-2)
    w = basis.mT @ omega
    u = w - s * (s * w).sum(-2, keepdim=True)
    left = omega - basis @ u
    judged = (left * (y - z @ u)).sum(-2) * ((size - n + 1) / left.square().sum(-2))
    return mean_and_error((within + judged).mean(-1))


def leave_one_out(r: Tensor) -> Tensor:
    """S [..., n, n] whose unit column i is orthogonal to every column but i of upper triangular ``r``."""
    eps = torch.finfo(r.dtype).eps
    r = r.double()  # small; a product of inverse tolerances would leave float32's range
    diagonal = r.diagonal(dim1=-2, dim2=-1)
    largest = r.abs().amax((-2, -1))[..., None]
    least = torch.where(largest > 0, 100 * eps * largest, 1.0)
    raised = torch.where(diagonal.abs() < least, least, diagonal)
    r = r + torch.diag_embed(raised - diagonal)
    identity = torch.eye(r.shape[-1], dtype=r.dtype, device=r.device).expand_as(r)
    s = torch.linalg.solve_triangular(r.mT, identity, upper=False)
    return (s / s.norm(dim=-2, keepdim=True)).to(torch.float64 if eps < 1e-10 else torch.float32)
