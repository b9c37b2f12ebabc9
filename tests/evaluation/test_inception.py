"""fastscore.evaluation.inception: what is missing is told at once; torch-fidelity's features, and its metrics of them."""

from __future__ import annotations

import hashlib
import importlib.util
import socket
import sys
import time
import types

import numpy as np
import pytest
import torch

from fastscore._core import errors
from fastscore._core.float32 import tf32
from fastscore.evaluation import features, inception, metrics
from fastscore.rng import Philox

from ..conftest import optional
from .inception_file import write_inception

MODULE = "torch_fidelity.feature_extractor_inceptionv3"

# --- what is missing is told at once, without the network ---


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty torch hub folder, and sockets that fail the test where anything tries to download."""

    def refuse(*_):
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def pretend(monkeypatch, present: bool) -> None:
    """importlib.util.find_spec as on a machine that has, or lacks, torch-fidelity."""
    real = importlib.util.find_spec

    def find(name, *rest):
        found = types.SimpleNamespace() if present else None
        return found if name == "torch_fidelity" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find)


def test_without_package_and_weights_both_are_named(monkeypatch, offline):
    pretend(monkeypatch, False)
    start = time.perf_counter()
    with pytest.raises(errors.MissingDependency) as caught:
        features.make("inception")
    assert time.perf_counter() - start < 1
    text = str(caught.value)
    assert f"need torch_fidelity, not installed: {errors.how_to_install('eval')}; they also need" in text
    assert f"download {inception.WEIGHTS_URL}" in text and text.endswith(f"put it at {offline}")


def test_on_this_machine_as_it_is(offline):
    """Nothing pretended: here something is missing (at least the weights, in an empty hub folder)."""
    start = time.perf_counter()
    with pytest.raises((errors.MissingDependency, errors.DataError), match=r"features need.*6726825d\.pth"):
        inception.inception_features()
    assert time.perf_counter() - start < 1


def test_without_weights_it_says_which_file_goes_where(monkeypatch, offline):
    pretend(monkeypatch, True)
    with pytest.raises(errors.DataError) as caught:
        inception.inception_features()
    assert str(caught.value) == (
        "Inception features need the network's weights, not on this machine: "
        f"download {inception.WEIGHTS_URL} (91 MB) anywhere and put it at {offline}"
    )
    with pytest.raises(errors.DataError, match=r"put it at /nowhere/w\.pth"):
        inception.inception_features("/nowhere/w.pth")


def test_with_weights_only_it_names_the_package(monkeypatch, offline):
    pretend(monkeypatch, False)
    offline.parent.mkdir()
    offline.write_bytes(b"x")
    with pytest.raises(errors.MissingDependency, match="need torch_fidelity, not") as caught:
        inception.inception_features()
    assert "weights" not in str(caught.value)


class Net(torch.nn.Module):
    """Stands in for torch-fidelity's network: its features are the mean 8-bit value of each channel."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        self.options, self.seen = (name, features_list), []
        self.fc = torch.nn.Linear(3, 4)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        self.seen.append(x)
        return (x.float().mean((2, 3)),)


@pytest.fixture
def stub(monkeypatch, offline):
    """The file of the stand-in's weights, which has the published checksum here."""
    pretend(monkeypatch, True)
    monkeypatch.setitem(sys.modules, MODULE, types.SimpleNamespace(FeatureExtractorInceptionV3=Net))
    offline.parent.mkdir()
    torch.save({"fc.weight": torch.arange(12.0).reshape(4, 3), "fc.bias": torch.arange(4.0)}, offline)
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", hashlib.sha256(offline.read_bytes()).hexdigest())
    return offline


def test_the_network_is_given_rounded_8_bit_images(stub):
    net = features.make("inception", batch_size=2)
    assert net._net.options == ("inception-v3-compat", ["2048"])
    eight_bit = torch.arange(256, dtype=torch.uint8)[:255].reshape(5, 3, 1, 17)
    z = net(eight_bit / 255)  # every 8-bit value comes back: truncation would lose one from some
    assert torch.equal(torch.cat(net._net.seen), eight_bit)
    assert [len(batch) for batch in net._net.seen] == [2, 2, 1]
    torch.testing.assert_close(z, eight_bit.float().mean((2, 3)))
    assert net(torch.full((1, 3, 2, 2), 0.5 / 255 + 1e-4)).tolist() == [[1, 1, 1]]  # rounds up
    assert net(torch.ones(2, 1, 4, 4)).tolist() == [[255, 255, 255]] * 2  # one channel is repeated
    with pytest.raises(ValueError, match=r"images must have 1 or 3 channels, got.*\(1, 2, 4, 4\)"):
        net(torch.zeros(1, 2, 4, 4))


