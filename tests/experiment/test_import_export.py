"""The originals' checkpoints made into runs, and back: every tensor bit for bit, nothing assumed in silence."""

import dataclasses
import functools
import io
import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fastscore as fs
from fastscore.experiment import checkpoint, cli
from fastscore.experiment.config import TrainConfig
from fastscore.experiment.evaluate import evaluate
from fastscore.experiment.export import export_original, export_safetensors
from fastscore.experiment.import_original import import_original
from fastscore.experiment.presets import PRESETS, preset
from fastscore.experiment.sample import load_run, sample
from fastscore.experiment.train import Trainer
from fastscore.models import NCSN, NCSNv2, load_original_checkpoint
from fastscore.samplers import DEFAULT

from ..conftest import optional

optional("sklearn")

FIRST = """!!python/object:argparse.Namespace
data: !!python/object:argparse.Namespace
  channels: 1
  dataset: DIGITS
  image_size: 8
  logit_transform: false
  random_flip: true
model: !!python/object:argparse.Namespace
  batch_norm: false
  ngf: 4
  num_classes: 3
  sigma_begin: 1
  sigma_end: 0.1
optim: !!python/object:argparse.Namespace
  amsgrad: false
  beta1: 0.9
  lr: 0.001
  optimizer: Adam
  weight_decay: 0.0
training: !!python/object:argparse.Namespace
  algo: dsm
  anneal_power: 2.0
  batch_size: 16
  n_iters: 9
"""
SECOND = """data:
  dataset: "DIGITS"
  image_size: 8
  channels: 1
  logit_transform: false
  uniform_dequantization: false
  gaussian_dequantization: false
  random_flip: false
  rescaled: false
model:
  sigma_begin: 2
  num_classes: 3
  ema: true
  ema_rate: 0.99
  spec_norm: false
  sigma_dist: geometric
  sigma_end: 0.1
  normalization: InstanceNorm++
  nonlinearity: elu
  ngf: 4
optim:
  weight_decay: 0.000
  optimizer: "Adam"
  lr: 0.0001
  beta1: 0.9
  amsgrad: false
  eps: 0.00000001
training:
  batch_size: 16
  n_iters: 9
  anneal_power: 2
sampling:
  step_lr: 0.0001
  n_steps_each: 2
  denoise: true
"""


def states(kind: str, *, old: bool = False) -> list:
    """What the originals save after two steps of Adam; ``old``: as torch did when they were written."""
    return torch.load(io.BytesIO(made(kind, old)), weights_only=True)


