"""A run of two ranks that is killed ten times, at any moment, each time resumed, is the run that was not killed."""

import random
import time

import pytest

from fastscore.experiment import checkpoint

from .forked_ranks import Launch, run
from .test_ranks import IMAGES, lines
from .test_stopping import assert_same_run

ITERATIONS, EVERY = 40, 4  # in all, and between two checkpoints
WORDS = f"train {IMAGES} --iterations {ITERATIONS} --ema 0.9 --resume --out "


@pytest.mark.slow
def test_ten_kills_change_no_bit(tmp_path):
    """All ranks at once, as a machine ends, or one; in an iteration, at a start, or inside the write of a checkpoint."""
    run(WORDS + "whole", tmp_path)
    dice, killed, resumed = random.Random(0), tmp_path / "killed", []
    moments = [EVERY * k + dice.randrange(EVERY) for k in range(10)]
    for k, at in enumerate(moments):
        way = ("iteration", "start", "write")[k % 3] if k else "iteration"
        victims = [(0, 1), (0,), (1,)][dice.randrange(3)] if way == "iteration" else (0, 1)
        certain = (0,) if way == "write" else victims  # the other may have seen that the one in the write is gone
        inside = ("killed/checkpoints/*", dice.randint(1, 8))  # of the changes that a checkpoint is
        with Launch(WORDS + "killed", tmp_path, dies_at=inside if way == "write" else None) as launch:
            if way == "write":
                assert launch.waits_for(lambda launch=launch: launch.ranks[0].exitcode is not None)
            elif way == "iteration":
                assert launch.waits_for(lambda at=at: lines(killed) > at), launch.told()
            time.sleep({"write": 0.0, "iteration": dice.uniform(0, 0.2), "start": dice.uniform(0, 1)}[way])
            launch.kill(*victims)
            codes = launch.ends()
        assert [code for rank, code in enumerate(codes) if rank in certain] == [-9] * len(certain), launch.told()
        rest = {code for rank, code in enumerate(codes) if rank not in certain}
        assert rest <= ({2, -9} if way == "write" else {2}), launch.told()
        resumed.append(checkpoint.latest(killed).name if checkpoint.steps(killed) else None)
    assert len(set(resumed)) > 3, resumed  # it went on between the kills
    run(WORDS + "killed", tmp_path)
    assert_same_run(killed, tmp_path / "whole")
    assert [path.name for path in killed.rglob(".*")] == [checkpoint.LOCK]
