"""alpha and sigma of what a score is called with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.registration import per_row
from ..paths import Path


class Held:
    """``value``, copied once to each device and dtype on which it is asked for, so that later calls, and graphs, copy nothing."""

    def __init__(self, value: Tensor):
        self.value = value
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def on(self, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
        """``value`` there, of ``dtype`` (None: its own)."""
        place = device, self.value.dtype if dtype is None else dtype
        same = place == (self.value.device, self.value.dtype)
        if same or self.value.requires_grad or torch.compiler.is_compiling():
            return self.value.to(*place)
        if place not in self._copies:
            if backends.transformed():  # a copy would belong to the transform, and be of no use after it
                return self.value.to(*place)
            with torch.inference_mode(False):  # a copy made in it could not be differentiated with later
                self._copies[place] = self.value.to(*place)
        return self._copies[place]


class NoiseOf:
    """alpha and sigma at c, as samplers pass it: labels, sigma or t.

    Args:
        path: a path, or noise levels [L], strictly decreasing.
        conditioning: what a floating c is on a path: ``"t"`` or ``"sigma"``.
    """

    def __init__(self, path: Path | Tensor | Sequence[float], conditioning: str):
        self.conditioning = checks.one_of("conditioning", conditioning, ("t", "sigma"))
        self.path = path if isinstance(path, Path) else None
        self.sigmas = path.sigmas if isinstance(path, Path) else checks.sigmas("path", path).detach()
        self._levels = None if self.sigmas is None else Held(self.sigmas)

    def __call__(self, x: Tensor, condition: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """alpha and sigma, each [B, 1, ...] in the dtype of computation, for the samples ``x`` called with ``condition``."""
        if len(condition) != 1 or not isinstance(condition[0], Tensor) or condition[0].shape not in ((), x.shape[:1]):
            raise ValueError(
                f"a score that is guided by its noise level must be called as (x, c), c of shape ({len(x)},), labels, sigma "
                f"or t, got {', '.join(map(checks.describe, condition)) or 'x alone'}"
            )
        c, compute = condition[0], checks.compute_dtype(x)
        if not c.is_floating_point():
            if self.sigmas is None or self._levels is None:
                raise ValueError(
                    f"path must be noise levels [L] for a score that is called with labels, got {self.path!r}"
                )
            c = self._levels.on(x.device, compute)[checks.labels("labels", c.expand(len(x)), x, len(self.sigmas))]
        if self.path is None or self.sigmas is not None:
            alpha, sigma = torch.ones_like(c), c
        else:
            t = self.path.t_of_sigma(c) if self.conditioning == "sigma" else c
            alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        alpha, sigma = (value.to(x.device, compute).expand(len(x)) for value in (alpha, sigma))
        return per_row(alpha, x), per_row(sigma, x)

    def of_label(self, label: float) -> Tensor:
        """sigma [] of the level ``label``, on the CPU; between two it is blended in log sigma, as samplers do."""
        if self.sigmas is None:
            raise ValueError(f"path must be noise levels [L] for a score that is called with labels, got {self.path!r}")
        sigmas, lower = self.sigmas.cpu(), int(label)
        if label == lower:
            return sigmas[lower]
        above, below = sigmas[lower : lower + 2].double().log()
        return torch.lerp(above, below, label % 1).exp()


def check_score(name: str, score_fn: object) -> None:
    """Raise unless it can be called."""
    if not callable(score_fn):
        raise TypeError(f"{name} must be a function of (x, c), [B, ...] -> [B, ...], got {checks.describe(score_fn)}")
