"""A function that changes its x in place is an error wherever x is used after it was called."""

import pytest
import torch

import fastscore as fs
from fastscore import guidance, losses, paths

PATH = paths.edm()
X, T = torch.linspace(-1, 1, 8).reshape(4, 2), torch.full((4,), 0.5)
FIRST = guidance.matrix(torch.eye(2)[:1])


def doubled(x, *condition):
    """-2 x, and x is then 2 x."""
    return x.mul_(2.0).neg()


def right(x, *condition):
    return -x


def known(f):
    """A measurement with f as its adjoint: what is solved for by conjugate gradients is given to it."""
    return guidance.Measurement(lambda x: x, lambda v, x: -f(v))


def of_class(x, t, class_labels):
    return doubled(x)


CASES = {
    "weak": lambda x: guidance.autoguidance(right, doubled, guidance=2.0)(x, T),
    "score_fn of classes": lambda x: guidance.classifier_free(of_class, 0, guidance=2.0)(x, T),
    "classifier": lambda x: guidance.classifier(doubled, lambda x, t: x.log_softmax(1)[:, 0])(x, T),
    "projection": lambda x: guidance.projection(doubled, FIRST, torch.ones(1, 1), PATH)(x, T),
    "adjoint": lambda x: guidance.projection(right, known(doubled), torch.ones(1, 2), PATH, noise_std=0.1)(x, T),
    "as_score": lambda x: fs.as_score(doubled, kind="x0", path=PATH)(x, T),
    "csm": lambda x: losses.csm(doubled, x, PATH, parametrization="x0"),
    "esm": lambda x: losses.esm(right, doubled, x, PATH),
    "stf": lambda x: losses.stf(doubled, x, PATH),
    "stf, of a run": lambda x: losses.OBJECTIVES["stf"].on(doubled, [1.0, 0.1], (2,), weight=2.0)(
        x, torch.zeros(4, dtype=torch.int64), fs.Philox(0)
    ),
    "stf, of a path": lambda x: losses.OBJECTIVES["stf"].on_path(doubled, PATH, (2,), weight=2.0)(x, fs.Philox(0)),
}


NAMES = {"as_score": "model", "adjoint": "adjoint", "weak": "weak", "esm": "true_score", "stf, of a run": "network"}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named(case):
    name = NAMES.get(case, "score_fn")
    with pytest.raises(ValueError, match=rf"^{name} must not change its input in place: let it work on a clone"):
        CASES[case](X.clone())


def test_what_works_on_its_own_copy_is_right():
    own = guidance.autoguidance(right, lambda x, t: doubled(x.clone()), guidance=2.0)
    assert torch.equal(own(X, T), torch.zeros(4, 2))  # -2 x + 2 (-x + 2 x)
    with torch.inference_mode():  # where torch counts no changes
        assert torch.equal(own(X.clone(), T), torch.zeros(4, 2))


def test_a_score_may_have_keywords_of_any_name():
    score = guidance.classifier(lambda x, t, name, f: name * x + f, lambda x, t: x.log_softmax(1)[:, 0], scale=0)
    assert torch.equal(score(X, T, name=3, f=1), 3 * X + 1)
