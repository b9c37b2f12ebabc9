"""What the two repositories' functions share: how arguments are read, an energy's score, frames and printed lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import samplers
from .._core import checks
from ..losses.common import Directions, check_directions, check_reduction, score_of
from ..losses.dsm import denoising, noise_levels
from ..losses.sliced import noisy_reduced
from ..ops import Probes
from ..rng import Philox, as_philox
from ..schedules import refuse_other_form
from ..trace import modules

ScoreNet = Callable[..., Tensor]
UNLIMITED = 1 << 62  # the originals keep every step; their users know


def checked_step_size(name: str, value: Any) -> float:
    """A step size as a Python number; ``lr`` is the paper's alpha, our ``step_size``."""
    refuse_other_form(name, value, "step_size" if name == "lr" else "step_lr")
    return checks.positive(name, value)


def annealing(sigmas: Any, n_steps_each: Any, step_lr: Any, name: str = "step_lr") -> tuple[Tensor, int, float]:
    """The levels in float32 (from a tensor, a numpy array or a list), the updates at each level, and the step size."""
    n_steps_each, step_lr = checks.integer("n_steps_each", n_steps_each, low=1), checked_step_size(name, step_lr)
    return torch.as_tensor(sigmas).float(), n_steps_each, step_lr


def check_levels(samples: Tensor, labels: Any, sigmas: Any, order: str, other: str) -> tuple[Tensor, Tensor | None]:
    """The noise levels [L], on the device of ``samples`` in the dtype of computation, and the labels [B] or None.

    Args:
        order: how this repository orders the two, for the message where they are swapped; ``other``: where they are
            ordered so.
    """
    checks.floating("samples", samples)
    check_reduction("mean", samples)
    swapped = isinstance(labels, Tensor) and labels.is_floating_point()
    if sigmas is None or swapped or (isinstance(sigmas, Tensor) and not sigmas.is_floating_point()):
        raise TypeError(
            f"labels must be integers and sigmas floating, in the order {order}, got labels: "
            f"{checks.describe(labels)}, sigmas: {checks.describe(sigmas)}; the other order is that of "
            f"fastscore.compat.{other}"
        )
    sigmas = checks.floating("sigmas", torch.as_tensor(sigmas))
    checks.positive_values("sigmas", sigmas)
    if labels is not None:
        labels = checks.labels("labels", torch.as_tensor(labels), samples, len(sigmas))
    return sigmas.to(samples.device, checks.compute_dtype(samples)), labels


def annealed_dsm(
    scorenet: ScoreNet, samples: Tensor, labels: Tensor | None, levels: Tensor, power: float, rng: Philox
) -> tuple[Tensor, Tensor]:
    """(1/2 sigma^power || scorenet(x + sigma z, labels) + z / sigma ||^2, labels), both [B]."""
    sigma, labels = noise_levels(samples, levels, labels, rng)
    score = score_of(scorenet, {}, labels=labels, conditioning="labels")
    return denoising(score, samples, sigma, rng, power), labels


def score_of_energy(energy_net: Callable[[Tensor], Tensor]) -> ScoreNet:
    """s(x) = -dE/dx, differentiable in x and in the network's parameters, wherever it is called."""

    def score(x: Tensor) -> Tensor:
        with torch.enable_grad():
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            return -torch.autograd.grad(energy_net(x).sum(), x, create_graph=True)[0]

    return score


def check_sliced(
    score_net: ScoreNet, samples: Tensor, n_particles: int, rng: Philox | None, projection: str
) -> Directions:
    """The checked arguments of a sliced loss, in reverse mode; no layer is refused, as the originals refuse none."""
    layers = modules.check(score_net, "vjp", "score_net", strict=False)
    checks.floating("samples", samples)
    n_particles = check_directions(projection, n_particles, "vjp")
    probes = Probes.checked(samples, n_particles, as_philox(rng), distribution=projection)
    return Directions(score_of(score_net, {}), samples, probes, "vjp", layers)


