"""``%%bash`` for the tutorials: a cell's commands in one shell, their output in one piece, and an error where one fails.

(IPython's own passes the output on in pieces of a hundred bytes, which are shown as lines.)
"""

import os
import subprocess

from IPython.core.magic import register_cell_magic


@register_cell_magic
def bash(_: str, cell: str) -> None:
    """Run ``cell``, print what it printed."""
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", cell], capture_output=True, text=True, env=plain)
    print(done.stdout, end="")
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
