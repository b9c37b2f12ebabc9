"""The folder of a reproduction: which files are in it, read and written whole.

plan.json what is to be done; data.json what it is trained on; timing.json how long that takes here; run/ the run; selection/
what each snapshot's samples are like, selection.json which is best; samples/ and measures/ of the best and the last; clock.json how
long all took so far; report.md, report.html and report/. Rank 0 alone writes. A JSON file is there once what it speaks of is whole, so what is there need
not be done again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._core import files
from ..._core.errors import CheckpointError
from ..config import parse_json
from ..ranks import Ranks

PLAN, DATA, TIMING, SELECTION, CLOCK = "plan.json", "data.json", "timing.json", "selection.json", "clock.json"
RUN, SELECTED, SAMPLES, MEASURES, FEATURES = "run", "selection", "samples", "measures", "features"
LOCK = ".lock"


def stem(step: int, weights: str, seed: int | None = None) -> str:
    """The name of what belongs to a snapshot's weights, and to a seed.

    >>> stem(5000, "ema"), stem(300001, "ema", 0)
    ('step_00005000-ema', 'step_00300001-ema-seed-0')
    """
    return f"step_{step:08d}-{weights}" + ("" if seed is None else f"-seed-{seed}")


def read(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``, or None where there is none.

    Raises:
        CheckpointError: it is something else, or cannot be read.
    """
    try:
        values = parse_json(files.read(path))
        if not isinstance(values, dict):
            raise ValueError(f"it must hold a JSON object, got {type(values).__name__}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}; put it back as it was, or choose another folder with --out"
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): put it back as it was, or delete it to have it made again"
        ) from error
    return values


def record(path: Path, of: Mapping[str, Any]) -> dict[str, Any] | None:
    """As :func:`read`, of an object whose values of the names in ``of`` are these.

    Raises:
        CheckpointError: others; or its Frechet distance is neither a finite number nor null.
    """
    found = read(path)
    if found is None:
        return None
    other = [name for name, value in of.items() if type(found.get(name)) is not type(value) or found[name] != value]
    distance = found.get("frechet_distance", "missing")
    if other or not (distance is None or (type(distance) in (int, float) and -math.inf < distance < math.inf)):
        name = other[0] if other else "frechet_distance"
        must = f" where it must be {of[name]!r}" if other else " where it must be a number or null"
        raise CheckpointError(
            f"{path} says {name} {found.get(name)!r:.60}{must}: put it back as it was, or delete it to have it made again"
        )
    return found


def write(path: Path, values: dict[str, Any]) -> None:
    """Make ``values`` the content of ``path``, and its folder where there is none; nothing where they are already.

    Raises:
        CannotWrite: the text names the file, and what was there stays.
    """
    text = (json.dumps(values, indent=2) + "\n").encode()
    if path.is_file() and path.read_bytes() == text:
        return
    with files.naming(path):
        path.parent.mkdir(exist_ok=True)
    files.write_atomically(path, text)


@dataclass(frozen=True)
class Means:
    """By what a call computes, which changes no number.

    Attributes:
        device: its name.
        batch_size: samples at a time.
        progress: whether bars are shown.
        ranks: which share the work.
    """

    device: str
    batch_size: int
    progress: bool
    ranks: Ranks


def there(ranks: Ranks, path: Path, of: Mapping[str, Any] | None = None) -> bool:
    """Whether ``path`` is a whole JSON object, or where ``of`` is given such a :func:`record`; on all ranks as on rank 0."""
    return bool(of_leader(ranks, lambda: (read(path) if of is None else record(path, of)) is not None))


def of_leader(ranks: Ranks, make: Callable[[], Any]) -> Any:
    """What ``make()`` gives on rank 0, where alone it is called, on all ranks: anything that JSON can hold."""
    value = None
    with ranks.together():
        if ranks.leads:
            value = make()
    return json.loads(ranks.told(json.dumps(value)))
