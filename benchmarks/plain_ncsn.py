"""What fastscore's networks are timed against: NCSN and NCSNv2 as their papers write them, in torch's own operations.

Nothing here is fused or hand-tuned, and nothing is slower than it must be: ``nn.InstanceNorm2d`` and the means of
InstanceNorm++ one operation after the other, ``F.elu`` out of place, torch's pooling, contiguous NCHW, and the loss, the
iteration and the sampler's update in plain lines with ``torch.randn_like`` and ``torch.optim.Adam`` as it comes. The
``state_dict`` has the keys and shapes of :class:`fastscore.models.NCSN` and ``NCSNv2``, so both have the same weights.

Sources: Song and Ermon 2019, arXiv:1907.05600, appendix A; Song and Ermon 2020, arXiv:2006.09011; RefineNet: Lin et al.
2017, arXiv:1611.06612.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-5


def spread(numbers: Tensor) -> Tensor:
    """[B, C] or [C] beside images [B, C, H, W]."""
    return numbers[..., None, None]


class InstanceNormPlus(nn.Module):
    """gamma (h + alpha (mu - m) / sqrt(s^2 + eps)) + beta, h the instance norm; by level where ``num_levels`` is given."""

    def __init__(self, width: int, num_levels: int | None = None) -> None:
        super().__init__()
        self.instance_norm = nn.InstanceNorm2d(width, eps=EPS, affine=False, track_running_stats=False)
        if num_levels is None:
            self.alpha = nn.Parameter(torch.ones(width))
            self.gamma = nn.Parameter(torch.ones(width))
            self.beta = nn.Parameter(torch.zeros(width))
        else:
            self.embed = nn.Embedding(num_levels, 3 * width)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if hasattr(self, "embed"):
            gamma, alpha, beta = self.embed(labels).chunk(3, dim=-1)
        else:
            gamma, alpha, beta = self.gamma, self.alpha, self.beta
        means = torch.mean(x, dim=(2, 3))
        m = torch.mean(means, dim=-1, keepdim=True)
        v = torch.var(means, dim=-1, keepdim=True)
        means = (means - m) / torch.sqrt(v + EPS)
        h = self.instance_norm(x)
        h = h + spread(means) * spread(alpha)
        return spread(gamma) * h + spread(beta)


class NoNorm(nn.Module):
    """NCSNv2's refine blocks: x as it is."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return x


Norm = Callable[[int], nn.Module]


def conv3x3(width_in: int, width_out: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=dilation, dilation=dilation, bias=bias)


class ConvMeanPool(nn.Module):
    """A convolution, then the mean over 2x2."""

    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


