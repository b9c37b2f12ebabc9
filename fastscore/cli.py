"""The command line: ``fastscore train | sample | evaluate | doctor``."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from .config import PRESETS, TrainConfig
from .errors import FastscoreError, require

_INTRODUCTION = """\
Score-based generative models: learn how to turn noise into samples of your data.

A network learns the score, the direction in which a noisy image becomes more likely, at several levels of noise
(fastscore train). From pure noise, small steps along the score, level after level, lead to new images
(fastscore sample). Start with:  fastscore train digits"""


def train(preset: TrainConfig, out: Path | None = None, resume: bool = False, change: bool = False,
          quiet: bool = False) -> None:
    """Train a network, starting from a preset.

    Writes a run folder: config.json, metrics.jsonl (the loss as it falls), training.png, and checkpoints/.
    Kill it at any moment; the same command with --resume goes on as if nothing had happened.

    Args:
        preset: what to train; every option below changes one setting of it.
        out: The run folder; runs/DATA where not given.
        resume: Go on from the last checkpoint, or start where there is none.
        change: With --resume: go on with another --lr, --beta1, --beta2, --eps, --warmup, --decay, --clip-norm or
            --iterations than before. What changed, and from which iteration on, is kept in changes.jsonl.
        quiet: No progress bar.
    """
    from .evaluate import evaluate
    from .plots import save_training_curves
    from .train import Trainer, make_sigmas, read_metrics

    run = out or Path("runs") / preset.data
    if change and not resume:
        raise ValueError("--change needs --resume: a new run is trained as it is told to")
    trainer = Trainer(preset, run, resume=resume, change=change)
    print(f"training {preset.model} on {preset.data}: {sum(p.numel() for p in trainer.model.parameters()):,} "
          f"parameters, on {trainer.device}, into {run}\ndata: {trainer.about_data}")
    if trainer.changed:
        print(f"from now on this run samples with {', '.join(trainer.changed)}")
    if trainer.retuned:
        print(f"from iteration {trainer.step} on it trains with {', '.join(trainer.retuned)}")
    if trainer.step:
        print(f"going on at iteration {trainer.step} of {preset.iterations}")
    try:
        last = trainer.train(progress=not quiet)
    except KeyboardInterrupt:
        print(f"\nstopped at iteration {trainer.step}; "
              + (f"the last checkpoint is {trainer.last}. " if trainer.last else "no checkpoint was written yet. ")
              + "Go on with the same command and --resume", file=sys.stderr)
        sys.exit(130)
    print(f"trained: {last}")
    history = read_metrics(run)
    if history:  # none where the run is shorter than --log-every, or the file was deleted
        print(f"loss curves: {save_training_curves(history, run / 'training.png', sigmas=make_sigmas(preset))}")
    if preset.data == "mixture":
        weights = evaluate(run, num=2000, device=preset.device, progress=not quiet)["mode_weights"]
        print(f"learned and exact score field: {run / 'score_field.png'}\nweights of the two modes: exact "
              f"{_pair(weights['exact'])}; annealed Langevin {_pair(weights['annealed'])}; plain Langevin "
              f"{_pair(weights['plain'])}")
    print(f"next: fastscore sample {run} --num 100 --out {run}/more")


def sample(run: Path, /, num: int = 100, out: Path | None = None, seed: int = 0,
           sampler: Literal["annealed", "consistent"] = "annealed", alpha: float | None = None,
           steps_per_level: int | None = None, denoise: bool = False, no_denoise: bool = False,
           batch_size: int = 500, device: str = "auto", quiet: bool = False) -> None:
    """Draw new samples from a trained run.

    Writes samples.png (the first hundred) and samples.npy (all, float32 [N, C, H, W] in [0, 1]).

    Args:
        run: The run folder that training wrote.
        num: How many samples.
        out: Where to write; RUN/samples-SEED where not given.
        seed: Another seed gives other samples. Sample k of a seed is the same whatever --num and --batch-size are.
        sampler: annealed: annealed Langevin dynamics (Song & Ermon 2019), the run's steps at each noise level;
            consistent: consistent annealed sampling (Jolicoeur-Martineau et al. 2020), one step a level, much faster.
        alpha: Langevin step size at the smallest noise level, for this call; by default the run's, in its config.json.
        steps_per_level: Langevin updates at each noise level, for this call; by default the run's. annealed only.
        denoise: For this call, end with the mean of the clean image given the noisy one; by default as the run does.
        no_denoise: For this call, leave that last step out.
        batch_size: How many at a time: more takes more memory.
        device: cpu, cuda, ...; auto takes a GPU where there is one.
        quiet: No progress bar.
    """
    from .sample import load_run, with_sampling, write_samples
    from .sample import sample as draw_samples

    trained = with_sampling(load_run(run, device=device), sampler=sampler, alpha=alpha,
                            steps_per_level=steps_per_level, denoise=_either(denoise, no_denoise))
    out = out or run / f"samples-{seed}"
    _writable(out)
    picture, array = write_samples(draw_samples(trained, num, seed=seed, sampler=sampler, batch_size=batch_size,
                                                progress=not quiet), out)
    print(f"picture: {picture}\nall {num} samples: {array}\nnext: fastscore evaluate {run}")


def evaluate(run: Path, /, num: int = 1000,
             feature: Literal["auto", "pixels", "inception"] = "auto", seed: int = 0,
             sampler: Literal["annealed", "consistent"] = "annealed", alpha: float | None = None,
             steps_per_level: int | None = None, denoise: bool = False, no_denoise: bool = False,
             batch_size: int = 500, device: str = "auto", quiet: bool = False) -> None:
    """Measure how good a run's samples are.

    Draws samples and compares them with images that the network was not trained on: Frechet distance (how far apart
    the two clouds of images are, also to the training images; lower is better), precision (how many samples look
    real), recall (how much of the real variety they reach), nearest training images (are they copies?), and the
    classes they belong to. Writes metrics.json and pictures into the run folder.

    Args:
        run: The run folder that training wrote.
        num: How many samples to draw.
        feature: What the Frechet distance is measured on: pixels, or inception (needs 'fastscore[eval]' and a file of
            weights). auto: inception for CIFAR-10, else pixels. Published FIDs compare 50,000 samples with the training
            set: they are 'samples to train' of --feature inception --num 50000.
        seed: Another seed gives other samples.
        sampler: annealed or consistent; see fastscore sample --help.
        alpha: Langevin step size at the smallest noise level, for this call; by default the run's, in its config.json.
        steps_per_level: Langevin updates at each noise level, for this call; by default the run's. annealed only.
        denoise: For this call, end with the mean of the clean image given the noisy one; by default as the run does.
        no_denoise: For this call, leave that last step out.
        batch_size: How many at a time: more takes more memory.
        device: cpu, cuda, ...; auto takes a GPU where there is one.
        quiet: No progress bar.
    """
    from . import evaluate as evaluation

    report = evaluation.evaluate(run, num=num, feature=feature, seed=seed, sampler=sampler, alpha=alpha,
                                 steps_per_level=steps_per_level, denoise=_either(denoise, no_denoise),
                                 batch_size=batch_size, device=device, progress=not quiet)
    print(evaluation.table(report))
    print("\n" + "\n".join(f"look at {path}" for path in sorted(run.glob("*.png"))))
    print(f"all numbers: {run / evaluation.METRICS}\nnext: fastscore sample {run} --num 1000 --seed 1")


def doctor() -> None:
    """Say what this machine can do: versions, devices, which backend serves which operator, what is missing."""
    from . import doctor as examination

    print(examination.report())


def _either(denoise: bool, no_denoise: bool) -> bool | None:
    """True, False, or None where neither flag was given."""
    if denoise and no_denoise:
        raise ValueError("give one of --denoise and --no-denoise, or neither")
    return denoise if denoise or no_denoise else None


def _pair(weights: list[float]) -> str:
    return " / ".join(f"{weight:.2f}" for weight in weights)


def _writable(folder: Path) -> None:
    """Raise now, not after an hour of sampling, where ``folder`` cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".fastscore-probe"
    probe.touch()
    probe.unlink()


