"""What the networks of NCSN and NCSNv2 are made of: InstanceNorm++, residual blocks and RefineNet's blocks.

All are a dilated residual encoder followed by refine blocks (RefineNet, Lin et al. 2017, arXiv:1611.06612; see
:mod:`fastscore.models.refinenet`). What differs is an argument here: how a norm is made (``norm(width)`` gives a
module called as ``module(x, labels)``, or None for no norm), which pooling the chained residual pooling uses, and
the activation. Attribute names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import checks
from .._core.calls import hooked
from ..ops.elu import checked as _checked_elu
from ..ops.instance_norm_plus import checked as normed
from ..ops.max_pool import checked as _checked_max_pool
from ..ops.mean_pool import checked as _checked_mean_pool
from ._halving import halved

Numbers = tuple[Tensor, Tensor, Tensor]  # gamma, alpha, beta


class Conditions(NamedTuple):
    """Of a batch: the noise levels [B], where norms are conditioned on them, and the classes [B]."""

    levels: Tensor | None
    classes: Tensor


#: [B] of a batch, and with classes both; of one level the numbers of every conditional norm; None where no norm is conditional.
Labels = Tensor | Conditions | dict[nn.Module, Numbers] | None
Norm = Callable[[int], "nn.Module | None"]
Pool = Callable[[Tensor], Tensor]
Activation = Callable[..., Tensor]


def _elu(x: Tensor, inplace: bool = False) -> Tensor:
    """:func:`fastscore.ops.elu`. Never in place: it keeps its output alone, which the layer after it keeps too."""
    return _checked_elu(x)


def _swish(x: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x). Never in place: its derivative needs x itself, and torch would keep a copy."""
    return F.silu(x)


#: By the originals' names; each is called as ``act(x)`` or ``act(x, inplace=True)``.
ACTIVATIONS: dict[str, Activation] = {
    "elu": _elu,
    "relu": F.relu,
    "lrelu": partial(F.leaky_relu, negative_slope=0.2),
    "swish": _swish,
}


def mean_pool(x: Tensor) -> Tensor:
    """The mean over 5x5 pixels at stride 1, zeros beyond the image (NCSN's decoder)."""
    return _checked_mean_pool(x, 5)


def max_pool(x: Tensor) -> Tensor:
    """The largest of 5x5 pixels at stride 1 (NCSNv2's decoder)."""
    return _checked_max_pool(x, 5)


def class_table(num_classes: int | None, width: int) -> nn.Parameter | None:
    """What each class, and last "no label", adds to ``width`` numbers: [num_classes + 1, width], 0 at first; None without
    classes."""
    return None if num_classes is None else nn.Parameter(torch.zeros(num_classes + 1, width))


def of_classes(table: Tensor, labels: Labels) -> Tensor:
    """The rows of a class table for a batch, [B, ...], or that of "no label"."""
    return F.embedding(labels.classes, table) if isinstance(labels, Conditions) else table[-1]


class InstanceNormPlus(nn.Module):
    """:func:`fastscore.ops.instance_norm_plus` with learned gamma, alpha, beta [C]; noise levels are ignored (NCSNv2).

    With ``num_classes`` each class adds numbers of its own to gamma, alpha and beta. With ``elu`` the ELU that follows is
    applied in the same pass.
    """

    def __init__(self, width: int, num_classes: int | None = None) -> None:
        super().__init__()
        width = checks.integer("width", width, low=2)  # the variance over one channel is 0/0
        self.alpha = nn.Parameter(torch.empty(width))
        self.gamma = nn.Parameter(torch.empty(width))
        self.beta = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.alpha, 1.0, 0.02)
        nn.init.normal_(self.gamma, 1.0, 0.02)
        self.classes = class_table(num_classes, 3 * width)

    def forward(self, x: Tensor, labels: Labels, elu: bool = False) -> Tensor:
        if self.classes is None:
            return normed(x, self.gamma, self.alpha, self.beta, int(elu))
        gamma, alpha, beta = of_classes(self.classes, labels).chunk(3, dim=-1)
        return normed(x, self.gamma + gamma, self.alpha + alpha, self.beta + beta, int(elu))


