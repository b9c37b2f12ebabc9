"""compat.ncsnv2 against formulas written here in the original's form (step_lr, no Philox), with the same noise.

The formulas and signatures were compared with the original's own functions, run beside these with the same noise.
"""

import math
import re
from argparse import Namespace

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore.compat import ncsnv2

from .cases import LABELS, SAMPLES, SIGMAS, close, eta_of, inpainting_by_hand, langevin_by_hand, net, noise, signature


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anneal_dsm_score_estimation", "scorenet, samples, sigmas, labels=None, anneal_power=2.0, hook=None"),
        ("get_optimizer", "config, parameters"),
        ("get_sigmas", "config"),
        (
            "anneal_Langevin_dynamics",
            "x_mod, scorenet, sigmas, n_steps_each=200, step_lr=8e-06, final_only=False, verbose=False, denoise=True",
        ),
        (
            "anneal_Langevin_dynamics_inpainting",
            "x_mod, refer_image, scorenet, sigmas, image_size, n_steps_each=100, step_lr=8e-06",
        ),
        (
            "anneal_Langevin_dynamics_interpolation",
            "x_mod, scorenet, sigmas, n_interpolations, n_steps_each=200, "
            "step_lr=8e-06, final_only=False, verbose=False",
        ),
    ],
)
def test_signatures(name, expected):
    assert name in ncsnv2.__all__ and signature(getattr(ncsnv2, name)) == expected


@pytest.mark.parametrize("power", [2.0, 1.0, np.float32(1.5)])
def test_anneal_dsm_score_estimation(power):
    used = SIGMAS[LABELS].view(-1, 1, 1, 1)
    perturbed = SAMPLES + noise(0, fs.Stream.PERTURB) * used
    target = -(perturbed - SAMPLES) / used**2
    each = 0.5 * ((net(perturbed, LABELS) - target) ** 2).flatten(1).sum(1) * used.flatten() ** float(power)
    seen = []
    for sigmas in (SIGMAS, SIGMAS.numpy(), SIGMAS.tolist()):
        got = ncsnv2.anneal_dsm_score_estimation(
            net, SAMPLES, sigmas, LABELS, power, lambda *a: seen.append(a), rng=fs.Philox(5)
        )
        close(got, each.mean())
    close(seen[0][0], each)
    assert torch.equal(seen[0][1], LABELS)


def test_labels_are_drawn_where_there_are_none():
    hook = []
    first = ncsnv2.anneal_dsm_score_estimation(
        net, SAMPLES, SIGMAS, None, 2.0, lambda *a: hook.append(a), rng=fs.Philox(5)
    )
    assert torch.equal(first, ncsnv2.anneal_dsm_score_estimation(net, samples=SAMPLES, sigmas=SIGMAS, rng=fs.Philox(5)))
    assert torch.equal(hook[0][1], fs.losses.draw_labels(3, 4, fs.Philox(5)))
    torch.manual_seed(0)
    one = ncsnv2.anneal_dsm_score_estimation(net, SAMPLES, SIGMAS)
    torch.manual_seed(0)
    assert torch.equal(one, ncsnv2.anneal_dsm_score_estimation(net, SAMPLES, SIGMAS))


def test_the_other_order_is_named():
    with pytest.raises(TypeError, match=r"in the order \(sigmas, labels\), got labels: .*fastscore\.compat\.ncsn$"):
        ncsnv2.anneal_dsm_score_estimation(net, SAMPLES, LABELS, SIGMAS)


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("as_given", [torch.clone, torch.Tensor.numpy, torch.Tensor.tolist, lambda s: list(s.numpy())])
def test_anneal_langevin_dynamics(denoise, as_given):
    expected = langevin_by_hand(SAMPLES, 1e-3, 2)[0]
    if denoise:
        expected.append(expected[-1] + SIGMAS[-1] ** 2 * net(expected[-1], torch.full((4,), 2)))
    got = ncsnv2.anneal_Langevin_dynamics(
        SAMPLES, net, as_given(SIGMAS), 2, 1e-3, False, False, denoise, rng=fs.Philox(5)
    )
    for a, b in zip(got, expected, strict=True):
        close(a, b)
    final = ncsnv2.anneal_Langevin_dynamics(
        SAMPLES, net, as_given(SIGMAS), 2, 1e-3, True, False, denoise, rng=fs.Philox(5)
    )
    assert len(final) == 1 and torch.equal(final[0], got[-1])


