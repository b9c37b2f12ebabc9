"""What only instance_norm_plus does: its laws, its sums far from zero, its walks through memory, its errors."""

import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore._core.registration import raw
from fastscore.ops.instance_norm_plus import reference, reference_gradient

from .cases import BACKENDS

native = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")
norm = fs.ops.instance_norm_plus


@pytest.fixture(params=BACKENDS)
def backend(request, on_backend):
    on_backend(request.param)
    return request.param


def given(shape, dtype=torch.float32, *, last=False, seed=0, offset=0.0, scale=1.0):
    """x, gamma, alpha, beta, upstream; gamma with gaps between its rows, alpha [C]."""
    g = torch.Generator().manual_seed(seed)
    channels = shape[:2]
    x = scale * torch.randn(shape, generator=g, dtype=torch.float64)
    x = (x + scale * torch.randn(channels, generator=g, dtype=torch.float64)[..., None, None] + offset).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    gamma = torch.randn(shape[0], 3 * shape[1], generator=g, dtype=compute).chunk(3, 1)[1]
    alpha, beta = torch.randn(shape[1], generator=g, dtype=compute), torch.randn(channels, generator=g, dtype=compute)
    return x, gamma, alpha, beta, torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)


def compiled(x, gamma, alpha, beta, upstream, activation=1):
    """All results of the compiled functions."""
    out, mean, rstd = raw("instance_norm_plus", "native")(x, gamma, alpha, beta, 1e-5, activation)
    back = raw("instance_norm_plus_gradient", "native")(upstream, x, mean, rstd, gamma, alpha, beta, 1e-5, activation)
    return out, mean, rstd, *back


def exact(x, gamma, alpha, beta, upstream, activation=1):
    """The same by the reference, in float64."""
    x, gamma, alpha, beta, upstream = (t.double() for t in (x, gamma, alpha, beta, upstream))
    out, mean, rstd = reference(x, gamma, alpha, beta, 1e-5, activation)
    return out, mean, rstd, *reference_gradient(upstream, x, mean, rstd, gamma, alpha, beta, 1e-5, activation)


class TestLaws:
    def test_permuting_channels_permutes_the_output(self, backend):
        x, gamma, alpha, beta, _ = given((2, 6, 5, 3))
        order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
        got = norm(x[:, order], gamma[:, order], alpha[order], beta[:, order], activation="elu")
        torch.testing.assert_close(got, norm(x, gamma, alpha, beta, activation="elu")[:, order])

    def test_a_constant_added_to_all_channels_changes_nothing(self, backend):
        x, gamma, alpha, beta, _ = given((2, 6, 5, 3), torch.float64)
        torch.testing.assert_close(norm(x + 3, gamma, alpha, beta), norm(x, gamma, alpha, beta), rtol=1e-11, atol=1e-11)

    def test_mean_and_variance_of_the_normalised_image(self, backend):
        x, *_ = given((3, 4, 6, 5), torch.float64, scale=0.01)
        h = norm(x, torch.ones(4), torch.zeros(4), torch.zeros(4), eps=1e-4)
        v = x.var((2, 3), correction=0)
        assert h.mean((2, 3)).abs().max() < 1e-13
        torch.testing.assert_close(h.var((2, 3), correction=0), v / (v + 1e-4))

    def test_elu_is_the_elu_of_the_norm(self, backend):
        *arguments, _ = given((3, 4, 6, 5))
        expected = torch.nn.functional.elu(norm(*arguments))
        torch.testing.assert_close(norm(*arguments, activation="elu"), expected)


@pytest.mark.parametrize("last", [False, True])
class TestPrecision:
    def test_far_from_zero(self, last, backend):
        """1e4 and noise of 1: float32 has steps of 1e-3 there, and the sums add no error of their own."""
        arguments = given((2, 4, 40, 40), last=last, offset=1e4)
        out, mean, rstd = reference(*(t.double() for t in arguments[:4]), 1e-5, 1)
        got = norm(*arguments[:4], activation="elu")
        assert (got - out).abs().max() < (2e-5 if backend == "native" else 2e-3) * out.abs().max()
        if backend == "native":
            found = compiled(*arguments)
            torch.testing.assert_close(found[2].double(), rstd, rtol=1e-6, atol=0)
            torch.testing.assert_close(found[1].double(), mean, rtol=6e-8, atol=0)

    def test_one_bright_pixel(self, last, backend):
        """The variance is of all pixels around their mean, whichever pixel comes first."""
        x, *parameters, _ = given((2, 3, 30, 30), last=last)
        x[:, :, 0, 0] = 1e4
        out = reference(x.double(), *(p.double() for p in parameters), 1e-5, 0)[0]
        assert (norm(x, *parameters) - out).abs().max() < 2e-6 * out.abs().max()

    def test_elu_near_zero_keeps_its_digits(self, last, backend):
        x, _, alpha, _, _ = given((2, 4, 8, 8), last=last)
        tiny, none = torch.full((4,), 1e-6), torch.zeros(4)
        out = reference(x.double(), tiny.double(), alpha.double(), none.double(), 1e-5, 1)[0]
        got = norm(x, tiny, alpha, none, activation="elu")
        assert (got - out).abs().max() < 1e-12 and (out < 0).sum() > 100


