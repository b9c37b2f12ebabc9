"""Run folders and checkpoints: written so that a kill at any moment loses nothing, read without executing code.

A run folder holds config.json; run.json (the run's identity, a random number, and which data it is trained on,
where that is known);
metrics.jsonl; changes.jsonl (where --change altered how it is trained, and from which iteration); and
checkpoints/step_00001000/ with model.safetensors (the weights), ema.safetensors (their moving average, where kept; of
further ones ema-0.9999.safetensors),
state.pt (optimizer, iteration, the scale of fp16; tensors and numbers only) and about.json (iteration, shape of a sample, config,
versions, the run's identity, the time that training took, and the SHA-256 of each of these files and of itself). In
snapshots/ lie weights alone in the same form, without state.pt; they stay. moments.safetensors has the mean and the covariance
of the data, where samples begin about them. The empty file .lock is locked
while a process trains there.
A checkpoint is written to a hidden folder, flushed to disk, and renamed: a folder named step_* is always whole.
"""

from .files import (
    CHANGES,
    CHECKPOINTS,
    CLASSIFIER,
    CONFIG,
    IDENTITY,
    LOCK,
    METRICS,
    MOMENTS,
    SAMPLES,
    SNAPSHOTS,
    check_not_of_a_run,
    clear_unfinished,
)
from .folder import (
    Identity,
    begin,
    changed_fields,
    check_free,
    check_there,
    read_config,
    read_identity,
)
from .listing import from_latest, latest, of_iteration, snapshots, step_of, steps
from .lock import Lock, is_held
from .reading import (
    About,
    check_finite,
    file_of,
    last_good,
    load_into,
    read_about,
    read_shape,
    read_state,
    read_weights,
)
from .state import load_optimizer, load_scaler, load_sums
from .store import drop_snapshots_after, prune, save

__all__ = [
    "CHANGES",
    "CHECKPOINTS",
    "CLASSIFIER",
    "CONFIG",
    "IDENTITY",
    "LOCK",
    "METRICS",
    "MOMENTS",
    "SAMPLES",
    "SNAPSHOTS",
    "About",
    "Identity",
    "Lock",
    "begin",
    "changed_fields",
    "check_finite",
    "check_free",
    "check_not_of_a_run",
    "check_there",
    "clear_unfinished",
    "drop_snapshots_after",
    "file_of",
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
    "snapshots",
    "step_of",
    "steps",
]
