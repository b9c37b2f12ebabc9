"""The commands about whole runs: ``fastscore import | export | status``."""

from __future__ import annotations

from pathlib import Path

from .. import terminal
from ..config import quoted


def import_(
    file: Path,
    /,
    out: Path | None = None,
    config: Path | None = None,
    preset: str | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    iteration: int | None = None,
    fresh_optimizer: bool = False,
) -> None:
    """Make a run folder of a checkpoint (.pth) of the original NCSN or NCSNv2: it samples, is evaluated and goes on training.

    Nothing of the file is run. What it was trained with is read from the config.yml beside it.

    Args:
        file: The checkpoint.
        out: The run folder; runs/NAME-OF-THE-FILE where not given.
        config: The config.yml; where not given, the one beside the file.
        preset: For what the config does not say, or where there is none: it was trained as this preset of fastscore train is.
        data: The data set here, where the config names none that is known: cifar10, mnist, folder, ...
        data_dir: Folder that holds the data set's files; data where not given.
        iteration: How many iterations led to the checkpoint, where the file does not say.
        fresh_optimizer: Take the weights alone, and let Adam begin anew.
    """
    from ..checkpoint import read_config, step_of
    from ..import_original import import_original
    from ..presets import command_line
    from ..sample_folder import check_encodable, check_folder

    run = out or Path("runs") / file.stem
    check_folder("--out", run, make=False)
    if data_dir is not None:
        check_encodable("--data-dir", data_dir.absolute())
        terminal.check_readable("--data-dir", data_dir)
    saved = import_original(
        file,
        run,
        config=config,
        preset=preset,
        data=data,
        data_dir=data_dir,
        iteration=iteration,
        fresh_optimizer=fresh_optimizer,
    )
    imported = read_config(run)
    print(
        f"imported: {saved}\nnext: fastscore sample {quoted(run)} --num 100\n"
        f"train on with: {command_line(imported, run, '--resume')}"
    )
    if step_of(saved) >= imported.iterations:
        print(f"further than its {imported.iterations} iterations: --iterations N --change")


def export(
    run: Path,
    /,
    out: Path | None = None,
    safetensors: bool = False,
    weights: str = "auto",
    checkpoint: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write a run's checkpoint for others: as the originals' .pth, or as safetensors with a model card.

    The .pth holds weights, optimizer, iteration and moving average under the originals' names, and a config.yml is written
    beside it. With --safetensors: the weights alone, as model.safetensors, and MODEL_CARD.md with config, data and numbers.

    Args:
        run: The run folder.
        out: The file, or with --safetensors the folder; RUN/export/checkpoint_ITERATION.pth or RUN/export where not given.
        safetensors: Weights alone, with a model card.
        weights: With --safetensors, ema: the moving average; ema-0.9999: a further one that the run keeps; raw: as the optimizer
            left them; auto: ema where the run keeps one.
        checkpoint: The iteration whose checkpoint or snapshot to write; by default the last checkpoint.
        overwrite: Replace files that are there.
    """
    from ..checkpoint import latest, step_of
    from ..export import export_original, export_safetensors

    if weights != "auto" and not safetensors:
        raise ValueError("--weights needs --safetensors: a .pth holds the weights and their moving average")
    if safetensors:
        written = export_safetensors(
            run, out or run / "export", iteration=checkpoint, weights=weights, overwrite=overwrite
        )
    else:
        step = step_of(latest(run)) if checkpoint is None else checkpoint
        written = export_original(
            run, out or run / "export" / f"checkpoint_{step}.pth", iteration=checkpoint, overwrite=overwrite
        )
    print("\n".join(f"written: {path}" for path in written))


def status(run: Path, /) -> None:
    """Say how far a run is: iteration, loss, pace, time left, checkpoints, whether a process trains there, and disk.

    Of the folder of fastscore reproduce: at which stage it is, and how far.

    Args:
        run: The run folder.
    """
    from .. import status as examination
    from ..reproduce import state

    if state.is_reproduction(run):
        print(state.lines(run))
        return
    print(examination.screen(examination.status(run)))
