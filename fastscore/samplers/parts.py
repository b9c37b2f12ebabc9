"""What the samplers are made of, for the packages that are built on it: likelihoods, diagnostics and the application."""

from ._given import check_data
from ._grid import Levels, Point, check_decreasing, source
from ._points import INTERPOLATE, conditioning
from ._score import Score, check_network, conditioned
from ._start import check_covariance

__all__ = [
    "INTERPOLATE",
    "Levels",
    "Point",
    "Score",
    "check_covariance",
    "check_data",
    "check_decreasing",
    "check_network",
    "conditioned",
    "conditioning",
    "source",
]
