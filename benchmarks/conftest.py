"""The end of ``pytest benchmarks``: one table a person can read, and the same numbers in ``--benchmark-json``.

pytest-benchmark's own table, a line per provider and 200 columns wide, is left out unless an option asks for what it
shows (--benchmark-verbose, -compare, -columns, -cprofile, -histogram).
"""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import pytest

from benchmarks import network_table
from benchmarks.measure import about, row
from benchmarks.networks import NetworkCase
from benchmarks.operators import PROVIDERS
from benchmarks.table import WIDTH, about_line, legend, machine_line, text

_SELECTED = pytest.StashKey[set[str]]()  # the providers of the tests that -k and its like left
_WIDE = ("benchmark_verbose", "benchmark_compare", "benchmark_columns", "benchmark_cprofile", "benchmark_histogram")


def _groups(benchmarks: list[Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(device, operator, shape) -> provider -> its benchmark, an operator's shapes together."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for bench in benchmarks:
        info = bench.extra_info
        if "operator" in info and not bench.has_error and bench.stats.data:
            found.setdefault((info["device"], info["operator"], info["shape"]), {})[info["provider"]] = bench
    order = list(dict.fromkeys(key[:2] for key in found))  # shapes stay as they ran: sorting is stable
    return {key: found[key] for key in sorted(found, key=lambda key: order.index(key[:2]))}


def _row(key: tuple[str, str, str], timed: dict[str, Any]) -> dict:
    info = {name: bench.extra_info for name, bench in timed.items()}
    extra = {name: one["extra_tensors"] for name, one in info.items() if "extra_tensors" in one}
    return row(
        key[1],
        key[2],
        next(iter(info.values()))["elements"],
        info.get("fastscore", {}).get("backend"),
        {name: bench.stats.data for name, bench in timed.items()},
        extra,
    )


def _networks(benchmarks: list[Any], device: str) -> list[dict[str, Any]]:
    """The rows of whole networks on a device; what they say of a provider goes into its extra_info too."""
    found: dict[str, dict[str, Any]] = {}
    for bench in benchmarks:
        info = bench.extra_info
        if "network" in info and info["device"] == device and not bench.has_error and bench.stats.data:
            found.setdefault(bench.group, {})[info["provider"]] = bench
    fields = [field.name for field in dataclasses.fields(NetworkCase) if field.name != "providers"]
    rows = []
    for timed in found.values():
        first = next(iter(timed.values())).extra_info
        case = NetworkCase(**{name: first[name] for name in fields}, providers={})
        profiles = {name: bench.extra_info["profile"] for name, bench in timed.items()}
        rows.append(network_table.row(case, {name: bench.stats.data for name, bench in timed.items()}, profiles))
        for name, bench in timed.items():
            bench.extra_info.update(rows[-1][name])
    return rows


def _devices(benchmarks: list[Any]) -> list[str]:
    return sorted({bench.extra_info["device"] for bench in benchmarks if "device" in bench.extra_info})


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: list[Any], output_json: dict) -> None:
    """Every row's extra_info gets ns_per_element and times_fastscore, fastscore's the ratios to all others."""
    for device in _devices(benchmarks):
        _networks(benchmarks, device)
    for key, timed in _groups(benchmarks).items():
        made = _row(key, timed)
        for name, bench in timed.items():
            bench.extra_info["ns_per_element"] = made[name]["ns_per_element"][1]
            if "fastscore" in timed:
                bench.extra_info["times_fastscore"] = made[name]["times_fastscore"][1]
        if "fastscore" in timed:
            timed["fastscore"].extra_info["ratios"] = {
                name: made[name]["times_fastscore"][1] for name in timed if name != "fastscore"
            }


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info["fastscore"] = {device: about(device) for device in _devices(config._benchmarksession.benchmarks)}


def pytest_collection_finish(session: pytest.Session) -> None:
    specs = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    session.config.stash[_SELECTED] = {params["provider"] for params in specs if "provider" in params}


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    if session is None:
        return
    if session.disabled:
        if any("bench_" in report.nodeid for report in terminalreporter.stats.get("passed", [])):
            terminalreporter.write_line("benchmarks are disabled: each ran once, and nothing was timed")
        return
    groups = _groups(session.benchmarks)
    for device in _devices(session.benchmarks):
        session.quiet = session.quiet or not any(config.getoption(name, None) for name in _WIDE)
        if rows := [_row(key, timed) for key, timed in groups.items() if key[0] == device]:
            lines = [about_line(about(device)), *legend(), "", *text(rows), "", *_foot(rows, config.stash[_SELECTED])]
            _write(terminalreporter, f"fastscore on {device}", lines)
        if rows := _networks(session.benchmarks, device):
            lines = [machine_line(about(device)), *network_table.ABOUT, "", *network_table.text(rows), ""]
            _write(terminalreporter, f"networks on {device}", [*lines, _turns(rows)])
        if lines := _draws(session.benchmarks, device):
            _write(
                terminalreporter, f"samplers on {device}", ["Medians of a draw, one provider after the other.", *lines]
            )


def _draws(benchmarks: list[Any], device: str) -> list[str]:
    """A line for each sampler that was timed on a device."""
    found: dict[str, dict[str, Any]] = {}
    for bench in benchmarks:
        info = bench.extra_info
        if "sampler" in info and info["device"] == device and not bench.has_error and bench.stats.data:
            found.setdefault(info["sampler"], {})[info["provider"]] = bench
    lines = []
    for sampler, timed in found.items():
        info = next(iter(timed.values())).extra_info
        seconds = "".join(f"  {name} {bench.stats.median:.3g} s" for name, bench in timed.items())
        lines.append(f"{sampler:<12}{info['evaluations']:>4} evaluations, {info['images']} digits:{seconds}")
    return lines


def _write(terminalreporter: Any, heading: str, lines: list[str]) -> None:
    terminalreporter.ensure_newline()
    terminalreporter.write_line(f" {heading} ".center(WIDTH, "-"))
    for line in (*textwrap.wrap(lines[0], WIDTH), *lines[1:]):
        terminalreporter.write_line(line)


def _turns(rows: list[dict]) -> str:
    return f"Medians of {rows[0]['rounds']} rounds, one provider after the other; `make bench` times them in turns."


def _foot(rows: list[dict], selected: set[str]) -> list[str]:
    lines = [_turns(rows)]
    if absent := [name for name in PROVIDERS if name not in selected]:
        lines.append(f"Not selected: {', '.join(absent)}.")
    if partly := [name for name in PROVIDERS if name in selected and not all(name in row for row in rows)]:
        lines.append(f"Not timed in every row (deselected, skipped or failed there): {', '.join(partly)}.")
    if any("fastscore" not in row for row in rows):
        lines.append("Where fastscore was not timed there is no ratio: times are nanoseconds an element (ns).")
    return lines
