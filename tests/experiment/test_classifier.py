"""The classifier of a run's noisy samples: near the exact posterior, whole on the disk, and refused where it is not the run's."""

import dataclasses
import json
import shutil

import pytest
import torch

import fastscore as fs
from fastscore import guidance
from fastscore.data import GaussianMixture
from fastscore.experiment import checkpoint, classes, classifier, classifier_folder
from fastscore.experiment.checkpoint.files import read_signed_json, signed_json
from fastscore.experiment.cli import main
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.presets import preset
from fastscore.experiment.sample import load_run, sample, with_sampling
from fastscore.experiment.train import Trainer

from .test_train import TINY, TOY

QUICK = classifier.Training(iterations=20, batch_size=16, width=4)
CONFIGS = {
    "toy": dataclasses.replace(TOY, iterations=2),
    "digits": dataclasses.replace(TINY, iterations=1, num_levels=3),
    "vp": preset("toy-vp", width=8, batch_size=8, iterations=2, precision="fp32"),
    "classes": dataclasses.replace(TOY, num_classes=2, iterations=1),
    "swiss": dataclasses.replace(TOY, data="swiss_roll", iterations=1),
    "empty": dataclasses.replace(TOY, iterations=1),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each, and the classifiers of three."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in CONFIGS.items():
        Trainer(config, folder / name).train(progress=False)
    training = {"toy": classifier.Training(iterations=600), "digits": QUICK, "vp": QUICK}
    for name, how in training.items():
        classifier.train_classifier(folder / name, how, progress=False)
    return folder


@pytest.fixture
def toy(runs, tmp_path):
    """A copy of the toy's run, to be damaged."""
    return shutil.copytree(runs / "toy", tmp_path / "toy")


def exact(x, sigma):
    """log p(k | x), [B, 2], of the mixture with noise."""
    mixture = GaussianMixture()
    variance = mixture.stds[0] ** 2 + sigma**2
    square = (x[:, None].double() - mixture.means).square().sum(2)
    return (mixture.weights.log() - square / (2 * variance)).log_softmax(1)


def test_it_is_near_the_exact_posterior_and_so_is_its_gradient(runs):
    network, _ = classifier_folder.read(runs / "toy", CONFIGS["toy"])
    for sigma, slope in ((0.5, None), (2.0, None), (5.0, 0.1), (10.0, 0.15), (20.0, 0.3)):
        x = GaussianMixture().sample(2000, fs.Philox(5)) + sigma * fs.Philox(6).randn(2000, 2)
        x.requires_grad_()
        found, known = network(x, torch.full((2000,), sigma)).log_softmax(1), exact(x, sigma)
        divergence = (known.exp() * (known - found)).sum(1).mean()
        assert divergence < 0.01, sigma
        a, b = (torch.autograd.grad(value[:, 1].sum(), x)[0] for value in (found, known))
        if slope is not None:  # where the classes overlap; where they do not nothing is seen of it
            assert float((a - b).square().sum() / b.square().sum()) < slope, sigma


def test_with_the_exact_score_it_draws_the_component(runs):
    mixture, (network, _) = GaussianMixture(), classifier_folder.read(runs / "toy", CONFIGS["toy"])
    sigmas = fs.schedules.geometric_sigmas(20.0, 0.5, 20)
    for label in range(2):
        log_prob = guidance.class_log_prob(network, label, path=sigmas)
        score = guidance.classifier(mixture.score, log_prob)
        x = fs.samplers.heun(score, (500, 2), sigmas, conditioning="sigma", rng=fs.Philox(0), start="normal")
        near = (x[:, None] - mixture.means).norm(dim=2).argmin(1)
        assert (near == label).double().mean() > 0.93  # of 20 % and 80 % without it
        own = x[near == label].mean(0) - mixture.means[label]
        assert own.norm() < 0.5  # at sigma 0.5, from noise about 0


@pytest.mark.parametrize("name", ["toy", "digits", "vp"])
def test_a_run_without_classes_draws_by_it(name, runs):
    trained = load_run(runs / name)
    how = {"progress": False, "sampler": "ddim", "steps": 3}
    plain, one = sample(trained, 4, **how), sample(trained, 4, label=1, classifier_scale=1.5, **how)
    each = sample(trained, 4, label="each", classifier_scale=1.5, batch_size=3, **how)
    assert not torch.allclose(plain, one)
    torch.testing.assert_close(each[1], one[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sample(trained, 4, label=1, classifier_scale=0.0, **how), plain)
    asked = with_sampling(trained, label=1, classifier_scale=1.5)
    again = with_sampling(asked, sampler="heun", classifier_scale=2.5).asked
    assert (again.label, again.scale, again.classifier) == (1, 2.5, asked.asked.classifier)
    assert again.evaluations == 1


def test_accuracy_is_of_each_level_in_a_table_and_a_picture(runs):
    about = read_signed_json((runs / "toy" / "classifier" / "classifier.json").read_bytes())
    found = about["accuracy"]
    assert len(found["sigma"]) == 10 and found["sigma"][0] == pytest.approx(20)
    for accuracy, best in zip(found["accuracy"], found["best"]):
        assert abs(accuracy - best) < 4 * (best * (1 - best) / found["samples"]) ** 0.5 + 0.01
    assert found["best"][0] < 0.83 and found["best"][-1] > 0.999 and 0.77 < found["chance"] < 0.83
    table = (runs / "toy" / "classifier" / "accuracy.md").read_text()
    assert table.count("\n| ") == 11 and "Of 2000 new samples" in table
    assert f"{100 * found['accuracy'][0]:.1f} %" in table
    assert (runs / "toy" / "classifier" / "accuracy.png").stat().st_size > 10_000
    digits = read_signed_json((runs / "digits" / "classifier" / "classifier.json").read_bytes())["accuracy"]
    assert (digits["samples"], len(digits["sigma"])) == (899, 3) and "best" not in digits


def test_the_same_seed_makes_the_same_classifier(runs, tmp_path):
    run = shutil.copytree(runs / "empty", tmp_path / "a")
    first, again, other = (
        classifier.train_classifier(run, dataclasses.replace(QUICK, seed=seed), progress=False, overwrite=True)
        for seed in (0, 0, 1)
    )
    assert first == again and first["weights"] != other["weights"]
    assert len(list((run / "classifier").glob("weights-*"))) == 1


def test_the_command_line_trains_one_and_draws_by_it(runs, tmp_path, capsys):
    run = shutil.copytree(runs / "empty", tmp_path / "a")
    main(["train-classifier", str(run), "--iterations", "5", "--batch-size", "8", "--quiet"])
    shown = capsys.readouterr().out
    assert "noise level" in shown and f"next: fastscore sample {run} --label each --classifier-scale 4" in shown
    out = ["--out", str(tmp_path / "s"), "--num", "4", "--quiet"]
    main(["sample", str(run), "--label", "1", "--classifier-scale", "2", *out])
    about = json.loads((tmp_path / "s" / "samples.json").read_text())
    assert (about["label"], about["classifier_scale"]) == (1, 2.0)
    assert about["classifier_sha256"] == classifier_folder.read(run, CONFIGS["empty"])[1] and "guidance" not in about
    report = evaluate(run, num=20, out=tmp_path / "e", progress=False, label="each", classifier_scale=1.0)
    assert (report["label"], report["classifier_scale"]) == ("each", 1.0)
    with pytest.raises(SystemExit):
        main(["sample", str(run), "--label", "1", *out])
    assert "or it is guided by a classifier of the run: fastscore train-classifier RUN" in capsys.readouterr().err


@pytest.mark.parametrize(
    "run, how, text",
    [
        ("empty", {"label": 1, "classifier_scale": 1.0}, "has no classifier, .* fastscore train-classifier"),
        (
            "classes",
            {"label": 1, "classifier_scale": 1.0},
            "classifier_scale must be left out for a network of classes",
        ),
        ("toy", {"classifier_scale": 1.0}, "label must be given with classifier_scale"),
        ("toy", {"label": 2, "classifier_scale": 1.0}, "label must be from 0 to 1, got 2"),
        ("toy", {"label": 1, "classifier_scale": float("inf")}, "classifier_scale must be finite"),
        ("toy", {"label": 1, "classifier_scale": 1.0, "guidance": 2.0}, "guidance must be left out where a classifier"),
        (
            "digits",
            {"label": 1, "classifier_scale": 1.0, "sampler": "ddim", "interpolate": True},
            r"interpolate must be left out with classifier_scale .* for ncsn",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_named(run, how, text, runs):
    with pytest.raises((ValueError, fs.CheckpointError), match=text):
        with_sampling(load_run(runs / run), **how)


def test_a_run_that_cannot_have_one_is_named(runs):
    for name, kind, text in (
        ("swiss", fs.DataError, "swiss_roll has no labels of two classes or more"),
        ("classes", ValueError, "run must be of a network without classes, .* by fastscore sample RUN --label 7"),
    ):
        with pytest.raises(kind, match=text):
            classifier.train_classifier(runs / name, QUICK, progress=False)


@pytest.mark.parametrize(
    "how, text",
    [
        ({"iterations": 0}, "iterations must be from 1 to 4294967296, got 0"),
        ({"batch_size": 10**10}, "batch_size must be from 1 to 4294967296, got 10000000000"),
        ({"batch_size": 2**32}, "batch_size must be smaller: .* the classifier's first layer take at least"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"width": 10**20}, r"width must be smaller: .* weights take at least 2\^"),
        ({"iterations": 2**32, "batch_size": 10**4}, "iterations times batch_size must be less than"),
        ({"seed": -1}, "seed must be from 0"),
        ({"lr": float("nan")}, "lr must be finite and greater than 0, got nan"),
        ({"lr": 1e38}, r"lr must be from 1.2e-38 to 3.4e[+]37, .* got 1e[+]38"),
        ({"lr": 1e-46}, "lr must be from 1.2e-38 to .* got 1e-46"),
    ],
)
def test_a_training_that_cannot_be_is_named_and_leaves_no_folder(how, text, runs):
    with pytest.raises(ValueError, match=text):
        classifier.train_classifier(runs / "empty", classifier.Training(**how), progress=False)
    assert not (runs / "empty" / "classifier").exists()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"data": {"name": "mnist", "fingerprint": "0" * 64}}, r"is of other data \(mnist\) than the run \(mixture\)"),
        ({"path": "ve"}, "is of other noise than the run: path is ve and the run's is levels"),
        ({"noise": [5.0, 0.1]}, r"is of other noise than the run: noise is \[5.0, 0.1\]"),
        ({"format": 7}, "is of another version of fastscore"),
        ({"network": {"shape": [2]}}, "does not describe a classifier: .*num_classes"),
    ],
)
def test_one_of_other_data_or_noise_is_refused(change, text, toy):
    path = toy / "classifier" / "classifier.json"
    path.write_text(signed_json(read_signed_json(path.read_bytes()) | change))
    with pytest.raises(fs.CheckpointError, match=text + ".*fastscore train-classifier .* --overwrite"):
        with_sampling(load_run(toy), label=1, classifier_scale=1.0)


