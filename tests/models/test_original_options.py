"""Original checkpoints: the options that weights do not tell, the deeper networks, and wrapped ones."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from fastscore._core.errors import CheckpointError
from fastscore._core.prefixes import plain_names, renamed
from fastscore.models import MODELS, NCSN, NCSNv2, load_original_checkpoint

SIGMAS = torch.tensor([9.0, 1.5, 0.25])
SIZE = {"ncsn": 8, "ncsnv2": 8, "ncsndeeper": 8, "ncsnv2deeper": 8, "ncsnv2deepest": 16}
OPTIONS = ("nonlinearity", "rescaled", "logit_transform")

# As yaml.dump writes the Namespaces of the second repository.
DUMP = """!!python/object:argparse.Namespace
data: !!python/object:argparse.Namespace
  channels: 2
  dataset: CIFAR10
  image_size: 24
  logit_transform: false
  random_flip: true
  rescaled: true
model: !!python/object:argparse.Namespace
  ema: true
  ngf: 4
  nonlinearity: lrelu
  normalization: InstanceNorm++
  num_classes: 3
  sigma_begin: 9
  sigma_dist: geometric
  sigma_end: 0.25
  spec_norm: false
optim: !!python/object:argparse.Namespace
  rescaled: false
  nonlinearity: relu
"""


def make(name: str = "ncsnv2", seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return MODELS[name](2, SIZE[name], 4, sigmas=SIGMAS, **options)


def write(folder: Path, net: nn.Module, config: str | None = None, prefix: str = "module.") -> Path:
    """A checkpoint in a run's folder, with its config.yml where there is one."""
    file = folder / "checkpoint_5000.pth"
    torch.save([{prefix + name: tensor for name, tensor in net.state_dict().items()}, {}], file)
    if config is not None:
        (folder / "config.yml").write_text(config)
    return file


