"""What each rank of test_ranks.py runs: command lines one after the other, in one process.

rank_program.py FOLDER COMMANDS: the commands are a JSON list of lists of words, in which {rank} stands for the rank. FOLDER
gets a file of each rank: the exit code of each command, the weights that each training ended with, and what was
written.
"""

import json
import os
import sys
from pathlib import Path

from fastscore.experiment import cli
from fastscore.experiment.train import Trainer


def main(words: list[str]) -> None:
    folder, commands, rank = Path(words[0]), json.loads(words[1]), os.environ["RANK"]
    codes, weights, written = [], [], []

    def hear(event: str, arguments: tuple) -> None:
        changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
        if event == "open" and isinstance(arguments[2], int):
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        path = str(arguments[0]) if changes else ""
        if path.startswith(str(folder)) or (changes and not path.startswith("/")):
            written.append(f"{event} {path}")

    def train(trainer: Trainer, train=Trainer.train, **how: object) -> Path:
        last = train(trainer, **how)
        weights.append([str(last), trainer.step, trainer.learner.digest(), trainer.learner.sums.tolist()])
        return last

    Trainer.train = train
    sys.addaudithook(hear)
    for command in commands:
        try:
            cli.main([word.format(rank=rank) for word in command])
            codes.append(0)
        except SystemExit as stop:
            codes.append(stop.code)
    report = {"codes": codes, "weights": weights, "written": list(written)}
    Path(f"{folder}-{rank}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
