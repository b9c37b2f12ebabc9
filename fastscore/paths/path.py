"""The path: alpha and sigma as functions of time, and all that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.handles import fixed
from .._core.registration import per_row
from ..rng import Philox, Stream, as_philox

Function = Callable[[Tensor], Tensor]
RULES = ("time", "log_snr", "karras", "levels")
_LOOKED_AT = 1025  # times at which two given functions are tried
_ROUNDING = 1e-6  # of a float32 time that is at an end of the path


class Grid(NamedTuple):
    """The points of a path that a solver visits, the largest noise first; float64 on the CPU.

    Attributes:
        t: [n], the times at which the score is asked for.
        alpha, sigma: [n], or [n + 1] where the last is the clean end, alpha 1 and sigma 0.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor


class Path:
    """x_t = alpha(t) x_0 + sigma(t) z for t in [t_min, t_max], which does not change once it is made.

    Args:
        alpha, sigma: elementwise functions of a float64 tensor t, differentiable by torch, greater than 0 on the path; alpha /
            sigma strictly decreasing.
        t_min: the time of the least noise, where sigma is still positive.
        t_max: that of the most, where alpha is still positive.
        sigmas: of a path of noise levels alone, those levels [L], strictly decreasing, which are its only times.
        name: what messages call it.

    Raises:
        TypeError, ValueError: an argument is not as said; the message has the time at which it is not.

    Example:
        >>> path = Path(alpha=lambda t: 1 - t, sigma=lambda t: t, t_max=0.9)
        >>> float(path.log_snr(0.5)), float(path.drift(0.5)), float(path.diffusion_squared(0.5))
        (0.0, -2.0, 2.0)
    """

    t_min, t_max, name = fixed("t_min"), fixed("t_max"), fixed("name")
    sigmas = fixed("sigmas")

    def __init__(
        self,
        alpha: Function,
        sigma: Function,
        *,
        t_min: float = 1e-3,
        t_max: float = 1.0,
        sigmas: Tensor | None = None,
        name: str = "Path",
    ) -> None:
        for what, function in (("alpha", alpha), ("sigma", sigma)):
            if not callable(function):
                raise TypeError(f"{what} must be a function of t, got {checks.describe(function)}")
        self._alpha, self._sigma, self._name = alpha, sigma, name
        self._t_min, self._t_max = checks.number("t_min", t_min), checks.number("t_max", t_max)
        self._sigmas = None if sigmas is None else sigmas.detach().double().cpu().clone()
        if not (self._t_min < self._t_max or (sigmas is not None and self._t_min == self._t_max)):
            raise ValueError(f"t_max must be greater than t_min, {self._t_min}, got {self._t_max}")
        t = torch.linspace(self._t_min, self._t_max, _LOOKED_AT, dtype=torch.float64, device="cpu")
        self._look(t if self._sigmas is None else self._sigmas.flip(0))

    def _look(self, t: Tensor) -> None:
        """Raise unless alpha and sigma are positive at ``t``, and alpha / sigma falls."""
        for what, function in (("alpha", self._alpha), ("sigma", self._sigma)):
            value = function(t)
            if not isinstance(value, Tensor) or value.shape != t.shape:
                raise ValueError(f"{what} must be elementwise, a number for each t, got {checks.describe(value)}")
            good = value.isfinite() & (value > 0)
            if not bool(good.all()):
                at = t[~good][0].item()
                raise ValueError(
                    f"{what} must be finite and greater than 0 from t_min to t_max, got {value[~good][0].item()} at "
                    f"t = {at:.6g}: choose {'t_min' if what == 'sigma' else 't_max'} so that it is"
                )
        rises = torch.diff(self.log_snr(t)) >= 0
        if bool(rises.any()):
            raise ValueError(
                f"alpha / sigma must be strictly decreasing in t, got {self.name} where it is not at t = "
                f"{t[:-1][rises][0].item():.6g}"
            )

    def __repr__(self) -> str:
        return f"{self.name}, t from {self.t_min:g} to {self.t_max:g}"

    def times(self, t: float | Tensor, what: str = "t") -> Tensor:
        """``t`` in float64, once it is known to be on the path (read on a CPU only).

        Raises:
            TypeError, ValueError: it is neither number nor floating tensor; outside of [t_min, t_max]; or of a path of noise
                levels none of them.
        """
        if isinstance(t, Tensor):
            checks.floating(what, t, batched=False)
            found = t.double()
        else:
            found = torch.tensor(checks.number(what, t), dtype=torch.float64, device="cpu")
        if checks.readable(found) and found.numel():
            slack = _ROUNDING * max(abs(self.t_min), abs(self.t_max), 1e-30)
            low, high = float(found.min()), float(found.max())
            if not (low >= self.t_min - min(slack, abs(self.t_min) * _ROUNDING) and high <= self.t_max + slack):
                bad = low if not low >= self.t_min else high
                raise ValueError(
                    f"{what} must be from {self.t_min:g} to {self.t_max:g}, the ends of {self.name}, got {bad:.9g}"
                )
        found = found.clamp(self.t_min, self.t_max)
        return found if self.sigmas is None else self.sigmas.to(found.device, non_blocking=True)[self._label(found)]

    def labels(self, t: float | Tensor) -> Tensor:
        """int64 of t's shape: the index of each ``t`` among the noise levels; of a path of noise levels alone."""
        if self.sigmas is None:
            raise ValueError(f"t has labels on a path of noise levels alone, paths.levels(sigmas), got {self.name}")
        return self._label(self.times(t))

    def _label(self, sigma: Tensor) -> Tensor:
        levels = self.sigmas.to(sigma.device, non_blocking=True)
        apart, label = (sigma[..., None] / levels - 1).abs().min(-1)
        if checks.readable(apart) and bool((apart > 1e-5).any()):
            bad = apart > 1e-5
            raise ValueError(
                f"sigma must be one of the {len(levels)} noise levels of {self.name}, got {sigma[bad][0].item():.6g} (the "
                f"nearest is {levels[label[bad][0]].item():.6g}): take a grid of its levels, rule='levels', or a network "
                "that takes any sigma and paths.edm"
            )
        return label

    def _of(self, function: Function, t: float | Tensor) -> Tensor:
        value = function(self.times(t))
        return value.to(t.dtype) if isinstance(t, Tensor) else value

    def alpha(self, t: float | Tensor) -> Tensor:
        """The factor on the clean sample, of t's shape and dtype (float64 for a number)."""
        return self._of(self._alpha, t)

    def sigma(self, t: float | Tensor) -> Tensor:
        """The standard deviation of the noise."""
        return self._of(self._sigma, t)

    def log_snr(self, t: float | Tensor) -> Tensor:
        """lambda(t) = 2 log(alpha / sigma)."""
        return self._of(self._log_snr, t)

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2 * (self._alpha(t).log() - self._sigma(t).log())

    def drift(self, t: float | Tensor) -> Tensor:
        """f(t) = d log alpha / dt."""
        return self._of(lambda t: _slope(lambda t: self._alpha(t).log(), t), t)

    def diffusion_squared(self, t: float | Tensor) -> Tensor:
        """g(t)^2 = d sigma^2/dt - 2 f sigma^2, as -sigma^2 dlambda/dt, which does not cancel."""
        return self._of(lambda t: -self._sigma(t).square() * _slope(self._log_snr, t), t)

    def marginal(self, x0: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Mean alpha_t x_0 [B, ...] and standard deviation sigma_t, [] or [B], of x_t given x_0; ``t`` a number or [B]."""
        checks.floating("x0", x0)
        alpha, sigma = (
            v.to(x0.device, checks.compute_dtype(x0), non_blocking=True) for v in (self.alpha(t), self.sigma(t))
        )
        return (per_row(alpha, x0) * x0).to(x0.dtype), sigma

    def prior(
        self,
        shape: Sequence[int],
        *,
        mean: float | Tensor = 0.0,
        std: float | Tensor = 0.0,
        rng: Philox | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Samples at t_max, N(alpha_T mean, (sigma_T^2 + alpha_T^2 std^2) I), where the chains of a sampler begin.

        Args:
            shape: [B, ...].
            mean, std: of the data: numbers, or tensors that broadcast to a sample, such as [C, 1, 1] of images. With alpha = 1 the
                mean matters: of images in [0, 1] it is not 0.
            rng: where they come from; takes one step, of the stream INIT. ``None``: seeded from torch's default generator.
            dtype, device: of the samples; torch's defaults.

        Raises:
            ValueError: ``mean`` or ``std`` is of another shape.
        """
        for what, value in (("mean", mean), ("std", std)):
            _check_of_sample(what, value, torch.Size(shape)[1:])
        alpha, sigma = float(self.alpha(self.t_max)), float(self.sigma(self.t_max))
        z = as_philox(rng).randn(shape, stream=Stream.INIT, dtype=dtype, device=device)
        compute = checks.compute_dtype(z)
        mean, std = (torch.as_tensor(value, dtype=compute, device=z.device) for value in (mean, std))
        return (alpha * mean + (sigma**2 + (alpha * std).square()).sqrt() * z.to(compute)).to(z.dtype)

    def t_of_log_snr(self, log_snr: float | Tensor) -> Tensor:
        """The time at which lambda(t) is ``log_snr``, of its shape, float64."""
        return self._inverse(self._log_snr, log_snr, "log_snr")

    def t_of_sigma(self, sigma: float | Tensor) -> Tensor:
        """The time at which the noise has this standard deviation, of its shape, float64.

        Raises:
            ValueError: there is none on the path (a slice of ``vmap``, whose value cannot be read, has NaN then); of a path of
                noise levels, it is none of them.
        """
        return self._inverse(self._sigma, sigma, "sigma")

    def _inverse(self, function: Function, value: float | Tensor, what: str) -> Tensor:
        """Where the monotone ``function`` is ``value``, by bisection to the last bits of float64."""
        if isinstance(value, Tensor):
            value = checks.floating(what, value, batched=False).double()
        else:
            value = torch.tensor(checks.number(what, value), dtype=torch.float64, device="cpu")
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64, device=value.device)
        low, high = function(ends).sort().values
        rising = bool(function(ends[0]) < function(ends[1]))
        size = (
            1.0 if what == "log_snr" else 0.0
        )  # the least that rounding is of: sigma is rounded at its own, however small
        least, most = (end + sign * _ROUNDING * end.abs().clamp(min=size) for end, sign in ((low, -1), (high, 1)))
        inside, known = (value >= least) & (value <= most), checks.has_values(value)
        if known and not bool(inside.all()):
            bad = value[~inside][0].item()
            raise ValueError(f"{what} must be from {low:.6g} to {high:.6g} on {self.name}, got {bad:.6g}")
        if self.sigmas is not None:
            return self.times(value if what == "sigma" else (-value / 2).exp(), what)
        below, above = torch.full_like(value, self.t_min), torch.full_like(value, self.t_max)
        for _ in range(80):
            middle = (below + above) / 2
            short = (function(middle) < value) == rising
            below, above = torch.where(short, middle, below), torch.where(short, above, middle)
        return (below + above) / 2 if known else torch.where(inside, (below + above) / 2, torch.nan)

    def grid(self, steps: int, rule: str | None = None, *, clean: bool = True, rho: float = 7.0) -> Grid:
        """The points that a solver of ``steps`` steps visits, from t_max to t_min.

        Args:
            steps: at least 1.
            rule: how they are spaced. ``"time"``: evenly in t; ``"log_snr"``: evenly in lambda (with alpha = 1, geometric);
                ``"karras"``: evenly in (sigma / alpha)^(1 / rho); ``"levels"``: every so many of a path's noise levels.
                ``None``: "levels" where there are such, else "log_snr".
            clean: end at alpha 1 and sigma 0, so that the last step is from t_min to the mean of the clean sample. Else the last
                step ends at t_min.
            rho: of ``"karras"``.

        Raises:
            ValueError: more steps than there are levels; a rule that the path cannot follow.
        """
        steps = checks.integer("steps", steps, low=1)
        rule = ("log_snr" if self.sigmas is None else "levels") if rule is None else checks.one_of("rule", rule, RULES)
        if (rule == "levels") != (self.sigmas is not None):
            must = "'levels', whose network knows no others" if rule != "levels" else "'time', 'log_snr' or 'karras'"
            raise ValueError(f"rule must be {must}, for {self.name}, got {rule!r}")
        count = steps if clean else steps + 1
        even = torch.linspace(0, 1, count, dtype=torch.float64, device="cpu")
        if rule == "levels":
            if count > len(self.sigmas):
                raise ValueError(
                    f"steps must be at most {len(self.sigmas) - (not clean)}, with the {len(self.sigmas)} noise levels of "
                    f"{self.name}, got {steps}"
                )
            return self.grid_at(self.sigmas[(even * (len(self.sigmas) - 1)).round().long()], clean=clean)
        if rule == "time":
            t = self.t_max + even * (self.t_min - self.t_max)
        else:
            ends = self._log_snr(torch.tensor([self.t_max, self.t_min], dtype=torch.float64, device="cpu"))
            values = ends[0] + even * (ends[1] - ends[0])
            if rule == "karras":
                low, high = (-ends / (2 * checks.positive("rho", rho))).exp()
                values = -2 * rho * (low + even * (high - low)).log()
            t = self.t_of_log_snr(values)
        if count > 1:
            t[-1] = self.t_min
        t[0] = self.t_max
        return self.grid_at(t, clean=clean)

    def grid_at(self, t: Tensor | Sequence[float], *, clean: bool = True) -> Grid:
        """The grid of given times, [n], strictly decreasing; ``clean`` as for :meth:`grid`."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        if t.dim() != 1 or len(t) < (1 if clean else 2):
            raise ValueError(f"t must have shape (n,) with n at least {1 if clean else 2}, got {checks.describe(t)}")
        t = self.times(t)
        if not bool((torch.diff(t) < 0).all()):
            raise ValueError(f"t must be strictly decreasing, the largest noise first, got {t.tolist()}")
        alpha, sigma = self._alpha(t), self._sigma(t)
        if clean:
            alpha, sigma = torch.cat([alpha, torch.ones_like(t[:1])]), torch.cat([sigma, torch.zeros_like(t[:1])])
        return Grid(t, alpha, sigma)


def _check_of_sample(what: str, value: float | Tensor, sample: torch.Size) -> None:
    """Raise where a tensor does not broadcast to a sample, but to a batch or to something larger."""
    if isinstance(value, Tensor) and (
        value.dim() > len(sample) or any(n not in (1, m) for n, m in zip(value.shape[::-1], sample[::-1]))
    ):
        raise ValueError(
            f"{what} must be a number or broadcast to a sample's shape, {tuple(sample)}, got {checks.describe(value)}"
        )


def _slope(function: Function, t: Tensor) -> Tensor:
    """The derivative of an elementwise function, of which nothing is recorded."""
    if backends.transformed():
        return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]
    with torch.inference_mode(False), torch.enable_grad():
        t = t.detach().clone().requires_grad_()
        total = (function(t) + 0 * t).sum()  # where the function is a constant, there is a gradient still
        return torch.autograd.grad(total, t)[0]