def test_the_network_is_computed_in_float32_proper(stub, monkeypatch):
    """Where the process allows TF32, too, in features and in probabilities; and what was set is set again."""
    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    net, seen = inception.inception_features(), []
    net._net.register_forward_hook(lambda *_: seen.append((conv.fp32_precision, matmul.fp32_precision)))
    real = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda *a: seen.append(matmul.fp32_precision) or real(*a))
    with tf32(True):
        net.probabilities(net(torch.ones(1, 3, 2, 2)))
        assert conv.fp32_precision == matmul.fp32_precision == "tf32"
    assert seen == [("ieee", "ieee"), "ieee"]


def test_probabilities_leave_the_bias_out(stub):
    net = inception.inception_features()
    z = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(net.probabilities(z), torch.tensor([[8.0, 26.0, 44.0, 62.0]]).softmax(1))
    assert not net.probabilities(z).requires_grad


def test_another_file_than_the_published_one_is_taken_only_where_that_is_asked_for(stub):
    assert inception.inception_features(stub).sha256 == inception.WEIGHTS_SHA256
    weights = torch.load(stub, weights_only=True)
    torch.save(weights | {"fc.bias": weights["fc.bias"] + 1}, stub)
    found, size = hashlib.sha256(stub.read_bytes()).hexdigest(), stub.stat().st_size
    with pytest.raises(errors.DataError) as caught:
        inception.inception_features()
    assert str(caught.value) == (
        f"the Inception weights at {stub} are not the published file: their SHA-256 is {found}, at {size:,} bytes, not "
        f"{inception.WEIGHTS_SHA256}; replace them with {inception.WEIGHTS_URL}, or take these, whose distances are no "
        "FIDs, by checksum=False (--no-inception-checksum)"
    )
    assert inception.inception_features(checksum=False).sha256 == found


def test_the_checksum_is_the_published_files():
    """Its first eight digits are in the file's name, by torch hub's rule."""
    assert len(inception.WEIGHTS_SHA256) == 64 and f"-{inception.WEIGHTS_SHA256[:8]}.pth" in inception.WEIGHTS


def test_damaged_weights_are_said_to_be_so(stub):
    stub.write_bytes(b"not a checkpoint")
    with pytest.raises(errors.DataError, match=f"at {stub} do not load .*damaged.*{inception.WEIGHTS_URL}"):
        inception.inception_features(checksum=False)
    torch.save({"fc.weight": torch.zeros(4, 3)}, stub)  # another network's
    with pytest.raises(errors.DataError, match=f"at {stub} do not load"):
        inception.inception_features(checksum=False)
    stub.unlink()
    stub.mkdir()
    with pytest.raises(errors.DataError, match=f"put it at {stub}"):
        inception.inception_features()


