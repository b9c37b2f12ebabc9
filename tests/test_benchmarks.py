"""What ``pytest benchmarks`` ends with, and what its JSON and the committed rows carry; no test asks how fast."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastscore as fs
from benchmarks import operators, table
from benchmarks.measure import backend_of, row
from benchmarks.operators import PROVIDERS, benchmarks, cases, names
from fastscore._core import backends
from fastscore._core.operators import OPERATORS

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
SESSIONS = """
import sys, pytest, fastscore as fs
small = "langevin_step and 64x2 and "
training = "training and digits and NCSN and not NCSNv2 and not bf16"
def session(select, *options):
    print("@session", flush=True)
    select = select if select == training else small + select
    code = pytest.main(["benchmarks", "-p", "no:cacheprovider", "-k", select, *options])
    assert code == 0, code
session("not compile", "--benchmark-only", "--benchmark-json=" + sys.argv[1])
with fs.use_backend("reference"):
    session("fastscore", "--benchmark-only")
session("eager", "--benchmark-only")
session("fastscore", "--benchmark-disable")
session("fastscore", "--benchmark-columns=min")
session(training, "--benchmark-only", "--benchmark-json=" + sys.argv[1] + "-networks")
"""


@pytest.fixture(scope="module")
def sessions(tmp_path_factory):
    """The outputs of sessions on the smallest cases, in one process, and the JSON of the first and of the last."""
    path = tmp_path_factory.mktemp("benchmarks") / "out.json"
    done = subprocess.run([sys.executable, "-c", SESSIONS, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    networks = json.loads(path.with_name("out.json-networks").read_text())
    return done.stdout.split("@session\n")[1:], json.loads(path.read_text()), networks


def lines_of(output: str) -> list[str]:
    """The part from fastscore's own heading to the summary of skips."""
    return output.split("- fastscore on cpu -")[1].split("short test summary")[0].splitlines()[1:]


def number(cell: str) -> float:
    return float(cell.removesuffix("x"))


def test_one_table_of_what_was_selected(sessions):
    lines = lines_of(sessions[0][0])
    assert max(map(len, sessions[0][0].split("- fastscore on cpu -")[1].splitlines())) <= 100
    assert re.search(r", \d+ threads?, torch [\d.]+.*, float32$", lines[0])
    head = next(i for i, line in enumerate(lines) if line.startswith("operator"))
    assert lines[head].split() == ["operator", "shape", "backend", "ns", "eager", "compile", "floor", "memory"]
    name, shape, backend, ns, eager, compiled, floor, memory = lines[head + 1].split()
    assert (name, shape, backend) == ("langevin_step", "64x2", backends.default(CPU))
    assert number(ns) > 0 and number(eager) > 0 and number(floor) > 0 and compiled == "-"
    assert memory == "1/3/-" or backend == "reference"
    assert lines[head + 2] == "" and "Not selected: compile." in lines
    assert "Name (time in" not in sessions[0][0] and "StdDev" not in sessions[0][0]


