"""Training: batches, noise and weights are functions of (config, iteration), so a resumed run is the run itself."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import checkpoint, data, losses
from .config import MAY_CHANGE, SAMPLING, TrainConfig
from .errors import CheckpointError, NonFiniteLoss, NonFiniteSamples
from .models import build_model
from .noise import geometric_sigmas
from .progress import progress_bar
from .rng import Philox

_GRAY_SCOTT_IMAGES = 1024
# the loss, and the steps of the random sequence that one iteration takes: labels, noise, (ssm:) directions
_OBJECTIVES = {"dsm": (losses.ncsn, 2), "ssm": (losses.annealed_ssm_vr, 3)}


def make_sigmas(config: TrainConfig) -> Tensor:
    """The noise levels [L] of a run, float32, largest first."""
    return geometric_sigmas(config.sigma_begin, config.sigma_end, config.num_levels)


def make_data(config: TrainConfig, *, heldout: bool = False) -> data.Data | None:
    """A run's training data, or its held-out part (None where the data set has none)."""
    options: dict[str, Any] = {}
    if config.data == "digits":
        options = {"split": "heldout" if heldout else "train"}
    elif config.data in ("mnist", "cifar10"):
        options = {"root": config.data_dir, "train": not heldout, "download": config.download}
    elif config.data == "gray_scott":
        options = {"num_images": _GRAY_SCOTT_IMAGES, "image_size": config.image_size,
                   "sample_offset": _GRAY_SCOTT_IMAGES if heldout else 0}
    elif config.data == "folder":
        options = {"root": config.data_dir, "image_size": config.image_size}
        if heldout:
            return None
    loaded = data.load(config.data, **options)
    if isinstance(loaded, data.ImageData):
        return loaded.with_options(dequantize="uniform" if config.dequantize else "none", flips=config.flip)
    return loaded


