"""EDM's preconditioning around any network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .._core import checks
from .._core.registration import per_row
from ._inputs import check_sigma, is_sigma, sigma_of


class Preconditioned(nn.Module):
    """The score of a network F whose inputs and targets have unit variance at every noise level::

        D(x, sigma) = c_skip x + c_out F(c_in x, c_noise),     tau = data_std^2 + sigma^2
        c_skip = data_std^2 / tau    c_out = sigma data_std / sqrt(tau)    c_in = 1 / sqrt(tau)    c_noise = log(sigma) / 4
        s(x, sigma) = (D - x) / sigma^2 = -x / tau + data_std / (sigma sqrt(tau)) F

    Args:
        network: F(x, c), x [B, ...] and c [B], to [B, ...]; keywords of a call are handed to it.
        data_std: standard deviation of the data. It need not be exact.
        sigmas: [L] noise levels, strictly decreasing, for a network that is called with labels too.

    Raises:
        TypeError, ValueError: an argument is not as said.

    Source: Karras et al. 2022, "Elucidating the design space of diffusion-based generative models", table 1.

    >>> import torch
    >>> net = Preconditioned(lambda x, c: torch.zeros_like(x))  # the score of N(0, 1/4 + sigma^2)
    >>> net(torch.ones(1, 2), torch.tensor([0.5]))
    tensor([[-2., -2.]])
    """

    sigmas: Tensor | None

    def __init__(self, network: Any, *, data_std: float = 0.5, sigmas: Tensor | Sequence[float] | None = None) -> None:
        super().__init__()
        if not callable(network):
            raise TypeError(
                f"network must be a function of (x, c), [B, ...] -> [B, ...], got {checks.describe(network)}"
            )
        self.network, self.data_std = network, checks.positive("data_std", data_std)
        self.register_buffer("sigmas", None if sigmas is None else checks.sigmas("sigmas", sigmas).detach().clone())

    def forward(self, x: Tensor, labels: Tensor, **keywords: Any) -> Tensor:
        """The score at x, [B, ...]; ``labels`` are sigma, floating [B], or with ``sigmas`` int64 [B], indices into them."""
        checks.floating("x", x)
        if self.sigmas is None:
            if not is_sigma(labels):
                raise ValueError(
                    "labels must be floating, the noise levels themselves: this network was built without sigmas=..., "
                    f"got {checks.describe(labels)}"
                )
            sigma = check_sigma(labels, x)
        else:
            sigma = sigma_of(labels, self.sigmas, x)
        compute = checks.compute_dtype(x)
        sigma = sigma.to(compute)
        tau = self.data_std**2 + sigma.square()
        scaled = (x / per_row(tau.sqrt(), x)).to(x.dtype)
        out = self.network(scaled, (sigma.log() / 4).to(x.dtype), **keywords)
        checks.like("the output of network", out, "x", x)
        factor = self.data_std / (sigma * tau.sqrt())
        return (per_row(factor, x) * out.to(compute) - x / per_row(tau, x)).to(x.dtype)
