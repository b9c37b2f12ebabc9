"""One run on several devices: which of its processes, the ranks, this one is, and what the ranks exchange.

``torchrun`` starts a process for each device and says in the environment which rank it is. Rank 0 alone reads and writes
the run folder. By the random-number contract every rank can draw its part of a batch by itself, so what is exchanged in
an iteration is gradients and losses, summed. That is done here by one plain sum of all gradients and not by
``DistributedDataParallel``: the network stays the module that it is, for objectives that take second derivatives of it or
evaluate it several times, for batches worked on in parts, for its average and for its checkpoints; the price is that the
exchange begins when the gradient is there, and not during the backward pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from .._core import checks
from .._core.errors import FastscoreError
from .._core.private_torch import copy_all
from .build import pick_device
from .heartbeat import ENDED, STOPPED, Heartbeat

TIMEOUT = 45.0  # seconds: 9 signs of life
_TURN_UP = 600.0  # seconds in which all ranks must have been started
_LONGEST = 1e6  # seconds
_FOR_EVER = timedelta(days=365)  # an exchange waits as long as there are signs of life
_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class RankFailed(FastscoreError):
    """Another rank of the run has ended, or was given something else to do; the text says which."""


class Ranks:
    """The ranks of a run, or one process alone, for which nothing here does anything.

    Every method but :meth:`place` and :meth:`rows` is an exchange: all ranks make the same calls in the same order.

    Args:
        rank, count: which rank this is, and of how many.
        local: which it is on its machine.
        heartbeat: signs of life between the ranks.

    Raises:
        RankFailed: by every method: another rank has ended. The text names it.
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0, heartbeat: Heartbeat | None = None):
        self.rank, self.count, self._local, self._heartbeat = rank, count, local, heartbeat

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which alone reads and writes files."""
        return self.rank == 0

    @property
    def first_here(self) -> bool:
        """Whether this is the first rank of its machine."""
        return self._local == 0

    def place(self, name: str) -> torch.device:
        """The device of this rank, for a config's ``device``; each rank of a machine has a GPU of its own.

        Raises:
            ValueError: no such device, or more ranks on the machine than GPUs.
        """
        if self.count == 1 or not (name.startswith("cuda") or (name == "auto" and torch.cuda.is_available())):
            return pick_device(name)
        if name not in ("auto", "cuda"):
            raise ValueError(f"device must be auto, cuda or cpu on several ranks, each with its own GPU, got {name!r}")
        if self._local >= torch.cuda.device_count():
            raise ValueError(
                f"--nproc-per-node must be at most {torch.cuda.device_count()}, the GPUs of this machine (or --device "
                f"cpu), got a rank {self._local} on it"
            )
        torch.cuda.set_device(self._local)
        return pick_device(f"cuda:{self._local}")

    def rows(self, size: int) -> tuple[int, int]:
        """(first row, rows) of this rank's part of a batch of ``size``; parts differ by a row at most."""
        first, stop = (k * size // self.count for k in (self.rank, self.rank + 1))
        return first, stop - first

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks must get through, and that exchanges nothing: an error on one ends all.

        Raises:
            RankFailed: where another rank has failed; the one that has failed raises its own error.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except Exception:
            with contextlib.suppress(RankFailed):
                self._first_failure(self.rank)
            raise
        failed = self._first_failure(self.count)
        if failed < self.count:
            raise RankFailed(f"rank {failed} stopped; its own message says why")

    def told(self, text: str) -> str:
        """The ``text`` of rank 0."""
        if self.count == 1:
            return text
        data = bytearray(text.encode())
        size = torch.tensor(len(data), device="cpu")
        self.copy([size])
        if not size:
            return ""
        content = torch.frombuffer(data if self.leads else bytearray(int(size)), dtype=torch.uint8)
        self.copy([content])
        return bytes(content.numpy()).decode()

    def same(self, what: str, text: str) -> None:
        """Raise on all ranks where ``what``, which ``text`` tells, is not the same on all."""
        if self.count == 1:
            return
        mine = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.count)]
        with self._exchange() as dist:
            dist.all_gather(found, mine)
        others = [str(rank) for rank, digest in enumerate(found) if not torch.equal(digest, found[0])]
        if others:
            raise RankFailed(f"{what} must be the same on all ranks, and differs from rank 0's on {', '.join(others)}")

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Make each of ``tensors``, of one dtype and device, its sum over the ranks: on all of them the same bits."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._exchange() as dist:
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        copy_all(list(tensors), [part.view(tensor.shape) for tensor, part in zip(tensors, parts)])

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Make each of ``tensors`` rank 0's."""
        if self.count == 1:
            return
        for tensor in tensors:
            whole = tensor.contiguous()
            with self._exchange() as dist:
                dist.broadcast(whole, src=0)
            tensor.copy_(whole)

    def in_turn(self, shapes: Sequence[tuple[int, ...]], make: Callable[[int], Tensor]) -> Iterator[Tensor]:
        """``make(0), make(1), ...``, of these ``shapes``, float32 on the CPU: rank r makes every count-th from r on.

        Rank 0 is given all of them in their order; the others are given none, and make theirs as they are iterated.

        Raises:
            RankFailed: on rank 0, where another rank could not make its own.
        """
        for k, shape in enumerate(shapes):
            maker = k % self.count
            if self.leads:
                yield make(k) if maker == 0 else self._received(shape, maker)
            elif maker == self.rank:
                self._send(lambda k=k: make(k))  # type: ignore[misc]

    def _send(self, make: Callable[[], Tensor]) -> None:
        """To rank 0, after a number that says whether it could be made."""
        try:
            made = make().contiguous()
        except Exception:
            with contextlib.suppress(RankFailed), self._exchange() as dist:
                dist.send(torch.tensor(0, device="cpu"), 0)
            raise
        with self._exchange() as dist:
            dist.send(torch.tensor(1, device="cpu"), 0)
            dist.send(made, 0)

    def _received(self, shape: tuple[int, ...], maker: int) -> Tensor:
        made, there = torch.empty(shape, dtype=torch.float32, device="cpu"), torch.tensor(0, device="cpu")
        with self._exchange() as dist:
            dist.recv(there, maker)
            if there:
                dist.recv(made, maker)
        if not there:
            raise RankFailed(f"rank {maker} stopped; its own message says why")
        return made

    def _first_failure(self, failed: int) -> int:
        first = torch.tensor(failed, device="cpu")
        with self._exchange() as dist:
            dist.all_reduce(first, op=dist.ReduceOp.MIN)
        return int(first)

    @contextmanager
    def _exchange(self) -> Iterator[Any]:
        """``torch.distributed``, whose errors inside are those of a rank that has ended."""
        try:
            yield torch.distributed
        except RuntimeError as error:
            assert self._heartbeat is not None
            raise RankFailed(self._heartbeat.verdict(error)) from error


