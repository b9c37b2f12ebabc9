"""Products of a Jacobian with many vectors: J V for V [K, B, ...], J = df/dx of every sample.

Three ways, ``MODES``:

- ``"jvp"``: forward mode. ``torch.func.jvp`` under ``vmap`` over the probes: f itself is evaluated once a chunk, its
  derivative K times. It needs a forward rule for every operation of f. (Operators that were registered from outside
  torch without one may give zeros in silence: for a network with such operators take one of the others.)
- ``"vjp"``: reverse mode, J^T V: f is evaluated once, its backward pass K times under ``vmap``. It keeps f's
  activations; for convolutional networks on a CPU it takes about half of forward mode's time. Operations that
  ``torch.func`` does not take go through ``torch.autograd.grad``.
- ``"fd"``: central differences, (f(x + h v) - f(x - h v)) / 2h, with h so small that no element of x moves by more than
  ``fd_step``. f is called on [B, ...], forwards, and nothing else is asked of it; the error is of order fd_step^2 and
  that of rounding of order 1 / fd_step.

Which probes there are does not depend on how they are split into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from .. import _check
from .._library import per_row

MODES = ("jvp", "vjp", "fd")
ELEMENTS_AT_ONCE = 1 << 20  # of probes: 4 MB in float32, and f's activations for as many samples
_NO_RULE = ("forward AD", "forward mode AD", "setup_context")  # in the texts of torch's errors


def lacks_rule(error: Exception) -> bool:
    """Whether torch says that an operation has no forward-mode rule."""
    return any(words in str(error) for words in _NO_RULE)


class Products:
    """V -> J V (J^T V for ``"vjp"``), all of [K, B, ...]; also f(x), and how many products were asked for.

    Args:
        f: [B, ...] -> [B, ...], each sample by itself.
        x: where, [B, ...].
        mode: one of ``MODES``.
        chunk_size: how many probes at a time; 1 uses no ``vmap``. ``None``: as many as make 2^20 elements, at least 1.
        fd_step: h of ``"fd"`` in the units of x, [] or [B].

    Attributes:
        output: f(x), once there was a product.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], x: Tensor, *, mode: str = "jvp", chunk_size: int | None = None,
                 fd_step: Tensor | None = None):
        if any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape)):
            x = x.contiguous()  # forward mode writes beside x, and cannot where elements share memory
        self.x, self.mode, self.fd_step = x, mode, fd_step
        self.chunk_size = chunk_size or max(1, ELEMENTS_AT_ONCE // x.numel())
        self.count, self.output, self._f, self._pull = 0, None, f, None
        if mode == "vjp":
            self.output, self._pull = self._reverse()
        elif mode == "fd":
            self.output = self.f(x)

    def f(self, x: Tensor) -> Tensor:
        """f(x), which must be like x."""
        return _check.like("the output of f", self._f(x), "x", x)

    @property
    def evaluations(self) -> int:
        """Evaluations of f a sample: one a product (two for a finite difference), and one for f(x)."""
        return self.count * (2 if self.mode == "fd" else 1) + 1

    def chunks(self, total: int) -> Iterator[tuple[int, int]]:
        """(first, count) of every chunk of ``total`` probes."""
        for first in range(0, total, self.chunk_size):
            yield first, min(self.chunk_size, total - first)

    def __call__(self, v: Tensor, *, record: bool = True) -> Tensor:
        """J v for [K, B, ...]; with ``record=False`` autograd does not see it."""
        self.count += v.shape[0]
        if record:
            return torch.cat([self._product(v[a:a + n], keep=True) for a, n in self.chunks(v.shape[0])])
        with torch.no_grad():
            return torch.cat([self._product(v[a:a + n], keep=False) for a, n in self.chunks(v.shape[0])])

    def _product(self, v: Tensor, keep: bool) -> Tensor:
        if self.mode == "fd":
            return torch.stack([self._difference(one) for one in v])
        if self.mode == "vjp":
            return self._many(self._pull, v)[0]
        output, product = self._forward(v)
        if keep and self.output is None:
            self.output = output
        return product

    def _forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and J v by forward mode."""

        try:
            output, product = self._many(lambda one: jvp(self.f, (self.x,), (one,)), v)
        except RuntimeError as error:
            if lacks_rule(error):
                raise NotImplementedError("f has an operation without a forward-mode rule, which mode='jvp' needs: "
                                          f"pass mode='vjp' or mode='fd'. Torch said: {error}") from error
            raise
        return output[0], product

    def _many(self, function: Callable, v: Tensor) -> tuple[Tensor, ...]:
        """The results of ``function`` for every probe, stacked; one probe needs no ``vmap``."""
        if len(v) == 1:
            return tuple(one[None] for one in function(v[0]))
        try:
            return vmap(function, randomness="same")(v)
        except RuntimeError as error:
            if "vmap" in str(error) and not lacks_rule(error):
                raise RuntimeError("f has an operation that does not work under vmap: pass chunk_size=1. "
                                   f"Torch said: {error}") from error
            raise

    def _reverse(self) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
        """f(x), and v -> (J^T v,)."""
        try:
            return vjp(self.f, self.x)
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
        record = torch.is_grad_enabled()
        with torch.enable_grad():
            x = self.x.view_as(self.x) if self.x.requires_grad and record else self.x.detach().requires_grad_()
            output = self.f(x)

        def pull(v: Tensor) -> tuple[Tensor]:
            return torch.autograd.grad(output, x, v, retain_graph=True, create_graph=torch.is_grad_enabled())

        return output if record else output.detach(), pull

    def _difference(self, v: Tensor) -> Tensor:
        """(f(x + h v) - f(x - h v)) / 2h, where the largest element of h v is ``fd_step``."""
        x, compute = self.x, _check.compute_dtype(self.x)
        largest = v.detach().abs().flatten(1).amax(1).to(compute)
        h = per_row(self.fd_step / torch.where(largest > 0, largest, 1.0), x)
        step = (h * v).to(x.dtype)
        return ((self.f(x + step).to(compute) - self.f(x - step).to(compute)) / (2 * h)).to(x.dtype)