@functools.cache
def made(kind: str, old: bool) -> bytes:
    torch.manual_seed(0)
    sigmas = fs.schedules.geometric_sigmas(2.0, 0.1, 3)
    net = NCSN(1, 8, 4, num_levels=3) if kind == "first" else NCSNv2(1, 8, 4, sigmas=sigmas)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3 if kind == "first" else 1e-4)
    for _ in range(2):
        adam.zero_grad()
        net(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 2])).square().sum().backward()
        adam.step()
    optimizer = adam.state_dict()
    if old:  # parameters by their address, steps as integers, fewer settings
        named = {i: 140_000_000_000_000 + 8 * (i * 7 % 1000) for i in optimizer["state"]}
        optimizer["state"] = {
            named[i]: {**moments, "step": int(moments["step"])} for i, moments in optimizer["state"].items()
        }
        group = {name: optimizer["param_groups"][0][name] for name in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
        optimizer["param_groups"] = [{**group, "params": list(named.values())}]
    saved = [{f"module.{name}": value for name, value in net.state_dict().items()}, optimizer]
    if kind == "second":
        saved += [3, 2, {name: p.detach() + 0.01 for name, p in net.named_parameters()}]
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    return buffer.getvalue()


def write(folder: Path, saved: list, config: str | None, name: str = "checkpoint_2.pth") -> Path:
    folder.mkdir(exist_ok=True)
    torch.save(saved, folder / name)
    if config is not None:
        (folder / "config.yml").write_text(config)
    return folder / name


@pytest.fixture(params=["first", "second"])
def kind(request):
    return request.param


@pytest.fixture
def file(kind, tmp_path):
    return write(tmp_path / "theirs", states(kind), {"first": FIRST, "second": SECOND}[kind])


def assert_equal(found, expected) -> None:
    """Alike in structure, order and every bit."""
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            assert_equal(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_equal(one, other)
    else:
        assert found == expected


def test_a_run_of_each_repository(kind, file, tmp_path):
    folder = import_original(file, tmp_path / "run")
    assert folder == tmp_path / "run" / "checkpoints" / "step_00000002"
    config = checkpoint.read_config(tmp_path / "run")
    theirs = {
        "first": {"model": "ncsn", "flip": True, "dequantize": True, "lr": 1e-3, "ema": 0.0, "sigma_begin": 1.0}
        | {"step_size": 4e-5, "steps_per_level": 100, "denoise": False},
        "second": {"model": "ncsnv2", "flip": False, "dequantize": False, "lr": 1e-4, "ema": 0.99, "sigma_begin": 2.0}
        | {"step_size": 2e-4, "steps_per_level": 2, "denoise": True},
    }[kind]
    both = {"data": "digits", "image_size": 8, "width": 4, "num_levels": 3, "sigma_end": 0.1, "batch_size": 16}
    both |= {"iterations": 9, "precision": "fp32", "objective": "dsm", "weight": 2.0}
    assert config == TrainConfig(**both, **theirs)
    saved = states(kind)
    weights, state = checkpoint.read_weights(folder, "raw"), checkpoint.read_state(folder)
    assert weights.keys() == {name.removeprefix("module.") for name in saved[0]}
    assert all(torch.equal(value, saved[0][f"module.{name}"]) for name, value in weights.items())
    assert_equal(state["optimizer"]["state"], saved[1]["state"])
    if kind == "second":
        average = checkpoint.read_weights(folder, "ema")
        assert_equal({name: average[name] for name in saved[4]}, saved[4])


def test_it_samples_is_evaluated_and_goes_on_training(kind, file, tmp_path):
    run = tmp_path / "run"
    import_original(file, run)
    trained = load_run(run, device="cpu")
    network = load_original_checkpoint(file).eval()
    x, labels = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    assert torch.equal(trained.network(x, labels), network(x, labels))
    if kind == "second":
        assert evaluate(run, num=20, steps_per_level=1, progress=False)["step"] == 2
    assert checkpoint.read_identity(run).fingerprint is None
    config = dataclasses.replace(checkpoint.read_config(run), iterations=3, device="cpu")
    with Trainer(config, run, resume=True) as trainer:
        assert trainer.step == 2
        trainer.train(progress=False)
    moments = checkpoint.read_state(checkpoint.latest(run))["optimizer"]["state"]
    assert {float(values["step"]) for values in moments.values()} == {3.0}
    identity = checkpoint.read_identity(run)
    assert (identity.count, identity.fingerprint) == (898, fs.data.load("digits").fingerprint())
    resumed = dataclasses.replace(config, data="photos")
    with pytest.raises(fs.CheckpointError):  # from now on it is a run of these data
        Trainer(resumed, run, resume=True)


def test_theirs_made_a_run_and_theirs_again(kind, file, tmp_path):
    import_original(file, tmp_path / "run")
    again, config = export_original(tmp_path / "run", tmp_path / "again" / "checkpoint_2.pth")
    found, saved = torch.load(again, weights_only=True), states(kind)
    if kind == "second":
        saved[2] = 0  # epochs of data that are not known
    assert_equal(found[0], saved[0])
    assert_equal(found[1]["state"], saved[1]["state"])
    assert_equal(found[2:], saved[2:])
    theirs, ours = (load_original_checkpoint(path) for path in (file, again))
    assert type(ours) is type(theirs) and ours.options_from.keys() == theirs.options_from.keys()
    import_original(again, tmp_path / "second")
    assert checkpoint.read_config(tmp_path / "second") == checkpoint.read_config(tmp_path / "run")
    assert config.name == "config.yml" and config.parent == again.parent


@pytest.mark.parametrize("model", ["ncsn", "ncsnv2"])
def test_a_run_made_theirs_and_a_run_again(model, tmp_path):
    """Both go on to the same weights, to the last bit."""
    config = preset("digits", model=model, width=4, batch_size=16, iterations=3, num_levels=3, warmup=0, decay=False)
    config = dataclasses.replace(config, precision="fp32", device="cpu", sampler="annealed")
    Trainer(config, tmp_path / "a").train(progress=False)
    file, _ = export_original(tmp_path / "a", tmp_path / "theirs.pth")
    states = torch.load(file, weights_only=True)
    assert len(states) == 5 and states[2:4] == [0, 3] and all(name.startswith("module.") for name in states[0])
    import_original(file, tmp_path / "b")
    assert checkpoint.read_config(tmp_path / "b") == dataclasses.replace(
        config, image_size=8, device="auto", log_every=50, checkpoint_every=1000, sampler=DEFAULT
    )  # theirs is drawn from by their sampler
    ends = []
    for run in ("a", "b"):
        kept = checkpoint.read_config(tmp_path / run)
        end = Trainer(dataclasses.replace(kept, iterations=5, device="cpu"), tmp_path / run, resume=True).train(
            progress=False
        )
        ends.append([dict(sorted(checkpoint.read_weights(end, name).items())) for name in ("raw", "ema")])
    assert_equal(ends[1], ends[0])


def test_old_optimizers_and_another_order(kind, tmp_path):
    """Parameters by their address, and in the order of the file, which need not be ours."""
    saved = states(kind, old=True)
    moved = list(saved[0])[::-1]
    saved[0] = {name: saved[0][name] for name in moved}
    if kind == "second":
        moved.remove("module.sigmas")
    group = saved[1]["param_groups"][0]
    group["params"] = group["params"][::-1]
    file = write(tmp_path / "old", saved, {"first": FIRST, "second": SECOND}[kind])
    folder = import_original(file, tmp_path / "run")
    assert_equal(checkpoint.read_state(folder)["optimizer"]["state"], states(kind)[1]["state"])


def test_a_preset_for_what_no_config_says(tmp_path):
    saved = states("second")
    torch.manual_seed(0)
    width = PRESETS["digits"][1].width
    net = NCSNv2(1, 8, width, sigmas=fs.schedules.geometric_sigmas(1.0, 0.02, 20))
    saved = [net.state_dict(), {}, 0, 7, dict(net.named_parameters())]
    file = write(tmp_path / "bare", saved, None, "mine.pth")
    with pytest.raises(fs.CheckpointError, match=r"there is no config.yml beside .*--config, or --preset NAME"):
        import_original(file, tmp_path / "run")
    folder = import_original(file, tmp_path / "run", preset="digits")
    expected = preset("digits", model="ncsnv2", precision="fp32", sampler=DEFAULT, solver_steps=0)
    assert checkpoint.read_config(tmp_path / "run") == expected and checkpoint.step_of(folder) == 7
    for name in ("digits-vp", "digits-conditional"):  # theirs are on levels and without classes, whatever the preset
        import_original(file, tmp_path / name, preset=name)
        assert checkpoint.read_config(tmp_path / name) == expected
    assert checkpoint.read_state(folder)["optimizer"]["state"] == {}
    with pytest.raises(
        fs.CheckpointError, match=r"noise levels from 1 to 0\.02 that are not the 20 spaced .* from 50 to"
    ):
        import_original(file, tmp_path / "other", preset="cifar10-ncsnv2")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("  n_iters: 9\n", "", r"config.yml does not say training\.n_iters: with --preset NAME"),
        ("  ema_rate: 0.99\n", "", r"does not say model\.ema_rate"),
        ("  nonlinearity: elu\n", "", r"does not say nonlinearity"),
        ("nonlinearity: elu", "nonlinearity: swish", r"nonlinearity is 'swish', and runs here have 'elu' alone"),
        ("rescaled: false", "rescaled: true", r"rescaled is True, and runs here have False alone"),
        ("gaussian_dequantization: false", "gaussian_dequantization: true", r"data\.gaussian_dequantization is True"),
        ("sigma_dist: geometric", "sigma_dist: uniform", r"model\.sigma_dist is 'uniform'"),
        ('optimizer: "Adam"', "optimizer: SGD", r"optim\.optimizer is 'SGD', and runs here have 'Adam' alone"),
        ("weight_decay: 0.000", "weight_decay: 0.1", r"optim\.weight_decay is 0\.1"),
        ("ema: true", "ema: false", r"has an EMA shadow, and .* says that none is kept"),
        (
            'dataset: "DIGITS"',
            "dataset: LSUN",
            r"the data set 'LSUN' is none of those here: pass --data folder --data-dir",
        ),
        ("batch_size: 16", "batch_size: many", r"describes a run that cannot be: batch_size must be an integer"),
        ("n_iters: 9", "n_iters: nine", r"describes a run that cannot be: iterations must be an integer"),
        ("random_flip: false", "random_flip: seldom", r"describes a run that cannot be: flip must be true or false"),
        ("lr: 0.0001", "lr: fast", r"optim\.lr must be a number, got 'fast'"),
        ("num_classes: 3", "num_classes: 4", r"num_classes is 4 there and 3 in the weights"),
    ],
)
def test_configs_that_are_refused(old, new, words, tmp_path):
    assert old in SECOND
    file = write(tmp_path / "theirs", states("second"), SECOND.replace(old, new, 1))
    with pytest.raises(fs.CheckpointError, match=words):
        import_original(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def spoiled(change) -> list:
    saved = states("second")
    change(saved)
    return saved


def _set(place: str, value):
    def change(saved):
        group, moments = saved[1]["param_groups"][0], saved[1]["state"][5]
        {"group": group, "moments": moments, "all": saved[1]}[place.split(".")[0]][place.split(".")[1]] = value

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (_set("group.amsgrad", True), "its optimizer has amsgrad=True"),
        (_set("group.weight_decay", 0.5), r"its optimizer has weight_decay=0\.5"),
        (lambda saved: saved[1]["param_groups"][0].pop("betas"), "its optimizer is not Adam"),
        (_set("group.weight_decay", torch.zeros(2)), r"its optimizer has weight_decay=tensor"),
        (_set("group.betas", 0.9), "lr, betas and eps must be numbers"),
        (_set("group.lr", 10**400), "lr, betas and eps must be numbers"),
        (_set("group.eps", torch.tensor(1j)), "lr, betas and eps must be numbers"),
        (lambda saved: saved.__setitem__(1, torch.zeros(2)), "not the state of one optimizer of all parameters"),
        (_set("moments.step", math.inf), "does not hold Adam's moments"),
        (_set("moments.step", 10**400), "does not hold Adam's moments"),
        (_set("all.param_groups", [{}, {}]), "not the state of one optimizer of all parameters"),
        (_set("moments.exp_avg", torch.zeros(3)), r"does not hold Adam's moments of \w+[.\w]*"),
        (_set("moments.exp_avg_sq", None), "does not hold Adam's moments"),
        (_set("moments.step", torch.zeros(2)), "does not hold Adam's moments"),
        (lambda saved: saved[1]["state"].update({9999: {}}), "moments of parameters that it does not list"),
        (lambda saved: saved[1]["state"][5]["exp_avg"].fill_(float("nan")), "does not hold Adam's moments"),
        (lambda saved: saved[0]["module.end_conv.bias"].fill_(float("inf")), "not finite, in end_conv.bias"),
        (lambda saved: saved[4].pop("end_conv.bias"), "the EMA shadow lacks end_conv.bias"),
        (lambda saved: saved[0].update({k: v.double() for k, v in saved[0].items()}), "holds weights of torch.float64"),
        (lambda saved: saved.pop(), r"has no EMA shadow, and by .*config.yml one is kept"),
    ],
)
def test_files_that_are_refused(change, words, tmp_path):
    file = write(tmp_path / "theirs", spoiled(change), SECOND)
    with pytest.raises(fs.CheckpointError, match=words):
        import_original(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_optimizer_can_be_left(tmp_path):
    file = write(tmp_path / "theirs", spoiled(_set("group.amsgrad", True)), SECOND)
    folder = import_original(file, tmp_path / "run", fresh_optimizer=True)
    assert checkpoint.read_state(folder)["optimizer"]["state"] == {}


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_nothing_is_run_and_no_run_is_overwritten(file, tmp_path):
    trap = write(tmp_path / "theirs", [{}, Trap(tmp_path / "run_it")], None, "trap.pth")
    with pytest.raises(fs.CheckpointError, match="nothing of it was run"):
        import_original(trap, tmp_path / "run")
    assert not (tmp_path / "run_it").exists()
    import_original(file, tmp_path / "run")
    with pytest.raises(fs.CheckpointError, match="already holds a run"):
        import_original(file, tmp_path / "run")
    with pytest.raises(fs.CheckpointError, match="missing"):
        import_original(tmp_path / "none.pth", tmp_path / "other", preset="digits")


def test_how_many_iterations_where_the_file_does_not_say(tmp_path):
    saved = states("first")
    named = write(tmp_path / "a", [saved[0], {}], FIRST, "checkpoint_600.pth")
    assert import_original(named, tmp_path / "named").name == "step_00000600"
    assert checkpoint.read_config(tmp_path / "named").iterations == 600  # more than n_iters: it is what was done
    unnamed = write(tmp_path / "b", [saved[0], {}], FIRST, "checkpoint.pth")
    with pytest.raises(fs.CheckpointError, match=r"how many iterations led to it: pass --iteration N"):
        import_original(unnamed, tmp_path / "run")
    assert import_original(unnamed, tmp_path / "run", iteration=4).name == "step_00000004"
    by_adam = write(tmp_path / "c", saved, FIRST, "checkpoint.pth")
    assert import_original(by_adam, tmp_path / "adam").name == "step_00000002"


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    run = tmp_path_factory.mktemp("export") / "toy"
    config = preset("toy", width=8, batch_size=8, iterations=2, steps_per_level=1, log_every=1, num_levels=3)
    Trainer(config, run).train(progress=False)
    return run


@pytest.mark.parametrize("points", [True, False])
def test_safetensors_and_a_model_card(points, toy, tmp_path, monkeypatch):
    run = toy
    if not points:
        run = tmp_path / "run"
        import_original(write(tmp_path / "theirs", states("second"), SECOND), run)
    trained = load_run(run, device="cpu")
    measured = {"step": 2, "weights": "ema", "sha256": trained.sha256, "samples": 20}
    measured |= {"frechet_distance": {"samples_to_data": 0.5}}
    for other in (json.dumps(measured | {"sha256": "another run's"}), "[" * 10_000 + "]" * 10_000):
        (run / "metrics.json").write_text(other)
        _, card = export_safetensors(run, tmp_path / "out", overwrite=True)
        assert "frechet" not in card.read_text()
    (run / "metrics.json").write_text(json.dumps(measured))
    weights, card = export_safetensors(run, tmp_path / "out", overwrite=True)
    assert_equal(dict(sorted(load_file(weights).items())), dict(sorted(trained.network.state_dict().items())))
    text = card.read_text()
    assert ("the run's own sampler, dpm_sde, begins" in text) == points  # theirs are of annealed Langevin dynamics
    assert "- frechet distance: samples to data 0.5" in text and "after 2 iterations: the moving average" in text
    config = json.loads(re.search(r"```json\n(.*?)```", text, re.S)[1])
    assert config["num_levels"] == 3 and "data_dir" not in config
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1].replace("16, ", "2, "), names)
    assert_equal(names["network"].state_dict(), trained.network.state_dict())
    assert names["samples"].shape == (2, *trained.shape) and names["sigmas"].shape == (3,)
    raw, _ = export_safetensors(run, tmp_path / "raw", weights="raw")
    assert_equal(
        dict(sorted(load_file(raw).items())),
        dict(sorted(checkpoint.read_weights(checkpoint.latest(run), "raw").items())),
    )


