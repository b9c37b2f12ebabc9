"""Tables of measured numbers, for the site and the README, made from benchmarks/results/*.json.

Each function without arguments here gives Markdown; a page includes it by ``{generated} its_name``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
COMPARISONS = ROOT / "docs" / "comparing_samplers"
#: The machine that the README shows, whose file is the newest.
MACHINE = "amd-epyc-2-threads"
#: Of the operators on a GPU, what the README shows: replays of a graph of one call.
GPU = "nvidia-h200"
SHOWN_ON_GPU = (
    ("langevin_step", "64M"),
    ("perturb", "64M"),
    ("perturb + dsm_loss + gradient", "64M"),
    ("instance_norm_plus + gradient", "128x128x32x32"),
    ("max_pool, NHWC + gradient", "128x128x32x32"),
    ("mlp_divergence", "1024x64"),
)
#: Of each way to a divergence: its name in the JSON, in words, and how often it evaluates a product.
WAYS = {
    "fastscore": "`jacobian_trace(num_probes=8)`: coloured probes, forward mode",
    "fastscore, vjp": 'the same, `mode="vjp"`',
    "fastscore, Rademacher": '`method="rademacher"`, forward mode',
    "vjp loop": "a loop of `autograd.grad`, as in score_sde",
    "tiled batch": "the batch repeated eight times, as in sliced score matching",
    "fastscore, exact": '`method="exact"`, 64 products, forward mode',
    "fastscore, exact, vjp": '`method="exact", mode="vjp"`, 64 products',
    "vmap(jacrev), exact": "`torch.func.vmap(jacrev)`, exact",
}
NETWORKS = {
    "unet-1": "attention U-Net, 1 channel",
    "unet-3": "attention U-Net, 3 channels",
    "ncsnv2-1": "NCSNv2, 1 channel",
    "kde-1": "kernel density (exact score)",
}


def read(name: str) -> dict[str, Any]:
    """The JSON of that name in benchmarks/results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def comparison(name: str) -> str:
    """What ``fastscore compare-samplers`` measured of a network: its table."""
    from fastscore.experiment import compare

    return compare.page(json.loads((COMPARISONS / f"{name}.json").read_text()))


def digits(number: float) -> str:
    """Three of them, and no fraction from 100 on."""
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:.0f}"


