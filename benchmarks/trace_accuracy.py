"""How exact each estimate of a score's divergence is for its number of network evaluations, on trained networks.

    python benchmarks/trace_accuracy.py            everything: trains three networks first, about 10 minutes on 2 cores
    python benchmarks/trace_accuracy.py --quick    one network, a short training, few seeds: two minutes
    python benchmarks/trace_accuracy.py --only unet-1

The scores are those of one_level_scores.py, which trains the networks. At held-out digits plus noise the whole Jacobian J of
each network is computed, one product a dimension; tr J is exact. Then each method estimates it by `jacobian_trace` from m = 4, 8, 16, 32 products with J (the very J, as a linear map:
a few seeds go through the network itself too, and must agree). The error is the root of the mean square over samples
and seeds, and the table has its ratio to that of Rademacher probes at the same m, with a jackknife standard error over
the samples. Weights are kept in runs/trace_accuracy; results go to benchmarks/results/trace_accuracy.json and .md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
import fastscore as fs  # noqa: E402
from benchmarks.measure import about as about_machine  # noqa: E402
from benchmarks.measure import save  # noqa: E402
from benchmarks.one_level_scores import NAMES, SIGMA, SIZE, digits, trained  # noqa: E402

PRODUCTS = (4, 8, 16, 32)
METHODS = {  # row of the table: arguments of jacobian_trace
    "rademacher": {"method": "rademacher"},
    "probing, 1 block": {"method": "probing", "blocks": 1},
    "probing, 2 blocks": {"method": "probing", "blocks": 2},
    "gaussian": {"method": "gaussian"},
    "sphere": {"method": "sphere"},
    "hutchpp": {"method": "hutchpp", "blocks": 1},
    "hutchpp, shift": {"method": "hutchpp", "blocks": 1, "shift": SIGMA**2},
    "xtrace": {"method": "xtrace", "blocks": 1},
    "xtrace, shift": {"method": "xtrace", "blocks": 1, "shift": SIGMA**2},
}


def jacobians(net: nn.Module, x: Tensor) -> Tensor:
    """[B, D, D], float64, from float32 products; a sample at a time."""

    def columns(one: Tensor) -> Tensor:
        unit = torch.eye(one.numel()).reshape(-1, 1, *one.shape)
        products = fs.trace.products.Products(net, one[None], chunk_size=64)
        return products(unit).flatten(1).T.double()

    with torch.no_grad():
        return torch.stack([columns(one) for one in x])


def check_against_network(net: nn.Module, x: Tensor, j: Tensor, options: dict) -> None:
    """The network's own products give what its Jacobian as a linear map gives."""
    flat = j.float()
    for seed in range(2):
        through, linear = (
            fs.jacobian_trace(f, x, num_probes=8, rng=fs.Philox(seed), **options).value
            for f in (net, lambda y: torch.einsum("bij,bj->bi", flat, y.flatten(1)).reshape(y.shape))
        )
        scale = j.diagonal(dim1=1, dim2=2).abs().sum(1)
        assert ((through - linear).abs() <= 1e-3 * scale).all(), (options, (through - linear).abs().max())


def errors(j: Tensor, shape: tuple, m: int, options: dict, seeds: int, at_once: int = 50) -> tuple[Tensor, Tensor]:
    """Estimate minus exact trace, and the standard error given, both [seeds, B]."""
    exact, values, bars = j.diagonal(dim1=1, dim2=2).sum(1), [], []

    def f(x: Tensor) -> Tensor:
        return torch.matmul(x.reshape(-1, *j.shape[:2]).transpose(0, 1), j.mT).transpose(0, 1).reshape(x.shape)

    for first in range(0, seeds, at_once):
        n = min(at_once, seeds - first)
        x = torch.zeros(n * len(j), *shape, dtype=j.dtype)
        t = fs.jacobian_trace(f, x, num_probes=m, rng=fs.Philox(m, sample_offset=first * len(j)), **options)
        values.append(t.value.reshape(n, -1) - exact)
        bars.append(t.stderr.reshape(n, -1))
    return torch.cat(values), torch.cat(bars)


def ratio(square: Tensor, base: Tensor) -> tuple[float, float]:
    """Root of the ratio of mean squares [B] to those of Rademacher, and its jackknife standard error."""
    whole = (square.sum() / base.sum()).sqrt()
    left = ((square.sum() - square) / (base.sum() - base)).sqrt()
    n = len(square)
    return whole.item(), ((n - 1) / n * (left - left.mean()).square().sum()).sqrt().item()


