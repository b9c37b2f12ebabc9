"""The plan of a reproduction: made once, when the machine's pace is known, and kept in plan.json."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._core.errors import CheckpointError
from ..config import TrainConfig
from .request import MAY_CHANGE, Request

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        request: what was asked for.
        config: what is trained, with the iterations that fit.
        seeds: of the samples, in the order in which they are drawn.
        feature: what distances are measured on, "inception" or "pixels".
        inception_sha256: of the file of Inception's weights; None where it is pixels.
    """

    request: Request
    config: TrainConfig
    seeds: tuple[int, ...]
    feature: str
    inception_sha256: str | None

    @property
    def weights(self) -> tuple[str, ...]:
        """Which weights of a snapshot are compared: the recipe's first."""
        return self.request.weights()

    @property
    def steps(self) -> tuple[int, ...]:
        """The iterations of the snapshots."""
        last, every = self.config.iterations, self.request.snapshot_every
        return tuple(dict.fromkeys([*range(every, last + 1, every), last]))

    @property
    def snapshots(self) -> tuple[tuple[int, str], ...]:
        """The iteration and the weights of all that are compared."""
        return tuple((step, weights) for step in self.steps for weights in self.weights)

    @property
    def last(self) -> tuple[int, str]:
        """The last snapshot, of the recipe's weights."""
        return self.config.iterations, self.weights[0]

    def to_json(self, out: Path) -> dict[str, Any]:
        """What plan.json says."""
        request = self.request
        return {
            "format": FORMAT,
            "recipe": "cifar10",
            "model": request.model,
            "config": dataclasses.asdict(self.config),
            "recipe_iterations": request.recipe.iterations,
            "iterations": self.config.iterations,
            "hours": request.hours,
            "feature": self.feature,
            "inception": None if request.inception is None else str(request.inception),
            "inception_sha256": self.inception_sha256,
            "selection_images": request.selection_images,
            "samples": request.samples,
            "seeds": list(self.seeds),
            "sampler": request.sampler,
            "sampler_options": request.options(),
            "weights": list(self.weights),
            "departures": request.departures(self.config),
            "command": request.command(out),
            "request": request.to_json(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], source: Path) -> Plan:
        """What :meth:`to_json` gave.

        Raises:
            CheckpointError: it is something else, or another version's.
        """
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"its format must be {FORMAT}, got {values['format']!r}: another version wrote it")
            config = TrainConfig.from_json(json.dumps(values["config"]), "the field 'config'")
            request, sha256 = Request.from_json(values["request"]), values["inception_sha256"]
            if values["seeds"] != [*range(len(values["seeds"]))] or not values["seeds"]:
                raise ValueError(f"its seeds must be 0, 1, ..., got {values['seeds']!r:.60}")
            return cls(request, config, tuple(values["seeds"]), values["feature"], sha256)
        except (AttributeError, KeyError, TypeError, ValueError, CheckpointError) as error:
            raise CheckpointError(
                f"{source} is not the plan of a reproduction ({error}): put it back as it was, or choose another folder with --out"
            ) from error

    def going_on(self, request: Request, out: Path) -> Plan:
        """This plan where ``request`` goes on with it: where things lie now, and with more hours all seeds that are asked for.

        Raises:
            CheckpointError: something else is asked for now than when the plan was made.
        """
        was, now = self.request.to_json(), request.to_json()
        more = None not in (was["hours"], now["hours"]) and now["hours"] > was["hours"]
        may = (*MAY_CHANGE, "hours") if more else MAY_CHANGE
        changed = [name for name in was if was[name] != now[name] and name not in may]
        if changed:
            words = ", ".join(f"{name} (was {was[name]}, now {now[name]})" for name in changed)
            hint = "; where it was begun with hours, more of them add seeds" if "hours" in changed else ""
            raise CheckpointError(
                f"{out} holds a reproduction of another plan: {words}{hint}; go on with it by {self.request.command(out)}, or choose "
                "another folder with --out"
            )
        return dataclasses.replace(self, request=request, seeds=tuple(range(request.seeds)) if more else self.seeds)

    def check_features(self, sha256: str | None, out: Path) -> None:
        """Raise CheckpointError where Inception's weights are others than when the plan was made."""
        if sha256 != self.inception_sha256:
            raise CheckpointError(
                f"{out} measures with Inception's weights of SHA-256 {self.inception_sha256}, and these have {sha256}: name the "
                "file that it was begun with (--inception), or choose another folder with --out"
            )
