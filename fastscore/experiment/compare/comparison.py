"""Every sampler on one trained network, at equal numbers of evaluations: samplers.json, samplers.md, samplers.png."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..._core import checks, files
from ..._core.errors import CheckpointError, FastscoreError, MissingDependency, NonFiniteSamples, NotConverged, require
from ...samplers import RECIPE, SAMPLERS
from .. import checkpoint, limits
from ..evaluate import evaluations_of, resolve_feature
from ..extraction import make_features
from ..processors import device_name
from ..progress import progress_bar
from ..sample import batches
from ..sample_folder import check_folder
from ..trained_run import TrainedRun, load_run, with_sampling
from .cells import BUDGETS, Cells
from .measures import Measure, measure_of
from .report import PICTURE, TABLE, draw, measured, page, rows_of
from .search import Asked, search

LOCK = ".samplers.lock"
#: Of the samples on which settings are chosen; those reported are of the seeds 0, 1, 2, ...
SEARCH_SEED = 1_000_000
#: Of a budget, and of the points of a grid that spends it, which are all made.
MOST_EVALUATIONS = 10_000_000


def compare(
    run: str | Path,
    *,
    samplers: Sequence[str] | None = None,
    budgets: Sequence[int] = BUDGETS,
    seeds: int = 3,
    samples: int = 1000,
    feature: str = "auto",
    inception: str | Path | None = None,
    inception_checksum: bool = True,
    batch_size: int = 500,
    weights: str = "auto",
    iteration: int | None = None,
    precision: str | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Draw by every sampler at every budget of evaluations and several seeds, measure, and write table and picture.

    Each sampler spends a budget as its entry of the registry says: solvers take as many points as they may evaluate, on the
    noise levels, and where the network allows it more than there are levels. The options on which a sampler depends at a
    given budget (annealed Langevin's levels, steps and step size; a corrector's) are searched first, on ``SEARCH_SEED``,
    whose samples are not among those reported. :data:`fastscore.samplers.RECIPE` is measured with the run's own settings too.

    Every cell is kept once it is measured: the same call goes on where it was stopped, and one with other samplers,
    budgets or more seeds adds to the table.

    Args:
        run: the run folder.
        samplers: names in :data:`fastscore.samplers.SAMPLERS`; None: all that the network can be asked by.
        budgets: the most network evaluations a sample, each from 1 to 10 million.
        seeds: how many: 0, 1, ...
        samples: how many of each seed.
        feature, inception, inception_checksum, batch_size, weights, iteration, precision, data_dir, device, progress: as for
            :func:`fastscore.experiment.evaluate.evaluate`.
        out: the folder to write into; None: the run folder.
        overwrite: begin anew where ``out`` holds a comparison of other settings.

    Returns:
        What samplers.json holds: settings, rows (which options spend a budget best) and cells (what was measured).

    Raises:
        CheckpointError, DataError: no trained run, or no data set. ValueError: an argument out of its range, or a sampler
            that this network, or these budgets, cannot be asked by. FastscoreError: a comparison of other settings is
            there, or another process is at it. NonFiniteSamples: of all samplers; where it is some, the table says so.
    """
    samples = checks.integer("samples", samples, low=20)
    seeds = checks.integer("seeds", seeds, low=1, high=SEARCH_SEED)
    if not budgets:
        raise ValueError("budgets must hold at least one number of evaluations, got none")
    budgets = sorted({checks.integer("budgets", budget, low=1, high=MOST_EVALUATIONS) for budget in budgets})
    if samplers is not None and not samplers:
        raise ValueError(f"samplers must name at least one of {', '.join(SAMPLERS)}, got none")
    names = list(dict.fromkeys(checks.one_of("samplers", name, SAMPLERS) for name in samplers or SAMPLERS))
    checks.one_of("feature", feature, ("auto", "pixels", "inception"))
    run = Path(run)
    trained = load_run(run, device=device, weights=weights, iteration=iteration, precision=precision)
    if data_dir is not None:
        trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data_dir=str(data_dir)))
    limits.check_kept(samples, trained.shape, "samples")
    feature = resolve_feature(feature, trained, samples, inception)
    plan = _plan(trained, names, budgets, named=samplers is not None)
    extract = make_features(feature, trained.device, inception=inception, inception_checksum=inception_checksum)
    measure, of_data = measure_of(trained, run, feature, extract, samples)
    out = run if out is None else Path(out)
    check_folder("--out", out)
    lock = _lock(out)
    try:
        settings = {
            "run": str(run),
            "step": trained.iteration,
            "weights": trained.weights,
            "sha256": trained.sha256,
            "data": trained.config.data,
            "samples": samples,
            "features": feature,
            "inception_sha256": getattr(extract, "sha256", None),
            "network_precision": trained.precision,
            "training_data": of_data,
            "search_seed": SEARCH_SEED,
        }
        cells = Cells(out, settings, overwrite=overwrite)
        _Comparison(cells, measure, samples, seeds, batch_size, progress).run(plan, out)
        report = cells.report()
        if not any(row.numbers and row.budget for row in rows_of(report)):
            failed = [cell["failed"] for cell in report["cells"] if "failed" in cell]
            if failed:
                raise NonFiniteSamples(f"no sampler gave finite samples: {failed[-1]}")
            fewest = min(cell["evaluations"] for cell in report["cells"])
            raise ValueError(
                f"budgets must hold a larger number: these samplers take at least {fewest:g}, got {budgets}"
            )
        draw(report, out / PICTURE)
    finally:
        lock.release()
    return report


Plan = list[tuple[TrainedRun, int | None, list[dict[str, Any]]]]


