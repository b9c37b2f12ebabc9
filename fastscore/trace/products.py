"""Products of a Jacobian with many vectors: J V for V [K, B, ...], J = df/dx of every sample.

The one engine behind traces and losses. There are three ways, ``MODES``:

- ``"vjp"``, the default: reverse mode, J^T V. f is evaluated once, its backward pass K times: ``torch.autograd.grad``
  under ``vmap``, or one product at a time where an operation of f does not take that. It keeps f's activations.
- ``"jvp"``: forward mode. ``torch.func.jvp`` under ``vmap`` over the probes: f itself is evaluated once for each chunk,
  its derivative K times. It needs a forward rule for every operation of f; one from outside torch that lacks it is an
  error (:mod:`~fastscore.trace.foreign`; under ``torch.compile`` it is not looked for, and silently loses its part).
  Where gradients are recorded, what torch would differentiate wrongly is done in another way, or refused
  (``_core.second_derivatives``).
- ``"fd"``: central differences, (f(x + h v) - f(x - h v)) / 2h, with h so small that no element of x moves by more than
  ``fd_step``. f is only evaluated; the error is of order fd_step^2, and that of rounding of order 1 / fd_step.

Why ``"vjp"`` is the default: on a CPU it takes 0.54 of forward mode's time for the trace of an NCSN from 8 products,
and 0.65 for the exact one (``benchmarks/results``, the tables of traces). It depends on the network: few layers on
large images favour forward mode, which also needs less memory (28 MB, beside 45 for that NCSN). On a GPU neither was
measured; there it is the default because it serves nearly every network, with gradients that torch gets right.

What f detaches (``detach``, ``.data``) is a constant to the first two, and so is, to ``"vjp"`` alone, what it computes
under ``no_grad``: forward mode looks through that. Where nothing of x is left, :mod:`~fastscore.trace.connected` tells
a constant f, whose Jacobian is 0, from one that was cut off, which is an error. Of an f that is cut off in part, the
modes give the derivative of what is left.

Which probes there are does not depend on how they are split into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks
from torch.func import jvp, vjp, vmap

from .._core import backends, checks, second_derivatives
from .._core.private_torch import EndOfRecomputation
from .._core.registration import per_row
from . import connected, foreign
from .messages import OF_TRACE, Words
from .modules import NOTHING, Layers, refuse_forward_mode
from .setting import setting

AUTOMATIC = ("vjp", "jvp")  # by automatic differentiation, as the losses need it
MODES = (*AUTOMATIC, "fd")
DEFAULT_MODE = "vjp"
ELEMENTS_AT_ONCE = 1 << 20  # of probes: 4 MB in float32, and f's activations for as many samples
_PASSED_ON = (MemoryError, torch.OutOfMemoryError, EndOfRecomputation)  # what says nothing of f's derivatives

Pull = Callable[[Tensor], tuple[Tensor, ...]]


class Products:
    """V -> J V (J^T V for ``"vjp"``), all of [K, B, ...]; also f(x), and how many products were asked for.

    Args:
        f: [B, ...] -> [B, ...], each sample by itself.
        x: the samples [B, ...] at which J is taken.
        mode: one of ``MODES``.
        chunk_size: how many probes at a time; 1 uses no ``vmap``. ``None``: as many as make 2^20 elements, at least 1.
        fd_step: h of ``"fd"`` in the units of x, [] or [B].
        layers: what :func:`fastscore.trace.modules.check` found in f.
        words: what messages call f and the other arguments.
        batched: whether ``"vjp"`` tries ``vmap`` over the probes; without it, nearly every network can be
            differentiated twice.

    Attributes:
        output: f(x), once there was a product.
    """

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        x: Tensor,
        *,
        mode: str = DEFAULT_MODE,
        chunk_size: int | None = None,
        fd_step: Tensor | None = None,
        layers: Layers = NOTHING,
        words: Words = OF_TRACE,
        batched: bool = True,
    ):
        if any(step == 0 and size > 1 for step, size in zip(x.stride(), x.shape)):
            x = x.contiguous()  # forward mode writes beside x, and cannot where elements share memory
        self.x, self.mode, self.fd_step, self.layers, self.words = x, mode, fd_step, layers, words
        self.chunk_size = chunk_size or max(1, ELEMENTS_AT_ONCE // max(1, x.numel()))
        self.count, self.more, self._f = 0, 0, f
        self.output: Tensor | None = None
        self._pull: Pull | None = None
        self._batched = batched and not layers.parallel and self.chunk_size > 1
        self._constant = self._unused = False
        self._refusal: Exception | None = None  # of f's output, by us
        self._again = torch.is_grad_enabled() and (mode == "jvp" or (mode == "vjp" and layers.normed))
        if mode == "jvp":
            refuse_forward_mode(layers, words.name)
        self._version = None if backends.transformed() or x.is_inference() else x._version
        if mode == "vjp":
            self.output, self._pull = self._reverse()
        elif mode == "fd":
            self.output = self._plain(x)

    def f(self, x: Tensor) -> Tensor:
        """f(x), which must be like x, and leave x as it is."""
        with second_derivatives.rightly(self._again, forward=self.mode == "jvp"):
            output = self._f(x)
        try:
            if self._version is not None and self.x._version != self._version:
                raise ValueError(self.words.changed_x())
            return checks.like(f"the output of {self.words.name}", output, "x", x)
        except (TypeError, ValueError) as error:
            self._refusal = error
            raise

    @property
    def evaluations(self) -> int:
        """Evaluations of f for each sample: one for each product (two for a difference), one for f(x), and those
        that showed f to be constant."""
        return self.count * (2 if self.mode == "fd" else 1) + 1 + self.more

    def chunks(self, total: int) -> Iterator[tuple[int, int]]:
        """(first, count) of every chunk of ``total`` probes."""
        if 0 < total <= self.chunk_size:  # which torch.compile need not know exactly, as it would below
            yield 0, total
            return
        for first in range(0, total, self.chunk_size):
            yield first, min(self.chunk_size, total - first)

    def __call__(self, v: Tensor, *, record: bool = True) -> Tensor:
        """J v for [K, B, ...]; with ``record=False`` autograd does not see it."""
        self.count += v.shape[0]
        with torch.set_grad_enabled(record and torch.is_grad_enabled()):
            found = [self._product(v[a : a + n], keep=record) for a, n in self.chunks(v.shape[0])]
            return found[0] if len(found) == 1 else torch.cat(found)

    def _product(self, v: Tensor, keep: bool) -> Tensor:
        if self.mode == "fd":
            return torch.stack([self._difference(one) for one in v])
        if self.mode == "vjp":
            return self._back(v)
        output, product = self._forward(v)
        if keep and self.output is None:
            self.output = output
        return product

    def _many(self, function: Callable, v: Tensor) -> tuple[Tensor, ...]:
        """The results of ``function`` for every probe, stacked; one probe needs no ``vmap``."""
        if len(v) == 1:
            return tuple(one[None] for one in function(v[0]))
        return vmap(function, randomness="same")(v)

    def _forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and J v by forward mode."""
        tangent = True

        def f(x: Tensor) -> Tensor:
            nonlocal tangent
            with nullcontext() if torch.compiler.is_compiling() else foreign.watched():
                output = self.f(x)
            tangent = foreign.has_tangent(output)
            return output

        def push(one: Tensor) -> tuple[Tensor, Tensor]:
            pushed: Any = jvp(f, (self.x,), (one,))
            return pushed

        if backends.transformed():
            output, product = self._many(push, v)
        else:
            try:
                with setting("jvp", self.layers, torch.is_grad_enabled()):
                    output, product = self._many(push, v)
            except Exception as error:
                self._explain(error, push, v)
        if not tangent:
            self._unconnected()
        return output[0], product

    def _explain(self, error: Exception, push: Callable, v: Tensor) -> NoReturn:
        """Raise for an error in forward mode: f's own as it is, else one that says what torch lacks, and the cure."""
        if error is self._refusal or isinstance(error, _PASSED_ON):
            raise error
        connected.raise_own_error(self._f, self.x, error)
        if isinstance(error, foreign.LostTangent):
            raise NotImplementedError(self.words.loses_tangent(error)) from None
        if isinstance(error, second_derivatives.WrongAgain):
            raise NotImplementedError(self.words.wrong_again(error)) from None
        text = self.words.no_forward_rule(error)
        if len(v) > 1:
            with suppress(Exception), setting("jvp", self.layers, torch.is_grad_enabled()):
                push(v[0])  # works alone
                text = self.words.not_under_vmap(error)
        raise NotImplementedError(text) from error

    def _reverse(self) -> tuple[Tensor, Pull]:
        """f(x), and v -> (J^T v,): by torch.autograd, which any network serves, or inside a transform by torch.func."""
        if backends.transformed():
            return self._by_func()
        record = torch.is_grad_enabled()
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            setting("vjp", self.layers, record, batched=self._batched),
        ):
            x = self.x.clone() if self.x.is_inference() else self.x
            x = x.view_as(x) if x.requires_grad and record else x.detach().requires_grad_()
            output = self.f(x)
        if not output.requires_grad:
            self._unconnected()

        def pull(v: Tensor) -> tuple[Tensor]:
            found = None
            if output.requires_grad:
                record = torch.is_grad_enabled()
                (found,) = torch.autograd.grad(output, x, v, retain_graph=True, create_graph=record, allow_unused=True)
                self._unused = found is None
            return (torch.zeros_like(v) if found is None else found,)

        return output if record else output.detach(), pull

    def _by_func(self) -> tuple[Tensor, Pull]:
        connection = True

        def f(x: Tensor) -> Tensor:
            nonlocal connection
            output = self.f(x)
            connection = output.requires_grad
            return output

        pulled: Any = vjp(f, self.x)
        if not connection:
            self._unconnected()
        return pulled

    def _back(self, v: Tensor) -> Tensor:
        """J^T v, [K, B, ...]."""
        assert self._pull is not None
        if backends.transformed():
            return self._many(self._pull, v)[0]
        record = torch.is_grad_enabled()  # torch.inference_mode(False) turns it on
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(record),
            setting("vjp", self.layers, record, batched=self._batched),
        ):
            v = v.clone() if v.is_inference() else v
            found = self._batch(v) if self._batched else None
            if found is None:
                try:
                    found = torch.stack([self._pull(one)[0] for one in v])
                except _PASSED_ON:
                    raise
                except Exception as error:
                    raise RuntimeError(self.words.no_reverse(error)) from error
        if self._unused:
            self._unconnected()
        return found

    def _batch(self, v: Tensor) -> Tensor | None:
        """J^T v for all directions at once; None, now and later, where an operation of f has no such backward pass."""
        assert self._pull is not None
        try:
            with disable_saved_tensors_hooks("activations are recomputed for one direction at a time"):
                return self._many(self._pull, v)[0]
        except _PASSED_ON:
            raise
        except Exception:
            self._batched = False
            return None

    def _unconnected(self) -> None:
        """Autograd sees nothing of x in f(x): so f must be constant, which is found out once."""
        if not self._constant:
            self.more += connected.require_constant(self._f, self.x, self.mode, self.words)
            self._constant = True

    def _difference(self, v: Tensor) -> Tensor:
        """(f(x + h v) - f(x - h v)) / 2h, where the largest element of h v is ``fd_step``."""
        assert self.fd_step is not None
        x, compute = self.x, checks.compute_dtype(self.x)
        largest = v.detach().abs().flatten(1).amax(1).to(compute)
        h = per_row(self.fd_step / torch.where(largest > 0, largest, 1.0), x)
        step = (h * v).to(x.dtype)
        return ((self._plain(x + step).to(compute) - self._plain(x - step).to(compute)) / (2 * h)).to(x.dtype)

    def _plain(self, x: Tensor) -> Tensor:
        """f(x) for differences, where gradients may be off: said, if f itself needs them."""
        try:
            return self.f(x)
        except RuntimeError as error:
            if torch.is_grad_enabled() or backends.transformed() or isinstance(error, _PASSED_ON):
                raise
            connected.raise_own_error(self._f, self.x, error)
            raise RuntimeError(self.words.needs_gradients(error)) from error
