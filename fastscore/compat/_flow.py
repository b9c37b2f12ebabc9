"""Where a norm's output goes, seen at work: which activation takes it, and whether anything else does."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

_SIZE = 16  # of the images that are sent through: three halvings leave 2 x 2


class Slot(NamedTuple):
    """The place of an activation: the module that holds it, and the attribute's name."""

    owner: nn.Module
    name: str

    @property
    def act(self) -> Any:
        """The activation that is there now."""
        return getattr(self.owner, self.name)


class Flow:
    """What became of the norms' outputs, each time that a norm ran.

    Attributes:
        users: for each norm, a list a call: the slot of every activation that took the output, None for anything else
            that did.
        inputs: for each slot, the norm whose output it was called with, or None, each time.
        failed: for each owner that could not be run, why.
    """

    def __init__(self) -> None:
        self.users: dict[nn.Module, list[list[Slot | None]]] = defaultdict(list)
        self.inputs: dict[Slot, list[nn.Module | None]] = defaultdict(list)
        self.failed: dict[nn.Module, str] = {}

    def follower(self, norm: nn.Module) -> Slot | None:
        """The one activation that takes all that ``norm`` gives, and that nothing else does."""
        takers = {users[0] if len(users) == 1 else None for users in self.users[norm]}
        return takers.pop() if len(takers) == 1 else None

    def pairs(self, norms: Collection[nn.Module]) -> dict[nn.Module, Slot]:
        """Of ``norms``, each that an activation follows which follows nothing else, with that activation."""
        found = {norm: slot for norm in norms if (slot := self.follower(norm))}
        for slot in set(found.values()):
            if any(norm is None or found.get(norm) != slot for norm in self.inputs[slot]):
                found = {norm: other for norm, other in found.items() if other != slot}
        return found

    def why_alone(self, norm: nn.Module) -> str:
        """Why no activation goes with this norm."""
        if self.users[norm]:
            return "no ELU takes its output, and it alone"
        raised = [why for owner, why in self.failed.items() if norm in set(owner.modules())]
        return f"not seen at work ({raised[0][:100]})" if raised else "no ELU is beside it"


def observe(norms: Collection[nn.Module], slots: Sequence[Slot]) -> Flow:
    """Run every module that holds a norm beside an activation on two small images, and see where outputs go.

    Nothing is changed by it: parameters are read, buffers are copies, and torch's random numbers are as before.
    Each module runs in training and in evaluation, those that hold others first; what has run within another is not
    run again.
    """
    flow, owners = Flow(), list(dict.fromkeys(slot.owner for slot in slots))
    for owner in owners:
        held = [norm for norm in owner.modules() if norm in norms]
        if not held or all(norm in flow.users for norm in held):
            continue
        try:
            with _watched(norms, slots) as watch:
                for training in (True, False):
                    _run(owner, training, watch)
        except Exception as error:  # a module that is none of NCSN's may raise anything
            flow.failed[owner] = f"{type(error).__name__}: {error}"
        else:
            watch.tell(flow)
    return flow


class _Watch(TorchFunctionMode):
    """Notes every use of a norm's output, by an activation in its slot or by any other function of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, tuple[Tensor, nn.Module, list[Slot | None]]] = {}  # held: no id comes twice
        self.rewritten: list[tuple[Tensor, nn.Module, list[Slot | None]]] = []  # by an activation in place
        self.inputs: list[tuple[Slot, nn.Module | None]] = []
        self.within = False  # an activation, whose own functions do not count

    def made(self, norm: nn.Module, _: Any, output: Any) -> None:
        self.outputs[id(output)] = output, norm, []

    def used(self, values: Any, by: Slot | None) -> None:
        for value in _tensors(values):
            if id(value) in self.outputs:
                self.outputs[id(value)][2].append(by)

    def activated(self, slot: Slot, act: nn.Module, x: Tensor) -> Tensor:
        self.inputs.append((slot, self.outputs[id(x)][1] if id(x) in self.outputs else None))
        self.used(x, slot)
        self.within = True
        try:
            result: Tensor = act(x)
        finally:
            self.within = False
        if result is x and id(x) in self.outputs:
            self.rewritten.append(self.outputs.pop(id(x)))
        return result

    def tell(self, flow: Flow) -> None:
        for _, norm, users in [*self.outputs.values(), *self.rewritten]:
            flow.users[norm].append(users)
        for slot, origin in self.inputs:
            flow.inputs[slot].append(origin)

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.within:
            self.used((args, kwargs), None)
        return func(*args, **(kwargs or {}))


class _Watched(nn.Module):
    """An activation that tells the watch what it is called with."""

    def __init__(self, slot: Slot, act: nn.Module, watch: _Watch) -> None:
        super().__init__()
        self.act, self.call = act, partial(watch.activated, slot, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@contextmanager
def _watched(norms: Collection[nn.Module], slots: Sequence[Slot]) -> Iterator[_Watch]:
    """Every norm and every slot under watch. A slot of its own for each, though one activation be in all of them."""
    watch, kept = _Watch(), [(slot, slot.act) for slot in slots]
    with ExitStack() as stack:
        for norm in norms:
            handle = norm.register_forward_hook(watch.made)
            stack.callback(handle.remove)
        for slot, act in kept:
            setattr(slot.owner, slot.name, _Watched(slot, act, watch))
            stack.callback(setattr, slot.owner, slot.name, act)
        yield watch


def _run(owner: nn.Module, training: bool, watch: _Watch) -> None:
    """``owner`` on two images; what it returns counts as used."""
    example = next(module.weight for module in owner.modules() if isinstance(module, nn.Conv2d))
    device, modes = example.device, {module: module.training for module in owner.modules()}
    width = next(module.in_channels for module in owner.modules() if isinstance(module, nn.Conv2d))
    x = torch.linspace(-1, 1, 2 * width * _SIZE**2, device=device).to(example.dtype).reshape(2, width, _SIZE, _SIZE)
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    needed = [p for p in inspect.signature(owner.forward).parameters.values() if p.default is p.empty]
    buffers = {name: buffer.clone() for name, buffer in owner.named_buffers()}
    devices = [device] if device.type == "cuda" else []
    try:
        owner.train(training)
        with torch.no_grad(), torch.random.fork_rng(devices), watch:
            returned = functional_call(owner, buffers, (x, labels)[: len(needed)])
    finally:
        for module, mode in modes.items():
            module.training = mode
    watch.used(returned, None)


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
