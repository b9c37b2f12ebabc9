"""How an operator's compiled functions are registered with torch, from its declaration.

They are pure functions of their arguments, so that torch.compile may move, merge and repeat them. They know nothing of
autograd: that is written once, in the operator's file.

Under ``torch.func.vmap`` the mapped dimension joins the batch. Which samples a call draws for is decided where the
noise is made (:func:`first_sample`), and is then an input like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from . import counter
from .backends import library
from .operators import OPERATORS, Function, Operator
from .private_torch import increment_version, mapped_everywhere, opaque_to_dynamo, undispatched, without_overload
from .recomputation import refuse_recomputation

_raw: dict[tuple[str, str], Callable] = {}
_direct: dict[tuple[str, str], Callable] = {}
_inside: dict[tuple[str, str], Callable] = {}


def raw(name: str, backend: str) -> Callable:
    """A compiled function of an operator, ``"dsm_loss_gradient"`` say; without autograd."""
    return _raw[name, backend]


def direct(name: str, backend: str) -> Callable:
    """:func:`raw` without its layer of Python; not where torch.compile looks, which knows that layer only.

    A Triton launcher is called without the dispatcher, where that has nothing to do: it takes as long as the launch.
    """
    return _direct[name, backend]


def inside(name: str, backend: str) -> Callable:
    """:func:`direct` where that saves the dispatcher, else :func:`raw`: for an autograd.Function, into which torch.compile
    does not look but for its calls."""
    return _inside[name, backend]


def declare(operator: Operator) -> None:
    """Take an operator into :data:`.operators.OPERATORS`, and register its compiled functions with torch."""
    OPERATORS[operator.name] = operator
    for function in operator.functions():
        for backend in operator.backends:
            _register(operator, function, backend)


def _register(operator: Operator, function: Function, backend: str) -> None:
    full = f"{function.name}_{backend}"
    draws = operator.stream is not None
    library.define(
        function.full_schema(backend, draws), tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)
    )
    torch.library.register_fake(f"fastscore::{full}", function.fake, lib=library)
    op = getattr(torch.ops.fastscore, full).default
    if not function.writes:
        rule = _vmap_rule(op, function.maps, function.batch, draws)
        torch.library.register_vmap(f"fastscore::{full}", rule, lib=library)
    if backend == "triton":
        launch = _launcher(f"fastscore.kernels.{operator.name}", operator.launcher(function))
        library.impl(full, launch, "CompositeExplicitAutograd")

        def undispatching(*args: Any) -> Any:
            return launch(*args) if undispatched(args) else op(*args)

        called = within = undispatching
    else:
        called, within = without_overload(op), op
    key = function.name, backend
    _raw[key], _direct[key], _inside[key] = op, called, within


def _launcher(module: str, name: str) -> Callable:
    """A Triton launcher, whose module is imported at its first call."""
    found: list[Callable] = []

    def launch(*args: Any) -> Any:
        if not found:
            found.append(getattr(import_module(module), name))
        return found[0](*args)

    return launch


def _vmap_rule(op: Callable, maps: tuple[str, ...], out_batch: int, draws: bool) -> Callable:
    """vmap of a compiled function: the mapped dimension and the batch become one batch."""
    main = next(i for i, kind in enumerate(maps) if kind in ("batch", "probe"))
    at = ("batch", "probe").index(maps[main])  # where B stands

    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple:
        mapped = info.batch_size
        x, dim = args[main], in_dims[main]
        batch = x.shape[at] if dim is None else x.movedim(dim, 0).shape[1 + at]

        def merge(value: Any, dim: int | None, kind: str) -> Any:
            return _merged(value, dim, kind, mapped, batch) if isinstance(value, Tensor) else value

        merged = list(map(merge, args, in_dims, maps))
        if draws:
            *key, offset, state, index = args[len(maps) :]
            index_dim = in_dims[-1]
            if index is None:
                index, index_dim = offset + torch.arange(batch, device=x.device), None
            merged += [*key, offset, state, merge(index, index_dim, "batch").contiguous()]
        out = op(*merged)

        def split(value: Tensor) -> Tensor:
            return value.unflatten(out_batch, (mapped, batch)).movedim(out_batch, 0)

        return (tuple(map(split, out)), (0,) * len(out)) if isinstance(out, tuple) else (split(out), 0)

    return rule


def _merged(value: Tensor, dim: int | None, kind: str, mapped: int, batch: int) -> Tensor:
    """An argument of the ``mapped`` slices as one of a batch of ``mapped`` x ``batch``; see ``Function.maps``."""
    shared = {"none": True, "row": value.dim() == 0, "channel": value.dim() == 1}.get(kind, False)
    if dim is None and shared:
        return value
    value = value.expand(mapped, *value.shape) if dim is None else value.movedim(dim, 0)
    if kind == "probe":
        return value.movedim(0, 1).flatten(1, 2)
    if (kind, value.dim()) in (("row", 1), ("channel", 2)):  # one for all rows of a slice
        value = value[:, None].expand(mapped, batch, *value.shape[1:])
    value = value.reshape(mapped * batch, *value.shape[2:])
    return value if kind == "batch" else value.contiguous()  # one that was expanded has no stride


library.define(
    "first_sample(Tensor[] given, SymInt rows, SymInt offset, bool compiled) -> Tensor",
    tags=(torch.Tag.nondeterministic_seeded, torch.Tag.pt2_compliant_tag),
)  # kept once for each draw


@torch.library.impl(library, "first_sample", "CompositeExplicitAutograd")
def _first_sample(given: list[Tensor], rows: int, offset: int, compiled: bool) -> Tensor:
    if compiled:
        refuse_recomputation(recording=False)
    counter.rows(offset, rows)  # all of them, of every slice
    return torch.full((), offset, dtype=torch.int64, device=given[0].device)


@torch.library.register_fake("fastscore::first_sample", lib=library)
def _(given: list[Tensor], rows: int, offset: int, compiled: bool) -> Tensor:
    return given[0].new_empty((), dtype=torch.int64)


@torch.library.register_vmap("fastscore::first_sample", lib=library)
def _(info: Any, in_dims: tuple, given: list[Tensor], rows: int, offset: int, compiled: bool) -> tuple:
    if info.randomness == "error":
        raise RuntimeError(
            "vmap: noise is drawn for a mapped tensor. Say whether each of its slices gets noise of its "
            "own, vmap(..., randomness='different'), or all get the same, randomness='same'; or draw "
            "for tensors that are not mapped by rng.noise(shape, beside=[them]), or outside of vmap"
        )
    # what is still mapped by an outer vmap matters below, sizes do not
    if info.randomness == "same":
        return torch.ops.fastscore.first_sample(given, rows, offset, compiled), None
    first = torch.ops.fastscore.first_sample(given, rows * info.batch_size, offset, compiled)
    return first + torch.arange(info.batch_size, device=first.device) * rows, 0


library.define(
    "fresh_seed(*, Device device) -> Tensor", tags=(torch.Tag.nondeterministic_seeded, torch.Tag.pt2_compliant_tag)
)


@torch.library.impl(library, "fresh_seed", "CompositeExplicitAutograd")
def _fresh_seed(*, device: torch.device) -> Tensor:
    return torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device=device)


@torch.library.register_fake("fastscore::fresh_seed", lib=library)
def _(*, device: torch.device) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=device)


def fresh_seed() -> Tensor:
    """A seed, int64 [], from torch's default generator of the CPU; torch.compile keeps the draw where it is."""
    return torch.ops.fastscore.fresh_seed(device=torch.device("cpu"))


