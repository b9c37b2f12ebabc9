"""The commands that draw from a trained run: ``fastscore sample | evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .. import terminal
from ..config import quoted
from ..ranks import TIMEOUT, joined
from .flags import either


def sample(
    run: Path,
    /,
    num: int = 100,
    out: Path | None = None,
    seed: int = 0,
    sampler: str | None = None,
    label: str | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    classifier_scale: float | None = None,
    weights: str = "auto",
    checkpoint: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    cuda_graph: bool = False,
    no_cuda_graph: bool = False,
    overwrite: bool = False,
    batch_size: int = 500,
    device: str = "auto",
    quiet: bool = False,
    rank_timeout: float = TIMEOUT,
    *,
    options: Any,
) -> None:
    """Draw new samples from a trained run.

    Writes samples.png (the first hundred), samples.npy (all, float32: images [N, C, H, W] in [0, 1], or points [N, 2]), and
    samples.json (how they were drawn). Samples that are not finite are not written, and what was there stays.

    Args:
        run: The run folder that training wrote.
        num: How many samples.
        out: Where to write; RUN/samples-SEED where not given.
        seed: Another seed gives other samples. Sample k of a seed is the same whatever --num and --batch-size are.
        sampler: which one draws; by default the run's own.
        label: The class of the samples, 0 to K - 1, or each: sample k is of class k mod K. Of a run that was trained with
            classes (digits-conditional), or with --classifier-scale; without it no class is asked for.
        guidance: How strongly, w of classifier-free guidance: 0 not at all, 1 as learned, more for samples that are surer
            of their class and less varied.
        guidance_interval: The noise sigma / alpha, lowest and highest, at which guidance holds; elsewhere it is 1.
        classifier_scale: Of a run without classes, how strongly the classifier that fastscore train-classifier made of it
            guides: 1 by its gradient, more for samples that it is surer of.
        weights: ema: their moving average; ema-0.9999: a further one that the run keeps; raw: as the optimizer left them; auto: ema where the run keeps one.
        checkpoint: The iteration whose checkpoint or snapshot to use; by default the last checkpoint.
        precision: What the network is computed in; by default as the run was trained.
        cuda_graph: Record the sampler's updates as CUDA graphs: the same samples; by default as the run was trained.
        no_cuda_graph: Turn --cuda-graph off for this call.
        overwrite: Replace samples of other settings that are in the folder.
        batch_size: How many at a time: more takes more memory.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        quiet: No progress bar.
        rank_timeout: With torchrun: seconds without a sign of life after which a rank is given up, and all end.
        options: of the sampler.
    """
    from ..agreement import load_on
    from ..sample import sample_into
    from ..sample_folder import ARRAY
    from ..trained_run import with_sampling

    with joined(rank_timeout) as ranks:
        trained = with_sampling(
            load_on(
                ranks,
                run,
                device=device,
                weights=weights,
                iteration=checkpoint,
                precision=precision,
                cuda_graph=either("cuda_graph", cuda_graph, no_cuda_graph),
            ),
            sampler=sampler,
            label=label,
            guidance=guidance,
            guidance_interval=guidance_interval,
            classifier_scale=classifier_scale,
            **options.given(),
        )
        picture, array = sample_into(
            out or run / f"samples-{seed}",
            trained,
            run,
            num,
            seed=seed,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=not quiet,
            ranks=ranks,
        )
    if not ranks.leads:
        return
    print(
        f"picture: {picture}\nall {num} samples: {array}\nnext: fastscore evaluate {quoted(run)}"
        + (f" --out {quoted(run / 'evaluation')}" if (run / ARRAY).exists() else "")
    )


def evaluate(
    run: Path,
    /,
    num: int = 1000,
    out: Path | None = None,
    feature: Literal["auto", "pixels", "inception"] = "auto",
    inception: Path | None = None,
    no_inception_checksum: bool = False,
    seed: int = 0,
    sampler: str | None = None,
    label: str | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    classifier_scale: float | None = None,
    weights: str = "auto",
    checkpoint: int | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
    cuda_graph: bool = False,
    no_cuda_graph: bool = False,
    data_dir: Path | None = None,
    bits_per_dim: bool = False,
    overwrite: bool = False,
    batch_size: int = 500,
    device: str = "auto",
    quiet: bool = False,
    rank_timeout: float = TIMEOUT,
    *,
    options: Any,
) -> None:
    """Measure how good a run's samples are.

    Draws samples and compares them with images that the network was not trained on: Frechet distance (how far apart
    the two clouds of images are, also to the training images; lower is better), precision (how many samples look
    real), recall (how much of the real variety they reach), nearest training images (are they copies?), and the
    classes they belong to. Writes metrics.json, the samples, and pictures.

    Args:
        run: The run folder that training wrote.
        num: How many samples to draw.
        out: The folder to write into; the run folder where not given.
        feature: What the Frechet distance is measured on: pixels, or inception (needs 'fastscore-torch[eval]' and a file of
            weights). auto: inception for CIFAR-10, else pixels. Published FIDs compare 50,000 samples with the training
            set: they are 'samples to train' of --feature inception --num 50000.
        inception: The file of Inception's weights; by default where torch hub keeps it (fastscore doctor says where).
            Implies --feature inception.
        no_inception_checksum: Take weights of Inception other than the published file, too: no distance is a FID then.
        seed: Another seed gives other samples.
        sampler: which one draws; by default the run's own.
        label: The class of the samples, or each: sample k is of class k mod K; see fastscore sample --help.
        guidance: How strongly, w of classifier-free guidance.
        guidance_interval: The noise sigma / alpha, lowest and highest, at which guidance holds; elsewhere it is 1.
        classifier_scale: Of a run without classes, how strongly its classifier guides; see fastscore sample --help.
        weights: ema: their moving average; ema-0.9999: a further one that the run keeps; raw: as the optimizer left them; auto: ema where the run keeps one.
        checkpoint: The iteration whose checkpoint or snapshot to use; by default the last checkpoint.
        precision: What the network is computed in; by default as the run was trained.
        cuda_graph: Record the sampler's updates as CUDA graphs: the same samples; by default as the run was trained.
        no_cuda_graph: Turn --cuda-graph off for this call.
        data_dir: Folder that holds the data set's files; by default where the run was trained on them.
        bits_per_dim: Measure the likelihood of 100 held-out images, too, beside a Gaussian fit's and a kernel density's.
        overwrite: Replace samples of other settings that are in the folder.
        batch_size: How many at a time: more takes more memory.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        quiet: No progress bar.
        rank_timeout: With torchrun: seconds without a sign of life after which a rank is given up, and all end.
        options: of the sampler.
    """
    from .. import evaluate as evaluation

    if data_dir is not None:
        terminal.check_readable("--data-dir", data_dir)
    with joined(rank_timeout) as ranks:
        report = evaluation.evaluate(
            run,
            num=num,
            feature=feature,
            inception=inception,
            inception_checksum=not no_inception_checksum,
            seed=seed,
            sampler=sampler,
            label=label,
            guidance=guidance,
            guidance_interval=guidance_interval,
            classifier_scale=classifier_scale,
            weights=weights,
            iteration=checkpoint,
            precision=precision,
            cuda_graph=either("cuda_graph", cuda_graph, no_cuda_graph),
            data_dir=data_dir,
            out=out,
            overwrite=overwrite,
            bits_per_dim=bits_per_dim,
            batch_size=batch_size,
            device=device,
            progress=not quiet,
            ranks=ranks,
            **options.given(),
        )
    if not ranks.leads:
        return
    folder = out or run
    print(evaluation.table(report))
    print("\n" + "\n".join(f"look at {path}" for path in sorted(folder.glob("*.png"))))
    print(f"all numbers: {folder / evaluation.METRICS}")
    print(f"next: fastscore sample {quoted(run)} --num 1000 --seed 1")
