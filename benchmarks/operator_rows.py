"""What makes the rows of the benchmark list for a shape and a device: our call, torch's lines, and the memory floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

import fastscore as fs
from benchmarks import torch_lines as plain

Wrap = Callable[[Callable], Callable]  # torch.compile, or nothing


@dataclass
class Row:
    """One row at one shape: fastscore's call, torch's lines (given what may compile them), the floor."""

    ours: Callable[[], object]
    lines: Callable[[Wrap], Callable[[], object]]
    floor: Callable[[], object]
    elements: int


def _sigma(shape: tuple[int, ...], device: str) -> Tensor:
    return torch.linspace(0.01, 1.0, shape[0], device=device)


def langevin_step(shape: tuple[int, ...], device: str) -> Row:
    x, score, rng = torch.randn(shape, device=device), torch.randn(shape, device=device), fs.Philox(0)
    return Row(
        lambda: fs.langevin_step(x, score, 0.1, rng),
        lambda wrap: partial(wrap(plain.langevin_step), x, score, 0.1),
        lambda: torch.add(x, score, alpha=0.05),
        x.numel(),
    )


def affine_step(shape: tuple[int, ...], device: str, count: int, c: float) -> Row:
    """Of ``count`` stored tensors: count + 1 are read and one is written."""
    x, *scores = torch.randn(1 + count, *shape, device=device)
    b, rng = [0.05, -0.3, 0.2][:count], fs.Philox(0)
    left, right = torch.randn(
        2, x.numel() * 5 // 3, device=device
    )  # no torch operation reads four tensors and adds them

    def floor() -> Tensor:
        if count == 3:
            return torch.add(left, right, alpha=0.05)
        if count == 2:
            return torch.addcmul(x, *scores, value=0.05)
        return torch.add(x, scores[0], alpha=0.05) if count else torch.mul(x, 0.5)

    return Row(
        lambda: fs.affine_step(x, scores, 0.9, b, c, rng),
        lambda wrap: partial(wrap(plain.affine_step), x, scores, 0.9, b, c),
        floor,
        x.numel(),
    )


def perturb(shape: tuple[int, ...], device: str) -> Row:
    x, sigma, rng = torch.randn(shape, device=device), _sigma(shape, device), fs.Philox(0)
    return Row(
        lambda: fs.perturb(x, sigma, rng),
        lambda wrap: partial(wrap(plain.perturb), x, sigma),
        lambda: torch.mul(x, 0.5),
        x.numel(),
    )


def read_images(shape: tuple[int, ...], device: str) -> Row:
    images = torch.randint(0, 256, (2048, *shape[1:]), dtype=torch.uint8, device=device)
    indices, sigma = torch.randint(0, 2048, shape[:1], device=device), _sigma(shape, device)
    batch = fs.ops.ImageBatch(images, indices, seed=0, step=0, num_values=256, flips=True)
    rng = fs.Philox(0)
    return Row(
        lambda: fs.ops.perturb_images(batch, sigma, rng),
        lambda wrap: partial(wrap(plain.read_images), images, indices, sigma),
        lambda: images[: shape[0]].float(),
        indices.numel() * images[0].numel(),
    )


def dsm_loss(shape: tuple[int, ...], device: str, with_gradient: bool) -> Row:
    score, z, sigma = torch.randn(shape, device=device), torch.randn(shape, device=device), _sigma(shape, device)
    handle = fs.Philox(0).noise(shape, device=device)
    if not with_gradient:
        return Row(
            lambda: fs.dsm_loss(score, handle, sigma),
            lambda wrap: partial(wrap(plain.dsm_loss), score, z, sigma),
            lambda: score.sum(),
            score.numel(),
        )
    leaf = score.clone().requires_grad_()
    return Row(
        lambda: plain.gradient(fs.dsm_loss, leaf, handle, sigma),
        lambda wrap: partial(plain.gradient, wrap(plain.dsm_loss), leaf, z, sigma),
        lambda: torch.mul(score, 0.5),
        score.numel(),
    )


def chain(shape: tuple[int, ...], device: str) -> Row:
    x, sigma, rng = torch.randn(shape, device=device), _sigma(shape, device), fs.Philox(0)
    return Row(
        lambda: plain.chain(fs.perturb, fs.dsm_loss, x, sigma, rng),
        lambda wrap: partial(plain.chain, wrap(plain.perturb), wrap(plain.dsm_loss), x, sigma),
        lambda: torch.mul(torch.mul(x, 0.5), 0.5),
        x.numel(),
    )


def fill(shape: tuple[int, ...], device: str) -> Row:
    rng = fs.Philox(0)
    out = torch.empty(shape, device=device)
    return Row(
        lambda: rng.randn(shape, device=device),
        lambda wrap: wrap(lambda: torch.randn(shape, device=device)),
        lambda: torch.full_like(out, 1.0),
        out.numel(),
    )


def eight_probes(shape: tuple[int, ...], device: str, colored: bool, dot: bool) -> Row:
    """Eight probes. Eager's signs are randn.sign(), which is faster here than randint * 2 - 1."""
    x = torch.zeros(shape, device=device)
    coloring = fs.Coloring(8, 32, 32, 1, 3, 2) if colored else None
    probes = fs.Probes(x, 8, fs.Philox(0), coloring=coloring)
    v, product = fs.fill_probes(probes), torch.randn(8, *shape, device=device)
    if dot:
        return Row(
            lambda: fs.probe_dot(product, probes),
            lambda wrap: wrap(lambda: (v * product).flatten(2).sum(2)),
            lambda: product.flatten(2).sum(2),
            product.numel(),
        )
    colors = torch.arange(8, device=device).view(8, 1, 1, 1, 1)
    mask = None if coloring is None else coloring.of(shape[1:], device) == colors

    def signs() -> Tensor:
        return torch.randn(v.shape, device=device).sign() if mask is None else torch.randn_like(x).sign() * mask

    return Row(lambda: fs.fill_probes(probes), lambda wrap: wrap(signs), lambda: torch.full_like(v, 1.0), v.numel())


