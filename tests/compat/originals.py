"""Small networks laid out as the originals' are: their classes' names, their parts' names, one shared ELU."""

import torch
import torch.nn.functional as F
from torch import nn


def means_of_channels(x, eps=1e-5):
    """The normalised means of the channels, [B, C, 1, 1]."""
    means = x.mean((2, 3))
    centre, spread = means.mean(1, keepdim=True), means.var(1, keepdim=True)
    return ((means - centre) / (spread + eps).sqrt())[..., None, None]


class InstanceNorm2dPlus(nn.Module):
    def __init__(self, width, bias=True):
        super().__init__()
        self.num_features, self.bias = width, bias
        self.instance_norm = nn.InstanceNorm2d(width)
        self.alpha, self.gamma = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        if bias:
            self.beta = nn.Parameter(torch.randn(width))

    def forward(self, x):
        gamma, alpha = self.gamma.view(1, -1, 1, 1), self.alpha.view(1, -1, 1, 1)
        out = gamma * (self.instance_norm(x) + alpha * means_of_channels(x))
        return out + self.beta.view(1, -1, 1, 1) if self.bias else out


class ConditionalInstanceNorm2dPlus(nn.Module):
    def __init__(self, width, num_classes=4, bias=True):
        super().__init__()
        self.num_features, self.bias = width, bias
        self.instance_norm = nn.InstanceNorm2d(width)
        self.embed = nn.Embedding(num_classes, width * (3 if bias else 2))

    def forward(self, x, y):
        parts = [part[..., None, None] for part in self.embed(y).chunk(3 if self.bias else 2, -1)]
        out = parts[0] * (self.instance_norm(x) + parts[1] * means_of_channels(x))
        return out + parts[2] if self.bias else out


class ConditionalBatchNorm2d(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x, y):
        return self.bn(x)


def called(module, x, y):
    """A norm or block with or without labels."""
    return module(x) if y is None else module(x, y)


class ResidualBlock(nn.Module):
    def __init__(self, width, act, norm):
        super().__init__()
        self.non_linearity = act
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.normalize2 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.normalize1 = norm(width)

    def forward(self, x, y=None):
        h = self.conv1(self.non_linearity(called(self.normalize1, x, y)))
        return x + self.conv2(self.non_linearity(called(self.normalize2, h, y)))


class ConditionalResidualBlock(ResidualBlock):
    def forward(self, x, y):
        return super().forward(x, y)


class CondRCUBlock(nn.Module):
    def __init__(self, width, act, norm):
        super().__init__()
        for stage in ("1_1", "1_2"):
            setattr(self, f"{stage}_norm", norm(width))
            setattr(self, f"{stage}_conv", nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.act = act

    def forward(self, x, y):
        residual = x
        for stage in ("1_1", "1_2"):
            x = getattr(self, f"{stage}_conv")(self.act(getattr(self, f"{stage}_norm")(x, y)))
        x += residual
        return x


class CondCRPBlock(nn.Module):
    """The activation comes first here, and no norm has one after it."""

    def __init__(self, width, act, norm):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(norm(width) for _ in range(2))
        self.maxpool = nn.AvgPool2d(kernel_size=5, stride=1, padding=2)
        self.act = act

    def forward(self, x, y):
        x = path = self.act(x)
        for norm, conv in zip(self.norms, self.convs):
            path = conv(self.maxpool(norm(path, y)))
            x = path + x
        return x


class Trunk(nn.Module):
    """Layers to and from the images, with a norm and an ELU of its own before the last."""

    def __init__(self, blocks, norm, act, width=4):
        super().__init__()
        self.act = act
        self.begin_conv = nn.Conv2d(3, width, 3, padding=1)
        self.normalizer = norm(width)
        self.end_conv = nn.Conv2d(width, 3, 3, padding=1)
        self.res1 = nn.ModuleList(blocks)

    def layers(self, x, y):
        x = self.begin_conv(2 * x - 1)
        for block in self.res1:
            x = called(block, x, y)
        return self.end_conv(self.act(called(self.normalizer, x, y)))


class NCSN(Trunk):
    """Of each kind of block that has norms one; the same ELU in all of them."""

    def __init__(self, act=None, norm=ConditionalInstanceNorm2dPlus):
        act = nn.ELU() if act is None else act
        super().__init__(
            [block(4, act, norm) for block in (ConditionalResidualBlock, CondRCUBlock, CondCRPBlock)], norm, act
        )

    def forward(self, x, y):
        return self.layers(x, y)


class NCSNv2(Trunk):
    """The labels reach the noise levels alone, by which the output is divided."""

    def __init__(self):
        act = nn.ELU()
        super().__init__([ResidualBlock(4, act, InstanceNorm2dPlus)], InstanceNorm2dPlus, act)
        self.register_buffer("sigmas", torch.tensor([10.0, 1.0, 0.1, 0.01]))

    def forward(self, x, y):
        return self.layers(x, None) / self.sigmas[y].view(x.shape[0], *([1] * len(x.shape[1:])))


class Odd(ConditionalResidualBlock):
    """Blocks that do one thing more with a norm's output, or with the ELU; ``what`` says which."""

    def __init__(self, what, act=None):
        super().__init__(4, act or nn.ELU(), ConditionalInstanceNorm2dPlus)
        self.what = what

    def forward(self, x, y):
        first = self.normalize1(x, y)
        h = self.non_linearity(first)
        if self.what == "used twice":
            h = h + first
        elif self.what == "in training":
            h = h + 0.1 * first if self.training else h
        elif self.what == "returned":
            return self.conv2(self.non_linearity(self.normalize2(self.conv1(h), y))), first
        elif self.what == "an ELU more":
            x = self.non_linearity(x)
        elif self.what == "too large":
            assert x.shape[-1] < 16, "no more than 15"
        elif self.what == "function":
            h = F.elu(first)
        h = self.conv1(h)
        return x + self.conv2(self.non_linearity(self.normalize2(h, y)))
