"""Counter-based random numbers: the same noise on every device, for every batch split, and again on demand.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 128-bit counter and a
64-bit key into four 32-bit words, with no state in between. The contract, the same on every backend:

- key ``(k0, k1)`` = low and high word of ``seed``;
- counter ``(c0, c1, c2, c3)`` = (block inside the sample, global sample index, step, stream);
- normals: block ``q`` holds elements ``4q .. 4q+3`` of the sample, in logical (contiguous) order: Box-Muller on the
  words ``(r0, r1)`` and ``(r2, r3)``, all four used, by the one sequence of float32 operations of :func:`_box_muller`;
- uniforms: block ``q`` holds elements ``4q .. 4q+3``, each ``(r >> 8) * 2**-24`` in [0, 1);
- Rademacher signs: block ``q`` holds elements ``128q .. 128q+127``, one bit each, lowest first; a set bit is -1;
- the global sample index is ``sample_offset`` + row, so a batch split over calls or ranks draws what the whole
  batch would have drawn, and sample ``k`` of 10,000 can be drawn alone.

A normal's value is a float32 whatever dtype is asked for (float64 holds it exactly, bfloat16 rounds it).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from . import _check, _functorch, backends
from ._library import first_of_slice, first_sample, fresh_seed, raw, refuse_recomputation, register, replayed

_MASK = 0xFFFFFFFF
_BLOCKS_AT_ONCE = 1 << 18  # bounds the temporaries of one draw to about 100 MB
_STEPS = 1 << 32
_UNITS_A_BLOCK = {"normal": 4, "uniform": 4, "rademacher": 128}
KINDS = ("normal", "uniform", "rademacher", "words")

register("fill", "fill: (Tensor like, int kind) -> Tensor", "b.", lambda like, *_: like.new_empty(like.shape),
         launch="launch_like")


class Stream(enum.IntEnum):
    """What the numbers are for. Two purposes never share numbers, whatever their seed and step."""

    USER = 0
    INIT = 1
    PERTURB = 2
    LANGEVIN = 3
    PROBE = 4
    DEQUANTIZE = 5
    LABELS = 6
    FLIPS = 7
    SHUFFLE = 8
    DATA = 9
    INPAINT = 10


def philox4x32(counter: Sequence[Tensor], key: Sequence[int | Tensor], rounds: int = 10) -> tuple[Tensor, ...]:
    """The Philox4x32 bijection on four int64 tensors that hold 32-bit words; they broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # 64-bit products; int64 wraps, which keeps every bit
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def _fma(a: Tensor, b: Tensor | float, c: Tensor | float) -> Tensor:
    """a b + c of float32 values, rounded (almost always) once: the product is exact in float64."""
    b = b.double() if isinstance(b, Tensor) else b
    c = c.double() if isinstance(c, Tensor) else c
    return (a.double() * b + c).float()


def _f32(value: float) -> float:
    """The float32 nearest to ``value``, as a Python float."""
    return torch.tensor(value, dtype=torch.float32).item()


_LOG_POLY = tuple(map(_f32, (-0.1744469851255417, 0.2873367965221405, -0.2990453541278839, 0.33124786615371704,
                             -0.39913666248321533, 0.5000414848327637, -0.6666837334632874, 0.9999997615814209, -2.0)))
_SIN_POLY = tuple(map(_f32, (-0.0001951729936990887, 0.008332177996635437, -0.16666655242443085)))
_COS_POLY = tuple(map(_f32, (2.4390450562350452e-05, -0.0013886763481423259, 0.04166662320494652, -0.5)))
_MINUS_2_LN_2 = _f32(-2 * math.log(2))
_TURN = _f32(math.pi * 2.0**-33)  # 2 pi / 2**34: the low 30 bits of a word, times four, to an angle in +-pi/4
_SQRT_HALF_BITS = 0x3F3504F3


def _horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value: Tensor | float = coefficients[0]
    for c in coefficients[1:]:
        value = _fma(x, value, c)
    return value  # type: ignore[return-value]


