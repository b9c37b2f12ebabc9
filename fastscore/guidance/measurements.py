"""Linear measurements y = A x_0 + noise, and the equations that their posteriors solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._core import calls, checks, masks
from .._core.errors import NotConverged
from .._core.registration import per_row, rows_of
from ._noise import Held

_MOST = 1000  # iterations
_MOST_UNREAD = 200  # where it cannot be read that all samples are done, so that every one of them is made


@dataclass(frozen=True)
class Measurement:
    """A linear map A of samples [B, ...] to measurements [B, ...], each sample by itself.

    Args:
        forward: x -> A x.
        adjoint: (v, x) -> A^T v, of the shape of x, whose values do not matter. None: by automatic differentiation of
            ``forward``.
        gram: g, where A A^T = g on all that A can give (masks, means over blocks). None: what has A A^T in it is solved by
            conjugate gradients.
        clean: what is done to y first, where a part of it says nothing.
        name: for messages.

    Raises:
        TypeError, ValueError: an argument is not as said.

    Example:
        >>> first = Measurement(lambda x: x[:, :1])  # the first coordinate
        >>> first.transposed(torch.tensor([[3.0]]), torch.zeros(1, 2))
        tensor([[3., 0.]])
    """

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor, Tensor], Tensor] | None = None
    gram: float | None = None
    clean: Callable[[Tensor], Tensor] | None = None
    name: str = "measurement"

    def __post_init__(self) -> None:
        for name in ("forward", "adjoint", "clean"):
            value = getattr(self, name)
            if not callable(value) and (name == "forward" or value is not None):
                raise TypeError(f"{name} must be a function, got {checks.describe(value)}")
        if self.gram is not None:
            checks.positive("gram", self.gram)

    def __call__(self, x: Tensor) -> Tensor:
        """A x."""
        value = self.forward(x)
        if not isinstance(value, Tensor) or not value.dim() or len(value) != len(x):
            raise ValueError(
                f"{self.name} must map [B, ...] to [B, ...], got {checks.describe(value)} of {len(x)} samples"
            )
        return value

    def transposed(self, v: Tensor, x: Tensor) -> Tensor:
        """A^T v, of the shape of ``x`` [B, ...]."""
        if self.adjoint is not None:
            return checks.like(f"A^T v of {self.name}", calls.leaving_x("adjoint", self.adjoint, v, x), "x", x)
        with torch.enable_grad():
            return torch.func.vjp(self.forward, torch.zeros_like(x))[1](v)[0]

    def missing(self, y: Tensor, x: Tensor) -> Tensor:
        """y - A x, [B, ...]; ``y`` is of the shape of A x, or [1, ...], one for all samples."""
        found = self(x)
        if y.shape[1:] != found.shape[1:] or len(y) not in (1, len(found)):
            raise ValueError(
                f"y must have the shape of a measurement by {self.name}, {tuple(found.shape)} or "
                f"{(1, *found.shape[1:])}, got {checks.describe(y)}"
            )
        y = y.to(found.device, found.dtype).expand(found.shape)
        y = y if self.clean is None else self.clean(y)
        if checks.readable(y) and not bool(y.isfinite().all()):
            raise ValueError(f"y must be finite where {self.name} gives a value, got NaN or infinity")
        return y - found

    def solve(self, v: Tensor, x: Tensor, on_gram: Tensor, on_one: Tensor) -> Tensor:
        """(a A A^T + b)^-1 v, for a, b (``on_gram``, ``on_one``) [B, 1, ...] of which a is positive and b at least 0.

        By conjugate gradients, each sample until its residual is small, where A A^T is not known. A sample of which that did not
        become small, or whose v is not finite, is NaN.

        Raises:
            NotConverged: a sample of finite v did not get there, and its values can be read.
        """
        a, b = (per_row(value.flatten(), v) for value in (on_gram, on_one))
        if self.gram is not None:
            return v / (a * self.gram + b)

        def dot(p: Tensor, q: Tensor) -> Tensor:
            return per_row(rows_of(p * q).sum(1), p)

        most = _MOST if checks.readable(v) else _MOST_UNREAD
        iterations = min(most, 2 * v.shape[1:].numel() + 8)  # as many as numbers, were they not rounded
        small = dot(v, v) * (1e-24 if v.dtype == torch.float64 else 1e-11)  # of squares
        w, r = torch.zeros_like(v), v
        p, size = r, dot(r, r)
        for _ in range(iterations):
            going = size > small
            if checks.readable(going) and not bool(going.any()):
                break
            image = a * self(self.transposed(p, x)) + b * p
            step = torch.where(going, size / dot(p, image).clamp_min(torch.finfo(v.dtype).tiny), 0)
            w, r = w + step * p, r - step * image
            before, size = size, torch.where(going, dot(r, r), size)
            p = torch.where(going, r + size / before.clamp_min(torch.finfo(v.dtype).tiny) * p, p)
        good = (size <= small) & size.isfinite()
        short = ~good.flatten() & rows_of(v.isfinite()).all(1)
        if checks.readable(short) and bool(short.any()):
            if not bool(small.isfinite().flatten()[short].all()):
                raise NotConverged(
                    f"y must be smaller for {self.name}, or data_std larger where samples grow from step to step (or more steps "
                    f"taken): its equations overflow {v.dtype}"
                )
            left = (size / small).flatten()[short].nan_to_num(torch.inf)  # NaN where the iterates grew without bounds
            worst = float(left.max().sqrt()) * (1e-12 if v.dtype == torch.float64 else 10**-5.5)
            raise NotConverged(
                f"noise_std must be larger for {self.name}: with so little noise the equations of the measurement are too "
                f"ill-conditioned, and after {iterations} iterations a relative residual of {worst:.2g} is left"
            )
        return torch.where(good, w, torch.nan)


def _masked(x: Tensor, mask: Held) -> Tensor:
    return torch.where(masks.whole(mask.on(x.device), x, "x"), x, 0)


def inpainting(mask: Tensor) -> Measurement:
    """A x = x where ``mask`` is True, else 0. What y holds where it is False does not matter.

    Args:
        mask: bool, of a shape that broadcasts to that of x: [H, W], [1, C, H, W] or [B, 1, H, W]. [B, H, W] of as many samples
            as channels is an error: it would act on channels.
    """
    if checks.tensor("mask", mask).dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, True where x is known, got {checks.describe(mask)}")
    keep = partial(_masked, mask=Held(mask))
    return Measurement(keep, lambda v, x: keep(v), 1.0, keep, "inpainting")


def _check_images(x: Tensor, name: str, by: int = 1) -> Tensor:
    if x.dim() != 4 or x.shape[2] % by or x.shape[3] % by:
        must = f" with H and W multiples of {by}" if by > 1 else ""
        raise ValueError(f"x must be images [B, C, H, W]{must} for {name}, got {checks.describe(x)}")
    return x


def subsampling(factor: int) -> Measurement:
    """The mean over blocks of ``factor`` x ``factor`` pixels: [B, C, H, W] -> [B, C, H / factor, W / factor]."""
    factor = checks.integer("factor", factor, low=1)
    return Measurement(
        lambda x: F.avg_pool2d(_check_images(x, "subsampling", factor), factor),
        lambda v, x: v.repeat_interleave(factor, 2).repeat_interleave(factor, 3) / factor**2,
        1 / factor**2,
        name="subsampling",
    )


def blur(kernel: Tensor) -> Measurement:
    """Each channel filtered by ``kernel`` [h, w], of odd sides, zeros beyond the image; of the size of the image.

    An image alone is that of a batch to rounding, not bit for bit: torch's convolutions choose how they add by the batch."""
    checks.floating("kernel", kernel, batched=False)
    if kernel.dim() != 2 or not kernel.shape[0] % 2 or not kernel.shape[1] % 2:
        raise ValueError(f"kernel must have shape (h, w) with h and w odd, got {checks.describe(kernel)}")

    def filtered(x: Tensor, held: Held) -> Tensor:
        channels = _check_images(x, "blur").shape[1]
        weight = held.on(x.device, x.dtype).expand(channels, 1, *kernel.shape)
        return F.conv2d(x, weight, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=channels)

    straight, turned = Held(kernel), Held(kernel.flip(0, 1))
    return Measurement(lambda x: filtered(x, straight), lambda v, x: filtered(v, turned), name="blur")


