"""A run on several ranks is the run: its losses, weights, samples and continuation, and what happens where a rank ends."""

import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import fastscore as fs
from fastscore.experiment import checkpoint, cli, heartbeat
from fastscore.experiment import ranks as ranks_module
from fastscore.experiment.build import make_data
from fastscore.experiment.heartbeat import Heartbeat
from fastscore.experiment.history import read_metrics
from fastscore.experiment.learner import Learner
from fastscore.experiment.ranks import ALONE, RankFailed, Ranks, joined

from . import rank_program
from .forked_ranks import run
from .test_stopping import assert_same_run
from .test_train import TOY, weights

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "many_devices.md").read_text()
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "OMP_WAIT_POLICY": "passive"}
IMAGES = (
    "digits --width 4 --batch-size 9 --log-every 1 --checkpoint-every 4 --warmup 3 --no-decay --precision fp32 --quiet"
)
LONG = 40  # iterations of the run that is killed
POINTS = "toy --data two_moons --width 16 --batch-size 11 --log-every 1 --checkpoint-every 3 --objective ssm --quiet"


def torchrun(count: int, *words: str, restarts: int = 0) -> list[str]:
    """The command of the page and the README, with another number of ranks and of restarts."""
    for text in (PAGE, (ROOT / "README.md").read_text()):
        found = re.findall(r"(?m)^torchrun --standalone (.*) -m (?:-- )?fastscore (\w+)", text)
        for options, command in found:
            extra = ["--max-restarts", "3"] if command == "train" else []
            assert shlex.split(options) == ["--nproc-per-node", "4", *extra]
        assert found
    options = ["--standalone", "--nproc-per-node", str(count), "--max-restarts", str(restarts)]
    return [sys.executable, "-m", "torch.distributed.run", *options, *words]


def on_ranks(count: int, folder: Path, commands: list[str], *, by_torchrun: bool = True) -> list[dict]:
    """What the program of each rank told, after the commands were run in ``folder``."""
    text = json.dumps([shlex.split(command) for command in commands])
    if by_torchrun:
        words = torchrun(count, rank_program.__file__, str(folder), text)
        done = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        told = {"out": done.stdout, "err": done.stderr}
    else:
        told = {"out": run(shlex.join([str(folder), text]), folder, count, program=rank_program.main)}
    reports = [json.loads(Path(f"{folder}-{rank}.json").read_text()) for rank in range(count)]
    assert all(report["weights"] == reports[0]["weights"] for report in reports), (
        "the weights of all ranks are the same"
    )
    assert [report["written"] for report in reports[1:]] == [[]] * (count - 1), "rank 0 alone writes"
    assert reports[0]["written"]
    return [*reports, told]


def alone(command: str, folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    cli.main(shlex.split(command))


def assert_same_losses(a: Path, b: Path, rtol: float = 1e-5) -> None:
    ours, theirs = read_metrics(a), read_metrics(b)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] != []
    for one, other in zip(ours, theirs):
        assert one["loss"] == pytest.approx(other["loss"], rel=rtol)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=10 * rtol)
        levels, others = ([0.0 if mean is None else mean for mean in line["loss_per_sigma"]] for line in (one, other))
        assert levels == pytest.approx(others, rel=10 * rtol)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(place):
    """Two ranks: 9 and 11 samples are 4 and 5, 5 and 6."""
    folder = place / "two"
    (folder / "taken").mkdir(parents=True)
    lock = checkpoint.Lock(folder / "taken" / checkpoint.LOCK)
    found = on_ranks(
        2,
        folder,
        [
            f"train {IMAGES} --iterations 8 --out dsm --sample-every 8 --steps-per-level 1",
            f"train {IMAGES} --iterations {LONG} --out whole",
            f"train {POINTS} --iterations 6 --accumulate 2 --out ssm",
            "sample dsm --num 10 --batch-size 4 --sampler annealed --steps-per-level 1 --quiet --out samples",
            "evaluate ssm --num 50 --batch-size 20 --sampler gotta_go_fast --quiet --out evaluation",
            f"train {POINTS} --iterations 6 --out taken",
            f"train {POINTS} --iterations 6 --seed {{rank}} --out other",
        ],
    )
    lock.release()
    return folder, found


