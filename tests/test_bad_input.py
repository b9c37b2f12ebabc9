"""Bad input: every case is a clear error that names the argument, what it was and what it must be."""

import pytest
import torch

import fastscore as fs
from fastscore import data, losses, samplers
from fastscore.compat import ncsn as compat
from fastscore.experiment.build import make_model, pick_device
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.presets import preset
from fastscore.models import NCSN, NCSNv2, ScoreMLP, build_model
from fastscore.schedules import geometric_sigmas, suggest

from .conftest import optional

X = torch.zeros(4, 3)
SIGMAS = torch.tensor([1.0, 0.1])
LABELS = torch.zeros(4, dtype=torch.int64)
NAN, INF = float("nan"), float("inf")


def zero(x, labels=None):
    return torch.zeros_like(x)


def anneal(**changes):
    return samplers.annealed_langevin(
        zero, (4, 3), **({"sigmas": SIGMAS, "step_size": 0.1, "steps_per_level": 1} | changes)
    )


def noise(*shape):
    return fs.Philox(0).noise(shape or (4, 3))


def through_torchvision(name):
    optional("torchvision")
    return data.load(name, root="nowhere")


CASES = {
    # operators
    "perturb a list": (lambda: fs.perturb([1.0], 1.0), TypeError, "x must be a torch.Tensor, got list"),
    "perturb integers": (lambda: fs.perturb(X.int(), 1.0), TypeError, "x must be float16.*int32 tensor"),
    "perturb complex": (lambda: fs.perturb(X + 1j, 1.0), TypeError, "x must be float16.*complex64"),
    "perturb no batch": (lambda: fs.perturb(torch.tensor(1.0), 1.0), ValueError, r"x must have a batch dim.*\(\)"),
    "sigma negative": (lambda: fs.perturb(X, -1.0), ValueError, "sigma must be finite and greater than 0, got -1.0"),
    "sigma zero": (lambda: fs.perturb(X, 0.0), ValueError, "sigma must be finite and greater than 0, got 0.0"),
    "sigma nan": (lambda: fs.perturb(X, NAN), ValueError, "sigma must be finite and greater than 0, got nan"),
    "sigma infinite": (lambda: fs.perturb(X, INF), ValueError, "sigma must be finite and greater than 0, got inf"),
    "sigma text": (lambda: fs.perturb(X, "1"), TypeError, "sigma must be a number greater than 0, got str '1'"),
    "sigma True": (lambda: fs.perturb(X, True), TypeError, "sigma must be a number greater than 0, got bool"),
    "sigma wrong batch": (lambda: fs.perturb(X, torch.ones(3)), ValueError, r"sigma must be.*shape \(4,\).*\(3,\)"),
    "sigma 2-D": (lambda: fs.perturb(X, torch.ones(4, 1)), ValueError, r"sigma must be.*shape \(4,\).*\(4, 1\)"),
    "sigma [B] zero": (lambda: fs.perturb(X, torch.tensor([1, 0, 1, 1.0])), ValueError, "sigma must be .*got 0.0 in"),
    "sigma [B] nan": (lambda: fs.perturb(X, torch.tensor([1, NAN, 1, 1])), ValueError, "sigma must be .*got nan in"),
    "sigma integers": (lambda: fs.perturb(X, torch.ones(4).int()), TypeError, "sigma must be float16.*int32"),
    "sigma on meta": (lambda: fs.perturb(X, torch.ones(4, device="meta")), ValueError, "sigma must be on the device"),
    "alpha negative": (lambda: fs.perturb(X, 1.0, alpha=-1.0), ValueError, "alpha must be .*at least 0, got -1.0"),
    "rng a seed": (lambda: fs.perturb(X, 1.0, 5), TypeError, "rng must be a fastscore.Philox or None, got int 5"),
    "dsm noise shape": (lambda: fs.dsm_loss(X, noise(4, 2), 1.0), ValueError, r"noise must .*\(4, 3\).*\(4, 2\)"),
    "dsm noise tensor shape": (lambda: fs.dsm_loss(X, X[:2], 1.0), ValueError, r"noise must .*\(4, 3\).*\(2, 3\)"),
    "dsm noise a number": (lambda: fs.dsm_loss(X, 1.0, 1.0), TypeError, "noise must be the handle .*got float 1.0"),
    "dsm score None": (
        lambda: fs.dsm_loss(None, noise(), 1.0),
        TypeError,
        "score must be a torch.Tensor, got NoneType",
    ),
    "dsm weight nan": (lambda: fs.dsm_loss(X, noise(), 1.0, NAN), ValueError, "weight must be finite, got nan"),
    "langevin score shape": (
        lambda: fs.langevin_step(X, X[:, :2], 0.1),
        ValueError,
        r"score must .*\(4, 3\).*\(4, 2\)",
    ),
    "langevin score device": (
        lambda: fs.langevin_step(X, X.to("meta"), 0.1),
        ValueError,
        "score must be on the device",
    ),
    "langevin step_size": (
        lambda: fs.langevin_step(X, X, -0.1),
        ValueError,
        "step_size must be finite and at least 0, got -0.1",
    ),
    "langevin out dtype": (lambda: fs.langevin_step(X, X, 0.1, out=X.double()), TypeError, "out must have the dtype"),
    "langevin out shape": (lambda: fs.langevin_step(X, X, 0.1, out=X[:2]), ValueError, "out must have the shape of x"),
    "langevin out and grad": (
        lambda: fs.langevin_step(X.clone().requires_grad_(), X, 0.1, out=X.clone()),
        ValueError,
        "out must be None where gradients are recorded",
    ),
    "langevin rng and noise": (
        lambda: fs.langevin_step(X, X, 0.1, fs.Philox(0), noise=X),
        ValueError,
        "rng must be None",
    ),
    # random numbers
    "seed negative": (lambda: fs.Philox(-1), ValueError, f"seed must be from 0 to {2**64 - 1}, got -1"),
    "seed a float": (lambda: fs.Philox(1.5), TypeError, "seed must be an integer .*got float 1.5"),
    "step too large": (lambda: fs.Philox(0, step=2**32), ValueError, "step must be from 0 to"),
    "sample beyond 2^32": (lambda: fs.Philox(0, sample_offset=2**32 - 2).randn(3, 1), ValueError, "at most 2\\^32"),
    "shape without batch": (lambda: fs.Philox(0).randn(()), ValueError, r"shape must be \[B, ...\]"),
    "randint high": (lambda: fs.Philox(0).randint(0, 3), ValueError, "high must be from 1"),
    # losses
    "sigmas unsorted": (lambda: losses.ncsn(zero, X, SIGMAS.flip(0)), ValueError, "sigmas must be strictly decreasing"),
    "sigmas equal": (lambda: losses.ncsn(zero, X, torch.ones(2)), ValueError, "sigmas must be strictly decreasing"),
    "sigmas empty": (lambda: losses.ncsn(zero, X, torch.ones(0)), ValueError, r"sigmas must have shape \(L,\)"),
    "sigmas negative": (lambda: losses.ncsn(zero, X, -SIGMAS.flip(0)), ValueError, "sigmas must be .*greater than 0"),
    "labels too large": (
        lambda: losses.ncsn(zero, X, SIGMAS, labels=torch.full((4,), 2)),
        ValueError,
        "labels must be from 0 to 1 .*got values from 2 to 2",
    ),
    "labels negative": (
        lambda: losses.ncsn(zero, X, SIGMAS, labels=torch.full((4,), -1)),
        ValueError,
        "labels must be",
    ),
    "labels float": (
        lambda: losses.ncsn(zero, X, SIGMAS, labels=X[:, 0]),
        ValueError,
        "labels must be an int64 tensor",
    ),
    "labels batch": (
        lambda: losses.ncsn(zero, X, SIGMAS, labels=torch.zeros(3).long()),
        ValueError,
        r"labels .*\(4,\)",
    ),
    "empty batch mean": (lambda: losses.ncsn(zero, X[:0], SIGMAS), ValueError, "x must have at least one sample"),
    "reduction": (
        lambda: losses.dsm(zero, X, 1.0, reduction="avg"),
        ValueError,
        "reduction must be one of .*got 'avg'",
    ),
    "parametrization": (
        lambda: losses.dsm(zero, X, 1.0, parametrization="v"),
        ValueError,
        "parametrization must be one",
    ),
    "conditioning": (lambda: losses.ncsn(zero, X, SIGMAS, conditioning="none"), ValueError, "conditioning must be one"),
    "score_fn output": (
        lambda: losses.dsm(lambda x: x[:, :1], X, 1.0),
        ValueError,
        "output of score_fn must have the sh",
    ),
    "sliced x integers": (lambda: losses.ssm(zero, X.int()), TypeError, "x must be float16.*int32"),
    "sliced x complex": (lambda: losses.ssm_vr(zero, X + 1j), TypeError, "x must be float16.*complex64"),
    "sliced no batch": (lambda: losses.gradient_penalty(zero, X[0, 0]), ValueError, r"x must have a batch dim.*\(\)"),
    "sliced x a list": (lambda: losses.fd_ssm(zero, [1.0]), TypeError, "x must be a torch.Tensor, got list"),
    "sliced projection": (
        lambda: losses.ssm(zero, X, projection="signs"),
        ValueError,
        "projection must be one of 'radem",
    ),
    "sliced n_particles": (
        lambda: losses.ssm_vr(zero, X, n_particles=0),
        ValueError,
        "n_particles must be at least 1, got 0",
    ),
    "sliced n_particles float": (
        lambda: losses.fd_ssm(zero, X, n_particles=2.0),
        TypeError,
        "n_particles must be an integer",
    ),
    "sliced mode": (lambda: losses.ssm(zero, X, mode="fd"), ValueError, "mode must be one of 'vjp', 'jvp', got 'fd'"),
    "sliced reduction": (
        lambda: losses.ssm_vr(zero, X, reduction="avg"),
        ValueError,
        "reduction must be one of .*'avg'",
    ),
    "sliced output": (
        lambda: losses.ssm(lambda x: x[:, :1], X),
        ValueError,
        r"output of score_fn must have the shape .*\(4, 1\)",
    ),
    "sliced output None": (
        lambda: losses.ssm(lambda x: None, X, mode="jvp"),
        TypeError,
        "output of score_fn must be a torch.T",
    ),
    "sliced output detached": (
        lambda: losses.ssm(lambda x: x.detach(), X),
        ValueError,
        "must depend on x .*autograd records",
    ),
    "sliced score_fn": (lambda: losses.ssm(3, X), TypeError, "score_fn must be a function of x.* got int 3"),
    "sliced rng": (lambda: losses.ssm(zero, X, rng=5), TypeError, "rng must be a fastscore.Philox or None, got int 5"),
    "sliced empty": (
        lambda: losses.ssm_vr(torch.sin, X[:0]),
        ValueError,
        "x must have at least one sample where reduction='m",
    ),
    "sliced BatchNorm": (
        lambda: losses.ssm(torch.nn.Sequential(torch.nn.BatchNorm1d(3)), X),
        ValueError,
        "score_fn must act on each sample by itself, got a network whose BatchNorm1d '0' normalises",
    ),
    "sliced BatchNorm method": (
        lambda: losses.fd_ssm(torch.nn.BatchNorm1d(3).forward, X),
        ValueError,
        "score_fn must act on each sample",
    ),
    "sliced BatchNorm untracked": (
        lambda: losses.gradient_penalty(torch.nn.BatchNorm1d(3, track_running_stats=False).eval(), X),
        ValueError,
        "score_fn must act on each sample",
    ),
    "sliced BatchNorm in a closure": (
        lambda: (lambda n: losses.ssm(lambda x: n(x), X))(torch.nn.BatchNorm1d(3)),
        ValueError,
        "score_fn must act on each sample",
    ),
    "fd_ssm dropout": (
        lambda: losses.fd_ssm(torch.nn.Dropout(0.5), X),
        ValueError,
        "score_fn must be the same function .*draws a mask",
    ),
    "fd_ssm eps": (
        lambda: losses.fd_ssm(zero, X, eps=0.0),
        ValueError,
        "eps must be finite and greater than 0, got 0.0",
    ),
    "fd_ssm eps text": (lambda: losses.fd_ssm(zero, X, eps="1"), TypeError, "eps must be a number greater than 0"),
    "fd_ssm half": (lambda: losses.fd_ssm(zero, X.half()), TypeError, "x must be float32 or float64 .*got a float16"),
    "annealed sigmas": (
        lambda: losses.annealed_ssm_vr(zero, X, SIGMAS.flip(0)),
        ValueError,
        "sigmas must be strictly dec",
    ),
    "annealed labels": (
        lambda: losses.annealed_ssm_vr(zero, X, SIGMAS, labels=LABELS + 2),
        ValueError,
        "labels must be from 0",
    ),
    "annealed weight": (
        lambda: losses.annealed_ssm_vr(zero, X, SIGMAS, weight=NAN),
        ValueError,
        "weight must be finite",
    ),
    "annealed conditioning": (
        lambda: losses.annealed_ssm_vr(zero, X, SIGMAS, conditioning="none"),
        ValueError,
        "conditioning",
    ),
    "annealed parametrization": (
        lambda: losses.annealed_ssm_vr(zero, X, SIGMAS, parametrization="v"),
        ValueError,
        "parametriz",
    ),
    "annealed BatchNorm": (
        lambda: losses.annealed_ssm_vr(torch.nn.BatchNorm1d(3), X, SIGMAS),
        ValueError,
        "score_fn must act on each sample",
    ),
    "ism mode": (lambda: losses.ism(zero, X, mode="fd"), ValueError, "mode must be one of 'vjp', 'jvp', got 'fd'"),
    "ism reduction": (lambda: losses.ism(zero, X, reduction="avg"), ValueError, "reduction must be one of"),
    "ism x integers": (lambda: losses.ism(zero, X.int()), TypeError, "x must be float16.*int32"),
    "ism output": (lambda: losses.ism(lambda x: x[:, :1], X), ValueError, "output of score_fn must have the shape"),
    "ism empty": (lambda: losses.ism(torch.sin, X[:0]), ValueError, "x must have at least one sample"),
    "ism method": (lambda: losses.ism(zero, X, method="hadamard"), ValueError, "method must be one of .*'exact'"),
    "ism BatchNorm": (lambda: losses.ism(torch.nn.BatchNorm1d(3), X), ValueError, "score_fn must act on each sample"),
    "config objective": (
        lambda: TrainConfig(objective="ism"),
        ValueError,
        "objective must be one of 'dsm', 'ssm', .*got 'ism'",
    ),
    "compat particles": (
        lambda: compat.sliced_score_estimation(zero, X, 0),
        ValueError,
        "n_particles must be at least 1",
    ),
    "compat labels": (
        lambda: compat.anneal_dsm_score_estimation(zero, X, X[:, 0].long() + 9, SIGMAS),
        ValueError,
        "labels",
    ),
    "compat order": (
        lambda: compat.anneal_dsm_score_estimation(zero, X, SIGMAS, LABELS),
        TypeError,
        r"in the order \(labels, sigmas\), got labels: a float32 tensor",
    ),
    "compat no labels": (
        lambda: compat.anneal_dsm_score_estimation(zero, X, SIGMAS, SIGMAS),
        TypeError,
        "labels must be integers",
    ),
    "compat step_lr": (
        lambda: compat.anneal_Langevin_dynamics(X, zero, SIGMAS, 1, -1e-5),
        ValueError,
        "step_lr must be",
    ),
    # samplers
    "anneal step_size": (
        lambda: anneal(step_size=0.0),
        ValueError,
        "step_size must be finite and greater than 0, got 0.0",
    ),
    "anneal steps": (lambda: anneal(steps_per_level=0), ValueError, "steps_per_level must be at least 1, got 0"),
    "anneal unsorted": (lambda: anneal(sigmas=[0.1, 1.0]), ValueError, "sigmas must be strictly decreasing"),
    "anneal start": (lambda: anneal(start="zeros"), ValueError, "start must be 'uniform', 'normal' or a tensor"),
    "anneal start shape": (lambda: anneal(start=X[:2]), ValueError, r"start must have shape \(4, 3\)"),
    "anneal clamp": (lambda: anneal(clamp=(1, 0)), ValueError, r"clamp must be None or \(low, high\)"),
    "anneal callback": (lambda: anneal(callback=3), TypeError, "callback must be a function"),
    "anneal trajectory": (
        lambda: anneal(trajectory=[]),
        TypeError,
        "trajectory must be a fastscore.samplers.Trajectory",
    ),
    "anneal empty shape": (
        lambda: samplers.annealed_langevin(zero, (0, 3), SIGMAS, step_size=0.1),
        ValueError,
        "shape must",
    ),
    "anneal score_fn": (
        lambda: samplers.annealed_langevin(3, (4, 3), SIGMAS, step_size=0.1),
        TypeError,
        "score_fn must be",
    ),
    "langevin neither": (
        lambda: samplers.langevin(zero, X, num_steps=1),
        ValueError,
        "give exactly one of step_size .* and step_lr",
    ),
    "langevin both": (
        lambda: samplers.langevin(zero, X, num_steps=1, step_size=1.0, step_lr=1.0),
        ValueError,
        "give exactly one of",
    ),
    "consistent eta": (
        lambda: samplers.consistent_annealed(zero, (4, 3), SIGMAS, eta=0.5),
        ValueError,
        "eta must be at least 0.9 .*got 0.5",
    ),
    "consistent steps": (
        lambda: samplers.consistent_annealed(zero, (4, 3), SIGMAS, eta=0.95, steps_per_level=2),
        ValueError,
        "steps_per_level must be 1",
    ),
    "mask float": (
        lambda: samplers.inpaint(zero, X, X, SIGMAS, step_size=0.1),
        TypeError,
        "mask must be a bool tensor",
    ),
    "mask shape": (
        lambda: samplers.inpaint(zero, X, X[:3] > 0, SIGMAS, step_size=0.1),
        ValueError,
        "mask must broadcast",
    ),
    "interpolate none": (
        lambda: samplers.interpolate(zero, (2, 3), SIGMAS, num_interpolations=0, step_size=0.1),
        ValueError,
        "num_interpolations must be at least 1",
    ),
    # models, noise, data, config
    "model name": (lambda: build_model("unet"), ValueError, "name must be one of .*'ncsn'"),
    "ncsn x": (lambda: NCSN(1, 8, 8)(X, torch.zeros(4).long()), ValueError, "x must"),
    "ncsn channels": (lambda: NCSN(1, 8, 8)(torch.zeros(4, 3, 8, 8), torch.zeros(4).long()), ValueError, "x must"),
    "ncsn labels": (lambda: NCSN(1, 8, 8, 2)(torch.zeros(4, 1, 8, 8), torch.full((4,), 7)), ValueError, "labels must"),
    "ncsnv2 sigmas": (lambda: NCSNv2(1, 8, 8, sigmas=SIGMAS.flip(0)), ValueError, "sigmas must be strictly decreasing"),
    "mlp x": (lambda: ScoreMLP(2, sigmas=SIGMAS)(X, torch.zeros(4).long()), ValueError, "x must"),
    "geometric order": (lambda: geometric_sigmas(0.01, 1.0, 10), ValueError, "begin"),
    "suggest one sample": (lambda: suggest(X[:1]), ValueError, "data must"),
    "data name": (lambda: data.load("imagenet"), ValueError, "name must be one of .*'digits'.*got 'imagenet'"),
    "data missing": (lambda: through_torchvision("cifar10"), fs.DataError, "cifar-10-batches-py"),
    "mnist missing": (
        lambda: through_torchvision("mnist"),
        fs.DataError,
        "train-images-idx3-ubyte.*--download, --data-dir",
    ),
    "folder missing": (lambda: data.load("folder", root="nowhere", image_size=8), fs.DataError, "--data-dir.*nowhere"),
    "preset": (lambda: preset("cifar100"), ValueError, "preset must be one of 'digits'.*got 'cifar100'"),
    "preset field": (lambda: preset("digits", widht=3), ValueError, "widht is not a field of TrainConfig"),
    "config batch": (lambda: TrainConfig(batch_size=0), ValueError, "batch_size must be at least 1, got 0"),
    "config lr": (lambda: TrainConfig(lr=-1e-3), ValueError, "lr must be finite and greater than 0"),
    "config ema": (lambda: TrainConfig(ema=1.0), ValueError, "ema must be at least 0 and less than 1, got 1.0"),
    "config sigmas": (lambda: TrainConfig(sigma_begin=0.01, sigma_end=1.0), ValueError, "sigma_begin must be greater"),
    "config model": (lambda: TrainConfig(model="unet"), ValueError, "model must be one of"),
    "config one level": (
        lambda: TrainConfig(num_levels=1),
        ValueError,
        r"sigma_begin and sigma_end must be equal where num_levels is 1 .*--num-levels.* 1.0 and 0.01",
    ),
    "config denoise": (lambda: TrainConfig(denoise="no"), TypeError, "denoise must be true or false, got str 'no'"),
    "mlp for images": (lambda: make_model(preset("digits", model="mlp"), (1, 8, 8)), ValueError, "model must be 'mlp'"),
    "device": (lambda: pick_device("cuda:99"), ValueError, "device must be auto, cpu, or a GPU"),
    "device meta": (lambda: pick_device("meta"), ValueError, "device must be auto, .* got 'meta' .*hold no numbers"),
    "device unknown": (lambda: pick_device("gpu"), ValueError, "device must be auto, .* got 'gpu'"),
    "device None": (lambda: pick_device(None), ValueError, "device must be auto, .* got None"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match=message):
        call()


def test_there_are_enough_cases():
    assert len(CASES) >= 60