def _plan(trained: TrainedRun, names: Sequence[str], budgets: Sequence[int], *, named: bool) -> Plan:
    """Each sampler of ``names`` at each budget, and how it may spend it; small budgets first.

    Args:
        named: whether a sampler that fits nowhere is an error, rather than left out with a warning.
    """
    plan = list[tuple[TrainedRun, int | None, list[dict[str, Any]]]]()
    for name in names:
        needs = SAMPLERS[name].needs
        try:
            ready = with_sampling(trained, sampler=name)
            if needs is not None:
                require(*needs)
        except (MissingDependency, ValueError) as error:  # the second of one that does not go along the run's path
            if named:
                raise
            warnings.warn(f"samplers leaves out {name!r}: {error}", stacklevel=3)
            continue
        if any(option.name == "denoise" for option in ready.entry.options):
            ready = with_sampling(ready, denoise=True)
        asked = Asked(ready)
        grids = {budget: asked.grids(budget) for budget in budgets}
        if not any(grids.values()):
            reason = f"{name!r}, at these budgets, for this run: {asked.refusal(budgets)}"
            if named:
                raise ValueError(f"samplers must leave out {reason}")
            warnings.warn(f"samplers leaves out {reason}", stacklevel=3)
        plan += [(ready, budget, ways) for budget, ways in grids.items() if ways]
        if name == RECIPE:
            plan.append((with_sampling(trained, sampler=name), None, [{}]))
    plan.sort(key=lambda planned: planned[1] or math.inf)
    return plan


class _Comparison:
    """The cells of a plan, drawn and measured where they are not there yet."""

    def __init__(self, cells: Cells, measure: Measure, samples: int, seeds: int, batch_size: int, progress: bool):
        self.cells, self.measure, self.samples, self.seeds = cells, measure, samples, seeds
        self.batch_size, self.progress = batch_size, progress
        self.bar: Any = None

    def run(self, plan: Plan, out: Path) -> None:
        """Search where there is something to search, draw the seeds, and write samplers.md after each row."""
        evaluations = sum(_evaluations(with_sampling(ready, **ways[0])) or budget or 0 for ready, budget, ways in plan)
        if self.progress:
            total = evaluations * self.seeds * -(-self.samples // self.batch_size)
            self.bar = progress_bar(total, desc="comparing", unit="evaluation")
        try:
            for ready, budget, ways in plan:  # the run's own settings are not searched
                if budget is not None and _evaluations(ready) is None:
                    ways = self.within(ready, ways, budget)
                if not ways:
                    warnings.warn(
                        f"{ready.sampler} takes more than {budget} evaluations at any tolerance", stacklevel=3
                    )
                    continue
                best = ready if budget is None else search(ready, ways, self.cost)
                for seed in range(self.seeds):
                    self.cell(best, seed)
                self.cells.set_row(best.sampler, budget, best.options)
                files.write_atomically(out / TABLE, page(self.cells.report()).encode())
        finally:
            if self.bar is not None:
                self.bar.close()

    def within(self, ready: TrainedRun, ways: list[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
        """Of a sampler whose samples decide how many evaluations they take, the tolerances at which they take ``budget``."""
        fitting = []
        for way in ways:  # from the loosest on
            if self.cell(with_sampling(ready, **way), SEARCH_SEED)["evaluations"] > budget:
                break
            fitting.append(way)
        return fitting

    def cost(self, trained: TrainedRun) -> float:
        """What a search makes small: the distance on the seed that is not reported."""
        cell = self.cell(trained, SEARCH_SEED)
        return math.inf if "failed" in cell else next(iter(measured(cell).values()))

    def cell(self, trained: TrainedRun, seed: int) -> dict[str, Any]:
        """The cell of these settings and this seed."""
        there = self.cells.holds(trained.sampler, trained.options, seed)
        if self.bar is not None:
            self.bar.set_postfix(sampler=trained.sampler)
            batches_of_cell = (_evaluations(trained) or 0) * -(-self.samples // self.batch_size)
            if seed == SEARCH_SEED and not there:
                self.bar.total += batches_of_cell
            elif seed != SEARCH_SEED and there:
                self.bar.update(batches_of_cell)
        return self.cells.get(trained.sampler, trained.options, seed, lambda: self._draw(trained, seed))

    def _draw(self, trained: TrainedRun, seed: int) -> dict[str, Any]:
        evaluations, failed = _evaluations(trained), None
        parts, began = [], time.perf_counter()
        with evaluations_of(trained.score_fn if evaluations is None else None) as made:
            try:
                for part in batches(trained, self.samples, seed=seed, batch_size=self.batch_size, progress=False):
                    parts.append(part)
                    if self.bar is not None:
                        self.bar.update(evaluations or 0)
            except (NonFiniteSamples, NotConverged) as error:
                failed = str(error)
        seconds = time.perf_counter() - began
        about: dict[str, Any] = {
            "evaluations": round(sum(made) / self.samples, 1) if evaluations is None else evaluations,
            "device": device_name(trained.device),
        }
        if failed is not None:
            return about | {"failed": failed}
        return about | {"seconds": round(seconds, 3), **self.measure(torch.cat(parts), seed)}


def _evaluations(trained: TrainedRun) -> int | None:
    return trained.entry.evaluations(trained.config.num_levels, trained.options)


def _lock(folder: Path) -> checkpoint.Lock:
    try:
        return checkpoint.Lock(folder / LOCK)
    except CheckpointError:
        raise FastscoreError(
            f"another process compares samplers in {folder}: wait until it ends, or choose another folder with --out"
        ) from None