def test_of_a_run_whose_data_are_not_known_it_must_be_the_runs_own(toy, runs):
    """As of one that was imported; it still fits once the run goes on with these data."""
    known = read_signed_json((toy / checkpoint.IDENTITY).read_bytes())
    unknown = known | {"fingerprint": None, "count": None, "num_classes": None}
    (toy / checkpoint.IDENTITY).write_text(signed_json(unknown))
    classifier.train_classifier(toy, QUICK, progress=False, overwrite=True)
    classifier_folder.read(toy, CONFIGS["toy"])
    (toy / checkpoint.IDENTITY).write_text(signed_json(unknown | {"run": "0" * 32}))
    with pytest.raises(fs.CheckpointError, match=r"is of another run, .*fastscore train-classifier .* --overwrite"):
        classifier_folder.read(toy, CONFIGS["toy"])
    (toy / checkpoint.IDENTITY).write_text(signed_json(known))
    classifier_folder.read(toy, CONFIGS["toy"])


def test_weights_that_are_not_finite_are_not_written(toy):
    before = classifier_folder.read(toy, CONFIGS["toy"])[1]
    for how in (dataclasses.replace(QUICK, iterations=1, lr=1e30), dataclasses.replace(QUICK, lr=1e12)):
        with pytest.raises(fs.NonFiniteLoss, match=r"a smaller --lr than 1e[+]"):
            classifier.train_classifier(toy, how, progress=False, overwrite=True)
    assert classifier_folder.read(toy, CONFIGS["toy"])[1] == before


