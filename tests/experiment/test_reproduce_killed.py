"""``fastscore reproduce`` from packed images to its report, on two ranks; killed and out of space in each of its stages.

What it ends with is what it ends with where nothing happens.
"""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fastscore.data import to_float
from fastscore.evaluation import features, metrics

from ..data import cifar_files
from ..evaluation.inception_file import write_inception
from .forked_ranks import DISK, Launch, run
from .test_stopping import assert_same_run

PLAN = (
    "reproduce cifar10 --data ../crops --no-checksum --width 4 --num-levels 3 --iterations 9 --snapshot-every 3 "
    "--batch-size 8 --selection-images 20 --samples 24 --seeds 2 --steps-per-level 1 --precision fp32 --feature pixels"
)
MEANS = "--sampling-batch-size 8 --device cpu --quiet"
MODULE = "fastscore.experiment.reproduce"
CONSTANTS = {f"{MODULE}.samples._PART": 8, f"{MODULE}.timing._SECONDS": 0.01, f"{MODULE}.timing._FEW": 2}
#: Of each stage a change that it makes in the folder, in their order.
STAGES = {
    "data": ("data.json", 1),
    "timing": ("timing.json", 1),
    "plan": ("plan.json", 1),
    "training": ("run/checkpoints/*", 12),
    "snapshot": ("run/snapshots/*", 4),
    "selection": ("selection/step_00000006-*.json", 1),
    "choice": ("selection.json", 1),
    "samples": ("samples/step_*-seed-0/part_00001.npy", 1),
    "measures": ("measures/step_*-seed-1.json", 1),
    "report": ("report/*", 3),
}
#: What differs between two runs of one plan: how long things took.
TIMES = ("seconds", "training_seconds", "images_per_second")


def no_report(out: Path) -> list[Path]:
    """In place of ``write_report``, whose pictures take longer than all the rest."""
    return []


QUICK = CONSTANTS | {f"{MODULE}.stages.write_report": no_report}


def words(out: str) -> str:
    return f"{PLAN} --out {DISK}/{out} {MEANS}"


