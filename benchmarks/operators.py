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
from torch.nn import functional

import fastscore as fs
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
Wrap = Callable[[Callable], Callable]  # torch.compile, or nothing


@dataclass
class Row:
    """One row at one shape: fastscore's call, torch's lines (given what may compile them), the floor."""

    ours: Callable[[], object]
    lines: Callable[[Wrap], Callable[[], object]]
    floor: Callable[[], object]
    elements: int


@dataclass(frozen=True)
class Benchmark:
    """A row of the benchmark list: of which operator, at which shapes, and what makes it for a shape and a device."""

    operator: str
    make: Callable[[tuple[int, ...], str], Row]
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


def langevin_step(x: Tensor, score: Tensor, step_size: float) -> Tensor:
    return x + step_size / 2 * score + step_size**0.5 * torch.randn_like(x)


def affine_step(x: Tensor, scores: list[Tensor], a: float, b: list[float], c: float) -> Tensor:
    value = a * x
    for factor, score in zip(b, scores):
        value = value + factor * score
    return value + c * torch.randn_like(x) if c else value


def perturb(x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn_like(x)
    return x + sigma.view(-1, *[1] * (x.dim() - 1)) * noise, noise


def dsm_loss(score: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    target = noise / sigma.view(-1, *[1] * (score.dim() - 1))
    return 0.5 * ((score + target) ** 2).flatten(1).sum(1) * sigma**2


def norm_and_elu(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    means = x.mean((2, 3))
    away = (means - means.mean(1, keepdim=True)) / torch.sqrt(means.var(1, keepdim=True) + 1e-5)
    h = torch.nn.functional.instance_norm(x) + (alpha * away)[..., None, None]
    return torch.nn.functional.elu(gamma[..., None, None] * h + beta[..., None, None])


def gradient(loss: Callable[..., Tensor], score: Tensor, *others: object) -> Tensor:
    score = score.detach().requires_grad_()
    loss(score, *others).mean().backward()
    return score.grad


def chain(perturb: Callable, loss: Callable, *arguments: object) -> Tensor:
    """A training step's part around the network, which here is the identity."""
    x_tilde, noise = perturb(*arguments)
    return gradient(loss, x_tilde, noise, arguments[1])


def _sigma(shape: tuple[int, ...], device: str) -> Tensor:
    return torch.linspace(0.01, 1.0, shape[0], device=device)


def _langevin_step(shape: tuple[int, ...], device: str) -> Row:
    x, score, rng = torch.randn(shape, device=device), torch.randn(shape, device=device), fs.Philox(0)
    return Row(
        lambda: fs.langevin_step(x, score, 0.1, rng),
        lambda wrap: partial(wrap(langevin_step), x, score, 0.1),
        lambda: torch.add(x, score, alpha=0.05),
        x.numel(),
    )


def _affine_step(shape: tuple[int, ...], device: str, count: int, c: float) -> Row:
    """Of ``count`` stored tensors: count + 1 are read and one is written."""
    x, *scores = torch.randn(1 + count, *shape, device=device)
    b, rng = [0.05, -0.3, 0.2][:count], fs.Philox(0)
    left, right = torch.randn(
        2, x.numel() * 5 // 3, device=device
    )  # no torch operation reads four tensors and adds them

    def floor() -> Tensor:
        if count == 3:
            return torch.add(left, right, alpha=0.05)
        if count == 2:
            return torch.addcmul(x, *scores, value=0.05)
        return torch.add(x, scores[0], alpha=0.05) if count else torch.mul(x, 0.5)

    return Row(
        lambda: fs.affine_step(x, scores, 0.9, b, c, rng),
        lambda wrap: partial(wrap(affine_step), x, scores, 0.9, b, c),
        floor,
        x.numel(),
    )


def _perturb(shape: tuple[int, ...], device: str) -> Row:
    x, sigma, rng = torch.randn(shape, device=device), _sigma(shape, device), fs.Philox(0)
    return Row(
        lambda: fs.perturb(x, sigma, rng),
        lambda wrap: partial(wrap(perturb), x, sigma),
        lambda: torch.mul(x, 0.5),
        x.numel(),
    )


def read_images(images: Tensor, indices: Tensor, sigma: Tensor) -> Tensor:
    """NCSN's batch: gathered, mirrored, (255/256) X + U/256, perturbed."""
    x = images[indices]
    x = torch.where((torch.rand(len(x), device=x.device) < 0.5).view(-1, *[1] * (x.dim() - 1)), x.flip(-1), x)
    return perturb((x + torch.rand(x.shape, device=x.device)) / 256, sigma)[0]


def _read_images(shape: tuple[int, ...], device: str) -> Row:
    images = torch.randint(0, 256, (2048, *shape[1:]), dtype=torch.uint8, device=device)
    indices, sigma = torch.randint(0, 2048, shape[:1], device=device), _sigma(shape, device)
    batch = fs.ops.ImageBatch(images, indices, seed=0, step=0, num_values=256, flips=True)
    rng = fs.Philox(0)
    return Row(
        lambda: fs.ops.perturb_images(batch, sigma, rng),
        lambda wrap: partial(wrap(read_images), images, indices, sigma),
        lambda: images[: shape[0]].float(),
        indices.numel() * images[0].numel(),
    )


def _dsm_loss(shape: tuple[int, ...], device: str, with_gradient: bool) -> Row:
    score, z, sigma = torch.randn(shape, device=device), torch.randn(shape, device=device), _sigma(shape, device)
    handle = fs.Philox(0).noise(shape, device=device)
    if not with_gradient:
        return Row(
            lambda: fs.dsm_loss(score, handle, sigma),
            lambda wrap: partial(wrap(dsm_loss), score, z, sigma),
            lambda: score.sum(),
            score.numel(),
        )
    leaf = score.clone().requires_grad_()
    return Row(
        lambda: gradient(fs.dsm_loss, leaf, handle, sigma),
        lambda wrap: partial(gradient, wrap(dsm_loss), leaf, z, sigma),
        lambda: torch.mul(score, 0.5),
        score.numel(),
    )


def _chain(shape: tuple[int, ...], device: str) -> Row:
    x, sigma, rng = torch.randn(shape, device=device), _sigma(shape, device), fs.Philox(0)
    return Row(
        lambda: chain(fs.perturb, fs.dsm_loss, x, sigma, rng),
        lambda wrap: partial(chain, wrap(perturb), wrap(dsm_loss), x, sigma),
        lambda: torch.mul(torch.mul(x, 0.5), 0.5),
        x.numel(),
    )


def _fill(shape: tuple[int, ...], device: str) -> Row:
    rng = fs.Philox(0)
    out = torch.empty(shape, device=device)
    return Row(
        lambda: rng.randn(shape, device=device),
        lambda wrap: wrap(lambda: torch.randn(shape, device=device)),
        lambda: torch.full_like(out, 1.0),
        out.numel(),
    )


def _probes(shape: tuple[int, ...], device: str, colored: bool, dot: bool) -> Row:
    """Eight probes. Eager's signs are randn.sign(), which is faster here than randint * 2 - 1."""
    x = torch.zeros(shape, device=device)
    coloring = fs.Coloring(8, 32, 32, 1, 3, 2) if colored else None
    probes = fs.Probes(x, 8, fs.Philox(0), coloring=coloring)
    v, product = fs.fill_probes(probes), torch.randn(8, *shape, device=device)
    if dot:
        return Row(
            lambda: fs.probe_dot(product, probes),
            lambda wrap: wrap(lambda: (v * product).flatten(2).sum(2)),
            lambda: product.flatten(2).sum(2),
            product.numel(),
        )
    colors = torch.arange(8, device=device).view(8, 1, 1, 1, 1)
    mask = None if coloring is None else coloring.of(shape[1:], device) == colors

    def signs() -> Tensor:
        return torch.randn(v.shape, device=device).sign() if mask is None else torch.randn_like(x).sign() * mask

    return Row(lambda: fs.fill_probes(probes), lambda wrap: wrap(signs), lambda: torch.full_like(v, 1.0), v.numel())


def _mlp_divergence(shape: tuple[int, ...], device: str) -> Row:
    network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64)).to(device)
    network.requires_grad_(False)
    points = torch.randn(shape, device=device)

    def divergence() -> Tensor:
        jacobian = torch.func.vmap(torch.func.jacrev(network))(points)
        return jacobian.diagonal(dim1=1, dim2=2).sum(1)

    return Row(
        lambda: fs.mlp_divergence(points, network)[1],
        lambda wrap: wrap(divergence),
        lambda: network(points),
        points.numel(),
    )


def _norm(shape: tuple[int, ...], device: str, last: bool, with_gradient: bool) -> Row:
    """With the ELU that follows it."""
    order = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(shape, device=device).contiguous(memory_format=order)
    gamma, alpha, beta = torch.randn(3, *shape[:2], device=device)
    ours = partial(fs.ops.instance_norm_plus, activation="elu")
    if not with_gradient:
        return Row(
            lambda: ours(x, gamma, alpha, beta),
            lambda wrap: partial(wrap(norm_and_elu), x, gamma, alpha, beta),
            lambda: torch.mul(x, 0.5),
            x.numel(),
        )
    leaves, upstream = [t.clone().requires_grad_() for t in (x, gamma, alpha, beta)], torch.randn_like(x)

    def back(norm: Callable[..., Tensor]) -> object:
        return torch.autograd.grad(norm(*leaves), leaves, upstream)

    return Row(
        lambda: back(ours),
        lambda wrap: partial(back, wrap(norm_and_elu)),
        lambda: torch.add(torch.mul(x, 0.5), upstream),
        x.numel(),
    )


def _layer(
    shape: tuple[int, ...], device: str, ours: Callable, torchs: Callable, last: bool, with_gradient: bool
) -> Row:
    """A function of one tensor, or it and its gradient."""
    order = torch.channels_last if last else torch.contiguous_format
    x, upstream = (torch.randn(shape, device=device).contiguous(memory_format=order) for _ in range(2))
    if not with_gradient:
        return Row(lambda: ours(x), lambda wrap: partial(wrap(torchs), x), lambda: torch.mul(x, 0.5), x.numel())
    leaf = x.clone().requires_grad_()

    def back(layer: Callable[[Tensor], Tensor]) -> object:
        return torch.autograd.grad(layer(leaf), leaf, upstream)

    return Row(
        lambda: back(ours),
        lambda wrap: partial(back, wrap(torchs)),
        lambda: (torch.mul(x, 0.5), torch.mul(upstream, 0.5)),
        x.numel(),
    )


_ELU = partial(_layer, ours=fs.ops.elu, torchs=functional.elu, last=False)
_MEAN_POOL = partial(
    _layer, ours=fs.ops.mean_pool, torchs=partial(functional.avg_pool2d, kernel_size=5, stride=1, padding=2)
)
_MAX_POOL = partial(
    _layer, ours=fs.ops.max_pool, torchs=partial(functional.max_pool2d, kernel_size=5, stride=1, padding=2)
)

_OWN = {
    "langevin_step": Benchmark("langevin_step", _langevin_step, SHAPES),
    "affine_step": Benchmark("affine_step", partial(_affine_step, count=1, c=0.3), SHAPES),
    **{
        f"affine_step, no noise, {count} scores": Benchmark(
            "affine_step", partial(_affine_step, count=count, c=0.0), SHAPES
        )
        for count in (2, 3)
    },
    "perturb": Benchmark("perturb", _perturb, SHAPES),
    "read_images": Benchmark("read_images", _read_images, SHAPES),
    "dsm_loss": Benchmark("dsm_loss", partial(_dsm_loss, with_gradient=False), SHAPES),
    "dsm_loss + gradient": Benchmark("dsm_loss", partial(_dsm_loss, with_gradient=True), SHAPES),
    "perturb + dsm_loss + gradient": Benchmark("dsm_loss", _chain, SHAPES),
    "fill": Benchmark("fill", _fill, SHAPES),
    "fill_probes": Benchmark("fill_probes", partial(_probes, colored=False, dot=False), TRACE),
    "fill_probes, 8 colours": Benchmark("fill_probes", partial(_probes, colored=True, dot=False), TRACE),
    "probe_dot": Benchmark("probe_dot", partial(_probes, colored=False, dot=True), TRACE),
    "probe_dot, 8 colours": Benchmark("probe_dot", partial(_probes, colored=True, dot=True), TRACE),
    **{
        f"instance_norm_plus{', NHWC' * last}{' + gradient' * back}": Benchmark(
            "instance_norm_plus", partial(_norm, last=last, with_gradient=back), ACTIVATIONS
        )
        for back in (False, True)
        for last in (False, True)
    },
    **{
        f"{name}{' + gradient' * back}": Benchmark(operator, partial(make, with_gradient=back), ACTIVATIONS)
        for name, operator, make in (
            ("elu", "elu", _ELU),
            ("mean_pool", "mean_pool", partial(_MEAN_POOL, last=False)),
            ("mean_pool, NHWC", "mean_pool", partial(_MEAN_POOL, last=True)),
            ("max_pool", "max_pool", partial(_MAX_POOL, last=False)),
            ("max_pool, NHWC", "max_pool", partial(_MAX_POOL, last=True)),
        )
        for back in (False, True)
    },
    "mlp_divergence": Benchmark("mlp_divergence", _mlp_divergence, POINTS),
}


def _derived(operator: Operator, shape: tuple[int, ...], device: str) -> Row:
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
    return Row(lambda: call(*given, *rng), lambda wrap: wrap(lines), x.sum if smaller else floor, x.numel())


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
