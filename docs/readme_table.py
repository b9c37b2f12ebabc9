"""The README's table of measured numbers, made from benchmarks/results/*.json.

To write it anew, after these have changed:

    python docs/readme_table.py
"""

from __future__ import annotations

import re

import tables

README = tables.ROOT / "README.md"
#: One shape of each operator.
SHOWN = (
    ("langevin_step", "128x3x32x32"),
    ("perturb", "128x3x32x32"),
    ("dsm_loss", "128x3x32x32"),
    ("perturb + dsm_loss + gradient", "128x3x32x32"),
    ("fill_probes", "8x16x3x32x32"),
    ("probe_dot", "8x16x3x32x32"),
    ("mlp_divergence", "1024x64"),
)
#: Of whole networks: work, network, size, by which of fastscore's precisions.
SHOWN_NETWORKS = (
    ("training step", "NCSN", "CIFAR-10", "fastscore"),
    ("training step", "NCSN", "CIFAR-10", "fastscore bf16"),
    ("sampling evaluation", "NCSN", "CIFAR-10", "fastscore"),
    ("sampling evaluation", "NCSN", "CIFAR-10", "fastscore bf16"),
    ("training step", "NCSN", "digits", "fastscore"),
    ("sampling evaluation", "NCSN", "digits", "fastscore"),
)


def readme() -> str:
    """The README's table of results."""
    results = tables.read(tables.MACHINE)
    rows = {(row["operator"], row["shape"]): row for row in results["rows"]}
    lines = [
        [
            f"`{name}`" if " " not in name else name,
            shape,
            f"{tables.digits(row['fastscore']['ns_per_element'][1])} ns",
            *(f"{tables.digits(row[other]['times_fastscore'][1])}x" for other in ("eager", "compile")),
            " / ".join(tables.held(row, who) for who in ("fastscore", "eager")),
        ]
        for name, shape in SHOWN
        for row in [rows[name, shape]]
    ]
    lines += _networks_of_the_readme() + _gpu_of_the_readme()
    heads = ["what", "shape", "time", "vs eager", "vs torch.compile", "memory: ours / eager"]
    return (
        f"{tables.markdown(heads, lines, words=2)}\n\n*{tables.machine(results['about'])}, float32 where nothing else is said; and "
        f"{tables.on_which_gpu()}.*"
    )


def _gpu_of_the_readme() -> list[list[str]]:
    """The README's lines of a GPU: of graphs of one call, and the memory of the call."""
    rows = {(row["operator"], row["shape"]): row for row in tables.read(tables.GPU)["rows"]}
    return [
        [
            f"{name if ' ' in name else f'`{name}`'}, GPU",
            shape,
            f"{tables.digits(replay['fastscore']['microseconds'][1])} µs",
            *(f"{tables.digits(replay[other]['times_fastscore'][1])}x" for other in ("eager", "compile")),
            " / ".join(tables.held(rows[name, shape], who) for who in ("fastscore", "eager")),
        ]
        for name, shape in tables.SHOWN_ON_GPU
        for replay in [rows[f"{name}, captured", shape]]
    ]


def _networks_of_the_readme() -> list[list[str]]:
    """The README's lines of whole networks, whose eager is the plain network in float32."""
    if not (tables.RESULTS / f"{tables.MACHINE}-network.json").exists():
        return []
    rows = {(row["work"], row["network"], row["size"]): row for row in tables.read(f"{tables.MACHINE}-network")["rows"]}
    lines = []
    for work, network, size, provider in SHOWN_NETWORKS:
        row = rows[work, network, size]
        own, plain, compiled = row[provider], row["plain"], row.get("compile")
        low = "bf16" in provider  # nobody compiled that
        ratio = compiled and not low and own["times_plain"][1] / compiled["times_plain"][1]
        lines.append(
            [
                f"{work}, {network}{', bf16' if low else ''}",
                f"{size}, {row['images']} images",
                f"{tables.digits(own['milliseconds'][1])} ms",
                f"{tables.digits(own['times_plain'][1])}x",
                f"{tables.digits(ratio)}x" if ratio else "-",
                f"{own['megabytes']:.0f} / {plain['megabytes']:.0f} MB",
            ]
        )
    return lines


def write_readme() -> None:
    """Put the table of today's JSON between the README's two marks."""
    text = README.read_text()
    README.write_text(re.sub(r"(?s)(<!-- table -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{readme()}\n{m[2]}", text))


if __name__ == "__main__":
    write_readme()