class ConditionalInstanceNormPlus(nn.Module):
    """:func:`fastscore.ops.instance_norm_plus` with gamma, alpha, beta (in this order) looked up by noise level (NCSN).

    With ``num_classes`` each class adds numbers of its own to them. With ``elu`` the ELU that follows is applied in the same
    pass.
    """

    def __init__(self, width: int, num_levels: int, num_classes: int | None = None) -> None:
        super().__init__()
        width = checks.integer("width", width, low=2)  # the variance over one channel is 0/0
        self.embed = nn.Embedding(num_levels, 3 * width)
        nn.init.normal_(self.embed.weight[:, : 2 * width], 1.0, 0.02)
        nn.init.zeros_(self.embed.weight[:, 2 * width :])
        self.classes = class_table(num_classes, 3 * width)

    def numbers(self, labels: Tensor | Conditions) -> Numbers:
        """gamma, alpha and beta of ``labels``, [C] of one level, [], or [B, C] of [B]."""
        found = self.embed(labels.levels if isinstance(labels, Conditions) else labels)
        if self.classes is not None:
            found = found + of_classes(self.classes, labels)
        gamma, alpha, beta = found.chunk(3, dim=-1)
        return gamma, alpha, beta

    def forward(self, x: Tensor, labels: Labels, elu: bool = False) -> Tensor:
        assert labels is not None
        gamma, alpha, beta = labels[self] if isinstance(labels, dict) else self.numbers(labels)
        return normed(x, gamma, alpha, beta, int(elu))


_FUSES = (InstanceNormPlus, ConditionalInstanceNormPlus)  # these alone: one derived from them may take no ``elu``


def activate(act: Activation, x: Tensor, norm: nn.Module | None, labels: Labels) -> Tensor:
    """act(norm(x)): ELU in the norm's own pass, others in place on its output, which nothing else holds."""
    if norm is None:
        return act(x)
    if act is _elu and type(norm) in _FUSES and not hooked(norm):  # whose hooks are to see the norm alone
        return norm(x, labels, elu=True)
    return act(norm(x, labels), inplace=True)


