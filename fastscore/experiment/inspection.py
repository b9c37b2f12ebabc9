"""At which noise level a run is weak: one page, inspect.md and inspect.png."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import data, diagnostics
from .._core import checks, files
from ..conversions import Converted
from ..evaluation import level_plots
from ..ops import perturb
from ..rng import Philox
from .acceleration import deterministic, tf32
from .build import make_data
from .progress import counting
from .sample_folder import check_folder
from .scores import on_any_path
from .trained_run import TrainedRun, load_run

PAGE, PICTURE = "inspect.md", "inspect.png"
_FOR_CURL, _PROBES, _FIT, _MOST = 32, 4, 5000, 10_000_000
_WORDS = {
    "sigma": "noise level",
    "loss": "loss / the best constant's",
    "gaussian_loss": "a Gaussian fit's",
    "score_error": "score error",
    "stein": "share of the loss that a linear correction takes off",
    "stein_noise": "noise",
    "curl": "curl",
}


def inspect(
    run: str | Path,
    *,
    num: int = 500,
    seed: int = 0,
    weights: str = "auto",
    iteration: int | None = None,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Look at a run's network at each of its noise levels (on a path, at as many of its times); writes inspect.md and inspect.png.

    At each level, of held-out samples with its noise (training samples where nothing is held out):

    - ``loss``: the denoising loss as a share of the best constant's, which is 1 of a network that says nothing;
    - ``gaussian_loss``: the same of a Gaussian fit to the training data, which a network should not exceed;
    - ``score_error``: where the true score is known (the mixture), E||s - s*||^2 / E||s*||^2;
    - ``stein``: by Stein's identity (:func:`fastscore.diagnostics.stein_residual`, of samples whitened by that Gaussian), the share
      of the loss that a linear function added to the score would take off; of the exact score it is below ``stein_noise`` in 97 %;
    - ``curl``: the square root of ||J - J^T||_F^2 / ||J||_F^2.

    Args:
        run: the run folder.
        num: how many samples at each level, from 20 to 10 million.
        seed: of the noise.
        weights, iteration, device: as for :func:`fastscore.experiment.trained_run.load_run`; in float32.
        data_dir: the folder of the data set's files; None: where the run was trained on them.
        out: the folder to write into; None: the run folder.
        progress: show a progress bar.

    Returns:
        "columns", a list [L] for each of these and "sigma" (sigma / alpha on a path); "weakest", an index of a level, "measure", by which; "worse_than_gaussian", the
        indices of the levels where the loss is above a Gaussian fit's by more than two standard errors of their difference.

    Raises:
        CheckpointError, DataError, ValueError: as :func:`fastscore.experiment.evaluate.evaluate`. CannotWrite: a file cannot be
            written.
    """
    num = checks.integer("num", num, low=20, high=_MOST)
    folder = Path(run) if out is None else Path(out)
    trained = load_run(run, device=device, weights=weights, iteration=iteration, precision="fp32")
    check_folder("--out", folder)
    if data_dir is not None:
        trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data_dir=str(data_dir)))
    x, fit = _samples(trained, num, seed)
    with tf32(False), deterministic(trained.config.deterministic, trained.device):
        columns = _columns(trained, x, fit, seed, progress)
    report = {"run": str(run), "step": trained.iteration, "samples": len(x)} | _verdict(columns) | {"columns": columns}
    level_plots.save_levels(
        columns["sigma"], {k: v for k, v in columns.items() if k != "sigma"}, folder / PICTURE, title=summary(report)
    )
    files.write_atomically(folder / PAGE, page(report).encode())
    return report


