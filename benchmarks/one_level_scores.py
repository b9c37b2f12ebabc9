"""Scores at one noise level, on which trace_accuracy.py measures.

Small networks are trained by denoising score matching at sigma = 0.2, on scikit-learn's digits made
16 x 16 (bilinear), in [0, 1]:

- unet-1: an attention U-Net (below), 1 channel, D = 256;
- unet-3: the same with 3 channels, D = 768: digits colourised, image = background + (foreground - background) digit
  with two random colours an image;
- ncsnv2-1: fastscore's NCSNv2 with ngf = 8, 1 channel;
- kde-1: not trained: the exact score of the training digits convolved with N(0, sigma^2 I), for comparison.

Weights are kept in runs/trace_accuracy.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastscore as fs

ROOT = Path(__file__).parents[1]
SIGMA, SIZE = 0.2, 16
NAMES = ("unet-1", "unet-3", "ncsnv2-1", "kde-1")


class Block(nn.Module):
    """Group norm, SiLU and convolution, twice, around an identity."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.one = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.two = nn.Sequential(nn.GroupNorm(8, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.two(self.one(x))


class Attention(nn.Module):
    """Self-attention over the pixels, one head."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.qkv = nn.GroupNorm(8, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).chunk(3, 1)
        weights = torch.softmax(q.mT @ k / q.shape[1] ** 0.5, 2)
        return x + self.out((v @ weights.mT).reshape(x.shape))


class UNet(nn.Module):
    """16 x 16 to 8 x 8 to 4 x 4 and back, attention at 8 and 4; the output is divided by sigma."""

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down = nn.ModuleList([Block(width, width), Block(width, 2 * width), Block(2 * width, 2 * width)])
        self.attend = nn.ModuleList([nn.Identity(), Attention(2 * width), Attention(2 * width)])
        self.up = nn.ModuleList([Block(4 * width, 2 * width), Block(3 * width, width)])
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        h, kept = self.first(2 * x - 1), []
        for level, (block, attend) in enumerate(zip(self.down, self.attend)):
            h = attend(block(F.avg_pool2d(h, 2) if level else h))
            kept.append(h)
        for block, skip in zip(self.up, (kept[1], kept[0])):
            h = block(torch.cat([F.interpolate(h, scale_factor=2), skip], 1))
        return self.last(h) / SIGMA


class KernelDensity(nn.Module):
    """(E[image | x] - x) / sigma^2 over the training images."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.register_buffer("images", images.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        distance = self.images.square().sum(1) - 2 * flat @ self.images.T
        weights = torch.softmax(-distance / (2 * SIGMA**2), 1)
        return ((weights @ self.images - flat) / SIGMA**2).reshape(x.shape)


def digits(split: str, channels: int) -> Tensor:
    """[N, channels, 16, 16] in [0, 1]; three channels are two random colours, foreground and background."""
    images = fs.data.digits(split).images.float() / 255
    images = F.interpolate(images, size=SIZE, mode="bilinear")
    if channels == 1:
        return images
    colors = fs.Philox(7 if split == "train" else 8).rand(len(images), 2, channels, 1, 1)
    return colors[:, 1] + (colors[:, 0] - colors[:, 1]) * images


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "kde-1":
        return KernelDensity(digits("train", 1))
    if name == "ncsnv2-1":
        net = fs.models.NCSNv2(channels=1, image_size=SIZE, ngf=8, sigmas=[SIGMA])
        return OneLevel(net)
    return UNet(int(name[-1]))


class OneLevel(nn.Module):
    """A network of labelled noise levels at its first one."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, torch.zeros(len(x), dtype=torch.int64, device=x.device))


def trained(name: str, iterations: int) -> tuple[nn.Module, dict]:
    """The network, in evaluation mode and float32, from the cache or trained now; and how well it does."""
    net, images = make(name), digits("train", int(name[-1]))
    held = digits("heldout", int(name[-1]))
    cache = ROOT / "runs" / "trace_accuracy" / f"{name}-{iterations}.pt"
    if cache.exists():
        net.load_state_dict(torch.load(cache, weights_only=True))
    elif name != "kde-1":
        rng, rate = fs.Philox(0), 2e-3 if name.startswith("unet") else 1e-3
        optimizer = torch.optim.Adam(net.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        for i in range(iterations):
            batch = images[rng.randint(len(images), 64)]
            loss = fs.losses.dsm(net, batch, SIGMA, rng=rng)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if i % 200 == 0:
                print(f"  {name}: iteration {i}, loss {loss.item():.2f}", flush=True)
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), cache)
    net.eval().requires_grad_(False)
    with torch.no_grad():
        losses = [fs.losses.dsm(net, part, SIGMA, rng=fs.Philox(1)).item() for part in (images, held)]
    about = {
        "network": name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "iterations": iterations if name != "kde-1" else 0,
        "loss_train": losses[0],
        "loss_heldout": losses[1],
    }
    return net, about
