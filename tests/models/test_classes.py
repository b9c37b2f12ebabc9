"""Networks of class labels: what a label changes, what none is, and that without classes all is as it was."""

import pytest
import torch

from fastscore import Philox, guidance
from fastscore.models import build_model
from fastscore.samplers import annealed_langevin

SIGMAS = [1.0, 0.3, 0.1]
SHAPES = {"ncsn": (1, 8, 8), "ncsnv2": (1, 8, 8), "mlp": (2,), "mlp of labels": (2,)}
each = pytest.mark.parametrize("name", SHAPES)


def made(name, num_classes=None):
    torch.manual_seed(0)
    if name.startswith("mlp"):
        how = {"sigmas": SIGMAS} if name == "mlp" else {"num_levels": 3}
        return build_model("mlp", dim=2, hidden=8, num_classes=num_classes, **how)
    return build_model(name, channels=1, image_size=8, ngf=4, sigmas=SIGMAS, num_classes=num_classes)


def moved(net):
    """Its class tables away from 0, where they begin."""
    with torch.no_grad():
        for part in net.modules():
            table = getattr(part, "classes", None)
            if table is not None:
                table += 0.3 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    return net


def batch(name):
    x = torch.rand(4, *SHAPES[name], generator=torch.Generator().manual_seed(2))
    return x, torch.tensor([0, 2, 1, 0]), torch.tensor([0, 1, 2, 3])  # of three classes, the last has none


@each
def test_at_first_every_class_is_the_network_without_classes(name):
    x, labels, classes = batch(name)
    plain, net = made(name), made(name, 3)
    assert {key: value.shape for key, value in plain.state_dict().items()}.items() <= {
        key: value.shape for key, value in net.state_dict().items()
    }.items()
    assert not any("classes" in key for key in plain.state_dict())
    torch.testing.assert_close(net(x, labels, class_labels=classes), plain(x, labels), rtol=0, atol=1e-6)


@each
def test_a_sample_follows_its_own_class_and_level(name):
    x, labels, classes = batch(name)
    net = moved(made(name, 3)).double()
    x = x.double()
    out = net(x, labels, classes)
    for i in range(4):
        torch.testing.assert_close(net(x[i : i + 1], labels[i : i + 1], classes[i : i + 1])[0], out[i])
    torch.testing.assert_close(net(x, labels)[3], out[3])  # whose class is "no label"
    assert (net(x, labels)[:3] - out[:3]).abs().flatten(1).amax(1).min() > 1e-3
    assert (net(x[:1], labels[:1], classes[1:2]) - out[:1]).abs().max() > 1e-3
    each_row = torch.func.vmap(lambda x, label, k: net(x[None], label[None], k[None])[0])(x, labels, classes)
    torch.testing.assert_close(each_row, out)


@each
def test_the_gradient_reaches_the_rows_of_the_classes_that_were_there_alone(name):
    x, labels, _ = batch(name)
    net = made(name, 3)
    net(x, labels, torch.tensor([0, 2, 0, 2])).square().sum().backward()
    tables = [part.classes.grad for part in net.modules() if getattr(part, "classes", None) is not None]
    assert tables
    for grad in tables:
        assert grad[[1, 3]].abs().sum() == 0
    assert sum(float(grad[[0, 2]].abs().sum()) for grad in tables) > 0