@pytest.fixture(scope="module")
def three(place, two):
    """Three ranks, which go on with the run of two; forked, as what torchrun has to do with it is seen of two."""
    folder = place / "three"
    folder.mkdir()
    shutil.copytree(two[0] / "dsm", folder / "dsm")
    commands = [
        f"train {IMAGES} --iterations 16 --resume --out dsm",
        f"train {IMAGES} --iterations 4 --objective ssm --accumulate 3 --out ssm",
    ]
    return folder, on_ranks(3, folder, commands, by_torchrun=False)


@pytest.fixture(scope="module")
def one(place):
    folder = place / "one"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        alone(f"train {IMAGES} --iterations 16 --out dsm", folder, patch)
        alone(f"train {POINTS} --iterations 6 --out ssm-points", folder, patch)
        alone(f"train {IMAGES} --iterations 4 --objective ssm --out ssm-images", folder, patch)
    return folder


@pytest.mark.slow
def test_losses_are_the_single_processs(one, two, three):
    """At every iteration, of both objectives; in parts, of batches that the ranks do not divide; and across a resumption."""
    assert two[1][0]["codes"][:3] == [0, 0, 0] and three[1][0]["codes"] == [0, 0]
    assert len(read_metrics(three[0] / "dsm")) == 16 and (two[0] / "dsm" / "samples" / "step_00000008.png").exists()
    assert_same_losses(three[0] / "dsm", one / "dsm")
    assert_same_losses(two[0] / "ssm", one / "ssm-points")
    assert_same_losses(three[0] / "ssm", one / "ssm-images")
    ours, theirs = weights(three[0] / "dsm"), weights(one / "dsm")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:samples of 2 elements")
def test_samples_are_the_single_processs_bit_for_bit(two, tmp_path, monkeypatch):
    assert two[1][0]["codes"][3:5] == two[1][1]["codes"][3:5] == [0, 0]
    sample = "sample {}/dsm --num 10 --batch-size 4 --sampler annealed --steps-per-level 1 --quiet --out samples"
    alone(sample.format(two[0]), tmp_path, monkeypatch)
    evaluate = "evaluate {}/ssm --num 50 --batch-size 20 --sampler gotta_go_fast --quiet --out evaluation"
    alone(evaluate.format(two[0]), tmp_path, monkeypatch)
    for name, count in (("samples", 10), ("evaluation", 50)):
        ours, theirs = (np.load(folder / name / "samples.npy") for folder in (two[0], tmp_path))
        assert len(ours) == count and ours.tobytes() == theirs.tobytes()
    reports = [json.loads((folder / "evaluation" / "metrics.json").read_text()) for folder in (two[0], tmp_path)]
    assert reports[0] | {"run": ""} == reports[1] | {"run": ""}
    assert reports[0]["network_evaluations_per_sample"] > 100  # of an adaptive sampler, counted on all ranks


@pytest.mark.slow
def test_what_ends_one_rank_ends_all(two):
    """A folder in which another process trains, and settings that differ."""
    folder, (*reports, told) = two
    assert [report["codes"][5:] for report in reports] == [[2, 2]] * 2
    assert "error (rank 0): another process, or another Trainer of this one, trains in taken: wait" in told["err"]
    assert "error (rank 1): rank 0 stopped; its own message says why" in told["err"]
    assert "error (rank 1): every rank must be given the same settings as rank 0: seed (0 there, 1 here)" in told["err"]
    assert os.listdir(folder / "taken") == [".lock"] and not (folder / "other").exists()
    assert told["out"].count("training ncsn on digits: ") == 2 and ", 2 ranks, into dsm" in told["out"]


