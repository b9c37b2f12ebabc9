"""What the two repositories' functions share: their arguments read, an energy's score, frames and printed lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import losses, samplers
from .._core import checks
from ..losses import sliced
from ..losses._common import probes_for, score_of
from ..ops import Probes
from ..rng import Philox
from ..schedules import refuse_other_form

ScoreNet = Callable[..., Tensor]
UNLIMITED = 1 << 62  # the originals keep every step; their users know


def step_size(name: str, value: Any) -> float:
    """A step size as a Python number; ``lr`` is the paper's alpha."""
    refuse_other_form(name, value, "alpha" if name == "lr" else "step_lr")
    return checks.positive(name, value)


def annealing(sigmas: Any, n_steps_each: Any, step_lr: Any, name: str = "step_lr") -> tuple[Tensor, int, float]:
    """The levels in float32 (from a tensor, a numpy array or a list), updates a level, and the step size."""
    n_steps_each, step_lr = checks.integer("n_steps_each", n_steps_each, low=1), step_size(name, step_lr)
    return torch.as_tensor(sigmas).float(), n_steps_each, step_lr


def labels_and_sigmas(
    samples: Tensor, labels: Any, sigmas: Any, order: str, other: str, rng: Philox
) -> tuple[Tensor, Tensor]:
    """(labels [B], the sigma of each sample [B]); labels that are None are drawn, by one step of ``rng``.

    Args:
        order: how this repository orders the two, for the message where they are swapped; ``other``: where they are
            ordered so.
    """
    swapped = isinstance(labels, Tensor) and labels.is_floating_point()
    if sigmas is None or swapped or (isinstance(sigmas, Tensor) and not sigmas.is_floating_point()):
        raise TypeError(
            f"labels must be integers and sigmas floating, in the order {order}, got labels: "
            f"{checks.describe(labels)}, sigmas: {checks.describe(sigmas)}; the other order is that of "
            f"fastscore.compat.{other}"
        )
    sigmas = torch.as_tensor(sigmas).to(samples.device)
    if labels is None:
        labels = losses.draw_labels(len(sigmas), samples.shape[0], rng, device=samples.device, beside=(samples, sigmas))
    labels = checks.labels("labels", torch.as_tensor(labels), samples, len(sigmas))
    return labels, sigmas[labels]


def annealed_dsm(
    scorenet: ScoreNet, samples: Tensor, labels: Tensor, sigma: Tensor, power: float, rng: Philox
) -> Tensor:
    """[B]: 1/2 sigma^power || scorenet(x + sigma z, labels) + z / sigma ||^2."""
    return losses.dsm(lambda x: scorenet(x, labels), samples, sigma, weight=power, reduction="none", rng=rng)


def score_of_energy(energy_net: Callable[[Tensor], Tensor]) -> ScoreNet:
    """s(x) = -dE/dx, differentiable in x and in the network's parameters, wherever it is called."""

    def score(x: Tensor) -> Tensor:
        with torch.enable_grad():
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            return -torch.autograd.grad(energy_net(x).sum(), x, create_graph=True)[0]

    return score


def sliced_arguments(
    score_net: ScoreNet, samples: Tensor, n_particles: int, rng: Philox | None, projection: str
) -> tuple[ScoreNet, Tensor, Probes]:
    """The score, the samples and ``n_particles`` directions for each, as the losses take them."""
    checks.floating("samples", samples)
    return score_of(score_net), samples, probes_for(samples, n_particles, rng, projection)


def annealed_sliced(
    scorenet: ScoreNet, samples: Tensor, labels: Tensor, sigma: Tensor, n_particles: int, rng: Philox
) -> Tensor:
    """Mean of sigma^2 (1/2 ||s||^2 + v^T J v) at x + sigma z, v normal."""
    n_particles = checks.integer("n_particles", n_particles, low=1)
    return sliced.noisy_reduced(scorenet, samples, sigma, labels, rng, 2.0, "gaussian", n_particles).mean()


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
    """The frames of inpainting the right half: [R N, C, H, W] on the CPU, one an update; the last holds the image."""
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
        alpha=2 * step_lr,
        steps_per_level=n_steps_each,
        start=x_mod.reshape(image.shape),
        rng=rng,
        callback=callback,
        trajectory=trajectory,
    )
    return [*trajectory.frames[:-1], last.cpu()]
