"""Samplers. Each works for any ``score_fn``, records no gradients, and draws its noise by the contract of rng.py.

All that take a step size take ``step_size``, of x + step_size/2 s + sqrt(step_size) z (the papers' alpha), or
``step_lr``, of x + step_lr s + sqrt(2 step_lr) z: step_size = 2 step_lr. Networks belong in eval mode: a layer that
normalises by the batch's statistics is an error; one that draws masks brings a warning. A network that changes its
input in place does not disturb the chain. Under ``torch.func.vmap`` each slice's noise follows its ``randomness``, and
there is no warning of samples that are not finite.

``SAMPLERS`` holds those that draw from a trained network alone, each with its options and what it costs: the command
line, the evaluation and the documentation offer what they find there.
"""

from .._core.options import Option
from ._chain import How
from ._sampler import Sampler
from ._watch import Callback, Trajectory
from .adaptive_ode import adaptive_ode
from .ancestral import ancestral
from .annealed import annealed_langevin
from .consistent import consistent_annealed
from .ddim import ddim
from .dpm_solver import dpm_solver
from .flow_ode import flow_ode
from .gotta_go_fast import gotta_go_fast
from .heun import heun
from .inpaint import inpaint
from .interpolate import interpolate
from .langevin import langevin
from .mala import Mala, mala
from .one_call import sample
from .predictor_corrector import predictor_corrector
from .registry import BEST_OF_FEW, DEFAULT, RECIPE, SAMPLERS, SHORTLIST
from .reverse_sde import reverse_sde

__all__ = [
    "BEST_OF_FEW",
    "DEFAULT",
    "RECIPE",
    "SAMPLERS",
    "SHORTLIST",
    "Callback",
    "How",
    "Mala",
    "Option",
    "Sampler",
    "Trajectory",
    "adaptive_ode",
    "ancestral",
    "annealed_langevin",
    "consistent_annealed",
    "ddim",
    "dpm_solver",
    "flow_ode",
    "gotta_go_fast",
    "heun",
    "inpaint",
    "interpolate",
    "langevin",
    "mala",
    "predictor_corrector",
    "reverse_sde",
    "sample",
]
