"""What a training run is: one dataclass, saved with the run."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .._core import checks
from .._core.errors import CheckpointError
from ..samplers import DEFAULT, SAMPLERS
from . import config_bounds, path_bounds


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes. Two runs of equal configs end with equal weights.

    The text under each field is what ``fastscore train PRESET --help`` shows.
    """

    data: str = "digits"
    """Data set: digits, photos, mnist, cifar10, gray_scott, folder, npz; in 2-D mixture, two_moons, checkerboard, swiss_roll."""
    data_dir: str = "data"
    """Folder that holds the data set's files (mnist, cifar10, folder), or the .npz file. The others need none."""
    image_size: int = 32
    """Side in pixels of the images of data sets that can be made at any size (folder, gray_scott)."""
    download: bool = False
    """Allow torchvision to download a missing data set."""
    checksum: bool = True
    """Read CIFAR-10 only where every file has its published checksum; without, other images in the same form too."""
    dequantize: bool = True
    """Fill the gaps between grey values: (255/256) x + u/256 with u uniform in [0, 1)."""
    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""

    model: Literal["ncsn", "ncsndeeper", "ncsnv2", "ncsnv2deeper", "ncsnv2deepest", "mlp"] = "ncsn"
    """Score network: ncsn; ncsnv2, which divides by sigma; the deeper for 64 pixels or more, deepest 256; mlp: 2-D."""
    width: int = 32
    """Channels of the first layer (ngf), or hidden units of the mlp. Time and memory grow with its square."""
    num_classes: int = 0
    """Classes that the network is told, as many as the data set has; 0: none, it learns all data alike."""
    label_dropout: float = 0.1
    """With classes: the probability that a training sample's label is dropped, which guidance needs."""

    sigma_begin: float = 1.0
    """Largest noise level, in units of the data (images are in [0, 1]). Of paths levels, ve and edm."""
    sigma_end: float = 0.01
    """Smallest noise level: where samples stop. Of paths levels, ve and edm."""
    num_levels: int = 10
    """Number of noise levels, spaced geometrically; on a path of continuous t those that losses are shown at."""
    path: str = "levels"
    """How data become noise: a name in :data:`fastscore.paths.PATHS`."""
    path_options: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """Options of the path, by name; what is left out has the path's default."""
    parametrization: Literal["score", "epsilon", "x0", "v", "velocity"] = "score"
    """What the network predicts: the score, the noise (epsilon), the clean sample (x0), v, or the flow's velocity."""
    objective: str = "dsm"
    """What is minimised: a name in :data:`fastscore.losses.OBJECTIVES`."""
    objective_options: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """Options of the objective, by name; what is left out has the objective's default."""
    weight: float = 2.0
    """Power of sigma that weights the loss; 2 makes every noise level count alike."""

    batch_size: int = 128
    """Images an iteration."""
    accumulate: int = 1
    """Parts that a batch is worked on in, one after the other, for less memory: the step is the whole batch's."""
    iterations: int = 200_001
    """Optimizer steps in all."""
    lr: float = 1e-3
    """Adam's learning rate."""
    beta1: float = 0.9
    """Adam's decay of the mean of the gradient."""
    beta2: float = 0.999
    """Adam's decay of the mean of its square."""
    eps: float = 1e-8
    """Adam's epsilon."""
    warmup: int = 0
    """Iterations over which the learning rate grows from 0 to its value."""
    decay: bool = False
    """Let the learning rate fall to 0 along half a cosine."""
    clip_norm: float = 0.0
    """Scale the gradient down to this norm where it is larger; 0 leaves it alone."""
    ema: float = 0.0
    """Sample with a moving average of the weights that forgets at this rate (0.999); 0 keeps none."""
    ema_warmup: bool = False
    """Let the average forget faster at first: at the rate min(ema, (1 + n) / (10 + n)) after n updates."""
    more_ema: tuple[float, ...] = ()
    """Rates of further moving averages, kept beside that of --ema: --weights ema-0.9999 samples with that of 0.9999."""

    sampler: str = DEFAULT
    """What draws samples where no other is asked for: a name in :data:`fastscore.samplers.SAMPLERS`; on a path of continuous t
    dpm_sde stands in for annealed, which no config has to name."""
    step_size: float = 4e-5
    """Langevin step size at the smallest noise level (twice the step_lr of the NCSN code)."""
    steps_per_level: int = 100
    """Langevin updates at each noise level."""
    solver_steps: int = 0
    """Updates of the samplers that take --steps, spread evenly over the noise levels; 0 is one from each level."""
    denoise: bool = False
    """End annealed and consistent sampling with the mean of the clean image given the noisy one."""
    start: Literal["uniform", "normal"] = "uniform"
    """Where annealed and consistent sampling begin: uniform in [0, 1], or normal of the largest noise level."""

    seed: int = 0
    """Decides the initial weights, the batches and all noise."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """What the network is computed in; weights and loss are fp32. auto: bf16 where faster; the run keeps what it was."""
    tf32: bool = False
    """On a GPU, multiply float32 in TF32, faster: 10 bits of each factor's mantissa; convolutions and products alike."""
    deterministic: bool = False
    """On a GPU, choose only algorithms that give the same bits each time, slower: a run that goes on is the same run."""
    compile: bool = False
    """Compile the network with torch.compile, for training and for sampling. The first iteration takes minutes."""
    cuda_graph: bool = False
    """On a GPU, record an iteration as a CUDA graph and replay it: the same weights, with less work for the host."""
    log_every: int = 50
    """Iterations between two lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Iterations between two checkpoints."""
    keep: int = 3
    """How many of the last checkpoints stay on disk."""
    snapshot_every: int = 0
    """Iterations between two snapshots in snapshots/: weights alone, which stay on disk; 0 keeps none."""
    sample_every: int = 0
    """Iterations between two sample grids in samples/; 0 draws none while training."""

    def __post_init__(self) -> None:
        """Check every field; TypeError or ValueError names the one that is wrong, what it was and must be."""
        for name, value in config_bounds.numbers(self).items():
            object.__setattr__(self, name, value)
        config_bounds.check(self)
        object.__setattr__(self, "objective_options", config_bounds.options(self))
        object.__setattr__(self, "path_options", path_bounds.options(self))
        path_bounds.check(self)

    @property
    def averages(self) -> dict[str, float]:
        """The decays of the moving averages of the weights that a run keeps, by the names that ``--weights`` has for them."""
        further = {f"ema-{decay}": decay for decay in self.more_ema}
        return {"ema": self.ema, **further} if self.ema else {}

    def to_json(self) -> str:
        """One indented JSON object, one field per line."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str | Path = "config.json") -> TrainConfig:
        """The config that :meth:`to_json` wrote; :class:`CheckpointError` names what does not belong."""
        try:
            values = parse_json(text)
            if not isinstance(values, dict):
                raise ValueError(f"it must hold a JSON object, got {checks.describe(values)}")
            if "step_size" not in values and "alpha" in values:  # the name that it had in runs of format 1
                values["step_size"] = values.pop("alpha")
            values.setdefault("precision", "fp32")  # there was no other
            unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
            if unknown:
                raise ValueError(
                    f"it has fields that this version does not know, of a later one perhaps: {', '.join(sorted(unknown))}"
                )
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{source} is not the config of a run: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """:func:`json.loads` of UTF-8, but every failure is a ``ValueError``."""
    try:
        return json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)  # else json guesses at UTF-16
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


#: How a run's samples are drawn: by which sampler, and the settings that options of samplers have.
SAMPLING = (
    "sampler",
    *dict.fromkeys(o.setting for entry in SAMPLERS.values() for o in entry.options if o.setting),
)
#: What may differ between a run and its continuation: none of it changes what an iteration computes.
MAY_CHANGE = frozenset(
    {
        "iterations",
        "device",
        "data_dir",
        "download",
        "checksum",
        "cuda_graph",
        "deterministic",
        "log_every",
        "checkpoint_every",
        "keep",
        "snapshot_every",
        "sample_every",
        *SAMPLING,
    }
)
#: What may be changed on the way where that is asked for (``--change``): how the optimizer steps, and the precision.
CHANGEABLE = ("lr", "beta1", "beta2", "eps", "warmup", "decay", "clip_norm", "accumulate", "iterations", "precision")


def quoted(path: str | Path) -> str:
    """``path`` as it can be pasted into a shell after any command of ours."""
    return shlex.quote(pasted(path))


def pasted(path: str | Path) -> str:
    """``path`` as no command takes it for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
