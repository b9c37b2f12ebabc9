"""fill_probes against its definition: the numbers of the random sequence, masked by colour or scaled to a length."""

import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore._core.registration import raw

from ..conftest import z_mean, z_variance
from .probe_cases import DTYPES, FORMS, PROBES, every_form, every_probe_case, probes, tensor

PROBE = fs.Stream.PROBE
compiled = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")


def by_definition(x, form, *, step=2, offset=0):
    """[PROBES, B, ...] in float64, written out from the numbers of single steps."""
    distribution, colors = FORMS[form]
    out = []
    for k in range(PROBES):
        j = k // (colors or 1)
        rng = fs.Philox(5, step=step + j, sample_offset=offset)
        name = "rademacher" if distribution == "rademacher" else "randn"
        z = getattr(rng, name)(x.shape, stream=PROBE, dtype=torch.float32, device=x.device).double()
        if distribution == "sphere":
            z = z * (x.shape[1:].numel() / z.flatten(1).square().sum(1)).sqrt().reshape(-1, *[1] * (x.dim() - 1))
        if colors:
            columns = torch.arange(x.shape[-1], device=x.device)
            rows = torch.arange(x.shape[-2], device=x.device)[:, None] if x.dim() > 2 else 0
            channels = (
                torch.arange(x.shape[1:].numel() // max(x.shape[-1] * x.shape[-2], 1), device=x.device)
                if x.dim() > 2
                else torch.zeros(1, device=x.device)
            )
            color = (columns + 2 * rows + channels[:, None, None]) % colors
            z = z * (color.reshape(x.shape[1:]) == k % colors)
        out.append(z)
    return torch.stack(out)


@every_form
@every_probe_case
def test_equals_the_definition(on_backend, backend, device, shape, dtype, form):
    on_backend(backend, device, "fill_probes")
    if len(shape) == 1:
        shape = (*shape, 1)
    x = tensor(shape, dtype, 0, device)
    handle = probes(x, form)
    got = fs.fill_probes(handle)
    assert got.dtype == dtype and got.shape == (PROBES, *shape) and got.is_contiguous()
    assert backends.last["fill_probes"] == backend
    with fs.use_backend("reference"):
        exact = by_definition(x, form)
    tolerance = 0 if FORMS[form][0] == "rademacher" else max(DTYPES[dtype], 1e-7)  # normals are float32 everywhere
    torch.testing.assert_close(got.double(), exact, rtol=tolerance, atol=0)
    for first, count in ((0, 1), (2, 3), (5, 1), (6, 0), (1, None)):
        part = fs.fill_probes(handle, first=first, count=count)
        assert torch.equal(part, got[first:] if count is None else got[first : first + count])


@every_form
def test_batch_split_and_step(form, on_backend):
    """A batch in two calls, by sample_offset, and the draws taken from the generator."""
    for backend in ("reference", "native"):
        on_backend(backend, "cpu", "fill_probes")
        x = torch.zeros(5, 2, 3, 7)
        whole = fs.fill_probes(probes(x, form))
        split = [fs.fill_probes(probes(x[:2], form)), fs.fill_probes(probes(x[2:], form, sample_offset=2))]
        assert torch.equal(torch.cat(split, 1), whole)
        rng = fs.Philox(1, step=4)
        handle = fs.Probes(x, 6, rng, distribution=FORMS[form][0])
        assert rng.step == 10 and handle.draws == 6


def test_a_block_of_colors_adds_up_to_its_draw():
    x, coloring = torch.zeros(3, 2, 8, 8), fs.Coloring(5, 8, 8, 1, 2, 3)
    rng = fs.Philox(5)
    v = fs.fill_probes(fs.Probes(x, 10, rng, coloring=coloring))
    assert rng.step == 2  # one draw per block
    for j in range(2):
        z = fs.Philox(5, step=j).rademacher(x.shape, stream=PROBE)
        assert torch.equal(v[5 * j : 5 * j + 5].sum(0), z)
    assert ((v != 0).sum(0) == 2).all()


def test_coloring_is_the_formula():
    coloring = fs.Coloring(7, 5, 4, 3, 2, 6)
    color = coloring.of((2, 4, 5))
    for c in range(2):
        for y in range(4):
            for x in range(5):
                assert color[c, y, x] == (3 * x + 2 * y + 6 * c) % 7
    assert torch.equal(fs.Coloring(3, 10, 1, 2).of((10,)), 2 * torch.arange(10) % 3)


@pytest.mark.parametrize("form", ["rademacher", "gaussian", "sphere"])
def test_law(form):
    """E[v] = 0, E[v v^T] = I; lengths on the sphere; D = 8, 6 x 200,000 draws."""
    v = fs.fill_probes(probes(torch.zeros(200_000, 8), form)).flatten(0, 1).double()
    assert abs(z_mean(v, 0, 1)) < 4
    second = v.T @ v / len(v)
    off = second[~torch.eye(8, dtype=torch.bool)]
    assert off.abs().max() < 5 / len(v) ** 0.5  # each has standard error at most 1 / sqrt(n)
    if form == "gaussian":
        assert abs(z_variance(v, 1)) < 4
    else:
        torch.testing.assert_close(v.square().sum(1), torch.full((len(v),), 8.0).double(), rtol=1e-6, atol=0)


def test_state_on_a_device_and_vmap(on_backend):
    for backend in ("reference", "native"):
        on_backend(backend, "cpu", "fill_probes")
        x, kept = torch.zeros(4, 3), fs.Philox(5, step=2, device="cpu")
        assert torch.equal(fs.fill_probes(fs.Probes(x, 6, kept)), fs.fill_probes(probes(x, "rademacher")))
        assert kept.step == 8
        each = torch.func.vmap(
            lambda row: fs.fill_probes(fs.Probes(row[None], 6, fs.Philox(5, step=2)))[:, 0],
            randomness="different",
            out_dims=1,
        )(x)
        assert torch.equal(each, fs.fill_probes(probes(x, "rademacher")))


@compiled
def test_opcheck():
    arguments = (torch.zeros(2, 3, 4, 5), 0, 1, 4, [3, 5, 4, 1, 2, 1], 5, 6, 4, 0, None, torch.tensor([4, 9]))
    torch.library.opcheck(
        raw("fill_probes", "native"),
        arguments,
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic"),
    )


BAD = {
    "x must be float16": lambda: fs.Probes(torch.zeros(2, 3, dtype=torch.int64), 2),
    "num_probes must be at least 1": lambda: fs.Probes(torch.zeros(2, 3), 0),
    "distribution must be one of": lambda: fs.Probes(torch.zeros(2, 3), 2, distribution="normal"),
    "num_probes must be a multiple": lambda: fs.Probes(torch.zeros(2, 3), 4, coloring=fs.Coloring(3, 3, 1, 1)),
    "coloring must be None where": lambda: fs.Probes(
        torch.zeros(2, 3), 3, distribution="sphere", coloring=fs.Coloring(3, 3, 1, 1)
    ),
    "coloring.width must be": lambda: fs.Probes(torch.zeros(2, 3), 3, coloring=fs.Coloring(3, 0, 1, 1)),
    "coloring.colors must be": lambda: fs.Probes(torch.zeros(2, 3), 2**16, coloring=fs.Coloring(2**16, 3, 1, 1)),
    "probes must be a fastscore.Probes": lambda: fs.fill_probes(torch.zeros(2, 3)),
    "first must be from 0 to 2": lambda: fs.fill_probes(fs.Probes(torch.zeros(2, 3), 2), first=3),
    "count must be from 0 to 1": lambda: fs.fill_probes(fs.Probes(torch.zeros(2, 3), 2), first=1, count=2),
    "product must be \\[K, \\*\\(2, 3\\)\\]": lambda: fs.probe_dot(torch.zeros(2, 3), fs.Probes(torch.zeros(2, 3), 2)),
    "count must be from 0 to 2, got 3": lambda: fs.probe_dot(torch.zeros(3, 2, 3), fs.Probes(torch.zeros(2, 3), 2)),
    "product must be float16": lambda: fs.probe_dot(torch.zeros(2, 2, 3).long(), fs.Probes(torch.zeros(2, 3), 2)),
    "rng must be a fastscore.Philox": lambda: fs.Probes(torch.zeros(2, 3), 2, torch.Generator()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises((TypeError, ValueError), match=message):
        BAD[message]()


def test_no_triton_version(on_backend):
    on_backend("triton")
    with pytest.raises(fs.BackendUnavailable, match="no Triton version"):
        fs.fill_probes(fs.Probes(torch.zeros(2, 3), 2))
