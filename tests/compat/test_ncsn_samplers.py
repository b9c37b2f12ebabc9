"""The first repository's samplers against formulas in its form (step_lr, no Philox), with the same noise."""

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore.compat import ncsn

from .cases import SAMPLES, SIGMAS, close, inpainting_by_hand, langevin_by_hand, net, noise


def test_langevin_dynamics(capsys):
    """AnnealRunner's, at label 9; BaselineRunner's, without; what they print; and the frames in [0, 1]."""
    expected, printed, x = [], [], SAMPLES
    for step in range(3):
        score = net(x, torch.full((4,), 9))
        x = x + 0.01 * score + 0.02**0.5 * noise(step, fs.Stream.LANGEVIN)
        expected.append(x.clamp(0, 1))
        printed.append(
            f"modulus of grad components: mean {score.abs().mean().item():.9f}, max {score.abs().max().item():.9f}"
        )
    got = ncsn.Langevin_dynamics(SAMPLES, net, 3, 0.01, rng=fs.Philox(5))
    lines = capsys.readouterr().out.splitlines()
    assert len(got) == 3 and [line[:38] for line in lines] == [line[:38] for line in printed]
    assert [line.partition("max ")[2][:7] for line in lines] == [line.partition("max ")[2][:7] for line in printed]
    plain = ncsn.baseline_Langevin_dynamics(
        SAMPLES, lambda x: net(x, torch.full((4,), 9)), np.int32(3), np.float32(0.01), rng=fs.Philox(5)
    )
    for a, b, c in zip(got, plain, expected, strict=True):
        close(a, c), close(b, c)
    assert got[0].min() == 0 and got[0].max() == 1


@pytest.mark.parametrize("as_given", [torch.clone, torch.Tensor.numpy, torch.Tensor.tolist, lambda s: list(s.numpy())])
def test_anneal_langevin_dynamics(as_given, capsys):
    """The fifth argument is step_lr and there is no other: no denoising; frames in [0, 1], the last update too."""
    expected = langevin_by_hand(SAMPLES, 1e-3, 2)[0]
    before = SAMPLES.clone()
    got = ncsn.anneal_Langevin_dynamics(SAMPLES, net, as_given(SIGMAS), 2, 1e-3, rng=fs.Philox(5))
    assert len(got) == len(expected) == 6 and torch.equal(SAMPLES, before) and not capsys.readouterr().out
    for a, b in zip(got, expected):
        close(a, b.clamp(0, 1))
    assert got[-1].min() == 0 and (expected[-1] < 0).any()


def test_inpainting():
    """Without image_size, of any size; frames in [0, 1]."""
    refer = torch.rand(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x_mod = torch.rand(2, 2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got = ncsn.anneal_Langevin_dynamics_inpainting(x_mod, refer, net, SIGMAS.numpy(), 2, 1e-3, rng=fs.Philox(5))
    for a, b in zip(got, inpainting_by_hand(refer, x_mod, 2, 1e-3), strict=True):
        close(a, b.clamp(0, 1))
    close(got[-1][..., :1], refer.repeat_interleave(2, 0)[..., :1])
    with pytest.raises(ValueError, match=r"x_mod must be \[R, N, C, H, W\] beside refer_image"):
        ncsn.anneal_Langevin_dynamics_inpainting(x_mod[:, 0], refer, net, SIGMAS)


def toy_score(x, sigma=1.0):
    assert isinstance(sigma, float)
    return -torch.sin(x) / sigma**2


def test_toy_samplers():
    """Their lr is our step_size, the paper's alpha, not half of it."""
    x = SAMPLES
    for step in range(5):
        x = x - 0.05 / 2 * torch.sin(x) + 0.05**0.5 * noise(step, fs.Stream.LANGEVIN)
    close(ncsn.langevin_dynamics(toy_score, SAMPLES, 0.05, 5, rng=fs.Philox(5)), x)
    x, step = SAMPLES, 0
    for sigma in SIGMAS.float().tolist():
        step_size = 1e-3 * (sigma / SIGMAS.float()[-1].item()) ** 2
        for _ in range(3):
            x = x + step_size / 2 * toy_score(x, sigma) + step_size**0.5 * noise(step, fs.Stream.LANGEVIN)
            step += 1
    close(ncsn.anneal_langevin_dynamics(toy_score, SAMPLES, SIGMAS.numpy(), 1e-3, 3, rng=fs.Philox(5)), x)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ncsn.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, 2, -1e-5), "step_lr must be finite and greater"),
        (lambda: ncsn.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, 0), "n_steps_each must be at least 1, got 0"),
        (lambda: ncsn.Langevin_dynamics(SAMPLES, net, 0), "n_steps must be at least 1, got 0"),
        (lambda: ncsn.langevin_dynamics(toy_score, SAMPLES, 0.0), "lr must be finite and greater than 0"),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()
