"""probe_dot against sum(fill_probes * product), its derivatives, and the invariance of its bits."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

import fastscore as fs
from fastscore._core import backends
from fastscore._core.registration import raw

from .probe_cases import LAYOUTS, PROBES, every_form, every_probe_case, probes, tensor

compiled = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")


@every_form
@every_probe_case
def test_equals_the_sum(on_backend, backend, device, shape, dtype, form):
    on_backend(backend, device, "probe_dot")
    if len(shape) == 1:
        shape = (*shape, 1)
    handle = probes(torch.zeros(shape, dtype=dtype, device=device), form)
    product = tensor((PROBES, *shape), dtype, 1, device)
    exact = (
        (fs.fill_probes(handle).double() * product.double()).flatten(2).sum(2)
        if 0 not in shape
        else torch.zeros(PROBES, shape[0], device=device).double()
    )
    got = fs.probe_dot(product, handle)
    assert backends.last["probe_dot"] == backend
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    width = product[0, 0].numel() if shape[0] else 1
    half = dtype in (torch.bfloat16, torch.float16) and form != "rademacher"  # fill rounds v, the sum does not
    error = 1e-2 if half else 1e-13 if dtype == torch.float64 and "rademacher" in form else 1e-6
    torch.testing.assert_close(got.double(), exact, rtol=error, atol=error * width**0.5)


@every_form
@pytest.mark.parametrize("shape", [(7, 5), (3, 2, 9, 31), (2, 5000), (2, 70_001)])
def test_bits_depend_on_no_split(form, shape, on_backend):
    """Chunks of probes, parts of the batch, threads and instruction sets: the very same numbers."""
    on_backend("native", "cpu", "probe_dot")
    x, product = torch.zeros(shape), tensor((PROBES, *shape), torch.float32, 1)
    whole, threads = fs.probe_dot(product, probes(x, form)), torch.get_num_threads()
    chunks = [fs.probe_dot(product[a:b], probes(x, form), first=a) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert torch.equal(torch.cat(chunks), whole)
    parts = [
        fs.probe_dot(product[:, :1], probes(x[:1], form)),
        fs.probe_dot(product[:, 1:], probes(x[1:], form, sample_offset=1)),
    ]
    assert torch.equal(torch.cat(parts, 1), whole)
    try:
        for isa in backends.ISAS[: backends.ISAS.index(backends.isa()) + 1]:
            for count in (1, 3):
                torch.set_num_threads(count)
                with backends.native_isa(isa):
                    assert torch.equal(fs.probe_dot(product, probes(x, form)), whole), (isa, count)
    finally:
        torch.set_num_threads(threads)


def test_a_long_sum_in_float32():
    """4 million terms, each 1 in magnitude: float32 partial sums lose at most a part in 10^6."""
    x = torch.zeros(1, 1 << 22)
    handle = fs.Probes(x, 1, fs.Philox(3))
    product = fs.fill_probes(handle) + 1e-3
    exact = (fs.fill_probes(handle).double() * product.double()).sum()
    torch.testing.assert_close(fs.probe_dot(product, handle)[0, 0].double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, on_backend):
    on_backend("native", "cpu", "probe_dot")
    x = torch.zeros(2, 3, 4, 5)
    product = tensor((PROBES, 2, 3, 4, 5), torch.float32, 1)
    if layout == "channels_last":
        strided = product.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (PROBES, 2))
    else:
        strided = LAYOUTS[layout](product)
    expected = fs.probe_dot(strided.contiguous(), probes(x, "rademacher"))
    assert torch.equal(fs.probe_dot(strided, probes(x, "rademacher")), expected)


@pytest.mark.parametrize("form", ["rademacher", "sphere", "rademacher in 3 colors"])
def test_derivatives(form, on_backend):
    for backend in ("reference", "native"):
        on_backend(backend, "cpu", "probe_dot")
        x = torch.zeros(3, 2, 2, dtype=torch.float64)
        product = tensor((PROBES, 3, 2, 2), torch.float64, 1).requires_grad_()

        def function(product, x=x):
            return fs.probe_dot(product, probes(x, form)).square()

        assert gradcheck(function, product, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, product)
        v, plain = fs.fill_probes(probes(x, form)), product.detach()
        torch.testing.assert_close(grad(lambda p, x=x: fs.probe_dot(p, probes(x, form)).sum())(plain), v)
        _, tangent = jvp(lambda p, x=x: fs.probe_dot(p, probes(x, form)), (plain,), (torch.ones_like(plain),))
        torch.testing.assert_close(tangent, v.flatten(2).sum(2))


def test_vmap(on_backend):
    """Over the samples, with each its own probes; and over products of the same probes."""
    for backend in ("reference", "native"):
        on_backend(backend, "cpu", "probe_dot")
        x, product = torch.zeros(4, 9), tensor((PROBES, 4, 9), torch.float32, 1)
        expected = fs.probe_dot(product, probes(x, "rademacher"))

        def one(row, product):
            return fs.probe_dot(product[:, None], probes(row[None], "rademacher"))[:, 0]

        got = vmap(one, in_dims=(0, 1), out_dims=1, randomness="different")(x, product)
        torch.testing.assert_close(got, expected)
        handle = probes(x, "rademacher")
        several = vmap(lambda p, h=handle: fs.probe_dot(p, h))(torch.stack([product, 2 * product]))
        torch.testing.assert_close(several, torch.stack([expected, 2 * expected]))


@compiled
@pytest.mark.slow
def test_compile():
    x, product = torch.zeros(4, 9), tensor((PROBES, 4, 9), torch.float32, 1).requires_grad_()

    def function(product):
        return fs.probe_dot(product * 2, probes(x, "rademacher")).square().sum()

    compiled_function = torch.compile(function, fullgraph=True)
    torch.testing.assert_close(compiled_function(product), function(product))
    torch.testing.assert_close(
        torch.autograd.grad(compiled_function(product), product), torch.autograd.grad(function(product), product)
    )


@compiled
def test_opcheck():
    arguments = (torch.zeros(4, 2, 3, 4, 5), 0, 1, [3, 5, 4, 1, 2, 1], 5, 6, 4, 0, None, torch.tensor([4, 9]))
    torch.library.opcheck(
        raw("probe_dot", "native"),
        arguments,
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.gpu
@every_form
def test_the_gpus_signs_are_the_cpus(form):
    x = torch.zeros(3, 2, 9, 31)
    here, there = probes(x, form), probes(x.cuda(), form)
    v = fs.fill_probes(there).cpu()
    assert backends.last["fill_probes"] == "native"
    assert torch.equal(v, fs.fill_probes(here))
    product = tensor((PROBES, *x.shape), torch.float32, 1)
    torch.testing.assert_close(fs.probe_dot(product.cuda(), there).cpu(), fs.probe_dot(product, here))