def test_the_numbers_are_those_of_the_json(sessions):
    found = {bench["extra_info"]["provider"]: bench for bench in sessions[1]["benchmarks"]}
    assert set(found) == {"fastscore", "eager", "floor"}
    assert sessions[1]["machine_info"]["fastscore"]["cpu"]["backend"] == found["fastscore"]["extra_info"]["backend"]
    for provider, bench in found.items():
        info = bench["extra_info"]
        assert [info[key] for key in ("operator", "shape", "elements")] == ["langevin_step", "64x2", 128]
        assert info["ns_per_element"] == pytest.approx(bench["stats"]["median"] * 1e9 / 128)
        assert info["backend"] == ("torch" if provider != "fastscore" else backends.default(CPU))
        assert ("extra_tensors" in info) == (provider != "floor")
    ours = found["fastscore"]["extra_info"]
    assert ours["times_fastscore"] == 1
    assert ours["ratios"] == {name: found[name]["extra_info"]["times_fastscore"] for name in ("eager", "floor")}
    pairs = zip(found["eager"]["stats"]["data"], found["fastscore"]["stats"]["data"])
    ratios = sorted(other / own for other, own in pairs)
    assert ours["ratios"]["eager"] == pytest.approx(ratios[len(ratios) // 2])
    line = next(line for line in lines_of(sessions[0][0]) if line.startswith("langevin_step"))
    assert number(line.split()[3]) == pytest.approx(ours["ns_per_element"], rel=0.01)
    assert number(line.split()[4]) == pytest.approx(ours["ratios"]["eager"], rel=0.01, abs=0.006)


def test_the_backend_is_the_one_that_ran(sessions):
    cells = next(line for line in lines_of(sessions[0][1]) if line.startswith("langevin_step")).split()
    assert cells[:3] == ["langevin_step", "64x2", "reference"] and cells[4:7] == ["-"] * 3 and cells[7].endswith("/-/-")
    assert "Not selected: eager, compile, floor." in sessions[0][1]


def test_without_fastscore_there_are_times_and_no_ratios(sessions):
    line = next(line for line in lines_of(sessions[0][2]) if line.startswith("langevin_step"))
    assert re.fullmatch(r"langevin_step +64x2 +- +- +[\d.]+ ns +- +- +-/3/-", line)
    assert "Not selected: fastscore, compile, floor." in sessions[0][2] and "there is no ratio" in sessions[0][2]


def test_disabled_or_wide_where_that_is_asked_for(sessions):
    assert "benchmarks are disabled: each ran once, and nothing was timed" in sessions[0][3]
    assert "fastscore on cpu" not in sessions[0][3]
    assert "Name (time in" in sessions[0][4] and "fastscore on cpu" in sessions[0][4]


def test_networks_have_a_table_of_their_own(sessions):
    output = sessions[0][5].split("- networks on cpu -")[1]
    assert max(map(len, output.splitlines())) <= 100 and "fastscore on cpu" not in sessions[0][5]
    lines = [line.split() for line in output.splitlines() if line.startswith("  ")]
    found = {bench["extra_info"]["provider"]: bench["extra_info"] for bench in sessions[2]["benchmarks"]}
    head, lines = lines[0], lines[1:]
    assert head == ["ms", "p20", "p80", "images/s", "x", "plain", "goal", "conv", "limit", "MB"]
    assert [line[0] for line in lines] == ["fastscore", "plain"] == list(found)
    for line in lines:
        info = found[line[0]]
        assert number(line[1]) == pytest.approx(info["milliseconds"][1], rel=0.01, abs=0.06)
        assert number(line[5]) == pytest.approx(info["times_plain"][1], abs=0.006)
        assert 0 < info["convolutions"] < 1 and info["megabytes"] > 1
    assert "Medians of 3 rounds" in output


def made(operator: str, shape: str, elements: int, **seconds: list[float]) -> dict:
    return row(operator, shape, elements, "reference", seconds, {"fastscore": 17.04, "eager": 1097.2, "compile": 576.0})


def test_every_table_fits_a_terminal():
    """The longest names beside the longest numbers that were ever seen, on the longest backend."""
    shapes = {shape for shape, _ in names()}
    rows = [
        made(operator, shape, 10, fastscore=[1.2345e-4] * 3, eager=[1.0] * 3, compile=[1.0] * 3, floor=[1e-6] * 3)
        for operator in benchmarks()
        for shape in shapes
    ]
    lines = table.text(rows)
    assert len(lines) == 1 + len(rows) and max(map(len, lines)) <= table.WIDTH
    assert lines[-1].split()[-5:] == ["12345", "8100x", "8100x", "0.01x", "17/1097.2/576"]
    assert max(map(len, table.legend())) <= table.WIDTH


def test_a_row_has_quantiles_of_ratios_within_rounds():
    found = row("perturb", "4M", 4, "native", {"fastscore": [1.0, 2.0, 4.0], "eager": [2.0, 8.0, 4.0]}, {"eager": 3.0})
    assert found["backend"] == "native" and found["rounds"] == 3
    assert found["eager"]["times_fastscore"][1] == pytest.approx(2.0)  # of 2, 4 and 1
    assert found["eager"]["ns_per_element"][1] == pytest.approx(1e9)  # 4 s for 4 elements
    assert found["eager"]["extra_tensors"] == 3.0 and "extra_tensors" not in found["fastscore"]
    assert "times_fastscore" not in row("perturb", "4M", 4, None, {"eager": [1.0]}, {})["eager"]


def test_markdown_names_the_backend_and_leaves_out_what_nobody_timed():
    about = {"processor": "Some CPU", "threads": 2, "torch": "2.0", "instructions": "avx2"}
    lines = table.markdown(
        [made("perturb", "4M", 10, fastscore=[1e-8, 2e-8, 3e-8], eager=[4e-8, 4e-8, 4e-8])], about
    ).splitlines()
    assert lines[0].startswith("Some CPU (avx2), 2 threads, torch 2.0, float32; median")
    assert lines[2] == (
        "| operator | shape | backend | fastscore, ns an element | vs eager | extra memory, tensors of "
        "x's size: fastscore / eager |"
    )
    assert lines[3] == "|---|---|---|---:|---:|---:|"
    assert lines[4] == ("| perturb | 4M | reference | 2.00 [1.40, 2.60] | 2.00x [1.60, 3.20] | 17 / 1097.2 |")


@pytest.mark.parametrize(
    "shape, name", [name for name in names() if name[0] not in ("64x3x32x32", "128x3x32x32", "4M")]
)
def test_backends_are_reported_by_the_calls_themselves(shape, name):
    """Of every row, whose providers all run, at its smallest shape."""
    (case,) = cases(only=[(shape, name)], compile=False)
    with fs.use_backend("reference"):
        assert backend_of(case.providers["fastscore"]) == "reference"
    assert backend_of(case.providers["fastscore"]) == backends.default(CPU, benchmarks()[name].operator)
    assert backend_of(case.providers["eager"]) == "none"
    assert set(case.providers) == set(PROVIDERS) - {"compile"}
    assert case.providers["floor"]() is not None and case.elements > 0


def test_an_operator_without_a_benchmark_row_gets_one(monkeypatch):
    """Made of its declaration: the reference is torch's lines."""
    monkeypatch.setattr(operators, "_OWN", {})
    assert set(benchmarks()) == set(OPERATORS)
    for name in ("mlp_divergence", "langevin_step"):
        (case,) = cases(only=[("64x2", name)], compile=False)
        assert backend_of(case.providers["fastscore"]) == backends.default(CPU)
        ours, lines = case.providers["fastscore"](), case.providers["eager"]()
        assert ours.shape == lines.shape and backend_of(case.providers["eager"]) == "none"
        assert (case.operator, case.elements) == (name, 128)


def test_benchmarks_stand_alone():
    """They import nothing from the tests."""
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) tests\b", path.read_text(), re.M), path
