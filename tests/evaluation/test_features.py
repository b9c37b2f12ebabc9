"""fastscore.evaluation.features: pixels and the classifier on real digits."""

from __future__ import annotations

import math
import sys

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
