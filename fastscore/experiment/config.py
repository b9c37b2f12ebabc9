"""What a training run is: one dataclass, saved with the run, and presets of it."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .._core import checks
from .._core.errors import CheckpointError
from ..schedules import refuse_other_form

#: The steps of the random sequence that one iteration takes: labels, noise, (ssm:) directions.
DRAWS = {"dsm": 2, "ssm": 3}
_MODELS = ("ncsn", "ncsndeeper", "ncsnv2", "ncsnv2deeper", "ncsnv2deepest", "mlp")
_STEPS = 2**32  # of a Philox sequence, and so of all that one seed can draw
_LARGEST, _SMALLEST = 3.4e38, 1.2e-38  # what float32 holds to full precision
# lowest and highest value; what the machine has no memory for, fastscore.experiment.limits tells
_COUNTS = {
    "batch_size": (1, None),
    "iterations": (1, _STEPS),
    "num_levels": (1, 2**31 - 1),
    "image_size": (1, None),
    "width": (1, None),
    "steps_per_level": (1, None),
    "log_every": (1, _STEPS),
    "checkpoint_every": (1, _STEPS),
    "keep": (1, _STEPS),
    "warmup": (0, _STEPS),
    "sample_every": (0, _STEPS),
    "seed": (0, 2**63 - 1),
}
_REALS = ("sigma_begin", "sigma_end", "weight", "lr", "beta1", "beta2", "eps", "clip_norm", "ema", "alpha")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a run computes. Two runs of equal configs end with equal weights.

    The text under each field is what ``fastscore train PRESET --help`` shows.
    """

    data: str = "digits"
    """Data set: digits, mnist, cifar10, gray_scott, folder; in 2-D mixture, two_moons, checkerboard, swiss_roll."""
    data_dir: str = "data"
    """Folder that holds the data set's files (mnist, cifar10, folder). The others need none."""
    image_size: int = 32
    """Side in pixels of the images of data sets that can be made at any size (folder, gray_scott)."""
    download: bool = False
    """Allow torchvision to download a missing data set."""
    dequantize: bool = True
    """Fill the gaps between grey values: (255/256) x + u/256 with u uniform in [0, 1)."""
    flip: bool = False
    """Mirror each training image left to right with probability 1/2."""

    model: Literal["ncsn", "ncsndeeper", "ncsnv2", "ncsnv2deeper", "ncsnv2deepest", "mlp"] = "ncsn"
    """Score network: ncsn (told the noise level), ncsnv2 (divides by it), mlp (for 2-D data); the deeper kinds are for
    images of 64 pixels and more, ncsnv2deepest of 256."""
    width: int = 32
    """Channels of the first layer (ngf), or hidden units of the mlp. Time and memory grow with its square."""

    sigma_begin: float = 1.0
    """Largest noise level, in units of the data (images are in [0, 1])."""
    sigma_end: float = 0.01
    """Smallest noise level: where samples stop."""
    num_levels: int = 10
    """Number of noise levels, spaced geometrically from the largest to the smallest."""
    objective: Literal["dsm", "ssm"] = "dsm"
    """Loss: dsm, denoising score matching, compares the score with the noise that was added.
    ssm, sliced score matching, looks at the score's divergence along a random direction: slower, for the same score."""
    weight: float = 2.0
    """Power of sigma that weights the loss; 2 makes every noise level count alike."""

    batch_size: int = 128
    """Images an iteration."""
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

    alpha: float = 4e-5
    """Langevin step size at the smallest noise level (twice the step_lr of the NCSN code)."""
    steps_per_level: int = 100
    """Langevin updates at each noise level."""
    denoise: bool = False
    """End sampling with the mean of the clean image given the noisy one."""
    start: Literal["uniform", "normal"] = "uniform"
    """Where sampling begins: uniform in [0, 1], or normal of the largest noise level."""

    seed: int = 0
    """Decides the initial weights, the batches and all noise."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."""
    log_every: int = 50
    """Iterations between two lines of metrics.jsonl."""
    checkpoint_every: int = 1000
    """Iterations between two checkpoints."""
    keep: int = 3
    """How many of the last checkpoints stay on disk."""
    sample_every: int = 0
    """Iterations between two sample grids in samples/; 0 draws none while training."""

    def __post_init__(self) -> None:
        for name, (low, high) in _COUNTS.items():
            object.__setattr__(self, name, _count(name, getattr(self, name), low, high))
        refuse_other_form("alpha", self.alpha, "alpha")
        for name in _REALS:  # an integer in config.json is the number that it stands for
            object.__setattr__(self, name, _real(name, getattr(self, name)))
        for name in ("sigma_begin", "sigma_end", "lr", "eps", "alpha"):
            if not _SMALLEST <= checks.positive(name, getattr(self, name)) <= _LARGEST:
                raise ValueError(
                    f"{name} must be from {_SMALLEST} to {_LARGEST}, which float32 holds, got {getattr(self, name)}"
                )
        for name in ("sigma_begin", "sigma_end"):
            if not 1e-18 < getattr(self, name) < 1e18:
                raise ValueError(
                    f"{name} must be between 1e-18 and 1e18, so that float32 holds its square, got "
                    f"{getattr(self, name):g}"
                )
        checks.positive("clip_norm", self.clip_norm, zero_allowed=True)
        checks.number("weight", self.weight)
        for name in ("beta1", "beta2", "ema"):
            if not 0 <= checks.number(name, getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        for name in ("download", "dequantize", "flip", "decay", "denoise", "ema_warmup"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be true or false, got {checks.describe(getattr(self, name))}")
        for name in ("data", "data_dir", "device"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a text, got {checks.describe(getattr(self, name))}")
        for name, words in (("model", _MODELS), ("objective", tuple(DRAWS)), ("start", ("uniform", "normal"))):
            if not isinstance(getattr(self, name), str):  # a list, say, which cannot be looked up
                raise TypeError(f"{name} must be one of {', '.join(words)}, got {checks.describe(getattr(self, name))}")
            checks.one_of(name, getattr(self, name), words)
        self._check_together()

    def _check_together(self) -> None:
        """The bounds that hold for fields together."""
        if self.num_levels == 1 and self.sigma_begin != self.sigma_end:
            raise ValueError(
                f"sigma_begin and sigma_end must be equal where num_levels is 1 (--sigma-begin, "
                f"--sigma-end, --num-levels), got {self.sigma_begin} and {self.sigma_end}"
            )
        if self.num_levels > 1 and self.sigma_begin <= self.sigma_end:
            raise ValueError(f"sigma_begin must be greater than sigma_end, got {self.sigma_begin} and {self.sigma_end}")
        most = _STEPS // DRAWS[self.objective]
        if self.iterations > most:
            raise ValueError(
                f"iterations must be at most {most:,} where objective is {self.objective!r}: an iteration "
                f"takes {DRAWS[self.objective]} of the 2^32 steps of a seed's random numbers, got "
                f"{self.iterations:,}"
            )
        if self.num_levels * self.steps_per_level >= _STEPS:
            raise ValueError(
                "steps_per_level times num_levels must be less than 2^32, got "
                f"{_short(self.steps_per_level)} times {_short(self.num_levels)}: an update takes one of "
                "the steps of a seed's random numbers"
            )
        for sigma in (self.sigma_begin, self.sigma_end):
            if abs(self.weight * math.log(sigma)) > math.log(_LARGEST) - 1:
                raise ValueError(
                    f"weight must keep sigma^weight between {_SMALLEST} and {_LARGEST}, which float32 "
                    f"holds, got {self.weight} for sigma = {sigma}"
                )
        if self.lr / (1 - self.beta1) > _LARGEST:
            raise ValueError(
                f"lr must be at most (1 - beta1) {_LARGEST}, since Adam divides by 1 - beta1, got "
                f"{self.lr} and beta1 {self.beta1}"
            )
        if self.alpha * (self.sigma_begin / self.sigma_end) ** 2 > _LARGEST:
            raise ValueError(
                f"alpha (sigma_begin / sigma_end)^2, the step size at the largest noise level, must be at "
                f"most {_LARGEST}, got alpha {self.alpha}"
            )

    def to_json(self) -> str:
        """One indented JSON object, a field a line."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str | Path = "config.json") -> TrainConfig:
        """The config that :meth:`to_json` wrote; :class:`CheckpointError` names what does not belong."""
        try:
            values = parse_json(text)
            if not isinstance(values, dict):
                raise ValueError(f"it must hold a JSON object, got {checks.describe(values)}")
            unknown = set(values) - {field.name for field in dataclasses.fields(cls)}
            if unknown:
                raise ValueError(f"it has fields that this version does not know: {', '.join(sorted(unknown))}")
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{source} is not the config of a run: {error}") from error


def parse_json(text: str | bytes) -> Any:
    """:func:`json.loads` whose every failure is a ``ValueError``."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _count(name: str, value: Any, low: int, high: int | None) -> int:
    """``value``, checked."""
    if type(value) is int and high is not None and value > high:
        raise ValueError(f"{name} must be from {low} to {high}, got {_short(value)}")
    return checks.integer(name, value, low=low)


def _real(name: str, value: Any) -> Any:
    """``value``, as a float where it is a number; what is none is left to the checks that follow."""
    value = checks.plain(value)
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        raise ValueError(f"{name} must be a number that float32 holds, got {_short(value)}") from None


def _short(value: int) -> str:
    """``value``, or how long it is where it is too long to read (or for Python to write)."""
    long = value.bit_length() > 100
    return f"a number of {math.floor(math.log10(abs(value))) + 1:,} digits" if long else str(value)


#: How a run's samples are drawn.
SAMPLING = ("alpha", "steps_per_level", "denoise", "start")
#: What may differ between a run and its continuation: none of it changes what an iteration computes.
MAY_CHANGE = frozenset(
    {"iterations", "device", "data_dir", "download", "log_every", "checkpoint_every", "keep", "sample_every", *SAMPLING}
)
#: What may be changed on the way where that is asked for (``--change``): how the optimizer steps, and nothing else.
CHANGEABLE = ("lr", "beta1", "beta2", "eps", "warmup", "decay", "clip_norm", "iterations")

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
    alpha=2.4e-4,
    steps_per_level=5,
    denoise=True,
    log_every=20,
    checkpoint_every=200,
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
    alpha=4e-5,
    steps_per_level=100,
    log_every=100,
    checkpoint_every=5000,
    sample_every=5000,
)

PRESETS: dict[str, tuple[str, TrainConfig]] = {
    "digits": ("handwritten digits, 8x8, from scikit-learn: minutes on two CPU cores (make demo)", _DIGITS),
    "toy": (
        "a 2-D mixture of two Gaussians, weights 0.8 and 0.2: about a minute on a CPU",
        TrainConfig(
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
            alpha=0.05,
            steps_per_level=100,
            denoise=True,
            start="normal",
            checkpoint_every=500,
            log_every=50,
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
            alpha=4e-5,
            steps_per_level=50,
            denoise=True,
            checkpoint_every=1000,
            sample_every=5000,
        ),
    ),
    "mnist": (
        "MNIST, 28x28, as in the NCSN paper: wants a GPU",
        TrainConfig(
            data="mnist",
            image_size=28,
            width=64,
            iterations=200_001,
            lr=1e-3,
            alpha=4e-5,
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
            alpha=2 * 6.2e-6,
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
        return [field for field in ours if ours[field] != theirs[field]]

    nearest = min(PRESETS, key=lambda name: len(changed(name)))
    words = ["fastscore", "train", nearest, "--out", _pasted(run)]
    for field in changed(nearest):
        flag, value = field.replace("_", "-"), getattr(config, field)
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
