"""Samplers. Each works for any ``score_fn``, records no gradients, and draws its noise by the contract of rng.py."""

from ._common import Trajectory
from .annealed import annealed_langevin
from .consistent import consistent_annealed
from .inpaint import inpaint
from .interpolate import interpolate
from .langevin import langevin

__all__ = ["Trajectory", "annealed_langevin", "consistent_annealed", "inpaint", "interpolate", "langevin"]