def test_an_ncsn_asked_at_a_level_and_between_two_gives_the_score_of_a_class():
    x, classes = batch("ncsn")[0], torch.tensor([0, 1, 2, 1])
    net = moved(made("ncsn", 3)).eval()
    level = torch.ones(4, dtype=torch.int64)
    with torch.no_grad():
        assert torch.equal(net.at_level(1, classes)(x), net(x, level, classes))
        assert torch.equal(guidance.with_label(net, classes).at_level(1)(x), net(x, level, classes))
        one = guidance.with_label(net, 2).at_level(0.5)
        assert torch.equal(one(x), net.at_level(0.5, torch.full((4,), 2))(x))
        torch.testing.assert_close(one(x[:2]), one(x)[:2])  # of another batch
        for w in (0.0, 1.0, 2.5):
            mixed = guidance.classifier_free(net, classes, guidance=w)
            assert torch.equal(mixed.at_level(1)(x), mixed(x, level))
            a, b = net.at_level(0.5)(x), net.at_level(0.5, classes)(x)
            torch.testing.assert_close(mixed.at_level(0.5)(x), a + w * (b - a))
        for part in net.modules():  # where a class adds to the levels' numbers, it adds the same between them
            if hasattr(part, "embed"):
                part.embed.weight[0] = (part.embed.weight[0] + part.embed.weight[1]) / 2
        expected = net(x, torch.zeros_like(level), classes)
        torch.testing.assert_close(b, expected)
    for label, inside in ((0.4, False), (0.6, True)):  # sigma between SIGMAS[0] and SIGMAS[1], in logarithms
        noise = SIGMAS[0] ** (1 - label) * SIGMAS[1] ** label
        bounds = (noise / 1.001, noise * 1.001) if inside else (noise * 1.001, noise * 2)
        held = guidance.classifier_free(net, classes, guidance=3.0, interval=bounds, path=SIGMAS).at_level(label)
        weight = 3.0 if inside else 1.0
        assert torch.equal(held(x), guidance.classifier_free(net, classes, guidance=weight).at_level(label)(x))
    for bad, text in (
        (torch.ones(4), "int64 tensor of shape"),
        (torch.full((4,), 5), "class_labels must be from 0 to 2"),
        (torch.tensor(1), "int64 tensor of shape"),
    ):
        with pytest.raises(ValueError, match=text):
            net.at_level(1, bad)
    for others in (x[:1], torch.cat([x, x])):  # which the kernels of the norms would read numbers beyond their end for
        with pytest.raises(ValueError, match="x must hold the 4 samples whose class_labels at_level was given"):
            net.at_level(0.5, classes)(others)
    with pytest.raises(ValueError, match="class_labels must be None for a network that was made without"):
        made("ncsn", None).at_level(1, classes)


def test_an_ncsn_asked_at_a_level_gives_its_score_without_a_label():
    x, _, _ = batch("ncsn")
    net = moved(made("ncsn", 3)).eval()
    torch.testing.assert_close(net.at_level(1)(x), net(x, torch.ones(4, dtype=torch.int64)))
    how = {"step_size": 1e-3, "steps_per_level": 2, "start": x}
    fast = annealed_langevin(net, x.shape, SIGMAS, **how, rng=Philox(0))
    plain = annealed_langevin(guidance.with_label(net, None), x.shape, SIGMAS, **how, rng=Philox(0))
    torch.testing.assert_close(fast, plain)


@each
def test_guidance_by_a_network_is_linear_between_its_two_scores(name):
    x, labels, _ = batch(name)
    net = moved(made(name, 3)).eval()
    without, of_one = net(x, labels), net(x, labels, torch.ones(4, dtype=torch.int64))
    value = guidance.classifier_free(net, 1, guidance=2.5)(x, labels)
    torch.testing.assert_close(value, without + 2.5 * (of_one - without))


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda net, plain, x: plain(x, LABELS, LABELS), r"made without num_classes=\.\.\., got a int64 tensor"),
        (lambda net, plain, x: net(x, LABELS, LABELS + 4), "from 0 to 2, or 3 for no label, got values from 4 to 4"),
        (lambda net, plain, x: net(x, LABELS, LABELS[:2]), r"shape \(4,\), one for each sample, got .* shape \(2,\)"),
        (lambda net, plain, x: net(x, LABELS, LABELS.float()), "must be an int64 tensor"),
        (lambda net, plain, x: guidance.classifier_free(plain, 1, guidance=2.0), "made without classes"),
        (lambda net, plain, x: guidance.with_label(net, 3), "from 0 to 2, of 3 classes, got 3"),
    ],
)
@each
def test_bad_labels_are_named(name, call, text):
    with pytest.raises(ValueError, match=text):
        call(made(name, 3), made(name), batch(name)[0])


LABELS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize("value, kind", [(0, ValueError), (2.0, TypeError), (True, TypeError)])
@each
def test_num_classes_is_a_count(name, value, kind):
    with pytest.raises(kind, match="num_classes must be"):
        made(name, value)
