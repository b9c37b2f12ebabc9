"""Checkpoints in the originals' format: what fits is read exactly, the rest is named, no code ever runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from fastscore._core.errors import CheckpointError
from fastscore.models import NCSN, NCSNv2, load_original_checkpoint

# The options that a checkpoint does not tell have tests of their own: test_original_options.py.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*no config\.yml beside it")
LEVELS = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)


def original(network: str, seed: int = 0, channels: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return NCSN(channels, 8, 8, num_levels=4) if network == "ncsn" else NCSNv2(channels, 8, 8, sigmas=LEVELS)


def states(net: nn.Module, *, prefix: str = "module.") -> list:
    """What the original training scripts save, after one step of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    sum(p.sum() for p in net.parameters()).backward()
    optimizer.step()
    return [{prefix + name: tensor for name, tensor in net.state_dict().items()}, optimizer.state_dict()]


def shadow(net: nn.Module, *, prefix: str = "") -> dict[str, torch.Tensor]:
    """An EMA shadow: parameters only."""
    return {prefix + name: p.detach() + 1 for name, p in net.named_parameters()}


def save(value, path: Path) -> Path:
    torch.save(value, path)
    return path


def assert_same(found: nn.Module, expected: dict[str, torch.Tensor]) -> None:
    state = found.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("network", ["ncsn", "ncsnv2"])
@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("zip_format", [True, False])
def test_network_is_inferred(network, prefix, zip_format, tmp_path):
    net = original(network, channels=3)
    file = tmp_path / "checkpoint.pth"
    torch.save(states(net, prefix=prefix), file, _use_new_zipfile_serialization=zip_format)
    found = load_original_checkpoint(file)
    assert type(found) is type(net)
    assert (found.channels, found.ngf, found.num_levels) == (3, 8, 4 if network == "ncsn" else 3)
    assert_same(found, net.state_dict())
    x, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 2])
    out = found(x, labels)
    assert torch.equal(out, net(x, labels))
    out.sum().backward()  # the parameters are leaves that learn
    assert all(p.grad is not None for p in found.parameters())


def test_dtype_is_the_checkpoints(tmp_path):
    net = original("ncsn").double()
    found = load_original_checkpoint(str(save(states(net), tmp_path / "checkpoint.pth")))
    assert_same(found, net.state_dict())
    assert next(found.parameters()).dtype == torch.float64


def test_given_model_keeps_its_identity_and_dtype(tmp_path):
    net, mine = original("ncsn"), original("ncsn", seed=1).double()
    parameter = mine.begin_conv.weight
    found = load_original_checkpoint(save(states(net), tmp_path / "checkpoint.pth"), mine)
    assert found is mine and found.begin_conv.weight is parameter
    assert_same(found, {name: tensor.double() for name, tensor in net.state_dict().items()})


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_ema_shadow(prefix, ema, given, tmp_path):
    net = original("ncsnv2")
    file = save([*states(net), 7, 1000, shadow(net, prefix=prefix)], tmp_path / "checkpoint.pth")
    found = load_original_checkpoint(file, original("ncsnv2", seed=1) if given else None, ema=ema)
    assert_same(found, {**net.state_dict(), **(shadow(net) if ema else {})})
    assert torch.equal(found.sigmas, LEVELS)


def test_ema_is_not_needed(tmp_path):
    net = original("ncsnv2")
    found = load_original_checkpoint(save([*states(net), 7, 1000], tmp_path / "checkpoint.pth"), ema=True)
    assert_same(found, net.state_dict())


