"""Guidance: functions from scores to scores, so that every sampler, loss and trace takes what they give.

Each takes a ``score_fn(x, c)``, where c, [B], is what samplers tell it (labels, sigma or t), and returns a module that is
called the same way. They nest: a posterior score of a classifier-free one is a score too.

- a class y: :func:`classifier`, by the gradient of log p(y | x_t); :func:`classifier_free`, by a network of class labels;
- a better sample: :func:`autoguidance`, away from a worse network;
- a measurement y = A x_0 + noise, A a :class:`Measurement`: :func:`pigdm`, :func:`dps`, :func:`projection`.

Where the noise level matters they are told ``path``: the noise levels [L] that labels index, or a
:class:`fastscore.paths.Path`. An integer c is an index of the levels; a floating c is sigma of levels, and t of a path (or
its sigma, with ``conditioning="sigma"``).
"""

from .class_labels import autoguidance, classifier_free, with_label
from .classifiers import class_log_prob, classifier
from .measurements import Measurement, blur, colour, inpainting, matrix, subsampling
from .posterior import dps, pigdm, projection

__all__ = [
    "Measurement",
    "autoguidance",
    "blur",
    "class_log_prob",
    "classifier",
    "classifier_free",
    "colour",
    "dps",
    "inpainting",
    "matrix",
    "pigdm",
    "projection",
    "subsampling",
    "with_label",
]
