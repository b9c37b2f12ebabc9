"""compat.ncsn against formulas written here in the original's form (step_lr, no Philox), with the same noise.

The formulas and signatures were compared with the original's own functions, run beside these with the same noise.
"""

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore.compat import ncsn

from ..conftest import z_mean
from .cases import LABELS, MATRIX, SAMPLES, SIGMAS, close, net, noise, signature


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dsm", "energy_net, samples, sigma=1"),
        ("dsm_score_estimation", "scorenet, samples, sigma=0.01"),
        ("anneal_dsm_score_estimation", "scorenet, samples, labels, sigmas, anneal_power=2.0"),
        ("single_sliced_score_matching", "energy_net, samples, noise=None, detach=False, noise_type='radermacher'"),
        ("partial_sliced_score_matching", "energy_net, samples, noise=None, detach=False, noise_type='radermacher'"),
        ("sliced_score_matching", "energy_net, samples, n_particles=1"),
        ("sliced_score_matching_vr", "energy_net, samples, n_particles=1"),
        ("sliced_score_estimation", "score_net, samples, n_particles=1"),
        ("sliced_score_estimation_vr", "score_net, samples, n_particles=1"),
        ("anneal_sliced_score_estimation_vr", "scorenet, samples, labels, sigmas, n_particles=1"),
        ("Langevin_dynamics", "x_mod, scorenet, n_steps=200, step_lr=5e-05"),
        ("baseline_Langevin_dynamics", "x_mod, scorenet, n_steps=1000, step_lr=2e-05"),
        ("anneal_Langevin_dynamics", "x_mod, scorenet, sigmas, n_steps_each=100, step_lr=2e-05"),
        (
            "anneal_Langevin_dynamics_inpainting",
            "x_mod, refer_image, scorenet, sigmas, n_steps_each=100, step_lr=8e-06",
        ),
        ("langevin_dynamics", "score, init, lr=0.1, step=1000"),
        ("anneal_langevin_dynamics", "score, init, sigmas, lr=0.1, n_steps_each=100"),
    ],
)
def test_signatures(name, expected):
    assert signature(getattr(ncsn, name)) == expected


def test_every_function_is_listed():
    assert len(ncsn.__all__) == len(set(ncsn.__all__)) == 16


def energy(x):
    return torch.cos(x.flatten(1) @ MATRIX).sum(1) + 0.3 * (x.flatten(1) ** 3).sum(1)


def energy_score(x):
    """-dE/dx of that energy, by hand."""
    flat = x.flatten(1)
    return (torch.sin(flat @ MATRIX) @ MATRIX.T - 0.9 * flat**2).view_as(x)


