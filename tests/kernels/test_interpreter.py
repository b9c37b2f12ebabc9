"""The operators' kernels against the references: in Triton's interpreter on the CPU, compiled where there is a GPU."""

import importlib
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from .cases import (
    DEVICE,
    DTYPES,
    SHAPES,
    Z_ULP,
    _launch,
    assert_close,
    column,
    dsm_loss,
    fill,
    langevin_step,
    noise,
    on,
    perturb,
    scalars,
    small_blocks,
    tensor,
    ulps,
)

reference = {
    name: importlib.import_module(f"fastscore.ops.{name}").reference
    for name in ("perturb", "dsm_loss", "langevin_step")
}


def test_no_argument_has_a_name_that_triton_keeps():
    """A launch on a GPU, and nothing before it, refuses the first three; the others are options of the launch."""
    kept = {"stream", "device", "device_type", "grid", "warmup", "debug", *_launch.OPTIONS}
    launched = {}
    for path in Path(_launch.__file__).parent.glob("*.py"):
        module = importlib.import_module(f"fastscore.kernels.{path.stem}")
        launched |= {
            name: f for name, f in vars(module).items() if name.endswith("_kernel") and hasattr(f, "arg_names")
        }
    assert len(launched) >= 12
    assert {name: kept & set(f.arg_names) for name, f in launched.items() if kept & set(f.arg_names)} == {}


@pytest.fixture(params=["default", "tiles", "line", "wide"])
def sharing(request, monkeypatch) -> str:
    """The ways to share out the work: see ``philox.elements``. Small blocks, so that small tensors need many."""
    if request.param != "default":
        small_blocks(monkeypatch, 32 if request.param == "tiles" else 64)
    if request.param == "wide":
        monkeypatch.setattr(_launch, "WIDE_FROM", 0)
    return request.param


def both_forms(test):
    """Every shape with every dtype, on the device or not, scalars for a row or for all: of any three all combinations,
    of the four each second one, since the interpreter is slow."""
    forms = [
        pytest.param(dtype, shape, per_row, on_device, id=f"{dtype}-{shape}-{per_row}-{on_device}")
        for (i, dtype), (j, shape) in itertools.product(enumerate(DTYPES), enumerate(SHAPES))
        for per_row, on_device in itertools.product([False, True], repeat=2)
        if (per_row + on_device + i + j) % 2
    ]
    return pytest.mark.parametrize("dtype, shape, per_row, on_device", forms)(test)


@both_forms
def test_perturb(dtype, shape, per_row, on_device):
    arguments, z = noise(shape, on_device)
    x, sigma = tensor(shape, dtype, 1), scalars(shape, dtype, per_row, 0.1)
    given = SimpleNamespace(tensor=lambda compute: z.to(compute))
    for alpha in (None, scalars(shape, dtype, not per_row, 0.5)):
        got = perturb.launch(*on(DEVICE, x, alpha, sigma), *arguments)
        exact = reference["perturb"](x.double(), None if alpha is None else alpha.double(), sigma.double(), given)
        spread = column(sigma, x) * z.double()
        mean = x.double() if alpha is None else column(alpha, x) * x.double()
        assert got.dtype == dtype
        assert_close(got, exact, mean.abs() + spread.abs(), spread)


@both_forms
def test_langevin_step(dtype, shape, per_row, on_device):
    arguments, z = noise(shape, on_device)
    x, score = tensor(shape, dtype, 1), tensor(shape, dtype, 2)
    step_size = scalars(shape, dtype, per_row, 0.1)
    got = langevin_step.launch(*on(DEVICE, x, score, step_size), *arguments)
    exact = reference["langevin_step"](x.double(), score.double(), step_size.double(), z.double())
    a = column(step_size, x)
    spread = a.sqrt() * z.double()
    assert got.dtype == dtype
    assert_close(got, exact, x.double().abs() + a / 2 * score.double().abs() + spread.abs(), spread)


def check_dsm(shape: tuple, dtype: torch.dtype, per_row: bool, on_device: bool, weight: float) -> None:
    arguments, z = noise(shape, on_device)
    score, sigma = tensor(shape, dtype, 1), scalars(shape, dtype, per_row, 0.3)
    upstream = scalars(shape, dtype, not per_row, 0.5)
    loss = dsm_loss.launch(*on(DEVICE, score, sigma), weight, *arguments)
    same, grad = dsm_loss.launch_and_gradient(*on(DEVICE, score, sigma), weight, 0.3, *arguments)
    other = dsm_loss.launch_gradient(*on(DEVICE, score, sigma), weight, upstream.to(DEVICE), *arguments)
    assert torch.equal(loss, same) and grad.dtype == other.dtype == dtype

    exact = reference["dsm_loss"](score.double(), sigma.double(), weight, z.double())
    s, scaled = column(sigma, score), z.double() / column(sigma, score)
    residual, size = score.double() + scaled, score.double().abs() + scaled.abs()
    # 3 eps: the factor sigma^weight (a power, a product) is rounded too
    for got, factor in ((grad, 0.3 * s**weight), (other, column(upstream, score) * s**weight)):
        assert_close(got, factor * residual, 3 * (factor * size), factor * scaled)
    # each term's error is 2 |r| times that of r; then the sum's and the factor's rounding, at most 32 in a row
    eps = torch.finfo(loss.dtype).eps
    off = (residual.abs() * (2 * eps * size + Z_ULP * 2.0**-23 * scaled.abs())).reshape(
        shape[0], -1 if 0 not in shape else 0
    )
    bound = 2 * sigma.double() ** weight * off.sum(1) + 32 * eps * exact
    assert loss.dtype == sigma.dtype and loss.shape == (shape[0],)
    assert bool(((loss.cpu().double() - exact).abs() <= bound).all())


