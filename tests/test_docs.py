"""The documentation's sources: complete, linked, and true to the code and to the measured numbers.

That the site builds without a warning, and that its tutorials run, is for ``make docs``.
"""

import inspect
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import fastscore as fs
from benchmarks import network_table
from benchmarks.table import markdown
from fastscore._core.operators import OPERATORS
from fastscore.losses.objectives import OBJECTIVES
from fastscore.paths import PATHS
from fastscore.samplers.registry import SAMPLERS

ROOT = Path(__file__).parent.parent
DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"
sys.path.insert(0, str(DOCS))
import contents  # noqa: E402
import readme_table  # noqa: E402
import tables  # noqa: E402

README = (ROOT / "README.md").read_text()
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in DOCS.rglob("*.md") if "_build" not in path.parts}
TESTED_ELSEWHERE = ("porting.md", "adding_an_operator.md")
TUTORIALS = [page for page, text in PAGES.items() if "file_format: mystnb" in text]


def documented() -> set[str]:
    """The names that the pages of the reference document."""
    text = "\n".join(text for page, text in PAGES.items() if page.startswith("reference/"))
    text = re.sub(r"(?m)^```{generated} (\w+)(.*)\n```$", lambda m: getattr(contents, m[1])(*m[2].split()), text)
    names = set(re.findall(r"auto(?:function|class|exception|data):: (\S+)", text))
    for module, without in re.findall(r"automodule:: (\S+)\n   :members:\n   :exclude-members: ?(\S*)", text):
        of = sys.modules[module]
        names |= {f"{module}.{name}" for name in contents.named(of) if name not in without and has_text(of, name)}
    return names


def has_text(module, name: str) -> bool:
    """Whether Sphinx takes it for a member that is meant to be seen."""
    value = getattr(module, name)
    return (inspect.isroutine(value) or inspect.isclass(value)) and bool(vars(value).get("__doc__") or value.__doc__)


def test_every_public_name_is_in_the_reference():
    public, there = contents.public_names(), documented()
    assert {"fastscore.perturb", "fastscore.losses.ncsn", "fastscore.models.MODELS"} <= set(public)
    values = {id(value) for name, value in public.items() if name in there}  # one thing may have two names
    assert [name for name, value in public.items() if id(value) not in values] == []


def test_what_a_list_of_names_holds():
    assert contents.constants(fs.losses) and "ncsn" not in contents.constants(fs.losses)
    assert "DATASETS" in contents.constants(fs.data) and "Data" not in contents.constants(fs.data)
    assert "geometric_sigmas" in contents.named(fs.schedules) and "Philox" not in contents.named(fs.schedules)


def test_every_page_is_linked():
    linked = set()
    for page, text in PAGES.items():
        for entries in re.findall(r"(?ms)^```{toctree}\n(.*?)^```", text):
            for entry in (line for line in entries.splitlines() if line and not line.startswith(":")):
                path = (DOCS / page).parent / f"{entry}.md"
                assert path.exists(), f"{page} lists {entry}, which is no page"
                linked.add(str(path.relative_to(DOCS)))
    assert set(PAGES) - linked == {"index.md"}


def test_links_of_the_readme_lead_somewhere():
    links = [link for link in re.findall(r"\]\((.*?)\)", README) if link.startswith("docs/")]
    assert len(links) >= 6 and all((ROOT / link).exists() for link in links)


def test_readme_is_short_and_has_one_table():
    assert len(README.splitlines()) <= 150
    assert len(re.findall(r"(?m)^\|[-:|]+\|$", README)) == 1


def number(cell: str) -> float:
    return float(cell.rstrip("x mns"))


