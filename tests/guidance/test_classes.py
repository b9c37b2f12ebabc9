"""Scores of a class: against the exact one of a mixture, and the algebra of two scores."""

import copy
import math

import pytest
import torch
from torch import nn

import fastscore as fs
from fastscore import guidance, paths
from fastscore.data import GaussianMixture

MIXTURE = GaussianMixture((0.3, 0.7), ((-1.0, 0.5), (2.0, 1.0)), (0.5, 0.8))
SIGMAS = [2.0, 0.5]
X = 2 * fs.Philox(1).randn(6, 2, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])
SIGMA = torch.tensor(SIGMAS, dtype=torch.float64)[LABELS]


def of_component(x, sigma, k):
    return (MIXTURE.means[k] - x) / (MIXTURE.stds[k] ** 2 + sigma**2)[:, None]


def mixture(x, sigma):
    return MIXTURE.score(x, sigma)


def log_prob(x, sigma, k=1):
    """log p(k | x_t), exact."""
    variance = MIXTURE.stds.square() + sigma[:, None] ** 2
    square = (x[:, None] - MIXTURE.means).square().sum(2)
    logits = MIXTURE.weights.log() - variance.log() - square / (2 * variance)
    return logits.log_softmax(1)[:, k]


class Conditional(nn.Module):
    """The mixture's score and, of class k, the component's."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, sigma, class_labels=None):
        self.asked.append(class_labels)
        if class_labels is None:
            return mixture(x, sigma)
        return torch.stack([of_component(x, sigma, k) for k in range(2)])[class_labels, torch.arange(len(x))]


@pytest.mark.parametrize("k", [0, 1])
def test_the_exact_classifier_turns_the_mixtures_score_into_the_components(k):
    guided = guidance.classifier(mixture, lambda x, sigma: log_prob(x, sigma, k))
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            torch.testing.assert_close(guided(X, SIGMA), of_component(X, SIGMA, k), rtol=1e-12, atol=1e-12)


def test_a_classifiers_scale_multiplies_its_gradient_alone():
    s, g = mixture(X, SIGMA), of_component(X, SIGMA, 1) - mixture(X, SIGMA)
    for scale in (0.0, 0.5, 3.0):
        guided = guidance.classifier(mixture, log_prob, scale=scale)
        torch.testing.assert_close(guided(X, SIGMA), s + scale * g, rtol=1e-12, atol=1e-12)


def test_logits_of_a_network_become_log_p_of_each_samples_label():
    def network(x, sigma):
        return torch.stack([log_prob(x, sigma, k) for k in range(2)], 1) + 5  # a constant more

    value = guidance.class_log_prob(network, LABELS)(X, SIGMA)
    exact = torch.where(LABELS == 0, log_prob(X, SIGMA, 0), log_prob(X, SIGMA, 1))
    torch.testing.assert_close(value, exact)


def test_a_network_that_is_told_the_noise_gives_log_p_on_every_path():
    """At x_t / alpha and sigma / alpha, where a classifier of x_0 + sigma z is asked, whatever c samplers pass."""

    def network(x, sigma):
        return torch.stack([log_prob(x, sigma, k) for k in range(2)], 1)

    path, t = paths.rectified(), torch.tensor([0.1, 0.4, 0.6, 0.9, 0.5, 0.2], dtype=torch.float64)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)
    value = guidance.class_log_prob(network, 1, path=path)(X * alpha, t)
    torch.testing.assert_close(value, log_prob(X, sigma / alpha[:, 0]))
    for c in (LABELS, SIGMA):
        torch.testing.assert_close(guidance.class_log_prob(network, 1, path=SIGMAS)(X, c), log_prob(X, SIGMA))
    score = guidance.classifier(
        lambda x, t: mixture(x / alpha, sigma / alpha[:, 0]) / alpha, guidance.class_log_prob(network, 1, path=path)
    )
    torch.testing.assert_close(score(X * alpha, t), of_component(X, sigma / alpha[:, 0], 1) / alpha)


@pytest.mark.parametrize(
    "log_prob, text",
    [
        (lambda x, c: torch.log(torch.zeros_like(x[:, 0]) * x[:, 0]), "finite for every sample, got -inf for sample 0"),
        (lambda x, c: x[:, 0] * torch.tensor([1, 1, math.nan, 1, 1, 1]), "got nan for sample 2"),
        (lambda x, c: x, r"one number for each sample, of shape \(6,\), got a float64 tensor of shape \(6, 2\)"),
        (lambda x, c: x[:, 0].detach(), "log_prob must depend on x in a way that autograd records"),
    ],
)
def test_a_log_p_that_is_none_is_named(log_prob, text):
    with pytest.raises(ValueError, match=text):
        guidance.classifier(mixture, log_prob)(X, SIGMA)


def test_of_a_sample_that_is_not_finite_log_p_is_not_blamed():
    """The score is NaN there, which samplers refuse with what may help; of the others it is what it was."""
    x = X.clone()
    x[2, 0] = math.inf
    found, known = (guidance.classifier(mixture, log_prob)(at, SIGMA) for at in (x, X))
    assert found[2].isnan().any()
    torch.testing.assert_close(found[[0, 1, 3, 4, 5]], known[[0, 1, 3, 4, 5]])


def test_what_is_copied_within_a_transform_is_not_kept():
    """It would belong to the transform: a score first asked within one, or compiled, is copied and pickled as any other."""

    def network(x, sigma):
        return torch.stack([log_prob(x, sigma, k) for k in range(2)], 1)

    def made():  # levels in float32 beside samples in float64
        return guidance.classifier(_plain, guidance.class_log_prob(network, LABELS, path=SIGMAS))

    expected = made()(X, LABELS)
    for first in (
        lambda score: torch.func.jvp(lambda x: score(x, LABELS), (X,), (X,))[0],
        lambda score: torch.func.vjp(lambda x: score(x, LABELS), X)[0],
        lambda score: torch.compile(score, backend="aot_eager")(X, LABELS),
    ):
        score = made()
        torch.testing.assert_close(first(score), expected)
        assert torch.equal(copy.deepcopy(score)(X, LABELS), expected)


def _plain(x, labels):
    return -x


def test_where_values_cannot_be_read_the_score_of_a_log_p_that_is_none_is_nan():
    guided = guidance.classifier(mixture, lambda x, c: (x[:, 0] - X[2, 0]).abs().log() + 0 * c)  # -inf at one sample
    value = torch.func.vmap(lambda x, sigma: guided(x[None], sigma[None])[0])(X, SIGMA)
    assert value.isnan().any(1).tolist() == [False, False, True, False, False, False]


def test_the_sample_whose_log_p_is_none_is_named():
    """Of samples of one number, [B], too; not one that is itself NaN, of which the score is NaN."""
    guided, t = guidance.classifier(lambda x, c: -x, lambda x, c: x.log()), torch.ones(3)
    with pytest.raises(ValueError, match=r"got -inf for sample 1, whose numbers are up to 0"):
        guided(torch.tensor([torch.nan, 0.0, 1.0]), t)
    assert guided(torch.tensor([torch.nan, 2.0, 1.0]), t).isnan().tolist() == [True, False, False]


def test_a_class_beyond_those_of_a_classifier_is_named_where_values_cannot_be_read():
    """A number is no value of a device: by vmap, as on a GPU, where the gather would end the process."""
    guided = guidance.classifier(_plain, guidance.class_log_prob(lambda x, c: x, 2))
    with pytest.raises(ValueError, match="label must be from 0 to 1, of 2 classes, got 2"):
        torch.func.vmap(lambda x, sigma: guided(x[None], sigma[None])[0])(X, SIGMA)


def test_classifier_free_is_linear_in_w_from_the_unconditional_to_the_conditional_score():
    network = Conditional()

    def at(w):
        network.asked.clear()
        return guidance.classifier_free(network, LABELS, guidance=w)(X, SIGMA)

    unconditional, conditional = network(X, SIGMA), network(X, SIGMA, LABELS)
    assert torch.equal(at(0), unconditional)
    assert network.asked == [None]  # and not the other
    assert torch.equal(at(1), conditional)
    assert [asked.tolist() for asked in network.asked] == [LABELS.tolist()]
    for w in (-1.0, 0.3, 0.5, 2.0, 7.0):
        torch.testing.assert_close(at(w), (1 - w) * unconditional + w * conditional, rtol=1e-12, atol=1e-12)


def test_outside_the_interval_the_score_is_the_conditional_one_row_by_row():
    network = Conditional()
    how = {"guidance": 3.0, "interval": (0.1, 1.0)}
    full = guidance.classifier_free(network, 1, guidance=3.0)(X, SIGMA)
    conditional = network(X, SIGMA, torch.ones_like(LABELS))
    expected = torch.where((SIGMA <= 1)[:, None], full, conditional)
    for path in (SIGMAS, torch.tensor(SIGMAS), paths.levels(SIGMAS), paths.edm(0.01, 10)):
        assert torch.equal(guidance.classifier_free(network, 1, path=path, **how)(X, SIGMA), expected)
    by_label = guidance.classifier_free(_by_label(network), 1, path=SIGMAS, **how)
    torch.testing.assert_close(by_label(X, LABELS), expected)
    without = guidance.classifier_free(network, 1, path=SIGMAS, guidance=0.0, interval=(0.1, 1.0))(X, SIGMA)
    assert torch.equal(without, torch.where((SIGMA <= 1)[:, None], network(X, SIGMA), conditional))
    network.asked.clear()
    assert torch.equal(
        guidance.classifier_free(network, 1, path=SIGMAS, guidance=3.0, interval=(3, 4))(X, SIGMA), conditional
    )
    assert len(network.asked) == 1


def test_noise_of_an_interval_is_sigma_over_alpha_on_a_path():
    path, network = paths.rectified(), Conditional()
    t = torch.tensor([0.1, 0.4, 0.6, 0.9, 0.5, 0.2], dtype=torch.float64)  # sigma / alpha is t / (1 - t)
    guided = guidance.classifier_free(network, 1, guidance=2.0, interval=(0.5, 1.2), path=path)(X, t)
    inside = guided == guidance.classifier_free(network, 1, guidance=2.0)(X, t)
    assert inside.all(1).tolist() == [False, True, False, False, True, False]


def _by_label(network):
    return lambda x, labels, class_labels: network(x, torch.tensor(SIGMAS, dtype=x.dtype)[labels], class_labels)


def test_autoguidance_goes_away_from_the_worse_score():
    worse = GaussianMixture((0.5, 0.5), ((0.0, 0.0), (1.0, 1.0)), 2.0).score
    good, bad = mixture(X, SIGMA), worse(X, SIGMA)
    for w in (0.0, 1.0, 2.5):
        value = guidance.autoguidance(mixture, worse, guidance=w)(X, SIGMA)
        torch.testing.assert_close(value, bad + w * (good - bad), rtol=1e-12, atol=1e-12)


def test_samplers_take_guided_scores():
    sigmas = [8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05]
    for guided in (
        guidance.classifier_free(Conditional(), 0, guidance=1.0),
        guidance.classifier(mixture, lambda x, sigma: log_prob(x, sigma, 0)),
    ):
        x = fs.samplers.heun(
            guided,
            (4000, 2),
            sigmas,
            conditioning="sigma",
            rng=fs.Philox(0),
            dtype=torch.float64,
            mean=MIXTURE.means[0],
        )
        z = (x.mean(0) - MIXTURE.means[0]) / (MIXTURE.stds[0] / math.sqrt(len(x)))
        assert (z.abs() < 4.5).all()  # the other mode is 3 away


def test_the_number_of_classes_is_the_networks_own():
    """Not that of a layer, which may mean another thing by it; through wrappers of torch's and ours it is found."""

    class WithHead(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = Conditional()

        def forward(self, x, sigma, class_labels=None):
            return -x + class_labels[:, None]

    assert guidance.with_label(WithHead(), 5)(X, SIGMA).allclose(5 - X)
    assert guidance.with_label(WithHead(), 5).num_classes is None
    converted = fs.as_score(Conditional(), kind="score", path=paths.edm(), conditioning="sigma")
    told = guidance.classifier(Conditional(), log_prob)
    for wrapped in (converted, nn.DataParallel(Conditional()), told, lambda x, c, class_labels: Conditional()):
        known = 2 if isinstance(wrapped, nn.Module) else None
        assert guidance.with_label(wrapped, 1).num_classes == known
    with pytest.raises(ValueError, match="from 0 to 1, of 2 classes, got 2"):
        guidance.with_label(converted, 2)
    plain = guidance.classifier(Plain(), guidance.class_log_prob(Conditional(), 1))
    with pytest.raises(ValueError, match="made without classes"):
        guidance.with_label(plain, 1)


class Plain(nn.Module):
    num_classes = None

    def forward(self, x, sigma, class_labels=None):
        return -x


@pytest.mark.parametrize(
    "make, kind, text",
    [
        (lambda: guidance.classifier_free(Plain(), 1, guidance=2.0), ValueError, "made without classes, got int 1"),
        (lambda: guidance.with_label(lambda x, c: x, 1), TypeError, "got 'class_labels' for score_fn"),
        (lambda: guidance.with_label(Conditional(), 2), ValueError, "from 0 to 1, of 2 classes, got 2"),
        (lambda: guidance.with_label(Conditional(), torch.tensor([0, 5] * 3))(X, SIGMA), ValueError, "got 5"),
        (lambda: guidance.with_label(Conditional(), LABELS[:4])(X, SIGMA), ValueError, "each of the 6 samples"),
        (lambda: guidance.classifier_free(Conditional(), 1, guidance=math.inf), ValueError, "guidance must be finite"),
        (
            lambda: guidance.autoguidance(mixture, mixture, guidance=1e39),
            ValueError,
            r"guidance must be from -3.4e\+38",
        ),
        (
            lambda: guidance.classifier(mixture, log_prob, scale=-1e300),
            ValueError,
            r"scale must be .* 3.4e\+38, got -1e",
        ),
        (
            lambda: guidance.classifier_free(Conditional(), 1, guidance=2.0, interval=(1.0, 0.5), path=SIGMAS),
            ValueError,
            "low < high",
        ),
        (lambda: guidance.classifier_free(Conditional(), 1, guidance=2.0, interval=(0, 1)), ValueError, "path must be"),
        (
            lambda: guidance.autoguidance(mixture, lambda x, c: x[:, :1], guidance=2.0)(X, SIGMA),
            ValueError,
            r"the output of weak must have the shape of x, \(6, 2\)",
        ),
    ],
)
def test_bad_input_is_named(make, kind, text):
    with pytest.raises(kind, match=text):
        make()
