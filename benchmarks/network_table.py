"""Rows of whole networks: timed in turns, their memory, and how much of the time convolutions take; and their table.

A row is a dict of "work", "network", "size", "width", "images", "shape", "rounds" and, for each provider, "milliseconds" (of one
step, evaluation or forward pass), "times_plain" (the plain network's time over the provider's, within a round; both
p20, p50, p80), "images_per_second", "megabytes" (the most that a call holds at a time beyond what was held before),
"convolutions" (their share of the time of a profiled call), "limit" (how many times as fast as the plain network the provider would be if
everything but its convolutions took no time) and "operations" (the ten that take longest, in milliseconds).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from torch.autograd import DeviceType

from .measure import most_held, quantiles, synchronize
from .networks import FORWARD, PROVIDERS, TRAINING, NetworkCase
from .table import machine_line

#: A convolution, as torch calls its operation on the CPU; and what cuDNN calls the kernels of one.
_CONVOLUTION = re.compile(r"(aten|mkldnn)::.*conv|.*(cudnn|xmma|winograd|fft2d|mult_and_sum_complex|convolve)")
#: How many times as fast as the plain network in float32 a step and a forward pass are meant to be.
GOALS = {
    "CIFAR-10": {"fastscore": 1.2, "fastscore bf16": 2.0},
    "MNIST": {"fastscore": 1.3, "fastscore bf16": 1.9},
    "digits": {"fastscore": 1.8},
}
ABOUT = (
    "plain: the network in torch's own operations, Adam as it comes; compile: its blocks compiled.",
    "float32, or bf16 autocast. x plain: plain's time over this one's; more is faster. goal: for that.",
    "conv: convolutions' share of the time. limit: x plain if all else took no time.",
    "MB: what a call holds at a time beyond what was held before it.",
)


def measure(case: NetworkCase, device: str, seconds: float, *, least: int = 5, most: int = 30) -> dict:
    """The row of a case whose providers are timed in turns for so many seconds."""
    profiles = {}
    for name, work in case.providers.items():
        for _ in range(5 if "graph" in name else 1):  # it is recorded at the fourth
            work()
        profiles[name] = profiled(work, device)
    times: dict[str, list[float]] = {name: [] for name in case.providers}
    end = time.perf_counter() + seconds
    for i in range(most):
        if i >= least and time.perf_counter() > end:
            break
        for name, work in case.providers.items():
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            times[name].append(time.perf_counter() - start)
    return row(case, times, profiles)


def profiled(work: Callable[[], object], device: str) -> dict:
    """{"bytes": the most held at a time, "total": seconds, "seconds": {operation: its own time}} of one call.

    Of a short one, which the machine may disturb, the fastest of three.
    """
    calls = [most_held(work, device)]
    if calls[0][2] < 0.5 and device == "cpu":
        calls += [most_held(work, device) for _ in range(2)]
    most, profile, total = min(calls, key=lambda call: call[2])
    events = [e for e in profile.key_averages() if e.key != "[memory]"]
    if device == "cuda":  # of kernels alone: an operation that launched one is said to have taken its time, too
        seconds = {e.key: e.self_device_time_total / 1e6 for e in events if e.device_type == DeviceType.CUDA}
    else:
        seconds = {e.key: e.self_cpu_time_total / 1e6 for e in events}
    return {"bytes": most, "total": total, "seconds": seconds}


def row(case: NetworkCase, times: dict[str, list[float]], profiles: dict[str, dict]) -> dict:
    """A row from the seconds of each provider, round by round; without the plain network's there is no ratio."""
    made: dict = {
        "work": case.work,
        "network": case.network,
        "size": case.size,
        "width": case.width,
        "images": case.images,
        "shape": list(case.shape),
        "rounds": max(map(len, times.values())),
    }
    for name, values in times.items():
        own: dict = {"milliseconds": [t * 1e3 / case.times for t in quantiles(values)]}
        own["images_per_second"] = case.images * case.times / quantiles(values)[1]
        if "plain" in times:
            own["times_plain"] = quantiles([p / t for p, t in zip(times["plain"], values)])
        if name in profiles:
            seconds = profiles[name]["seconds"]
            convolutions = sum(s for operation, s in seconds.items() if _CONVOLUTION.match(operation))
            own["megabytes"] = profiles[name]["bytes"] / 1e6
            own["convolutions"] = convolutions / profiles[name]["total"]
            if "plain" in times and convolutions:
                own["limit"] = own["times_plain"][1] / own["convolutions"]
            longest = sorted(seconds.items(), key=lambda item: -item[1])[:10]
            own["operations"] = {operation: s * 1e3 / case.times for operation, s in longest}
        made[name] = own
    return made


