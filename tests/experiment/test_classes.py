"""Runs of networks with classes: training, resuming, and samples of a class that is asked for."""

import dataclasses
import json

import pytest
import torch

import fastscore as fs
from fastscore.data import GaussianMixture
from fastscore.experiment import acceleration
from fastscore.experiment.build import make_data
from fastscore.experiment.classes import Asked
from fastscore.experiment.cli import main
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.export import export_original, export_safetensors
from fastscore.experiment.learner import Learner
from fastscore.experiment.presets import PRESETS, preset
from fastscore.experiment.sample import draw, load_run, sample, with_sampling
from fastscore.experiment.scores import for_sampler
from fastscore.experiment.train import Trainer
from fastscore.losses import OBJECTIVES, drop_labels
from fastscore.samplers import SAMPLERS

from ..recorded import graphs_on_the_cpu
from .test_train import TINY, TOY, weights

CLASSES = {
    "mlp": dataclasses.replace(TOY, num_classes=2, iterations=14),
    "ncsn": dataclasses.replace(TINY, num_classes=10, iterations=4, num_levels=3),
    "ncsnv2": dataclasses.replace(TINY, model="ncsnv2", num_classes=10, iterations=4, num_levels=3),
    "v": dataclasses.replace(
        TINY, model="ncsnv2", num_classes=10, iterations=4, num_levels=3, path="vp_linear", parametrization="v"
    ),
    "vp": preset("toy-vp", num_classes=2, width=8, batch_size=8, iterations=6, precision="fp32"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each, trained."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in CLASSES.items():
        Trainer(config, folder / name).train(progress=False)
    Trainer(dataclasses.replace(TOY, iterations=2), folder / "plain").train(progress=False)
    return folder


@pytest.mark.parametrize("name", ["mlp", "ncsn"])
def test_a_resumed_run_is_the_run_itself(name, runs, tmp_path):
    config = dataclasses.replace(CLASSES[name], decay=False, checkpoint_every=2)
    for run, iterations, resume in (("a", 4, False), ("b", 2, False), ("b", 4, True)):
        Trainer(dataclasses.replace(config, iterations=iterations), tmp_path / run, resume=resume).train(progress=False)
    whole, resumed = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert any(key.endswith("classes") for key in whole)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[key], resumed[key]) for key in whole)


def told(learner, iterations=3):
    """The classes that the network was told, and the samples' own, over some iterations."""
    found, loss = [], learner._loss

    def spy(x, labels, rng):
        found.append((learner._classes.labels.clone(), x))
        return loss(x, labels, rng)

    learner._loss, learner._reads_images = spy, False
    for it in range(iterations):
        learner.iterate(it)
    return (torch.cat([row[k] for row in found]) for k in range(2))


@pytest.mark.parametrize("name", ["mlp", "ncsn"])
def test_the_network_is_told_the_samples_own_classes_and_a_part_of_them_is_dropped(name):
    config = dataclasses.replace(CLASSES[name], batch_size=40, label_dropout=0.3)
    data = make_data(config)
    where = {"seed": config.seed}
    own = torch.cat([data.batch_with_labels(it, 40, **where)[1] for it in range(3)])
    labels, _ = told(Learner(config, data, torch.device("cpu")))
    dropped = labels == config.num_classes
    assert torch.equal(labels[~dropped], own[~dropped])
    z = (dropped.double().mean() - 0.3) / (0.3 * 0.7 / len(labels)) ** 0.5
    assert abs(float(z)) < 4
    parts, _ = told(Learner(dataclasses.replace(config, accumulate=3), data, torch.device("cpu")))
    assert torch.equal(parts, labels)  # whatever the parts of a batch
    every, _ = told(Learner(dataclasses.replace(config, label_dropout=0.0), data, torch.device("cpu")))
    assert torch.equal(every, own)


def test_dropped_labels_are_those_of_the_samples_place_in_the_batch():
    labels = torch.arange(1000) % 7
    whole = drop_labels(labels, 7, 0.2, fs.Philox(3))
    part = drop_labels(labels[600:], 7, 0.2, fs.Philox(3, sample_offset=600))
    assert torch.equal(whole[600:], part)
    assert torch.equal(whole[whole != 7], labels[whole != 7])
    assert abs(float((whole == 7).double().mean()) - 0.2) < 4 * (0.16 / 1000) ** 0.5
    assert torch.equal(drop_labels(labels, 7, 0.0, fs.Philox(3)), labels)
    for bad, text in ((1.5, "from 0 to 1, got 1.5"), (-0.1, "at least 0")):
        with pytest.raises(ValueError, match=text):
            drop_labels(labels, 7, bad, fs.Philox(3))