def refused(file: Path, model: nn.Module | None = None, *texts: str) -> None:
    """Loading raises a CheckpointError that names the path and contains the texts, and changes no model."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()} if model else {}
    with pytest.raises(CheckpointError) as caught:
        load_original_checkpoint(file, model)
    for text in (str(file), *texts):
        assert text in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to load unsafely is not passed on
    if model:
        assert_same(model, before)


def test_missing_file_and_folder(tmp_path):
    refused(tmp_path / "none.pth", None, "missing", "expected a checkpoint of")
    refused(tmp_path, None, "is a folder", "expected a checkpoint of")


def test_unreadable_file(tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        raise PermissionError("Permission denied")

    file = save(states(original("ncsn")), tmp_path / "checkpoint.pth")
    monkeypatch.setattr(Path, "open", forbidden)
    refused(file, None, "may not be read by this user", "expected a checkpoint of")


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_code_is_refused_and_not_run(form, tmp_path):
    marker, file = tmp_path / "was_run", tmp_path / "checkpoint.pth"
    value = [*states(original("ncsn")), Malicious(marker)]
    if form == "pickle":
        file.write_bytes(pickle.dumps(value, protocol=2))
    else:
        torch.save(value, file, _use_new_zipfile_serialization=form == "zip")
    refused(file, None, "nothing of it was run")
    refused(file, original("ncsn"))
    assert not marker.exists()
    # The file is a real trap: an ordinary unpickler springs it.
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    file = save(nn.Linear(1, 1), tmp_path / "module.pth")
    refused(file, None, "was refused", "torch.nn.modules.linear.Linear")


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.0005, 0.1, 0.5, 0.999])
def test_truncated_file(zip_format, keep, tmp_path):
    file = tmp_path / "checkpoint.pth"
    torch.save(states(original("ncsn")), file, _use_new_zipfile_serialization=zip_format)
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    refused(file, None, "damaged, cut short", f"{int(keep * len(content))} bytes", "expected a checkpoint of")


def test_text_file(tmp_path):
    file = tmp_path / "checkpoint.pth"
    file.write_text("404: Not Found")
    refused(file, None, "not a torch checkpoint", "14 bytes")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"epoch": 3, "model": {}}, "a dict with 2 keys (epoch, model)"),
        (torch.zeros(3), "a float32 tensor of shape (3,)"),
        ([{"weight": torch.zeros(1)}], "a list of 1 elements"),
        ([{"weight": torch.zeros(1)}, {}], "neither an NCSN"),
        ([{}, {}], "neither an NCSN"),
        ([torch.zeros(2), {}], "must map names to tensors, but is a float32 tensor"),
        ([{"weight": 3.0}, {}], "must map names to tensors, but is a dict with 1 keys (weight)"),
        ([{"begin_conv.weight": torch.zeros(8, 1, 3, 3)}, {}], "neither an NCSN"),
        ([{"begin_conv.weight": torch.zeros(8), "sigmas": LEVELS}, {}], "neither an NCSN"),
        ([{"begin_conv.weight": torch.zeros(1, 1, 3, 3), "sigmas": LEVELS}, {}], "ngf must be at least 2"),
        ([{"begin_conv.weight": torch.zeros(8, 1, 3, 3), "sigmas": -LEVELS}, {}], "sigmas must be finite"),
        ([{"begin_conv.weight": torch.zeros(8, 1, 3, 3), "sigmas": LEVELS}, {}], "it lacks"),
    ],
)
def test_foreign_checkpoints(value, text, tmp_path):
    refused(save(value, tmp_path / "checkpoint.pth"), None, text)


def test_huge_shapes_cost_no_memory(tmp_path):
    """A network of 10^17 bytes is only described, never allocated."""
    weights = {
        "begin_conv.weight": torch.zeros(1).expand(10**7, 1, 3, 3),
        "normalizer.embed.weight": torch.zeros(4, 3),
    }
    refused(save([weights, {}], tmp_path / "checkpoint.pth"), None, "it lacks")


def test_missing_surplus_and_misshapen_keys(tmp_path):
    net, mine = original("ncsn"), original("ncsn", seed=1)
    saved = states(net)
    del saved[0]["module.res1.0.conv1.bias"]
    saved[0]["module.extra"] = torch.zeros(1)
    saved[0]["module.res2.0.conv1.weight"] = torch.zeros(8, 7, 3, 3)
    saved[0]["module.end_conv.bias"] = torch.zeros(1, dtype=torch.int64)
    file = save(saved, tmp_path / "checkpoint.pth")
    texts = (
        "it lacks res1.0.conv1.bias",
        "it has extra, which the network has not",
        "res2.0.conv1.weight is a float32 tensor of shape (8, 7, 3, 3)",
        "where the network has shape (8, 8, 3, 3)",
        "end_conv.bias is a int64 tensor",
    )
    refused(file, mine, *texts)
    refused(file, None, *texts)


def test_another_network_or_size_is_refused(tmp_path):
    file = save(states(original("ncsn")), tmp_path / "checkpoint.pth")
    refused(file, original("ncsnv2"), "does not fit the network", "it lacks normalizer.alpha")
    refused(file, original("ncsn", channels=3), "begin_conv.weight is", "shape (8, 3, 3, 3)")
    refused(file, NCSN(1, 8, 4, num_levels=4), "more have wrong shapes")
    refused(file, nn.Linear(2, 2), "it lacks bias, weight")


def test_bad_shadow(tmp_path):
    net, mine = original("ncsnv2"), original("ncsnv2", seed=1)
    rest = [*states(net), 7, 1000]
    short = shadow(net)
    del short["end_conv.bias"]
    refused(save([*rest, short], tmp_path / "short.pth"), mine, "the EMA shadow lacks end_conv.bias")
    long = shadow(net) | {"sigmas": LEVELS}
    refused(save([*rest, long], tmp_path / "long.pth"), mine, "the EMA shadow has sigmas, which")
    refused(save([*rest, 0.999], tmp_path / "number.pth"), mine, "the EMA shadow, must map names to tensors")
    assert_same(load_original_checkpoint(tmp_path / "short.pth", ema=False), net.state_dict())