def _samples(trained: TrainedRun, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clean samples to look at, on the run's device, and [N, D] to which a Gaussian is fitted."""
    train, heldout = make_data(trained.config), make_data(trained.config, heldout=True)
    source = train if heldout is None else heldout
    count = min(num, len(source)) if isinstance(source, data.ImageData) else num
    x = source.batch(0, count, seed=seed + 1)
    known = train.batch(0, min(_FIT, len(train)) if isinstance(train, data.ImageData) else _FIT, seed=seed)
    return x.to(trained.device), known.flatten(1).double().cpu()


def _columns(
    trained: TrainedRun, x: Tensor, known: Tensor, seed: int, progress: bool = False
) -> dict[str, list[float]]:
    score, rng = on_any_path(trained.config, trained.score_fn), Philox(seed)
    grid = score.path.grid(trained.config.num_levels)
    mean, covariance = known.mean(0), known.T.cov()
    values, axes = torch.linalg.eigh(covariance)
    rows: list[dict[str, float]] = []
    with counting(len(grid.t), desc="inspecting", unit="level", progress=progress) as count:
        for t, alpha, sigma in zip(grid.t.tolist(), grid.alpha.tolist(), grid.sigma.tolist()):
            with torch.no_grad():
                noisy, noise = perturb(x, sigma, rng, alpha=alpha)
                z, s = noise.tensor(), score(noisy, t)
            flat = (noisy.flatten(1).double().cpu() - alpha * mean) @ axes
            spread = alpha**2 * values.clamp(min=0) + sigma**2
            loss, gaussian = _loss(s, z, sigma), _loss(-(flat / spread) @ axes.T, z, sigma)
            stein, stein_noise = _stein(flat / spread.sqrt(), sigma * s, z, float(loss.mean()))
            row = {
                "sigma": sigma / alpha,
                "loss": float(loss.mean()),
                "gaussian_loss": float(gaussian.mean()),
                "excess": float((loss - gaussian).mean() - 2 * (loss - gaussian).std() / len(loss) ** 0.5),
                "stein": stein,
                "stein_noise": stein_noise,
                "curl": _curl(score, noisy[:_FOR_CURL], t, rng),
            }
            if trained.config.data == "mixture":
                true = data.GaussianMixture().score(noisy.cpu() / alpha, sigma / alpha) / alpha
                row["score_error"] = float((s.cpu() - true).square().sum() / true.square().sum())
            rows.append(row)
            count(1)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _curl(score: Converted, x: Tensor, t: float, rng: Philox) -> float:
    """||J - J^T||_F / ||J||_F over the samples."""
    found = diagnostics.curl(lambda x: score(x, t), x, num_probes=_PROBES, rng=rng)
    return math.sqrt(max(0.0, float(found.squared.mean() / found.jacobian.mean())))


def _stein(white: Tensor, scaled: Tensor, z: Tensor, loss: float) -> tuple[float, float]:
    """||E[w (sigma s + z)^T]||_F^2 / D as a share of the loss, w of covariance I: without what noise adds, and twice the standard
    deviation of that."""
    scaled, z = (value.flatten(1).double().cpu() for value in (scaled, z))
    found = diagnostics.stein_residual(lambda _: scaled, white, mean=0.0, conditional=-z)
    spread = float((2 * found.stderr.pow(4).sum()).sqrt()) / white.shape[1]
    return max(0.0, found.norm**2 - found.noise**2) / loss, 2 * spread / loss


def _loss(score: Tensor, z: Tensor, sigma: float) -> Tensor:
    """||sigma s + z||^2 / D of each sample, whose mean is 1 where s is 0; no constant makes less."""
    score, z = (value.flatten(1).double().cpu() for value in (score, z))
    return (sigma * score + z).square().mean(1)


def _verdict(columns: dict[str, list[float]]) -> dict[str, Any]:
    """Where it is weak: by the score's error where that is known, else by Stein's identity."""
    measure = "score_error" if "score_error" in columns else "stein"
    found = columns[measure]
    worse = [i for i, excess in enumerate(columns.pop("excess")) if excess > 0]
    weakest = max(range(len(found)), key=lambda i: found[i])
    return {"weakest": weakest, "measure": measure, "value": found[weakest], "worse_than_gaussian": worse}


def summary(report: dict[str, Any]) -> str:
    """One line."""
    columns, i = report["columns"], report["weakest"]
    line = (
        f"weakest at sigma {columns['sigma'][i]:.3g} (level {i + 1} of {len(columns['sigma'])}), by "
        f"the {_WORDS[report['measure']]}: {report['value']:.3g}"
    )
    if report["measure"] == "stein" and report["value"] <= columns["stein_noise"][i]:
        line += ", which is within its noise: no level stands out"
    worse = report["worse_than_gaussian"]
    if worse:
        line += f"; a Gaussian fit has less loss at {len(worse)} level{'s' * (len(worse) > 1)}"
    return line


def page(report: dict[str, Any]) -> str:
    """inspect.md."""
    columns = {name: report["columns"][name] for name in _WORDS if name in report["columns"]}
    rows = [[_WORDS[name] for name in columns], ["---:"] * len(columns)]
    rows += [[f"{value:.3g}" for value in row] for row in zip(*columns.values())]
    rows[2 + report["weakest"]] = [f"**{cell}**" for cell in rows[2 + report["weakest"]]]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    known = "E‖s − s\\*‖² / E‖s\\*‖², s\\* the true score; " if "score_error" in columns else ""
    return (
        f"# {Path(report['run']).name}, iteration {report['step']}: level by level\n\n**{summary(report)}**\n\n"
        f"![Each measure against the noise level]({PICTURE})\n\n{table}\n"
        f"Of {report['samples']} samples at each level. Loss: 1 of a network that says nothing. Score error: {known or 'not known; '}"
        "linear correction: by Stein's identity; of the exact score it is below the noise beside it in 97 of 100. Curl: "
        "‖J − Jᵀ‖ / ‖J‖, 0 of a gradient.\n"
    )
