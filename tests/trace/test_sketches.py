"""Hutch++ and XTrace: beside naive twins, exact for low rank, unbiased, shifted, and at the edges."""

import pytest
import torch

import fastscore as fs
from fastscore.trace.xtrace import leave_one_out

from .cases import linear, matrix, seeds, trace_of, z_of

D = 30


def low_rank(k, *batch, seed=0):
    return matrix(*batch, D, k, seed=seed) @ matrix(*batch, k, D, seed=seed + 1)


def normals(x, count, step):
    probes = fs.Probes(x, count, fs.Philox(0, step=step), distribution="gaussian")
    return fs.fill_probes(probes).flatten(2)


def naive_hutchpp(a, x, q, shift):
    """One sample after the other, as the docstring says it."""
    k, values = q // 3, []
    sketch, rest = normals(x, k, 0), normals(x, q - 2 * k, k)
    m = a if shift is None else torch.eye(D) + shift * a
    for b in range(len(x)):
        basis = torch.linalg.qr(m[b] @ sketch[:, b].T).Q
        left = torch.eye(D) - basis @ basis.T
        value = torch.trace(basis.T @ m[b] @ basis)
        for g in rest[:, b]:
            v = left @ g * ((D - k) ** 0.5 / (left @ g).norm())
            value = value + v @ m[b] @ v / len(rest)
        values.append(value if shift is None else (value - D) / shift)
    return torch.stack(values)


def naive_xtrace(a, x, q, shift):
    """Each leave-one-out basis made anew."""
    n, values = q // 2, []
    omegas = normals(x, n, 0)
    m = a if shift is None else torch.eye(D) + shift * a
    for b in range(len(x)):
        omega, each = omegas[:, b].T, []
        for i in range(n):
            others = [j for j in range(n) if j != i]
            basis = torch.linalg.qr(m[b] @ omega[:, others]).Q
            left = torch.eye(D) - basis @ basis.T
            v = left @ omega[:, i] * ((D - n + 1) ** 0.5 / (left @ omega[:, i]).norm())
            each.append(torch.trace(basis.T @ m[b] @ basis) + v @ m[b] @ v)
        value = torch.stack(each).mean()
        values.append(value if shift is None else (value - D) / shift)
    return torch.stack(values)


@pytest.mark.parametrize("shift", [None, 0.3])
@pytest.mark.parametrize("method, q", [("hutchpp", 3), ("hutchpp", 10), ("xtrace", 2), ("xtrace", 4), ("xtrace", 14)])
def test_equals_the_naive_twin(method, q, shift):
    """The sketch is of J in forward mode, of its transpose in reverse mode."""
    a, x = matrix(3, D, D), torch.zeros(3, 5, 6, dtype=torch.float64)
    for mode, sketched in (("jvp", a), ("vjp", a.mT)):
        twin = (naive_hutchpp if method == "hutchpp" else naive_xtrace)(sketched, x, q, shift)
        options = {"num_probes": q, "blocks": 1, "shift": shift, "mode": mode}
        t = fs.jacobian_trace(linear(a), x, method=method, rng=fs.Philox(0), **options)
        torch.testing.assert_close(t.value, twin, rtol=1e-9, atol=1e-9)
        assert t.evaluations == q + 1 and t.stderr.isnan().all()


@pytest.mark.parametrize("method, q", [("hutchpp", 6), ("xtrace", 6)])
def test_each_sample_has_its_own_shift(method, q):
    """I + s_b J_b has rank 2 in every sample, for its own s_b alone."""
    shift = torch.tensor([0.5, 3.0, 20.0], dtype=torch.float64)
    a = (low_rank(2, 3) - torch.eye(D)) / shift[:, None, None]
    t = fs.jacobian_trace(linear(a), torch.zeros(3, D).double(), method=method, num_probes=2 * q, shift=shift)
    torch.testing.assert_close(t.value, trace_of(a), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("method", ["hutchpp", "xtrace"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 2e-4)])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_exact_for_low_rank(method, k, dtype, tolerance):
    """XTrace from 2 k + 2 products on, Hutch++ from 3 k on, non-symmetric, also far beyond; and not before."""
    a, x = low_rank(k, 4).to(dtype), torch.zeros(4, D, dtype=dtype)
    enough = 2 * k + 2 if method == "xtrace" else 3 * k
    scale = a.norm(dim=(1, 2)).max()

    def error(q, a, **options):
        t = fs.jacobian_trace(linear(a), x, method=method, num_probes=q, blocks=1, rng=fs.Philox(1), **options)
        return (t.value - trace_of(a)).abs().max() / scale

    for q in (enough, enough + 6, 24):
        assert error(q, a) < tolerance, q
        shifted = (a - torch.eye(D, dtype=dtype)) / 4  # I + 4 J has rank k
        assert error(q, shifted, shift=4.0) < tolerance, q
        assert error(q, shifted, shift=torch.full((4,), 4.0, dtype=dtype)) < tolerance, q
    before = enough - 2 if method == "xtrace" else enough - 1
    if before >= 3:
        assert error(before, a) > 1e-3
    assert error(enough, shifted) > 1e-3 or method == "hutchpp"


