"""Is it any good? Metrics, the features they compare, pictures and curves: functions on tensors."""

from . import comparison, features, inception, level_plots, metrics, pictures, plots, snapshot_plots

__all__ = [
    "comparison",
    "features",
    "inception",
    "level_plots",
    "metrics",
    "pictures",
    "plots",
    "snapshot_plots",
]