def test_one_that_says_one_class_of_all_is_warned_of(toy, monkeypatch):
    most_frequent = torch.tensor([0.2, 0.8]).log()
    monkeypatch.setattr(classifier, "log_probs", lambda network: lambda x, sigma: most_frequent.expand(len(x), 2))
    with pytest.warns(UserWarning, match="right no more often than who names the most frequent class, .*--iterations"):
        about = classifier.train_classifier(toy, QUICK, progress=False, overwrite=True)
    assert set(about["accuracy"]["accuracy"]) == {about["accuracy"]["chance"]}  # to the last bit: they are compared


def test_where_it_guides_too_strongly_the_error_says_so(runs):
    trained = load_run(runs / "toy")
    trained.network.register_forward_hook(lambda network, given, score: score * torch.inf)
    for how, text in (
        ({"label": 1, "classifier_scale": -40.0}, "They are guided: a classifier_scale nearer to 1 than -40 may help$"),
        ({"label": 1, "classifier_scale": 1.0}, "half precision$"),
        ({}, "half precision$"),
    ):
        with pytest.raises(fs.FastscoreError, match=text):
            sample(trained, 4, progress=False, sampler="ddim", steps=3, **how)
    assert classes.Asked(1, guidance=7.0).gentler.startswith(". They are guided: a guidance nearer to 1 than 7")


