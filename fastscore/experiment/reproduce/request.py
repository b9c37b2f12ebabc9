"""What is asked for: the options of ``fastscore reproduce``, as one dataclass, and the config that they give."""

from __future__ import annotations

import dataclasses
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..._core import checks
from ...samplers import RECIPE, SAMPLERS, SHORTLIST
from .. import limits
from ..config import TrainConfig
from ..presets import preset
from ..sampler_options import options_of

#: The word for the data set that needs no files.
PHOTOS = "photos"
#: The samplers that there are: those whose samples do not decide how many evaluations they take, from which hours are planned.
ABLE = {name: entry for name, entry in SAMPLERS.items() if not entry.cost.startswith("as many as the tolerance takes")}
#: What may be otherwise when a reproduction goes on: where things lie, and what changes no number.
MAY_CHANGE = ("data", "inception", "cuda_graph")


@dataclass(frozen=True)
class Request:
    """What is to be reproduced, on what, and what departs from the recipe.

    The text under each field is what ``fastscore reproduce cifar10 --help`` shows.
    """

    data: str
    """Folder that holds cifar-10-batches-py or -bin, or images; or a .npz file; or the word photos, which needs no files."""
    model: Literal["ncsn", "ncsnv2"] = "ncsnv2"
    """Whose recipe: ncsn (Song & Ermon 2019) or ncsnv2 (Song & Ermon 2020)."""
    hours: float | None = None
    """Fit the number of iterations, and where needed of seeds, into so many hours, by what --dry-run measures. A later
    seed for which there is no time is left out, and more hours add it."""

    iterations: int | None = None
    """Optimizer steps; by default the recipe's."""
    width: int | None = None
    """Channels of the network's first layer; by default the recipe's, 128."""
    batch_size: int | None = None
    """Images an iteration; by default the recipe's, 128."""
    num_levels: int | None = None
    """Noise levels; by default the recipe's."""
    accumulate: int = 1
    """Parts that a batch is worked on in, one after the other, for less memory: the step is the whole batch's."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """What the network is computed in. auto: bf16 where faster; the recipe's is fp32."""
    tf32: bool = False
    """On a GPU, multiply float32 in TF32, faster."""
    compile: bool = False
    """Compile the network with torch.compile."""
    cuda_graph: bool | None = None
    """Whether an iteration is recorded as a CUDA graph and replayed, which changes no number; None: on one GPU alone."""

    more_ema: tuple[float, ...] = ()
    """Rates of further moving averages of the weights (0.9999), which are compared at each snapshot beside the recipe's."""
    snapshot_every: int = 5000
    """Iterations between two snapshots of the weights, among which the best is chosen."""
    selection_images: int = 1000
    """Samples of each snapshot by which the best is chosen."""
    samples: int = 50_000
    """Samples of each seed that are measured; published FIDs are of 50,000."""
    seeds: int = 3
    """Seeds of the samples: 0, 1, ..."""
    sampler: str = RECIPE
    """What draws the samples."""
    sampler_options: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """Values of its options, by name."""
    feature: Literal["auto", "inception", "pixels"] = "auto"
    """What distances are measured on: inception, as published FIDs are, or pixels. auto: inception for CIFAR-10 and with
    --inception, else pixels."""
    inception: Path | None = None
    """The file of Inception's weights; by default where torch hub keeps it (fastscore doctor says where)."""
    inception_checksum: bool = True
    """Take only the published file of them; --no-inception-checksum: others too, and no distance is a FID then."""
    checksum: bool = True
    """Take only the published files of CIFAR-10; --no-checksum: other images in the same form too."""

    def __post_init__(self) -> None:
        """Check every field; TypeError or ValueError names the one that is wrong, what it was and must be."""
        checks.one_of("model", self.model, ("ncsn", "ncsnv2"))
        checks.one_of("feature", self.feature, ("auto", "inception", "pixels"))
        checks.integer("snapshot_every", self.snapshot_every, low=1)
        checks.integer("selection_images", self.selection_images, low=20, high=limits.INDICES)
        checks.integer("samples", self.samples, low=20, high=limits.INDICES)
        checks.integer("seeds", self.seeds, low=1, high=1_000_000)
        if self.hours is not None and not 0 < checks.number("hours", self.hours) < math.inf:
            raise ValueError(f"hours must be above 0 and finite, got {self.hours}")
        if self.hours is not None and self.iterations is not None:
            raise ValueError(f"iterations must be left out with hours, which choose them, got {self.iterations}")
        checks.one_of("sampler", self.sampler, ABLE)
        object.__setattr__(self, "more_ema", tuple(self.more_ema))

    @property
    def recipe(self) -> TrainConfig:
        """The preset."""
        return preset(f"cifar10-{self.model}")

    def options(self, sampler: str | None = None) -> dict[str, Any]:
        """The values of the options of a sampler, by default of the one asked for: those given, or else :meth:`offered`'s.

        Raises:
            TypeError, ValueError: one out of its range, or that the sampler does not take, or an NCSN asked between its levels.
        """
        config, sampler = self.config("cifar10", "data", "auto"), sampler or self.sampler
        options = options_of(config, sampler, self.offered()[sampler])
        asked = SAMPLERS[sampler].between(options) or options.get("steps", 0) > config.num_levels
        if self.model == "ncsn" and asked and not options["interpolate"]:
            raise ValueError(
                f"interpolate must be True (--interpolate) for an ncsn, which knows its {config.num_levels} noise levels "
                f"alone, with sampler {sampler!r} and steps={options['steps']}, got False"
            )
        return options

    def offered(self) -> dict[str, dict[str, Any]]:
        """The samplers that are worth a look, the one asked for first, and the options that are not their defaults."""
        between = {"interpolate": True} if self.model == "ncsn" else {}
        usual = {name: given | (between if "steps" in given else {}) for name, given in SHORTLIST.items()}
        return {self.sampler: usual.get(self.sampler, {}) | self.sampler_options} | {
            name: given for name, given in usual.items() if name != self.sampler
        }

    def evaluations(self, config: TrainConfig, sampler: str | None = None) -> int:
        """Of the network of ``config``, for each sample, by a sampler; by default by the one asked for."""
        name = sampler or self.sampler
        found = SAMPLERS[name].evaluations(config.num_levels, self.options(name))
        assert found is not None  # it is in ABLE
        return found

    def config(self, data: str, data_dir: str, device: str) -> TrainConfig:
        """What is trained: the recipe with what departs from it, before hours are counted.

        Args:
            data, data_dir: the data set and where it lies.
            device: where it is trained.
        """
        changed = {name: getattr(self, name) for name in ("iterations", "width", "batch_size", "num_levels")}
        changed = {name: value for name, value in changed.items() if value is not None}
        alike = ("accumulate", "precision", "tf32", "compile", "checksum")
        return dataclasses.replace(
            self.recipe,
            **changed,
            **{name: getattr(self, name) for name in alike},
            data=data,
            data_dir=data_dir,
            device=device,
            **self._averages(),
            log_every=min(self.recipe.log_every, self.snapshot_every),
            snapshot_every=self.snapshot_every,
            checkpoint_every=min(self.snapshot_every, self.recipe.checkpoint_every),
            sample_every=0,
        )

    def _averages(self) -> dict[str, Any]:
        """The moving averages that are kept: the recipe's where it has one, and further ones."""
        first, *further = [*filter(None, [self.recipe.ema]), *self.more_ema] or [0.0]
        return {"ema": first, "more_ema": tuple(further)}

    def weights(self) -> tuple[str, ...]:
        """Which weights of a snapshot are compared, by the names that ``--weights`` has for them: the recipe's first."""
        averages = tuple(self.config("cifar10", "data", "auto").averages)
        return averages if self.recipe.ema else ("raw", *averages)

    def departures(self, config: TrainConfig) -> list[str]:
        """What of ``config`` and of the request is not the recipe's, in words."""
        found = [
            f"{name} {getattr(config, name)} in place of {getattr(self.recipe, name)}"
            for name in ("data", "width", "batch_size", "num_levels", "iterations")
            if getattr(config, name) != getattr(self.recipe, name)
        ]
        if config.precision != "fp32":
            found.append(f"precision {config.precision} in place of fp32")
        if config.tf32:
            found.append("tf32")
        recipe = options_of(self.recipe, RECIPE, {})
        options = self.options()
        if self.sampler != RECIPE:
            found.append(f"sampler {self.sampler} in place of {RECIPE}")
        else:
            found += [
                f"{name} {options[name]} in place of {recipe[name]}" for name in recipe if options[name] != recipe[name]
            ]
        if not self.inception_checksum:
            found.append("checksum of Inception's weights not checked")
        if not self.checksum:
            found.append("checksums of the data not checked")
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        found += [
            f"{name} {getattr(self, name)} in place of {usual[name]}"
            for name in ("snapshot_every", "selection_images", "samples")
            if getattr(self, name) != usual[name]
        ]
        return found

    def command(self, out: Path) -> str:
        """The command that asks for this."""
        words = ["fastscore", "reproduce", "cifar10", "--data", self.data, "--out", str(out)]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("data", "sampler_options") or value == field.default:
                continue
            if isinstance(value, tuple):
                words += [f"--{field.name.replace('_', '-')}", *map(str, value)]
            else:
                words += flag(field.name, value)
        for name, value in self.sampler_options.items():
            words += flag(name, value)
        return shlex.join(words)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return dataclasses.asdict(self) | {"inception": None if self.inception is None else str(self.inception)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Request:
        """What :meth:`to_json` gave; TypeError or ValueError where it is something else."""
        if not isinstance(values.get("sampler_options"), dict):
            raise TypeError(f"sampler_options must be an object, got {values.get('sampler_options')!r:.60}")
        inception = values.get("inception")
        return cls(**values | {"inception": None if inception is None else Path(inception)})


def flag(name: str, value: Any) -> list[str]:
    """The words of a command line that give an option a value.

    >>> flag("steps_per_level", 5), flag("denoise", False), flag("eta", -1.0)
    (['--steps-per-level', '5'], ['--no-denoise'], ['--eta=-1.0'])
    """
    word = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [word if value else f"--no-{word[2:]}"]
    return [f"{word}={value}"] if str(value).startswith("-") else [word, str(value)]
