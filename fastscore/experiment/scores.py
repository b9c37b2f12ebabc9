"""The score of a run: its network with what it predicts, on the run's path, as losses and samplers call it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..conversions import Converted, as_score
from ..models import Preconditioned
from ..paths import PATHS, Path
from ..samplers import Sampler
from .build import make_sigmas
from .config import TrainConfig
from .path_bounds import make_path


def on_path(config: TrainConfig, network: nn.Module) -> Converted:
    """score(x, t) on the run's path of continuous t, x_t [B, ...] and t a number or [B].

    - ``score``: the network's own score for alpha = 1, asked at x_t / alpha and sigma / alpha. Where the objective knows the
      data's standard deviation (EDM's), NCSNv2 is the F of EDM's preconditioning; an mlp is preconditioned anyhow.
    - the others: the network's output as it is, NCSNv2's before it is divided by sigma, is what it predicts at x_t. The mlp is
      told sigma / alpha; NCSNv2 sees the noise of x_t itself.

    Args:
        config: the run's.
        network: called (x, sigma), in whatever precision.
    """
    path = make_path(config)
    plain = network if config.model == "mlp" else _Undivided(network)
    if config.parametrization != "score":
        return as_score(plain, kind=config.parametrization, path=path, conditioning=_NoiseRatio(path))
    data_std = config.objective_options.get("data_std")
    if data_std is not None and config.model != "mlp":
        network = Preconditioned(plain, data_std=data_std)
    return as_score(network, kind="score", path=path, conditioning="sigma", rescale=True)


def on_any_path(config: TrainConfig, network: nn.Module) -> Converted:
    """:func:`on_path`, or on noise levels score(x, t) at t = sigma of one of them, by its label."""
    if PATHS[config.path].continuous:
        return on_path(config, network)
    return as_score(network, kind="score", path=make_path(config), conditioning="labels")


def begins_about_the_mean(config: TrainConfig) -> bool:
    """Whether the mean of the data is seen at the most noise: of images in [0, 1] it is not where alpha is below sigma / 100."""
    path = make_path(config)
    return float(path.log_snr(path.t_max)) > 2 * math.log(0.01) or PATHS[config.path].keeps_scale


def for_sampler(config: TrainConfig, network: nn.Module, entry: Sampler) -> tuple[Callable[..., Tensor], Any]:
    """What ``entry.run`` takes as ``score_fn`` and ``sigmas``: labels and the noise levels, or t and the path."""
    if not PATHS[config.path].continuous:
        return network, make_sigmas(config)
    score = on_path(config, network)
    if entry.any_path:
        return score, score.path
    return _AtLevels(score, make_sigmas(config)), make_sigmas(config)


def where_sampled(config: TrainConfig, entry: Sampler) -> Path | list[float]:
    """What ``entry.sigma_after`` takes as ``sigmas``."""
    continuous = PATHS[config.path].continuous and entry.any_path
    return make_path(config) if continuous else make_sigmas(config).tolist()


def near_the_data(config: TrainConfig, network: nn.Module) -> tuple[Callable[[Tensor], Tensor], float, float]:
    """(score(x), alpha, sigma) at little noise, where Langevin dynamics by the run's step size works.

    That is the last noise level, or on a path of continuous t, which goes on to far less noise than the step, the time at
    which (sigma / alpha)^2 is five steps.
    """
    if not PATHS[config.path].continuous:
        last = config.num_levels - 1
        return lambda x: network(x, torch.full((len(x),), last, device=x.device)), 1.0, config.sigma_end
    score = on_path(config, network)
    ends = float(score.path.log_snr(score.path.t_max)), float(score.path.log_snr(score.path.t_min))
    t = float(score.path.t_of_log_snr(max(ends[0], min(-math.log(5 * config.step_size), ends[1]))))
    return lambda x: score(x, t), float(score.path.alpha(t)), float(score.path.sigma(t))


class _Undivided(nn.Module):
    """f(x) of NCSNv2, whose score is f(x) / sigma."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, noise: Tensor, **keywords: Any) -> Tensor:
        return self.network(x, torch.ones_like(noise), **keywords)


class _NoiseRatio:
    """sigma / alpha at the times t [B], in their dtype."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, t: Tensor) -> Tensor:
        return (-self.path.log_snr(t.double()) / 2).exp().to(t.dtype)


class _AtLevels(nn.Module):
    """score(x, labels) at the noise levels [L] of a path whose alpha is 1."""

    t: Tensor

    def __init__(self, score: Converted, sigmas: Tensor) -> None:
        super().__init__()
        self.score = score
        ends = float(score.path.sigma(score.path.t_min)), float(score.path.sigma(score.path.t_max))
        self.register_buffer("t", score.path.t_of_sigma(sigmas.double().clamp(*ends)))

    def forward(self, x: Tensor, labels: Tensor, **keywords: Any) -> Tensor:
        return self.score(x, self.t.to(x.device)[labels], **keywords)
