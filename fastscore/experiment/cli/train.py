"""The command ``fastscore train``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._core.errors import require
from ...paths import PATHS
from ...samplers import SAMPLERS
from .. import terminal
from ..config import TrainConfig, quoted
from ..presets import PRESETS
from ..ranks import TIMEOUT, Ranks, joined

if TYPE_CHECKING:
    from ..train import Trainer

_PREDICTED = {
    "score": "the score",
    "epsilon": "the noise",
    "x0": "the clean sample",
    "v": "v",
    "velocity": "the velocity",
}


def train(
    preset: TrainConfig,
    out: Path | None = None,
    resume: bool = False,
    change: bool = False,
    tensorboard: bool = False,
    quiet: bool = False,
    rank_timeout: float = TIMEOUT,
    *,
    options: Any,
    path_options: Any,
) -> None:
    """Train a network, starting from a preset.

    Writes a run folder: config.json, metrics.jsonl (the loss as it falls), training.png, and checkpoints/.
    Kill it at any moment; the same command with --resume goes on as if nothing had happened. On several devices:
    torchrun --standalone --nproc-per-node N -m -- fastscore train ... is the same run.

    Args:
        preset: what to train; every option below changes one setting of it.
        out: The run folder; runs/DATA where not given.
        resume: Go on from the last checkpoint, or start if there is none.
        change: With --resume: go on with another --lr, --beta1, --beta2, --eps, --warmup, --decay, --clip-norm,
            --accumulate, --iterations or --precision than before. What changed, and from which iteration on, is kept in changes.jsonl.
        tensorboard: Write event files for TensorBoard into RUN/tensorboard too (needs 'fastscore-torch[tensorboard]').
        quiet: No progress bar.
        rank_timeout: With torchrun: seconds without a sign of life after which a rank is given up, and all end.
        options: of the objective.
        path_options: of the path.
    """
    with joined(rank_timeout) as ranks:
        preset = dataclasses.replace(
            preset,
            objective_options=preset.objective_options | options.given(),
            path_options=preset.path_options | path_options.given(),
        )
        _train(ranks, preset, out, resume, change, tensorboard, quiet)


def _train(
    ranks: Ranks, preset: TrainConfig, out: Path | None, resume: bool, change: bool, tensorboard: bool, quiet: bool
) -> None:
    from ..train import Trainer

    run = out or Path("runs") / preset.data
    _check(ranks, preset, run, resume, change, tensorboard)
    trainer = Trainer(preset, run, resume=resume, change=change, ranks=ranks)
    if not ranks.leads:
        trainer.train(progress=False)
        return
    _introduce(trainer, preset)
    print(f"trained: {_iterate(trainer, tensorboard, quiet)}")
    _show(run, preset, quiet)
    asked = " --label each" if preset.num_classes else ""
    print(f"next: fastscore sample {quoted(run)} --num 100{asked} --out {quoted(run / 'more')}")


def _check(ranks: Ranks, preset: TrainConfig, run: Path, resume: bool, change: bool, tensorboard: bool) -> None:
    """Raise where the command cannot do what it is asked, before anything is made."""
    from ..._core import checks
    from ...data import DATASETS
    from .. import limits
    from ..build import FROM_FILES
    from ..sample_folder import check_encodable, check_folder

    _check_noise(preset)
    with ranks.together():
        if change and not resume:
            raise ValueError("--change needs --resume: a new run takes its options as they are given")
        checks.one_of("data", preset.data, tuple(DATASETS))
        limits.check_run(preset, ranks.place(preset.device), ranks.count)
        if ranks.leads:
            check_folder("--out", run, make=False)
            if tensorboard:
                require("tensorboard", "tensorboard")
        if preset.data in FROM_FILES:
            check_encodable("--data-dir", Path(preset.data_dir).absolute())
            terminal.check_readable("--data-dir", Path(preset.data_dir))


def _introduce(trainer: Trainer, preset: TrainConfig) -> None:
    """Print what is trained on what, into which folder, and what is no longer as it was."""
    from ..path_bounds import make_path

    ranks = trainer.ranks.count
    print(
        f"training {preset.model} on {preset.data}: {sum(p.numel() for p in trainer.model.parameters()):,} "
        f"parameters, on {trainer.device} in {trainer.config.precision}"
        f"{f', {ranks} ranks' if ranks > 1 else ''}, into {trainer.run}\ndata: {trainer.about_data}"
    )
    if PATHS[preset.path].continuous:
        print(f"path: {make_path(preset)}; the network predicts {_PREDICTED[preset.parametrization]}")
    if trainer.changed:
        print(f"from now on this run samples with {', '.join(trainer.changed)}")
    if trainer.retuned:
        print(f"from iteration {trainer.step} on it trains with {', '.join(trainer.retuned)}")
    if trainer.step:
        print(f"going on at iteration {trainer.step} of {preset.iterations}")


def _iterate(trainer: Trainer, tensorboard: bool, quiet: bool) -> Path:
    """The folder of the last checkpoint; where the user stops it, the program ends."""
    from ..event_files import EventFiles
    from ..preview import save_preview

    listener = EventFiles(trainer.run, trainer.step) if tensorboard else None
    try:
        return trainer.train(progress=not quiet, preview=save_preview, listener=listener)
    except KeyboardInterrupt:
        print(
            f"\nstopped at iteration {trainer.step}; "
            + (f"the last checkpoint is {trainer.last}. " if trainer.last else "no checkpoint was written yet. ")
            + "Go on with the same command and --resume",
            file=sys.stderr,
        )
        sys.exit(130)
    finally:
        if listener is not None:
            listener.close()


def _show(run: Path, preset: TrainConfig, quiet: bool) -> None:
    """Draw the loss curves, and of the mixture, whose score is known, what was learned."""
    from ...evaluation.plots import save_training_curves
    from ..build import make_sigmas
    from ..evaluate import evaluate
    from ..history import read_metrics

    history = read_metrics(run)
    if history:  # none where the run is shorter than --log-every, or the file was deleted
        print(f"loss curves: {save_training_curves(history, run / 'training.png', sigmas=make_sigmas(preset))}")
    if preset.data == "mixture":
        report = evaluate(run, num=2000, device=preset.device, overwrite=True, progress=not quiet)
        weights, sampler = report["mode_weights"], SAMPLERS[report["sampler"]]
        print(
            f"learned and exact score field: {run / 'score_field.png'}\nweights of the two modes: exact "
            f"{_pair(weights['exact'])}; {sampler.title} {_pair(weights[sampler.name])}; plain Langevin dynamics "
            f"{_pair(weights['plain'])}"
        )


def _check_noise(config: TrainConfig) -> None:
    """Refuse noise levels that no preset has, and so were asked for, on a path that takes none."""
    if PATHS[config.path].takes_sigmas:
        return
    for name in ("sigma_begin", "sigma_end"):
        if getattr(config, name) not in {getattr(other, name) for _, other in PRESETS.values()}:
            own = ", ".join(f"--{option.name.replace('_', '-')}" for option in PATHS[config.path].options)
            raise ValueError(
                f"{name} must be left out on path {config.path!r}, whose noise is given by {own}, got "
                f"{getattr(config, name)}"
            )


def _pair(weights: list[float]) -> str:
    return " / ".join(f"{weight:.2f}" for weight in weights)
