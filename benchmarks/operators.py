"""What is compared: each operator by fastscore, by the torch lines a user would write, by torch.compile of those
lines, and by one torch operation that moves the same bytes (the memory floor). All on float32.

Every registered operator has a row: one of its own in :data:`_OWN`, or the one that :func:`_derived` makes of its
declaration. A provider is a function without arguments that does the work once; :func:`cases` makes them for one device.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import fastscore as fs
from benchmarks import operator_rows as rows
from fastscore._core.operators import OPERATORS, Operator

SHAPES = {"64x2": (64, 2), "64x3x32x32": (64, 3, 32, 32), "128x3x32x32": (128, 3, 32, 32), "4M": (1024, 4, 32, 32)}
ON_GPUS = {name: SHAPES[name] for name in ("64x2", "128x3x32x32")} | {
    "64M": (16384, 4, 32, 32)
}  # no cache holds the last
TRACE = {"8x16x3x32x32": (16, 3, 32, 32)}  # eight probes of 16 images
ACTIVATIONS = {"4x128x32x32": (4, 128, 32, 32), "128x16x8x8": (128, 16, 8, 8)}  # of NCSN, on CIFAR-10 and on digits
ACTIVATIONS_ON_GPUS = {"128x16x8x8": (128, 16, 8, 8), "128x128x32x32": (128, 128, 32, 32)}
COMPILED_ON_GPUS = ("64M", "128x128x32x32", "8x16x3x32x32", "1024x64")
POINTS = {"1024x64": (1024, 64)}  # of an MLP with 512 hidden units
PROVIDERS = ("fastscore", "eager", "compile", "floor")


@dataclass(frozen=True)
class Benchmark:
    """A row of the benchmark list: of which operator, at which shapes, and what makes it for a shape and a device."""

    operator: str
    make: Callable[[tuple[int, ...], str], rows.Row]
    shapes: Mapping[str, tuple[int, ...]]

    def shapes_on(self, device: str) -> Mapping[str, tuple[int, ...]]:
        """These shapes, or on a GPU larger ones."""
        if device == "cpu":
            return self.shapes
        return {id(SHAPES): ON_GPUS, id(ACTIVATIONS): ACTIVATIONS_ON_GPUS}.get(id(self.shapes), self.shapes)


@dataclass
class Case:
    operator: str  # the name of the row
    shape: str
    elements: int
    providers: dict[str, Callable[[], object]]


_OWN = {
    "langevin_step": Benchmark("langevin_step", rows.langevin_step, SHAPES),
    "affine_step": Benchmark("affine_step", partial(rows.affine_step, count=1, c=0.3), SHAPES),
    **{
        f"affine_step, no noise, {count} scores": Benchmark(
            "affine_step", partial(rows.affine_step, count=count, c=0.0), SHAPES
        )
        for count in (2, 3)
    },
    "perturb": Benchmark("perturb", rows.perturb, SHAPES),
    "read_images": Benchmark("read_images", rows.read_images, SHAPES),
    "dsm_loss": Benchmark("dsm_loss", partial(rows.dsm_loss, with_gradient=False), SHAPES),
    "dsm_loss + gradient": Benchmark("dsm_loss", partial(rows.dsm_loss, with_gradient=True), SHAPES),
    "perturb + dsm_loss + gradient": Benchmark("dsm_loss", rows.chain, SHAPES),
    "fill": Benchmark("fill", rows.fill, SHAPES),
    "fill_probes": Benchmark("fill_probes", partial(rows.eight_probes, colored=False, dot=False), TRACE),
    "fill_probes, 8 colours": Benchmark("fill_probes", partial(rows.eight_probes, colored=True, dot=False), TRACE),
    "probe_dot": Benchmark("probe_dot", partial(rows.eight_probes, colored=False, dot=True), TRACE),
    "probe_dot, 8 colours": Benchmark("probe_dot", partial(rows.eight_probes, colored=True, dot=True), TRACE),
    **{
        f"instance_norm_plus{', NHWC' * last}{' + gradient' * back}": Benchmark(
            "instance_norm_plus", partial(rows.norm, last=last, with_gradient=back), ACTIVATIONS
        )
        for back in (False, True)
        for last in (False, True)
    },
    **{
        f"{name}{' + gradient' * back}": Benchmark(operator, partial(make, with_gradient=back), ACTIVATIONS)
        for name, operator, make in (
            ("elu", "elu", rows.ELU),
            ("mean_pool", "mean_pool", partial(rows.MEAN_POOL, last=False)),
            ("mean_pool, NHWC", "mean_pool", partial(rows.MEAN_POOL, last=True)),
            ("max_pool", "max_pool", partial(rows.MAX_POOL, last=False)),
            ("max_pool, NHWC", "max_pool", partial(rows.MAX_POOL, last=True)),
        )
        for back in (False, True)
    },
    "mlp_divergence": Benchmark("mlp_divergence", rows.mlp_divergence, POINTS),
}


def _derived(operator: Operator, shape: tuple[int, ...], device: str) -> rows.Row:
    """An operator's plainest example: its reference is torch's lines, its numbers being torch's.

    The floor reads one tensor of the samples, or adds two, and writes one; where the result is smaller it is a sum.
    """
    given = next(iter(operator.examples(shape, torch.float32, device, 0).values()))
    call, draws = operator.call or operator.public, operator.stream is not None
    rng = (fs.Philox(0),) if draws else ()
    x, *others = (v for v, kind in zip(given, operator.maps) if kind in ("batch", "probe") and isinstance(v, Tensor))

    def lines() -> object:
        return operator.reference(*given, *([torch.randn(shape, device=device)] if draws else []))

    def floor() -> Tensor:
        return torch.add(x, others[0], alpha=0.5) if others else torch.mul(x, 0.5)

    smaller = call(*given, *rng).numel() < x.numel()
    return rows.Row(lambda: call(*given, *rng), lambda wrap: wrap(lines), x.sum if smaller else floor, x.numel())


def benchmarks() -> dict[str, Benchmark]:
    """All rows by their names."""
    with_own = {benchmark.operator for benchmark in _OWN.values()}
    others = (operator for operator in OPERATORS.values() if operator.name not in with_own)
    return _OWN | {operator.name: Benchmark(operator.name, partial(_derived, operator), SHAPES) for operator in others}


def names(device: str = "cpu") -> list[tuple[str, str]]:
    """(shape, row) of all cases, in the order of :func:`cases`: the rows of one shape together."""
    table = {name: benchmark.shapes_on(device) for name, benchmark in benchmarks().items()}
    shapes = dict.fromkeys(shape for of_one in table.values() for shape in of_one)
    return [(shape, name) for shape in shapes for name, of_one in table.items() if shape in of_one]


def cases(device: str = "cpu", *, only: Collection[tuple[str, str]] = (), compile: bool = True) -> Iterator[Case]:
    """Every row at every shape, or those of ``only``, (shape, row) each. On a GPU torch.compile has the large shapes."""
    table = benchmarks()
    for shape, name in names(device):
        if only and (shape, name) not in only:
            continue
        row = table[name].make(table[name].shapes_on(device)[shape], device)
        providers = {"fastscore": row.ours, "eager": row.lines(lambda f: f)}
        if compile and (device == "cpu" or shape in COMPILED_ON_GPUS):
            providers["compile"] = row.lines(lambda f: torch.compile(f, dynamic=False))
        yield Case(name, shape, row.elements, providers | {"floor": row.floor})