def goal(row: dict, name: str) -> float | None:
    return GOALS[row["size"]].get(name) if row["work"] in (TRAINING, FORWARD) else None


def title(row: dict) -> str:
    """ "training step, NCSN, CIFAR-10: 4 x 3x32x32, ngf 128"."""
    shape = "x".join(map(str, row["shape"]))
    return f"{row['work']}, {row['network']}, {row['size']}: {row['images']} x {shape}, ngf {row['width']}"


def text(rows: list[dict]) -> list[str]:
    """Lines of at most 100 columns: a heading for each row, under it a line for each provider."""
    heads = ["", "ms", "p20", "p80", "images/s", "x plain", "goal", "conv", "limit", "MB"]
    lines = [_line(heads)]
    for row in rows:
        lines.append(title(row))
        lines += [_line(["  " + name, *_cells(row, name)]) for name in PROVIDERS if name in row]
    return lines


def markdown(rows: list[dict], about: dict) -> str:
    """The whole table with the spread over rounds."""
    heads = ["work", "network", "size", "by", "ms", "images/s", "x plain", "goal", "conv", "limit", "MB"]
    made = [
        f"{machine_line(about)}; medians over rounds [p20, p80].",
        *ABOUT,
        "",
        _cut(heads),
        "|---" * 4 + "|---:" * 7 + "|",
    ]
    for row in rows:
        for name in (name for name in PROVIDERS if name in row):
            ms, low, high, images, ratio, *others = _cells(row, name)
            spread = row[name].get("times_plain")
            if spread:
                ratio += f" [{spread[0]:.2f}, {spread[2]:.2f}]"
            words = [row["work"], row["network"], row["size"], name]
            made.append(_cut([*words, f"{ms} [{low}, {high}]", images, ratio, *others]))
    return "\n".join(made) + "\n"


def operations(row: dict) -> list[str]:
    """The longest operations of fastscore's providers and of plain torch, side by side in milliseconds."""
    shown = [name for name in PROVIDERS if "operations" in row.get(name, {})]
    keys = dict.fromkeys(key for name in shown for key in row[name]["operations"])
    lines = [title(row), f"{'milliseconds':<38}" + "".join(f"{name:>15}" for name in shown)]
    for key in sorted(keys, key=lambda key: -max(row[name]["operations"].get(key, 0) for name in shown)):
        cells = (row[name]["operations"].get(key) for name in shown)
        short = key.replace("autograd::engine::evaluate_function:", "autograd:")
        lines.append(f"{short[:37]:<38}" + "".join(f"{'-' if ms is None else f'{ms:.2f}':>15}" for ms in cells))
    return lines


def _cells(row: dict, name: str) -> list[str]:
    own, meant = row[name], goal(row, name)
    low, middle, high = own["milliseconds"]
    return [
        *(_short(ms) for ms in (middle, low, high)),
        _short(own["images_per_second"]),
        f"{own['times_plain'][1]:.2f}x" if "times_plain" in own else "-",
        "-" if meant is None else f"{meant:.1f}x",
        f"{100 * own['convolutions']:.0f} %" if "convolutions" in own else "-",
        f"{own['limit']:.2f}x" if "limit" in own else "-",
        f"{own['megabytes']:.0f}" if "megabytes" in own else "-",
    ]


def _short(number: float) -> str:
    return f"{number:.1f}" if number < 100 else f"{number:.0f}"


def _line(cells: list[str]) -> str:
    return (
        f"{cells[0]:<22}" + "".join(f"{cell:>8}" for cell in cells[1:4]) + "".join(f"{c:>9}" for c in cells[4:])
    ).rstrip()


def _cut(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
