"""Traces of Jacobians: tr(df/dx) of every sample, with an error bar, at the least number of network evaluations."""

from .coloring import lattice
from .jacobian_trace import METHODS, Trace, jacobian_trace
from .products import MODES

__all__ = ["METHODS", "MODES", "Trace", "jacobian_trace", "lattice"]
