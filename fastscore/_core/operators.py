"""What an operator is: one declaration, from which everything else that the library knows about it derives.

An operator's file, ``fastscore/ops/<name>.py``, hands an :class:`Operator` to :func:`fastscore._core.registration.declare`.
From it derive the schemas of its compiled functions, their rules for ``torch.func.vmap`` and fake tensors, which
backend serves which device (:mod:`.backends`), what ``fastscore doctor`` lists, and the tables of tests and benchmarks.

A compiled function is called ``fastscore::<name>_native`` (C++ or CUDA: ``csrc/cpu/<name>.cpp``,
``csrc/cuda/<name>.cu``) or ``fastscore::<name>_triton`` (``kernels/<name>.py:launch``). All take the same arguments:
those of the declared schema, and then, where the operator draws, those of :data:`NOISE`. They are pure functions (or
write to an argument, where the schema says so), and they know nothing of autograd, autocast or transforms. Autocast
changes nothing: every operator computes in float32 or wider whatever its inputs are.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# which numbers a call draws: the end of the arguments of every compiled function that draws, as Noise.arguments() has it
NOISE = "SymInt seed, SymInt step, int stream, SymInt offset, Tensor? state, Tensor? index"
MAPS = ("batch", "row", "channel", "probe", "none")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ORDINARY: Mapping[str, tuple[str, ...]] = {"native": ("cpu",), "triton": ("cuda",)}


class Stream(enum.IntEnum):
    """What the numbers are for. Two purposes never share numbers, whatever their seed and step."""

    USER = 0  #: what you draw yourself
    INIT = 1  #: the samples that a sampler starts from
    PERTURB = 2  #: the noise that `perturb` adds, and that `dsm_loss` draws again
    LANGEVIN = 3  #: the noise of a sampler's updates
    PROBE = 4  #: the directions of traces and of the sliced losses
    DEQUANTIZE = 5  #: what fills the gaps between the grey values of images
    LABELS = 6  #: the noise level of each training sample
    FLIPS = 7  #: which training images are mirrored
    SHUFFLE = 8  #: the order of the training samples in an epoch, and other permutations
    DATA = 9  #: data sets that are made of random numbers, and how a data set is divided or thinned
    INPAINT = 10  #: the noise on the known part of an image that is completed
    SUBSTREAM = 11  #: the keys of sub-streams
    DROP = 12  #: which training samples lose their class label


@dataclass(frozen=True, kw_only=True)
class Function:
    """One compiled function of an operator: the operator itself, its gradient, or its version that writes to ``out``.

    Args:
        name: ``"perturb"``; of a variant, the operator's name and what it is: ``"dsm_loss_gradient"``.
        schema: ``"(Tensor x, Tensor sigma) -> Tensor"``, without the noise arguments, which are appended where the
            operator draws. ``Tensor(a!) out`` is written to.
        maps: how ``torch.func.vmap`` maps each of the schema's arguments, and so also what shape it has:

            - ``"batch"``: [B, ...];
            - ``"row"``: a number for every row, [B], or one for all, [];
            - ``"channel"``: [C] for all rows, or [B, C]. Mapped, [C] becomes [B, C]: the function must take both;
            - ``"probe"``: [K, B, ...];
            - ``"none"``: anything else, which cannot be mapped.

            The first ``batch`` or ``probe`` says what B is.
        fake: what comes back for fake tensors, given all arguments.
        examples: ``examples(shape, dtype, device, seed)`` gives by name argument lists that the function must serve,
            without the noise arguments, the plainest first; ``shape`` is [B, ...]. Tests are made of them.
        reference: the same in plain torch, of the same arguments and then, where the operator draws, the
            :class:`fastscore.Noise` to draw; None where another function's stands for it.
        batch: which dimension of every result is B.
        launch: the Triton launcher in ``kernels/<operator>.py``. None: ``launch``, of a variant ``launch_<what it is>``.
    """

    name: str
    schema: str
    maps: tuple[str, ...]
    fake: Callable[..., Any]
    examples: Callable[[tuple[int, ...], torch.dtype, str, int], Mapping[str, tuple]]
    reference: Callable[..., Any] | None = None
    batch: int = 0
    launch: str | None = None

    def __post_init__(self) -> None:
        arguments = self.schema.split(" -> ")[0].removeprefix("(").removesuffix(")")
        count = len([a for a in arguments.split(", ") if a])
        if count != len(self.maps) or not set(self.maps) <= set(MAPS) or not {"batch", "probe"} & set(self.maps):
            raise ValueError(
                f"maps must say for each of the {count} arguments of {self.name} one of {', '.join(MAPS)}, and be "
                f"'batch' or 'probe' for one of them, got {self.maps}"
            )

    @property
    def writes(self) -> bool:
        """Whether an argument is written to; such a function is not mapped."""
        return "!" in self.schema

    def full_schema(self, backend: str, draws: bool) -> str:
        """As torch takes it."""
        arguments, returns = self.schema.split(" -> ")
        noise = f", {NOISE}" if draws else ""
        return f"{self.name}_{backend}{arguments.removesuffix(')')}{noise}) -> {returns}"


@dataclass(frozen=True, kw_only=True)
class Operator(Function):
    """An operator: its compiled function, its variants, and who serves it.

    Args:
        public: the function that users call.
        call: it by the arguments of an example and, where the operator draws, a :class:`fastscore.Philox` last: the
            first result of the compiled function, of the numbers of the Philox's step and the operator's stream, with
            its derivatives. None: ``public`` takes the arguments as they are. Tests and benchmarks call it.
        stream: the stream that it draws from where its caller names none; None: it draws nothing, and no function of
            it has noise arguments.
        backends: for every backend the kinds of device that it serves; of several for one kind the first that is there
            is the default. ``"reference"`` serves all and is not named.
        dtypes: of the samples, that the compiled functions take.
        variants: its gradient, its version that writes to ``out``; served as the operator is.
    """

    public: Callable[..., Any]
    stream: Stream | None
    backends: Mapping[str, tuple[str, ...]]
    dtypes: tuple[torch.dtype, ...] = FLOATS
    variants: tuple[Function, ...] = ()
    call: Callable[..., Tensor] | None = None

    def functions(self) -> Iterator[Function]:
        """The operator's own function and its variants."""
        yield self
        yield from self.variants

    def launcher(self, function: Function) -> str:
        """The name of a function's Triton launcher."""
        return function.launch or "launch" + function.name.removeprefix(self.name)


OPERATORS: dict[str, Operator] = {}  # filled by registration.declare


def example(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    """Normal numbers to make an example of: of torch's generator, the same on every device."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
    return values.to(device, dtype)


def example_row(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    """A positive number for every row of ``shape``, [B], in the dtype of computation."""
    values = 0.3 + example(shape[:1], torch.float64, device, seed).abs()
    return values.to(torch.float64 if dtype == torch.float64 else torch.float32)