def _out_of_memory(error: Exception) -> bool:
    """Also torch's own: an error of its own kind on a GPU, a plain RuntimeError on the CPU."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; errors that a user can act on are one line on standard error and exit code 2 (Ctrl-C: 130)."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        tyro = require("tyro", "train")
        presets: Any = tyro.extras.subcommand_type_from_defaults(
            {name: config for name, (_, config) in PRESETS.items()},
            {name: text for name, (text, _) in PRESETS.items()}, prefix_names=False)
        train.__annotations__["preset"] = Annotated[presets, tyro.conf.arg(name="")]
        for command in (train, sample, evaluate):  # tyro's own would be "{None}|PATH"
            for name, kind in (("out", Path), ("alpha", float), ("steps_per_level", int)):
                if name in command.__annotations__:
                    metavar = tyro.conf.arg(metavar="PATH" if kind is Path else kind.__name__.upper())
                    command.__annotations__[name] = Annotated[kind | None, metavar]
        tyro.extras.subcommand_cli_from_dict(
            {"train": train, "sample": sample, "evaluate": evaluate, "doctor": doctor}, prog="fastscore",
            description=_INTRODUCTION, args=arguments,
            config=(tyro.conf.CascadeSubcommandArgs, tyro.conf.FlagCreatePairsOff))
    except BrokenPipeError:  # the reader of our output went away, as in: fastscore train --help | head
        sys.stderr.close()
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except (FastscoreError, ValueError, TypeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        reason = (str(error).strip() or "MemoryError").splitlines()[0]
        print(f"error: out of memory: use a smaller --batch-size, or train with a smaller --width ({reason})",
              file=sys.stderr)
        sys.exit(2)
