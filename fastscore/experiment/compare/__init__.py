"""Every sampler on one trained network, at equal numbers of evaluations: ``fastscore compare-samplers``.

``comparison`` draws what is not measured yet, ``search`` finds the settings that spend a budget best, ``measures`` measures a
cell, ``cells`` keeps it, and ``report`` writes the table and the picture.
"""

from .cells import BUDGETS, CELLS
from .comparison import SEARCH_SEED, compare
from .report import PICTURE, TABLE, Row, draw, page, rows_of

__all__ = [
    "BUDGETS",
    "CELLS",
    "PICTURE",
    "SEARCH_SEED",
    "TABLE",
    "Row",
    "compare",
    "draw",
    "page",
    "rows_of",
]