@pytest.mark.parametrize("name", ["digits-vp", "toy-vp"])
def test_a_run_on_a_path_has_a_card_and_no_file_of_theirs(name, tmp_path, monkeypatch):
    """Its card builds and loads the network, and says what draws from it."""
    run = tmp_path / "run"
    changes = {"width": 8, "num_levels": 3, "batch_size": 8, "iterations": 1}
    Trainer(preset(name, **changes, parametrization="epsilon"), run).train(progress=False)
    if name == "digits-vp":
        with pytest.raises(
            fs.CheckpointError, match=r"is on path 'vp_linear', which the originals do not have: .*--safetensors"
        ):
            export_original(run, tmp_path / "a.pth")
        assert not (tmp_path / "a.pth").exists()
    _, card = export_safetensors(run, tmp_path / "out")
    code = re.search(r"```python\n(.*?)```", card.read_text(), re.S)[1]
    assert "fastscore sample RUN" in code and "epsilon on path 'vp_linear'" in code
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(code, names)
    trained = load_run(run, device="cpu")
    assert_equal(names["network"].state_dict(), trained.network.state_dict())
    x = torch.rand(2, *trained.shape)
    assert torch.equal(names["network"](x, torch.tensor([0.5, 2.0])), trained.network(x, torch.tensor([0.5, 2.0])))