def measure(name: str, net: nn.Module, samples: int, seeds: int) -> dict:
    """All methods at all m on one network."""
    channels = int(name[-1])
    clean = digits("heldout", channels)[:samples]
    x, _ = fs.perturb(clean, SIGMA, fs.Philox(2))
    j = jacobians(net, x)
    for options in METHODS.values():
        check_against_network(net, x[:4], j[:4], options)
    exact = j.diagonal(dim1=1, dim2=2).sum(1)
    symmetric = (j + j.mT) / 2
    found = {
        "dimension": j.shape[1],
        "samples": samples,
        "seeds": seeds,
        "trace_mean": exact.mean().item(),
        "trace_std": exact.std().item(),
        "asymmetry": ((j - j.mT).norm() / 2 / j.norm()).item(),
        "off_diagonal": (
            (symmetric - torch.diag_embed(symmetric.diagonal(dim1=1, dim2=2))).norm() / symmetric.norm()
        ).item(),
        "rows": [],
    }
    for m in PRODUCTS:
        base = None
        for row, options in METHODS.items():
            error, bar = errors(j, tuple(x.shape[1:]), m, options, seeds)
            square = error.square().mean(0)
            base = square if base is None else base
            value, uncertainty = ratio(square, base)
            z = (error.mean() / (error.std() / error.numel() ** 0.5)).item()
            found["rows"].append(
                {
                    "method": row,
                    "products": m,
                    "rms": square.mean().sqrt().item(),
                    "ratio": value,
                    "ratio_stderr": uncertainty,
                    "z_of_mean_error": z,
                    "rms_stderr_over_rms_error": None
                    if bar.isnan().any()
                    else (bar.square().mean() / square.mean()).sqrt().item(),
                }
            )
            print(
                f"  {name} m={m:<3} {row:<18} rms {found['rows'][-1]['rms']:8.3f}  ratio {value:6.3f} "
                f"+- {uncertainty:.3f}  bias z {z:+.1f}",
                flush=True,
            )
    return found


def table(results: list[dict], about: dict) -> str:
    """Markdown: one table a network."""
    lines = [
        f"RMS error of `jacobian_trace` over that of Rademacher probes from as many products (+- one jackknife "
        f"standard error over the samples); below 1 is better. sigma = {SIGMA}; torch {about['torch']}, "
        f"{about['processor']}, {about['threads']} threads.",
        "",
    ]
    for r in results:
        lines += [
            f"**{r['network']}**: D = {r['dimension']}, {r['samples']} held-out samples, {r['seeds']} seeds; "
            f"tr J = {r['trace_mean']:.0f} +- {r['trace_std']:.0f} over the samples; held-out loss "
            f"{r['loss_heldout']:.2f} (training {r['loss_train']:.2f}); off-diagonal share of ||J||: "
            f"{r['off_diagonal']:.2f}, antisymmetric: {r['asymmetry']:.2f}",
            "",
            "| method | " + " | ".join(f"m = {m}" for m in PRODUCTS) + " |",
            "|---|" + "---:|" * len(PRODUCTS),
        ]
        rows = {(row["method"], row["products"]): row for row in r["rows"]}
        lines.append(
            "| rademacher, RMS error | " + " | ".join(f"{rows['rademacher', m]['rms']:.2f}" for m in PRODUCTS) + " |"
        )
        for method in list(METHODS)[1:]:
            lines.append(
                f"| {method} | "
                + " | ".join(
                    f"{rows[method, m]['ratio']:.2f} +- {rows[method, m]['ratio_stderr']:.2f}" for m in PRODUCTS
                )
                + " |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=NAMES, nargs="+", default=NAMES, help="which networks (default: all)")
    parser.add_argument("--iterations", type=int, default=1500, help="of training, 64 images each (default: 1500)")
    parser.add_argument("--samples", type=int, default=32, help="held-out images (default: 32)")
    parser.add_argument("--seeds", type=int, default=200, help="estimates of each image (default: 200)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="unet-1 and kde-1, 150 iterations, 8 images, 50 seeds; prints and writes nothing",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.only, arguments.iterations, arguments.samples, arguments.seeds = ("unet-1", "kde-1"), 150, 8, 50
    about = about_machine("cpu") | {"sigma": SIGMA, "size": SIZE}
    results = []
    for name in arguments.only:
        net, how = trained(name, arguments.iterations)
        print(f"{name}: {how}", flush=True)
        results.append(how | measure(name, net, arguments.samples, arguments.seeds))
    print("\n" + table(results, about))
    if not arguments.quick:
        save(arguments.out, "trace_accuracy", {"about": about, "results": results}, table(results, about))


if __name__ == "__main__":
    main()
