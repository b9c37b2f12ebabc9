"""What only a device can show: the same bits as the CPU, CUDA graphs, streams. The table of cases runs there too."""

import pytest
import torch

import fastscore as fs
from fastscore import _noise
from fastscore._core import backends, sequence
from fastscore._core.registration import raw

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", sequence.KINDS)
def test_numbers_are_the_cpus(kind):
    """Bit for bit, the normals too: one sequence of float32 operations, without contraction."""
    dtype = torch.int64 if kind == "words" else torch.float32
    here, there = (
        _noise.draw(kind, fs.Philox(2**63 + 5, step=9, sample_offset=2**31).noise((1000, 3, 33), device=device), dtype)
        for device in ("cpu", "cuda")
    )
    assert backends.last["fill"] == "triton"
    assert torch.equal(there.cpu(), here)


def test_operators_agree_with_the_cpu():
    x, sigma = torch.randn(64, 3, 32, 32), torch.linspace(0.1, 2, 64)
    x_tilde, noise = fs.perturb(x, sigma, fs.Philox(1))
    there, handle = fs.perturb(x.cuda(), sigma.cuda(), fs.Philox(1))
    torch.testing.assert_close(there.cpu(), x_tilde)
    score, leaf = (-t.detach().clone() for t in (x_tilde, there))
    pairs = ((score, noise, sigma), (leaf, handle, sigma.cuda()))
    losses = [fs.dsm_loss(s.requires_grad_(), n, o) for s, n, o in pairs]
    for loss in losses:
        loss.mean().backward()
    torch.testing.assert_close(losses[1].cpu(), losses[0])
    torch.testing.assert_close(leaf.grad.cpu(), score.grad)
    torch.testing.assert_close(
        fs.langevin_step(x.cuda(), x.cuda(), 0.1, fs.Philox(2)).cpu(), fs.langevin_step(x, x, 0.1, fs.Philox(2))
    )


def test_a_captured_draw_draws_anew_at_every_replay():
    x = torch.zeros(16, 3, 8, 8, device="cuda")
    kept, plain = fs.Philox(7, device="cuda"), fs.Philox(7)

    def work():
        x_tilde, noise = fs.perturb(x, 0.5, kept)
        return x_tilde, fs.dsm_loss(-x_tilde, noise, 0.5), fs.langevin_step(x, x_tilde, 0.5, kept)

    work()  # kernels are compiled and constants made outside of the capture
    kept.step = 0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x_tilde, loss, y = work()
    for _ in range(3):
        graph.replay()
        expected_x, handle = fs.perturb(x, 0.5, plain)
        torch.testing.assert_close(x_tilde, expected_x)
        torch.testing.assert_close(loss, fs.dsm_loss(-expected_x, handle, 0.5))
        torch.testing.assert_close(y, fs.langevin_step(x, expected_x, 0.5, plain))


def test_the_current_stream_is_used():
    x, stream = torch.zeros(1 << 22, device="cuda")[None], torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x.fill_(3.0)
        y = fs.perturb(x, 1e-6, fs.Philox(0))[0]
    stream.synchronize()
    torch.testing.assert_close(y, torch.full_like(y, 3.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(4, 16, 8, 8), (2, 32, 64, 64)], ids=["a program a sample", "many"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_captured_norm_has_the_bits_of_an_eager_one(shape, memory_format):
    """Forward and backward of new numbers in the same memory: nothing was decided, or read, on the host."""
    x, upstream = (torch.randn(shape, device="cuda").contiguous(memory_format=memory_format) for _ in range(2))
    gamma, alpha, beta = (torch.randn(shape[1], device="cuda") for _ in range(3))

    def work() -> tuple:
        out, mean, rstd = raw("instance_norm_plus", "triton")(x, gamma, alpha, beta, 1e-5, 1)
        saved = (x, mean, rstd, gamma, alpha, beta)
        return out, mean, rstd, *raw("instance_norm_plus_gradient", "triton")(upstream, *saved, 1e-5, 1)

    work()  # kernels are compiled outside of the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for _ in range(2):
        for given in (x, upstream, gamma):
            given.normal_()
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(captured, work(), strict=True))
