"""Drop-ins: other projects' function names and argument order, on fastscore's operators."""

from . import ncsn

__all__ = ["ncsn"]
