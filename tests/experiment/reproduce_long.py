"""``fastscore reproduce`` of 20,000 packed crops under torchrun, killed at random moments: python -m tests.experiment.reproduce_long FOLDER

Once undisturbed and once killed KILLS times, by a dice of SEED: one rank, or torchrun with all of them. Each time the same
command goes on, and in the end both folders hold the same. It takes some twenty minutes, which no test may; what it does in small is
in test_reproduce_killed.py.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ..data import cifar_files
from .test_ranks import ENVIRONMENT, children, torchrun
from .test_reproduce_killed import assert_same_reproduction

CROPS, HELDOUT, KILLS, SEED = 20_000, 4_000, 16, 0
WORDS = (
    "-m fastscore reproduce cifar10 --data crops --no-checksum --width 4 --num-levels 10 --iterations 60 --batch-size 32 "
    "--snapshot-every 20 --selection-images 500 --samples 3000 --seeds 1 --steps-per-level 1 --precision fp32 --feature pixels "
    "--sampling-batch-size 100 --device cpu --quiet --out "
)


def main(folder: Path) -> None:
    """Both reproductions in ``folder``, and their comparison."""
    folder.mkdir(parents=True)
    cifar_files.pack_python(
        folder / "crops", cifar_files.photos("train", CROPS), cifar_files.photos("heldout", HELDOUT)
    )
    began = time.monotonic()
    assert start(folder, "whole").wait() == 0
    whole = time.monotonic() - began
    print(f"undisturbed: {whole:.0f} s", flush=True)
    dice, kills = random.Random(SEED), 0
    while kills < KILLS:
        process = start(folder, "killed")
        time.sleep(whole / 4 * dice.random() ** 3)  # often in the first stages, and sometimes long enough for the later
        ranks = children(process.pid)
        if process.poll() is None and ranks and dice.random() < 0.5:
            os.kill(dice.choice(ranks), signal.SIGKILL)
        elif process.poll() is None:
            for each in (process.pid, *ranks):
                os.kill(each, signal.SIGKILL)
        if process.wait() == 0:
            break  # it came to its end before
        kills += 1
        last = max((folder / "killed").rglob("*"), key=lambda path: path.lstat().st_mtime, default="nothing yet")
        print(f"kill {kills}: {last}", flush=True)
    assert start(folder, "killed").wait() == 0
    assert_same_reproduction(folder / "killed", folder / "whole")
    print(f"the same after {kills} kills")


def start(folder: Path, out: str) -> subprocess.Popen:
    """torchrun of two ranks."""
    with open(folder / f"{out}.log", "a") as log:
        return subprocess.Popen(
            torchrun(2, *(WORDS + out).split()), cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
