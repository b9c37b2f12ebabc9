"""The stages of a reproduction, one after the other, each gone on with where it was stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..._core import checks, graphs
from ..._core.errors import NonFiniteLoss, NonFiniteSamples
from .. import limits, precision
from ..config import TrainConfig
from ..extraction import make_features
from ..progress import duration
from ..ranks import ALONE, Ranks
from ..status import size
from ..train import Trainer
from . import data, folder, timing
from .clock import TRAINING, Clock, watching
from .disk import needed
from .distances import Distances
from .folder import Means, of_leader, there
from .held import going_on, held
from .hours import Work, fit, rows
from .measures import measure, withheld
from .plan import Plan
from .report import MARKDOWN, write_report
from .report_facts import seeds_named
from .request import MAY_CHANGE, Request
from .selection import another_sampler, check_run, select


def reproduce(
    request: Request,
    out: str | Path,
    *,
    dry_run: bool = False,
    device: str = "auto",
    batch_size: int = 500,
    progress: bool = True,
    ranks: Ranks = ALONE,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Reproduce what ``request`` says in the folder ``out``, or go on with it; the files of the report.

    Args:
        request: what is to be reproduced.
        out: the folder, made where it does not exist.
        dry_run: measure how fast this machine is, say how long it will take, and end.
        device: where it is computed.
        batch_size: samples at a time.
        progress: show progress bars.
        ranks: which share the work. All make the same call; rank 0 alone writes.
        say: is called with what there is to say, on rank 0.

    Raises:
        CheckpointError: ``out`` holds something else, or another process is at it, or what lies there is damaged.
        DataError: the data, or the weights of Inception, are not there. ValueError: an option out of its range.
        CannotWrite: a file cannot be written, on a full disk, say; what was written stays, and the text has the command
            that goes on. NonFiniteLoss: training failed. NonFiniteSamples: at the end, of those that have no numbers for it.
        RankFailed: another rank has ended.
    """
    out = Path(out)
    with going_on(request.command(out)), held(out, ranks), Clock(out, request.hours, ranks) as clock:
        return _Reproduction(request, out, Means(device, batch_size, progress, ranks), say, clock).run(dry_run)