def test_what_cannot_be_exported(toy, tmp_path):
    with pytest.raises(fs.CheckpointError, match="is of points, and the originals have networks of images alone"):
        export_original(toy, tmp_path / "a.pth")
    export_safetensors(toy, tmp_path / "out")
    with pytest.raises(
        fs.CheckpointError, match=r"model.safetensors and .*MODEL_CARD.md are there already: .*--overwrite"
    ):
        export_safetensors(toy, tmp_path / "out")
    export_safetensors(toy, tmp_path / "out", overwrite=True)
    with pytest.raises(fs.CheckpointError, match="has no checkpoint of iteration 7"):
        export_safetensors(toy, tmp_path / "new", iteration=7)
    assert not (tmp_path / "new").exists()


def test_the_commands(file, tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["import", str(file), "--out", str(run)])
    out = capsys.readouterr().out
    assert f"imported: {run}/checkpoints/step_00000002\nnext: fastscore sample {run} --num 100" in out
    assert re.search(rf"train on with: fastscore train [\w-]+ --out {run} .*--resume\n", out)
    assert "--change" not in out
    config = file.parent / "config.yml"
    config.write_text(config.read_text().replace("n_iters: 9", "n_iters: 2"))
    cli.main(["import", str(file), "--out", str(tmp_path / "done")])
    assert "\nfurther than its 2 iterations: --iterations N --change\n" in capsys.readouterr().out
    cli.main(["export", str(run)])
    assert f"written: {run}/export/checkpoint_2.pth\nwritten: {run}/export/config.yml\n" == capsys.readouterr().out
    cli.main(["export", str(run), "--safetensors", "--out", str(tmp_path / "out")])
    assert f"written: {tmp_path}/out/model.safetensors" in capsys.readouterr().out
    assert sample(load_run(run, device="cpu"), 2, steps_per_level=1, progress=False).shape == (2, 1, 8, 8)
    for line, words in (
        (["export", str(run), "--weights", "raw"], "--weights needs --safetensors"),
        (["export", str(run)], "checkpoint_2.pth is there already"),
        (["import", str(file), "--out", str(run)], "already holds a run"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(line)
        assert stop.value.code == 2 and words in capsys.readouterr().err
