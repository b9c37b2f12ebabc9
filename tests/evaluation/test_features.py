"""fastscore.evaluation.features: pixels, the classifier on real digits; Inception's absence is told at once, exactly."""

from __future__ import annotations

import importlib.util
import math
import socket
import sys
import time
import types

import pytest
import torch

from fastscore._core import errors
from fastscore.evaluation import features, metrics
from fastscore.rng import Philox

# --- pixels and the registry ---


def test_pixels_are_the_pixels_in_logical_order():
    images = Philox(seed=0).rand(3, 2, 4, 5)
    net = features.make("pixels")
    assert torch.equal(net(images), images.reshape(3, 40))
    assert torch.equal(net(images.contiguous(memory_format=torch.channels_last)), images.reshape(3, 40))
    assert net(images.double()).dtype == torch.float64


def test_registry_names_what_there_is_and_takes_more(monkeypatch):
    assert list(features.FEATURES) == ["pixels", "classifier", "inception"]
    with pytest.raises(ValueError, match=r"name must be one of 'pixels', .*'inception', got 'vgg'"):
        features.make("vgg")
    monkeypatch.setitem(features.FEATURES, "mean", lambda scale: lambda images: scale * images.mean((2, 3)))
    assert features.make("mean", scale=2.0)(torch.ones(1, 3, 2, 2)).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    "images, kind, text",
    [
        (torch.zeros(2, 8, 8), ValueError, r"images must be \[N, C, H, W\] and not empty, got.*\(2, 8, 8\)"),
        (torch.zeros(0, 1, 8, 8), ValueError, r"not empty, got.*\(0, 1, 8, 8\)"),
        (torch.full((1, 1, 2, 2), 1.5), ValueError, r"in \[0, 1\] \(clamp samples first\), got 1.5 to 1.5"),
        (torch.full((1, 1, 2, 2), -0.1), ValueError, r"images must be in \[0, 1\]"),
        (torch.full((1, 1, 2, 2), math.nan), ValueError, r"images must be in \[0, 1\].*nan"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), TypeError, "images must be float16.*uint8"),
    ],
)
def test_images_are_checked(images, kind, text):
    with pytest.raises(kind, match=text):
        features.make("pixels")(images)


# --- the classifier ---


