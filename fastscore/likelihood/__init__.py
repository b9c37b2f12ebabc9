"""Likelihoods by the probability-flow ODE: log p(x) and bits per dimension, each with an error bar made of named parts.

With y = x / alpha, rho = sigma / alpha and u = log rho, samples move along dy/du = -rho sigma s(x, t), and the log density of y
moves with them::

    log p(y_0) = log p(y_T) - integral from u_0 to u_T of sigma^2 tr(ds/dx) du,   log p(x) = log p(y) - D log alpha

y_T has the normal density that a sampler begins with, so log p is exactly that of what :func:`fastscore.samplers.flow_ode`
draws: the data's, as far as the score is the data's and the prior is right.

Source: Song et al. 2021, "Score-based generative modeling through stochastic differential equations", section 4.3 and appendix
D.2; Grathwohl et al. 2019, "FFJORD" (probes that are fixed along a solve); Theis, van den Oord & Bethge 2016, "A note on the
evaluation of generative models" (dequantization).
"""

from .bits import BitsPerDim, bits_per_dim
from .log_prob import LogProb, log_prob

__all__ = ["BitsPerDim", "LogProb", "bits_per_dim", "log_prob"]