def numbers(line):
    """{name: value} of a printed line."""
    return {name: float(value) for name, value in re.findall(r"(\w+): (\S+?)(?:,|$)", line)}


def size(x):
    return x.flatten(1).norm(dim=1).mean().item()


def test_verbose(capsys):
    """A line per update, with what the original's users tune by, in its words and order."""
    got = ncsnv2.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, 2, 1e-3, True, True, rng=fs.Philox(5))
    lines = [numbers(line) for line in capsys.readouterr().out.splitlines()]
    silent = ncsnv2.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, 2, 1e-3, True, rng=fs.Philox(5))
    assert torch.equal(got[0], silent[0]) and not capsys.readouterr().out
    for i, (line, x, score, z) in enumerate(zip(lines, *langevin_by_hand(SAMPLES, 1e-3, 2), strict=True)):
        sigma = SIGMAS[i // 2].item()
        eta = 1e-3 * (sigma / 0.1) ** 2
        expected = {
            "level": i // 2,
            "step_size": eta,
            "grad_norm": size(score),
            "image_norm": size(x),
            "snr": math.sqrt(eta / 2) * size(score) / size(z),
            "grad_mean_norm": sigma**2 * score.mean(0).square().sum().item(),
        }
        assert list(line) == list(expected) and line == pytest.approx(expected, rel=1e-5)


def test_verbose_interpolation(capsys):
    """There the image's norm is that before the update, and comes first."""
    ncsnv2.anneal_Langevin_dynamics_interpolation(SAMPLES, net, SIGMAS, 1, 2, 1e-3, True, True, rng=fs.Philox(5))
    lines = [numbers(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["level"] for line in lines] == [0, 0, 1, 1, 2, 2]
    score, z = net(SAMPLES, torch.zeros(4)), noise(0, fs.Stream.LANGEVIN)
    expected = {
        "level": 0,
        "step_size": 0.1,
        "image_norm": size(SAMPLES),
        "grad_norm": size(score),
        "snr": math.sqrt(0.05) * size(score) / size(z),
    }
    assert list(lines[0]) == list(expected) and lines[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor])
def test_numbers_of_numpy_and_torch(number, capsys):
    step_lr, two = number(2.0**-10), np.int64(2)  # exact in float32 too
    refer, x_mod = SAMPLES[:2], SAMPLES[:2, None]
    for call in (
        lambda s, n: ncsnv2.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, n, s, True, rng=fs.Philox(5)),
        lambda s, n: ncsnv2.anneal_Langevin_dynamics_inpainting(x_mod, refer, net, SIGMAS, n, n, s, rng=fs.Philox(5)),
        lambda s, n: ncsnv2.anneal_Langevin_dynamics_interpolation(
            SAMPLES, net, SIGMAS, n, n, s, True, rng=fs.Philox(5)
        ),
    ):
        assert torch.equal(call(step_lr, two)[-1], call(2.0**-10, 2)[-1])


