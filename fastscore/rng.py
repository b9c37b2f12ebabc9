"""Counter-based random numbers: the same noise on every device, for every batch split, and again on demand.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 128-bit counter and a
64-bit key into four 32-bit words, with no state in between. The contract, the same on every backend:

- key ``(k0, k1)`` = low and high word of ``seed``;
- counter ``(c0, c1, c2, c3)`` = (block inside the sample, global sample index, step, stream);
- normals: block ``q`` holds elements ``4q .. 4q+3`` of the sample, in logical (contiguous) order: Box-Muller on the
  words ``(r0, r1)`` and ``(r2, r3)``, all four used, by the one sequence of float32 operations of
  ``_core.sequence.box_muller``;
- uniforms: block ``q`` holds elements ``4q .. 4q+3``, each ``(r >> 8) * 2**-24`` in [0, 1);
- Rademacher signs: block ``q`` holds elements ``128q .. 128q+127``, one bit each, lowest first; a set bit is -1;
- the global sample index is ``sample_offset`` + row, so a batch split over calls or ranks draws what the whole
  batch would have drawn, and sample ``k`` of 10,000 can be drawn alone;
- sub-stream ``i`` of a seed is the sequence with the key ``(a, b XOR i)``, where a and b are the first words ``r0`` of
  the seed's blocks with the counters (0, 0, i, SUBSTREAM) and (1, 0, 0, SUBSTREAM).

A normal's value is a float32 whatever dtype is asked for (float64 holds it exactly, bfloat16 rounds it).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ._core import checks, counter
from ._core.counter import STEPS, signed
from ._core.operators import Stream
from ._core.private_torch import backward_pass, depth
from ._core.recomputation import Replay, refuse_recomputation
from ._core.registration import first_of_slice, first_sample, fresh_seed
from ._core.sequence import philox4x32
from ._noise import Noise, draw, handle

__all__ = ["Noise", "Philox", "Stream", "as_philox"]


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

    def __init__(
        self,
        seed: int | None = None,
        *,
        step: int = 0,
        sample_offset: int = 0,
        device: torch.device | str | None = None,
    ):
        # by this name torch.compile knows the step for a number that moves on: private_torch.let_steps_vary
        self._philox_step, self._offset = counter.word("step", step), counter.word("sample_offset", sample_offset)
        self._seed: int | None = None
        self._state = None
        # the backward pass it was made in, where it may draw; none where it is made anew whenever it draws
        self._task = None if is_compiling() else backward_pass()
        if seed is None and is_compiling():  # where no number may be read: the seed stays a tensor
            self._state = torch.stack([fresh_seed(), torch.tensor(self._philox_step, device="cpu")])
            return
        self._seed = known = counter.seed(int(fresh_seed()) if seed is None else seed)
        if device is not None:
            self._state = torch.tensor(
                [signed(known), self._philox_step], dtype=torch.int64, device=counter.indexed(device)
            )

    @classmethod
    def at(cls, state: Tensor, *, sample_offset: int = 0) -> Philox:
        """The source whose seed (as an int64) and step are ``state``, int64 [2], and stay there: a draw adds to the step.

        The values are not read, and so not checked: a CUDA graph may make it, of a copy of what the host wrote before
        the replay.

        Raises:
            TypeError, ValueError: ``state`` is no contiguous int64 tensor of two numbers, or ``sample_offset`` no index.
        """
        rng = cls(0, sample_offset=sample_offset)
        rng._seed, rng._state = None, counter.state(state, values=False)
        return rng

    @property
    def seed(self) -> int:
        """The key, 0 to 2^64 - 1."""
        if self._seed is None:  # the device alone knows it
            assert self._state is not None
            return int(self._state[0]) % STEPS**2
        return self._seed

    @seed.setter
    def seed(self, value: int) -> None:
        self._seed = counter.seed(value)
        if self._state is not None:
            self._state[0] = signed(self._seed)

    @property
    def step(self) -> int:
        """The step of the next draw."""
        return self._philox_step if self._state is None else int(self._state[1])

    @step.setter
    def step(self, value: int) -> None:
        value = counter.word("step", value)
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
        self._offset = counter.word("sample_offset", value)

    @property
    def state(self) -> Tensor | None:
        """Seed (as an int64) and step on a device, int64 [2], in place of the numbers; or None."""
        return self._state

    @state.setter
    def state(self, value: Tensor | None) -> None:
        if value is None:
            self._seed, self._philox_step, self._state = self.seed, self.step, None
            return
        seed, _ = counter.state(value).tolist()
        self._seed, self._state = seed % (1 << 64), value

    def __repr__(self) -> str:
        offset = f", sample_offset={self.sample_offset}" if self.sample_offset else ""
        return f"Philox(seed={self.seed}, step={self.step}{offset})"

    def noise(
        self,
        shape: Sequence[int],
        *,
        stream: int = Stream.USER,
        sample_offset: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        beside: Sequence[Tensor] | None = None,
    ) -> Noise:
        """A handle on N(0, I) noise of ``shape`` [B, ...]; takes one step.

        Inside ``torch.func.vmap`` its ``randomness`` says what each slice gets, as for ``torch.randn``: "different",
        the rows that it would have had in one batch of all the slices; "same", the same rows; "error" raises. Where
        the numbers are for tensors, ``beside`` names them, and only a vmap that maps one of them counts.

        Args:
            shape: [B, ...]; a sample is a row.
            stream: what the numbers are for: another stream, other numbers.
            sample_offset: the global index of row 0. ``None``: this Philox's.
            dtype: of the numbers. ``None``: torch's default dtype.
            device: of the numbers. ``None``: torch's default device.
            beside: the tensors that the numbers are for, under vmap.

        Raises:
            TypeError, ValueError: an argument of the wrong kind; no batch dimension, or an index beyond 2^32.
            RuntimeError: inside ``vmap(..., randomness="error")``, which is torch's default.
        """
        dtype = None if dtype is None else counter.dtype(dtype)
        return self._noise(shape, stream, sample_offset, dtype, device, beside)

    def _noise(
        self,
        shape: Sequence[int],
        stream: int,
        sample_offset: int | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        beside: Sequence[Tensor] | None,
    ) -> Noise:
        shape = counter.shape(shape)
        if device is None:  # torch.compile does not know get_default_device
            device = torch.empty(()).device if is_compiling() else torch.get_default_device()
        offset = self._offset if sample_offset is None else counter.word("sample_offset", sample_offset)
        if not isinstance(stream, Stream):  # which torch.compile does not compare
            stream = counter.word("stream", stream)
        device = counter.indexed(device)
        dtype = dtype or torch.get_default_dtype()
        step, state = self._take(shape[0], offset, device, 1, compiling=is_compiling())
        noise = handle(self._seed or 0, step, int(stream), offset, shape, dtype, device, state)
        watched, inside = self._watched(), depth()
        if inside and beside is None:
            noise._first = first_of_slice(shape[0], offset, device, watched)
        elif inside or watched:
            given = [torch.empty((), device=device), *(beside or ())]
            noise._first = first_sample(given, shape[0], offset, compiled=watched)
        return noise

    def noise_for(
        self, x: Tensor, stream: int, *, transformed: bool, steps: int = 1, beside: Sequence[Tensor | None] = ()
    ) -> Noise:
        """:meth:`noise` of ``x``'s shape, dtype and device, and under ``vmap`` for each slice of ``x``.

        Takes ``steps`` steps, of which the noise is the first. Where ``x`` is not mapped but a tensor ``beside`` it is,
        that one's slices count.
        """
        shape, device, offset = x.shape, x.device, self._offset
        step, state = self._take(shape[0], offset, device, steps, compiling=transformed and is_compiling())
        noise = handle(self._seed or 0, step, int(stream), offset, shape, x.dtype, device, state)
        if transformed:
            given = [x, *(t for t in beside if t is not None)]
            noise._first = first_sample(given, shape[0], offset, compiled=self._watched())
        return noise

    def arguments_for(
        self, x: Tensor, stream: int, *, transformed: bool, beside: Sequence[Tensor | None] = ()
    ) -> tuple[int, int, int, int, Tensor | None, Tensor | None]:
        """``noise_for(...).arguments()``, where nobody asks for the handle."""
        if transformed or self._state is not None:
            return self.noise_for(x, stream, transformed=transformed, beside=beside).arguments()
        step, _ = self._take(x.shape[0], self._offset, None, 1, compiling=False)
        return signed(self.seed), step, stream, self._offset, None, None

    def _take(
        self, rows: int, offset: int, device: torch.device | None, steps: int, *, compiling: bool
    ) -> tuple[int, Tensor | None]:
        """The step of a draw of ``rows`` rows, or where it is kept on a device, 0 and the state; takes ``steps``."""
        if not compiling and backward_pass() != self._task:
            refuse_recomputation(recording=True)
        if offset + rows > STEPS:
            counter.rows(offset, rows)
        if self._state is not None:
            state = self._state.to(device, copy=True)
            self._state[1].add_(steps)
            return 0, state
        step = self._philox_step
        if step + steps > STEPS:
            raise ValueError(
                f"{steps} more would be beyond the 2^32 steps of a Philox, of which this one has taken "
                f"{step}: go on with another seed"
            )
        self._philox_step = step + steps
        return step, None

    def for_checkpoint(self, *others: Philox) -> tuple[AbstractContextManager, AbstractContextManager]:
        """What makes activation checkpointing of a function that draws right: its recomputation draws the same again.

        Pass the method itself, ``torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False,
        context_fn=rng.for_checkpoint)``, wherever ``f`` draws from this source; where it draws from others too, name
        them: ``context_fn=functools.partial(rng.for_checkpoint, other)``. Without it the recomputation would
        take the numbers of the next steps, and the gradients be those of another function: such a draw is an error.
        Not needed where ``f`` makes its Philox itself, or takes a :class:`Noise` in place of one.
        """
        return nullcontext(), Replay(self, *map(as_philox, others))

    def _mark(self) -> int | Tensor:
        return self._philox_step if self._state is None else self._state.clone()

    def _return_to(self, mark: int | Tensor, task: int) -> None:
        if self._state is None:
            assert isinstance(mark, int)
            self._philox_step = mark
        else:
            assert isinstance(mark, Tensor)
            self._state.copy_(mark)
        self._task = task

    def _watched(self) -> bool:
        """Whether a draw is of a function of torch.compile, from a Philox that was there before."""
        return is_compiling() and self._task is not None

    def randn(
        self,
        *shape: int | Sequence[int],
        stream: int = Stream.USER,
        sample_offset: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        beside: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """N(0, 1) numbers of ``shape`` [B, ...]; takes one step. Arguments and errors are those of :meth:`noise`."""
        return self.noise(
            _flat(shape), stream=stream, sample_offset=sample_offset, dtype=dtype, device=device, beside=beside
        ).tensor()

    def rand(
        self,
        *shape: int | Sequence[int],
        stream: int = Stream.USER,
        sample_offset: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        beside: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Uniform numbers in [0, 1), multiples of 2^-24, of ``shape`` [B, ...]; takes one step.

        In float16 and bfloat16 a value near 1 rounds to 1. Arguments and errors are those of :meth:`noise`.
        """
        return self._plain("uniform", shape, stream, sample_offset, dtype, device, beside)

    def rademacher(
        self,
        *shape: int | Sequence[int],
        stream: int = Stream.USER,
        sample_offset: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        beside: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Signs, -1 or +1 with probability 1/2, of ``shape`` [B, ...]; takes one step. Arguments: see :meth:`noise`."""
        return self._plain("rademacher", shape, stream, sample_offset, dtype, device, beside)

    def randint(
        self,
        high: int,
        *shape: int | Sequence[int],
        stream: int = Stream.USER,
        sample_offset: int | None = None,
        device: torch.device | str | None = None,
        beside: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """int64 numbers from 0 to ``high`` - 1, uniform to within high / 2^32, of ``shape`` [B, ...]; takes one step.

        ``high`` is at most 2^31 - 1. The other arguments are those of :meth:`noise`.
        """
        high = checks.integer("high", high, low=1, high=2**31 - 1)
        words = self._plain("words", shape, stream, sample_offset, torch.int64, device, beside)
        return (words * high) >> 32

    def permutation(self, n: int, *, stream: int = Stream.SHUFFLE, device: torch.device | str = "cpu") -> Tensor:
        """A random order of 0 .. ``n`` - 1, int64 on ``device``, the same on each; takes one step.

        Sorts 62-bit random keys.
        """
        words = self._plain("words", (checks.integer("n", n, low=0), 2), stream, 0, torch.int64, device)
        return torch.argsort((words[:, 0] >> 1 << 31) | (words[:, 1] >> 1), stable=True)

    def _plain(
        self,
        kind: str,
        shape: Sequence,
        stream: int,
        sample_offset: int | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        beside: Sequence[Tensor] | None = None,
    ) -> Tensor:
        if dtype is not None and kind != "words":
            counter.dtype(dtype)
        noise = self._noise(_flat(shape), stream, sample_offset, dtype, device, beside)
        return draw(kind, noise, noise.dtype)

    def substream(self, index: int) -> Philox:
        """A new Philox at step 0 of the sub-stream ``index`` of this one's seed; this one does not move on.

        It has 2^32 steps of its own, so what draws from it, an iteration of training, say, may draw as often as it
        likes: no other iteration's numbers depend on that. It is a function of the seed and ``index`` alone, and the
        sub-streams of one seed all have different keys (the module's text has the formula). Sub-streams may be nested.

        Args:
            index: 0 to 2^32 - 1.

        Returns:
            A Philox with this one's ``sample_offset``, its seed and step on the same device where this one's are.

        Raises:
            TypeError, ValueError: ``index`` is not such an integer.
            RuntimeError: inside a compiled function, where the seed may not be known. Pass the sub-stream to it.

        Example:
            >>> Philox(seed=1).substream(5).substream(0).seed == Philox(seed=1, step=9).substream(5).substream(0).seed
            True
        """
        if is_compiling():
            raise RuntimeError("a sub-stream must be made outside torch.compile: pass it to the compiled function")
        index = counter.word("index", index)
        key = self.seed & (STEPS - 1), self.seed >> 32
        low = philox4x32((0, 0, index, int(Stream.SUBSTREAM)), key)[0]
        mask = philox4x32((1, 0, 0, int(Stream.SUBSTREAM)), key)[0]
        device = None if self._state is None else self._state.device
        return Philox(low | (mask ^ index) << 32, sample_offset=self._offset, device=device)


def as_philox(rng: Philox | None) -> Philox:
    """``rng`` itself, or where None a new Philox seeded from torch's default generator."""
    if rng is None:
        return Philox()
    if not isinstance(rng, Philox):
        raise TypeError(f"rng must be a fastscore.Philox or None, got {checks.describe(rng)}")
    return rng


def _flat(shape: Sequence) -> Sequence[int]:
    """(2, 3) from randn(2, 3) and from randn((2, 3))."""
    return shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
