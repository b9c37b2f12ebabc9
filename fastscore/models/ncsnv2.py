"""NCSNv2: the unconditional network, divided by sigma, of Song and Ermon 2020 (arXiv:2006.09011)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastscore import _check
from fastscore.models.layers import InstanceNormPlus, ScoreRefineNet


def _no_norm(width: int) -> None:
    """NCSNv2's refine blocks are not normalised."""


class NCSNv2(ScoreRefineNet):
    """s(x, y) = f(x) / sigma_y, an estimate of grad log p_sigma(x) at the noise level sigma_y = sigmas[y].

    f is a dilated RefineNet that does not see the noise level (see
    :class:`fastscore.models.layers.ScoreRefineNet`): InstanceNorm++ with plain parameters in the encoder, no
    norm and max pooling in the decoder. The ``state_dict`` has the keys and shapes of the original's.

    Args:
        channels: of the images.
        image_size: height and width, kept as an attribute; other sizes of at least 4 x 4 work too.
        ngf: base width, at least 2 (128 for CIFAR-10: 29,694,083 parameters).
        sigmas: [L] noise levels, strictly decreasing, kept as the buffer ``sigmas``. None: the paper's levels
            for CIFAR-10, 232 from 50 to 0.01. ``net.to(bfloat16)`` rounds them too; autocast does not.

    Raises:
        TypeError, ValueError: a size is not an integer or too small, or sigmas are not as said.

    >>> net = NCSNv2(channels=1, image_size=8, ngf=16, sigmas=[1.0, 0.1, 0.01])
    >>> net(torch.rand(2, 1, 8, 8), torch.tensor([0, 2])).shape
    torch.Size([2, 1, 8, 8])
    """

    sigmas: Tensor

    def __init__(
        self, channels: int = 3, image_size: int = 32, ngf: int = 128,
        sigmas: Tensor | Sequence[float] | None = None,
    ) -> None:
        if sigmas is None:
            sigmas = torch.linspace(math.log(50), math.log(0.01), 232, dtype=torch.float64).exp().float()
        sigmas = _check.sigmas("sigmas", sigmas)
        super().__init__(
            channels, image_size, ngf, norm=InstanceNormPlus, refine_norm=_no_norm, pool=nn.MaxPool2d,
            num_classes=len(sigmas),
        )
        self.register_buffer("sigmas", sigmas.detach().clone())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The score at x.

        Args:
            x: [B, channels, H, W], data in [0, 1] plus noise, of the network's dtype.
            labels: [B] int64, indices into ``sigmas``, the largest noise first.

        Returns:
            [B, channels, H, W], of x's dtype.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong, or (read on a CPU only) a label is out of range.
        """
        labels = self.check_inputs(x, labels)
        sigma = self.sigmas[labels].reshape(-1, 1, 1, 1)
        return (self.features(x, labels) / sigma).to(x.dtype)