def colour(weights: Tensor | Any = (0.299, 0.587, 0.114)) -> Measurement:
    """The grey image of a colour one, sum_c weights_c x_c: [B, C, H, W] -> [B, 1, H, W]; colours are to be found."""
    weights = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
    if weights.dim() != 1 or not bool(weights.isfinite().all()) or not bool(weights.any()):
        raise ValueError(f"weights must be of shape (C,), finite and not all 0, got {checks.describe(weights)}")

    held = Held(weights.reshape(1, -1, 1, 1))

    def grey(x: Tensor) -> Tensor:
        if _check_images(x, "colour").shape[1] != len(weights):
            raise ValueError(f"x must have {len(weights)} channels for colour, got {checks.describe(x)}")
        return (held.on(x.device, x.dtype) * x).sum(1, keepdim=True)

    gram = float(weights.square().sum())
    return Measurement(grey, lambda v, x: held.on(v.device, v.dtype) * v, gram, name="colour")


def matrix(A: Tensor) -> Measurement:
    """A of shape [m, D] as it is, for points x [B, D] (or samples of D numbers in all): y = A x [B, m].

    A sample alone is that of a batch to rounding, not bit for bit: products of matrices add in an order that the batch decides."""
    checks.floating("A", A, batched=False)
    if A.dim() != 2:
        raise ValueError(f"A must have shape (m, D), got {checks.describe(A)}")

    held = Held(A)

    def forward(x: Tensor) -> Tensor:
        if x.shape[1:].numel() != A.shape[1]:
            raise ValueError(f"x must have {A.shape[1]} numbers a sample for A, got {checks.describe(x)}")
        return rows_of(x) @ held.on(x.device, x.dtype).T

    return Measurement(forward, lambda v, x: (v @ held.on(v.device, v.dtype)).reshape(x.shape), name="matrix")
