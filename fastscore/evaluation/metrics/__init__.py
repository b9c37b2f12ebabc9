"""How good samples are: distances between sets of feature vectors, statistics of predicted classes.

Plain torch, in float64 on the device of the tensors, and sized for 50,000 vectors of Inception's 2048 features against
50,000. :mod:`fastscore.evaluation.features` says what the feature vectors
are.
"""

from .classes import HistogramDistance, InceptionScore, class_histogram, histogram_distance, inception_score
from .densities import gaussian_log_prob, kernel_log_prob
from .energy import TwoSampleTest, two_sample_test
from .frechet import Gaussian, GaussianFactor, frechet_distance, gaussian, gaussian_distance, gaussian_factor
from .kernel import KernelDistance, kernel_distance
from .neighbours import Neighbours, PrecisionRecall, nearest_neighbours, precision_recall

__all__ = [
    "Gaussian",
    "GaussianFactor",
    "HistogramDistance",
    "InceptionScore",
    "KernelDistance",
    "Neighbours",
    "PrecisionRecall",
    "TwoSampleTest",
    "class_histogram",
    "frechet_distance",
    "gaussian",
    "gaussian_distance",
    "gaussian_factor",
    "gaussian_log_prob",
    "histogram_distance",
    "inception_score",
    "kernel_distance",
    "kernel_log_prob",
    "nearest_neighbours",
    "precision_recall",
    "two_sample_test",
]
