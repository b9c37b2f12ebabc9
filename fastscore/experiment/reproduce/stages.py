"""The stages of a reproduction, one after the other, each gone on with where it was stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..._core import files
from ..._core.errors import CannotWrite, CheckpointError, FastscoreError
from ...evaluation import features
from .. import checkpoint, precision
from ..config import TrainConfig
from ..ranks import ALONE, Ranks
from ..sample_folder import check_folder
from ..train import Trainer
from . import data, folder, timing
from .distances import Distances
from .folder import of_leader
from .hours import fit, rows
from .measures import measure
from .plan import Plan, read
from .report import write_report
from .request import Request
from .selection import select


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
            that goes on. NonFiniteLoss, NonFiniteSamples: training or sampling failed.
        RankFailed: another rank has ended.
    """
    out = Path(out)
    with _going_on(request.command(out)), _held(out, ranks):
        return _Reproduction(request, out, device, batch_size, progress, ranks, say).run(dry_run)


class _Reproduction:
    """One call of :func:`reproduce`, whose arguments these are."""

    def __init__(
        self,
        request: Request,
        out: Path,
        device: str,
        batch_size: int,
        progress: bool,
        ranks: Ranks,
        say: Callable[[str], None],
    ):
        self.request, self.out, self.ranks = request, out, ranks
        self.means = folder.Means(device, batch_size, progress, ranks)
        self.say = say if ranks.leads else lambda text: None
        with ranks.together():
            self.device = ranks.place(device)
        before = of_leader(ranks, lambda: read(out))
        self.plan = None if before is None else Plan.from_json(before, out / folder.PLAN)
        with ranks.together():
            if self.plan is not None:
                self.plan.check_same(request, out)
            self.config = self._config()

    def run(self, dry_run: bool) -> list[Path]:
        """All stages, or with ``dry_run`` the first two."""
        self._read_data()
        self._time(again=dry_run)
        if dry_run:
            return []
        self._make_plan()
        assert self.plan is not None
        self._report()
        self._train(self.plan)
        self._report()
        distances = Distances(self.extract, self.data)
        self.say(f"selection: {len(self.plan.snapshots)} snapshots, {self.request.selection_images:,} samples of each")
        selection = select(self.plan, self.out, distances, self.means)
        chosen, last = (f"{selection[role]['step']:,} ({selection[role]['weights']})" for role in ("chosen", "last"))
        self.say(f"chosen: iteration {chosen}; last: {last}")
        self._report()
        self.say(f"samples: {self.request.samples:,} of each of {len(self.plan.seeds)} seeds")
        measure(self.plan, selection, self.out, distances, self.means)
        return self._report()

    def _config(self) -> TrainConfig:
        """What is trained: the plan's, where there is one; where the data lie and the device are this call's."""
        name, where = data.place(self.request)
        device = self.means.device
        if self.plan is not None:
            return dataclasses.replace(self.plan.config, data_dir=where, device=device)
        config = self.request.config(name, where, device)
        self.request.options()  # which says what is wrong
        return precision.settled(config, config, self.device)

    def _read_data(self) -> None:
        with self.ranks.together():
            self.data, heldout = data.load(self.config)
            self.feature = self.request.feature
            if self.feature == "auto":
                self.feature = "inception" if self.config.data == "cifar10" else "pixels"
            options = {"weights": self.request.inception, "device": self.device} if self.feature == "inception" else {}
            self.extract = features.make(self.feature, **options)
            if self.ranks.leads:
                found = data.described(self.config, self.data, heldout)
                data.check_same(found, self.out)
                folder.write(self.out / folder.DATA, found)
        self.say(f"data: {self.data.describe()}")

    def _time(self, *, again: bool) -> None:
        """Measure the rates, unless that was done under these conditions, or there is a plan that needs them no more."""
        path, here = self.out / folder.TIMING, timing.conditions(self.config, self.feature, self.device, self.ranks)
        before = of_leader(self.ranks, lambda: folder.read(path))
        if before is not None and (before.get("conditions") == here or (self.plan is not None and not again)):
            self.timing = before
        else:
            self.say("timing: a few iterations, evaluations and features")
            rates = timing.measure(self.config, self.data, self.extract, self.device, self.ranks)
            self.timing = {name: here[name] for name in ("device", "versions", "threads", "ranks")} | rates
            self.timing |= {"conditions": here}
        if self.plan is None or again:
            self._write_timing(self.config, self.plan.seeds if self.plan else tuple(range(self.request.seeds)))
            self.say(timing.table(self.timing, self.request, self.config))

    def _write_timing(self, config: TrainConfig, seeds: tuple[int, ...]) -> None:
        work = timing.work(config, self.request, self.timing, weights=1, seeds=len(seeds), train=len(self.data))
        self.timing["rows"] = rows(
            work, {name: self.request.evaluations(config, name) for name in self.request.offered()}
        )
        self.timing = of_leader(self.ranks, lambda: self.timing)  # rank 0's rates are all ranks'
        with self.ranks.together():
            if self.ranks.leads:
                folder.write(self.out / folder.TIMING, self.timing)

    def _make_plan(self) -> None:
        if self.plan is not None:
            return
        request, seeds, config = self.request, self.request.seeds, self.config
        with self.ranks.together():
            if request.hours is not None:
                work = timing.work(config, request, self.timing, weights=1, seeds=seeds, train=len(self.data))
                iterations, seeds = fit(work, request.evaluations(config), request.hours)
                config = dataclasses.replace(config, iterations=iterations)
                self.say(
                    f"in {request.hours:g} hours: {iterations:,} of {self.config.iterations:,} iterations, {seeds} of "
                    f"{request.seeds} seeds"
                )
        self._write_timing(config, tuple(range(seeds)))
        plan = Plan(request, config, tuple(range(seeds)), self.feature)
        with self.ranks.together():
            if self.ranks.leads:
                folder.write(self.out / folder.PLAN, plan.to_json(self.out))
        self.plan, self.config = plan, config
        for departure in request.departures(config):
            self.say(f"departs from the recipe: {departure}")

    def _train(self, plan: Plan) -> None:
        run = self.out / folder.RUN
        trainer = Trainer(self.config, run, resume=True, ranks=self.ranks)
        with trainer:
            if trainer.step < plan.config.iterations:
                self.say(f"training from iteration {trainer.step:,} to {plan.config.iterations:,}, in {run}")
                trainer.train(progress=self.means.progress)

    def _report(self) -> list[Path]:
        written: list[Path] = []
        with self.ranks.together():
            if self.ranks.leads:
                written = write_report(self.out)
        return written


@contextmanager
def _held(out: Path, ranks: Ranks) -> Iterator[None]:
    """Inside, ``out`` is there and this process's, or these ranks', alone."""
    lock: checkpoint.Lock | None = None
    with ranks.together():
        if ranks.leads:
            check_folder("--out", out)
            if (out / checkpoint.CONFIG).exists():
                raise CheckpointError(f"{out} holds a run of fastscore train: choose another folder with --out")
            try:
                lock = checkpoint.Lock(out / folder.LOCK)
            except CheckpointError:
                raise FastscoreError(
                    f"another process reproduces in {out}: wait until it ends, or choose another folder with --out"
                ) from None
            for place in (out, out / folder.SELECTED, out / folder.MEASURES):
                files.clear_leftovers(place)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def _going_on(command: str) -> Iterator[None]:
    """Turn an error of the disk inside into one that says how to go on."""
    try:
        yield
    except CannotWrite as error:
        raise CannotWrite(
            f"{error}; what was written stays. Once that is mended, go on with: {command}", error.errno, error.filename
        ) from error
