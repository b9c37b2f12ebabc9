"""What the tests of both repositories' functions share: networks, samples and noise with a known answer."""

from __future__ import annotations

import inspect
import math

import torch

import fastscore as fs

SIGMAS = torch.tensor([1.0, 0.4, 0.1], dtype=torch.float64)
MATRIX = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SAMPLES = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([2, 0, 1, 2])


def net(x, labels=None):
    """A network that is neither linear nor symmetric, and depends on the label."""
    shift = 0.0 if labels is None else labels.view(-1, 1, 1, 1).to(x.dtype)
    return (torch.sin(x).flatten(1) @ MATRIX).view_as(x) - 0.3 * x + shift


def noise(step, stream, shape=SAMPLES.shape, seed=5):
    return fs.Philox(seed, step=step).randn(shape, stream=stream, dtype=torch.float64)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def eta_of(sigma, step_lr):
    return step_lr * (sigma / SIGMAS.float()[-1].item()) ** 2


def langevin_by_hand(x, step_lr, n_steps):
    """The states, scores and noises of annealed Langevin dynamics in the originals' form."""
    states, scores, noises, step = [], [], [], 0
    for c, sigma in enumerate(SIGMAS.float().tolist()):
        eta = eta_of(sigma, step_lr)
        for _ in range(n_steps):
            scores.append(net(x, torch.full((len(x),), c)))
            noises.append(noise(step, fs.Stream.LANGEVIN))
            x = x + eta * scores[-1] + math.sqrt(2 * eta) * noises[-1]
            step += 1
            states.append(x)
    return states, scores, noises


def inpainting_by_hand(refer, x_mod, n_steps, step_lr):
    image, x, step, frames = refer.repeat_interleave(2, 0), x_mod.flatten(0, 1).clone(), 0, []
    for c, sigma in enumerate(SIGMAS.float().tolist()):
        eta = eta_of(sigma, step_lr)
        left = (image + sigma * noise(step, fs.Stream.INPAINT))[..., :1]
        step += 1
        x[..., :1] = left
        for _ in range(n_steps):
            x = x + eta * net(x, torch.full((4,), c)) + math.sqrt(2 * eta) * noise(step, fs.Stream.LANGEVIN)
            step += 1
            x[..., :1] = left
            frames.append(x.clone())
    frames[-1][..., :1] = image[..., :1]
    return frames


def signature(function) -> str:
    """Names and defaults as the originals have them: without our keyword-only rng."""
    parts = []
    for p in inspect.signature(function).parameters.values():
        if p.kind == p.KEYWORD_ONLY:
            assert p.name == "rng" and p.default is None
        else:
            parts.append(p.name if p.default is p.empty else f"{p.name}={p.default!r}")
    return ", ".join(parts)