@pytest.mark.parametrize("shift", [None, 0.2])
@pytest.mark.parametrize("method, q", [("hutchpp", 6), ("hutchpp", 8), ("xtrace", 4), ("xtrace", 8)])
def test_unbiased_for_any_matrix(method, q, shift):
    for seed, a in enumerate((matrix(9, 9) + torch.eye(9), torch.diag(torch.arange(9.0).double()))):
        t = seeds(a, 100_000, method, seed=seed, num_probes=q, blocks=1, shift=shift)
        assert abs(z_of(t.value, trace_of(a))) < 4


@pytest.mark.parametrize("method", ["hutchpp", "xtrace"])
def test_a_multiple_of_the_identity_is_exact(method):
    t = seeds(-7 * torch.eye(D, dtype=torch.float64), 4, method, num_probes=12)
    torch.testing.assert_close(t.value, torch.full((4,), -7.0 * D, dtype=torch.float64))


@pytest.mark.parametrize("method", ["hutchpp", "xtrace"])
@pytest.mark.parametrize("shift", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_zero_jacobian_is_zero(method, shift, dtype):
    w = torch.zeros(D, D, dtype=dtype, requires_grad=True)
    t = fs.jacobian_trace(
        lambda x: x @ w,
        torch.zeros(3, D, dtype=dtype),
        method=method,
        num_probes=12,
        shift=shift,
        create_graph=True,
        rng=fs.Philox(0),
    )
    assert torch.equal(t.value, torch.zeros_like(t.value)) and torch.equal(t.stderr, torch.zeros_like(t.stderr))
    t.value.sum().backward()
    assert w.grad.isfinite().all() and w.grad.abs().max() > 0


@pytest.mark.parametrize("method", ["hutchpp", "xtrace"])
def test_samples_of_different_rank_in_one_batch(method):
    a = torch.stack([torch.zeros(D, D).double(), low_rank(1), low_rank(3), 1e-30 * low_rank(2), 1e30 * low_rank(1)])
    t = fs.jacobian_trace(linear(a), torch.zeros(5, D).double(), method=method, num_probes=24, rng=fs.Philox(0))
    assert ((t.value - trace_of(a)).abs() <= 1e-9 * a.norm(dim=(1, 2))).all()


def test_fast_decay_is_nearly_exact():
    """A spectrum of 4^-i: XTrace far better than Rademacher from as many products."""
    u = torch.linalg.qr(matrix(D, D)).Q
    a = u @ torch.diag(4.0 ** -torch.arange(D).double()) @ u.T
    x, plain = (seeds(a, 500, m, num_probes=12, blocks=1).value - trace_of(a) for m in ("xtrace", "rademacher"))
    assert x.std() < plain.std() / 50


def test_leave_one_out_columns():
    r = matrix(4, 6, 6).triu()
    s = leave_one_out(r)
    inner = r.mT @ s  # column i of R against s_j
    assert (inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max() < 1e-10
    torch.testing.assert_close(s.norm(dim=1), torch.ones(4, 6, dtype=torch.float64))


def test_leave_one_out_of_a_matrix_without_a_diagonal():
    """Each raised element would multiply the next: in float32 they would overflow."""
    s = leave_one_out(torch.ones(20, 20).triu(1))
    assert s.dtype == torch.float32 and s.isfinite().all()
    torch.testing.assert_close(s.norm(dim=0), torch.ones(20))


@pytest.mark.parametrize("method", ["hutchpp", "xtrace"])
def test_gradient_is_unbiased(method):
    """d tr(W) / dW = I, in the mean over 20,000 rows; and exactly so where the range is caught."""
    n, d = 20_000, 6
    w = matrix(d, d).requires_grad_()
    rows = w.expand(n, d, d)
    t = fs.jacobian_trace(
        linear(rows),
        torch.zeros(n, d).double(),
        method=method,
        num_probes=6,
        blocks=1,
        create_graph=True,
        rng=fs.Philox(0),
    )
    each = torch.autograd.grad(t.value.sum(), rows)[0]
    z = (each.mean(0) - torch.eye(d)) / (each.std(0) / n**0.5)
    assert z.abs().max() < 4.5