def quietly(*args, **kwargs) -> nn.Module:
    """load_original_checkpoint where nothing need be assumed: a warning is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_original_checkpoint(*args, **kwargs)


def assert_outputs(found: nn.Module, net: nn.Module) -> None:
    x, labels = torch.rand(2, 2, 16, 16), torch.tensor([2, 0])
    torch.testing.assert_close(found(x, labels), net(x, labels), rtol=0, atol=0)


@pytest.mark.parametrize("name", SIZE)
def test_every_network_is_recognised(name, tmp_path):
    net = make(name, nonlinearity="swish", logit_transform=True)
    file = write(tmp_path, net)
    found = quietly(file, nonlinearity="swish", rescaled=False, logit_transform=True)
    assert type(found) is type(net) and (found.channels, found.ngf, found.num_levels) == (2, 4, 3)
    assert_outputs(found, net)
    assert found.options_from == dict.fromkeys(OPTIONS, "given")


def test_config_beside_the_file_is_read(tmp_path, caplog):
    net = make(nonlinearity="lrelu", rescaled=True)
    with caplog.at_level(logging.INFO, "fastscore"):
        found = quietly(write(tmp_path, net, DUMP))
    assert (found.nonlinearity, found.rescaled, found.logit_transform, found.image_size) == ("lrelu", True, False, 24)
    assert_outputs(found, net)
    assert found.options_from == dict.fromkeys(OPTIONS, str(tmp_path / "config.yml"))
    assert "nonlinearity='lrelu'" in caplog.text and "config.yml" in caplog.text


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("!!python/object:argparse.Namespace", "").lstrip(),
        lambda text: text.replace("lrelu", "'LReLU'  # slope 0.2").replace("true", "yes"),
        lambda text: text.replace("  dataset", "#  channels: 3\n  # rescaled: false\n  dataset"),
        lambda text: text.replace("data: ", "data: &id001 ").replace("\n", "\r\n"),
        lambda text: (
            "model: {ngf: 4, nonlinearity: lrelu,\n  num_classes: 3}\ndata: {channels: 2, rescaled: true, "
            "image_size: 24, logit_transform: false}\n"
        ),
        lambda text: text.replace("rescaled: true", "rescaled: true\n  nested:\n    rescaled: false"),
        lambda text: "rescaled: false\ntraining:\n  rescaled: false\n" + text.partition("\n")[2],
    ],
)
def test_other_forms_of_a_config(edit, tmp_path):
    found = quietly(write(tmp_path, make(nonlinearity="lrelu", rescaled=True), edit(DUMP)))
    assert (found.nonlinearity, found.rescaled, found.logit_transform, found.image_size) == ("lrelu", True, False, 24)


def test_config_of_the_first_repository(tmp_path):
    """It has no nonlinearity and no rescaled, but noise levels, which the weights of NCSN do not hold."""
    config = (
        "!!python/object:argparse.Namespace\ndata: !!python/object:argparse.Namespace\n  image_size: 28\n"
        "  logit_transform: true\nmodel: !!python/object:argparse.Namespace\n  ngf: 4\n  num_classes: 3\n"
        "  sigma_begin: 9\n  sigma_end: 0.25\n"
    )
    net = make("ncsn", logit_transform=True)
    found = quietly(write(tmp_path, net, config))
    assert (found.nonlinearity, found.rescaled, found.logit_transform, found.image_size) == ("elu", False, True, 28)
    torch.testing.assert_close(found.sigmas, torch.tensor([9.0, 1.5, 0.25]))
    assert_outputs(found, net)
    x = torch.rand(2, 2, 8, 8)
    torch.testing.assert_close(found(x, torch.tensor([1.5, 9.0])), net(x, torch.tensor([1, 0])))
    quietly(tmp_path / "checkpoint_5000.pth", make("ncsn", seed=1, logit_transform=True))
    other = NCSN(2, 8, 4, sigmas=[8.0, 1.5, 0.25], logit_transform=True)
    with pytest.raises(CheckpointError, match=r"noise levels from 9 to 0\.25 \(.*given has sigmas from 8 "):
        load_original_checkpoint(tmp_path / "checkpoint_5000.pth", other)


def test_given_options_go_before_the_config(tmp_path):
    file = write(tmp_path, make(nonlinearity="relu", rescaled=True), DUMP)
    found = quietly(file, nonlinearity="relu")
    assert (found.nonlinearity, found.rescaled) == ("relu", True)
    assert found.options_from == {
        "nonlinearity": "given",
        "rescaled": str(tmp_path / "config.yml"),
        "logit_transform": str(tmp_path / "config.yml"),
    }


def test_config_elsewhere(tmp_path):
    (tmp_path / "other").mkdir()
    file, config = write(tmp_path / "other", make(rescaled=True)), tmp_path / "mine.yml"
    config.write_text(DUMP.replace("lrelu", "elu"))
    assert quietly(file, config=config).rescaled
    with pytest.raises(CheckpointError, match=r"none\.yml cannot be read: No such file.*pass config=PATH"):
        load_original_checkpoint(file, config=tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("given", "assumed", "not_assumed"),
    [
        ({}, ["nonlinearity='elu'", "rescaled=False", "logit_transform=False"], []),
        ({"rescaled": True}, ["nonlinearity='elu'", "logit_transform=False"], ["rescaled="]),
    ],
)
def test_assumptions_are_reported(given, assumed, not_assumed, tmp_path):
    with pytest.warns(UserWarning, match=r"no config\.yml beside it") as caught:
        found = load_original_checkpoint(write(tmp_path, make()), **given)
    assert caught[0].filename == __file__ and len(caught) == 1
    text = str(caught[0].message)
    assert all(word in text for word in assumed) and not any(word in text for word in not_assumed)
    assert [name for name, source in found.options_from.items() if source == "assumed"] == [
        word.partition("=")[0] for word in assumed
    ]


@pytest.mark.parametrize("lost", [("rescaled",), ("rescaled", "nonlinearity")])
def test_what_a_config_does_not_name_is_assumed(lost, tmp_path):
    """A config.yml of the second repository that was cut short, or is of another run, is no ground to be silent."""
    net = make(nonlinearity="lrelu", rescaled=True)
    config = "\n".join(line for line in DUMP.split("optim:")[0].splitlines() if not line.strip().startswith(lost))
    with pytest.warns(UserWarning, match=r"config.yml does not say, so .*rescaled=False.* was assumed.*pass these"):
        found = load_original_checkpoint(write(tmp_path, net, config))
    assert [name for name in OPTIONS if found.options_from[name] == "assumed"] == [n for n in OPTIONS if n in lost]
    given = {name: getattr(net, name) for name in lost}
    assert_outputs(quietly(tmp_path / "checkpoint_5000.pth", **given), net)


def test_a_given_network_must_have_the_options(tmp_path):
    file = write(tmp_path, make(nonlinearity="lrelu", rescaled=True), DUMP)
    mine = make(seed=1, rescaled=True)
    before = mine.begin_conv.weight.clone()
    with pytest.raises(
        CheckpointError,
        match=r"trained with nonlinearity='lrelu' \(.*config.yml\), but the network "
        r"given has nonlinearity='elu': build it with nonlinearity='lrelu'",
    ):
        load_original_checkpoint(file, mine)
    assert torch.equal(mine.begin_conv.weight, before)
    with pytest.raises(CheckpointError, match=r"trained with logit_transform=True \(given\)"):
        load_original_checkpoint(file, make(nonlinearity="lrelu", rescaled=True), logit_transform=True)
    mine = make(seed=1, nonlinearity="lrelu", rescaled=True)
    assert quietly(file, mine) is mine
    (tmp_path / "config.yml").unlink()
    with pytest.warns(UserWarning, match="nonlinearity='lrelu', rescaled=True, logit_transform=False was assumed"):
        load_original_checkpoint(file, mine)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("ngf: 4", "ngf: 128", "is not the configuration of this checkpoint: ngf is 128 there and 4 in the weights"),
        ("channels: 2", "channels: 3", "channels is 3 there and 2 in the weights"),
        ("num_classes: 3", "num_classes: 232", "num_classes is 232 there and 3 in the weights"),
        ("sigma_begin: 9", "sigma_begin: 50", "sigma_begin is 50 there and 9 in the weights"),
        ("lrelu", "gelu", "nonlinearity is 'gelu', which no network here has"),
        ("rescaled: true", "rescaled: maybe", "rescaled is 'maybe', which no network here has"),
        ("InstanceNorm++", "BatchNorm", r"normalization is 'BatchNorm'; the networks here have InstanceNorm\+\+ alone"),
        ("spec_norm: false", "spec_norm: true", "spec_norm is True; the networks here have no spectral normalization"),
        ("model:", "network:", "is no configuration of ermongroup/ncsn or ncsnv2"),
        ("image_size: 24", "image_size: 2", "image_size must be at least 4, got 2"),
    ],
)
def test_configs_that_do_not_fit(old, new, text, tmp_path):
    file = write(tmp_path, make(nonlinearity="lrelu", rescaled=True), DUMP.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=text):
        load_original_checkpoint(file)
    found = quietly(file, nonlinearity="lrelu", rescaled=True, logit_transform=False)  # then none is read
    assert found.nonlinearity == "lrelu"


def test_nothing_of_a_config_is_run(tmp_path):
    marker = tmp_path / "was_run"
    trap = f"  ngf: 4\n  trap: !!python/object/apply:os.system ['touch {marker}']\n"
    found = quietly(write(tmp_path, make(), DUMP.replace("  ngf: 4\n", trap).replace("lrelu", "elu")))
    assert found.rescaled and not marker.exists()


@pytest.mark.parametrize("config", ["", "data:\nmodel:\n", "\x00\xff", "data: {\nmodel: }", "404: Not Found"])
def test_damaged_configs(config, tmp_path):
    with pytest.raises(CheckpointError, match="is no configuration of ermongroup"):
        load_original_checkpoint(write(tmp_path, make(), config))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"nonlinearity": "tanh"}, ValueError, "nonlinearity must be one of 'elu', .*got 'tanh'"),
        ({"rescaled": "yes"}, TypeError, "rescaled must be True, False or None, got str 'yes'"),
    ],
)
def test_bad_arguments_are_named(given, error, text, tmp_path):
    with pytest.raises(error, match=text):
        load_original_checkpoint(write(tmp_path, make()), **given)


class Holder(nn.Module):
    """A network that has a module called module."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.module = net