def mlp_divergence(shape: tuple[int, ...], device: str) -> Row:
    network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64)).to(device)
    network.requires_grad_(False)
    points = torch.randn(shape, device=device)

    def divergence() -> Tensor:
        jacobian = torch.func.vmap(torch.func.jacrev(network))(points)
        return jacobian.diagonal(dim1=1, dim2=2).sum(1)

    return Row(
        lambda: fs.mlp_divergence(points, network)[1],
        lambda wrap: wrap(divergence),
        lambda: network(points),
        points.numel(),
    )


def norm(shape: tuple[int, ...], device: str, last: bool, with_gradient: bool) -> Row:
    """With the ELU that follows it."""
    order = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(shape, device=device).contiguous(memory_format=order)
    gamma, alpha, beta = torch.randn(3, *shape[:2], device=device)
    ours = partial(fs.ops.instance_norm_plus, activation="elu")
    if not with_gradient:
        return Row(
            lambda: ours(x, gamma, alpha, beta),
            lambda wrap: partial(wrap(plain.norm_and_elu), x, gamma, alpha, beta),
            lambda: torch.mul(x, 0.5),
            x.numel(),
        )
    leaves, upstream = [t.clone().requires_grad_() for t in (x, gamma, alpha, beta)], torch.randn_like(x)

    def back(norm: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(norm(*leaves), leaves, upstream)

    return Row(
        lambda: back(ours),
        lambda wrap: partial(back, wrap(plain.norm_and_elu)),
        lambda: torch.add(torch.mul(x, 0.5), upstream),
        x.numel(),
    )


def layer(
    shape: tuple[int, ...], device: str, ours: Callable, torchs: Callable, last: bool, with_gradient: bool
) -> Row:
    """A function of one tensor, or it and its gradient."""
    order = torch.channels_last if last else torch.contiguous_format
    x, upstream = (torch.randn(shape, device=device).contiguous(memory_format=order) for _ in range(2))
    if not with_gradient:
        return Row(lambda: ours(x), lambda wrap: partial(wrap(torchs), x), lambda: torch.mul(x, 0.5), x.numel())
    leaf = x.clone().requires_grad_()

    def back(layer: Callable[[Tensor], Tensor]) -> object:
        return torch.autograd.grad(layer(leaf), leaf, upstream)

    return Row(
        lambda: back(ours),
        lambda wrap: partial(back, wrap(torchs)),
        lambda: (torch.mul(x, 0.5), torch.mul(upstream, 0.5)),
        x.numel(),
    )


ELU = partial(layer, ours=fs.ops.elu, torchs=functional.elu, last=False)
MEAN_POOL = partial(
    layer, ours=fs.ops.mean_pool, torchs=partial(functional.avg_pool2d, kernel_size=5, stride=1, padding=2)
)
MAX_POOL = partial(
    layer, ours=fs.ops.max_pool, torchs=partial(functional.max_pool2d, kernel_size=5, stride=1, padding=2)
)