@pytest.fixture(scope="module")
def digits():
    """Two halves in random order: (training images, labels), (held-out images, labels)."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    order = Philox(seed=0).permutation(len(data.target))
    images = torch.from_numpy(data.images / 16).float().unsqueeze(1)[order]
    labels = torch.from_numpy(data.target).long()[order]
    return (images[:898], labels[:898]), (images[898:], labels[898:])


@pytest.fixture(scope="module")
def classifier(digits):
    return features.make("classifier", images=digits[0][0], labels=digits[0][1])


def test_classifier_is_right_on_held_out_digits(classifier, digits):
    (train, train_labels), (images, labels) = digits
    accuracy = classifier.accuracy(images, labels)
    assert accuracy >= 0.98
    assert classifier.accuracy(images, (labels + 1) % 10) < 0.05
    assert classifier.accuracy(train, train_labels) >= accuracy
    z = classifier(images)
    assert z.shape == (899, 10) and z.dtype == torch.float64 and classifier.num_classes == 10
    assert accuracy == float((z.argmax(1) == labels).double().mean())


def test_classifier_probabilities_are_calibrated(classifier, digits):
    """The log-loss on held-out digits is small; the mean confidence is the accuracy to 4 standard errors."""
    images, labels = digits[1]
    p = classifier.probabilities(classifier(images))
    torch.testing.assert_close(p.sum(1), torch.ones(899, dtype=torch.float64))
    assert -float(p[torch.arange(899), labels].log().mean()) < 0.08
    confidence, accuracy = float(p.amax(1).mean()), classifier.accuracy(images, labels)
    assert abs(confidence - accuracy) < 4 * math.sqrt(float((p.amax(1) * (1 - p.amax(1))).mean()) / 899)


def test_classifier_is_deterministic_and_treats_each_row_alone(classifier, digits):
    (train, train_labels), (images, _) = digits
    again = features.classifier_features(train, train_labels)
    assert again.temperature == classifier.temperature
    assert torch.equal(again(images), classifier(images))
    torch.testing.assert_close(classifier(images[5:6]), classifier(images)[5:6], rtol=0, atol=1e-12)


def test_classifier_serves_the_scores_on_digits(classifier, digits):
    """Real digits score near 10 with a flat histogram; digits with a missing class, or noise, do worse."""
    images, labels = digits[1]
    z = classifier(images)
    p = classifier.probabilities(z)
    real = metrics.class_histogram(labels, 10)
    score = metrics.inception_score(p).mean
    assert 9 < score < 10
    assert metrics.histogram_distance(metrics.class_histogram(p.argmax(1), 10), real).p_value > 0.99
    few = labels < 5
    assert metrics.inception_score(p[few]).mean < 5.2
    assert metrics.histogram_distance(metrics.class_histogram(p[few].argmax(1), 10), real).p_value < 1e-6
    noise = Philox(seed=1).rand(899, 1, 8, 8)
    assert metrics.inception_score(classifier.probabilities(classifier(noise))).mean < 3
    half = metrics.frechet_distance(z[::2], z[1::2])
    assert 10 * half < metrics.frechet_distance(z, z[few])
    assert 10 * half < metrics.frechet_distance(z, classifier(noise))


def test_classifier_of_two_classes(digits):
    (images, labels), _ = digits
    two = labels < 2
    net = features.classifier_features(images[two], labels[two])
    z = net(images[two])
    assert z.shape[1] == 2 and torch.equal(z[:, 0], -z[:, 1]) and net.accuracy(images[two], labels[two]) == 1


def test_temperature_is_where_the_log_loss_is_least():
    """Seven of ten are class 0, the scores say t ln(7/3): softmax(z / T) = (0.7, 0.3) just at T = t."""
    labels = torch.tensor([0] * 7 + [1] * 3)
    for t in (0.05, 1.0, 30.0):
        values = torch.tensor([[t * math.log(7 / 3), 0.0]], dtype=torch.float64).expand(10, 2)
        assert features._temperature(values, labels) == pytest.approx(t, rel=1e-5)
    certain = features._temperature(torch.eye(2, dtype=torch.float64)[labels], labels)  # separable
    assert 0.01 < certain < 0.1  # the largest T at which nothing is left to gain


@pytest.mark.parametrize(
    "change, text",
    [
        (lambda x, y: (x, y.float()), r"labels must be an int64 tensor of shape \(898,\).*float32"),
        (lambda x, y: (x, y[1:]), r"labels must be .*\(898,\).*\(897,\)"),
        (lambda x, y: (x, y - 1), "labels must hold each class.*a lowest label of -1"),
        (lambda x, y: (x, y * 2), r"labels must hold each class.*counts \[\d+, 0, "),
        (lambda x, y: (x, y * 0), r"K >= 2.*counts \[898\]"),
        (lambda x, y: (2 * x, y), r"images must be in \[0, 1\]"),
    ],
)
def test_classifier_refuses(digits, change, text):
    with pytest.raises(ValueError, match=text):
        features.classifier_features(*change(*digits[0]))


def test_classifier_refuses_images_of_another_shape(classifier):
    with pytest.raises(ValueError, match=r"images' shape after N, \(1, 8, 8\), got.*\(2, 1, 4, 16\)"):
        classifier(torch.zeros(2, 1, 4, 16))
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\)"):
        classifier.accuracy(torch.zeros(2, 1, 8, 8), torch.zeros(3))


def test_classifier_without_sklearn_says_what_to_install(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    commands = (
        r"pip install 'fastscore-torch\[train\]', or .* source folder: pip install --no-build-isolation '\.\[train\]'$"
    )
    with pytest.raises(errors.MissingDependency, match=rf"the package 'sklearn', which is not installed.*: {commands}"):
        features.classifier_features(*digits[0])


# --- Inception: what is missing is told at once, without the network ---


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty torch hub folder, and sockets that fail the test where anything tries to download."""

    def refuse(*_):
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def pretend(monkeypatch, **present):
    """importlib.util.find_spec as on a machine that has, or lacks, the named packages."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: (types.SimpleNamespace() if present[name] else None) if name in present else real(name, *a),
    )


def test_inception_without_packages_and_weights_names_both(monkeypatch, offline):
    pretend(monkeypatch, torch_fidelity=False, torchmetrics=True)
    start = time.perf_counter()
    with pytest.raises(errors.MissingDependency) as caught:
        features.make("inception")
    assert time.perf_counter() - start < 1
    text = str(caught.value)
    assert f"need torch_fidelity, not installed: {errors.how_to_install('eval')}; they also need" in text
    assert f"download {features.WEIGHTS_URL}" in text and text.endswith(f"put it at {offline}")


def test_inception_on_this_machine_as_it_is(offline):
    """Nothing pretended: here something is missing (at least the weights, in an empty hub folder)."""
    start = time.perf_counter()
    with pytest.raises((errors.MissingDependency, errors.DataError), match=r"features need.*6726825d\.pth"):
        features.inception_features()
    assert time.perf_counter() - start < 1


def test_inception_without_weights_says_which_file_goes_where(monkeypatch, offline):
    pretend(monkeypatch, torch_fidelity=True, torchmetrics=True)
    with pytest.raises(errors.DataError) as caught:
        features.inception_features()
    assert str(caught.value) == (
        "Inception features need the network's weights, not on this machine: "
        f"download {features.WEIGHTS_URL} (91 MB) anywhere and put it at {offline}"
    )
    with pytest.raises(errors.DataError, match=r"put it at /nowhere/w\.pth"):
        features.inception_features(weights="/nowhere/w.pth")


def test_inception_with_weights_only_names_the_packages(monkeypatch, offline):
    pretend(monkeypatch, torch_fidelity=False, torchmetrics=False)
    offline.parent.mkdir()
    offline.write_bytes(b"x")
    with pytest.raises(errors.MissingDependency, match="need torchmetrics and torch_fidelity, not") as caught:
        features.inception_features()
    assert "weights" not in str(caught.value)


class Net(torch.nn.Module):
    """Stands in for torchmetrics' network: its features are the mean 8-bit value of each channel."""

    def __init__(self, **options):
        super().__init__()
        self.options, self.seen = options, []
        self.fc = torch.nn.Linear(3, 4)
        self.fc.bias.data = torch.arange(4.0)

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        self.seen.append(x)
        return x.float().mean((2, 3))