def within(moment: tuple[str, int]) -> tuple[str, int]:
    return f"{DISK}/killed/{moment[0]}", moment[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the crops, which may not be written, and a disk of its own where that may be had."""
    place = tmp_path_factory.mktemp("reproduce")
    crops = cifar_files.pack_python(place / "crops", cifar_files.photos("train", 60), cifar_files.photos("heldout", 30))
    for path in (*crops.iterdir(), crops, crops.parent):
        path.chmod(path.stat().st_mode & ~0o222)
    (place / "home" / DISK).mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "none", str(place / "home" / DISK)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    yield place
    if mounted:
        subprocess.run(["umount", str(place / "home" / DISK)], check=True)
    crops.parent.chmod(0o700)
    crops.chmod(0o700)


@pytest.fixture(scope="module")
def home(place):
    """Where the commands are given."""
    return place / "home"


def timeless(value):
    """``value`` of a JSON file, without what took how long."""
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if name not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def files_of(out: Path) -> dict[str, Path]:
    return {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}


def assert_same_reproduction(ours: Path, theirs: Path) -> None:
    """The same files, and in them the same numbers and the same samples."""
    mine, others = files_of(ours), files_of(theirs)
    for files in (mine, others):
        files.pop("clock.json", None)  # which is written each minute, and at the end of a call that is not killed
    assert mine.keys() == others.keys()
    assert_same_run(ours / "run", theirs / "run")
    for name, path in mine.items():
        a, b = path.read_bytes(), others[name].read_bytes()
        if path.suffix == ".npy" or (name.startswith("selection/") and path.suffix == ".png"):
            assert a == b, name
        elif path.suffix == ".safetensors":
            first, second = load_file(path), load_file(others[name])
            assert first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first), name
        elif path.suffix == ".json" and not name.startswith("run/") and name != "timing.json":
            a, b = (text.replace(out.name.encode(), b"OUT") for text, out in ((a, ours), (b, theirs)))
            assert timeless(json.loads(a)) == timeless(json.loads(b)), name


@pytest.fixture(scope="module")
def whole(home):
    """The reproduction that nothing happened to."""
    before = {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in files_of(home / "../crops").items()}
    run(words("whole"), home, constants=QUICK)
    run(words("whole"), home, constants=CONSTANTS)
    after = {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in files_of(home / "../crops").items()}
    assert after == before, "nothing is written where the data lie"
    return home / DISK / "whole"


@pytest.mark.slow
def test_all_stages_leave_what_they_should(whole):
    plan = json.loads((whole / "plan.json").read_text())
    assert plan["config"]["data"] == "cifar10" and plan["iterations"] == 9 and plan["seeds"] == [0, 1]
    data = json.loads((whole / "data.json").read_text())
    assert data["train"]["count"] == 60 and data["heldout"]["count"] == 30 and data["checksums"] == "not checked"
    selection = json.loads((whole / "selection.json").read_text())
    assert [row["step"] for row in selection["rows"]] == [3, 6, 9]
    best = min(selection["rows"], key=lambda row: row["frechet_distance"])
    assert selection["chosen"]["step"] == best["step"] and selection["last"]["step"] == 9
    measures = [json.loads(path.read_text()) for path in (whole / "measures").glob("*.json")]
    assert {(one["step"], one["seed"]) for one in measures} == {(s, k) for s in {best["step"], 9} for k in (0, 1)}
    assert (whole / "report.md").is_file() and (whole / "report.html").is_file()


@pytest.mark.slow
def test_killed_and_full_in_every_stage(whole, home):
    """Full from the last change of a stage, killed in the next: nothing that was there is lost, the text says how to go
    on, and in the end all is as it would have been."""
    command, filled = words("killed"), (".lock", 1)
    for stage, moment in STAGES.items():
        constants = CONSTANTS if stage == "report" else QUICK
        with Launch(command, home, full_at=within(filled), constants=constants) as launch:
            assert launch.ends() == [2, 2], (stage, launch.told())
        told = launch.told()
        fault = re.search(
            r"(?m)^error \(rank 0\): (.*No space left on device); .* stays?. Once that is mended, go on with: fastscore (.*)$",
            told,
        )
        assert fault and f"{DISK}/killed" in fault[1], (stage, told)
        assert told.count("go on with") == 1 and "Traceback" not in told, (stage, told)
        (home / DISK / "filler").unlink(missing_ok=True)
        command, filled = f"{fault[2]} {MEANS}", moment  # as it says
        with Launch(command, home, dies_at=within(moment), constants=constants) as launch:
            assert launch.waits_for(lambda launch=launch: launch.ranks[0].exitcode is not None)
            launch.kill()
            assert launch.ends()[0] == -9, (stage, launch.told())
    run(command, home, constants=CONSTANTS)
    assert_same_reproduction(home / DISK / "killed", whole)


@pytest.mark.slow
def test_two_launches_refuse_each_other(place, home):
    """The second is refused and changes nothing; the first goes on."""
    out, other = home / DISK / "taken", place / "other"
    other.mkdir()
    with Launch(words("taken"), home, constants=CONSTANTS) as first:
        assert first.waits_for((out / "data.json").is_file)
        for process in first.ranks:
            os.kill(process.pid, signal.SIGSTOP)
        before = {name: path.read_bytes() for name, path in files_of(out).items()}
        with Launch(words("taken").replace(DISK, f"../home/{DISK}"), other) as second:
            assert second.ends() == [2, 2]
        told = second.told()
        assert f"error (rank 0): another process reproduces in ../home/{DISK}/taken: wait until it ends, or" in told
        assert {name: path.read_bytes() for name, path in files_of(out).items()} == before
        for process in first.ranks:
            os.kill(process.pid, signal.SIGCONT)
        assert first.waits_for((out / "plan.json").is_file)


@pytest.mark.slow
def test_inception_on_two_ranks(home):
    """Killed before its measure is written: it goes on with the features that are kept, and the numbers are theirs."""
    weights, train = write_inception(home / "inception.pth"), cifar_files.photos("train", 20)
    cifar_files.pack_binary(home / "binary", train, cifar_files.photos("heldout", 5))
    command = (
        "reproduce cifar10 --model ncsn --data binary --no-checksum --width 4 --num-levels 2 --iterations 2 --batch-size 4 "
        "--selection-images 20 --samples 20 --seeds 1 --steps-per-level 1 --precision fp32 --inception inception.pth "
        f"--no-inception-checksum --out inception {MEANS}"
    )
    out, name = home / "inception", "step_00000002-raw-seed-0"
    with Launch(command, home, dies_at=(f"inception/measures/{name}.json", 1), constants=QUICK) as launch:
        assert launch.waits_for(lambda: launch.ranks[0].exitcode is not None)
        launch.kill()
        assert launch.ends()[0] == -9, launch.told()
    real, fake = (torch.from_numpy(np.load(out / "features" / of / "part_00000.npy")) for of in ("train", name))
    np.save(out / "features" / "train" / "part_00000.npy", real.numpy() + 1)  # a kept feature is not made again
    run(command, home, constants=QUICK)
    samples = np.concatenate([np.load(part) for part in sorted((out / "samples" / name).glob("part_*.npy"))])
    extract = features.inception_features(weights, checksum=False)
    for kept, images in ((real, train[0]), (fake, torch.from_numpy(samples))):
        assert len(kept) == len(images) == 20
        torch.testing.assert_close(kept[17:], extract(to_float(images[17:])), rtol=1e-3, atol=1e-4)
    found = json.loads((out / "measures" / f"{name}.json").read_text())
    assert found["feature"] == "inception" and found["roles"] == ["chosen", "last"] and found["samples"] == 20
    assert found["frechet_distance"] == pytest.approx(metrics.frechet_distance(real + 1, fake), rel=1e-3)
    score = metrics.inception_score(extract.probabilities(fake))
    assert found["inception_score"]["mean"] == pytest.approx(score.mean, rel=1e-3)
    assert not (out / "features").exists()