def _box_muller(r: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals from two words: sqrt(-2 ln u) cos a and sqrt(-2 ln u) sin a.

    u = float(r >> 1) 2^-31 + 2^-32 is in [2^-32, 1], so |z| <= 6.66. The angle's top two bits choose the quadrant,
    the other thirty an angle in [-pi/4, pi/4), where sin and cos are short polynomials of full relative accuracy.
    Minimax coefficients: relative error of ln 2^-25, sin 2^-28, cos 2^-34.
    """
    u = _fma((r >> 1).float(), 2.0**-31, 2.0**-32)
    # u = 2^e m with m in [sqrt(1/2), sqrt(2)), from the bits of u; f = m - 1 is exact
    bits = u.view(torch.int32) - _SQRT_HALF_BITS
    e = (bits >> 23).float()
    f = ((bits & 0x007FFFFF) + _SQRT_HALF_BITS).view(torch.float32) - 1.0
    # through float64, because torch's own float32 square root is not correctly rounded on every CPU
    radius = torch.sqrt(_fma(f, _horner(f, _LOG_POLY), e * _MINUS_2_LN_2).double()).float()

    low = (angle_word << 2) & _MASK
    x = torch.where(low >= 1 << 31, low - (1 << 32), low).float() * _TURN
    y = x * x
    sin = _fma(x * y, _horner(y, _SIN_POLY), x)
    cos = _fma(y, _horner(y, _COS_POLY), 1.0)
    odd, upper = (angle_word >> 30 & 1).bool(), (angle_word >> 31).bool()
    cos, sin = torch.where(odd, sin, cos), torch.where(odd, cos, sin)
    return radius * torch.where(odd ^ upper, -cos, cos), radius * torch.where(upper, -sin, sin)


def _scalar(value: int | Tensor, device: torch.device) -> Tensor:
    """int64 []; ``full``, for which torch.compile does not compile anew for another value."""
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.int64, device=device)


def _draw(kind: str, seed: int | Tensor, step: int | Tensor, stream: int, sample_offset: int | Tensor, rows: int,
          width: int, device: torch.device) -> Tensor:
    """[rows, width] numbers of one kind by the contract: float32 normals, uniforms, signs, or (``words``) int64."""
    blocks = -(-width // _UNITS_A_BLOCK.get(kind, 4))
    parts = []
    for start in range(0, rows * blocks, _BLOCKS_AT_ONCE):
        index = torch.arange(start, min(start + _BLOCKS_AT_ONCE, rows * blocks), dtype=torch.int64, device=device)
        counter = (index % blocks, index // blocks + sample_offset, _scalar(step, device) & _MASK,
                   _scalar(stream, device))
        words = philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
        if kind == "normal":
            values = [*_box_muller(words[0], words[1]), *_box_muller(words[2], words[3])]
        elif kind == "uniform":
            values = [(r >> 8).float() * 2.0**-24 for r in words]
        elif kind == "rademacher":
            bit = torch.arange(32, device=device)
            values = [(1 - 2 * (r[:, None] >> bit & 1)).float() for r in words]
        else:
            values = list(words)
        parts.append(torch.stack(values, 1).reshape(-1))
    if not parts:
        return torch.empty(rows, width, dtype=torch.int64 if kind == "words" else torch.float32, device=device)
    return torch.cat(parts).view(rows, -1)[:, :width]


class Noise:
    """A handle on standard normal noise: where it is in the random sequence, not its values.

    ``tensor()`` gives the values, the same each time; nothing is stored. Cannot be changed once made.

    Attributes:
        seed, step, stream, sample_offset: where: the key and the counter's last three words at row 0.
        shape, dtype, device: of the noise, [B, ...].
        state: int64 [2] on the device, in place of seed and step; or None.
        first: int64 [], in place of sample_offset: under vmap, one for each slice; or None.
    """

    __slots__ = ("_device", "_dtype", "_first", "_sample_offset", "_seed", "_shape", "_state", "_step", "_stream")
    seed, step, stream, sample_offset = map(_check.fixed, ("seed", "step", "stream", "sample_offset"))
    shape, dtype, device = map(_check.fixed, ("shape", "dtype", "device"))
    state, first = map(_check.fixed, ("state", "first"))

    def __init__(self, seed: int, step: int, stream: int, sample_offset: int, shape: Sequence[int], dtype: torch.dtype,
                 device: torch.device | str, state: Tensor | None = None, first: Tensor | None = None):
        self._seed, self._step = _check_seed(seed), _check_word("step", step)
        self._stream, self._sample_offset = _check_word("stream", stream), _check_word("sample_offset", sample_offset)
        self._shape, self._dtype, self._device = _check_shape(shape), _check_dtype(dtype), _indexed(device)
        self._state, self._first = state if state is None else _check_state(state), first
        if first is not None and (not isinstance(first, Tensor) or first.dtype != torch.int64 or first.dim()):
            raise TypeError(f"first must be an int64 tensor of shape () or None, got {_check.describe(first)}")

    def __repr__(self) -> str:
        return (f"Noise(seed={self.seed}, step={self.step}, stream={self.stream}, sample_offset={self.sample_offset}, "
                f"shape={tuple(self.shape)}, dtype={self.dtype}, device={self.device})")

    def tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """The noise z ~ N(0, I), of the handle's shape [B, ...] and device, in ``dtype`` (default: the handle's)."""
        return draw("normal", self, self._dtype if dtype is None else _check_dtype(dtype))

    def arguments(self) -> tuple[int, int, int, int, Tensor | None, Tensor | None]:
        """Where the noise stands, as the compiled operators take it: seed, step, stream, offset, state, index."""
        index = None
        if self._first is not None:
            index = self._first + torch.arange(self._shape[0], device=self._device)
        return *self.place(), self._state, index

    def place(self) -> tuple[int, int, int, int]:
        """Seed (as an int64), step, stream and offset."""
        return _signed(self._seed), self._step, self._stream, self._sample_offset


def _handle(seed: int, step: int, stream: int, sample_offset: int, shape: torch.Size, dtype: torch.dtype,
            device: torch.device, state: Tensor | None = None, first: Tensor | None = None) -> Noise:
    """A Noise of what was checked before."""
    noise = Noise.__new__(Noise)
    noise._seed, noise._step, noise._stream, noise._sample_offset = seed, step, stream, sample_offset
    noise._shape, noise._dtype, noise._device = shape, dtype, device
    noise._state, noise._first = state, first
    return noise


def later(noise: Noise, steps: int) -> Noise:
    """The handle on what a draw ``steps`` steps after gives."""
    state = None if noise.state is None else noise.state + torch.tensor([0, steps], device=noise.device)
    return _handle(noise.seed, noise.step + steps, noise.stream, noise.sample_offset, noise.shape, noise.dtype,
                   noise.device, state, noise.first)


def draw(kind: str, where: Noise, dtype: torch.dtype) -> Tensor:
    """Numbers of ``kind`` (a key of ``KINDS``) for the samples of ``where``, of its shape [B, ...], contiguous."""
    backend = backends.choose("fill", where.device)
    if backend == "reference":
        seed, step = (where.seed, where.step) if where.state is None else where.state.unbind()
        values = _draw(kind, seed, step, where.stream, where.sample_offset if where.first is None else where.first,
                       where.shape[0], where.shape[1:].numel(), where.device)
        return values.to(dtype).reshape(where.shape)
    return _filled(backend, kind, where.shape, dtype, where.device, where.arguments())


def regenerated(backend: str, x: Tensor, dtype: torch.dtype, where: Sequence) -> Tensor:
    """The normals that an operator added to ``x`` on the way forward, drawn again on the way back."""
    return _filled(backend, "normal", x.shape, dtype, x.device, where)


def _filled(backend: str, kind: str, shape: torch.Size, dtype: torch.dtype, device: torch.device, where: Sequence
            ) -> Tensor:
    like = torch.empty((), dtype=dtype, device=device).expand(shape)  # says the form, takes no memory
    return raw("fill", backend)(like, KINDS.index(kind), *where)


class Philox:
    """An explicit source of random numbers: a seed and a step, nothing else.

    Every draw takes the numbers of the present step and moves on by one, so two draws are independent; setting
    ``step`` goes back or ahead at no cost. ``sample_offset`` is the global index of the first row that is drawn.

    Args:
        seed: an integer from 0 to 2^64 - 1. ``None`` draws one from torch's default generator, so that
            ``torch.manual_seed`` governs.
        step: the step of the first draw, 0 to 2^32 - 1.
        sample_offset: the global index of row 0: a rank, or a later call, passes how many samples came before.
        device: keep the seed and the step on this device, where the operators read them and each draw adds to
            the step. Then a CUDA graph that captured a draw draws anew at every replay (call the function once
            before the capture, for what is compiled or made at first use). ``None``: plain numbers.

    Example:
        >>> whole = Philox(seed=1).randn(4, 3)
        >>> torch.equal(Philox(seed=1, sample_offset=2).randn(2, 3), whole[2:])
        True
    """

    def __init__(self, seed: int | None = None, *, step: int = 0, sample_offset: int = 0,
                 device: torch.device | str | None = None):
        # by this name torch.compile knows the step for a number that moves on: _library.let_steps_vary
        self._philox_step, self._offset = _check_word("step", step), _check_word("sample_offset", sample_offset)
        self._state = None
        # the backward pass it was made in, where it may draw; none where it is made anew whenever it draws
        self._task = None if is_compiling() else torch._C._current_graph_task_id()
        if seed is None and is_compiling():  # where no number may be read: the seed stays a tensor
            self._seed, self._state = 0, torch.stack([fresh_seed(), torch.tensor(self._philox_step, device="cpu")])
            return
        self._seed = _check_seed(int(fresh_seed()) if seed is None else seed)
        if device is not None:
            self._state = torch.tensor([_signed(self._seed), self._philox_step], dtype=torch.int64, device=device)

    @property
    def seed(self) -> int:
        """The key, 0 to 2^64 - 1."""
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = _check_seed(value)
        if self._state is not None:
            self._state[0] = _signed(self._seed)

    @property
    def step(self) -> int:
        """The step of the next draw."""
        return self._philox_step if self._state is None else int(self._state[1])

    @step.setter
    def step(self, value: int) -> None:
        value = _check_word("step", value)
        if self._state is None:
            self._philox_step = value
        else:
            self._state[1] = value

    @property
    def sample_offset(self) -> int:
        """The global index of the first row that is drawn."""
        return self._offset

    @sample_offset.setter
    def sample_offset(self, value: int) -> None:
        self._offset = _check_word("sample_offset", value)

    @property
    def state(self) -> Tensor | None:
        """Seed (as an int64) and step on a device, int64 [2], in place of the numbers; or None."""
        return self._state

    @state.setter
    def state(self, value: Tensor | None) -> None:
        if value is None:
            self._philox_step, self._state = self.step, None
            return
        seed, _ = _check_state(value).tolist()
        self._seed, self._state = seed % (1 << 64), value

    def __repr__(self) -> str:
        offset = f", sample_offset={self.sample_offset}" if self.sample_offset else ""
        return f"Philox(seed={self.seed}, step={self.step}{offset})"

    def noise(self, shape: Sequence[int], *, stream: int = Stream.USER, sample_offset: int | None = None,
              dtype: torch.dtype | None = None, device: torch.device | str | None = None,
              beside: Sequence[Tensor] | None = None) -> Noise:
        """A handle on N(0, I) noise of ``shape`` [B, ...]; takes one step.

        Inside ``torch.func.vmap`` its ``randomness`` says what each slice gets, as for ``torch.randn``: "different",
        the rows that it would have had in one batch of all the slices; "same", the same rows; "error" raises. Where
        the numbers are for tensors, ``beside`` names them, and only a vmap that maps one of them counts.

        Raises:
            TypeError, ValueError: an argument of the wrong kind; no batch dimension, or an index beyond 2^32.
            RuntimeError: inside ``vmap(..., randomness="error")``, which is torch's default.
        """
        return self._place(shape, stream, sample_offset, None if dtype is None else _check_dtype(dtype), device, beside)

    def _place(self, shape: Sequence[int], stream: int, sample_offset: int | None, dtype: torch.dtype | None,
               device: torch.device | str | None, beside: Sequence[Tensor] | None) -> Noise:
        shape = _check_shape(shape)
        if device is None:  # torch.compile does not know get_default_device
            device = torch.empty(()).device if is_compiling() else torch.get_default_device()
        offset = self._offset if sample_offset is None else _check_word("sample_offset", sample_offset)
        stream, device = int(_check_word("stream", stream)), _indexed(device)
        noise = self._next(shape, stream, offset, dtype or torch.get_default_dtype(), device)
        watched, inside = self._watched(), _functorch.depth()
        if inside and beside is None:
            noise._first = first_of_slice(shape[0], offset, device, watched)
        elif inside or watched:
            given = [torch.empty((), device=device), *(beside or ())]
            noise._first = first_sample(given, shape[0], offset, compiled=watched)
        return noise

    def noise_for(self, x: Tensor, stream: int, *, transformed: bool, steps: int = 1,
                  beside: Sequence[Tensor | None] = ()) -> Noise:
        """:meth:`noise` of ``x``'s shape, dtype and device, and under ``vmap`` for each slice of ``x``.

        Takes ``steps`` steps, of which the noise is the first. Where ``x`` is not mapped but a tensor ``beside`` it is,
        that one's slices count.
        """
        noise = self._next(x.shape, int(stream), self._offset, x.dtype, x.device, steps)
        if transformed:
            given = [x, *(t for t in beside if t is not None)]
            noise._first = first_sample(given, x.shape[0], noise._sample_offset, compiled=self._watched())
        return noise

    def _next(self, shape: torch.Size, stream: int, offset: int, dtype: torch.dtype, device: torch.device,
              steps: int = 1) -> Noise:
        if not is_compiling() and torch._C._current_graph_task_id() != self._task:
            refuse_recomputation(recording=True)
        if offset + shape[0] > _STEPS:
            raise ValueError(f"sample_offset + batch size must be at most 2^32, got {offset} + {shape[0]}")
        if self._state is not None:
            state = self._state.to(device, copy=True)
            self._state[1] += steps
            return _handle(self._seed, 0, stream, offset, shape, dtype, device, state)
        step, self._philox_step = self._philox_step, self._philox_step + steps
        if step + steps > _STEPS:
            raise ValueError("this Philox has taken 2^32 steps, all there are: go on with another seed")
        return _handle(self._seed, step, stream, offset, shape, dtype, device)

    def for_checkpoint(self, *others: Philox) -> tuple[AbstractContextManager, AbstractContextManager]:
        """What makes activation checkpointing of a function that draws right: its recomputation draws the same again.

        Pass the method itself, ``torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False,
        context_fn=rng.for_checkpoint)``, wherever ``f`` draws from this source; where it draws from others too, name
        them: ``context_fn=functools.partial(rng.for_checkpoint, other)``. Without it the recomputation would
        take the numbers of the next steps, and the gradients be those of another function: such a draw is an error.
        Not needed where ``f`` makes its Philox itself, or takes a :class:`Noise` in place of one.
        """
        return nullcontext(), _Replay(self, *map(as_philox, others))

    def _where(self) -> int | Tensor:
        return self._philox_step if self._state is None else self._state.clone()

    def _go(self, where: int | Tensor, task: int) -> None:
        if self._state is None:
            self._philox_step = where
        else:
            self._state.copy_(where)
        self._task = task

    def _watched(self) -> bool:
        """Whether a draw is of a function of torch.compile, from a Philox that was there before."""
        return is_compiling() and self._task is not None

    def randn(self, *shape: int | Sequence[int], stream: int = Stream.USER, sample_offset: int | None = None,
              dtype: torch.dtype | None = None, device: torch.device | str | None = None,
              beside: Sequence[Tensor] | None = None) -> Tensor:
        """N(0, 1) numbers of ``shape`` [B, ...]; takes one step. Inside ``vmap``, see :meth:`noise`."""
        return self.noise(_flat(shape), stream=stream, sample_offset=sample_offset, dtype=dtype, device=device,
                          beside=beside).tensor()

    def rand(self, *shape: int | Sequence[int], stream: int = Stream.USER, sample_offset: int | None = None,
             dtype: torch.dtype | None = None, device: torch.device | str | None = None,
             beside: Sequence[Tensor] | None = None) -> Tensor:
        """Uniform numbers in [0, 1), multiples of 2^-24, of ``shape`` [B, ...]; takes one step.

        In float16 and bfloat16 a value near 1 rounds to 1.
        """
        return self._plain("uniform", shape, stream, sample_offset, dtype, device, beside)

    def rademacher(self, *shape: int | Sequence[int], stream: int = Stream.USER, sample_offset: int | None = None,
                   dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                   beside: Sequence[Tensor] | None = None) -> Tensor:
        """Signs, -1 or +1 with probability 1/2, of ``shape`` [B, ...]; takes one step."""
        return self._plain("rademacher", shape, stream, sample_offset, dtype, device, beside)

    def randint(self, high: int, *shape: int | Sequence[int], stream: int = Stream.USER,
                sample_offset: int | None = None, device: torch.device | str | None = None,
                beside: Sequence[Tensor] | None = None) -> Tensor:
        """int64 numbers from 0 to ``high`` - 1 (uniform to within high / 2^32), shape [B, ...]; takes one step."""
        high = _check.integer("high", high, low=1, high=2**31 - 1)
        words = self._plain("words", shape, stream, sample_offset, torch.int64, device, beside)
        return (words * high) >> 32

    def permutation(self, n: int, *, stream: int = Stream.SHUFFLE) -> Tensor:
        """A random order of 0 .. ``n`` - 1, int64 on the CPU; takes one step. Sorts 62-bit random keys."""
        words = self._plain("words", (_check.integer("n", n, low=0), 2), stream, 0, torch.int64, "cpu")
        return torch.argsort((words[:, 0] >> 1 << 31) | (words[:, 1] >> 1), stable=True)

    def _plain(self, kind: str, shape: Sequence, stream: int, sample_offset: int | None, dtype: torch.dtype | None,
               device: torch.device | str | None, beside: Sequence[Tensor] | None = None) -> Tensor:
        if dtype is not None and kind != "words":
            _check_dtype(dtype)
        where = self._place(_flat(shape), stream, sample_offset, dtype, device, beside)
        return draw(kind, where, where.dtype)


class _Replay(AbstractContextManager):
    """Inside, each Philox draws again what it drew from the making of this context on; then it goes on where it was."""

    def __init__(self, *rngs: Philox):
        self.rngs, self.starts, self.left = rngs, [rng._where() for rng in rngs], []

    def __enter__(self) -> None:
        self.left.append([(rng._where(), rng._task) for rng in self.rngs])
        replayed.append(torch._C._current_graph_task_id())
        for rng, start in zip(self.rngs, self.starts):
            rng._go(start, replayed[-1])

    def __exit__(self, *_: Any) -> None:
        for rng, left in zip(self.rngs, self.left.pop()):
            rng._go(*left)
        replayed.pop()


def _check_seed(value: Any) -> int:
    return _check.integer("seed", value, low=0, high=2**64 - 1)


def _check_word(name: str, value: Any) -> int:
    """A word of the counter."""
    return _check.integer(name, value, low=0, high=_STEPS - 1)


def _check_state(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != (2,) or not value.is_contiguous():
        raise TypeError("state must be a contiguous int64 tensor of shape (2,), the seed and the step, or None, "
                        f"got {_check.describe(value)}")
    if _check.readable(value) and not 0 <= int(value[1]) < _STEPS:
        raise ValueError(f"state[1], the step, must be from 0 to {_STEPS - 1}, got {int(value[1])}")
    return value


def _check_shape(shape: Any) -> torch.Size:
    try:
        if not is_compiling() and bool in map(type, shape):
            raise TypeError
        shape = torch.Size(shape)
    except TypeError:
        raise TypeError(f"shape must be integers [B, ...], got {_check.describe(shape)}") from None
    if len(shape) == 0 or min(shape) < 0:
        raise ValueError(f"shape must be [B, ...], with a batch dimension and no negative size, got {tuple(shape)}")
    return shape


def _indexed(device: torch.device | str) -> torch.device:
    """The device as its tensors name it, "cuda:0" for "cuda", so that handles and tensors compare."""
    device = torch.device(device)
    if device.index is not None or device.type in ("cpu", "meta") or is_compiling():
        return device
    return torch.empty((), device=device).device


def _check_dtype(value: Any) -> torch.dtype:
    if value not in _check.FLOATS:
        raise TypeError(f"dtype must be torch.float16, bfloat16, float32 or float64, got {_check.describe(value)}")
    return value


def _signed(seed: int) -> int:
    """The 64 bits of a seed as an int64."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def as_philox(rng: Philox | None) -> Philox:
    """``rng`` itself, or where None a new Philox seeded from torch's default generator."""
    if rng is None:
        return Philox()
    if not isinstance(rng, Philox):
        raise TypeError(f"rng must be a fastscore.Philox or None, got {_check.describe(rng)}")
    return rng


def _flat(shape: Sequence) -> Sequence[int]:
    """(2, 3) from randn(2, 3) and from randn((2, 3))."""
    return shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape

