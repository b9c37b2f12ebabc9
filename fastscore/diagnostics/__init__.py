"""How good a score is, and how good the samples are that it led to.

Against a known score: :func:`fisher_divergence` and :func:`score_error`. Of a score alone, on samples of the density that it is to
be of: :func:`stein_residual`, :func:`kernel_stein_discrepancy`, and :func:`curl`, which is 0 of every gradient. Of chains:
:func:`split_rhat` and :func:`effective_sample_size`.
"""

from .chains import effective_sample_size, split_rhat
from .fields import Curl, Estimate, ScoreError, curl, fisher_divergence, score_error
from .stein import SteinResidual, SteinTest, kernel_stein_discrepancy, stein_residual

__all__ = [
    "Curl",
    "Estimate",
    "ScoreError",
    "SteinResidual",
    "SteinTest",
    "curl",
    "effective_sample_size",
    "fisher_divergence",
    "kernel_stein_discrepancy",
    "score_error",
    "split_rhat",
    "stein_residual",
]
