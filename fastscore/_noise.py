"""Noise as a handle: a position in the random sequence, and the numbers that are there (the operator ``fill``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ._core import backends, checks, counter
from ._core.counter import signed
from ._core.handles import fixed
from ._core.operators import ORDINARY, Operator, Stream
from ._core.registration import declare, direct, raw
from ._core.sequence import KINDS, numbers


class Noise:
    """A handle on standard normal noise: where it is in the random sequence, not its values.

    ``tensor()`` gives the values, the same each time; nothing is stored. Cannot be changed once made.

    Attributes:
        seed, step, stream, sample_offset: its position: the key and the counter's last three words at row 0.
        shape, dtype, device: of the noise, [B, ...].
        state: int64 [2] on the device, in place of seed and step; or None.
        first: int64 [], in place of sample_offset: under vmap, one for each slice; or None.
    """

    __slots__ = ("_device", "_dtype", "_first", "_sample_offset", "_seed", "_shape", "_state", "_step", "_stream")
    seed, step, stream, sample_offset = map(fixed, ("seed", "step", "stream", "sample_offset"))
    shape, dtype, device = map(fixed, ("shape", "dtype", "device"))
    state, first = map(fixed, ("state", "first"))

    def __init__(
        self,
        seed: int,
        step: int,
        stream: int,
        sample_offset: int,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
        state: Tensor | None = None,
        first: Tensor | None = None,
    ):
        self._seed, self._step = counter.seed(seed), counter.word("step", step)
        self._stream = counter.word("stream", stream)
        self._sample_offset = counter.word("sample_offset", sample_offset)
        self._shape, self._dtype, self._device = counter.shape(shape), counter.dtype(dtype), counter.indexed(device)
        self._state = None if state is None else counter.state(state, self._device)
        self._first = None if first is None else counter.first(first, self._device, self._shape[0])
        counter.rows(self._sample_offset, self._shape[0])

    def __repr__(self) -> str:
        return (
            f"Noise(seed={self.seed}, step={self.step}, stream={self.stream}, sample_offset={self.sample_offset}, "
            f"shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})"
        )

    def tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """The noise z ~ N(0, I), of the handle's shape [B, ...] and device, in ``dtype`` (default: the handle's)."""
        return draw("normal", self, self._dtype if dtype is None else counter.dtype(dtype))

    def arguments(self) -> tuple[int, int, int, int, Tensor | None, Tensor | None]:
        """Which numbers these are, as the compiled functions take it: seed, step, stream, offset, state, index."""
        index = None
        if self._first is not None:
            index = self._first + torch.arange(self._shape[0], device=self._device)
        return signed(self._seed), self._step, self._stream, self._sample_offset, self._state, index

    def fits(self, x: Tensor) -> bool:
        """Whether the noise has the shape and device of ``x``."""
        return self._shape == x.shape and self._device == x.device


def handle(
    seed: int,
    step: int,
    stream: int,
    sample_offset: int,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    state: Tensor | None = None,
    first: Tensor | None = None,
) -> Noise:
    """A Noise of what was checked before."""
    noise = Noise.__new__(Noise)
    noise._seed, noise._step, noise._stream, noise._sample_offset = seed, step, stream, sample_offset
    noise._shape, noise._dtype, noise._device = shape, dtype, device
    noise._state, noise._first = state, first
    return noise


def later(noise: Noise, steps: int) -> Noise:
    """The handle on what a draw ``steps`` steps after gives."""
    state = None if noise.state is None else torch.stack([noise.state[0], noise.state[1] + steps])
    return handle(
        noise.seed,
        noise.step + steps,
        noise.stream,
        noise.sample_offset,
        noise.shape,
        noise.dtype,
        noise.device,
        state,
        noise.first,
    )


def draw(kind: str, noise: Noise, dtype: torch.dtype) -> Tensor:
    """Numbers of ``kind`` (a key of ``KINDS``) for the samples of ``noise``, of its shape [B, ...], contiguous."""
    backend = backends.choose("fill", noise.device)
    if backend == "reference":
        return _numbers(kind, noise, dtype)
    return _filled(backend, kind, noise.shape, dtype, noise.device, noise.arguments())


def _numbers(kind: str, noise: Noise, dtype: torch.dtype) -> Tensor:
    """:func:`draw` in plain torch."""
    seed, step = (noise.seed, noise.step) if noise.state is None else noise.state.unbind()
    values = numbers(
        kind,
        seed,
        step,
        noise.stream,
        noise.sample_offset if noise.first is None else noise.first,
        noise.shape[0],
        noise.shape[1:].numel(),
        noise.device,
    )
    return values.to(dtype).reshape(noise.shape)


declare(
    Operator(
        name="fill",
        schema="(Tensor like, int kind) -> Tensor",  # a new tensor of the form of `like`; kind counts KINDS
        maps=("batch", "none"),
        fake=lambda like, *_: like.new_empty(like.shape),
        examples=lambda shape, dtype, device, seed: {
            kind: (torch.empty(shape, dtype=torch.int64 if kind == "words" else dtype, device=device), i)
            for i, kind in enumerate(KINDS)
        },
        reference=lambda like, kind, noise: _numbers(KINDS[kind], noise, like.dtype),
        launch="launch_like",
        public=Noise.tensor,
        call=lambda like, kind, rng: draw(
            KINDS[kind], rng.noise(like.shape, device=like.device, beside=()), like.dtype
        ),
        stream=Stream.USER,
        backends=ORDINARY,
    )
)


def regenerated(backend: str, x: Tensor, dtype: torch.dtype, arguments: Sequence) -> Tensor:
    """The normals that an operator added to ``x`` on the way forward, drawn again on the way back."""
    return _filled(backend, "normal", x.shape, dtype, x.device, arguments)


def _filled(
    backend: str, kind: str, shape: torch.Size, dtype: torch.dtype, device: torch.device, arguments: Sequence
) -> Tensor:
    if checks.elsewhere():
        return raw("fill", backend)(
            torch.empty((), dtype=dtype, device=device).expand(shape), KINDS.index(kind), *arguments
        )
    return direct("fill", backend)(_form(shape, dtype, device), KINDS.index(kind), *arguments)


@lru_cache(maxsize=1024)
def _form(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor that says the form of others and takes no memory; its values are nobody's."""
    with torch.inference_mode(False):
        return torch.empty((), dtype=dtype, device=device).expand(shape)