def first_sample(given: Sequence[Tensor], rows: int, offset: int, *, compiled: bool) -> Tensor:
    """The global index of the first of ``rows`` rows, int64 []: ``offset``, and under vmap one for each slice.

    Slices are told apart by every vmap that maps one of the ``given`` tensors, by its ``randomness``: "different"
    gives them the rows of one batch in turn (the innermost vmap's next to each other), "same" the same rows, and
    "error" raises. ``compiled``: the draw is of a function of torch.compile, which looks here whether it is computed
    again.
    """
    return torch.ops.fastscore.first_sample(list(given), rows, offset, compiled)


@opaque_to_dynamo
def first_of_slice(rows: int, offset: int, device: torch.device, compiled: bool) -> Tensor:
    """:func:`first_sample` of a draw that is for no tensor: every vmap tells its slices apart."""
    return first_sample([*mapped_everywhere(device), torch.empty((), device=device)], rows, offset, compiled=compiled)


def wants_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd records what is done to any of the tensors."""
    if is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False


def written(out: Tensor) -> Tensor:
    """``out`` after an operator wrote to it: autograd learns that what it may have saved of it has changed.

    An inference tensor has no version, and stays as it is.
    """
    increment_version((out,))
    return out


def rows_of(x: Tensor) -> Tensor:
    """``x`` [B, ...] as [B, D]; [B] is B samples of one number."""
    return x.reshape(x.shape[0], x.shape[1:].numel())


def per_row(value: Tensor, x: Tensor) -> Tensor:
    """One number for every row, [B], or for all, [], in the shape that broadcasts against ``x`` [B, ...]."""
    return value.reshape((-1,) + (1,) * (x.dim() - 1)) if value.dim() else value


def row_sum(value: Tensor, like: Tensor) -> Tensor:
    """[B, ...] summed to the shape of ``like``, [] or [B]."""
    if like.dim() == 0:
        return value.sum()
    return value.reshape(value.shape[0], value.shape[1:].numel()).sum(1)