def test_no_code_of_the_weights_file_is_run(stub, tmp_path):
    class Bad:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"x": Bad()}, stub)
    with pytest.raises(errors.DataError, match="do not load"):
        inception.inception_features(checksum=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("batch_size, kind", [(0, ValueError), (2.0, TypeError)])
def test_arguments_are_checked_first(batch_size, kind):
    with pytest.raises(kind, match="batch_size must be"):
        inception.inception_features(batch_size=batch_size)


# --- agreement with torch-fidelity, with random weights ---


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Ours and torch-fidelity's, of one file."""
    path = write_inception(tmp_path_factory.mktemp("inception") / "weights.pth")
    extractor = optional(MODULE).FeatureExtractorInceptionV3
    reference = extractor("inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))
    return inception.inception_features(path, checksum=False, batch_size=32), reference


def pictures(count: int, seed: int, contrast: float) -> torch.Tensor:
    """uint8 [count, 3, 32, 32]: smooth in space, as pictures are."""
    coarse = Philox(seed).randn(count, 3, 8, 8) * contrast
    fine = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")
    return (fine * 50 + 128).clamp(0, 255).byte()


@pytest.fixture(scope="module")
def sets(networks):
    """Features of 80 pictures and of 60 others, and the logits of these; resized to 75 in place of 299, for speed."""
    ours, theirs = networks
    real, fake = pictures(80, 1, 1.0), pictures(60, 2, 1.3)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(type(theirs), "INPUT_IMAGE_SIZE", 75)
        found = ours(real / 255), ours(fake / 255)
        (expected, _), (again, logits) = theirs(real), theirs(fake)
    assert torch.equal(found[0], expected) and torch.equal(found[1], again)
    return *found, logits


def test_features_and_logits_are_torch_fidelitys(networks):
    """At full size, bit for bit."""
    ours, theirs = networks
    images = pictures(3, 3, 1.0)
    with torch.no_grad():
        expected, logits = theirs(images)
    found = ours(images / 255)
    assert torch.equal(found, expected) and found.shape == (3, 2048) and float(found.std(0).max()) > 1e-3
    torch.testing.assert_close(ours.probabilities(found), logits.softmax(1))


@pytest.mark.parametrize(
    "columns, cast, tolerance", [(48, "double", 1e-12), (48, "float", 1e-6), (2048, "float", 1e-6)]
)
def test_frechet_distance_is_torch_fidelitys(sets, columns, cast, tolerance):
    """torch-fidelity means features of float32 in float32. Of 2048 dimensions the samples fill 79 and 59."""
    fid = optional("torch_fidelity.metric_fid")
    real, fake, _ = (getattr(z[:, :columns], cast)() for z in sets)
    moments = [fid.fid_features_to_statistics(z) for z in (fake, real)]
    expected = fid.fid_statistics_to_metric(*moments, verbose=False)[fid.KEY_METRIC_FID]
    assert metrics.frechet_distance(fake, real) == pytest.approx(expected, rel=tolerance) and expected > 1e-3


@pytest.mark.parametrize("size, subsets", [(60, 1), (20, 5)])
def test_kernel_distance_is_torch_fidelitys(sets, size, subsets, monkeypatch):
    """All in one subset; and subset by subset, of the vectors that torch-fidelity draws."""
    kid = optional("torch_fidelity.metric_kid")
    real, fake = sets[0][:60], sets[1]
    options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": 7, "verbose": False}
    expected = kid.kid_features_to_metric(real.double(), fake.double(), **options)
    dice = np.random.RandomState(7)
    monkeypatch.setattr(Philox, "permutation", lambda _, n, **__: torch.from_numpy(dice.choice(n, size, replace=False)))
    found = metrics.kernel_distance(real, fake, subsets=subsets, subset_size=size)
    assert found.mean == pytest.approx(expected[kid.KEY_METRIC_KID_MEAN], rel=1e-9) and abs(found.mean) > 1e-5
    assert found.std == pytest.approx(expected[kid.KEY_METRIC_KID_STD], rel=1e-9, abs=1e-14)


def test_precision_and_recall_are_torch_fidelitys(sets):
    prc = optional("torch_fidelity.metric_prc")
    real, fake, _ = sets
    for k in (1, 3, 5):
        expected = prc.prc_features_to_metric(fake, real, prc_neighborhood=k, verbose=False)
        found = metrics.precision_recall(real, fake, k)
        assert found == pytest.approx((expected[prc.KEY_METRIC_PRECISION], expected[prc.KEY_METRIC_RECALL]), rel=1e-6)
        assert min(found) > 0 and max(found) < 1


def test_inception_score_is_torch_fidelitys(sets, networks):
    isc = optional("torch_fidelity.metric_isc")
    _, fake, logits = sets
    expected = isc.isc_features_to_metric(logits, splits=10, shuffle=False)
    found = metrics.inception_score(networks[0].probabilities(fake), 10)
    mean, std = (expected[key] for key in (isc.KEY_METRIC_ISC_MEAN, isc.KEY_METRIC_ISC_STD))
    assert found.mean - 1 == pytest.approx(mean - 1, rel=1e-6) and found.mean > 1.01  # 1 is the least that there is
    assert found.std == pytest.approx(std, rel=1e-6)