WRAPPERS = {
    "plain": lambda net: net,
    "DataParallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled DataParallel": lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
    "DataParallel compiled": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
    "held": Holder,
}


@pytest.mark.parametrize(
    ("prefix", "network"),
    [
        *[(prefix, "plain") for prefix in ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.")],
        *[(prefix, network) for prefix in ("", "module._orig_mod.") for network in WRAPPERS if network != "plain"],
    ],
)
def test_prefixes_on_either_side(prefix, network, tmp_path):
    net, mine = make(), make(seed=1)
    file = tmp_path / "checkpoint.pth"
    shadow = {prefix + name: p.detach() + 1 for name, p in net.named_parameters()}
    torch.save([{prefix + name: tensor for name, tensor in net.state_dict().items()}, {}, 1, 2, shadow], file)
    wrapped = WRAPPERS[network](mine)
    known = {"nonlinearity": "elu", "rescaled": False, "logit_transform": False}
    assert quietly(file, wrapped, **known) is wrapped
    for name, p in mine.named_parameters():
        assert torch.equal(p, dict(net.named_parameters())[name] + 1)
    assert mine.options_from == dict.fromkeys(OPTIONS, "given")
    if network == "plain":
        assert type(quietly(file, **known)) is NCSNv2


def test_a_compiled_part_of_a_network(tmp_path):
    net = make("ncsn")
    net.refine1 = torch.compile(net.refine1, backend="eager")
    assert any("refine1._orig_mod." in name for name in net.state_dict())
    found = quietly(write(tmp_path, net), nonlinearity="elu", rescaled=False, logit_transform=False)
    assert type(found) is NCSN
    assert torch.equal(found.refine1.crp.convs[0].weight, net.state_dict()["refine1._orig_mod.crp.convs.0.weight"])


def test_plain_names():
    assert plain_names([]) == {}
    assert list(plain_names(["module.a", "b"])) == ["module.a", "b"]  # a module of that name, not a wrapper
    assert list(plain_names(["module.module.a", "module.module.b"])) == ["a", "b"]
    assert list(plain_names(["a._fsdp_wrapped_module.b"])) == ["a.b"]
    assert list(plain_names(["a", "_orig_mod.a"])) == ["a", "_orig_mod.a"]  # two names stay two
    assert renamed({"module.a": 1, "module.c": 2}, ["_orig_mod.a", "_orig_mod.b"]) == {"_orig_mod.a": 1, "c": 2}
