"""InstanceNorm++ against its formula, and the building blocks' pieces."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from fastscore.models.first import FirstConv2d
from fastscore.models.layers import (
    ChainedResidualPooling,
    ConditionalInstanceNormPlus,
    InstanceNormPlus,
    MultiScaleFusion,
    ResidualBlock,
    ResidualConvUnit,
    max_pool,
    mean_pool,
)
from fastscore.ops import instance_norm_plus


def formula(x, gamma, alpha, beta, eps=1e-5):
    """InstanceNorm++ a sample and a channel at a time, straight from the paper."""
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        mu = [x[b, c].mean() for c in range(x.shape[1])]
        m = sum(mu) / len(mu)
        s2 = sum((value - m) ** 2 for value in mu) / (len(mu) - 1)
        for c in range(x.shape[1]):
            v = ((x[b, c] - mu[c]) ** 2).mean()
            h = (x[b, c] - mu[c]) / (v + eps) ** 0.5
            mt = (mu[c] - m) / (s2 + eps) ** 0.5
            out[b, c] = gamma[b, c] * (h + alpha[b, c] * mt) + beta[b, c]
    return out


def sample(batch=2, channels=3, size=(3, 2), offset=0.0, scale=1.0):
    torch.manual_seed(0)
    x = offset + scale * torch.randn(batch, channels, *size, dtype=torch.float64)
    return x, *(torch.randn(batch, channels, dtype=torch.float64) for _ in range(3))


@pytest.mark.parametrize("channels", [2, 3, 7])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_norm_equals_its_formula(channels, scale):
    arguments = sample(channels=channels, scale=scale)
    torch.testing.assert_close(instance_norm_plus(*arguments), formula(*arguments), rtol=1e-11, atol=1e-11)


def test_norm_with_one_parameter_a_channel():
    x, gamma, alpha, beta = sample()
    shared = [p[:1].expand(2, -1) for p in (gamma, alpha, beta)]
    out = instance_norm_plus(x, gamma[0], alpha[0], beta[0])
    torch.testing.assert_close(out, formula(x, *shared), rtol=1e-12, atol=1e-12)


def test_norm_derivatives():
    arguments = [t.requires_grad_() for t in sample()]
    checks = {"check_batched_grad": True, "check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(instance_norm_plus, arguments, **checks)
    assert gradgradcheck(instance_norm_plus, arguments, check_fwd_over_rev=True)


def test_norm_reverse_derivative_of_its_forward_derivative():
    """batch_norm and instance_norm get this one wrong, silently."""
    x, *parameters = sample()
    u = torch.randn_like(x)

    def curvature(norm):
        def along(y):
            return (torch.func.jvp(lambda z: norm(z, *parameters), (y,), (u,))[1] * u).sum()

        return torch.func.grad(along)(x)

    def plain(y, gamma, alpha, beta):
        mu = y.mean((2, 3))
        h = (y - mu[..., None, None]) / (y.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        mt = (mu - mu.mean(1, keepdim=True)) / (mu.var(1, keepdim=True) + 1e-5).sqrt()
        return gamma[..., None, None] * (h + (alpha * mt)[..., None, None]) + beta[..., None, None]

    torch.testing.assert_close(curvature(instance_norm_plus), curvature(plain), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.bfloat16, 0.03), (torch.float16, 4e-3)])
def test_norm_in_low_precision_far_from_zero(dtype, tolerance):
    """A mean of many standard deviations costs digits of the mean, not all of them: sums are float32."""
    offset = 100.0 if dtype == torch.float32 else 16.0
    x, *parameters = (t.to(dtype) for t in sample(4, 8, (6, 6), offset=offset))
    out = instance_norm_plus(x, *parameters)
    exact = formula(x.double(), *(p.double() for p in parameters))
    assert out.dtype == dtype
    assert (out - exact).abs().max() < tolerance * exact.abs().max()


def test_norm_of_constant_images_keeps_only_the_channel_means():
    means = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
    gamma, alpha, beta = torch.tensor([2.0, 3.0, 0.5], dtype=torch.float64)[:, None].expand(3, 3)
    out = instance_norm_plus(means[..., None, None].expand(1, 3, 4, 4), gamma, alpha, beta)
    expected = 2 * 3 * (means - 3) / (7 + 1e-5) ** 0.5 + 0.5  # the unbiased variance of 1, 2, 6 is 7
    torch.testing.assert_close(out, expected[..., None, None].expand_as(out), rtol=1e-12, atol=1e-12)


def test_norm_of_equal_channels_has_finite_gradients():
    x = torch.ones(1, 2, 4, 4, requires_grad=True)
    instance_norm_plus(x, torch.ones(2), torch.ones(2), torch.zeros(2)).square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_conditional_norm_splits_its_embedding_in_gamma_alpha_beta():
    norm = ConditionalInstanceNormPlus(3, num_levels=4).double()
    norm.embed.weight.data.normal_()
    x, labels = sample()[0], torch.tensor([3, 1])
    gamma, alpha, beta = norm.embed.weight.detach()[labels].split(3, dim=1)
    torch.testing.assert_close(norm(x, labels), formula(x, gamma, alpha, beta), rtol=1e-12, atol=1e-12)


def test_initial_values():
    """N(1, 0.02) for gamma and alpha, 0 for beta; 20,000 draws each: z < 4 for mean and deviation."""
    torch.manual_seed(0)
    n = 20_000
    embed = ConditionalInstanceNormPlus(100, num_levels=n // 100).embed.weight.detach()
    plain = InstanceNormPlus(n)
    assert not plain.beta.any() and not embed[:, 200:].any()
    gamma, alpha = embed[:, :100].flatten(), embed[:, 100:200].flatten()
    for values in (gamma, alpha, plain.gamma.detach(), plain.alpha.detach()):
        assert abs(values.mean() - 1) < 4 * 0.02 / n**0.5
        assert abs(values.std() / 0.02 - 1) < 4 / (2 * n) ** 0.5


@pytest.mark.parametrize("build", [lambda: InstanceNormPlus(1), lambda: ConditionalInstanceNormPlus(1, 10)])
def test_one_channel_is_refused(build):
    with pytest.raises(ValueError, match="width must be at least 2, got 1"):
        build()


class _Double(nn.Module):
    """A stand-in for a norm, which shows where it is applied."""

    def forward(self, x, labels):
        return 2 * x


def _impulse(conv: nn.Conv2d, value: float) -> None:
    """Makes a 1-to-1 convolution multiply by ``value``."""
    conv.weight.data.zero_()
    conv.weight.data[..., conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = value
    if conv.bias is not None:
        conv.bias.data.zero_()


def test_residual_conv_unit_on_positive_numbers():
    """With norms that double and convolutions that multiply by 3, a stage is 6 x and a block 37 x."""
    unit = ResidualConvUnit(1, 2, lambda width: _Double())
    for name, module in unit.items():
        if name.endswith("conv"):
            _impulse(module, 3.0)
    x = torch.rand(1, 1, 4, 4)
    torch.testing.assert_close(unit(x, None), 37 * 37 * x)


@pytest.mark.parametrize(("pool", "expected"), [(mean_pool, 1 / 25), (max_pool, 1.0)])
def test_chained_pooling_adds_both_stages(pool, expected):
    crp = ChainedResidualPooling(1, lambda width: _Double(), pool)
    for conv in crp.convs:
        _impulse(conv, 3.0)
    x = torch.zeros(1, 1, 11, 11)
    x[0, 0, 5, 5] = 1
    out = crp(x, None)
    # Four away on both axes only the second stage arrives: one way through two 5x5 windows, or the maximum.
    assert out[0, 0, 1, 1].item() == pytest.approx((6 * expected) ** 2)
    assert out[0, 0, 0, 5].item() == 0


def test_average_pooling_counts_the_padding_as_zeros():
    crp = ChainedResidualPooling(1, lambda width: None, mean_pool)
    for conv in crp.convs:
        _impulse(conv, 1.0)
    crp.convs[1].weight.data.zero_()
    out = crp(torch.ones(1, 1, 8, 8), None)
    assert out[0, 0, 0, 0].item() == pytest.approx(1 + 9 / 25)
    assert out[0, 0, 4, 4].item() == pytest.approx(2)


def test_fusion_resizes_with_aligned_corners():
    """A ramp stays a ramp from corner to corner."""
    fuse = MultiScaleFusion([1, 1], 1, lambda width: None)
    for conv in fuse.convs:
        _impulse(conv, 1.0)
    fuse.convs[0].bias.data.fill_(10.0)
    ramp = torch.linspace(0, 1, 4).expand(1, 1, 4, 4)
    out = fuse([torch.zeros(1, 1, 7, 7), ramp], None)
    torch.testing.assert_close(out, 10 + torch.linspace(0, 1, 7).expand(1, 1, 7, 7))


def test_residual_blocks_shapes_and_strides():
    def norm(width):
        return None

    x = torch.rand(1, 3, 9, 9)
    plain, pooled = ResidualBlock(3, 3, norm), ResidualBlock(3, 6, norm, down=True)
    dilated = ResidualBlock(3, 6, norm, down=True, dilation=4)
    assert plain(x, None).shape == (1, 3, 9, 9)
    assert pooled(x, None).shape == (1, 6, 4, 4)
    assert dilated(x, None).shape == (1, 6, 9, 9)
    for conv in (plain.conv2, pooled.conv2.conv, pooled.shortcut.conv, dilated.conv2, dilated.shortcut):
        nn.init.zeros_(conv.weight), nn.init.zeros_(conv.bias)
    assert torch.equal(plain(x, None), x)  # the shortcut is the identity
    assert not pooled(x, None).any() and not dilated(x, None).any()


def test_compiled_gradients_are_the_eager_ones():
    """Through the in-place ELU and the reshaped group norm, which the compiler rewrites."""
    torch.manual_seed(0)
    block = ResidualBlock(2, 2, partial(ConditionalInstanceNormPlus, num_levels=3)).double()
    x, labels = torch.rand(2, 2, 5, 5, dtype=torch.float64, requires_grad=True), torch.tensor([2, 0])
    inputs = (x, *block.parameters())
    found = torch.autograd.grad(
        torch.compile(block, backend="aot_eager", fullgraph=True)(x, labels).square().sum(), inputs
    )
    expected = torch.autograd.grad(block(x, labels).square().sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_first_convolution_does_not_round_the_image(dtype):
    torch.manual_seed(0)
    conv, x = FirstConv2d(1, 3, 3, padding=1), torch.rand(2, 1, 6, 6)
    with torch.autocast("cpu", dtype):
        out = conv(x)
    assert torch.equal(out, conv(x).to(dtype)) and not torch.equal(out, conv(x.to(dtype).float()).to(dtype))