def test_heldout_data_that_cannot_be_read_are_known_before_it_is_trained(toy, monkeypatch):
    def make(config, *, heldout=False, made=classifier.make_data):
        if heldout:
            raise fs.DataError("no test images")
        return made(config)

    monkeypatch.setattr(classifier, "make_data", make)
    monkeypatch.setattr(classifier, "_trained", None)
    with pytest.raises(fs.DataError, match="no test images"):
        classifier.train_classifier(toy, QUICK, progress=False, overwrite=True)


def test_it_is_read_without_a_draw_from_torchs_generator(runs):
    before = torch.get_rng_state()
    with_sampling(load_run(runs / "toy"), label=1, classifier_scale=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_damaged_one_is_refused(toy):
    folder = toy / "classifier"
    (weights,) = folder.glob("weights-*")
    whole, about = weights.read_bytes(), (folder / "classifier.json").read_text()
    for damage, text in (
        (lambda: weights.write_bytes(whole[:-1] + b"x"), "is damaged: its checksum is wrong"),
        (lambda: weights.unlink(), "is missing"),
        (lambda: (folder / "classifier.json").write_text(about.replace("levels", "vp")), "its checksum is wrong"),
        (lambda: (folder / "classifier.json").write_text(about[:50]), "does not describe a classifier"),
    ):
        damage()
        with pytest.raises(fs.CheckpointError, match=text + ".*--overwrite"):
            classifier_folder.read(toy, CONFIGS["toy"])


def test_data_that_are_not_the_runs_are_refused(toy):
    path = toy / checkpoint.IDENTITY
    path.write_text(signed_json(read_signed_json(path.read_bytes()) | {"fingerprint": "0" * 64}))
    with pytest.raises(fs.DataError, match=r"is not what .* was trained on: content"):
        classifier.train_classifier(toy, QUICK, progress=False, overwrite=True)