def annealed_sliced(
    scorenet: ScoreNet, samples: Tensor, labels: Tensor | None, levels: Tensor, n_particles: int, rng: Philox | None
) -> Tensor:
    """Mean of sigma^2 (1/2 ||s||^2 + v^T J v) at x + sigma z, v normal; n_particles is checked here."""
    layers = modules.check(scorenet, "vjp", "scorenet", strict=False)
    n_particles, rng = check_directions("gaussian", n_particles, "vjp"), as_philox(rng)
    sigma, labels = noise_levels(samples, levels, labels, rng)
    score = score_of(scorenet, {}, labels=labels, conditioning="labels")
    return noisy_reduced(score, samples, sigma, rng, 2.0, "gaussian", n_particles, "vjp", layers).mean()


class Meter:
    """What the originals print of each update: norms of the score and the image, and the signal-to-noise ratio.

    Wraps the network, to see the score, and is the sampler's callback, to see the next state. The noise is what
    the update added beyond the score: sqrt(2 eta) z = x' - x - eta s.

    Args:
        scorenet: the network.
        line: prints one update, ``line(meter, level, eta, x_new)``.
        sigmas, n_steps_each, step_lr: of the sampler; eta = step_lr (sigma / sigma_L)^2. ``sigmas`` None: one level.
    """

    def __init__(
        self,
        scorenet: ScoreNet,
        line: Callable[[Meter, int, float, Tensor], None],
        step_lr: float,
        sigmas: Tensor | None = None,
        n_steps_each: int = 1,
    ) -> None:
        self.scorenet, self.line = scorenet, line
        self.step_lr, self.sigmas, self.n_steps_each = step_lr, sigmas, n_steps_each
        self.x = self.score = torch.empty(0)

    def network(self, x: Tensor, *labels: Tensor) -> Tensor:
        """The network; its input and output are kept until the update."""
        self.x, self.score = x, self.scorenet(x, *labels)
        return self.score

    def callback(self, step: int, x: Tensor) -> None:
        """Print a line for update ``step``, which led to ``x``."""
        level = 0 if self.sigmas is None else (step - 1) // self.n_steps_each
        eta = self.step_lr
        if self.sigmas is not None:
            eta *= float(self.sigmas[level] / self.sigmas[-1]) ** 2
        self.line(self, level, eta, x)

    def grad_norm(self) -> float:
        """Mean over the batch of ||s||."""
        return norm(self.score)

    def snr(self, eta: float, x: Tensor) -> float:
        """sqrt(eta / 2) mean ||s|| / mean ||z||."""
        drift = eta * self.score
        noise = (x - self.x - drift) / (2 * eta) ** 0.5
        return (eta / 2) ** 0.5 * self.grad_norm() / norm(noise)


def norm(x: Tensor) -> float:
    """Mean over the batch of the Euclidean norm."""
    return float(x.flatten(1).norm(dim=1).mean())


def inpainted(
    x_mod: Tensor,
    refer_image: Tensor,
    scorenet: ScoreNet,
    sigmas: Any,
    n_steps_each: Any,
    step_lr: Any,
    rng: Philox | None,
    callback: Callable[[int, Tensor], None] | None = None,
) -> list[Tensor]:
    """The frames of inpainting the right half, one for each update: [R N, C, H, W], on the CPU."""
    if x_mod.dim() != 5 or x_mod.shape[:1] + x_mod.shape[2:] != refer_image.shape:
        raise ValueError(
            f"x_mod must be [R, N, C, H, W] beside refer_image [R, C, H, W], got "
            f"{checks.describe(x_mod)} and {checks.describe(refer_image)}"
        )
    sigmas, n_steps_each, step_lr = annealing(sigmas, n_steps_each, step_lr)
    image = refer_image.repeat_interleave(x_mod.shape[1], 0)
    width = image.shape[-1]
    left = torch.arange(width, device=image.device) < width // 2
    trajectory = samplers.Trajectory(max_bytes=UNLIMITED)
    last = samplers.inpaint(
        scorenet,
        image,
        left,
        sigmas,
        step_size=2 * step_lr,
        steps_per_level=n_steps_each,
        start=x_mod.reshape(image.shape),
        rng=rng,
        callback=callback,
        trajectory=trajectory,
    )
    return [*trajectory.frames[:-1], last.cpu()]