def test_readme_shows_the_measured_numbers():
    """If this fails after benchmarks/results changed: python docs/readme_table.py."""
    between = README.split("<!-- table -->\n")[1].split("\n<!-- end -->")[0]
    assert between == readme_table.readme()
    rows = {
        (r["operator"], r["shape"]): r for r in json.loads((RESULTS / f"{tables.MACHINE}.json").read_text())["rows"]
    }
    shown = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in between.splitlines()[2:] if line[:1] == "|"
    ]
    operators, networks = shown[: len(readme_table.SHOWN)], shown[len(readme_table.SHOWN) : -len(tables.SHOWN_ON_GPU)]
    assert [tuple(cells[:2]) for cells in operators] == list(readme_table.SHOWN) and len(operators) >= 6
    for name, shape, own, eager, compiled, _ in operators:
        row = rows[name, shape]
        assert number(own) == pytest.approx(row["fastscore"]["ns_per_element"][1], rel=0.06, abs=0.005)
        assert number(eager) == pytest.approx(row["eager"]["times_fastscore"][1], rel=0.02)
        assert number(compiled) == pytest.approx(row["compile"]["times_fastscore"][1], rel=0.02)
    path = RESULTS / f"{tables.MACHINE}-network.json"
    rows = (
        {(r["work"], r["network"], r["size"]): r for r in json.loads(path.read_text())["rows"]} if path.exists() else {}
    )
    assert len(networks) == (len(readme_table.SHOWN_NETWORKS) if rows else 0)
    for (work, network, size, provider), (what, _, own, eager, _, _) in zip(readme_table.SHOWN_NETWORKS, networks):
        assert what.startswith(f"{work}, {network}") and what.endswith("bf16") == provider.endswith("bf16")
        assert number(own) == pytest.approx(rows[work, network, size][provider]["milliseconds"][1], rel=0.01)
        assert number(eager) == pytest.approx(rows[work, network, size][provider]["times_plain"][1], rel=0.02)

    rows = {(r["operator"], r["shape"]): r for r in json.loads((RESULTS / f"{tables.GPU}.json").read_text())["rows"]}
    for (name, shape), (what, _, own, eager, compiled, _) in zip(
        tables.SHOWN_ON_GPU, shown[-len(tables.SHOWN_ON_GPU) :], strict=True
    ):
        row = rows[f"{name}, captured", shape]
        assert what.replace("`", "") == f"{name}, GPU" and own.endswith(" µs")
        assert number(own.rstrip("µs")) == pytest.approx(row["fastscore"]["microseconds"][1], rel=0.01)
        assert number(eager) == pytest.approx(row["eager"]["times_fastscore"][1], rel=0.02)
        assert number(compiled) == pytest.approx(row["compile"]["times_fastscore"][1], rel=0.02)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*-threads.json")), ids=lambda path: path.stem)
def test_committed_tables_are_those_of_the_json(path):
    results = json.loads(path.read_text())
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables.operators_of(path.stem).splitlines()]
    for line, row in zip(lines[2:], results["rows"], strict=False):
        assert line[:2] == [row["operator"], row["shape"]]
        assert float(line[2]) == pytest.approx(row["fastscore"]["ns_per_element"][1], rel=0.06, abs=0.005)
        assert float(line[4].strip("x")) == pytest.approx(row["compile"]["times_fastscore"][1], rel=0.1)
    assert len(lines) == 2 + len(results["rows"]) + 2
    if all("backend" in row for row in results["rows"]):  # rows of an earlier state do not name it
        assert path.with_suffix(".md").read_text() == markdown(results["rows"], results["about"])


def test_the_other_tables_of_the_site():
    assert tables.networks()
    results = json.loads((RESULTS / f"{tables.GPU}.json").read_text())
    assert (RESULTS / f"{tables.GPU}.md").read_text() == markdown(results["rows"], results["about"])
    assert 2 * (tables.on_a_gpu().count("\n| ")) == len(results["rows"])
    for path in RESULTS.glob("*-network.json"):
        results = json.loads(path.read_text())
        assert path.with_suffix(".md").read_text() == network_table.markdown(results["rows"], results["about"])
    trace = json.loads(next(RESULTS.glob("*-trace.json")).read_text())
    table = tables.divergences()
    assert set(tables.WAYS) == set(trace["errors"]) and table.count("\n| ") == len(tables.WAYS)
    assert f"| {trace['row']['vjp loop']['microseconds'][1] / 1e3:.0f} |" in table
    accuracy = json.loads((RESULTS / "trace_accuracy.json").read_text())["results"]
    table = tables.accuracy()
    probing = [row["ratio"] for row in accuracy[0]["rows"] if row["method"] == "probing, 1 block"]
    assert "| probing, 1 block | " + " / ".join(f"{ratio:.2f}" for ratio in probing) in table
    assert "| rademacher | 0.81 % / " in table
    gpu = json.loads((RESULTS / "gpu_static.json").read_text())["kernels"]
    assert tables.gpu_kernels().count("\n| ") == len(gpu)
    assert "scalar" in tables.at_a_glance() and re.search(
        r"\d to \d+\.?\d* times as fast as eager", tables.at_a_glance()
    )


def test_what_the_library_lists():
    from fastscore.experiment.presets import PRESETS

    assert all(f"| `{name}` |" in contents.presets() for name in PRESETS)
    assert all(f"| `{name}` |" in contents.backends() for name in OPERATORS)
    assert all(f"| `{stream.name}` | {int(stream)} | " in contents.streams() for stream in fs.Stream)
    assert all(f"| `{name}` | {kind.title} | " in contents.run_paths() for name, kind in PATHS.items())
    for made, entries in ((contents.samplers(), SAMPLERS), (contents.objectives(), OBJECTIVES)):
        assert all(f"| `{name}` | {entry.title}: " in made for name, entry in entries.items())
        assert all(f"| `{option.name}` | {option.help} | " in made for e in entries.values() for option in e.options)


@pytest.mark.parametrize("made", ["presets", "backends", "streams", "samplers", "objectives", "run_paths"])
def test_a_page_shows(made):
    """What tests of the text that a function gives cannot know."""
    assert sum(f"```{{generated}} {made}\n```" in text for text in PAGES.values()) == 1


