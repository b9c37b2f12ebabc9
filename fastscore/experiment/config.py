"""What a training run is: one dataclass, saved with the run, and presets of it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .._core import checks
from .._core.errors import CheckpointError
from ..losses import OBJECTIVES
from ..paths import PATHS
from ..samplers import BEST_OF_FEW, DEFAULT, SAMPLERS
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
                raise ValueError(f"it has fields that this version does not know: {', '.join(sorted(unknown))}")
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{source} is not the config of a run: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """:func:`json.loads`, but every failure is a ``ValueError``."""
    try:
        return json.loads(text)
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
        "sample_every",
        *SAMPLING,
    }
)
#: What may be changed on the way where that is asked for (``--change``): how the optimizer steps, and the precision.
CHANGEABLE = ("lr", "beta1", "beta2", "eps", "warmup", "decay", "clip_norm", "accumulate", "iterations", "precision")

_DIGITS = TrainConfig(
    data="digits",
    dequantize=False,
    width=16,
    sigma_begin=1.0,
    sigma_end=0.02,
    num_levels=20,
    batch_size=128,
    iterations=1400,
    lr=2e-3,
    warmup=100,
    decay=True,
    ema=0.99,
    sampler=BEST_OF_FEW,
    step_size=2.4e-4,
    steps_per_level=5,
    denoise=True,
    log_every=20,
    checkpoint_every=200,
)
_TOY = TrainConfig(
    data="mixture",
    model="mlp",
    width=128,
    dequantize=False,
    sigma_begin=20.0,
    sigma_end=0.5,
    num_levels=12,
    batch_size=512,
    iterations=2000,
    lr=1e-3,
    warmup=100,
    decay=True,
    ema=0.99,
    sampler=BEST_OF_FEW,
    solver_steps=20,
    step_size=0.05,
    steps_per_level=100,
    denoise=True,
    start="normal",
    checkpoint_every=500,
    log_every=50,
)
_CIFAR10_NCSN = TrainConfig(
    data="cifar10",
    flip=True,
    width=128,
    iterations=200_001,
    lr=1e-3,
    sigma_begin=1.0,
    sigma_end=0.01,
    num_levels=10,
    step_size=4e-5,
    steps_per_level=100,
    log_every=100,
    checkpoint_every=5000,
    sample_every=5000,
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "digits": ("handwritten digits, 8x8, from scikit-learn: minutes on two CPU cores (make demo)", _DIGITS),
    "toy": (
        "a 2-D mixture of two Gaussians, weights 0.8 and 0.2: about a minute on a CPU",
        _TOY,
    ),
    "digits-vp": (
        "the digits on a variance-preserving path, by NCSNv2: minutes on two CPU cores",
        dataclasses.replace(_DIGITS, model="ncsnv2", path="vp_linear", parametrization="v"),
    ),
    "toy-vp": (
        "the same mixture on a variance-preserving path: about a minute on a CPU",
        TrainConfig(
            data="mixture",
            model="mlp",
            width=128,
            dequantize=False,
            path="vp_linear",
            num_levels=20,
            batch_size=512,
            iterations=2000,
            lr=1e-3,
            warmup=100,
            decay=True,
            ema=0.99,
            step_size=0.05,
            checkpoint_every=500,
            log_every=50,
        ),
    ),
    "digits-conditional": (
        "the digits, each told its class, for samples of a class that is asked for: minutes on two CPU cores",
        dataclasses.replace(_DIGITS, num_classes=10),
    ),
    "toy-conditional": (
        "the mixture, each point told which of the two Gaussians it is of: about a minute on a CPU",
        dataclasses.replace(_TOY, num_classes=2),
    ),
    "photos": (
        "crops of two photographs, 32x32 in colour, from scikit-learn: a night on two CPU cores",
        TrainConfig(
            data="photos",
            dequantize=False,
            flip=True,
            model="ncsnv2",
            width=32,
            sigma_begin=50.0,
            num_levels=232,
            batch_size=64,
            iterations=30_000,
            lr=1e-3,
            warmup=500,
            decay=True,
            ema=0.999,
            step_size=2 * 6.2e-6,
            steps_per_level=5,
            denoise=True,
            sampler=BEST_OF_FEW,
            solver_steps=50,
        ),
    ),
    "gray-scott": (
        "reaction-diffusion patterns, 32x32, simulated on the spot",
        TrainConfig(
            data="gray_scott",
            flip=True,
            width=32,
            batch_size=64,
            iterations=20_000,
            lr=1e-3,
            warmup=500,
            decay=True,
            ema=0.999,
            step_size=4e-5,
            steps_per_level=50,
            denoise=True,
            checkpoint_every=1000,
            sample_every=5000,
        ),
    ),
    "mnist": (
        "MNIST, 28x28, trained as in the NCSN paper: wants a GPU",
        TrainConfig(
            data="mnist",
            image_size=28,
            width=64,
            iterations=200_001,
            lr=1e-3,
            sampler=BEST_OF_FEW,
            step_size=4e-5,
            steps_per_level=100,
            log_every=100,
            checkpoint_every=5000,
            sample_every=5000,
        ),
    ),
    "cifar10-ncsn": ("CIFAR-10 by the recipe of NCSN (Song & Ermon 2019): wants a GPU", _CIFAR10_NCSN),
    "cifar10-ncsnv2": (
        "CIFAR-10 by the recipe of NCSNv2 (Song & Ermon 2020): wants a GPU",
        dataclasses.replace(
            _CIFAR10_NCSN,
            model="ncsnv2",
            dequantize=False,
            sigma_begin=50.0,
            num_levels=232,
            lr=1e-4,
            ema=0.999,
            iterations=300_001,
            step_size=2 * 6.2e-6,
            steps_per_level=5,
            denoise=True,
        ),
    ),
}


def preset(name: str, **changes: Any) -> TrainConfig:
    """A preset by name, with fields replaced: ``preset("digits", iterations=500)``."""
    checks.one_of("preset", name, tuple(PRESETS))
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    for field in changes:
        if field not in known:
            raise ValueError(f"{field} is not a field of TrainConfig; the fields are {', '.join(sorted(known))}")
    return dataclasses.replace(PRESETS[name][1], **changes)


def command_line(config: TrainConfig, run: str | Path, *options: str) -> str:
    """The command that trains ``config`` in ``run``: the nearest preset, what differs from it, and ``options``."""

    def changed(name: str) -> list[str]:
        ours, theirs = dataclasses.asdict(config), dataclasses.asdict(PRESETS[name][1])
        return [name for name in ours if ours[name] != theirs[name]]

    nearest = min(PRESETS, key=lambda name: len(changed(name)))
    words = ["fastscore", "train", nearest, "--out", _pasted(run)]
    fields = {name: getattr(config, name) for name in changed(nearest)}
    for given, entry in (("objective_options", OBJECTIVES[config.objective]), ("path_options", PATHS[config.path])):
        if fields.pop(given, None):  # each has a flag of its own
            usual = {option.name: option.default for option in entry.options}
            fields |= {name: value for name, value in getattr(config, given).items() if value != usual[name]}
    for name, value in fields.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:  # a word that begins with a dash, as -1e-05, would be taken for an option
            words += [f"--{flag}={value}"] if str(value).startswith("-") else [f"--{flag}", str(value)]
    return shlex.join([*words, *options])


def quoted(path: str | Path) -> str:
    """``path`` as it can be pasted into a shell after any command of ours."""
    return shlex.quote(_pasted(path))


def _pasted(path: str | Path) -> str:
    return f"./{path}" if str(path).startswith("-") else str(path)
