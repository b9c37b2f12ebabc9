"""compat.ncsn against formulas written here in the originals' form (step_lr, no Philox), with the same noise."""

import math

import numpy as np
import pytest
import torch

import fastscore as fs
from fastscore.compat import ncsn

from ..conftest import z_mean

SIGMAS = torch.tensor([1.0, 0.4, 0.1], dtype=torch.float64)
MATRIX = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SAMPLES = torch.randn(4, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([2, 0, 1, 2])


def net(x, labels=None):
    """A network that is neither linear nor symmetric, and depends on the label."""
    shift = 0.0 if labels is None else labels.view(-1, 1, 1, 1).to(x.dtype)
    return (torch.sin(x).flatten(1) @ MATRIX).view_as(x) - 0.3 * x + shift


def noise(step, stream, shape=SAMPLES.shape, seed=5):
    return fs.Philox(seed, step=step).randn(shape, stream=stream, dtype=torch.float64)


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


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
    seen = []
    for order in ((LABELS, SIGMAS), (SIGMAS, LABELS)):  # NCSN's and NCSNv2's
        got = ncsn.anneal_dsm_score_estimation(net, SAMPLES, *order, power, lambda *a: seen.append(a),
                                               rng=fs.Philox(5))
        close(got, each.mean())
    close(seen[0][0], each)
    assert torch.equal(seen[0][1], LABELS)


@pytest.mark.parametrize("positional, named", [
    ((LABELS, SIGMAS), {}), ((LABELS,), {"sigmas": SIGMAS}), ((SIGMAS,), {"labels": LABELS}), ((SIGMAS, LABELS), {}),
    ((), {"labels": LABELS, "sigmas": SIGMAS}),
])
def test_both_signatures_by_place_and_by_name(positional, named):
    expected = ncsn.anneal_dsm_score_estimation(net, SAMPLES, LABELS, SIGMAS, 1.5, rng=fs.Philox(5))
    seen = []
    got = ncsn.anneal_dsm_score_estimation(net, SAMPLES, *positional, **named, anneal_power=1.5,
                                           hook=lambda *a: seen.append(a), rng=fs.Philox(5))
    assert torch.equal(got, expected) and torch.equal(seen[0][1], LABELS)
    sliced = ncsn.anneal_sliced_score_estimation_vr(net, SAMPLES, LABELS, SIGMAS, 2, rng=fs.Philox(5))
    assert torch.equal(sliced, ncsn.anneal_sliced_score_estimation_vr(net, SAMPLES, *positional, **named,
                                                                      n_particles=2, rng=fs.Philox(5)))


def test_ncsnv2_without_labels():
    """(sigmas, None, power, hook) by place, and sigmas= alone: both draw the labels."""
    hook = []
    first = ncsn.anneal_dsm_score_estimation(net, SAMPLES, SIGMAS, None, 2.0, lambda *a: hook.append(a),
                                             rng=fs.Philox(5))
    assert torch.equal(first, ncsn.anneal_dsm_score_estimation(net, samples=SAMPLES, sigmas=SIGMAS, rng=fs.Philox(5)))
    assert torch.equal(hook[0][1], fs.losses.draw_labels(3, 4, fs.Philox(5)))


def test_anneal_dsm_draws_labels_where_there_are_none():
    torch.manual_seed(0)
    first = ncsn.anneal_dsm_score_estimation(net, SAMPLES, SIGMAS)
    torch.manual_seed(0)
    assert torch.equal(first, ncsn.anneal_dsm_score_estimation(net, SAMPLES, None, SIGMAS))


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
            loss1, _, loss2 = sliced_terms(lambda y, b=b: net(y, LABELS[b:b + 1]), perturbed[b:b + 1],
                                           v[4 * k + b:4 * k + b + 1])
            expected[b] += (loss1 + loss2)[0] / n * SIGMAS[LABELS[b]] ** 2
    for order in ((LABELS, SIGMAS), (SIGMAS, LABELS)):
        close(ncsn.anneal_sliced_score_estimation_vr(net, SAMPLES, *order, n, rng=fs.Philox(5)), expected.mean())


@pytest.mark.parametrize("loss", [ncsn.sliced_score_estimation, ncsn.sliced_score_estimation_vr,
                                  lambda *a, **k: (ncsn.anneal_sliced_score_estimation_vr(
                                      a[0], a[1], torch.zeros(len(a[1])).long(), SIGMAS, a[2], **k),)])
def test_sliced_losses_of_a_split_batch(loss):
    """Whatever the number of particles, the parts draw what the whole draws, and the network is called once."""
    calls = []

    def counted(x, labels=None):
        calls.append(x.shape)
        return net(x)

    whole = loss(counted, SAMPLES, 3, rng=fs.Philox(5))
    assert calls == [SAMPLES.shape]
    parts = [loss(net, SAMPLES[k:k + 2], 3, rng=fs.Philox(5, sample_offset=k)) for k in (0, 2)]
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
    for loss in (lambda f: ncsn.dsm_score_estimation(f, SAMPLES, rng=fs.Philox(5)),
                 lambda f: ncsn.sliced_score_estimation(f, SAMPLES, rng=fs.Philox(5))[0],
                 lambda f: ncsn.sliced_score_estimation_vr(f, SAMPLES, rng=fs.Philox(5))[0]):
        assert torch.autograd.gradcheck(lambda w, loss=loss: loss(lambda x: w * torch.sin(x)), (w,))


@pytest.mark.parametrize("loss", [
    lambda f, x: ncsn.sliced_score_estimation(f, x, 2, rng=fs.Philox(5))[0],
    lambda f, x: ncsn.sliced_score_estimation_vr(f, x, 2, rng=fs.Philox(5))[0],
    lambda f, x: ncsn.anneal_sliced_score_estimation_vr(lambda x, labels: f(x), x, LABELS, SIGMAS, 2, rng=fs.Philox(5)),
])
def test_gradients_reach_the_samples(loss):
    """As in the originals: samples that a generator made can be learned from."""
    assert torch.autograd.gradcheck(lambda x: loss(torch.sin, x), (SAMPLES.clone().requires_grad_(),))


def langevin_by_hand(x, step_lr, n_steps, denoise):
    images, step = [], 0
    for c, sigma in enumerate(SIGMAS.float().tolist()):
        labels = torch.full((len(x),), c)
        eta = step_lr * (sigma / SIGMAS.float()[-1].item()) ** 2
        for _ in range(n_steps):
            x = x + eta * net(x, labels) + math.sqrt(2 * eta) * noise(step, fs.Stream.LANGEVIN)
            step += 1
            images.append(x)
    if denoise:
        images.append(x + SIGMAS[-1].item() ** 2 * net(x, torch.full((len(x),), 2)))
    return images


@pytest.mark.parametrize("denoise", [True, False])
@pytest.mark.parametrize("as_given", [lambda s: s, lambda s: s.numpy(), lambda s: s.tolist()])
def test_anneal_langevin_dynamics(denoise, as_given, capsys):
    expected = langevin_by_hand(SAMPLES, 1e-3, 2, denoise)
    got = ncsn.anneal_Langevin_dynamics(SAMPLES, net, as_given(SIGMAS), 2, 1e-3, False, True, denoise,
                                        rng=fs.Philox(5))
    assert len(got) == len(expected)
    for a, b in zip(got, expected):
        close(a, b)
    assert capsys.readouterr().out.count("level: ") == 3
    final = ncsn.anneal_Langevin_dynamics(SAMPLES, net, as_given(SIGMAS), 2, 1e-3, True, False, denoise,
                                          rng=fs.Philox(5))
    assert len(final) == 1 and torch.equal(final[0], got[-1])


@pytest.mark.parametrize("number", [np.float32, np.float64, torch.tensor])
def test_step_lr_of_numpy_and_torch(number, capsys):
    step_lr = number(2.0**-10)  # exact in float32 too
    refer, x_mod = SAMPLES[:2], SAMPLES[:2, None]
    for call in (lambda s: ncsn.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, 2, s, True, True, rng=fs.Philox(5)),
                 lambda s: ncsn.anneal_Langevin_dynamics_inpainting(x_mod, refer, net, SIGMAS, 2, 2, s,
                                                                    rng=fs.Philox(5)),
                 lambda s: ncsn.anneal_Langevin_dynamics_interpolation(SAMPLES, net, SIGMAS, 2, 2, s, True,
                                                                       rng=fs.Philox(5))):
        assert torch.equal(call(step_lr)[-1], call(2.0**-10)[-1])
    assert capsys.readouterr().out.count("step_size: 0.0009766") == 2