def conv3x3(width_in: int, width_out: int, *, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(width_in, width_out, 3, padding=dilation, dilation=dilation, bias=bias)


def _list(modules: Iterable[nn.Module | None]) -> nn.ModuleList:
    """A ModuleList, in which an entry may be empty."""
    layers = nn.ModuleList()
    for index, module in enumerate(modules):
        layers.add_module(str(index), module)
    return layers


class ConvMeanPool(nn.Module):
    """A convolution that keeps the size, then the mean over 2x2 (an odd last row or column is dropped)."""

    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return halved(self.conv(x))


class ResidualBlock(nn.Module):
    """conv2(act(norm2(conv1(act(norm1(x)))))) + shortcut(x), with x [B, width_in, H, W].

    Args:
        width_in, width_out: channels before and after; where ``down`` is False they are equal.
        norm: makes a norm of a given width.
        down: change the width; halve the size too where ``dilation`` is 1, else dilate instead.
        dilation: of the 3x3 convolutions.
        act: the activation.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        norm: Norm,
        *,
        down: bool = False,
        dilation: int = 1,
        act: Activation = _elu,
    ) -> None:
        super().__init__()
        self.act = act
        # Made in the order of the published checkpoints, so that the state of their optimizers fits too.
        self.conv1 = conv3x3(width_in, width_in, dilation=dilation)
        self.normalize2 = norm(width_in)
        if down and dilation == 1:
            self.conv2: nn.Module = ConvMeanPool(width_in, width_out, 3)
            self.shortcut: nn.Module = ConvMeanPool(width_in, width_out, 1)
        else:
            self.conv2 = conv3x3(width_in, width_out, dilation=dilation)
            self.shortcut = conv3x3(width_in, width_out, dilation=dilation) if down else nn.Identity()
        self.normalize1 = norm(width_in)

    def forward(self, x: Tensor, labels: Labels) -> Tensor:
        h = self.conv1(activate(self.act, x, self.normalize1, labels))
        return self.conv2(activate(self.act, h, self.normalize2, labels)) + self.shortcut(x)


class ResidualConvUnit(nn.ModuleDict):
    """RCU: ``blocks`` times x + stage2(stage1(x)), a stage being norm, act, 3x3 convolution without bias."""

    def __init__(self, width: int, blocks: int, norm: Norm, act: Activation = _elu) -> None:
        super().__init__()
        self.act = act
        self.stages = [(f"{block}_1", f"{block}_2") for block in range(1, blocks + 1)]
        for stages in self.stages:
            for stage in stages:
                self.add_module(f"{stage}_norm", norm(width))
                self[f"{stage}_conv"] = conv3x3(width, width, bias=False)

    def forward(self, x: Tensor, labels: Labels) -> Tensor:
        for first, second in self.stages:
            h = self[f"{first}_conv"](activate(self.act, x, self[f"{first}_norm"], labels))
            x = x + self[f"{second}_conv"](activate(self.act, h, self[f"{second}_norm"], labels))
        return x


class MultiScaleFusion(nn.Module):
    """MSF: the sum of conv(norm(x_i)), each resized to the first input's size (bilinear, corners aligned)."""

    def __init__(self, widths_in: Sequence[int], width: int, norm: Norm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3x3(width_in, width) for width_in in widths_in)
        self.norms = _list(norm(width_in) for width_in in widths_in)

    def forward(self, inputs: Sequence[Tensor], labels: Labels) -> Tensor:
        size = inputs[0].shape[2:]
        parts = []
        for x, norm, conv in zip(inputs, self.norms, self.convs):
            h = conv(x if norm is None else norm(x, labels))
            same = h.shape[2:] == size
            parts.append(h if same else F.interpolate(h, size=size, mode="bilinear", align_corners=True))
        return sum(parts[1:], parts[0])


class ChainedResidualPooling(nn.Module):
    """CRP: x = act(x), plus a chain of two stages conv(pool(norm(path))), each added to x."""

    def __init__(self, width: int, norm: Norm, pool: Pool, act: Activation = _elu) -> None:
        super().__init__()
        self.act = act
        self.convs = nn.ModuleList(conv3x3(width, width, bias=False) for _ in range(2))
        self.norms = _list(norm(width) for _ in range(2))
        self.pool = pool

    def forward(self, x: Tensor, labels: Labels) -> Tensor:
        x = path = self.act(x)
        for norm, conv in zip(self.norms, self.convs):
            path = conv(self.pool(path if norm is None else norm(path, labels)))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """RCU of each input, MSF where there are two, CRP, RCU: [B, width, H, W] at the first input's size."""

    def __init__(
        self,
        widths_in: Sequence[int],
        width: int,
        norm: Norm,
        pool: Pool,
        *,
        out_blocks: int = 1,
        act: Activation = _elu,
    ) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(ResidualConvUnit(width_in, 2, norm, act) for width_in in widths_in)
        self.output_convs = ResidualConvUnit(width, out_blocks, norm, act)
        self.msf = MultiScaleFusion(widths_in, width, norm) if len(widths_in) > 1 else None
        self.crp = ChainedResidualPooling(width, norm, pool, act)

    def forward(self, inputs: Sequence[Tensor], labels: Labels) -> Tensor:
        adapted = [adapt(x, labels) for adapt, x in zip(self.adapt_convs, inputs)]
        h = adapted[0] if self.msf is None else self.msf(adapted, labels)
        return self.output_convs(self.crp(h, labels), labels)