def test_inpainting(capsys):
    refer = torch.rand(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x_mod = torch.rand(2, 2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 3
    before = x_mod.clone()
    got = ncsnv2.anneal_Langevin_dynamics_inpainting(x_mod, refer, net, SIGMAS.numpy(), 2, 2, 1e-3, rng=fs.Philox(5))
    for a, b in zip(got, inpainting_by_hand(refer, x_mod, 2, 1e-3), strict=True):
        close(a, b)
    assert torch.equal(x_mod, before)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"class: {c}" for c in (0, 0, 1, 1, 2, 2)]
    with pytest.raises(ValueError, match="image_size must be the side of refer_image, got 32 and a float64 tensor"):
        ncsnv2.anneal_Langevin_dynamics_inpainting(x_mod, refer, net, SIGMAS, 32)


def test_interpolation():
    x_mod, n = SAMPLES[:2], 3
    got = ncsnv2.anneal_Langevin_dynamics_interpolation(x_mod, net, SIGMAS, n, 2, 1e-3, rng=fs.Philox(5))
    x, step = x_mod[:, None].repeat(1, n, 1, 1, 1), 0
    angles = torch.linspace(0, math.pi / 2, n, dtype=torch.float64).view(1, n, 1, 1, 1)
    for c, sigma in enumerate(SIGMAS.float().tolist()):
        eta = eta_of(sigma, 1e-3)
        for _ in range(2):
            p, q = (noise(step + k, fs.Stream.LANGEVIN, x_mod.shape)[:, None] for k in range(2))
            step += 2
            grad = net(x.flatten(0, 1), torch.full((2 * n,), c)).view_as(x)
            x = x + eta * grad + math.sqrt(2 * eta) * (p * angles.cos() + q * angles.sin())
            close(got[step // 2 - 1], x.flatten(0, 1))
    final = ncsnv2.anneal_Langevin_dynamics_interpolation(x_mod, net, SIGMAS, n, 2, 1e-3, True, rng=fs.Philox(5))
    assert len(final) == 1 and torch.equal(final[0], got[-1])


def test_one_interpolation_is_the_first_of_several():
    """theta_0 = 0: the chain that the first noise sequence alone drives."""
    one = ncsnv2.anneal_Langevin_dynamics_interpolation(SAMPLES, net, SIGMAS, 1, 2, 1e-3, rng=fs.Philox(5))
    three = ncsnv2.anneal_Langevin_dynamics_interpolation(SAMPLES, net, SIGMAS, 3, 2, 1e-3, rng=fs.Philox(5))
    for a, b in zip(one, three, strict=True):
        close(a, b[::3])


def test_published_step_lr_maps_to_step_size():
    """Their step_lr = 2e-5 is our step_size = 4e-5."""
    ours = fs.samplers.annealed_langevin(
        net, SAMPLES.shape, SIGMAS.float(), step_size=4e-5, steps_per_level=3, start=SAMPLES, rng=fs.Philox(1)
    )
    theirs = ncsnv2.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, 3, 2e-5, True, False, False, rng=fs.Philox(1))[0]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("geometric", [50 ** (1 - i / 4) * 0.01 ** (i / 4) for i in range(5)]),
        ("uniform", [50 + (0.01 - 50) * i / 4 for i in range(5)]),
    ],
)
def test_get_sigmas(kind, expected):
    model = Namespace(sigma_dist=kind, sigma_begin=50, sigma_end=0.01, num_classes=5)
    sigmas = ncsnv2.get_sigmas(Namespace(model=model, device=torch.device("cpu")))
    assert sigmas.dtype == torch.float32
    torch.testing.assert_close(sigmas, torch.tensor(expected), rtol=1e-6, atol=0)
    model.sigma_dist = "cosine"
    with pytest.raises(NotImplementedError, match="sigma_dist must be one of geometric, uniform, got 'cosine'"):
        ncsnv2.get_sigmas(Namespace(model=model, device="cpu"))


def test_get_optimizer():
    optim = Namespace(optimizer="Adam", lr=0.1, weight_decay=0.01, beta1=0.8, amsgrad=True, eps=1e-6)
    parameters = [torch.nn.Parameter(torch.ones(2))]
    adam = ncsnv2.get_optimizer(Namespace(optim=optim), parameters)
    assert type(adam) is torch.optim.Adam
    assert {k: adam.defaults[k] for k in ("lr", "betas", "eps", "weight_decay", "amsgrad")} == {
        "lr": 0.1,
        "betas": (0.8, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "amsgrad": True,
    }
    optim.optimizer = "RMSProp"
    assert type(ncsnv2.get_optimizer(Namespace(optim=optim), parameters)) is torch.optim.RMSprop
    optim.optimizer = "SGD"
    assert ncsnv2.get_optimizer(Namespace(optim=optim), parameters).defaults["momentum"] == 0.9
    optim.optimizer = "Lion"
    with pytest.raises(NotImplementedError, match="optimizer must be one of Adam, RMSProp, SGD, got 'Lion'"):
        ncsnv2.get_optimizer(Namespace(optim=optim), parameters)
