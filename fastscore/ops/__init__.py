"""The operators. One operator is one file: equation, checks, reference."""

from .._images import ImageBatch, perturb_images
from .affine_step import affine_step
from .dsm_loss import dsm_loss
from .elu import elu
from .fill_probes import Coloring, Probes, fill_probes
from .instance_norm_plus import instance_norm_plus
from .langevin_step import langevin_step
from .max_pool import max_pool
from .mean_pool import mean_pool
from .mlp_divergence import mlp_divergence
from .perturb import perturb
from .probe_dot import probe_dot

__all__ = [
    "Coloring",
    "ImageBatch",
    "Probes",
    "affine_step",
    "dsm_loss",
    "elu",
    "fill_probes",
    "instance_norm_plus",
    "langevin_step",
    "max_pool",
    "mean_pool",
    "mlp_divergence",
    "perturb",
    "perturb_images",
    "probe_dot",
]
