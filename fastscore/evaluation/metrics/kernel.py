"""The kernel distance of two sets of feature vectors: on Inception's features, the KID."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._core import checks
from ...rng import Philox
from ._rows import check_rows


class KernelDistance(NamedTuple):
    """The mean over the subsets, and their population standard deviation."""

    mean: float
    std: float


def kernel_distance(
    real: Tensor, fake: Tensor, *, subsets: int = 100, subset_size: int = 1000, rng: Philox | None = None
) -> KernelDistance:
    """The squared maximum mean discrepancy of two sets, by the kernel k(x, y) = (x . y / D + 1)^3, without bias.

    Of m vectors x of the one set and m vectors y of the other it is

        sum_(i != j) [k(x_i, x_j) + k(y_i, y_j)] / (m (m - 1)) - 2 sum_(i, j) k(x_i, y_j) / m^2,

    whose expectation is 0 where both sets are of one distribution, whatever m is: unlike a Frechet distance it is not
    too large for few samples, and it may be below 0. It is taken on ``subsets`` of m = ``subset_size`` vectors, drawn
    from each set without repetition. On Inception's 2048 features it is the KID.

    Args:
        real: features [N, D], any floating dtype.
        fake: features [M, D], on the same device.
        subsets: how many; their spread says how sure the mean is.
        subset_size: m, from 2 to the smaller of N and M.
        rng: which vectors; ``None``: ``Philox(0)``. Each subset takes two steps.

    Returns:
        ``mean`` and population standard deviation ``std`` over the subsets, as torch-fidelity's. In float64; a subset
        takes 6 m^2 D operations and 3 m^2 numbers: all by default, at D = 2048, some 1.2e12 and 24 MB.

    Raises:
        TypeError, ValueError: not floating, not [N, D] of one width, a number out of its range, not finite.

    Source: Binkowski et al., "Demystifying MMD GANs", 2018 (arXiv:1801.01401).

    Example:
        >>> real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
        >>> kernel_distance(real, fake, subset_size=2)
        KernelDistance(mean=297.5, std=0.0)
    """
    subsets = checks.integer("subsets", subsets, low=1)
    real, fake = check_rows(2, real=real, fake=fake)
    size = checks.integer("subset_size", subset_size, low=2, high=min(len(real), len(fake)))
    rng = Philox(0) if rng is None else rng
    found = []
    for _ in range(subsets):
        x, y = (z[rng.permutation(len(z), device=z.device)[:size]].double() for z in (real, fake))
        within = sum(kernel.sum() - kernel.diagonal().sum() for kernel in (_kernel(x, x), _kernel(y, y)))
        found.append(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())
    values = torch.stack(found)
    return KernelDistance(float(values.mean()), float(values.std(correction=0)))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """[m, m]: (x_i . y_j / D + 1)^3."""
    return (x @ y.T / x.shape[1] + 1).pow_(3)