class ResidualBlock(nn.Module):
    """conv2(ELU(norm2(conv1(ELU(norm1(x)))))) + shortcut(x)."""

    def __init__(self, width_in: int, width_out: int, norm: Norm, dilation: int = 1, down: bool = False) -> None:
        super().__init__()
        self.normalize1, self.normalize2 = norm(width_in), norm(width_in)
        self.conv1 = conv3x3(width_in, width_in, dilation)
        self.conv2: nn.Module = conv3x3(width_in, width_out, dilation)
        self.shortcut: nn.Module = nn.Identity()
        if down and dilation > 1:
            self.shortcut = conv3x3(width_in, width_out, dilation)
        elif down:
            self.conv2, self.shortcut = ConvMeanPool(width_in, width_out, 3), ConvMeanPool(width_in, width_out, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.conv1(F.elu(self.normalize1(x, labels)))
        h = self.conv2(F.elu(self.normalize2(h, labels)))
        return h + self.shortcut(x)


class ResidualConvUnit(nn.Module):
    """``blocks`` times x + two stages of norm, ELU, convolution."""

    def __init__(self, width: int, blocks: int, norm: Norm) -> None:
        super().__init__()
        self.blocks = blocks
        for block in range(1, blocks + 1):
            for stage in (1, 2):
                self.add_module(f"{block}_{stage}_norm", norm(width))
                self.add_module(f"{block}_{stage}_conv", conv3x3(width, width, bias=False))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for block in range(1, self.blocks + 1):
            residual = x
            for stage in (1, 2):
                x = F.elu(self.get_submodule(f"{block}_{stage}_norm")(x, labels))
                x = self.get_submodule(f"{block}_{stage}_conv")(x)
            x = x + residual
        return x


class MultiScaleFusion(nn.Module):
    """The sum of the inputs, each normed, convolved and resized to the first one's size."""

    def __init__(self, widths_in: Sequence[int], width: int, norm: Norm) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(width_in) for width_in in widths_in)
        self.convs = nn.ModuleList(conv3x3(width_in, width) for width_in in widths_in)

    def forward(self, inputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        out = None
        for x, norm, conv in zip(inputs, self.norms, self.convs):
            h = conv(norm(x, labels))
            h = F.interpolate(h, size=inputs[0].shape[2:], mode="bilinear", align_corners=True)
            out = h if out is None else out + h
        return out


class ChainedResidualPooling(nn.Module):
    """ELU(x), plus a chain of two stages of norm, 5x5 pooling, convolution."""

    def __init__(self, width: int, norm: Norm, pool: type[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(width) for _ in range(2))
        self.convs = nn.ModuleList(conv3x3(width, width, bias=False) for _ in range(2))
        self.pool = pool(kernel_size=5, stride=1, padding=2)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = F.elu(x)
        path = x
        for norm, conv in zip(self.norms, self.convs):
            path = conv(self.pool(norm(path, labels)))
            x = x + path
        return x


class RefineBlock(nn.Module):
    """RCU of each input, MSF of two, CRP, RCU."""

    def __init__(
        self, widths_in: Sequence[int], width: int, norm: Norm, pool: type[nn.Module], out_blocks: int = 1
    ) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(ResidualConvUnit(width_in, 2, norm) for width_in in widths_in)
        if len(widths_in) > 1:
            self.msf = MultiScaleFusion(widths_in, width, norm)
        self.crp = ChainedResidualPooling(width, norm, pool)
        self.output_convs = ResidualConvUnit(width, out_blocks, norm)

    def forward(self, inputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        adapted = [adapt(x, labels) for adapt, x in zip(self.adapt_convs, inputs)]
        h = self.msf(adapted, labels) if len(adapted) > 1 else adapted[0]
        return self.output_convs(self.crp(h, labels), labels)


class PlainNCSN(nn.Module):
    """The network of NCSN, or with ``sigmas`` that of NCSNv2."""

    def __init__(self, channels: int, ngf: int, num_levels: int, sigmas: Tensor | None = None) -> None:
        super().__init__()
        norm = InstanceNormPlus if sigmas is not None else lambda width: InstanceNormPlus(width, num_levels)
        refine_norm: Norm = norm if sigmas is None else NoNorm
        pool = nn.AvgPool2d if sigmas is None else nn.MaxPool2d
        wide = 2 * ngf
        self.begin_conv, self.end_conv, self.normalizer = conv3x3(channels, ngf), conv3x3(ngf, channels), norm(ngf)
        self.res1 = nn.ModuleList([ResidualBlock(ngf, ngf, norm), ResidualBlock(ngf, ngf, norm)])
        self.res2 = nn.ModuleList([ResidualBlock(ngf, wide, norm, down=True), ResidualBlock(wide, wide, norm)])
        for name, dilation in (("res3", 2), ("res4", 4)):
            blocks = (ResidualBlock(wide, wide, norm, dilation, down=True), ResidualBlock(wide, wide, norm, dilation))
            setattr(self, name, nn.ModuleList(blocks))
        self.refine1 = RefineBlock([wide], wide, refine_norm, pool)
        self.refine2 = RefineBlock([wide, wide], wide, refine_norm, pool)
        self.refine3 = RefineBlock([wide, wide], ngf, refine_norm, pool)
        self.refine4 = RefineBlock([ngf, ngf], ngf, refine_norm, pool, out_blocks=3)
        if sigmas is not None:
            self.register_buffer("sigmas", sigmas.clone())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h, levels = self.begin_conv(2 * x - 1), []
        for level in (self.res1, self.res2, self.res3, self.res4):
            for block in level:
                h = block(h, labels)
            levels.append(h)
        h = self.refine1([levels[3]], labels)
        h = self.refine2([levels[2], h], labels)
        h = self.refine3([levels[1], h], labels)
        h = self.refine4([levels[0], h], labels)
        h = self.end_conv(F.elu(self.normalizer(h, labels)))
        return h / self.sigmas[labels].view(-1, 1, 1, 1) if hasattr(self, "sigmas") else h


def dsm_loss(network: nn.Module, x: Tensor, labels: Tensor, sigmas: Tensor) -> Tensor:
    """The mean over the batch of 1/2 sigma^2 || s(x + sigma z, y) + z / sigma ||^2."""
    sigma = sigmas[labels].view(-1, 1, 1, 1)
    perturbed = x + torch.randn_like(x) * sigma
    target = -(perturbed - x) / sigma**2
    scores = network(perturbed, labels)
    loss = 0.5 * ((scores - target) ** 2).flatten(1).sum(-1) * sigma.flatten() ** 2
    return loss.mean(dim=0)


def langevin_step(network: nn.Module, x: Tensor, labels: Tensor, step_size: float) -> Tensor:
    """x + step_size/2 s(x, y) + sqrt(step_size) z."""
    noise = torch.randn_like(x) * step_size**0.5
    return x + step_size / 2 * network(x, labels) + noise
