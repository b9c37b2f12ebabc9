"""instance_norm_plus in each of the ways that its kernels share out the work, of which the operators' table has one."""

import pytest
import torch

from fastscore.ops.instance_norm_plus import reference, reference_gradient

from .cases import DEVICE, on, tensor

from fastscore.kernels import instance_norm_plus, instances  # isort: skip

SHARING = {  # tiles in bytes, channels of a pixel in bytes, chunks, partial results at once; None: as it is
    "whole": {},
    "tiles": {"WHOLE": 0},
    "chunks": {"WHOLE": 0, "TILE": 1024, "LINE": 32, "COMBINED": 16},
    "steps": {"WHOLE": 0, "TILE": 512, "LINE": 16, "COMBINED": 8, "CHUNKS": 3},
}
SHAPES = [(2, 3, 5, 7), (1, 16, 8, 8), (1, 2, 45), (1, 5, 12, 12)]
EPS = 1e-2


def share(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    for name, value in SHARING[how].items():
        monkeypatch.setattr(instances, name, value)


def given(shape: tuple, dtype: torch.dtype, last: bool, per_row: bool) -> tuple:
    """upstream, x; gamma, alpha and beta."""
    pair = [tensor(shape, dtype, seed) for seed in (0, 1)]
    if last:
        pair = [v.movedim(1, -1).contiguous().movedim(-1, 1) for v in pair]
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    return *pair, *(tensor(shape[:2] if per_row else shape[1:2], compute, seed) for seed in (2, 3, 4))


def run(upstream, x, *parameters, activation: int) -> tuple:
    """out, mean and rstd, and the gradients."""
    upstream, x, *parameters = on(DEVICE, upstream, x, *parameters)
    out, mean, rstd = instance_norm_plus.launch(x, *parameters, EPS, activation)
    gradients = instance_norm_plus.launch_gradient(upstream, x, mean, rstd, *parameters, EPS, activation)
    return tuple(value.cpu() for value in (out, mean, rstd, *gradients))


def check(upstream, x, *parameters, activation: int) -> None:
    """Against float64: within 64 roundings of a result's largest number, and one where it is stored in 16 bits."""
    wide = [v.double() for v in (upstream, x, *parameters)]
    out, mean, rstd = reference(*wide[1:], EPS, activation)
    exact = (out, mean, rstd, *reference_gradient(*wide[:2], mean, rstd, *wide[2:], EPS, activation))
    for got, wanted in zip(run(upstream, x, *parameters, activation=activation), exact, strict=True):
        eps = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
        bound = 64 * eps + (torch.finfo(got.dtype).eps if got.dtype.itemsize == 2 else 0)
        assert got.shape == wanted.shape
        assert float((got.double() - wanted).abs().max()) <= bound * max(float(wanted.abs().max()), 1.0)
        if got.dim() > 2:
            assert got.dtype == x.dtype and got.stride() == x.stride()


@pytest.mark.parametrize("how", SHARING)
@pytest.mark.parametrize("last", [False, True], ids=["planes", "last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(monkeypatch, how, shape, last):
    share(monkeypatch, how)
    for activation, dtype in ((1, torch.float32), (0, torch.bfloat16)) + ((1, torch.float64),) * (how == "whole"):
        check(*given(shape, dtype, last, activation == 0), activation=activation)


@pytest.mark.parametrize("how", ["whole", "steps"])
def test_a_large_mean_does_not_cancel_the_variance(monkeypatch, how):
    """x about 10^4, of variance 1: a difference of squares would be wrong by 6. A mean is off by 5e-4, its rounding."""
    share(monkeypatch, how)
    for last in (False, True):
        upstream, x, *parameters = given((1, 4, 9, 9), torch.float32, last, False)
        x = x + 1e4
        _, mean, rstd, *_ = run(upstream, x, *parameters, activation=0)
        _, exact_mean, exact_rstd = reference(x.double(), *(p.double() for p in parameters), EPS, 0)
        torch.testing.assert_close(mean.double(), exact_mean, rtol=4e-7, atol=0)
        torch.testing.assert_close(rstd.double(), exact_rstd, rtol=5e-4, atol=0)


@pytest.mark.parametrize("how", ["whole", "steps"])
@pytest.mark.parametrize("last", [False, True], ids=["planes", "last"])
def test_a_sample_has_the_same_bits_alone(monkeypatch, how, last):
    share(monkeypatch, how)
    upstream, x, *parameters = given((3, 5, 9, 9), torch.float32, last, True)
    together = run(upstream, x, *parameters, activation=1)
    alone = run(upstream[1:2], x[1:2], *(p[1:2] for p in parameters), activation=1)
    assert all(torch.equal(many[1:2], one) for many, one in zip(together, alone, strict=True))


def test_layouts_that_are_neither(monkeypatch):
    """Copied: the same bits, in the memory format of x; upstream may have another."""
    upstream, x, *parameters = given((4, 6, 5, 3), torch.float32, False, True)
    plain = run(upstream, x, *parameters, activation=1)
    for other in (x.transpose(0, 3).contiguous().transpose(0, 3), torch.stack([x, x], -1)[..., 0]):
        got = run(upstream.contiguous(memory_format=torch.channels_last), other, *parameters, activation=1)
        assert all(torch.equal(a, b) for a, b in zip(got, plain, strict=True))
        assert got[0].stride() == got[3].stride() == torch.empty_like(other).stride()


@pytest.mark.parametrize("how", ["whole", "tiles"])
def test_parameters_are_read_where_they_lie(monkeypatch, how):
    """Rows that are parts of an embedding's, [B, 3 C], are not copied; others are. The same bits."""
    share(monkeypatch, how)
    upstream, x, *parameters = given((3, 6, 5, 3), torch.float32, True, True)
    plain = run(upstream, x, *parameters, activation=1)
    embedded = torch.cat(parameters, 1).chunk(3, 1)
    memory, apart = instances.parameters(x, *embedded, x.new_empty(6))
    assert [m.data_ptr() for m in memory[:3]] == [p.data_ptr() for p in embedded] and apart == (3, 3, 3, 0)
    odd = torch.nn.functional.pad(parameters[0], (0, 1))[:, :6]  # rows of 7
    turned = parameters[1].t().contiguous().t()
    one = parameters[2][:1].expand(3, 6)
    assert instances.parameters(x, odd, turned, one)[1] == (1, 1, 1)
    for rows in (embedded, (odd, turned, parameters[2])):
        assert all(torch.equal(a, b) for a, b in zip(run(upstream, x, *rows, activation=1), plain, strict=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            run(upstream, x, *parameters[:2], one, activation=1),
            run(upstream, x, *parameters[:2], one.contiguous(), activation=1),
            strict=True,
        )
    )


@pytest.mark.parametrize("last", [False, True], ids=["planes", "last"])
@pytest.mark.parametrize("channels, pixels", [(2, 4 << 20), (128, 4 << 20), (128, 1024), (3, 5), (512, 4), (32768, 2)])
def test_every_pixel_has_a_place(channels, pixels, last):
    """Chunks cover an image and are few enough to combine; how they are cut does not depend on the batch."""
    cuts = set()
    for batch in (1, 7):
        x = torch.empty(batch, channels, pixels, device="meta")
        plan = instances.Plan.of(x, last)
        arguments, combining = plan.arguments, plan.combining()
        columns = arguments["BLOCK_1"] if last else arguments["BLOCK_0"]
        assert (combining["chunks"] - 1) * combining["CHUNK"] < pixels <= combining["chunks"] * combining["CHUNK"]
        assert plan.chunks <= instances.CHUNKS and plan.grid[1] == (1 if plan.whole else plan.chunks)
        work = plan.grid[0] * (columns if not last else 1), plan.grid[2] * (columns if last else 1)
        assert work[0] >= batch * (1 if last or plan.whole else channels) and (not last or work[1] >= channels)
        cuts.add((arguments["BLOCK_0"], arguments["BLOCK_1"], arguments["STEPS"], plan.chunks, plan.whole))
    assert len(cuts) == 1


def test_too_many_channels_are_refused():
    with pytest.raises(ValueError, match=r"at most 32768 channels in the Triton kernels, got 32769: .*use_backend"):
        instances.Plan.of(torch.empty(1, 32769, 2, device="meta"), False)
