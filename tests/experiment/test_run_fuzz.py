"""Run folders whose numbers are absurd though well formed: each runs, or is refused in words."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest
import torch

import fastscore as fs
from fastscore.experiment import checkpoint
from fastscore.experiment.checkpoint import files
from fastscore.experiment.history import read_metrics
from fastscore.experiment.sample import load_run
from fastscore.experiment.train import Trainer

from .test_damaged_runs import resign
from .test_run_folders import CONFIG, train

ABSURD = [
    10**20,
    10**400,
    -(10**20),
    -1,
    0,
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
    True,
    None,
    "",
    "x",
    [],
    [float("inf")],
    {},
    {"a": 1},
    "\ud800",
    2**63,
    0.5,
]
DEEP = "[" * 10_000 + "]" * 10_000


def mutate(run: Path, dice: random.Random) -> str:
    """Damage one file of a run, with the checksums made right again half of the time; returns what was done."""
    folder = checkpoint.latest(run)
    kind = dice.choice(["config", "config", "metrics", "changes", "about", "identity", "state", "bytes"])
    value = dice.choice(ABSURD)
    if kind == "config":
        values = json.loads((run / "config.json").read_text())
        name = dice.choice([*values, "new"])
        text = json.dumps(values | {name: value})
        (run / "config.json").write_text(dice.choice([text] * 9 + [text.replace("{", '{"x": ' + DEEP + ",", 1)]))
        return f"config {name} {value!r:.40}"
    if kind in ("metrics", "changes"):
        name = dice.choice(["step", "loss", "loss_per_sigma", "lr", "images_per_second", "grad_norm"])
        record = {"step": 3, "loss": 1.0, "loss_per_sigma": [1.0] * 12} | {name: value}
        with open(run / f"{kind}.jsonl", "a") as file:
            file.write(dice.choice([json.dumps(record), DEEP, "9" * 5000]) + dice.choice(["", "\n"]))
        return f"{kind} {name} {value!r:.40}"
    if kind in ("about", "identity"):
        path = folder / "about.json" if kind == "about" else run / "run.json"
        values = files.read_signed_json(path.read_bytes())
        name = dice.choice(list(values))
        path.write_text(dice.choice([files.signed_json, json.dumps])(values | {name: value}))
        return f"{kind} {name} {value!r:.40}"
    if kind == "state":
        state = torch.load(folder / "state.pt", weights_only=True)
        where = dice.choice([state, state["optimizer"], state["optimizer"]["state"], state["optimizer"]["state"][0]])
        name = dice.choice(list(where))
        where[name] = dice.choice([value, torch.zeros(2, 2), torch.zeros(3, dtype=torch.int8), torch.tensor(1j)])
        torch.save(state, folder / "state.pt")
        resign(folder)
        return f"state {name} {where[name]!r:.40}"
    path = dice.choice([p for p in run.rglob("*") if p.is_file() and p.name != ".lock"])
    data = bytearray(path.read_bytes())
    for _ in range(dice.choice([1, 50])):
        data[dice.randrange(len(data))] = dice.randrange(256)
    path.write_bytes(data)
    return f"bytes of {path.relative_to(run)}"


def explore(run: Path) -> str:
    """Sample and resume: each works or is refused in words."""
    outcome = []
    for use in (
        lambda: load_run(run),
        lambda: Trainer(dataclasses.replace(CONFIG, iterations=7), run, resume=True).train(progress=False),
        lambda: read_metrics(run),
    ):
        try:
            use()
            outcome.append("ran")
        except (fs.FastscoreError, ValueError, OSError) as error:
            text = str(error)
            assert 20 < len(text) < 1500, text
            outcome.append(type(error).__name__)
    return " ".join(outcome)


@pytest.mark.parametrize("seed", range(4))
def test_absurd_run_folders_run_or_are_refused_in_words(seed, tmp_path):
    """Ten mutated folders each; hundreds were looked at while this was written."""
    dice, whole = random.Random(seed), tmp_path / "whole"
    train(whole)
    for k in range(10):
        run = tmp_path / str(k)
        shutil.copytree(whole, run)
        what = mutate(run, dice)
        try:
            explore(run)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {k}: {what}") from error