def children(process: int) -> list[int]:
    """The processes that ``process`` started, in that order."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) == process:
            found.append(int(number.split()[0]))
    return sorted(found)


def wait_for(what, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def lines(run: Path) -> int:
    path = run / checkpoint.METRICS
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_a_killed_rank_costs_nothing(two, tmp_path):
    """The page's command, a rank of it killed at a random moment: torchrun starts both again, and the end is the same."""
    dice = random.Random()
    at, rank = dice.randrange(1, LONG - 5), dice.randrange(2)
    words = [*shlex.split(IMAGES), "--iterations", str(LONG), "--resume", "--out", "killed"]
    command = torchrun(2, "-m", "fastscore", "train", *words, restarts=3)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=log, stderr=log)
        wait_for(lambda: lines(tmp_path / "killed") >= at)
        os.kill(children(process.pid)[rank], signal.SIGKILL)
        assert process.wait(timeout=120) == 0
    assert f"exitcode: -9) local_rank: {rank}" in (tmp_path / "log").read_text(), (at, rank)
    assert_same_run(tmp_path / "killed", two[0] / "whole")
    assert not list((tmp_path / "killed").rglob(".*tmp*")) and not list(
        (tmp_path / "killed" / "checkpoints").glob(".*")
    )


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_what_ranks_exchange(forked):
    def work(ranks):
        values = [torch.full((2, 3), float(ranks.rank + 1)), torch.tensor(float(ranks.rank), dtype=torch.float32)]
        ranks.add(values)
        assert values[0].tolist() == [[6.0] * 3] * 2 and float(values[1]) == 3
        ranks.copy(values := [torch.full((2, 2), ranks.rank), torch.full((1, 4, 2, 2), ranks.rank + 0.5).mT])
        assert float(values[0].max()) == 0 and float(values[1].max()) == 0.5
        assert ranks.told(f"rank {ranks.rank}: \u00e9") == "rank 0: \u00e9" and ranks.told("") == ""
        made = list(ranks.in_turn([(1,), (2,), (1,), (2,), (1,)], lambda k: torch.full((1 + k % 2,), float(k))))
        assert [value.tolist() for value in made] == ([[0], [1, 1], [2], [3, 3], [4]] if ranks.leads else [])
        ranks.same("the number of ranks", str(ranks.count))
        with pytest.raises(
            RankFailed, match="the rank must be the same on all ranks, and differs from rank 0's on 1, 2"
        ):
            ranks.same("the rank", str(ranks.rank))
        with pytest.raises(KeyError if ranks.rank == 1 else RankFailed, match="rank 1"), ranks.together():
            if ranks.rank == 1:
                raise KeyError("rank 1")

    forked(work, 3)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_loss_that_is_not_finite_on_one_rank_reaches_no_weights(forked):
    def work(ranks):
        torch.set_num_threads(1)  # those of a parent do not live on in its child
        learner = Learner(TOY, make_data(TOY), torch.device("cpu"), ranks)
        loss, before = learner._loss, learner.digest()
        learner.iterate(0)
        after = learner.digest()
        learner._loss = lambda x, labels, rng: loss(x, labels, rng) * (float("inf") if ranks.rank else 1)
        with pytest.raises(fs.NonFiniteLoss, match="the loss at iteration 2 is not finite"):
            learner.iterate(1)
        assert learner.digest() == after != before

    threads = torch.get_num_threads()
    try:
        forked(work)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_rank_that_was_killed_is_named(forked):
    """By the others, without torchrun; and what one could not make is an error of rank 0's."""
    process = []

    def fail(k):
        raise RankFailed("no")

    def work(ranks):
        if not ranks.leads:
            with pytest.raises(RankFailed, match="no"):
                list(ranks.in_turn([(1,)] * 2, fail))
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(RankFailed, match="rank 1 stopped"):
            list(ranks.in_turn([(1,)] * 2, lambda k: torch.zeros(1)))
        process.append(int(ranks._heartbeat._seen[1][1]))
        ranks.add([torch.zeros(1)])

    before = time.monotonic()
    with pytest.raises(RankFailed, match=r"rank 1 \(process \d+ on .*\) ended without a word"):
        forked(work)
    assert process and time.monotonic() - before < 30


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_ranks_that_are_started_again_do_not_meet_the_dead(store):
    """torchrun keeps its store: every start has a name of its own, whichever rank comes first."""
    names = []
    for late in range(3):
        found = {}

        def start(rank, late=late, found=found):
            if rank == late:
                time.sleep(0.1)
            found[rank] = ranks_module._start_of(store.clone(), rank, 3)

        threads = [threading.Thread(target=start, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(found) == [0, 1, 2] and len(set(found.values())) == 1
        names += set(found.values())
    assert len(set(names)) == 3


@pytest.mark.parametrize("word", ["silent", heartbeat.STOPPED, heartbeat.ENDED, "going"])
def test_a_silent_rank_is_given_up(word, store, monkeypatch, capsys):
    ends = []

    monkeypatch.setattr(heartbeat.os, "_exit", ends.append)
    ours, theirs = (Heartbeat(store, rank, 2, limit=0.6) for rank in range(2))
    try:
        ours.start()
        if word == "going":
            theirs.start()
        elif word != "silent":
            theirs.end(word)
        ours._thread.join(1.5)
        alive = ours._thread.is_alive()
    finally:
        for one in (ours, theirs):
            one.end(heartbeat.ENDED)
    text = capsys.readouterr().err
    if word in ("going", heartbeat.ENDED):
        assert alive and not ends and not text
    else:
        why = "stopped; its own message says why" if word == heartbeat.STOPPED else "gave no sign of life for 0.6 s"
        assert (
            ends == [2] and text == f"error (rank 0): rank 1 (process {os.getpid()} on {os.uname().nodename}) {why}\n"
        )


def test_a_rank_alone_is_a_process_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as ranks:
        assert ranks is ALONE and ranks.leads and ranks.rows(7) == (0, 7) and ranks.place("cpu") == torch.device("cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match=r"RANK and .*must be in the environment where WORLD_SIZE is 2"), joined():
        pass
    for wrong in (0.5, 1e300, float("nan")):
        with pytest.raises(ValueError, match="rank_timeout must be"), joined(wrong):
            pass


@pytest.mark.parametrize("size, count", [(9, 2), (7, 3), (3, 3)])
def test_rows_are_the_batch(size, count):
    found = [Ranks(rank, count).rows(size) for rank in range(count)]
    assert [row for first, rows in found for row in range(first, first + rows)] == list(range(size))
    assert max(rows for _, rows in found) - min(rows for _, rows in found) <= 1


@pytest.mark.parametrize(
    "changes, text",
    [
        (
            {"batch_size": 5, "accumulate": 2},
            "batch_size must be at least 6, a sample for each rank in each of the 2 parts",
        ),
        ({"objective": "stf"}, "do not depend on each other on 3 ranks, got 'stf'"),
        ({"cuda_graph": True}, "cuda_graph must be False on several ranks"),
    ],
)
def test_what_several_ranks_cannot_do(changes, text):
    config = dataclasses.replace(TOY, **changes)
    with pytest.raises(ValueError, match=text):
        Learner(config, make_data(config), torch.device("cpu"), Ranks(1, 3))


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, local, text in (
        ("auto", 2, "--nproc-per-node must be at most 2"),
        ("cuda:1", 0, "device must be auto, cuda"),
    ):
        with pytest.raises(ValueError, match=text):
            Ranks(local, 3, local).place(name)
    assert Ranks(2, 3, 2).place("cpu") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus(tmp_path, monkeypatch):
    """By NCCL: the same weights on both, and the losses of one."""
    command = f"train {IMAGES} --iterations 8 --out dsm"
    *_, told = on_ranks(2, tmp_path, [command.replace("dsm", "two")])
    assert "on cuda:0 in fp32, 2 ranks" in told["out"]
    alone(command, tmp_path, monkeypatch)
    assert_same_losses(tmp_path / "two", tmp_path / "dsm", rtol=1e-4)