def test_inpainting():
    refer = torch.rand(2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x_mod = torch.rand(2, 2, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    got = ncsn.anneal_Langevin_dynamics_inpainting(x_mod, refer, net, np.array(SIGMAS), 2, 2, 1e-3, rng=fs.Philox(5))
    image, x, step, frames = refer.repeat_interleave(2, 0), x_mod.flatten(0, 1).clone(), 0, []
    for c, sigma in enumerate(SIGMAS.float().tolist()):
        eta = 1e-3 * (sigma / SIGMAS.float()[-1].item()) ** 2
        left = (image + sigma * noise(step, fs.Stream.INPAINT))[..., :1]
        step += 1
        x[..., :1] = left
        for _ in range(2):
            x = x + eta * net(x, torch.full((4,), c)) + math.sqrt(2 * eta) * noise(step, fs.Stream.LANGEVIN)
            step += 1
            x[..., :1] = left
            frames.append(x.clone())
    frames[-1][..., :1] = image[..., :1]
    assert len(got) == len(frames) == 6
    for a, b in zip(got, frames):
        close(a, b)


def test_interpolation():
    x_mod, n = SAMPLES[:2], 3
    got = ncsn.anneal_Langevin_dynamics_interpolation(x_mod, net, SIGMAS, n, 2, 1e-3, rng=fs.Philox(5))
    x, step = x_mod[:, None].repeat(1, n, 1, 1, 1), 0
    angles = torch.linspace(0, math.pi / 2, n, dtype=torch.float64).view(1, n, 1, 1, 1)
    for c, sigma in enumerate(SIGMAS.float().tolist()):
        eta = 1e-3 * (sigma / SIGMAS.float()[-1].item()) ** 2
        for _ in range(2):
            p, q = (noise(step + k, fs.Stream.LANGEVIN, x_mod.shape)[:, None] for k in range(2))
            step += 2
            grad = net(x.flatten(0, 1), torch.full((2 * n,), c)).view_as(x)
            x = x + eta * grad + math.sqrt(2 * eta) * (p * angles.cos() + q * angles.sin())
            close(got[step // 2 - 1], x.flatten(0, 1))
    final = ncsn.anneal_Langevin_dynamics_interpolation(x_mod, net, SIGMAS, n, 2, 1e-3, True, rng=fs.Philox(5))
    assert len(final) == 1 and torch.equal(final[0], got[-1])


@pytest.mark.parametrize("positional, named", [((True, True), {}), ((), {"final_only": True, "verbose": True})])
def test_interpolation_takes_ncsnv2_verbose(positional, named, capsys):
    ncsn.anneal_Langevin_dynamics_interpolation(SAMPLES, net, SIGMAS, 2, 2, 1e-3, *positional, **named)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[:3] for line in lines] == [
        ["level: 0", " sigma: 1", " step_size: 0.1"], ["level: 1", " sigma: 0.4", " step_size: 0.016"],
        ["level: 2", " sigma: 0.1", " step_size: 0.001"]]


def test_one_interpolation_is_the_first_of_several():
    """theta_0 = 0: the chain that the first noise sequence alone drives."""
    one = ncsn.anneal_Langevin_dynamics_interpolation(SAMPLES, net, SIGMAS, 1, 2, 1e-3, rng=fs.Philox(5))
    three = ncsn.anneal_Langevin_dynamics_interpolation(SAMPLES, net, SIGMAS, 3, 2, 1e-3, rng=fs.Philox(5))
    for a, b in zip(one, three, strict=True):
        close(a, b[::3])


def test_published_step_lr_maps_to_alpha():
    """step_lr = 2e-5 is alpha = 4e-5."""
    ours = fs.samplers.annealed_langevin(net, SAMPLES.shape, SIGMAS.float(), alpha=4e-5, steps_per_level=3,
                                         start=SAMPLES, rng=fs.Philox(1))
    theirs = ncsn.anneal_Langevin_dynamics(SAMPLES, net, SIGMAS, 3, 2e-5, True, False, False, rng=fs.Philox(1))[0]
    assert torch.equal(ours, theirs)


def test_sphere_has_unit_directions():
    """With s(x) = x, v^T J v = ||v||^2 = 1 for every particle."""
    loss2 = ncsn.sliced_score_estimation(lambda x: x, SAMPLES, 50)[2]
    assert abs(float(loss2) - 1) < 1e-12
    v = ncsn.sliced_score_estimation_vr(lambda x: x, SAMPLES.repeat(2000, 1, 1, 1))[2]
    assert abs(z_mean(v[None], 12, 24 / 8000)) < 4
