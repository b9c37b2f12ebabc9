"""NCSNv2: the unconditional networks, divided by sigma, of Song and Ermon 2020 (arXiv:2006.09011)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from ..schedules import geometric_sigmas
from ._inputs import check_num_classes, sigma_of
from .layers import InstanceNormPlus, max_pool
from .refinenet import DEEPER, DEEPEST, STANDARD, Layout, ScoreRefineNet


def _no_norm(width: int) -> None:
    """NCSNv2's refine blocks are not normalised."""


class NCSNv2(ScoreRefineNet):
    """s(x, y) = f(x) / sigma_y, an estimate of grad log p_sigma(x) at the noise level sigma_y = sigmas[y].

    f is a dilated RefineNet that does not see the noise level (see
    :class:`fastscore.models.refinenet.ScoreRefineNet`): InstanceNorm++ with plain parameters in the encoder, no
    norm and max pooling in the decoder. The ``state_dict`` has the keys and shapes of the original's.

    Args:
        channels: of the images.
        image_size: height and width, kept as an attribute; other sizes of at least 4 x 4 work too. None: the paper's
            (32).
        ngf: base width, at least 2 (128 for CIFAR-10: 29,694,083 parameters).
        sigmas: [L] noise levels, strictly decreasing, kept as the buffer ``sigmas``. None: the paper's levels
            (for CIFAR-10, 232 from 50 to 0.01). ``net.to(bfloat16)`` rounds them too; autocast does not.
        num_classes: K, to be conditioned on classes: in every norm each class, and "no label", has numbers that are added to
            gamma, alpha and beta. They begin at 0. None: no classes.
        options: ``nonlinearity``, ``rescaled``, ``logit_transform``: what the originals' configurations call so; see
            :class:`fastscore.models.refinenet.ScoreRefineNet`.

    Raises:
        TypeError, ValueError: an argument is not as said; the message names it.

    >>> net = NCSNv2(channels=1, image_size=8, ngf=16, sigmas=[1.0, 0.1, 0.01])
    >>> net(torch.rand(2, 1, 8, 8), torch.tensor([0, 2])).shape
    torch.Size([2, 1, 8, 8])
    """

    _layout: Layout = STANDARD
    _published = (32, 50.0, 232)  # image size, largest noise level, number of levels
    sigmas: Tensor

    def __init__(
        self,
        channels: int = 3,
        image_size: int | None = None,
        ngf: int = 128,
        sigmas: Tensor | Sequence[float] | None = None,
        *,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        size, largest, count = self._published
        if sigmas is None:
            sigmas = geometric_sigmas(largest, 0.01, count).to(torch.get_default_device())
        sigmas, num_classes = checks.sigmas("sigmas", sigmas), check_num_classes(num_classes)
        super().__init__(
            self._layout,
            channels,
            size if image_size is None else image_size,
            ngf,
            norm=partial(InstanceNormPlus, num_classes=num_classes),
            refine_norm=_no_norm,
            pool=max_pool,
            num_levels=len(sigmas),
            num_classes=num_classes,
            **options,
        )
        self.register_buffer("sigmas", sigmas.detach().clone())

    def forward(self, x: Tensor, labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The score at x.

        Args:
            x: [B, channels, H, W], data in [0, 1] plus noise, of the network's dtype.
            labels: [B] int64, indices into ``sigmas``, the largest noise first; or sigma, floating [B], any noise
                level: f(x) / sigma.
            class_labels: [B] int64 from 0 to ``num_classes`` - 1, or ``num_classes`` for no label; None: none has one.

        Returns:
            [B, channels, H, W], of x's dtype.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong, or (read on a CPU only) a label is out of range or a sigma
                not positive.
        """
        self.check_image(x)
        sigma = sigma_of(labels, self.sigmas, x).reshape(-1, 1, 1, 1)
        return (self.features(x, self.conditions(x, None, class_labels)) / sigma).to(x.dtype)


class NCSNv2Deeper(NCSNv2):
    """:class:`NCSNv2` with two halvings and five levels, for images of 64 and 128 (LSUN; 83,445,379 parameters).

    Arguments, what is returned and what is raised are those of :class:`NCSNv2`, but: sizes of at least 8 x 8; by
    default ``image_size`` 64 and the paper's levels for LSUN churches, 788 from 140 to 0.01.
    """

    _layout = DEEPER
    _published = (64, 140.0, 788)


class NCSNv2Deepest(NCSNv2):
    """:class:`NCSNv2` with three halvings and six levels, for images of 256 (FFHQ; 94,132,611 parameters).

    Arguments, what is returned and what is raised are those of :class:`NCSNv2`, but: sizes of at least 16 x 16; by
    default ``image_size`` 256 and the paper's levels for FFHQ, 2311 from 348 to 0.01.
    """

    _layout = DEEPEST
    _published = (256, 348.0, 2311)
