"""The operators. One operator is one file: equation, checks, reference."""

from .dsm_loss import dsm_loss
from .langevin_step import langevin_step
from .perturb import perturb

__all__ = ["dsm_loss", "langevin_step", "perturb"]
