"""What is compared: each operator by fastscore, by the torch lines a user would write, by torch.compile of those
lines, and by one torch operation that moves the same bytes (the memory floor). All on float32.

A provider is a function without arguments that does the work once; :func:`cases` makes them for one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import fastscore as fs

SHAPES = {"64x2": (64, 2), "64x3x32x32": (64, 3, 32, 32), "128x3x32x32": (128, 3, 32, 32), "4M": (1024, 4, 32, 32)}
OPERATORS = ("langevin_step", "perturb", "dsm_loss", "dsm_loss + gradient", "perturb + dsm_loss + gradient")
PROVIDERS = ("fastscore", "eager", "compile", "floor")


@dataclass
class Case:
    operator: str
    shape: str
    elements: int
    providers: dict[str, Callable[[], object]]


def langevin_step(x: Tensor, score: Tensor, alpha: float) -> Tensor:
    return x + alpha / 2 * score + alpha**0.5 * torch.randn_like(x)


def perturb(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn_like(x)
    return x + sigma.view(-1, *[1] * (x.dim() - 1)) * noise, noise


def dsm_loss(score: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    target = noise / sigma.view(-1, *[1] * (score.dim() - 1))
    return 0.5 * ((score + target) ** 2).flatten(1).sum(1) * sigma**2


def gradient(loss: Callable[..., Tensor], score: Tensor, *others: object) -> Tensor:
    score = score.detach().requires_grad_()
    loss(score, *others).mean().backward()
    return score.grad


def chain(perturb: Callable, loss: Callable, *arguments: object) -> Tensor:
    """A training step's part around the network, which here is the identity."""
    x_tilde, noise = perturb(*arguments)
    return gradient(loss, x_tilde, noise, arguments[1])


def cases(device: str = "cpu", *, shapes: tuple[str, ...] = tuple(SHAPES), compile: bool = True) -> Iterator[Case]:
    """Every operator at every shape."""
    for name in shapes:
        shape = SHAPES[name]
        x, score = (torch.randn(shape, device=device) for _ in range(2))
        sigma, rng = torch.linspace(0.01, 1.0, shape[0], device=device), fs.Philox(0)
        z, handle = torch.randn(shape, device=device), rng.noise(shape, device=device)
        leaf = score.clone().requires_grad_()
        compiled = {f: torch.compile(f, dynamic=False) if compile else f for f in (langevin_step, perturb, dsm_loss)}

        table = {
            "langevin_step": {
                "fastscore": lambda x=x, s=score, r=rng: fs.langevin_step(x, s, 0.1, r),
                "eager": lambda x=x, s=score: langevin_step(x, s, 0.1),
                "compile": lambda x=x, s=score, f=compiled[langevin_step]: f(x, s, 0.1),
                "floor": lambda x=x, s=score: torch.add(x, s, alpha=0.05)},
            "perturb": {
                "fastscore": lambda x=x, o=sigma, r=rng: fs.perturb(x, o, r),
                "eager": lambda x=x, o=sigma: perturb(x, o),
                "compile": lambda x=x, o=sigma, f=compiled[perturb]: f(x, o),
                "floor": lambda x=x: torch.mul(x, 0.5)},
            "dsm_loss": {
                "fastscore": lambda s=score, h=handle, o=sigma: fs.dsm_loss(s, h, o),
                "eager": lambda s=score, z=z, o=sigma: dsm_loss(s, z, o),
                "compile": lambda s=score, z=z, o=sigma, f=compiled[dsm_loss]: f(s, z, o),
                "floor": lambda s=score: s.sum()},
            "dsm_loss + gradient": {
                "fastscore": lambda s=leaf, h=handle, o=sigma: gradient(fs.dsm_loss, s, h, o),
                "eager": lambda s=leaf, z=z, o=sigma: gradient(dsm_loss, s, z, o),
                "compile": lambda s=leaf, z=z, o=sigma, f=compiled[dsm_loss]: gradient(f, s, z, o),
                "floor": lambda s=score: torch.mul(s, 0.5)},
            "perturb + dsm_loss + gradient": {
                "fastscore": lambda x=x, o=sigma, r=rng: chain(fs.perturb, fs.dsm_loss, x, o, r),
                "eager": lambda x=x, o=sigma: chain(perturb, dsm_loss, x, o),
                "compile": lambda x=x, o=sigma, f=compiled: chain(f[perturb], f[dsm_loss], x, o),
                "floor": lambda x=x: torch.mul(torch.mul(x, 0.5), 0.5)},
        }
        for operator, providers in table.items():
            if not compile:
                del providers["compile"]
            yield Case(operator, name, x.numel(), providers)
