"""Samplers. Each works for any ``score_fn``, records no gradients, and draws its noise by the contract of rng.py.

All that take a step size take ``alpha``, of x + alpha/2 s + sqrt(alpha) z, or ``step_lr``, of x + step_lr s +
sqrt(2 step_lr) z: alpha = 2 step_lr. Networks belong in eval mode: a layer that normalises by the batch's statistics is
an error, one that draws masks is warned of. What they are given they may change in place; the chain does not notice.
Under ``torch.func.vmap`` each slice's noise follows its ``randomness``, and samples that are not finite
are not warned of.
"""

from ._watch import Trajectory
from .annealed import annealed_langevin
from .consistent import consistent_annealed
from .inpaint import inpaint
from .interpolate import interpolate
from .langevin import langevin

__all__ = ["Trajectory", "annealed_langevin", "consistent_annealed", "inpaint", "interpolate", "langevin"]
