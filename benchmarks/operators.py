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
TRACE_OPERATORS = ("fill_probes", "fill_probes, 8 colours", "probe_dot", "probe_dot, 8 colours", "mlp_divergence")
TRACE_SHAPE = "8x16x3x32x32"  # eight probes of 16 images; the MLP has 1024 points of 64 numbers, 512 hidden units
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


def trace_cases(device: str = "cpu", *, compile: bool = True) -> Iterator[Case]:
    """The operators of trace estimates. Eager's signs are randn.sign(), which is faster here than randint * 2 - 1."""
    x = torch.zeros(16, 3, 32, 32, device=device)
    plain = fs.Probes(x, 8, fs.Philox(0))
    colored = fs.Probes(x, 8, fs.Philox(0), coloring=fs.Coloring(8, 32, 32, 1, 3, 2))
    v, product = fs.fill_probes(plain), torch.randn(8, *x.shape, device=device)
    mask = colored.coloring.of(x.shape[1:], device) == torch.arange(8, device=device).view(8, 1, 1, 1, 1)
    network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64)).to(device)
    network.requires_grad_(False)
    points = torch.randn(1024, 64, device=device)

    def signs() -> Tensor:
        return torch.randn(v.shape, device=device).sign()

    def masked() -> Tensor:
        return torch.randn(x.shape, device=device).sign() * mask

    def dot() -> Tensor:
        return (v * product).flatten(2).sum(2)

    def divergence() -> Tensor:
        jacobian = torch.func.vmap(torch.func.jacrev(network))(points)
        return jacobian.diagonal(dim1=1, dim2=2).sum(1)

    table = {
        "fill_probes": (lambda: fs.fill_probes(plain), signs, lambda: torch.full_like(v, 1.0)),
        "fill_probes, 8 colours": (lambda: fs.fill_probes(colored), masked, lambda: torch.full_like(v, 1.0)),
        "probe_dot": (lambda: fs.probe_dot(product, plain), dot, lambda: product.flatten(2).sum(2)),
        "probe_dot, 8 colours": (lambda: fs.probe_dot(product, colored), dot, lambda: product.flatten(2).sum(2)),
        "mlp_divergence": (lambda: fs.mlp_divergence(points, network)[1], divergence, lambda: network(points)),
    }
    for operator, (ours, eager, floor) in table.items():
        providers = {"fastscore": ours, "eager": eager, "floor": floor}
        if compile:
            providers["compile"] = torch.compile(eager, dynamic=False)
        yield Case(
            operator,
            TRACE_SHAPE if operator != "mlp_divergence" else "1024x64",
            v.numel() if operator != "mlp_divergence" else points.numel(),
            providers,
        )


def cases(device: str = "cpu", *, shapes: tuple[str, ...] = tuple(SHAPES), compile: bool = True) -> Iterator[Case]:
    """Every operator at every shape; for those of traces see :func:`trace_cases`."""
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
                "floor": lambda x=x, s=score: torch.add(x, s, alpha=0.05),
            },
            "perturb": {
                "fastscore": lambda x=x, o=sigma, r=rng: fs.perturb(x, o, r),
                "eager": lambda x=x, o=sigma: perturb(x, o),
                "compile": lambda x=x, o=sigma, f=compiled[perturb]: f(x, o),
                "floor": lambda x=x: torch.mul(x, 0.5),
            },
            "dsm_loss": {
                "fastscore": lambda s=score, h=handle, o=sigma: fs.dsm_loss(s, h, o),
                "eager": lambda s=score, z=z, o=sigma: dsm_loss(s, z, o),
                "compile": lambda s=score, z=z, o=sigma, f=compiled[dsm_loss]: f(s, z, o),
                "floor": lambda s=score: s.sum(),
            },
            "dsm_loss + gradient": {
                "fastscore": lambda s=leaf, h=handle, o=sigma: gradient(fs.dsm_loss, s, h, o),
                "eager": lambda s=leaf, z=z, o=sigma: gradient(dsm_loss, s, z, o),
                "compile": lambda s=leaf, z=z, o=sigma, f=compiled[dsm_loss]: gradient(f, s, z, o),
                "floor": lambda s=score: torch.mul(s, 0.5),
            },
            "perturb + dsm_loss + gradient": {
                "fastscore": lambda x=x, o=sigma, r=rng: chain(fs.perturb, fs.dsm_loss, x, o, r),
                "eager": lambda x=x, o=sigma: chain(perturb, dsm_loss, x, o),
                "compile": lambda x=x, o=sigma, f=compiled: chain(f[perturb], f[dsm_loss], x, o),
                "floor": lambda x=x: torch.mul(torch.mul(x, 0.5), 0.5),
            },
        }
        for operator, providers in table.items():
            if not compile:
                del providers["compile"]
            yield Case(operator, name, x.numel(), providers)