@pytest.mark.parametrize("sigma", [0.3, 2, np.float32(0.25)])
def test_dsm(sigma):
    """The weight is sigma^4."""
    z = noise(0, fs.Stream.PERTURB)
    residual = energy_score(SAMPLES + float(sigma) * z) + z / float(sigma)
    close(ncsn.dsm(energy, SAMPLES, sigma, rng=fs.Philox(5)), (0.5 * sigma**4 * residual**2).flatten(1).sum(1).mean())


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", ["sliced_score_matching", "sliced_score_matching_vr"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_energy_forms_are_those_of_its_score(name, n, shape):
    got = getattr(ncsn, name)(lambda x: energy(x).reshape(shape), SAMPLES, n, rng=fs.Philox(5))
    expected = getattr(ncsn, name.replace("matching", "estimation"))(energy_score, SAMPLES, n, rng=fs.Philox(5))
    for a, b in zip(got, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("name", ["single_sliced_score_matching", "partial_sliced_score_matching"])
@pytest.mark.parametrize("noise_type", [None, "radermacher", "rademacher", "sphere", "gaussian"])
def test_one_direction(name, noise_type):
    """Given, or drawn: signs, a sphere of radius sqrt(D), normal."""
    if noise_type == "sphere" and name.startswith("partial"):
        with pytest.raises(ValueError, match="noise_type must be one of 'radermacher', 'gaussian', got 'sphere'"):
            ncsn.partial_sliced_score_matching(energy, SAMPLES, noise_type=noise_type)
        return
    v = noise(9, fs.Stream.PROBE)
    if noise_type is None:
        loss, score, pulled = getattr(ncsn, name)(energy, SAMPLES, v)
    else:
        kind = noise_type.replace("radermacher", "rademacher")
        v = fs.fill_probes(fs.Probes(SAMPLES, 1, fs.Philox(5), distribution=kind))[0]
        loss, score, pulled = getattr(ncsn, name)(energy, SAMPLES, noise_type=noise_type, rng=fs.Philox(5))
    half, along, trace = sliced_terms(energy_score, SAMPLES, v)
    close(score, energy_score(SAMPLES))
    close((pulled * v).flatten(1).sum(1), trace)
    close(loss, ((along if name.startswith("single") else half) + trace).mean())


@pytest.mark.parametrize("name", ["single_sliced_score_matching", "partial_sliced_score_matching"])
def test_detach_cuts_the_loss_alone(name):
    w = torch.full((), 0.7, dtype=torch.float64, requires_grad=True)
    v = noise(9, fs.Stream.PROBE)
    free, cut = (getattr(ncsn, name)(lambda x: w * energy(x), SAMPLES, v, detach) for detach in (False, True))
    assert torch.equal(free[0], cut[0]) and not cut[0].requires_grad
    for loss in (free[0], free[1].square().sum(), cut[1].square().sum(), cut[2].sum()):
        assert torch.autograd.grad(loss, w, retain_graph=True)[0].abs() > 1e-6
    assert not SAMPLES.requires_grad


def test_gradients_of_the_energy_forms():
    w = torch.full((), 0.5, dtype=torch.float64, requires_grad=True)
    x = SAMPLES[:2]
    for loss in (
        lambda f: ncsn.dsm(f, x, 0.3, rng=fs.Philox(5)),
        lambda f: ncsn.sliced_score_matching(f, x, rng=fs.Philox(5))[0],
        lambda f: ncsn.sliced_score_matching_vr(f, x, rng=fs.Philox(5))[0],
        lambda f: ncsn.single_sliced_score_matching(f, x, rng=fs.Philox(5))[0],
    ):
        assert torch.autograd.gradcheck(lambda w, loss=loss: loss(lambda y: energy(w * y)), (w,))
    with torch.no_grad():  # as in a validation loop
        assert not ncsn.dsm(energy, x, 0.3).requires_grad
        close(
            ncsn.sliced_score_matching_vr(energy, x, rng=fs.Philox(5))[0],
            ncsn.sliced_score_estimation_vr(energy_score, x, rng=fs.Philox(5))[0],
        )


def test_dsm_score_estimation():
    sigma = 0.2
    perturbed = SAMPLES + noise(0, fs.Stream.PERTURB) * sigma
    target = -(perturbed - SAMPLES) / sigma**2
    expected = 0.5 * ((net(perturbed) - target) ** 2).flatten(1).sum(1).mean(0)
    close(ncsn.dsm_score_estimation(net, SAMPLES, sigma, rng=fs.Philox(5)), expected)


@pytest.mark.parametrize("power", [2.0, 1.0])
def test_anneal_dsm_score_estimation(power):
    used = SIGMAS[LABELS].view(-1, 1, 1, 1)
    perturbed = SAMPLES + noise(0, fs.Stream.PERTURB) * used
    target = -(perturbed - SAMPLES) / used**2
    each = 0.5 * ((net(perturbed, LABELS) - target) ** 2).flatten(1).sum(1) * used.flatten() ** power
    close(ncsn.anneal_dsm_score_estimation(net, SAMPLES, LABELS, SIGMAS, power, rng=fs.Philox(5)), each.mean())


@pytest.mark.parametrize("loss", [ncsn.anneal_dsm_score_estimation, ncsn.anneal_sliced_score_estimation_vr])
def test_levels_of_numpy_and_labels_of_another_kind(loss):
    expected = loss(net, SAMPLES, LABELS, SIGMAS, rng=fs.Philox(5))
    for sigmas in (SIGMAS.numpy(), SIGMAS.tolist(), list(SIGMAS.numpy())):
        for labels in (LABELS.int(), LABELS.numpy(), LABELS.tolist()):
            close(loss(net, SAMPLES, labels, sigmas, rng=fs.Philox(5)), expected)
    close(
        loss(net, SAMPLES, LABELS, SIGMAS, np.int64(2), rng=fs.Philox(5)),
        loss(net, SAMPLES, LABELS, SIGMAS, 2, rng=fs.Philox(5)),
    )


@pytest.mark.parametrize("loss", [ncsn.anneal_dsm_score_estimation, ncsn.anneal_sliced_score_estimation_vr])
@pytest.mark.parametrize(("labels", "sigmas"), [(SIGMAS, LABELS), (SIGMAS, SIGMAS), (SIGMAS, None), (LABELS, LABELS)])
def test_the_other_order_is_named(loss, labels, sigmas):
    with pytest.raises(TypeError, match=r"in the order \(labels, sigmas\), got labels: .*fastscore\.compat\.ncsnv2"):
        loss(net, SAMPLES, labels, sigmas)


def sliced_terms(network, x, v):
    """1/2 ||s||^2, 1/2 (v.s)^2 and v^T J v from the whole Jacobian of each sample."""
    rows = []
    for x_b, v_b in zip(x, v):
        jacobian = torch.autograd.functional.jacobian(lambda y: network(y[None])[0], x_b).reshape(12, 12)
        s, v_flat = network(x_b[None]).flatten(), v_b.flatten()
        rows.append(torch.stack([s @ s / 2, (v_flat @ s) ** 2 / 2, v_flat @ jacobian @ v_flat]))
    return torch.stack(rows).unbind(1)


def directions(n, step=0):
    """Particle k of every sample is of step k."""
    return torch.cat([noise(step + k, fs.Stream.PROBE) for k in range(n)])


@pytest.mark.parametrize("n", [1, 3])
def test_sliced_score_estimation(n):
    v = directions(n)
    v = v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    _, loss1, loss2 = sliced_terms(net, SAMPLES.repeat(n, 1, 1, 1), v)
    got = ncsn.sliced_score_estimation(net, SAMPLES, n, rng=fs.Philox(5))
    for a, b in zip(got, ((loss1 + loss2).mean(), loss1.mean(), loss2.mean())):
        close(a, b)


@pytest.mark.parametrize("n", [1, 3])
def test_sliced_score_estimation_vr(n):
    v = directions(n)
    loss1, _, loss2 = sliced_terms(net, SAMPLES.repeat(n, 1, 1, 1), v)
    got = ncsn.sliced_score_estimation_vr(net, SAMPLES, n, rng=fs.Philox(5))
    for a, b in zip(got, ((loss1 + loss2).mean(), loss1.mean(), loss2.mean())):
        close(a, b)


@pytest.mark.parametrize("n", [1, 2])
def test_anneal_sliced_score_estimation_vr(n):
    used = SIGMAS[LABELS].view(-1, 1, 1, 1)
    perturbed = SAMPLES + noise(0, fs.Stream.PERTURB) * used
    v = directions(n, step=1)
    expected = torch.zeros(4, dtype=torch.float64)
    for k in range(n):
        for b in range(4):
            loss1, _, loss2 = sliced_terms(
                lambda y, b=b: net(y, LABELS[b : b + 1]), perturbed[b : b + 1], v[4 * k + b : 4 * k + b + 1]
            )
            expected[b] += (loss1 + loss2)[0] / n * SIGMAS[LABELS[b]] ** 2
    close(ncsn.anneal_sliced_score_estimation_vr(net, SAMPLES, LABELS, SIGMAS, n, rng=fs.Philox(5)), expected.mean())


@pytest.mark.parametrize(
    "loss",
    [
        ncsn.sliced_score_estimation,
        ncsn.sliced_score_estimation_vr,
        lambda *a, **k: (
            ncsn.anneal_sliced_score_estimation_vr(a[0], a[1], torch.zeros(len(a[1])).long(), SIGMAS, a[2], **k),
        ),
    ],
)
def test_sliced_losses_of_a_split_batch(loss):
    """Whatever the number of particles, the parts draw what the whole draws, and the network is called once."""
    calls = []

    def counted(x, labels=None):
        calls.append(x.shape)
        return net(x)

    whole = loss(counted, SAMPLES, 3, rng=fs.Philox(5))
    assert calls == [SAMPLES.shape]
    parts = [loss(net, SAMPLES[k : k + 2], 3, rng=fs.Philox(5, sample_offset=k)) for k in (0, 2)]
    for a, b, c in zip(whole, *parts):
        close(a, (b + c) / 2)


def test_sliced_losses_against_implicit_score_matching():
    """s = -a x on N(0, c^2 I_d): implicit score matching is d (a^2 c^2 / 2 - a); the sphere's form is 1/d of it."""
    a, c, d, n = 0.7, 1.5, 6, 100_000
    x = c * fs.Philox(1).randn(n, d, dtype=torch.float64)
    exact = d * (a * a * c * c / 2 - a)
    # spread of a sample: ||s||^2/2 has variance d a^4 c^4 / 2; v^T J v = -a ||v||^2 has 2 d a^2 (v normal)
    vr = ncsn.sliced_score_estimation_vr(lambda y: -a * y, x, rng=fs.Philox(2))[0]
    assert abs(float(vr) - exact) < 4 * ((d * a**4 * c**4 / 2 + 2 * d * a * a) / n) ** 0.5
    sphere = ncsn.sliced_score_estimation(lambda y: -a * y, x, rng=fs.Philox(2))[0]
    assert abs(float(sphere) - exact / d) < 4 * (a**4 * c**4 / 2 / n) ** 0.5  # (v.s)^2/2, v.s ~ N(0, a^2 c^2)


def test_gradients_reach_the_network():
    w = torch.full((), 0.5, dtype=torch.float64, requires_grad=True)
    for loss in (
        lambda f: ncsn.dsm_score_estimation(f, SAMPLES, rng=fs.Philox(5)),
        lambda f: ncsn.sliced_score_estimation(f, SAMPLES, rng=fs.Philox(5))[0],
        lambda f: ncsn.sliced_score_estimation_vr(f, SAMPLES, rng=fs.Philox(5))[0],
    ):
        assert torch.autograd.gradcheck(lambda w, loss=loss: loss(lambda x: w * torch.sin(x)), (w,))


@pytest.mark.parametrize(
    "loss",
    [
        lambda f, x: ncsn.sliced_score_estimation(f, x, 2, rng=fs.Philox(5))[0],
        lambda f, x: ncsn.sliced_score_estimation_vr(f, x, 2, rng=fs.Philox(5))[0],
        lambda f, x: ncsn.anneal_sliced_score_estimation_vr(
            lambda x, labels: f(x), x, LABELS, SIGMAS, 2, rng=fs.Philox(5)
        ),
    ],
)
def test_gradients_reach_the_samples(loss):
    """As in the originals: samples that a generator made can be learned from."""
    assert torch.autograd.gradcheck(lambda x: loss(torch.sin, x), (SAMPLES.clone().requires_grad_(),))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ncsn.sliced_score_matching(energy, SAMPLES, 0), "n_particles must be at least 1"),
        (
            lambda: ncsn.single_sliced_score_matching(energy, SAMPLES, SAMPLES[:2]),
            "noise must have the shape of samples",
        ),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_sphere_has_unit_directions():
    """With s(x) = x, v^T J v = ||v||^2 = 1 for every particle."""
    loss2 = ncsn.sliced_score_estimation(lambda x: x, SAMPLES, 50)[2]
    assert abs(float(loss2) - 1) < 1e-12
    v = ncsn.sliced_score_estimation_vr(lambda x: x, SAMPLES.repeat(2000, 1, 1, 1))[2]
    assert abs(z_mean(v[None], 12, 24 / 8000)) < 4