@pytest.mark.parametrize("name", ["mlp", "ncsn"])
def test_a_graph_trains_the_same_weights(name, monkeypatch):
    graphs_on_the_cpu(monkeypatch)
    found = []
    for graph in (False, True):
        config = dataclasses.replace(CLASSES[name], cuda_graph=graph, iterations=3, log_every=1)
        learner = Learner(config, make_data(config), torch.device("cpu"))
        with acceleration.tf32(False):
            for it in range(3):
                learner.iterate(it)
        found.append([value.clone() for value in learner.model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains_a_network_of_classes(objective):
    options = {"n_particles": 2} if any(o.name == "n_particles" for o in OBJECTIVES[objective].options) else {}
    config = dataclasses.replace(CLASSES["mlp"], objective=objective, objective_options=options, batch_size=6)
    learner = Learner(config, make_data(config), torch.device("cpu"))
    before = learner.model.classes.detach().clone()
    learner.iterate(0)
    changed = (learner.model.classes != before).any(1)
    assert changed[:2].any()


@pytest.mark.parametrize("name", CLASSES)
def test_samples_of_each_class_are_the_same_in_every_batch(name, runs):
    trained = load_run(runs / name)
    how = {"progress": False, "sampler": "heun", "guidance": 2.0}
    each = sample(trained, 5, label="each", batch_size=5, **how)
    torch.testing.assert_close(sample(trained, 5, label="each", batch_size=2, **how), each, rtol=1e-4, atol=1e-5)
    for k in range(2):
        alone = sample(trained, 5, label=k, batch_size=5, **how)
        torch.testing.assert_close(alone[k], each[k], rtol=1e-4, atol=1e-5)
    none = sample(trained, 5, progress=False, sampler="heun")
    torch.testing.assert_close(sample(trained, 5, label=1, **how | {"guidance": 0.0}), none, rtol=1e-4, atol=1e-5)
    assert not torch.equal(each, none)


def test_guidance_of_an_interval_is_the_conditional_score_elsewhere(runs):
    trained = load_run(runs / "mlp")
    how = {"progress": False, "sampler": "heun", "label": 1}
    plain, guided = sample(trained, 4, **how), sample(trained, 4, guidance=3.0, **how)
    beyond = sample(trained, 4, guidance=3.0, guidance_interval=(100.0, 200.0), **how)
    whole = sample(trained, 4, guidance=3.0, guidance_interval=(0.0, 200.0), **how)
    torch.testing.assert_close(beyond, plain)
    torch.testing.assert_close(whole, guided)
    assert not torch.allclose(plain, guided)


def test_guidance_holds_in_its_interval_whatever_the_network_is_told(runs):
    """NCSNv2 on a path is told no noise; the interval is of the path's, at a sampler of times and at one of levels."""
    trained, ve = load_run(runs / "v"), {"path": "ve", "path_options": {}, "step_size": 1e-4}
    levels = dataclasses.replace(trained, config=dataclasses.replace(trained.config, **ve))
    for run, sampler, steps in ((trained, "heun", {"steps": 6}), (levels, "annealed", {"steps_per_level": 2})):
        how = {"progress": False, "sampler": sampler, "label": 3, **steps}
        plain, guided = sample(run, 4, **how), sample(run, 4, guidance=3.0, **how)
        assert not torch.allclose(plain, guided)
        for interval, same in (((1e4, 2e4), plain), ((0.0, 1e9), guided)):
            found = sample(run, 4, guidance=3.0, guidance_interval=interval, **how)
            torch.testing.assert_close(found, same, rtol=1e-4, atol=1e-5)
    asked = Asked(3, 3.0, (0.5, 2.0))
    score, path = for_sampler(trained.config, trained.score_fn, SAMPLERS["heun"])
    x, t = torch.rand(4, 1, 8, 8), path.t_of_log_snr(-2 * torch.tensor([0.4, 0.6, 1.9, 2.1]).log())
    found = asked.score(trained.config, score, path, first=0, size=4, device=trained.device)(x, t)
    labels = torch.full((4,), 3)
    one, none = score(x, t, class_labels=labels), score(x, t)
    torch.testing.assert_close(found[[0, 3]], one[[0, 3]])
    torch.testing.assert_close(found[1:3], (none + 3 * (one - none))[1:3])
    assert not torch.allclose(found[1:3], one[1:3])


def test_a_class_is_drawn_between_the_levels(runs):
    """NCSN with classes, by a sampler that asks between the levels: the label matters, and so does guidance."""
    trained = load_run(runs / "ncsn")
    how = {"progress": False, "sampler": "heun", "steps": 5, "interpolate": True}
    none, one, two = (sample(trained, 2, **how, **asked) for asked in ({}, {"label": 1}, {"label": 1, "guidance": 2.0}))
    for a, b in ((none, one), (one, two), (none, two)):
        assert not torch.allclose(a, b)


def test_a_network_that_learned_the_two_gaussians_draws_the_one_that_is_asked_for(tmp_path):
    config = preset("toy-conditional", iterations=600, warmup=10, lr=5e-3, width=32, num_levels=8, ema=0.95)
    Trainer(config, tmp_path / "run").train(progress=False)
    trained, means = load_run(tmp_path / "run"), GaussianMixture().means
    for label in range(2):
        x = sample(trained, 200, label=label, sampler="heun", steps=12, progress=False)
        near = (x[:, None] - means).norm(dim=2).argmin(1)
        assert (near == label).double().mean() > 0.97


def test_the_command_line_asks_for_a_class(runs, tmp_path, capsys):
    out = ["--out", str(tmp_path / "s"), "--num", "4", "--quiet", "--sampler", "heun", "--overwrite"]
    main(["sample", str(runs / "mlp"), "--label", "1", "--guidance", "2", "--guidance-interval", "0.1", "30", *out])
    about = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert (about["label"], about["guidance"], about["guidance_interval"]) == (1, 2.0, [0.1, 30.0])
    main(["sample", str(runs / "mlp"), *out])
    assert "label" not in json.loads((tmp_path / "s" / "samples.json").read_text())
    with pytest.raises(SystemExit):
        main(["sample", str(runs / "plain"), "--label", "1", *out])
    assert "label must be left out for a network that was trained without classes, got '1'" in capsys.readouterr().err


def test_evaluation_and_export_know_the_classes(runs, tmp_path, monkeypatch):
    how = {"sampler": "heun", "steps": 3, "label": "each", "guidance": 2.0}
    report = evaluate(runs / "mlp", num=20, out=tmp_path, progress=False, **how)
    assert (report["label"], report["guidance"]) == ("each", 2.0)
    assert report["network_evaluations_per_sample"] == 2 * (2 * 3 - 1)  # the last step takes one
    how |= {"guidance_interval": (0.1, 30.0)}
    with monkeypatch.context() as patched:  # where an evaluation is counted by a hook, no graph is replayed
        asked = []
        patched.setattr(
            "fastscore.experiment.sample.draw",
            lambda *given, cuda_graph, **named: (
                asked.append(cuda_graph) or draw(*given, cuda_graph=cuda_graph, **named)
            ),
        )
        found = evaluate(runs / "mlp", num=20, out=tmp_path / "counted", progress=False, **how)
    assert asked == [False] and 2 * 3 - 1 <= found["network_evaluations_per_sample"] <= 2 * (2 * 3 - 1)
    with pytest.raises(fs.CheckpointError, match="of a network of classes, which the originals do not have"):
        export_original(runs / "ncsn", tmp_path / "a.pth")
    _, card = export_safetensors(runs / "ncsn", tmp_path / "weights")
    assert "ngf=4, num_levels=len(sigmas), num_classes=10)" in card.read_text()


@pytest.mark.parametrize(
    "run, how, text",
    [
        ("plain", {"guidance": 2.0}, "guidance must be left out for a network that was trained without classes"),
        ("mlp", {"guidance": 2.0}, "label must be given with guidance"),
        ("mlp", {"label": 2}, "label must be from 0 to 1, got 2"),
        ("mlp", {"label": "seven"}, "label must be a class from 0 to 1, or 'each', got 'seven'"),
        ("mlp", {"label": 1, "guidance": float("nan")}, "guidance must be finite"),
        ("mlp", {"label": 1, "guidance": 2.0, "guidance_interval": (2.0, 1.0)}, "low < high"),
    ],
)
def test_what_cannot_be_asked_for_is_named(run, how, text, runs):
    with pytest.raises(ValueError, match=text):
        with_sampling(load_run(runs / run), **how)


def test_classes_must_be_the_datas(tmp_path):
    for config, text in (
        (dataclasses.replace(TOY, num_classes=3), "num_classes must be 2 for mixture, which has 2 classes"),
        (
            dataclasses.replace(TOY, data="swiss_roll", num_classes=2),
            "num_classes must be 0 for swiss_roll, .* no labels",
        ),
    ):
        with pytest.raises(ValueError, match=text):
            Trainer(config, tmp_path / "run")
    for name, value in (("num_classes", -1), ("label_dropout", 1.5)):
        with pytest.raises(ValueError, match=name):
            preset("toy", **{name: value})


def test_a_config_from_before_there_were_classes_is_one_without():
    values = json.loads(PRESETS["digits"][1].to_json())
    del values["num_classes"], values["label_dropout"]
    assert TrainConfig.from_json(json.dumps(values)) == PRESETS["digits"][1]
