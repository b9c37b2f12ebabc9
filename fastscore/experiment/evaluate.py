"""How good the samples of a run are: metrics.json, and pictures to look at."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks, files
from ..evaluation import plots
from ..samplers import Trajectory
from . import limits
from .acceleration import deterministic, tf32
from .agreement import load_on
from .build import make_sigmas
from .evaluate_bits import check_bits, evaluate_bits
from .evaluate_images import evaluate_images
from .evaluate_points import evaluate_points
from .extraction import help_out, make_features
from .history import read_metrics
from .ranks import ALONE, Ranks
from .sample import sample_into
from .sample_folder import read_samples, versions
from .trained_run import TrainedRun, with_sampling

METRICS = "metrics.json"
_PIXEL_LIMIT = 4096  # pixel values per image; the covariance takes the square of them, its roots the cube
_FID_SAMPLES = 50_000


def evaluate(
    run: str | Path,
    *,
    num: int = 1000,
    feature: str = "auto",
    inception: str | Path | None = None,
    inception_checksum: bool = True,
    seed: int = 0,
    sampler: str | None = None,
    batch_size: int = 500,
    weights: str = "auto",
    iteration: int | None = None,
    precision: str | None = None,
    cuda_graph: bool | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    bits_per_dim: bool = False,
    device: str = "auto",
    progress: bool = True,
    ranks: Ranks = ALONE,
    **options: Any,
) -> dict[str, Any]:
    """Sample from a run and compare with its data set; writes metrics.json, samples and pictures.

    Args:
        run: the run folder.
        num: how many samples.
        feature: what the Frechet distance is measured on: ``"pixels"`` (at most 4,096 of them), ``"inception"``
            (with ``num=50_000``, ``samples_to_train`` is the FID that papers publish), or ``"auto"``, which is
            Inception for CIFAR-10 and where its file is given, and pixels otherwise.
        inception, inception_checksum: Inception's file of weights, and whether it must be the published one: ``weights`` and
            ``checksum`` of :func:`fastscore.evaluation.inception.inception_features`.
        seed, sampler, batch_size: of the samples, as for :func:`fastscore.experiment.sample.sample`.
        options: values of the sampler's options, and ``label`` and ``guidance``, as for
            :func:`fastscore.experiment.trained_run.with_sampling`; those that are None or left out are the run's own.
        weights, iteration, precision, cuda_graph: which of the run's weights, what the network is computed in, and whether by
            graphs, as for :func:`fastscore.experiment.trained_run.load_run`.
        data_dir: the folder of the data set's files; None: where the run was trained on them.
        out: the folder to write into; None: the run folder.
        overwrite: replace the samples of other settings that are there.
        bits_per_dim: measure the likelihood of held-out images, too, by :func:`fastscore.likelihood.bits_per_dim`.
        device: where the network runs.
        progress: show progress bars.
        ranks: which draw the samples and extract Inception's features; rank 0 alone compares and writes.

    Returns:
        What metrics.json holds; on other ranks than rank 0 nothing.

    Raises:
        CheckpointError: not a trained run. DataError: its data set, or Inception's weights, are not on this machine.
        ValueError: a number out of its range, or a feature that these samples do not have. FastscoreError: samples of
            other settings are there. All of these are raised before it samples.
        NonFiniteSamples: some samples are NaN or infinite. Nothing is replaced.
    """
    num = checks.integer("num", num, low=20)
    checks.one_of("feature", feature, ("auto", "pixels", "inception"))
    trained = with_sampling(
        load_on(
            ranks, run, device=device, weights=weights, iteration=iteration, precision=precision, cuda_graph=cuda_graph
        ),
        sampler=sampler,
        **options,
    )
    if bits_per_dim:
        check_bits(trained)
    if data_dir is not None:
        trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data_dir=str(data_dir)))
    limits.check_kept(num, trained.shape)
    feature = resolve_feature(feature, trained, num, inception)
    with ranks.together():
        extract = make_features(feature, trained.device, inception=inception, inception_checksum=inception_checksum)
    run = Path(run)
    out = run if out is None else Path(out)
    report: dict[str, Any] = {
        "run": str(run),
        "step": trained.iteration,
        "weights": trained.weights,
        "sha256": trained.sha256,
        "data": trained.config.data,
        "samples": num,
        "seed": seed,
        "network_precision": trained.precision,
        "sampler": trained.sampler,
        **trained.options,
        **trained.asked.described(),
        "network_evaluations_per_sample": _evaluations(trained),
    }

    def draw_into(trajectory: Trajectory | None = None) -> None:
        counted = report["network_evaluations_per_sample"] is None
        # a replayed graph calls no hook
        drawing = dataclasses.replace(trained, cuda_graph=False) if counted else trained
        with evaluations_of(drawing.score_fn if counted else None) as made:
            sample_into(
                out,
                drawing,
                run,
                num,
                seed=seed,
                batch_size=batch_size,
                overwrite=overwrite,
                progress=progress,
                trajectory=trajectory,
                ranks=ranks,
            )
        if counted:
            of_all = torch.tensor(sum(made), device="cpu")
            ranks.add([of_all])
            report["network_evaluations_per_sample"] = int(of_all) / num

    if not ranks.leads:
        draw_into()
        if feature == "inception":
            help_out(extract, ranks)
        return {}

    def drawn(trajectory: Trajectory | None = None) -> Tensor:
        draw_into(trajectory)
        return read_samples(out)

    if len(trained.shape) == 1:
        report |= evaluate_points(trained, out, drawn, num, seed)
    else:
        report |= evaluate_images(trained, run, out, drawn, feature, extract=extract, ranks=ranks, progress=progress)
    if bits_per_dim:
        with tf32(False), deterministic(trained.config.deterministic, trained.device):
            report |= evaluate_bits(trained, seed, progress)
    _draw_training(run, out, trained)
    report["versions"] = versions()
    files.write_atomically(out / METRICS, (json.dumps(report, indent=2) + "\n").encode())
    return report


def _evaluations(trained: TrainedRun) -> int | None:
    """Of the network, for each sample; None where they are to be counted."""
    asked_for = trained.entry.evaluations(trained.config.num_levels, trained.options)
    each = trained.asked.evaluations
    return None if asked_for is None or each is None else asked_for * each


@contextmanager
def evaluations_of(network: nn.Module | None) -> Iterator[list[int]]:
    """Inside, how many samples each evaluation of ``network`` is of; None: it is not to be hooked."""
    made: list[int] = []
    if network is None:
        yield made
        return
    hook = network.register_forward_pre_hook(lambda _, given: made.append(len(given[0])))
    try:
        yield made
    finally:
        hook.remove()


def resolve_feature(feature: str, trained: TrainedRun, num: int, inception: str | Path | None = None) -> str:
    """What ``feature`` means for this run; what cannot work is refused before hours of sampling."""
    if inception is not None:
        if feature == "pixels":
            raise ValueError(
                f"feature must be 'auto' or 'inception' where inception is given, {inception}, got 'pixels'"
            )
        feature = "inception"
    if len(trained.shape) == 1:
        if feature == "inception":
            raise ValueError(
                f"feature must be 'auto' or 'pixels' for points such as {trained.config.data}: Inception "
                "is a network for images, got 'inception'"
            )
        return "pixels"
    if feature == "auto":
        feature = "inception" if trained.config.data == "cifar10" else "pixels"
    size = math.prod(trained.shape)
    if feature == "pixels" and size > _PIXEL_LIMIT:
        raise ValueError(
            f"feature must be 'inception' for images of {tuple(trained.shape)}, got 'pixels': the "
            f"covariance of {size:,} pixel values takes {size**2 * 8 / 2**30:,.1f} GiB, several times "
            f"over (the limit is {_PIXEL_LIMIT:,} values)"
        )
    if feature == "inception" and num < _FID_SAMPLES:
        warnings.warn(
            f"published FIDs compare {_FID_SAMPLES:,} samples with the training set: the Frechet distance of "
            f"{num:,} samples is larger, and not comparable with them",
            stacklevel=3,
        )
    return feature


def _draw_training(run: Path, out: Path, trained: TrainedRun) -> None:
    history = read_metrics(run)
    if history:
        plots.save_training_curves(history, out / "training.png", sigmas=make_sigmas(trained.config))


def table(report: dict[str, Any]) -> str:
    """The numbers of a report, one per line."""
    lines = []
    for name, value in report.items():
        if name in ("versions", "sha256"):
            continue
        inner = value if isinstance(value, dict) else {"": value}
        for key, number in inner.items():
            if isinstance(number, list):
                number = " ".join(f"{v:.3g}" for v in number)
            text = f"{number:.4g}" if isinstance(number, float) else str(number)
            lines.append(f"  {(name + ' ' + key).strip().replace('_', ' '):<36} {text}")
    return "\n".join(lines)
