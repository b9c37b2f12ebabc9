"""The folder of a reproduction as ``fastscore reproduce`` leaves it, of made-up numbers; and what a report of it says."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastscore.evaluation.pictures import save_grid
from fastscore.experiment.presets import preset
from fastscore.experiment.reproduce.report import write_report
from fastscore.rng import Philox

SEEDS = (0, 1, 2)
LEAST = {0: 10.9, 1: 11.1, 2: 10.7}  # the chosen snapshot's FID of each seed

VOID = ("meta", "img", "br")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def edit(path: Path, **changes: Any) -> None:
    """Put other values into a JSON file."""
    write(path, json.loads(path.read_text()) | changes)


def write_out(
    out: Path, *, model: str = "ncsnv2", until: str = "measures", steps: tuple[int, ...] = (100_000, 200_000, 300_001)
) -> Path:
    """OUT of CIFAR-10 until a stage is done: data, timing, plan, training, selection or measures.

    The snapshot before the last is chosen; its FIDs are LEAST.
    """
    stages = ["data", "timing", "plan", "training", "selection", "measures"]
    done = stages[: stages.index(until) + 1]
    makers = {
        "data": _data,
        "timing": _timing,
        "plan": _plan,
        "training": _run,
        "selection": _selection,
        "measures": _measures,
    }
    for stage in done:
        makers[stage](out, model, steps)
    return out


def _plan(out: Path, model: str, steps: tuple[int, ...]) -> None:
    config = preset(f"cifar10-{model}")
    plan = {
        "format": 1,
        "recipe": "cifar10",
        "model": model,
        "config": dataclasses.asdict(config) | {"precision": "fp32"},
        "recipe_iterations": config.iterations,
        "iterations": steps[-1],
        "hours": None,
        "feature": "inception",
        "inception": None,
        "selection_images": 1000,
        "samples": 50_000,
        "seeds": list(SEEDS),
        "sampler": "annealed",
        "sampler_options": {},
        "weights": ["ema"],
        "departures": [],
        "request": {"snapshot_every": 100_000},
        "command": f"fastscore reproduce cifar10 --data DIR --out {out.name}",
    }
    write(out / "plan.json", plan)


def _data(out: Path, model: str, steps: tuple[int, ...]) -> None:
    half = {"name": "cifar10", "count": 50_000, "shape": [3, 32, 32], "fingerprint": "ab" * 32}
    heldout = half | {"name": "cifar10-test", "count": 10_000, "fingerprint": "cd" * 32}
    record = {"train": half, "heldout": heldout, "num_classes": 10, "source": "/data/cifar", "checksums": "published"}
    write(out / "data.json", record)


def _timing(out: Path, model: str, steps: tuple[int, ...]) -> None:
    rows = [
        {"what": "training", "sampler": None, "evaluations": None, "images": None, "hours": 51.25},
        {"what": "samples of a seed", "sampler": "annealed", "evaluations": 1161, "images": 50_000, "hours": 9.5},
        {"what": "samples of a seed", "sampler": "dpm_sde", "evaluations": 51, "images": 50_000, "hours": 0.42},
    ]
    timing = {
        "device": "a GPU",
        "versions": {"fastscore": "0.1.0", "torch": "2.14.1"},
        "threads": 16,
        "ranks": 2,
        "training": {"images_per_second": 208.5, "seconds_per_iteration": 0.614, "peak_bytes": 5_300_000_000},
        "evaluation": {"images_per_second": 1697.25, "peak_bytes": None},
        "features": {"images_per_second": 812.0},
        "rows": rows,
    }
    write(out / "timing.json", timing)


def _run(out: Path, model: str, steps: tuple[int, ...]) -> None:
    levels = preset(f"cifar10-{model}").num_levels
    lines = []
    for i in range(1, 21):
        step = steps[-1] * i // 20
        each = [40 / (level + 1) + 3000 / step for level in range(levels)]
        lines.append({"step": step, "loss": sum(each) / levels, "loss_per_sigma": each, "seconds": 0.6 * step})
    (out / "run").mkdir(parents=True, exist_ok=True)
    (out / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _selection(out: Path, model: str, steps: tuple[int, ...]) -> None:
    rows = []
    for i, step in enumerate(steps):
        far = 45.0 + 10 * abs(i - (len(steps) - 2)) - 9 * i / len(steps)
        row = {
            "step": step,
            "weights": "ema",
            "images": 1000,
            "seed": 1000,
            "frechet_distance": far,
            "kernel_distance": {"mean": far / 4000, "std": 0.0008},
            "inception_score": {"mean": 8.0 - far / 100, "std": 0.3},
            "images_seen": 128 * step,
            "training_seconds": 0.6 * step,
            "seconds": 120.0,
        }
        write(out / "selection" / f"step_{step:08d}-ema.json", row)
        save_grid(torch.full((4, 3, 32, 32), 0.5), out / "selection" / f"step_{step:08d}-ema.png")
        rows.append(row)
    chosen, last = ({"step": steps[i], "weights": "ema"} for i in (-2, -1))
    write(out / "selection.json", {"by": "frechet_distance", "chosen": chosen, "last": last, "rows": rows})


def _measures(out: Path, model: str, steps: tuple[int, ...]) -> None:
    for role, step, worse in (("chosen", steps[-2], 0.0), ("last", steps[-1], 2.0)):
        for seed in SEEDS:
            stem = f"step_{step:08d}-ema-seed-{seed}"
            measure = {
                "step": step,
                "weights": "ema",
                "roles": [role],
                "seed": seed,
                "samples": 50_000,
                "feature": "inception",
                "frechet_distance": LEAST[seed] + worse,
                "kernel_distance": {"mean": 0.003 + worse / 1000, "std": 0.0001},
                "inception_score": {"mean": 8.4 - worse / 10, "std": 0.07},
                "precision": 0.65,
                "recall": 0.55,
                "sampler": "annealed",
                "network_evaluations_per_sample": 1161,
                "seconds": 34_200.0,
                "command": f"fastscore evaluate {out.name}/run --checkpoint {step} --seed {seed}",
            }
            write(out / "measures" / f"{stem}.json", measure)
            pixels = Philox(seed=step + seed).rand(120, 3, 32, 32).mul(255).round().byte().numpy()
            (out / "samples" / stem).mkdir(parents=True)
            np.save(out / "samples" / stem / "part_00000.npy", pixels)


def text_of(out) -> str:
    return write_report(out)[0].read_text()


def tables_of(text: str) -> list[list[list[str]]]:
    """The tables of a page in Markdown: rows of cells, the rule left out."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[-1] += [] if set("".join(cells)) <= set("-:") and cells[0] else [cells]
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def column(table: list[list[str]], head: str) -> dict[str, str]:
    """The cells of a column by the first cell of their row."""
    (place,) = [i for i, cell in enumerate(table[0]) if cell.startswith(head)]
    return {row[0]: row[place] for row in table[1:]}


class Page(html.parser.HTMLParser):
    """The text of an HTML page, its tags and attributes; tags that do not match are an error."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.words, self.links = [], [], "", []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [(name, value) for name, value in attrs if name in ("src", "href", "style") or name[:2] == "on"]
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words += data