ALONE = Ranks()


def title() -> str:
    """What messages say of this process where it is one of several, as in "error (rank 3): ..."; else nothing."""
    return f" (rank {os.environ.get('RANK')})" if os.environ.get("WORLD_SIZE", "1") != "1" else ""


@contextmanager
def joined(timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """The ranks of the run that ``torchrun`` started this process for; where it did not, this process alone.

    Inside, ``torch.distributed`` has its default group: gloo for tensors on the CPU, NCCL for those on a GPU.

    Args:
        timeout: seconds without a sign of life after which a rank is given up, and the others end; 1 to a million.

    Raises:
        ValueError: ``timeout`` is out of its range, or the environment is not torchrun's.
        FastscoreError: ``torch.distributed`` is not there, or is used by this process already.
        RankFailed: a rank is missing from the start.
    """
    if not 1 <= checks.number("rank_timeout", timeout) <= _LONGEST:
        raise ValueError(f"rank_timeout must be from 1 to {_LONGEST:g} (seconds), got {timeout}")
    count = _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1
    if count == 1:
        yield ALONE
        return
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise ValueError(
            f"{' and '.join(missing)} must be in the environment where WORLD_SIZE is {count}: start it with torchrun, or "
            "unset WORLD_SIZE"
        )
    rank, dist = _number("RANK"), torch.distributed  # type: Any, Any
    if not dist.is_available() or not dist.is_gloo_available() or dist.is_initialized():
        raise FastscoreError(
            "several ranks need a torch that was built with distributed and gloo, and a process that has no group yet"
        )
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", rank=rank, world_size=count, timeout=timedelta(seconds=_TURN_UP)))
        store = dist.PrefixStore(_start_of(store, rank, count), store)
        heartbeat = Heartbeat(store, rank, count, timeout)
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_FOR_EVER)
        heartbeat.start()
    except RuntimeError as error:
        raise RankFailed(f"the {count} ranks did not find each other: {error}") from error
    ranks = Ranks(rank, count, _number("LOCAL_RANK"), heartbeat)
    try:
        yield ranks
        with ranks.together():
            pass  # rank 0 may hold what the others still need to end
    except BaseException:
        heartbeat.end(STOPPED)
        if not gpus:  # NCCL would wait for exchanges that are left
            dist.destroy_process_group()
        raise
    heartbeat.end(ENDED)
    dist.destroy_process_group()


def _start_of(store: Any, rank: int, count: int) -> str:
    """A name for this start of the ranks that all of them have, and no rank of an earlier start.

    torchrun keeps its store when it starts the ranks again, and what is in there of the ranks that have ended must not be
    taken for the new ones'. So each says a number of its own, drawn now, and takes the name that rank 0 gives to this
    number; rank 0 also answers the numbers of the dead, whom nobody hears.
    """
    mine = secrets.token_hex(8)
    if rank:
        store.set(f"number of {rank}", mine)
        name = store.get(f"start of {mine}").decode()
        store.set(f"{name} {rank}", "")
        return name
    others, end = range(1, count), time.monotonic() + _TURN_UP
    while missing := [other for other in others if not store.check([f"{mine} {other}"])]:
        for other in missing:
            if store.check([f"number of {other}"]):
                store.set(f"start of {store.get(f'number of {other}').decode()}", mine)
        if time.monotonic() > end:
            raise RuntimeError(f"{', '.join(map(str, missing))} did not come within {_TURN_UP:g} s")
        time.sleep(0.02)
    return mine


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise ValueError(f"{name} must be a number in the environment, as torchrun sets it, got {text!r}")
    return int(text)
