r"""Two-dimensional toys, drawn by Philox: a Gaussian mixture whose score is known exactly, and three shapes.

A toy is a map from standard normals to points, so that each of its samples takes one step of the generator,
and sample k depends on (seed, step, k) alone. Where it needs a uniform number, it takes Phi(z).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._core import checks
from .._core.registration import per_row
from ..rng import Philox, Stream, as_philox
from .base import check_batch, fingerprint, sent, wrong_labels


def _normals(n: int, width: int, rng: Philox | None) -> Tensor:
    """float64 [n, width] standard normals of float32 values, from one step of ``rng``."""
    n = checks.integer("n", n, low=0)
    return as_philox(rng).randn(n, width, stream=Stream.DATA, dtype=torch.float64, device="cpu")


def _uniform(z: Tensor) -> Tensor:
    return torch.special.ndtr(z)


def _table(name: str, value: Sequence | Tensor | float) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be numbers in a regular table, got {checks.describe(value)}") from error


class GaussianMixture:
    """p(x) = sum_k w_k N(x; m_k, s_k^2 I), and its exact score after noise of any sigma has been added.

    The default is the mixture of Song & Ermon (2019), fig. 3: 0.8 N((-5, -5), I) + 0.2 N((5, 5), I), whose
    modes are so far apart that plain Langevin dynamics cannot find their weights and annealed Langevin
    dynamics can.

    Args:
        weights: K positive numbers; they are divided by their sum.
        means: K points of D numbers, as a tensor [K, D] or nested sequences.
        stds: one positive number, or K.

    Raises:
        TypeError, ValueError: values out of their range, or counts that disagree.
    """

    def __init__(
        self,
        weights: Sequence[float] | Tensor = (0.2, 0.8),
        means: Sequence[Sequence[float]] | Tensor = ((5.0, 5.0), (-5.0, -5.0)),
        stds: float | Sequence[float] | Tensor = 1.0,
    ):
        self.weights, self.means, stds = (
            _table(*item) for item in (("weights", weights), ("means", means), ("stds", stds))
        )
        if self.means.dim() != 2 or self.means.numel() == 0 or not bool(self.means.isfinite().all()):
            raise ValueError(f"means must be finite and have shape [K, D], got {checks.describe(means)}")
        for name, value in (("weights", self.weights), ("stds", stds)):
            if value.shape != self.means.shape[:1] and (name == "weights" or value.dim()):
                raise ValueError(
                    f"{name} must have shape ({len(self.means)},), one per mean, got {checks.describe(value)}"
                )
            if not bool((value.isfinite() & (value > 0)).all()):
                raise ValueError(f"{name} must be finite and greater than 0, got {value.tolist()}")
        self.weights = self.weights / self.weights.sum()
        self.stds = stds.expand(len(self.means)).clone()

    def __repr__(self) -> str:
        return (
            f"GaussianMixture(weights={self.weights.tolist()}, means={self.means.tolist()}, stds={self.stds.tolist()})"
        )

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    def sample(self, n: int, rng: Philox | None = None) -> Tensor:
        """``n`` points, float32 [n, D] on the CPU; takes one step of ``rng``."""
        return self.sample_with_labels(n, rng)[0]

    def sample_with_labels(self, n: int, rng: Philox | None = None) -> tuple[Tensor, Tensor]:
        """The points of :meth:`sample`, and the component k that each was drawn from, int64 [n]."""
        z = _normals(n, 1 + self.dim, rng)
        index = torch.searchsorted(self.weights.cumsum(0), _uniform(z[:, 0].contiguous()), right=True)
        index = index.clamp(max=len(self.weights) - 1)  # the weights' sum may round to less than 1
        return (self.means[index] + self.stds[index, None] * z[:, 1:]).float(), index

    def _components(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each component: log w_k N(x; m_k, v_k I) [B, K], the difference m_k - x [B, K, D], and v_k."""
        checks.floating("x", x)
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape [B, {self.dim}], got {checks.describe(x)}")
        sigma = checks.row_numbers("sigma", sigma, x, zero_allowed=True)
        weights, means, stds = (t.to(x.device, sigma.dtype) for t in (self.weights, self.means, self.stds))
        variance = stds.square() + per_row(sigma, x).square()  # [K], or [B, K]
        gap = means - x.to(sigma.dtype)[:, None]
        squared = gap.square().sum(-1)
        logs = weights.log() - 0.5 * squared / variance - 0.5 * self.dim * (2 * math.pi * variance).log()
        return logs, gap, variance

    def log_prob(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """log p_sigma(x) = log sum_k w_k N(x; m_k, (s_k^2 + sigma^2) I).

        Args:
            x: floating [B, D].
            sigma: the noise level, a number or [B]; 0 for the data's own density.

        Returns:
            [B], in the dtype of ``x``.
        """
        return self._components(x, sigma)[0].logsumexp(1).to(x.dtype)

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """grad_x log p_sigma(x) = sum_k r_k(x) (m_k - x) / (s_k^2 + sigma^2), r_k the components' posterior.

        Arguments as in :meth:`log_prob`; returns [B, D], in the dtype of ``x``.
        """
        logs, gap, variance = self._components(x, sigma)
        return ((logs.softmax(1) / variance)[..., None] * gap).sum(1).to(x.dtype)


def two_moons(n: int, rng: Philox | None = None, *, noise_std: float = 0.1) -> Tensor:
    """Half circles (cos t, sin t) and (1 - cos t, 1/2 - sin t), t uniform in [0, pi], plus N(0, noise_std^2 I).

    Args:
        n: how many points.
        rng: where they come from; takes one step. ``None``: seeded from torch's default generator.
        noise_std: the standard deviation of the noise, at least 0.

    Returns:
        float32 [n, 2] on the CPU. The distribution of scikit-learn's ``make_moons``; each moon has
        probability 1/2.
    """
    return labelled_moons(n, rng, noise_std=noise_std)[0]


def labelled_moons(n: int, rng: Philox | None = None, *, noise_std: float = 0.1) -> tuple[Tensor, Tensor]:
    """The points of :func:`two_moons`, and the moon of each, int64 [n]: 0 the outer (upper), 1 the inner."""
    noise_std = checks.positive("noise_std", noise_std, zero_allowed=True)
    z = _normals(n, 4, rng)
    angle = math.pi * _uniform(z[:, 1])
    outer = torch.stack([angle.cos(), angle.sin()], 1)
    inner = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    points = torch.where(z[:, :1] < 0, outer, inner) + noise_std * z[:, 2:]
    return points.float(), (z[:, 0] >= 0).long()


def checkerboard(n: int, rng: Philox | None = None) -> Tensor:
    """Uniform on the black squares of a 4 x 4 board over [-2, 2)^2, where floor(x) + floor(y) is even.

    Args:
        n: how many points.
        rng: where they come from; takes one step. ``None``: seeded from torch's default generator.

    Returns:
        float32 [n, 2] on the CPU.
    """
    return labelled_checkerboard(n, rng)[0]


def labelled_checkerboard(n: int, rng: Philox | None = None) -> tuple[Tensor, Tensor]:
    """The points of :func:`checkerboard`, and the black square of each, int64 [n]: 0 to 7, two in each column of
    squares from left to right, the lower one first."""
    u = _uniform(_normals(n, 2, rng))
    x, y = 4 * u[:, 0] - 2, 4 * u[:, 1] - 2
    row = (y / 2).floor() * 2  # y in one of two pairs of squares; go to the black one of the pair
    label = 2 * (x.floor() + 2) + row / 2 + 1
    y = row + (y - row) / 2 + (x.floor() % 2)
    return torch.stack([x, y], 1).float(), label.long()


def swiss_roll(n: int, rng: Philox | None = None, *, noise_std: float = 0.05) -> Tensor:
    """r (cos t, sin t) with r = t / (1.5 pi) and t uniform in [1.5 pi, 4.5 pi], plus N(0, noise_std^2 I).

    Args:
        n: how many points.
        rng: where they come from; takes one step. ``None``: seeded from torch's default generator.
        noise_std: the standard deviation of the noise, at least 0.

    Returns:
        float32 [n, 2] on the CPU: a spiral of one and a half turns, of radius 1 to 3.
    """
    noise_std = checks.positive("noise_std", noise_std, zero_allowed=True)
    z = _normals(n, 3, rng)
    radius = 1 + 2 * _uniform(z[:, :1])
    angle = 1.5 * math.pi * radius
    return (radius * torch.cat([angle.cos(), angle.sin()], 1) + noise_std * z[:, 1:]).float()


class PointData:
    """Fresh points of a toy at every iteration; a :class:`fastscore.data.Data`.

    Args:
        sample: a function (n, rng) -> float32 [n, D] that draws sample k from the rng's seed, step and k
            alone, in one step, as those of this module do. Where ``num_classes`` is given it returns points and
            labels, int64 [n].
        name: a short name, for logs.
        dim: D.
        size: how many samples count as an epoch; there is no end of them.
        num_classes: K, where ``sample`` returns labels from 0 to K - 1.
        definition: text that says which distribution this is, parameters included, for :meth:`fingerprint`; None:
            points are drawn and hashed, whose last bits may differ from one machine to another.
    """

    source: str | None = None  # nothing is read

    def __init__(
        self,
        sample: Callable[[int, Philox], Tensor | tuple[Tensor, Tensor]],
        *,
        name: str,
        dim: int = 2,
        size: int = 10_000,
        num_classes: int | None = None,
        definition: str | None = None,
    ) -> None:
        self.sample = sample
        self.name = name
        self.num_classes = None if num_classes is None else checks.integer("num_classes", num_classes, low=1)
        self.definition = definition
        self._dim = checks.integer("dim", dim, low=1)
        self._size = checks.integer("size", size, low=1)

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"PointData({self.name!r}, points of {self.shape}, size={self._size})"

    @property
    def shape(self) -> tuple[int]:
        """(D,)."""
        return (self._dim,)

    def batch(
        self,
        iteration: int,
        batch_size: int,
        *,
        seed: int,
        sample_offset: int = 0,
        global_batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The points of ``iteration``: float32 [B, D], drawn from (seed, step = iteration) at the samples
        ``sample_offset`` .. of the whole batch.

        The arguments are those of :meth:`fastscore.data.ImageData.batch`; where ``device`` is None, the CPU.
        """
        return sent(self._draw(iteration, batch_size, seed, sample_offset, global_batch_size)[0], device)

    def batch_with_labels(
        self,
        iteration: int,
        batch_size: int,
        *,
        seed: int,
        sample_offset: int = 0,
        global_batch_size: int | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """:meth:`batch` of the same arguments, bit for bit, and the labels of its rows, int64 [B]: the mixture's
        component, the moon, or the checkerboard's square that each point was drawn from.

        Raises:
            TypeError, ValueError: as :meth:`batch`, or a toy without labels (the Swiss roll).
        """
        if self.num_classes is None:
            raise ValueError(f"the data set {self.name!r} has no labels: use batch()")
        points, labels = self._draw(iteration, batch_size, seed, sample_offset, global_batch_size)
        assert labels is not None  # _draw has seen to it
        return sent(points, device), sent(labels, device)

    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) of ``definition``, or without one of 1,024 points and their labels."""
        words = f"points of {self.shape}, {self.num_classes} classes"
        if self.definition is not None:
            return fingerprint(f"{words}: {self.definition}")
        return fingerprint(words, self._draw(0, 1024, 0, 0, None))

    def describe(self) -> str:
        """One line: "two_moons: points of (2,) in 2 classes, drawn anew in every batch, 10,000 an epoch"."""
        classes = "" if self.num_classes is None else f" in {self.num_classes} classes"
        return f"{self.name}: points of {self.shape}{classes}, drawn anew in every batch, {len(self):,} an epoch"

    def _draw(
        self, iteration: int, batch_size: int, seed: int, sample_offset: int, global_batch_size: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """The points of a batch, and their labels where there are any; what ``sample`` returned is checked."""
        iteration, batch_size, seed, sample_offset, _ = check_batch(
            iteration, batch_size, seed, sample_offset, global_batch_size
        )
        drawn = self.sample(batch_size, Philox(seed, step=iteration, sample_offset=sample_offset))
        if self.num_classes is not None and not (isinstance(drawn, tuple) and len(drawn) == 2):
            raise ValueError(
                f"sample must return points and labels where num_classes is given, got {checks.describe(drawn)}"
            )
        points, labels = drawn if self.num_classes is not None else (drawn, None)
        if not isinstance(points, Tensor) or points.shape != (batch_size, self._dim) or points.dtype != torch.float32:
            raise ValueError(
                f"sample must return a float32 tensor of shape ({batch_size}, {self._dim}), "
                f"got {checks.describe(points)}"
            )
        if self.num_classes is None:
            return points, None
        if not isinstance(labels, Tensor) or labels.shape != (batch_size,) or labels.dtype != torch.int64:
            raise ValueError(
                f"sample must return labels as an int64 tensor of shape ({batch_size},), got {checks.describe(labels)}"
            )
        if wrong := wrong_labels(labels, self.num_classes):
            raise ValueError(
                f"sample must return labels from 0 to num_classes - 1, {self.num_classes - 1}, got {wrong}"
            )
        return points, labels
