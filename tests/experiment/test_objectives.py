"""What the trainer minimises: --objective dsm and --objective ssm."""

import dataclasses
import json
import math

import pytest
import torch

import fastscore as fs
from fastscore.data import GaussianMixture
from fastscore.experiment import checkpoint
from fastscore.experiment.sample import load_run
from fastscore.experiment.train import Trainer, make_data, make_model, make_sigmas, read_metrics

from .test_train import CONFIGS, TOY, weights


def test_one_iteration_of_sliced_score_matching(tmp_path):
    """Labels by step 0, noise by step 1, signs by step 2: sigma^2 (1/2 ||s||^2 + v^T J v), and its gradient."""
    config = dataclasses.replace(
        TOY,
        objective="ssm",
        iterations=1,
        warmup=0,
        decay=False,
        log_every=1,
        ema=0.0,
        checkpoint_every=1,
        lr=0.1,
        eps=1.0,
    )
    run = Trainer(config, tmp_path / "run").train(progress=False)
    data = make_data(config)
    model, sigmas = make_model(config, data.shape), make_sigmas(config)
    x = data.batch(0, 32, seed=0)
    labels = fs.Philox(0).randint(config.num_levels, 32, stream=fs.Stream.LABELS)
    sigma = sigmas[labels][:, None]
    x = x + sigma * fs.Philox(0, step=1).randn(x.shape, stream=fs.Stream.PERTURB)
    v = fs.Philox(0, step=2).rademacher(x.shape, stream=fs.Stream.PROBE)
    score, product = torch.func.jvp(lambda y: model(y, labels), (x,), (v,))
    each = sigma[:, 0] ** 2 * (score.square().sum(1) / 2 + (v * product).sum(1))
    each.mean().backward()
    torch.optim.Adam(model.parameters(), lr=0.1, eps=1.0).step()
    for name, value in checkpoint.read_weights(run, ema=False).items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-3, atol=1e-5)
    assert math.isclose(read_metrics(tmp_path / "run")[0]["loss"], each.mean().item(), rel_tol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_iterations_share_no_random_numbers(name, tmp_path, monkeypatch):
    """Each begins where the one before it ended, whatever the objective takes."""
    made = []

    def spy(*args, **kwargs):
        made.append((kwargs["step"], fs.Philox(*args, **kwargs)))
        return made[-1][1]

    trainer = Trainer(CONFIGS[name], tmp_path / "run")
    monkeypatch.setattr("fastscore.experiment.train.Philox", spy)
    for _ in range(3):
        trainer._iterate()
    assert made[0][0] == 0 and [first for first, _ in made[1:]] == [rng.step for _, rng in made[:-1]]


def test_a_run_from_before_there_was_a_choice_of_objective_resumes(tmp_path):
    """Its config.json does not name one: it is dsm, the weights come out the same, and ssm is another run."""
    config = dataclasses.replace(TOY, iterations=14, decay=False)
    Trainer(config, tmp_path / "whole").train(progress=False)
    old = tmp_path / "old"
    Trainer(dataclasses.replace(config, iterations=7), old).train(progress=False)
    fields = json.loads((old / "config.json").read_text())
    assert fields.pop("objective") == "dsm"
    (old / "config.json").write_text(json.dumps(fields))
    load_run(old, device="cpu")
    with pytest.raises(fs.CheckpointError, match=r"another config: objective \(was dsm, now ssm\)"):
        Trainer(dataclasses.replace(config, objective="ssm"), old, resume=True)
    Trainer(config, old, resume=True).train(progress=False)
    ours, theirs = weights(old), weights(tmp_path / "whole")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.slow
def test_both_objectives_teach_the_same_score(tmp_path):
    """A short run on the mixture: the mean error of the score over the noise levels, in units of 1 / sigma."""

    def error(objective):
        config = dataclasses.replace(TOY, iterations=400, width=64, batch_size=256, objective=objective)
        run = Trainer(config, tmp_path / objective).train(progress=False)
        network, mixture = load_run(run.parent.parent, device="cpu").network, GaussianMixture()
        x, errors = make_data(config).batch(0, 500, seed=1), []
        for level, sigma in enumerate(make_sigmas(config).tolist()):
            noisy = x + sigma * fs.Philox(level).randn(x.shape)
            learned, exact = network(noisy, torch.full((500,), level)), mixture.score(noisy, sigma)
            errors.append(sigma * (learned - exact).square().sum(1).mean().sqrt())
        return float(torch.stack(errors).mean())

    dsm, ssm = error("dsm"), error("ssm")
    assert ssm < 1.5 * dsm and ssm < 0.2, (dsm, ssm)
