"""Is it any good? Metrics, the features they compare, pictures and curves: functions on tensors."""

from . import features, metrics, pictures, plots

__all__ = ["features", "metrics", "pictures", "plots"]