@pytest.mark.parametrize("page", sorted(p for p in PAGES if "```python" in PAGES[p] and p not in TESTED_ELSEWHERE))
def test_blocks_run(page):
    """The blocks of a page one after the other, given what its text takes for granted."""
    network = fs.models.NCSN(channels=1, image_size=8, ngf=8, num_levels=10)

    class VPSDE:
        T = 1.0

        def marginal_prob_scale(self, t):
            alpha = torch.exp(-5 * t**2 - 0.05 * t)
            return alpha, (1 - alpha**2).sqrt()

    names = {
        "fs": fs,
        "torch": torch,
        "nn": torch.nn,
        "network": network,
        "sigmas": fs.schedules.geometric_sigmas(1.0, 0.01, 10),
        "images": torch.rand(4, 1, 8, 8),
        "x": torch.rand(4, 1, 8, 8),
        "t": torch.rand(4),
        "rng": fs.Philox(seed=0),
        "drift": lambda x, t: -0.5 * x,
    }
    for block in re.findall(r"(?ms)^```python\n(.*?)^```", PAGES[page]):
        exec(compile(block, page, "exec"), names)
    if "sde_loss" in names:  # at the exact score of clean images 0 the noise is told exactly, and the loss is 0
        sde, zeros = VPSDE(), torch.zeros(4, 1, 8, 8)
        exact = lambda x, t: -x / (sde.marginal_prob_scale(t)[1] ** 2).view(-1, 1, 1, 1)  # noqa: E731
        assert float(names["sde_loss"](exact, zeros, sde, fs.Philox(0))) < 1e-6
        assert torch.allclose(names["estimate"].value, torch.tensor(-32.0))


@pytest.mark.parametrize("page", sorted(TUTORIALS))
def test_cells_are_code(page):
    cells = re.findall(r"(?ms)^```{code-cell} ipython3\n((?::.*?\n)?.*?)^```", PAGES[page])
    assert len(cells) >= 4
    for cell in cells:
        cell = re.sub(r"(?m)^:.*\n", "", cell)
        if not cell.startswith("%%bash"):
            compile(cell, page, "exec")


def test_commands_are_those_of_fastscore():
    from fastscore.experiment.presets import PRESETS

    makefile = (ROOT / "Makefile").read_text()
    for text in (README, *PAGES.values()):
        for block in re.findall(r"(?ms)^```sh\n(.*?)^```", text) + re.findall(r"(?ms)^%%bash\n(.*?)^```", text):
            block = block.replace("\\\n", "")
            for word, what in re.findall(r"(?m)^(?:torchrun .* -m (?:-- )?)?fastscore ([\w-]+) ?([\w/-]*)", block):
                assert word in (
                    "train",
                    "sample",
                    "evaluate",
                    "compare-samplers",
                    "reproduce",
                    "train-classifier",
                    "inspect",
                    "status",
                    "import",
                    "export",
                    "doctor",
                )
                assert word != "train" or what in PRESETS
                assert word != "reproduce" or what == "cifar10"
            for target in re.findall(r"(?m)^make (\w+)", block):
                assert f"\n{target}:" in makefile


def test_torchrun_leaves_fastscores_options_alone():
    """Its parser, of the torch and the Python that are here, reads each command as it is written: --num alone is one of its own."""
    from torch.distributed.run import get_args_parser

    seen = []
    for text in (README, *PAGES.values()):
        for command in re.findall(r"(?m)^torchrun (.*)$", text.replace("\\\n", "")):
            words = shlex.split(command, comments=True)
            read = get_args_parser().parse_args(words)
            assert read.module and read.training_script == "fastscore" and words[words.index("fastscore") - 1] == "--"
            assert read.training_script_args == words[words.index("fastscore") + 1 :]
            seen.append(read.training_script_args[0])
    assert {"train", "sample", "evaluate", "reproduce"} <= set(seen)


def test_the_glossary_explains_each_word_once():
    words = re.findall(r"(?m)^(\w[\w -]*)\n  \S", PAGES["glossary.md"])
    assert len(words) == len(set(words)) > 40
    assert {"score", "noise level", "sigma", "alpha", "step size", "step", "sub-stream", "run folder"} <= set(words)


def test_what_the_comparison_of_samplers_says():
    from fastscore.experiment import compare

    best, rows = {}, {}
    for name in ("demo", "tenth", "toy"):
        assert f"{{generated}} comparison {name}\n" in PAGES["comparing_samplers.md"] and tables.comparison(name)
        rows[name] = compare.rows_of(json.loads((tables.COMPARISONS / f"{name}.json").read_text()))
        best[name] = {row.budget: row.sampler for row in reversed(rows[name]) if row.budget}
    assert (
        set(best["demo"].values()) == set(best["toy"].values()) == {"dpm_sde"}
        and "dpm_sde" not in best["tenth"].values()
    )
    first, own = (next(row for row in rows["demo"] if row.budget == budget) for budget in (11, None))
    assert (first.sampler, own.evaluations) == ("dpm_sde", 101) and first.distance < own.distance
