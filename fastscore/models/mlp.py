"""A small score network for points in a few dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from ._inputs import check_dtype, check_num_classes, classes_of, is_sigma, sigma_of
from .layers import class_table

_FREQUENCIES = 8


class ScoreMLP(nn.Module):
    """s(x, y), an estimate of grad log p_sigma(x) for x in R^D at the noise level sigma = sigmas[y].

    With ``sigmas``, the network F has inputs and targets of unit variance at EVERY noise level, however wide
    their range (the preconditioning of Karras et al. 2022, arXiv:2206.00364, table 1, for the score)::

        tau = data_std^2 + sigma^2
        s(x, y) = -x / tau + data_std / (sigma sqrt(tau)) F(x / sqrt(tau), c_y)

    The first term is the score of N(0, tau I), so F learns only how the data differ from a Gaussian; for
    small sigma the second is F / sigma. c_y are sines and cosines of log sigma. Not ``preconditioned`` it gives F(x, c_y)
    itself, for :func:`fastscore.as_score` of whatever F is to predict. Without ``sigmas``, s(x, y) = F(x, c_y), and c_y is
    a learned vector for each level, as in NCSN.

    F: h = Linear(x); ``depth`` times h = Linear(SiLU(h + Linear(c_y))); Linear(SiLU(h)). SiLU is smooth, so
    the Jacobian's trace and its gradient exist everywhere. With ``num_classes`` each class, and "no label", has a learned
    vector that is added beside each Linear(c_y); they begin at 0.

    Args:
        dim: D, of the points.
        hidden: width.
        depth: number of hidden layers, at least 1.
        num_levels: number of noise levels L. None: the number of ``sigmas``, or 10 without them.
        sigmas: [L] noise levels, strictly decreasing, kept as the buffer ``sigmas``.
        data_std: standard deviation of the data, used with ``sigmas`` only. It need not be exact.
        preconditioned: False: give F, as it is; it needs ``sigmas``.
        num_classes: K, to be conditioned on classes. None: no classes.

    Raises:
        TypeError, ValueError: an argument is not as said.

    >>> net = ScoreMLP(dim=2, hidden=32, sigmas=[1.0, 0.1])
    >>> net(torch.zeros(3, 2), torch.tensor([0, 1, 1])).shape
    torch.Size([3, 2])
    """

    sigmas: Tensor | None

    def __init__(
        self,
        dim: int = 2,
        hidden: int = 128,
        depth: int = 3,
        num_levels: int | None = None,
        sigmas: Tensor | Sequence[float] | None = None,
        data_std: float = 1.0,
        preconditioned: bool = True,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = checks.integer("dim", dim, low=1)
        hidden = checks.integer("hidden", hidden, low=1)
        depth = checks.integer("depth", depth, low=1)
        self.data_std = checks.positive("data_std", data_std)
        self.preconditioned = preconditioned
        if not preconditioned and sigmas is None:
            raise ValueError(
                "preconditioned must be True for a network without sigmas, which has no levels to scale by"
            )
        self.num_levels = 10 if num_levels is None else checks.integer("num_levels", num_levels, low=1)
        if sigmas is not None:
            sigmas = checks.sigmas("sigmas", sigmas).detach().clone()
            if num_levels not in (None, len(sigmas)):
                raise ValueError(f"num_levels must be the number of sigmas, {len(sigmas)}, or None, got {num_levels}")
            self.num_levels = len(sigmas)
            width = 2 * _FREQUENCIES
        else:
            width = hidden
            self.embed = nn.Embedding(self.num_levels, width)
        self.register_buffer("sigmas", sigmas)
        self.begin = nn.Linear(dim, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.conditions = nn.ModuleList(nn.Linear(width, hidden, bias=False) for _ in range(depth))
        self.end = nn.Linear(hidden, dim)
        self.num_classes = check_num_classes(num_classes)
        self.classes = class_table(self.num_classes, depth * hidden)

    def forward(self, x: Tensor, labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The score at x, or where not ``preconditioned`` F(x, c).

        Args:
            x: [B, D], of the network's dtype.
            labels: [B] int64, indices into the noise levels, the largest noise first; or, where the network has
                ``sigmas``, sigma itself, floating [B], any noise level.
            class_labels: [B] int64 from 0 to ``num_classes`` - 1, or ``num_classes`` for no label; None: none has one.

        Returns:
            [B, D], of x's dtype.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong, or (read on a CPU only) a label is out of range or a sigma
                not positive; or sigma was given to a network without ``sigmas``.
        """
        checks.floating("x", x)
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}), got {checks.describe(x)}")
        check_dtype(x, self.begin.weight)
        classes = classes_of(class_labels, x, self.num_classes)
        if self.sigmas is None:
            if is_sigma(labels):
                raise ValueError(
                    "labels must be int64, indices into the noise levels: this network embeds the index; "
                    f"build it with sigmas=... to call it with sigma, got {checks.describe(labels)}"
                )
            condition = self.embed(checks.labels("labels", labels, x, self.num_levels))
            return self._network(x, condition, classes).to(x.dtype)
        sigma = sigma_of(labels, self.sigmas, x).reshape(-1, 1)
        if not self.preconditioned:
            return self._network(x, _fourier(sigma.log()).to(x.dtype), classes).to(x.dtype)
        tau = self.data_std**2 + sigma**2
        out = self._network((x / tau.sqrt()).to(x.dtype), _fourier(sigma.log()).to(x.dtype), classes)
        return (self.data_std / (sigma * tau.sqrt()) * out - x / tau).to(x.dtype)

    def _network(self, x: Tensor, condition: Tensor, classes: Tensor | None) -> Tensor:
        """F(x, c): [B, D] for x [B, D], c [B, width] and the classes [B]."""
        h = self.begin(x)
        added = None
        if self.classes is not None and classes is not None:
            added = F.embedding(classes, self.classes).to(x.dtype).chunk(len(self.layers), dim=1)
        for i, (layer, project) in enumerate(zip(self.layers, self.conditions)):
            told = h + project(condition)
            h = layer(F.silu(told if added is None else told + added[i]))
        return self.end(F.silu(h))


def _fourier(t: Tensor) -> Tensor:
    """sin(w t), cos(w t) for w geometric from 1/8 to 4: [B, 2 * _FREQUENCIES] for t = log sigma, [B, 1].

    The slowest wave turns once in a range of 10^21, so no two levels look alike; the fastest in one of 5.
    """
    steps = torch.linspace(math.log(1 / 8), math.log(4), _FREQUENCIES, dtype=t.dtype, device=t.device)
    angle = t * steps.exp()
    return torch.cat([angle.sin(), angle.cos()], dim=1)