@native
class TestMemory:
    @pytest.mark.parametrize(
        "shape",
        [
            (3, 5, 2, 1),
            (2, 2, 2, 2),
            (2, 3, 7, 11),
            (5, 16, 8, 8),
            (2, 33, 16, 16),
            (2, 130, 9, 5),
            (1, 1030, 3, 2),
            (2, 48, 40, 37),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("last", [False, True])
    def test_every_size(self, shape, last):
        """Fewer channels than a vector and more than a row, tails, several spans: against float64."""
        for activation in (0, 1):
            arguments = given(shape, last=last)
            for got, expected in zip(compiled(*arguments, activation), exact(*arguments, activation), strict=True):
                assert (got - expected).abs().max() < 3e-6 * max(1, expected.abs().max())

    def test_a_million_pixels(self):
        for last in (False, True):
            arguments = given((1, 2, 1000, 1000), last=last, offset=10)
            sums = (4, 5, 6)  # of a million products of either sign, about 1000 each: float32 has seven digits of that
            for i, (got, expected) in enumerate(zip(compiled(*arguments), exact(*arguments), strict=True)):
                assert (got - expected).abs().max() < 2e-6 * max(1000 if i in sums else 1, expected.abs().max()), i

    @pytest.mark.parametrize("shape", [(1, 128, 32, 32), (1, 3, 300, 300), (9, 24, 30, 30), (3, 130, 9, 9)], ids=str)
    def test_threads_and_instruction_sets_give_the_same_bits(self, shape):
        before = torch.get_num_threads()
        for last in (False, True):
            arguments = given(shape, last=last)
            expected = compiled(*arguments)
            try:
                for threads in (1, 2, 5):
                    torch.set_num_threads(threads)
                    assert all(map(torch.equal, compiled(*arguments), expected)), threads
            finally:
                torch.set_num_threads(before)
            for isa in backends.ISAS[: backends.ISAS.index(backends.isa())]:
                with backends.native_isa(isa):
                    assert all(map(torch.equal, compiled(*arguments), expected)), isa

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(2, 13, 7, 5), (3, 16, 8, 8), (2, 32, 2, 2)], ids=str)
    def test_small_planes_are_computed_as_channels_last(self, shape, dtype):
        """Few enough channels are turned at once: the same bits in both orders."""
        planes, last = compiled(*given(shape, dtype)), compiled(*given(shape, dtype, last=True))
        assert all(map(torch.equal, planes, last))

    def test_a_sample_alone_is_the_sample_in_a_batch(self):
        x, gamma, alpha, beta, upstream = given((20, 130, 9, 9))
        whole = compiled(x, gamma, alpha, beta, upstream)
        alone = compiled(x[7:8], gamma[7:8], alpha, beta[7:8], upstream[7:8])
        assert all(torch.equal(w[7:8], a) for w, a in zip(whole, alone, strict=True))

    def test_the_memory_format_stays(self):
        for last in (False, True):
            x, *parameters, _ = given((2, 4, 6, 5), last=last)
            x.requires_grad_()
            out = norm(x, *parameters, activation="elu")
            out.sum().backward()
            assert out.stride() == x.stride() == x.grad.stride()

    def test_what_is_kept_for_the_gradient(self):
        x, *parameters, _ = given((2, 4, 16, 16))
        x.requires_grad_()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            norm(x, *parameters, activation="elu")
        assert [t.shape for t in kept if t.numel() > 8] == [x.shape] and len(kept) == 6

    def test_what_is_done_to_the_output_in_place(self):
        x, *parameters, _ = given((2, 4, 6, 6))
        x.requires_grad_()
        (expected,) = torch.autograd.grad(2 * norm(x, *parameters, activation="elu").sum(), x)
        out = norm(x, *parameters, activation="elu")
        (got,) = torch.autograd.grad(out.mul_(2).sum(), x)
        torch.testing.assert_close(got, expected)
        y = x * 1
        out = norm(y, *parameters)
        y.zero_()
        with pytest.raises(RuntimeError, match="inplace operation"):
            out.sum().backward()


class TestErrors:
    x, one = torch.zeros(2, 3, 4, 4), torch.ones(3)

    @pytest.mark.parametrize(
        ("change", "error", "text"),
        [
            (
                {"x": torch.zeros(2, 1, 4, 4)},
                ValueError,
                r"x must be .* at least 2 channels and 2 pixels.*\(2, 1, 4, 4\)",
            ),
            (
                {"x": torch.zeros(2, 3, 1, 1)},
                ValueError,
                r"x must be .* at least 2 channels and 2 pixels.*\(2, 3, 1, 1\)",
            ),
            ({"x": torch.zeros(2, 3)}, ValueError, "x must be"),
            ({"x": torch.zeros(2, 3, 4, 4).int()}, TypeError, "x must be float16"),
            ({"gamma": torch.ones(3, 2)}, ValueError, r"gamma must be \[C\] or \[B, C\], \(3,\) or \(2, 3\).*\(3, 2\)"),
            ({"alpha": torch.ones(2)}, ValueError, r"alpha must be \[C\] or \[B, C\]"),
            ({"beta": 0.0}, TypeError, "beta must be a torch.Tensor, got float"),
            ({"gamma": torch.ones(3, device="meta")}, ValueError, "gamma must be on the device of x, cpu"),
            ({"eps": 0.0}, ValueError, "eps must be finite and greater than 0, got 0.0"),
            ({"activation": "relu"}, ValueError, "activation must be None or 'elu', got 'relu'"),
        ],
    )
    def test_bad_input_is_named(self, change, error, text):
        with pytest.raises(error, match=text):
            norm(**{"x": self.x, "gamma": self.one, "alpha": self.one, "beta": self.one} | change)

    def test_nothing_at_all(self, backend):
        x = torch.zeros(0, 3, 4, 4, requires_grad=True)
        out = norm(x, self.one, self.one, self.one, activation="elu")
        out.sum().backward()
        assert out.shape == x.grad.shape == (0, 3, 4, 4)
