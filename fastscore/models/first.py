"""The layer that reads the image, which autocast must not round."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FirstConv2d(nn.Conv2d):
    """A convolution of the noisy image itself: under autocast, too, in the weights' own precision, and rounded after it.

    At the smallest noise level an image in [0, 1] has noise of 0.01, and bfloat16 rounds it by up to 0.002: what is
    rounded away here is noise that the network is to find. (Digits, trained for 600 iterations: the mean-square
    error of the score by bfloat16 is a third at the smallest level, with all else in bfloat16. The last convolution in
    float32 changed nothing.)
    """

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(x)
        with torch.autocast(device, enabled=False):
            return super().forward(x.to(self.weight.dtype)).to(torch.get_autocast_dtype(device))
