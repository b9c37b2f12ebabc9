"""NCSN: the noise-conditional score network of Song and Ermon 2019 (arXiv:1907.05600)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from fastscore import _check
from fastscore.models.layers import ConditionalInstanceNormPlus, ScoreRefineNet


class NCSN(ScoreRefineNet):
    """s(x, y), an estimate of grad log p_sigma(x) at the noise level sigma = sigmas[y].

    A dilated RefineNet whose every norm is an InstanceNorm++ conditioned on the level's index y (see
    :class:`fastscore.models.layers.ScoreRefineNet`); average pooling in the decoder. The output is not
    divided by sigma. The ``state_dict`` has the keys and shapes of the original checkpoints.

    Args:
        channels: of the images.
        image_size: height and width, kept as an attribute; other sizes of at least 4 x 4 work too.
        ngf: base width, at least 2 (128 for CIFAR-10: 30,117,635 parameters; 64 for MNIST).
        num_classes: number of noise levels.

    Raises:
        TypeError, ValueError: an argument is not an integer, or too small.

    >>> import torch
    >>> net = NCSN(channels=1, image_size=8, ngf=16, num_classes=10)
    >>> net(torch.rand(4, 1, 8, 8), torch.tensor([0, 3, 3, 9])).shape
    torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self, channels: int = 3, image_size: int = 32, ngf: int = 128, num_classes: int = 10
    ) -> None:
        _check.integer("num_classes", num_classes, low=1)
        norm = partial(ConditionalInstanceNormPlus, num_classes=num_classes)
        super().__init__(
            channels, image_size, ngf, norm=norm, refine_norm=norm, pool=nn.AvgPool2d, num_classes=num_classes
        )

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The score at x.

        Args:
            x: [B, channels, H, W], data in [0, 1] plus noise, of the network's dtype.
            labels: [B] int64, indices into the noise levels, the largest noise first.

        Returns:
            [B, channels, H, W], of x's dtype.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong, or (read on a CPU only) a label is out of range.
        """
        labels = self.check_inputs(x, labels)
        return self.features(x, labels).to(x.dtype)