@pytest.fixture
def stub(monkeypatch, offline):
    pretend(monkeypatch, torch_fidelity=True, torchmetrics=True)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", types.SimpleNamespace(NoTrainInceptionV3=Net))
    offline.parent.mkdir()
    torch.save({}, offline)
    return offline


def test_inception_gives_the_network_rounded_8_bit_images(stub):
    net = features.inception_features(batch_size=2)
    assert net._net.options == {
        "name": "inception-v3-compat",
        "features_list": ["2048"],
        "antialias": False,
        "feature_extractor_weights_path": str(stub),
    }
    eight_bit = torch.arange(256, dtype=torch.uint8)[:255].reshape(5, 3, 1, 17)
    z = net(eight_bit / 255)  # every 8-bit value comes back: truncation would lose one from some
    assert torch.equal(torch.cat(net._net.seen), eight_bit)
    assert [len(batch) for batch in net._net.seen] == [2, 2, 1]
    torch.testing.assert_close(z, eight_bit.float().mean((2, 3)))
    assert net(torch.full((1, 3, 2, 2), 0.5 / 255 + 1e-4)).tolist() == [[1, 1, 1]]  # rounds up
    assert net(torch.ones(2, 1, 4, 4)).tolist() == [[255, 255, 255]] * 2  # one channel is repeated
    with pytest.raises(ValueError, match=r"images must have 1 or 3 channels, got.*\(1, 2, 4, 4\)"):
        net(torch.zeros(1, 2, 4, 4))


def test_inception_probabilities_leave_the_bias_out(stub):
    net = features.inception_features()
    z = torch.tensor([[1.0, 2.0, 3.0]])
    expected = torch.softmax(torch.nn.functional.linear(z, net._net.fc.weight), 1)
    torch.testing.assert_close(net.probabilities(z), expected.detach())
    assert not net.probabilities(z).requires_grad


def test_inception_with_damaged_weights_says_so(stub):
    stub.write_bytes(b"not a checkpoint")
    with pytest.raises(errors.DataError, match=f"at {stub} do not load .*damaged.*{features.WEIGHTS_URL}"):
        features.inception_features()


def test_inception_runs_no_code_from_the_weights_file(stub, tmp_path):
    class Bad:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"x": Bad()}, stub)
    with pytest.raises(errors.DataError, match="do not load"):
        features.inception_features()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("batch_size, kind", [(0, ValueError), (2.0, TypeError)])
def test_inception_checks_its_arguments_first(batch_size, kind):
    with pytest.raises(kind, match="batch_size must be"):
        features.inception_features(batch_size=batch_size)


def test_inception_equals_torch_fidelitys_own(monkeypatch, tmp_path):
    """With random weights, torch-fidelity's features and logits exactly."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    with monkeypatch.context() as patch:
        patch.setattr(extractor, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        reference = extractor.FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    images = Philox(seed=3).rand(2, 3, 32, 32)
    pool, logits = reference(images.mul(255).round().byte())
    net = features.inception_features(weights=tmp_path / "w.pth")
    torch.testing.assert_close(net(images), pool)
    torch.testing.assert_close(net.probabilities(pool), logits.softmax(1))
