"""What this process computes on, and which of the machine's cores it leaves unused, why, and the cure."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

import torch

_ROOT = Path("/")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's and how many threads compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' * (threads != 1)}"


def cores() -> int:
    """The machine's cores. Of the hardware threads that share one torch uses one, and so they count as one here."""
    return _cores(set(range(os.cpu_count() or 1)))


def unused() -> list[str]:
    """A line for each reason why cores are unused, with its cure; none where all that the machine has are used.

    In their order: the process may not run on them (its affinity), its container may not have their time (the quota
    of its control group), torch was told to run fewer threads.
    """
    every, allowed, threads = cores(), _cores(_affinity()), torch.get_num_threads()
    lines, usable = [], allowed
    if allowed < every:
        lines.append(
            f"unused: {every - allowed} of {every} cores, closed to this process by its affinity: start it with "
            f"`taskset -c 0-{(os.cpu_count() or 1) - 1}`, or ask the container or the batch system for more cores"
        )
    quota = _quota()
    if quota < allowed:
        usable = max(1, math.floor(quota))
        fewer = f"; until then set OMP_NUM_THREADS to {usable}, torch runs {threads}" if threads > usable else ""
        lines.append(
            f"unused: {allowed - quota:g} of {allowed} cores, beyond the container's quota of {quota:g}: raise that "
            f"(`docker run --cpus={allowed}`, or the pod's CPU limit){fewer}"
        )
    if threads < usable:
        told = [name for name in _VARIABLES if _number(os.environ.get(name)) == threads]
        cure = " and ".join(f"unset {name} or set it to {usable}" for name in told)
        lines.append(
            f"unused: {usable - threads} of {usable} cores, as torch runs {threads} thread{'' if threads == 1 else 's'}: "
            + (cure or f"call torch.set_num_threads({usable})")
        )
    return lines


def _number(text: str | None) -> int | None:
    """The first number of a value such as "4" or "4,2" (a number for each level of nesting)."""
    first = (text or "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else None


def _affinity() -> set[int]:
    """The processors that this process may run on; where the system has no such notion, all."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _cores(processors: set[int]) -> int:
    """How many cores these hardware threads belong to; each is its own where the system does not say."""
    cores = set()
    for processor in processors:
        siblings = _ROOT / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        cores.add(_text(siblings) or str(processor))
    return len(cores)


def _quota() -> float:
    """How many processors' time the control group may use, by version 2 of control groups or version 1; inf: any."""
    quotas = [math.inf]
    for line in _text(_ROOT / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            home, files = _ROOT / "sys/fs/cgroup", ["cpu.max"]
        elif "cpu" in controllers.split(","):
            home, files = _ROOT / "sys/fs/cgroup" / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):  # the tightest of the group and those it lies in
            found = " ".join(_text(home.joinpath(*parts[:depth], name)) for name in files).split()
            if len(found) == 2 and all(map(str.isdecimal, found)):  # not "max", not -1
                quotas.append(int(found[0]) / int(found[1]))
    return min(quotas)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
