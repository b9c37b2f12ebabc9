"""The command line: a module for each command or for a few that are alike, and ``commands``, where they come together.

It calls the rest of the application, and nothing there knows of it.
"""

from .commands import main

__all__ = ["main"]