class _Reproduction:
    """One call of :func:`reproduce`, whose arguments these are."""

    def __init__(self, request: Request, out: Path, means: Means, say: Callable[[str], None], clock: Clock):
        self.clock, self.timing = clock, dict[str, Any]()
        self.request, self.out, self.means, self.ranks = request, out, means, means.ranks
        self.say = say if self.ranks.leads else lambda text: None
        with self.ranks.together():
            self.device = self.ranks.place(means.device)
        before = of_leader(self.ranks, lambda: folder.read(out / folder.PLAN))
        with self.ranks.together():
            self.plan = None if before is None else Plan.from_json(before, out / folder.PLAN).going_on(request, out)
            self.config = self._config()

    def run(self, dry_run: bool) -> list[Path]:
        """All stages, or with ``dry_run`` the first two."""
        alike = {name: value for name, value in self.request.to_json().items() if name not in MAY_CHANGE}
        self.ranks.same("what to reproduce", json.dumps([alike, dry_run, self.means.batch_size]))
        self._read_data()
        self._time(again=dry_run)
        if dry_run:
            return []
        plan = self._gone_on(self.plan) if self.plan else self._make_plan()
        self._train(plan)
        distances = Distances(self.features, self.data, self.out, self.device, self.ranks)
        selection = self._select(plan, distances)
        self.say(f"samples: {self.request.samples:,} of each of {len(plan.seeds)} seeds")
        written: list[Path] | None = None
        planned = self._work(plan.config, 1).sampling(1, self.request.evaluations(plan.config))
        for said in measure(plan, selection, self.out, distances, self.means, self.clock, planned):
            self.say(said)
            written = self._report()
        with self.ranks.together():
            if self.ranks.leads:
                distances.forget()
        return self._end(plan, selection, written)

    def _end(self, plan: Plan, selection: dict[str, Any], written: list[Path] | None) -> list[Path]:
        """Say what is left out, and raise where numbers are withheld."""
        left = self.clock.left_out
        if left or written is None:
            written = self._report()
        if left:
            self.say(f"left out for want of time: {seeds_named(left['seeds'])}; go on with: {left['command']}")
        found = of_leader(self.ranks, lambda: withheld(selection, plan, self.out))
        if found:
            raise NonFiniteSamples(
                f"samples are not finite, and have no numbers: {'; '.join(found)}. All others are in {self.out / MARKDOWN}; "
                f"{another_sampler(plan, self.out)}"
            )
        return written

    def _config(self) -> TrainConfig:
        """What is trained: the plan's, where there is one; where the data lie and the device are this call's."""
        name, where = data.place(self.request)
        graph = self.request.cuda_graph
        if graph is None:  # which some precisions and networks gain much by, and no number changes with
            graph = self.device.type == "cuda" and self.ranks.count == 1
        graphs.check("cuda_graph", graph, self.device)
        if self.plan is not None:
            config = self.plan.config
        else:
            self.request.options()  # which says what is wrong
            config = self.request.config(name, where, self.means.device)
            config = precision.settled(config, config, self.device)
        config = dataclasses.replace(config, data_dir=where, device=self.means.device, cuda_graph=graph)
        limits.check_run(config, self.device, self.ranks.count)
        size = min(checks.integer("sampling_batch_size", self.means.batch_size, low=1), self.request.samples)
        limits.check_batch(config, data.SHAPE, size, self.device, "sampling_batch_size")
        limits.check_kept(self.request.samples, data.SHAPE, "samples")
        return config

    def _read_data(self) -> None:
        """The data and what measures them: what is missing of either is an error now, and not after training."""
        request = self.request
        with self.ranks.together():
            self.data, heldout = data.load(self.config)
            self.feature = request.feature
            if self.feature == "auto":
                inception = self.config.data == "cifar10" or request.inception is not None
                self.feature = "inception" if inception else "pixels"
            self.features = make_features(
                self.feature,
                self.device,
                inception=request.inception,
                inception_checksum=request.inception_checksum,
            )
            self.sha256 = getattr(self.features, "sha256", None)
            if self.plan is not None:
                self.plan.check_features(self.sha256, self.out)
            if self.ranks.leads:
                found = data.described(self.config, self.data, heldout)
                if self.plan is not None:
                    data.check_same(found, self.out)
                if self.plan is None or not (self.out / folder.DATA).exists():
                    folder.write(self.out / folder.DATA, found)
        self.say(f"data: {self.data.describe()}")

    def _time(self, *, again: bool) -> None:
        """Measure the rates, unless that was done under these conditions, or there is a plan that needs them no more."""
        path, here = self.out / folder.TIMING, timing.conditions(self.config, self.feature, self.device, self.ranks)

        def before() -> dict[str, Any] | None:
            found = timing.check(folder.read(path), path)
            usable = found is not None and (found.get("conditions") == here or (self.plan is not None and not again))
            return found if usable else None

        kept = of_leader(self.ranks, before)
        if kept is None:
            self.say("timing: a few iterations, evaluations and features")
            rates = timing.measure(self.config, self.data, self.features, self.device, self.ranks)
            told = {name: here[name] for name in ("device", "versions", "threads", "ranks")}
            kept = of_leader(self.ranks, lambda: told | rates | {"conditions": here})
        self.timing = kept
        if self.plan is None or again:
            self._write_timing(self.config, len(self.plan.seeds) if self.plan else self.request.seeds)
            self.say(timing.table(self.timing, self.request, self.config))
            if self.plan is None and again:
                self._fitted()

    def _work(self, config: TrainConfig, seeds: int) -> Work:
        return timing.work(config, self.request, self.timing, seeds=seeds, train=len(self.data))

    def _write_timing(self, config: TrainConfig, seeds: int) -> None:
        samplers = {name: self.request.evaluations(config, name) for name in self.request.offered()}
        self.timing["rows"] = rows(self._work(config, seeds), samplers)
        with self.ranks.together():
            if self.ranks.leads:
                folder.write(self.out / folder.TIMING, self.timing)

    def _fitted(self) -> tuple[TrainConfig, int]:
        """What is trained and how many seeds are drawn, in the hours that there are."""
        request, config = self.request, self.config
        if request.hours is None:
            return config, request.seeds
        with self.ranks.together():
            iterations, seeds = fit(self._work(config, request.seeds), request.evaluations(config), request.hours)
        self.say(
            f"in {request.hours:g} hours: {iterations:,} of {config.iterations:,} iterations, {seeds} of {request.seeds} seeds"
        )
        return dataclasses.replace(config, iterations=iterations), seeds

    def _make_plan(self) -> Plan:
        request = self.request
        config, seeds = self._fitted()
        self._say_disk(config, seeds)
        config = dataclasses.replace(config, checkpoint_every=timing.checkpoint_every(config, self.timing))
        self._write_timing(config, seeds)
        plan = Plan(request, config, tuple(range(seeds)), self.feature, self.sha256)
        with self.ranks.together():
            if self.ranks.leads:
                folder.write(self.out / folder.PLAN, plan.to_json(self.out))
        self.config = config
        for departure in request.departures(config):
            self.say(f"departs from the recipe: {departure}")
        self._report()
        return plan

    def _gone_on(self, plan: Plan) -> Plan:
        """``plan``, which names where things lie now."""
        with self.ranks.together():
            if self.ranks.leads:
                folder.write(self.out / folder.PLAN, plan.to_json(self.out))
        if self.request.hours is not None:
            self.say(
                f"{duration(self.clock.seconds())} of {self.request.hours:g} hours are spent; it stays at {plan.config.iterations:,} "
                "iterations"
            )
        return plan

    def _say_disk(self, config: TrainConfig, seeds: int) -> None:
        if not self.ranks.leads:
            return
        takes = needed(self._work(config, seeds), config, self.timing["parameters"], self.feature)
        free = shutil.disk_usage(self.out).free
        self.say(f"disk: about {size(takes)}; {size(free)} are free")
        if takes > free:
            warnings.warn(
                f"{self.out} will take about {size(takes)}, and {size(free)} are free there: with a larger --snapshot-every it takes "
                "less. Where the disk is full it stops, and the same command goes on",
                stacklevel=2,
            )

    def _train(self, plan: Plan) -> None:
        run = self.out / folder.RUN
        command = self.request.command(self.out)
        with self.ranks.together():
            if self.ranks.leads:
                check_run(self.out)
        with Trainer(self.config, run, resume=True, ranks=self.ranks, command=command) as trainer:
            if trainer.step < plan.config.iterations:
                self.say(f"training from iteration {trainer.step:,} to {plan.config.iterations:,}, in {run}")
                self.clock.at(TRAINING)
                evaluations = self.request.evaluations(plan.config)
                after = self._work(plan.config, 1).after(plan.config.iterations, evaluations)
                try:
                    trainer.train(
                        progress=self.means.progress,
                        listener=watching(self.clock, plan.config.iterations, after, self.say),
                    )
                except NonFiniteLoss as error:
                    raise NonFiniteLoss(
                        f"{str(error).split('; ')[0]}; the recipe has this learning rate alone: reproduce in another folder (--out), with "
                        "--precision fp32 where it was another"
                    ) from error
                self._report()
        del trainer
        timing.release(self.device)

    def _select(self, plan: Plan, distances: Distances) -> dict[str, Any]:
        done = there(self.ranks, self.out / folder.SELECTION)
        if not done:
            self.say(f"selection: {len(plan.snapshots)} snapshots, {self.request.selection_images:,} samples of each")
        selection = select(plan, self.out, distances, self.means, self.clock)
        chosen, last = (f"{selection[role]['step']:,} ({selection[role]['weights']})" for role in ("chosen", "last"))
        self.say(f"chosen: iteration {chosen}; last: {last}")
        if not done:
            self._report()
        return selection

    def _report(self) -> list[Path]:
        written: list[Path] = []
        with self.ranks.together():
            if self.ranks.leads:
                written = write_report(self.out)
        return written
