"""How far a reproduction is, on one screen: ``fastscore status`` of its folder."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from ..._core.errors import CheckpointError
from .. import checkpoint
from ..progress import duration
from ..status import bytes_below, screen, size, status
from . import folder, report_facts


def is_reproduction(out: Path) -> bool:
    """Whether ``out`` is the folder of a reproduction, and not that of a run."""
    return any((out / name).exists() for name in (folder.PLAN, folder.DATA)) and not (out / checkpoint.CONFIG).exists()


def lines(out: Path) -> str:
    """What is being done there, how far each stage is, and while it trains what is known of the run. Nothing is written.

    Raises:
        CheckpointError: not the folder of a reproduction. OSError: it cannot be read.
    """
    if not is_reproduction(out):
        raise CheckpointError(
            f"{out} is not the folder of a reproduction: it has neither {folder.PLAN} nor {folder.DATA}"
        )
    facts = report_facts.read(out)
    stages = facts.stages()
    following = next((name for name, over, _ in stages if not over), None)
    alive, command = checkpoint.is_held(out / folder.LOCK), facts.plan.get("command")
    state = "done" if following is None else f"at {following}"
    if following is not None and not alive:
        state += "; no process is at it" if alive is False else "; whether a process is at it cannot be told"
        state += f": go on with: {command}" if command else ": go on with the command that began it"
    model, name = facts.plan.get("model", "a model"), report_facts.part(facts.data, "train", "name")
    found = [("reproduces", f"{out}: {model} on {name}"), ("state", state)]
    found += [("", f"{stage:<22} {words}") for stage, _, words in stages]
    if not math.isnan(facts.spent):
        hours = report_facts.real(facts.plan.get("hours"))
        found.append(("time", f"{duration(facts.spent)} spent" + ("" if math.isnan(hours) else f" of {hours:g} hours")))
    more = report_facts.part(facts.clock, "left_out", "command")
    found += [("more seeds", str(more))] if facts.left_out and following is None and more else []
    found += [("unreadable", text) for text in facts.unreadable]
    found.append(("disk", f"{size(bytes_below(out))} in the folder, {size(shutil.disk_usage(out).free)} free"))
    text = "\n".join(f"{name:<11} {words}" for name, words in found)
    if following == "training" and (out / folder.RUN / checkpoint.CONFIG).exists():
        told = [
            line for line in screen(status(out / folder.RUN)).splitlines() if not line.startswith(("state", "disk"))
        ]
        text += "\n" + "\n".join(told)
    return text
