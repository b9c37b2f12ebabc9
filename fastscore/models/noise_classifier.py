"""A small classifier of noisy samples, for guidance by its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.registration import per_row
from ._inputs import check_dtype, check_sigma

_SMALLEST, _SIDE = 4, 2  # an image is halved while its sides are longer; what is left of it is 2 x 2


class NoiseClassifier(nn.Module):
    """Logits of p(y | x, sigma), of the class of a clean sample of which x = x_0 + sigma z is seen.

    The network sees (x - data_mean) / sqrt(data_std^2 + sigma^2), whose numbers are of about one size at every noise level, and
    log sigma, of which a vector is added in each layer. Points: an MLP. Images: 3x3 convolutions, halved until a side has at most 4
    pixels, with as many channels more. SiLU is smooth, so log p(y | x) has a gradient everywhere.

    Args:
        shape: of a sample, (D,) or (C, H, W).
        num_classes: K, at least 2.
        width: of the layers; of images, of the first.
        data_mean, data_std: of the numbers of the data, over all samples. They need not be exact.

    Raises:
        TypeError, ValueError: an argument is not as said.

    >>> import torch
    >>> net = NoiseClassifier((2,), num_classes=3, width=16)
    >>> net(torch.zeros(4, 2), torch.ones(4)).shape
    torch.Size([4, 3])
    """

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        width: int = 32,
        data_mean: float = 0.0,
        data_std: float = 1.0,
    ) -> None:
        super().__init__()
        self.shape = tuple(checks.integer("shape", size, low=1) for size in shape)
        if len(self.shape) not in (1, 3):
            raise ValueError(f"shape must be (D,) of points or (C, H, W) of images, got {self.shape}")
        self.num_classes = checks.integer("num_classes", num_classes, low=2)
        self.width = width = checks.integer("width", width, low=1)
        self.data_mean, self.data_std = checks.number("data_mean", data_mean), checks.positive("data_std", data_std)
        self.images = len(self.shape) == 3
        if self.images:
            widths, side = [width, 2 * width], max(self.shape[1:])
            while side > _SMALLEST:
                side = -(-side // 2)
                widths.append(min(2 * widths[-1], 8 * width))
            kinds = [
                nn.Conv2d(a, b, 3, stride=1 if i < 2 else 2, padding=1)
                for i, (a, b) in enumerate(zip([self.shape[0], *widths], widths))
            ]
            self.layers = nn.ModuleList(kinds)
            self.end = nn.Linear(widths[-1] * _SIDE**2, num_classes)
        else:
            widths = [width] * 3
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip([self.shape[0], *widths], widths))
            self.end = nn.Linear(width, num_classes)
        self.embed = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.conditions = nn.ModuleList(nn.Linear(width, w) for w in widths)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Logits [B, K], of x's dtype.

        Args:
            x: [B, ...] of ``shape``, of the network's dtype.
            sigma: [B], floating: the noise of each sample.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong, or (read on a CPU only) a sigma is not positive.
        """
        checks.floating("x", x)
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {checks.describe(x)}")
        check_dtype(x, self.end.weight)
        sigma = check_sigma(sigma, x).to(checks.compute_dtype(x))  # whose square float16 may not hold
        h = ((x - self.data_mean) / per_row((self.data_std**2 + sigma.square()).sqrt(), x)).to(x.dtype)
        told = self.embed(sigma.log().to(x.dtype)[:, None] / 4)
        for layer, condition in zip(self.layers, self.conditions):
            h = layer(h)
            h = F.silu(h + condition(told).reshape(*h.shape[:2], *([1] * (h.dim() - 2))))
        if self.images:
            h = F.adaptive_avg_pool2d(h, _SIDE)
        return self.end(h.flatten(1))