def make_model(config: TrainConfig, sample_shape: tuple[int, ...]) -> nn.Module:
    """The run's network with its initial weights, which are a function of ``config.seed`` alone.

    Raises:
        ValueError: the network and the data do not fit together (an mlp for images, say).
    """
    flat = len(sample_shape) == 1
    if flat != (config.model == "mlp"):
        raise ValueError(f"model must be 'mlp' for 2-D points and 'ncsn' or 'ncsnv2' for images, got {config.model!r} "
                         f"for samples of shape {tuple(sample_shape)} ({config.data})")
    sigmas = make_sigmas(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if flat:
            return build_model("mlp", dim=sample_shape[0], hidden=config.width, sigmas=sigmas)
        size = {"channels": sample_shape[0], "image_size": sample_shape[1], "ngf": config.width}
        levels = {"num_classes": len(sigmas)} if config.model == "ncsn" else {"sigmas": sigmas}
        return build_model(config.model, **size, **levels)


def pick_device(name: str) -> torch.device:
    """The device of a config: ``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise ValueError("meta tensors hold no numbers")
    except Exception as error:  # each backend of torch has its own: RuntimeError, AssertionError, ImportError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"device must be auto, cpu, or a GPU of this machine such as cuda:0, got {name!r} "
                         f"({reason})") from None
    return device


class Trainer:
    """One run in one folder.

    Args:
        config: what to train.
        run: the run folder; made where it does not exist.
        resume: go on from the last checkpoint, where there is one.

    Attributes:
        changed: the sampling settings that differ from those the run was saved with, as text; from now on they are
            the run's.

    Raises:
        CheckpointError: the folder holds a run and ``resume`` is False, or another run than ``config``'s, or another
            process trains in it.
        DataError: the data set is not there.
    """

    def __init__(self, config: TrainConfig, run: str | Path, *, resume: bool = False):
        self.config, self.run = config, Path(run)
        self.device = pick_device(config.device)
        resuming = resume and (self.run / checkpoint.CONFIG).exists()
        self.changed: list[str] = []
        if resuming:
            saved = checkpoint.read_config(self.run)
            _check_continues(config, saved, self.run)
            self.changed = _differences(config, saved, SAMPLING)
        else:
            self._check_free()
        self.data = make_data(config)
        self.sigmas = make_sigmas(config).to(self.device)
        self.model = make_model(config, self.data.shape).to(self.device)
        self.ema = (AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema)) if config.ema else None)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.lr, betas=(config.beta1, config.beta2),
                                          eps=config.eps)
        self.step = 0
        self.sums = torch.zeros(2, config.num_levels, dtype=torch.float64, device=self.device)  # loss and count a level
        self.run.mkdir(parents=True, exist_ok=True)
        with checkpoint.locked(self.run):
            if not resuming:
                self._check_free()  # again: another process may have begun while the data was read
            elif checkpoint.steps(self.run):
                self._load(checkpoint.latest(self.run))
            self._open()

    def train(self, *, progress: bool = True) -> Path:
        """Run the iterations that are left; returns the last checkpoint's folder.

        Raises:
            NonFiniteLoss: the loss was NaN or infinite. The checkpoints stay.
            CheckpointError: another process trains in the folder.
        """
        with checkpoint.locked(self.run):
            return self._train(progress)

    def _train(self, progress: bool) -> Path:
        config, since, seen = self.config, time.perf_counter(), 0
        bar = None
        if progress:
            bar = progress_bar(config.iterations, initial=self.step, desc="training", unit="it")
        try:
            while self.step < config.iterations:
                grad_norm = self._iterate()
                seen += config.batch_size
                due = [self.step % every == 0 or self.step == config.iterations if every else False
                       for every in (config.log_every, config.checkpoint_every, config.sample_every)]
                if bar is not None:
                    bar.update()
                if due[0]:
                    record = self._log(float(grad_norm), seen / (time.perf_counter() - since))
                    if bar is not None:
                        bar.set_postfix(loss=f"{record['loss']:.4g}", images_per_s=f"{record['images_per_second']:.0f}")
                if due[1]:
                    self._save()
                if due[2]:
                    self._sample_grid()
                if due[0]:
                    since, seen = time.perf_counter(), 0
        finally:
            if bar is not None:
                bar.close()
        return checkpoint.latest(self.run)

    def _iterate(self) -> Tensor:
        """One optimizer step; returns the norm of the gradient before clipping."""
        config, it = self.config, self.step
        x = self.data.batch(it, config.batch_size, seed=config.seed, device=self.device)
        objective, draws = _OBJECTIVES[config.objective]
        rng = Philox(config.seed, step=draws * it)
        labels = losses.draw_labels(config.num_levels, len(x), rng, device=self.device)
        loss = objective(self.model, x, self.sigmas, labels=labels, rng=rng, weight=config.weight, reduction="none")
        self.sums.index_add_(1, labels, torch.stack([loss.detach().double(), torch.ones_like(loss).double()]))
        self._check_finite(it)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, it)
        self.optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm or math.inf)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        return grad_norm

    def _check_finite(self, it: int) -> None:
        """Raise before a loss that is not finite reaches the weights (on a GPU: before it reaches a checkpoint)."""
        due = (it + 1) % self.config.log_every == 0 or (it + 1) % self.config.checkpoint_every == 0
        if (self.device.type != "cpu" and not due) or bool(torch.isfinite(self.sums).all()):
            return
        seen = ", ".join(f"{sigma:.3g}: {loss:.4g}" for sigma, loss in zip(self.sigmas.tolist(), self._means()))
        saved = checkpoint.steps(self.run)
        kept = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was written yet"
        raise NonFiniteLoss(
            f"the loss at iteration {it + 1} is not finite; loss by sigma since the last log: {seen}; learning rate "
            f"{learning_rate(self.config, it):.3g}; {kept}. Try a smaller --lr, --clip-norm 1, or a longer --warmup")

    def _means(self) -> list[float]:
        return (self.sums[0] / self.sums[1]).tolist()

    def _log(self, grad_norm: float, images_per_second: float) -> dict[str, Any]:
        """Append the mean losses since the last line to metrics.jsonl."""
        record = {
            "step": self.step, "loss": float(self.sums[0].sum() / self.sums[1].sum()),
            "loss_per_sigma": [None if math.isnan(mean) else mean for mean in self._means()],
            "lr": learning_rate(self.config, self.step - 1), "grad_norm": grad_norm,
            "images_per_second": images_per_second,
        }
        self.sums.zero_()
        with open(self.run / checkpoint.METRICS, "a") as file:
            file.write(json.dumps(record) + "\n")
        return record

    def _save(self) -> None:
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):  # an infinite gradient, finite loss
            raise NonFiniteLoss(f"the weights at iteration {self.step} are not finite and were not saved; "
                                f"the checkpoints in {self.run} stay. Try a smaller --lr or --clip-norm 1")
        ema = self.ema.module.state_dict() if self.ema is not None else None
        state = {"step": self.step, "optimizer": self.optimizer.state_dict(), "sums": self.sums}
        checkpoint.save(self.run, self.step, self.model.state_dict(), ema, state, shape=self.data.shape,
                        keep=self.config.keep)

    def _load(self, folder: Path) -> None:
        state = checkpoint.read_state(folder)
        checkpoint.load_into(self.model, checkpoint.read_weights(folder, ema=False), folder)
        if self.ema is not None:
            checkpoint.load_into(self.ema.module, checkpoint.read_weights(folder, ema=True), folder)
            self.ema.n_averaged.fill_(state["step"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.sums = state["step"], state["sums"].to(self.device)

    def _check_free(self) -> None:
        if (self.run / checkpoint.CONFIG).exists():
            raise CheckpointError(f"{self.run} already holds a run: add --resume to go on with it, "
                                  "or choose another folder with --out")

    def _open(self) -> None:
        """Write the config, and drop the lines of metrics.jsonl that this run will write again."""
        checkpoint.write_atomically(self.run / checkpoint.CONFIG, lambda path: path.write_text(self.config.to_json()))
        kept = [json.dumps(r) + "\n" for r in read_metrics(self.run) if r["step"] <= self.step]
        checkpoint.write_atomically(self.run / checkpoint.METRICS, lambda path: path.write_text("".join(kept)))

    def _sample_grid(self) -> None:
        """samples/step_N.png, 64 images from the present weights."""
        from .pictures import save_grid
        from .sample import draw

        if len(self.data.shape) == 1:
            return
        (self.run / "samples").mkdir(exist_ok=True)
        network = self.ema.module if self.ema is not None else self.model
        try:
            images = draw(self.config, network, (64, *self.data.shape), Philox(self.config.seed), device=self.device)
        except NonFiniteSamples as error:  # no reason to end the training
            warnings.warn(f"no picture of iteration {self.step}: {error}", stacklevel=2)
            return
        save_grid(images.cpu(), self.run / "samples" / f"step_{self.step:08d}.png")


def learning_rate(config: TrainConfig, it: int) -> float:
    """lr min(1, (it + 1) / warmup), times half a cosine from 1 to 0 over the run where ``decay``."""
    rate = config.lr * (min(1.0, (it + 1) / config.warmup) if config.warmup else 1.0)
    return rate * 0.5 * (1 + math.cos(math.pi * it / config.iterations)) if config.decay else rate


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; those that are damaged, as by a kill while one was written, are left out."""
    records = []
    path = run / checkpoint.METRICS
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and type(record.get("step")) is int and type(record.get("loss")) in (int, float):
            records.append(record)
    return records


def _differences(config: TrainConfig, saved: TrainConfig, names: Iterable[str]) -> list[str]:
    return [f"{name} (was {getattr(saved, name)}, now {getattr(config, name)})"
            for name in names if getattr(config, name) != getattr(saved, name)]


def _check_continues(config: TrainConfig, saved: TrainConfig, run: Path) -> None:
    changed = _differences(config, saved, [f.name for f in dataclasses.fields(config) if f.name not in MAY_CHANGE])
    if config.decay and config.iterations != saved.iterations:
        changed.append(f"iterations (was {saved.iterations}, now {config.iterations}; it sets the decay)")
    if changed:
        raise CheckpointError(f"{run} holds a run with another config: {', '.join(changed)}; leave these as they "
                              "were, or choose another folder with --out")
