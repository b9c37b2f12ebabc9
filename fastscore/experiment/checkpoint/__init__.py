"""Run folders and checkpoints: written so that a kill at any moment loses nothing, read without executing code.

A run folder holds config.json; run.json (the run's identity, a random number, and which data it is trained on,
where that is known);
metrics.jsonl; changes.jsonl (where --change altered how it is trained, and from which iteration); and
checkpoints/step_00001000/ with model.safetensors (the weights), ema.safetensors (their moving average, where kept),
state.pt (optimizer, iteration, the scale of fp16; tensors and numbers only) and about.json (iteration, shape of a sample, config,
versions, the run's identity, and the SHA-256 of each of these files and of itself). The empty file .lock is locked
while a process trains there.
A checkpoint is written to a hidden folder, flushed to disk, and renamed: a folder named step_* is always whole.
"""

from .files import clear_unfinished
from .folder import (
    CHANGES,
    CHECKPOINTS,
    CONFIG,
    IDENTITY,
    LOCK,
    METRICS,
    SAMPLES,
    Identity,
    begin,
    changed_fields,
    check_free,
    check_there,
    from_latest,
    latest,
    of_iteration,
    read_config,
    read_identity,
    step_of,
    steps,
)
from .lock import Lock, is_held
from .state import load_optimizer, load_scaler, load_sums
from .store import (
    About,
    check_finite,
    last_good,
    load_into,
    prune,
    read_about,
    read_shape,
    read_state,
    read_weights,
    save,
)

__all__ = [
    "CHANGES",
    "CHECKPOINTS",
    "CONFIG",
    "IDENTITY",
    "LOCK",
    "METRICS",
    "SAMPLES",
    "About",
    "Identity",
    "Lock",
    "begin",
    "changed_fields",
    "check_finite",
    "check_free",
    "check_there",
    "clear_unfinished",
    "from_latest",
    "is_held",
    "last_good",
    "latest",
    "load_into",
    "load_optimizer",
    "load_scaler",
    "load_sums",
    "of_iteration",
    "prune",
    "read_about",
    "read_config",
    "read_identity",
    "read_shape",
    "read_state",
    "read_weights",
    "save",
    "step_of",
    "steps",
]
