r"""Noise levels sigma_1 > ... > sigma_L: two schedules, and NCSNv2's rules for choosing them from the data.

These, which :func:`suggest` follows, are from Song & Ermon, "Improved techniques for training score-based generative
models" (2020), for data of D dimensions:

- Technique 1: sigma_1 is the largest Euclidean distance between two data points, :func:`largest_distance`;
- Technique 2: a geometric sequence whose ratio gamma = sigma_{i-1} / sigma_i makes neighbours overlap by

      Phi(sqrt(2D) (gamma - 1) + 3 gamma) - Phi(sqrt(2D) (gamma - 1) - 3 gamma) ~= 0.5,

  with Phi the standard normal's distribution function;
- Technique 4: T Langevin steps at each level, of the step size epsilon that brings the variance of the samples after a
  level's last step, in units of the level's own, closest to 1:

      s_T^2 / sigma^2 = (1 - epsilon/sigma_L^2)^{2T} (gamma^2 - k) + k,
      k = 2 epsilon / (sigma_L^2 - sigma_L^2 (1 - epsilon/sigma_L^2)^2).
"""

from .distances import largest_distance
from .levels import geometric_sigmas, uniform_sigmas
from .step_sizes import StepLr, StepSize, refuse_other_form
from .suggestion import Suggestion, suggest
from .techniques import PUBLISHED_OVERLAP, level_overlap, level_ratio, suggest_step_lr, variance_ratio

__all__ = [
    "PUBLISHED_OVERLAP",
    "StepLr",
    "StepSize",
    "Suggestion",
    "geometric_sigmas",
    "largest_distance",
    "level_overlap",
    "level_ratio",
    "refuse_other_form",
    "suggest",
    "suggest_step_lr",
    "uniform_sigmas",
    "variance_ratio",
]
