"""The divergence of a trained NCSN by fastscore and by the lines that users write today: time, memory and error.

    python benchmarks/trace_network.py     about three minutes, of which one trains the network; leave the machine alone

Every way gives tr(ds/dx) of each of 64 noisy digits, from eight products with the Jacobian (exact: from all 64):

- vjp loop: eight times ``autograd.grad((s * v).sum(), x)`` with signs v, as the likelihood code of score_sde does;
- tiled batch: the batch repeated eight times, one backward pass, as the sliced score matching code does;
- vmap(jacrev): the whole Jacobian of every sample by torch.func, which is exact.

Errors are root mean squares over samples and seeds, relative to the root mean square trace.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.func import jacrev, vmap

sys.path.insert(0, str(Path(__file__).parents[1]))
import fastscore as fs
from benchmarks.measure import about as about_machine
from benchmarks.measure import machine_name, measure, save
from benchmarks.operators import Case
from benchmarks.report import RESULTS
from fastscore.experiment import presets
from fastscore.experiment.build import make_sigmas
from fastscore.experiment.train import Trainer

PROBES, SEEDS, LEVEL = 8, 16, 10  # of 20 noise levels


def trained(iterations: int) -> tuple[torch.nn.Module, Tensor]:
    """An NCSN of the digits preset, and its noise levels."""
    settings = presets.preset("digits", iterations=iterations)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(settings, folder)
        trainer.train()
    return trainer.network.eval().requires_grad_(False), make_sigmas(settings)


def ways(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    tiled_score: Callable[[Tensor], Tensor],
    one_score: Callable[[Tensor], Tensor],
) -> dict[str, Callable[[int], Tensor]]:
    """name: function of a seed that gives the traces [B]."""

    def vjp_loop(seed: int) -> Tensor:
        torch.manual_seed(seed)
        leaf, total = x.detach().requires_grad_(), 0
        for _ in range(PROBES):
            v = torch.randint(0, 2, x.shape) * 2.0 - 1
            (product,) = torch.autograd.grad((score(leaf) * v).sum(), leaf)
            total = total + (product * v).flatten(1).sum(1)
        return total / PROBES

    def tiled(seed: int) -> Tensor:
        torch.manual_seed(seed)
        leaf = x.repeat(PROBES, 1, 1, 1).requires_grad_()
        v = torch.randn_like(leaf).sign()
        (product,) = torch.autograd.grad((tiled_score(leaf) * v).sum(), leaf)
        return (product * v).flatten(1).sum(1).view(PROBES, -1).mean(0)

    def exact(_: int) -> Tensor:
        jacobian = vmap(jacrev(one_score))(x)
        return jacobian.reshape(len(x), x[0].numel(), -1).diagonal(dim1=1, dim2=2).sum(1)

    def ours(**options: object) -> Callable[[int], Tensor]:
        return lambda seed: fs.jacobian_trace(score, x, rng=fs.Philox(seed), **options).value

    return {
        "fastscore": ours(num_probes=PROBES, mode="jvp"),
        "fastscore, vjp": ours(num_probes=PROBES, mode="vjp"),
        "fastscore, Rademacher": ours(num_probes=PROBES, method="rademacher", mode="jvp"),
        "vjp loop": vjp_loop,
        "tiled batch": tiled,
        "fastscore, exact": ours(method="exact", mode="jvp"),
        "fastscore, exact, vjp": ours(method="exact", mode="vjp"),
        "vmap(jacrev), exact": exact,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=300, help="of training (default: 300)")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long to time (default: 40)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    arguments = parser.parse_args()

    network, sigmas = trained(arguments.iterations)
    digits = fs.data.load("digits", split="heldout").batch(0, 64, seed=0)
    x, _ = fs.perturb(digits, float(sigmas[LEVEL]), fs.Philox(0))

    def at(rows: int) -> Callable[[Tensor], Tensor]:
        labels = torch.full((rows,), LEVEL)
        return lambda x: network(x, labels)

    table = ways(at(64), x, at(64 * PROBES), lambda one: at(1)(one[None])[0])
    truth = table["vmap(jacrev), exact"](0)
    errors = {
        name: float(
            torch.stack([way(seed) - truth for seed in range(1 if "exact" in name else SEEDS)]).square().mean().sqrt()
            / truth.square().mean().sqrt()
        )
        for name, way in table.items()
    }
    case = Case("jacobian_trace", "64x1x8x8", x.numel(), {name: lambda way=way: way(0) for name, way in table.items()})
    row = measure(case, "cpu", arguments.seconds)
    about = about_machine("cpu") | {
        "seeds": SEEDS,
        "level": LEVEL,
        "sigma": float(sigmas[LEVEL]),
        "iterations": arguments.iterations,
    }
    lines = [
        f"NCSN of the digits preset ({arguments.iterations} iterations), 64 x 1 x 8 x 8, sigma "
        f"{float(sigmas[LEVEL]):.2f}, {PROBES} products; {about['processor']}, {about['threads']} threads, torch "
        f"{about['torch']}; median over {row['rounds']} rounds in turns [p20, p80].",
        "",
        "| way | ms | time over fastscore's | extra memory, MB | relative error |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in table:
        low, middle, high = row[name]["times_fastscore"]
        megabytes = row[name]["extra_tensors"] * 4 * x.numel() / 1e6
        lines.append(
            f"| {name} | {row[name]['microseconds'][1] / 1e3:.1f} | {middle:.2f}x [{low:.2f}, {high:.2f}] | "
            f"{megabytes:.0f} | {100 * errors[name]:.2f} % |"
        )
    text, results = "\n".join(lines) + "\n", {"about": about, "row": row, "errors": errors}
    print(text, end="")
    save(arguments.out, f"{machine_name(about, 'cpu')}-trace", results, text)


if __name__ == "__main__":
    main()