def markdown(heads: list[str], rows: list[list[str]], words: int = 1) -> str:
    """A table whose first ``words`` columns are text, the others numbers."""
    rule = "|---" * words + "|---:" * (len(heads) - words) + "|"
    return "\n".join([f"| {' | '.join(heads)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def machine(about: dict[str, Any]) -> str:
    """ "AMD EPYC (avx512), 2 threads, torch 2.14.1"."""
    instructions = f" ({about['instructions']})" if about.get("instructions") else ""
    return (
        f"{about['processor']}{instructions}, {about['threads']} thread{'s' * (about['threads'] != 1)}, torch "
        f"{about['torch'].split('+')[0]}"
    )


def on_which_gpu() -> str:
    about = read(GPU)["about"]
    return f"{about['processor']}, torch {about['torch'].split('+')[0]}"


def networks() -> str:
    """Whole networks on every machine that they were timed on."""
    tables = [networks_of(path.stem) for path in sorted(RESULTS.glob("*-network.json"))]
    return "\n\n".join(tables) or "*`make bench` has not been run since these were added.*"


def solvers() -> str:
    """A draw by each sampler, on every machine that they were timed on."""
    found = []
    for path in sorted(RESULTS.glob("*-solvers.json")):
        results = read(path.stem)
        lines = [
            [
                row["sampler"],
                str(row["evaluations"]),
                *(f"{row[by]['seconds'][1]:.2f} s" if by in row else "-" for by in ("fastscore", "plain")),
                f"{digits(row['fastscore']['times_plain'][1])}x" if "plain" in row else "-",
                f"{100 * row['fastscore']['network']:.0f} %",
            ]
            for row in results["rows"]
        ]
        heads = ["sampler", "evaluations", "fastscore", "plain", "x plain", "the network's share"]
        about = f"{machine(results['about'])}; a draw of {results['rows'][0]['images']} digits"
        found.append(f"{markdown(heads, lines, words=1)}\n\n*{about}.*")
    return "\n\n".join(found) or "*`make bench` has not been run since these were added.*"


def networks_of(name: str) -> str:
    """Every row of one machine: medians."""
    results = read(name)
    lines = [
        [
            row["work"],
            row["network"],
            row["size"],
            provider,
            digits(row[provider]["milliseconds"][1]),
            digits(row[provider]["images_per_second"]),
            f"{digits(row[provider]['times_plain'][1])}x",
            *_profile(row[provider]),
        ]
        for row in results["rows"]
        for provider in row
        if isinstance(row[provider], dict)
    ]
    heads = ["", "network", "size", "by", "ms", "images/s", "x plain", "convolutions", "limit", "MB"]
    return f"{markdown(heads, lines, words=4)}\n\n*{machine(results['about'])}.*"


def _profile(row: dict[str, Any]) -> list[str]:
    """Share of convolutions, the limit, and memory, of what was profiled."""
    if "limit" not in row:
        return ["-"] * 3
    return [f"{100 * row['convolutions']:.0f} %", f"{digits(row['limit'])}x", f"{row['megabytes']:.0f}"]


def operators_of(name: str) -> str:
    """Every row of one machine: medians."""
    results = read(name)
    others = [other for other in ("eager", "compile", "floor") if any(other in row for row in results["rows"])]
    lines = [
        [
            row["operator"],
            row["shape"],
            digits(row["fastscore"]["ns_per_element"][1]),
            *(f"{digits(row[other]['times_fastscore'][1])}x" if other in row else "-" for other in others),
            " / ".join(held(row, who) for who in ("fastscore", *others) if who != "floor"),
        ]
        for row in results["rows"]
    ]
    table = markdown(["operator", "shape", "ns", *others, "memory"], lines, words=2)
    backends = sorted({row["backend"] for row in results["rows"] if row.get("backend")})
    return f"{table}\n\n*{machine(results['about'])}, float32; served by {' and '.join(backends or ['native'])}.*"


def held(row: dict[str, Any], who: str) -> str:
    """What a call of a provider allocates, in tensors of x's size."""
    tensors = row.get(who, {}).get("extra_tensors")
    return "-" if tensors is None else f"{tensors:.1f}".removesuffix(".0")


def operators_of_the_readme() -> str:
    """:func:`operators_of` the machine of the README's table."""
    return operators_of(MACHINE)


def operators_of_other_machines() -> str:
    """:func:`operators_of` every machine but the README's."""
    names = [path.stem for path in sorted(RESULTS.glob("*-threads.json")) if path.stem != MACHINE]
    return "\n\n".join(operators_of(name) for name in names)


def on_a_gpu(shown: tuple[tuple[str, str], ...] = ()) -> str:
    """Every row of a GPU, or those ``shown``, in microseconds: calls, which take what the host does, and their replays."""
    results = read(GPU)
    rows = {(row["operator"], row["shape"]): row for row in results["rows"]}
    names = shown or [(name, shape) for name, shape in rows if not name.endswith(", captured")]
    others = ("eager", "compile", "floor")
    lines = []
    for name, shape in names:
        call, replay = rows[name, shape], rows[f"{name}, captured", shape]
        lines.append(
            [
                name if " " in name else f"`{name}`",
                shape,
                *(digits(row["fastscore"]["microseconds"][1]) for row in ([replay] if shown else [call, replay])),
                *(f"{digits(replay[other]['times_fastscore'][1])}x" if other in replay else "-" for other in others),
            ]
        )
        if not shown:
            lines[-1].insert(3, f"{digits(call['eager']['times_fastscore'][1])}x")
    heads = ["operator", "shape", "µs", "vs eager", "vs torch.compile", "vs the memory floor"]
    if not shown:
        heads[2:4] = ["call, µs", "vs eager", "GPU, µs", "vs eager"]
    return f"{markdown(heads, lines, words=2)}\n\n*{on_which_gpu()}, float32.*"


def on_a_gpu_of_the_readme() -> str:
    """:func:`on_a_gpu` of what the README shows of it."""
    return on_a_gpu(SHOWN_ON_GPU)


def at_a_glance() -> str:
    """The range of the ratios where noise is drawn, in a sentence."""
    large = [row for row in read(MACHINE)["rows"] if row["elements"] >= 100_000]
    drawn = [row for row in large if row["operator"] in ("langevin_step", "perturb")]

    def span(other: str, rows: list[dict[str, Any]]) -> str:
        ratios = [row[other]["times_fastscore"][1] for row in rows]
        return f"{digits(min(ratios))} to {digits(max(ratios))}"

    loss = [row for row in large if row["operator"] == "dsm_loss"]
    training = next(row for row in large if row["operator"] == "perturb + dsm_loss + gradient")
    return (
        f"Where noise is drawn (`langevin_step`, `perturb`, from 100,000 elements on), fastscore is {span('eager', drawn)} "
        f"times as fast as eager torch and {span('compile', drawn)} times as fast as torch.compile, whose generator on "
        f"the CPU is scalar. `dsm_loss` alone runs at {span('compile', loss)} times the speed of compiled lines that read "
        "stored noise again: drawing it again is nearly all its cost, and is what keeps the memory of a training step, "
        f"beside the network's, at {held(training, 'fastscore')} tensors in place of {held(training, 'eager')}."
    )


def divergences() -> str:
    """Ways to the divergence of a trained network: time, memory, error."""
    (path,) = RESULTS.glob("*-trace.json")
    results = read(path.stem)
    row, about = results["row"], results["about"]
    lines = [
        [
            words,
            digits(row[way]["microseconds"][1] / 1e3),
            f"{row[way]['extra_tensors'] * 4 * row['elements'] / 1e6:.0f}",
            f"{100 * results['errors'][way]:.1f} %",
        ]
        for way, words in WAYS.items()
    ]
    heads = ["way", "ms", "extra memory, MB", "relative error"]
    return (
        f"{markdown(heads, lines)}\n\n*{machine(about)}; an NCSN of {about['iterations']} iterations on the digits, "
        f"{row['shape']}, sigma = {about['sigma']:.2f}; medians of {row['rounds']} rounds.*"
    )


def accuracy() -> str:
    """Error of every estimator of the trace, beside that of Rademacher probes from as many products."""
    results = read("trace_accuracy")
    first = results["results"][0]["rows"]
    methods = list(dict.fromkeys(row["method"] for row in first))
    products = sorted({row["products"] for row in first})
    lines = []
    for method in methods:
        cells = []
        for network in results["results"]:
            rows = {row["products"]: row for row in network["rows"] if row["method"] == method}
            if method == "rademacher":
                cells.append(" / ".join(f"{100 * rows[m]['rms'] / abs(network['trace_mean']):.2f} %" for m in products))
            else:
                cells.append(" / ".join(f"{rows[m]['ratio']:.2f}" for m in products))
        lines.append([method, *cells])
    heads = ["estimator", *(f"{NETWORKS[r['network']]}, D = {r['dimension']}" for r in results["results"])]
    return (
        f"{markdown(heads, lines)}\n\n*At {' / '.join(map(str, products))} products. The first line is the RMS error as a "
        f"share of the trace; the others are ratios to it, below 1 being better. sigma = {results['about']['sigma']}; "
        f"{machine(results['about'])}.*"
    )


def gpu_kernels() -> str:
    """What the Triton kernels compile to, and what their PTX executes."""
    results = read("gpu_static")
    lines = []
    for name, compiled in results["kernels"].items():
        executed = results["executed"].get(name, {})
        lines.append(
            [
                name,
                " / ".join(str(compiled[arch]["registers"]) for arch in ("sm_80", "sm_90", "sm_100")),
                str(max(compiled[arch]["spills"] + compiled[arch]["local"] for arch in compiled)),
                f"{executed['instructions']:.1f}" if executed else "-",
                f"{executed['footprint']:.1f}" if executed else "-",
            ]
        )
    heads = [
        "kernel",
        "registers on sm_80 / sm_90 / sm_100",
        "spills and local memory",
        "instructions an element (PTX, executed)",
        "bytes an element",
    ]
    return f"{markdown(heads, lines)}\n\n*Triton {results['triton']}. Counted, not timed.*"