@both_forms
def test_dsm_loss(dtype, shape, per_row, on_device):
    check_dsm(shape, dtype, per_row, on_device, 2.0)


@pytest.mark.parametrize("weight", [0.0, 1.0, 1.5])
def test_dsm_weights(weight):
    check_dsm((3, 5), torch.float32, True, False, weight)


@pytest.mark.parametrize(
    "shape", [(1, 1), (5, 3), (70, 7), (6, 128), (6, 129), (3, 1029), (1, 4099), (300, 4)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dsm_sums_of_many_tiles(monkeypatch, shape, dtype):
    """Rows packed into programs, a row per program, many programs per row: the sums are right, and always the same."""
    small_blocks(monkeypatch, 64)
    check_dsm(shape, dtype, True, True, 2.0)


@pytest.mark.parametrize("shape", [(3, 1029), (7, 60), (5, 255), (1, 1), (40, 2), (2, 1024)], ids=str)
def test_results_ignore_how_the_work_is_shared(sharing, shape):
    arguments, z = noise(shape, True)
    x, score = tensor(shape, torch.float32, 1).to(DEVICE), tensor(shape, torch.float32, 2).to(DEVICE)
    step_size = scalars(shape, torch.float32, True, 0.1).to(DEVICE)
    _, where, tiles = _launch.plan(*shape)
    assert where["WIDE"] == (sharing == "wide" and where["QUADS"] == 0)
    assert sharing != "tiles" or shape != (2, 1024) or (tiles == 8 and where["QUADS"] == 32 and not where["MASK"])
    z = z.double()
    got = langevin_step.launch(x, score, step_size, *arguments)
    exact = reference["langevin_step"](*(v.cpu().double() for v in (x, score, step_size)), z)
    assert_close(got, exact, x.cpu().double().abs() + score.cpu().double().abs() + 2 * z.abs(), 2 * z)
    drawn = torch.empty(shape, device=DEVICE)
    fill.launch(drawn, "normal", *arguments)
    assert float(ulps(drawn.cpu(), z).max()) <= Z_ULP


# ------------------------------------------------------------------------------------------------- layouts
LAYOUTS = {
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3).contiguous().transpose(1, 3),
    "batch inside": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "expanded": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "slice": lambda x: torch.cat([x, x], 3)[..., 1 : 1 + x.shape[3]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    """The values of the contiguous tensor, in the memory format that ``empty_like`` gives."""
    shape = (4, 3, 5, 6)
    arguments, _ = noise(shape, False)
    x, score = (LAYOUTS[layout](tensor(shape, torch.float32, seed)).to(DEVICE) for seed in (1, 2))
    sigma = scalars(shape, torch.float32, True, 0.1).to(DEVICE)
    plain = x.clone(memory_format=torch.contiguous_format), score.clone(memory_format=torch.contiguous_format)
    for run in (
        lambda x, s: perturb.launch(x, None, sigma, *arguments),
        lambda x, s: langevin_step.launch(x, s, sigma, *arguments),
        lambda x, s: langevin_step.launch(x.contiguous(), x, sigma, *arguments),
        lambda x, s: dsm_loss.launch_and_gradient(x, sigma, 2.0, 1.0, *arguments)[1],
        lambda x, s: dsm_loss.launch_gradient(x, sigma, 2.0, sigma, *arguments),
    ):
        assert torch.equal(run(x, score), run(*plain))
    for got in (
        perturb.launch(x, None, sigma, *arguments),
        langevin_step.launch(x, score, sigma, *arguments),
        dsm_loss.launch_and_gradient(x, sigma, 2.0, 1.0, *arguments)[1],
    ):
        assert got.stride() == torch.empty_like(x).stride()


def test_out():
    shape = (4, 3, 5, 6)
    arguments, _ = noise(shape, False)
    x, score = tensor(shape, torch.float32, 1).to(DEVICE), tensor(shape, torch.float32, 2).to(DEVICE)
    step_size = scalars(shape, torch.float32, False, 0.1).to(DEVICE)
    expected = langevin_step.launch(x, score, step_size, *arguments)
    for layout in (lambda v: v.clone(), LAYOUTS["channels_last"], LAYOUTS["slice"]):
        for out in (layout(torch.zeros_like(x)), layout(x)):  # the second: given as x too
            start = out if torch.equal(out, x) else x
            before = out.data_ptr(), out.stride()
            assert langevin_step.launch(start, score, step_size, *arguments, out=out) is out
            assert (out.data_ptr(), out.stride()) == before and torch.equal(out, expected)
    into_score = score.clone()
    assert torch.equal(langevin_step.launch(x, into_score, step_size, *arguments, out=into_score), expected)


def test_scalars_of_other_layouts():
    """[B] taken from a larger tensor, or expanded from one number."""
    shape = (4, 5)
    arguments, _ = noise(shape, True)
    x = tensor(shape, torch.float32, 1).to(DEVICE)
    many = torch.linspace(0.1, 1, 8, device=DEVICE)
    for sigma in (many[::2], many[3].expand(4)):
        assert torch.equal(
            perturb.launch(x, None, sigma, *arguments), perturb.launch(x, None, sigma.contiguous(), *arguments)
        )
    index = arguments[-1].repeat_interleave(2)[::2]
    assert not index.is_contiguous()
    assert torch.equal(
        perturb.launch(x, None, many[0], *arguments[:-1], index), perturb.launch(x, None, many[0], *arguments)
    )
