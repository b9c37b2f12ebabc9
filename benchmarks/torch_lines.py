"""The torch lines that a user would write in place of an operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def langevin_step(x: Tensor, score: Tensor, step_size: float) -> Tensor:
    return x + step_size / 2 * score + step_size**0.5 * torch.randn_like(x)


def affine_step(x: Tensor, scores: list[Tensor], a: float, b: list[float], c: float) -> Tensor:
    value = a * x
    for factor, score in zip(b, scores):
        value = value + factor * score
    return value + c * torch.randn_like(x) if c else value


def perturb(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn_like(x)
    return x + sigma.view(-1, *[1] * (x.dim() - 1)) * noise, noise


def dsm_loss(score: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    target = noise / sigma.view(-1, *[1] * (score.dim() - 1))
    return 0.5 * ((score + target) ** 2).flatten(1).sum(1) * sigma**2


def norm_and_elu(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    means = x.mean((2, 3))
    away = (means - means.mean(1, keepdim=True)) / torch.sqrt(means.var(1, keepdim=True) + 1e-5)
    h = torch.nn.functional.instance_norm(x) + (alpha * away)[..., None, None]
    return torch.nn.functional.elu(gamma[..., None, None] * h + beta[..., None, None])


def gradient(loss: Callable[..., Tensor], score: Tensor, *others: object) -> Tensor:
    score = score.detach().requires_grad_()
    loss(score, *others).mean().backward()
    return score.grad


def chain(perturb: Callable, loss: Callable, *arguments: object) -> Tensor:
    """A training step's part around the network, which here is the identity."""
    x_tilde, noise = perturb(*arguments)
    return gradient(loss, x_tilde, noise, arguments[1])


def read_images(images: Tensor, indices: Tensor, sigma: Tensor) -> Tensor:
    """NCSN's batch: gathered, mirrored, (255/256) X + U/256, perturbed."""
    x = images[indices]
    x = torch.where((torch.rand(len(x), device=x.device) < 0.5).view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)
    return perturb((x + torch.rand(x.shape, device=x.device)) / 256, sigma)[0]
