"""fill_probes: random directions v with E[v v^T] = I, for estimates of traces and norms of Jacobians.

Probes are a handle (:class:`Probes`), as noise is: a position in the random sequence, of which :func:`fill_probes` gives
values, and which :func:`fastscore.ops.probe_dot` reads without storing any. It cannot be changed once made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import backends, checks
from .._core.handles import fixed
from .._core.operators import Operator, Stream
from .._core.registration import declare, per_row, raw
from .._noise import draw, later
from ..rng import Noise, Philox, as_philox

DISTRIBUTIONS = ("rademacher", "gaussian", "sphere")
NATIVE_ALONE = {"native": ("cpu", "cuda")}  # the backends of the operators of trace estimates


class _Coloring(NamedTuple):
    colors: int
    width: int
    height: int
    a: int
    b: int = 0
    e: int = 0


class Coloring(_Coloring):
    """A colour for every element of a sample: (a x + b y + e c) mod ``colors``, computed from the index on the fly.

    x = d mod width, y = (d div width) mod height, c = d div (width height) for element d of a sample in its logical
    (C, H, W) order; a vector has height 1.

    Args:
        colors: 1 to 32768.
        width, height: at least 1, less than 2^31.
        a, b, e: at least 0, less than 2^31.

    Raises:
        TypeError, ValueError: a number out of its range.
    """

    __slots__ = ()

    def __new__(cls, colors: int, width: int, height: int, a: int, b: int = 0, e: int = 0) -> Coloring:
        given = {"colors": colors, "width": width, "height": height, "a": a, "b": b, "e": e}
        return super().__new__(
            cls,
            *(
                checks.integer(
                    f"coloring.{name}",
                    value,
                    low=int(name in _Coloring._fields[:3]),
                    high=32768 if name == "colors" else 2**31 - 1,
                )
                for name, value in given.items()
            ),
        )

    @classmethod
    def _make(cls, values: Iterable[int]) -> Coloring:  # type: ignore[override]  # mypy asks for a generic one; _replace calls this
        return cls(*values)

    def of(self, shape: Sequence[int], device: torch.device | str | None = None) -> Tensor:
        """The colours 0 .. ``colors`` - 1 of a sample of ``shape``, int64."""
        d = torch.arange(torch.Size(shape).numel(), device=device)
        x, y, c = d % self.width, d // self.width % self.height, d // (self.width * self.height)
        return ((self.a * x + self.b * y + self.e * c) % self.colors).reshape(shape)


class Probes:
    """A handle on ``num_probes`` random directions for every sample of ``x``: where they are, not their values.

    Without a colouring, probe k is a draw z_k of its own: Rademacher signs, normals, or a uniform direction of length
    sqrt(D) (``"sphere"``), so that E[v v^T] = I for each. With one of m colours, a block of m probes shares one draw:
    probe k is z_(k div m) where the element's colour is k mod m, and 0 elsewhere; the m probes of a block add up to
    z, and the sum of their v^T J v is an estimate of the trace that only pairs of one colour disturb.

    Draw j is the numbers of step ``rng.step`` + j, so that probes are the same on every device and however they are
    split into calls; a handle takes as many steps of ``rng`` as it has draws.

    Args:
        x: the samples [B, ...]: shape, dtype and device of each probe.
        num_probes: K, at least 1; a multiple of the colours where there is a colouring.
        rng: source of the directions. ``None``: seeded from torch's default generator.
        distribution: ``"rademacher"``, ``"gaussian"`` or ``"sphere"``.
        coloring: see :class:`Coloring`; not with ``"sphere"``.

    Raises:
        TypeError, ValueError: an argument is not as said; the message names it.

    Source: Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix" (signs); Tang & Saad 2012,
    "A probing method for computing the diagonal of a matrix inverse" (colours).
    """

    __slots__ = ("_coloring", "_distribution", "_noise", "_num_probes")
    coloring, distribution, noise, num_probes = map(fixed, ("coloring", "distribution", "noise", "num_probes"))

    def __init__(
        self,
        x: Tensor,
        num_probes: int,
        rng: Philox | None = None,
        *,
        distribution: str = "rademacher",
        coloring: Coloring | None = None,
    ):
        checks.floating("x", x)
        num_probes = checks.integer("num_probes", num_probes, low=1)
        checks.one_of("distribution", distribution, DISTRIBUTIONS)
        if coloring is not None:
            if not isinstance(coloring, Coloring):
                raise TypeError(f"coloring must be a fastscore.Coloring or None, got {checks.describe(coloring)}")
            if distribution == "sphere":
                raise ValueError(
                    "coloring must be None where distribution is 'sphere', whose elements are not "
                    f"independent, got {coloring}"
                )
            if num_probes % coloring.colors:
                raise ValueError(
                    f"num_probes must be a multiple of the coloring's {coloring.colors} colors, got {num_probes}"
                )
        self._draw_from(as_philox(rng), x, num_probes, distribution, coloring)

    @classmethod
    def checked(
        cls,
        x: Tensor,
        num_probes: int,
        rng: Philox,
        *,
        distribution: str = "rademacher",
        coloring: Coloring | None = None,
    ) -> Probes:
        """The handle for arguments that were checked before."""
        probes = cls.__new__(cls)
        probes._draw_from(rng, x, num_probes, distribution, coloring)
        return probes

    def _draw_from(self, rng: Philox, x: Tensor, num_probes: int, distribution: str, coloring: Coloring | None) -> None:
        self._num_probes, self._distribution, self._coloring = num_probes, distribution, coloring
        self._noise = rng.noise_for(x, Stream.PROBE, transformed=backends.transformed(), steps=self.draws)

    @property
    def draws(self) -> int:
        """How many independent draws the probes are made of."""
        return self.num_probes // (1 if self.coloring is None else self.coloring.colors)

    def __repr__(self) -> str:
        return (
            f"Probes(num_probes={self.num_probes}, distribution={self.distribution!r}, coloring={self.coloring}, "
            f"{self.noise!r})"
        )

    def form(self) -> tuple[int, list[int]]:
        """The distribution and the colouring as the compiled operators take them."""
        c = self.coloring  # taken apart by name: torch.compile cannot iterate over it
        return (
            DISTRIBUTIONS.index(self.distribution),
            [] if c is None else [c.colors, c.width, c.height, c.a, c.b, c.e],
        )

    def chunk(self, first: int, count: int | None) -> tuple[int, int]:
        """The first of a number of probes, and the number, checked."""
        first = checks.integer("first", first, low=0, high=self.num_probes)
        count = self.num_probes - first if count is None else count
        return first, checks.integer("count", count, low=0, high=self.num_probes - first)


def fill_probes(probes: Probes, *, first: int = 0, count: int | None = None) -> Tensor:
    """The directions ``first`` .. ``first + count`` - 1 of a handle (default: all that are left).

    Args:
        probes: the handle.
        first, count: which of its probes.

    Returns:
        [count, B, ...], contiguous, of the handle's dtype and device. Backends: reference; native on CPU and CUDA.

    Example:
        >>> x = torch.zeros(2, 3)
        >>> fill_probes(Probes(x, 4, Philox(0))).abs().unique().tolist()
        [1.0]
    """
    if not isinstance(probes, Probes):
        raise TypeError(f"probes must be a fastscore.Probes, got {checks.describe(probes)}")
    return checked(probes, *probes.chunk(first, count))


def checked(probes: Probes, first: int, count: int) -> Tensor:
    """:func:`fill_probes` of arguments that were checked."""
    backend = backends.choose("fill_probes", probes.noise.device)
    if backend == "reference":
        return directions(probes, first, count)
    return filled(
        backend,
        probes.noise.shape,
        probes.noise.dtype,
        probes.noise.device,
        first,
        count,
        (*probes.form(), *probes.noise.arguments()),
    )


def directions(probes: Probes, first: int, count: int, dtype: torch.dtype | None = None) -> Tensor:
    """[count, B, ...] of the definition, in plain torch."""
    distribution, coloring = probes.form()
    return directions_of_form(distribution, first, count, coloring, probes.noise, dtype or probes.noise.dtype)


def directions_of_form(
    distribution: int, first: int, count: int, form: Sequence[int], noise: Noise, dtype: torch.dtype
) -> Tensor:
    """:func:`directions` of a form as the compiled functions take it."""
    coloring = Coloring(*form) if form else None
    colors = 1 if coloring is None else coloring.colors
    if count == 0:
        return torch.empty((0, *noise.shape), dtype=dtype, device=noise.device)
    from_draw, to_draw = first // colors, (first + count - 1) // colors + 1
    draws = {j: _draw(DISTRIBUTIONS[distribution], noise, j) for j in range(from_draw, to_draw)}
    if coloring is None:
        return torch.stack([draws[k] for k in range(first, first + count)]).to(dtype)
    color = coloring.of(noise.shape[1:], noise.device)
    return torch.stack([draws[k // colors] * (color == k % colors) for k in range(first, first + count)]).to(dtype)


def _draw(distribution: str, noise: Noise, j: int) -> Tensor:
    """Draw j, [B, ...], in the dtype of computation."""
    compute = torch.float64 if noise.dtype == torch.float64 else torch.float32
    z = draw("rademacher" if distribution == "rademacher" else "normal", later(noise, j), compute)
    if distribution != "sphere":
        return z
    squares = z.double().square().reshape(z.shape[0], noise.shape[1:].numel()).sum(1)
    return z * per_row((noise.shape[1:].numel() / squares).sqrt().to(compute), z)


def filled(
    backend: str, shape: torch.Size, dtype: torch.dtype, device: torch.device, first: int, count: int, form: Sequence
) -> Tensor:
    """What a compiled function gives; ``form`` is ``Probes.form()`` and then ``Noise.arguments()``."""
    like = torch.empty((), dtype=dtype, device=device).expand(shape)  # says the form, takes no memory
    distribution, coloring, *noise = form
    return raw("fill_probes", backend)(like, distribution, first, count, coloring, *noise)


def _fake(like: Tensor, distribution: int, first: int, count: int, *_: Any) -> Tensor:
    return like.new_empty((count, *like.shape))


FORMS = {  # name: distribution and colouring, as the compiled functions take them; of six probes
    "": (0, []),
    "gaussian": (1, []),
    "sphere": (2, []),
    "in 3 colors": (0, [3, 2, 2, 1, 2, 1]),
    "gaussian, in 2 colors": (1, [2, 5, 1, 1, 0, 1]),
}


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    like = torch.empty(shape, dtype=dtype, device=device)
    return {name: (like, distribution, 1, 4, coloring) for name, (distribution, coloring) in FORMS.items()}


def probes_of_form(x: Tensor, distribution: int, at_least: int, form: Sequence[int], rng: Philox) -> Probes:
    """A handle on enough probes, of a form as the compiled functions take it."""
    coloring = Coloring(*form) if form else None
    colors = 1 if coloring is None else coloring.colors
    count = -(-at_least // colors) * colors
    return Probes(x, count, rng, distribution=DISTRIBUTIONS[distribution], coloring=coloring)


declare(
    Operator(
        name="fill_probes",
        schema="(Tensor like, int distribution, int first, int count, int[] coloring) -> Tensor",
        maps=("batch", "none", "none", "none", "none"),
        fake=_fake,
        examples=_examples,
        reference=lambda like, distribution, first, count, coloring, noise: directions_of_form(
            distribution, first, count, coloring, noise, like.dtype
        ),
        batch=1,
        public=fill_probes,
        call=lambda like, distribution, first, count, coloring, rng: fill_probes(
            probes_of_form(like, distribution, first + count, coloring, rng), first=first, count=count
        ),
        stream=Stream.PROBE,
        backends=NATIVE_ALONE,
    )
)
