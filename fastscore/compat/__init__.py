"""Other projects' names and networks on fastscore's operators: functions by their names, and :mod:`.patch` (docs/porting.md)."""

from . import ncsn, ncsnv2, patch

__all__ = ["ncsn", "ncsnv2", "patch"]
