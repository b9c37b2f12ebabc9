"""Drop-ins: other projects' function names and argument order, on fastscore's operators (docs/porting.md)."""

from . import ncsn, ncsnv2

__all__ = ["ncsn", "ncsnv2"]
