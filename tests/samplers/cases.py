"""Every sampler as one function of the same arguments: what holds for all of them is tested on this table."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

import fastscore as fs
from fastscore.samplers import annealed_langevin, consistent_annealed, inpaint, interpolate, langevin

SIGMAS = torch.tensor([1.0, 0.3, 0.1])
START = 2 * fs.Philox(7).rand(3, 4) - 1


@dataclass(frozen=True)
class Case:
    """A sampler: ``call(score, x, sigmas, **options)`` runs chains from x [B, ...] by score(x, i)."""

    call: Callable
    options: dict  # its step size, how many steps, and a last denoising step
    updates: int  # with these options at three noise levels
    evaluations: int
    step_size: str = "step_size"

    def __call__(self, score, x=START, sigmas=SIGMAS, **changes):
        return self.call(score, x, sigmas, **(self.options | changes))

    def steps(self, score, x=START, sigmas=SIGMAS, **changes):
        """The same without a step size."""
        options = {name: value for name, value in self.options.items() if name != self.step_size}
        return self.call(score, x, sigmas, **(options | changes))


def _known(x):
    """The mask of the first third of a sample."""
    return torch.arange(x.shape[1:].numel(), device=x.device).view(x.shape[1:]) < x.shape[1:].numel() // 3


def _langevin(score, x, sigmas, **k):
    return langevin(lambda x, **kwargs: score(x, None, **kwargs), x, **k)


def _annealed(score, x, sigmas, start=None, **k):
    return annealed_langevin(score, x.shape, sigmas, start=x if start is None else start, dtype=x.dtype, **k)


def _consistent(score, x, sigmas, start=None, **k):
    return consistent_annealed(score, x.shape, sigmas, start=x if start is None else start, dtype=x.dtype, **k)


def _inpaint(score, x, sigmas, start=None, **k):
    return inpaint(score, x, _known(x), sigmas, start=x if start is None else start, **k)


def _interpolate(score, x, sigmas, start=None, **k):
    return interpolate(score, x.shape, sigmas, start=x if start is None else start, dtype=x.dtype, **k)


_BY_LEVELS = {"step_size": 1e-3, "steps_per_level": 2, "denoise": True}
CASES = {
    "langevin": Case(_langevin, {"step_size": 0.1, "num_steps": 3}, 3, 3),
    "annealed": Case(_annealed, _BY_LEVELS, 6, 7),
    "consistent": Case(_consistent, {"eta": 0.8, "denoise": True}, 2, 3, "eta"),
    "inpaint": Case(_inpaint, _BY_LEVELS, 6, 7),
    "interpolate": Case(_interpolate, _BY_LEVELS | {"num_interpolations": 2}, 6, 7),
}
BY_LEVELS = {name: case for name, case in CASES.items() if name != "langevin"}
