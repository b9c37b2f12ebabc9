"""Noise levels sigma_1 > ... > sigma_L: two schedules, and NCSNv2's rules for choosing them from the data."""

from .distances import largest_distance
from .levels import geometric_sigmas, uniform_sigmas
from .step_sizes import Alpha, StepLr, refuse_other_form
from .suggestion import Suggestion, suggest
from .techniques import PUBLISHED_OVERLAP, level_overlap, level_ratio, step_size, variance_ratio

__all__ = [
    "PUBLISHED_OVERLAP",
    "Alpha",
    "StepLr",
    "Suggestion",
    "geometric_sigmas",
    "largest_distance",
    "level_overlap",
    "level_ratio",
    "refuse_other_form",
    "step_size",
    "suggest",
    "uniform_sigmas",
    "variance_ratio",
]
