"""The network under NCSN, NCSNv2 and their deeper kinds: a dilated residual encoder and a RefineNet decoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from .._core import checks
from ._inputs import check_dtype, classes_of
from ._memory import as_before, channels_last, faster
from .first import FirstConv2d
from .layers import ACTIVATIONS, Conditions, Labels, Norm, Pool, RefineBlock, ResidualBlock, activate, conv3x3


@dataclass(frozen=True)
class Layout:
    """Which blocks a network has.

    Attributes:
        encoder: (name, width / ngf, dilation) of each level, two residual blocks each. Dilation 0: width and size
            stay; 1: the size is halved; more: the size stays and the convolutions are dilated.
        decoder: names of the refine blocks, the first for the encoder's last level.
    """

    encoder: tuple[tuple[str, int, int], ...]
    decoder: tuple[str, ...]

    @property
    def smallest(self) -> int:
        """The smallest side: below, it is halved to 1, where an instance norm has nothing left to normalise."""
        return 2 ** (1 + sum(dilation == 1 for _, _, dilation in self.encoder))


STANDARD = Layout(
    (("res1", 1, 0), ("res2", 2, 1), ("res3", 2, 2), ("res4", 2, 4)),
    ("refine1", "refine2", "refine3", "refine4"),
)
DEEPER = Layout(
    (("res1", 1, 0), ("res2", 2, 1), ("res3", 2, 1), ("res4", 4, 2), ("res5", 4, 4)),
    ("refine1", "refine2", "refine3", "refine4", "refine5"),
)
DEEPEST = Layout(
    (("res1", 1, 0), ("res2", 2, 1), ("res3", 2, 1), ("res31", 2, 1), ("res4", 4, 2), ("res5", 4, 4)),
    ("refine1", "refine2", "refine31", "refine3", "refine4", "refine5"),
)


class ScoreRefineNet(nn.Module):
    """From images in [0, 1] to a tensor of the same shape.

    Encoder: 2x - 1, a 3x3 convolution to ngf, then the levels of the layout, two residual blocks each. Decoder: a
    refine block for each level, from the last back to the first, each at the size of its level and as wide as the
    level it leads to; then norm, activation and a 3x3 convolution to the image's channels.

    Args:
        layout: the blocks.
        channels, image_size: of the images. The size is kept for samplers; any from ``layout.smallest`` on is accepted.
        ngf: base width, at least 2.
        norm, refine_norm: make the norms of the encoder and of the decoder.
        pool: the pooling of the chained residual pooling, 5x5 at stride 1.
        num_levels: number of noise levels.
        nonlinearity: ``"elu"``, ``"relu"``, ``"lrelu"`` (slope 0.2 below 0) or ``"swish"`` (x sigmoid(x)), everywhere.
        rescaled, logit_transform: the data were moved already, to [-1, 1] or to logits: x is taken as it is in place of
            2x - 1. Both do the same here; they are the names of the originals' configurations.
        num_classes: K, where norms are conditioned on classes, else None.
    """

    options_from: dict[str, str]  # where load_original_checkpoint had the options from

    def __init__(
        self,
        layout: Layout,
        channels: int,
        image_size: int,
        ngf: int,
        *,
        norm: Norm,
        refine_norm: Norm,
        pool: Pool,
        num_levels: int,
        nonlinearity: str = "elu",
        rescaled: bool = False,
        logit_transform: bool = False,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.channels = checks.integer("channels", channels, low=1)
        self.image_size = checks.integer("image_size", image_size, low=layout.smallest)
        self.ngf = checks.integer("ngf", ngf, low=2)
        self.num_levels, self.num_classes = num_levels, num_classes
        self.nonlinearity = checks.one_of("nonlinearity", nonlinearity, ACTIVATIONS)
        self.rescaled = _flag("rescaled", rescaled)
        self.logit_transform = _flag("logit_transform", logit_transform)
        self.act = act = ACTIVATIONS[nonlinearity]
        self.begin_conv = FirstConv2d(channels, ngf, 3, padding=1)
        self.normalizer = norm(ngf)
        self.end_conv = conv3x3(ngf, channels)
        before = ngf
        for name, factor, dilation in layout.encoder:
            block = partial(ResidualBlock, norm=norm, act=act, dilation=max(1, dilation))
            first = block(before, factor * ngf, down=dilation > 0)
            # The second block of a halved level is plain; that of a dilated one is dilated too.
            setattr(self, name, nn.ModuleList([first, block(factor * ngf, factor * ngf)]))
            before = factor * ngf
        # Sorted, as the published checkpoints list them: an optimizer's state refers to parameters by their place.
        for name, refine in sorted(self._refine_blocks(refine_norm, pool).items()):
            setattr(self, name, refine)

    def _refine_blocks(self, norm: Norm, pool: Pool) -> dict[str, RefineBlock]:
        """The decoder's blocks, by name."""
        widths = [factor * self.ngf for _, factor, _ in self.layout.encoder][::-1]
        blocks, below = {}, None
        for i, name in enumerate(self.layout.decoder):
            out = widths[min(i + 1, len(widths) - 1)]
            widths_in = [widths[i]] if below is None else [widths[i], below]
            last = i == len(widths) - 1
            blocks[name] = RefineBlock(widths_in, out, norm, pool, out_blocks=3 if last else 1, act=self.act)
            below = out
        return blocks

    def check_image(self, x: Tensor) -> None:
        """Raise unless x is an image batch that the network takes."""
        checks.floating("x", x)
        smallest = self.layout.smallest
        if x.dim() != 4 or x.shape[1] != self.channels or min(x.shape[2:]) < smallest:
            raise ValueError(
                f"x must have shape (B, {self.channels}, H, W) with H and W at least {smallest}, "
                f"got {checks.describe(x)}"
            )
        check_dtype(x, self.begin_conv.weight)

    def lay_out(self) -> None:
        """Have the convolutions' weights lie in memory as the activations do on their device: else each of their
        gradients is copied. Before an optimizer is made, whose state lies as the weights do; values stay as they are."""
        if faster(self.begin_conv.weight.device, self.begin_conv.weight.dtype):
            for weight in self.parameters():
                if weight.dim() == 4:
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def conditions(self, x: Tensor, levels: Tensor | None, class_labels: Tensor | None) -> Labels:
        """What the norms are given for the batch ``x``: ``levels`` alone, or with the classes."""
        classes = classes_of(class_labels, x, self.num_classes)
        return levels if classes is None else Conditions(levels, classes)

    def features(self, x: Tensor, labels: Labels) -> Tensor:
        """The last convolution's output, [B, channels, H, W], in x's memory format. Labels are for conditional norms."""
        h = channels_last(x if self.rescaled or self.logit_transform else 2 * x - 1)
        h = channels_last(self.begin_conv(h))  # of one channel, a convolution cannot tell
        levels = []
        for name, _, _ in self.layout.encoder:
            for block in getattr(self, name):
                h = block(h, labels)
            levels.append(h)
        inputs: list[Tensor] = []  # of a refine block, beside its level: the block's below
        for name, level in zip(self.layout.decoder, reversed(levels)):
            h = getattr(self, name)([level, *inputs], labels)
            inputs = [h]
        return as_before(self.end_conv(activate(self.act, h, self.normalizer, labels)), x)

    def extra_repr(self) -> str:
        return f"nonlinearity={self.nonlinearity!r}, rescaled={self.rescaled}, logit_transform={self.logit_transform}"


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {checks.describe(value)}")
    return value
