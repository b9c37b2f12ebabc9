"""The command ``fastscore train-classifier``."""

from __future__ import annotations

from pathlib import Path

from .. import terminal
from ..config import quoted


def train_classifier(
    run: Path,
    /,
    iterations: int = 1000,
    batch_size: int = 128,
    lr: float = 2e-3,
    width: int = 32,
    seed: int = 0,
    data_dir: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    quiet: bool = False,
) -> None:
    """Train a classifier of a run's noisy samples, so that a run without classes draws samples of one.

    Of labelled data. Writes RUN/classifier: the weights, classifier.json, and how often it is right at which noise level,
    accuracy.md and accuracy.png. Then: fastscore sample RUN --label 7 --classifier-scale 4. It is quick, and begins again where it
    was ended.

    Args:
        run: The run folder that training wrote.
        iterations: How many steps it is trained for.
        batch_size: Samples in a step.
        lr: Learning rate, at first; it falls to 0.
        width: Of the network.
        seed: Of weights, batches and noise.
        data_dir: Folder that holds the data set's files; by default where the run was trained on them.
        overwrite: Replace the classifier that is there.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        quiet: No progress bar.
    """
    from .. import classifier, classifier_folder

    if data_dir is not None:
        terminal.check_readable("--data-dir", data_dir)
    about = classifier.train_classifier(
        run,
        classifier.Training(iterations, batch_size, lr, width, seed),
        data_dir=data_dir,
        device=device,
        overwrite=overwrite,
        progress=not quiet,
    )
    folder = run / classifier_folder.FOLDER
    print(classifier.table(about))
    print(f"look at {folder / classifier_folder.PICTURE}")
    print(f"next: fastscore sample {quoted(run)} --label each --classifier-scale 4")
