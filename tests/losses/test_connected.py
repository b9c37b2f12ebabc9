"""Scores that are cut off from x are errors that name the cure; constant ones have a Jacobian of 0."""

import pytest
import torch

import fastscore as fs
from fastscore import losses
from fastscore.trace.products import AUTOMATIC

from .cases import LOSSES, A, X

W = A.clone().requires_grad_()
SIGMAS = torch.tensor([1.0, 0.1])


def energy(y):
    return (torch.cos(y @ W) + 0.1 * (y @ W) ** 2).sum(1)


def detached_energy(y):
    """Of its own copy of x: the parameters still record."""
    y = y.detach().requires_grad_()
    with torch.enable_grad():
        return -torch.autograd.grad(energy(y).sum(), y, create_graph=True)[0]


def energy_without_graph(y):
    """What is meant for sampling."""
    with torch.enable_grad():
        return -torch.autograd.grad(energy(y).sum(), y.requires_grad_())[0]


def stopped(y):
    return y.detach() @ W


def by_data(y):
    return torch.tanh(y.data) * W[0]


@torch.no_grad()
def without_gradients(y):
    return torch.sin(y @ W)


def switched_on_again(y):
    with torch.no_grad():
        y = y * 2
    return y @ W


CUT = {
    "vjp": [detached_energy, energy_without_graph, stopped, by_data, without_gradients, switched_on_again],
    "jvp": [stopped, by_data],
}
CONSTANT = {
    "zeros": torch.zeros_like,
    "a parameter": lambda y: W[0].expand_as(y),
    "one returned": lambda y: W[:5, :4],
    "labels": lambda y: torch.arange(5.0).double()[:, None].expand_as(y),
    "the nearest of a code book": lambda y: W.detach()[(y[:, None] - W).square().sum(2).argmin(1)],
    "not finite": lambda y: torch.full_like(y, float("nan")),
}
WAYS = [*LOSSES, "annealed_ssm_vr", "ism estimated", "exact", "rademacher", "hutchpp", "in chunks"]


def run(way, f, mode, x=X):
    rng = fs.Philox(0)
    if way == "annealed_ssm_vr":
        return losses.annealed_ssm_vr(lambda y, labels: f(y), x, SIGMAS, rng=rng, mode=mode)
    if way == "ism estimated":
        return losses.ism(f, x, method="gaussian", rng=rng, mode=mode)
    if way in LOSSES:
        return LOSSES[way](f, x, mode=mode, rng=rng)
    options = {"method": "sphere", "chunk_size": 1} if way == "in chunks" else {"method": way}
    return fs.jacobian_trace(f, x, mode=mode, num_probes=3, blocks=1, rng=rng, **options).value


@pytest.mark.parametrize(
    "mode, f", [(mode, f) for mode, cut in CUT.items() for f in cut], ids=lambda v: getattr(v, "__name__", v)
)
@pytest.mark.parametrize("way", WAYS)
def test_a_cut_score_is_refused(way, mode, f):
    cure = "mode='jvp', which looks through no_grad" if mode == "vjp" else "mode='vjp'"
    for context in (torch.enable_grad(), torch.no_grad()):
        with context, pytest.raises(ValueError, match=rf"must depend on x .*energy_score.*pass {cure}") as e:
            run(way, f, mode)
        name = "score_fn" if way in LOSSES or way in ("annealed_ssm_vr", "ism estimated") else "f"
        assert str(e.value).startswith(f"{name} must")
        assert str(e.value).endswith("mode='fd'" if name == "f" else "fastscore.losses.fd_ssm in place of this loss")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_it_is_seen_in_every_precision_and_at_every_scale(dtype, size):
    x = (size * X).to(dtype)
    for f in (lambda y: -y.detach() / 4, lambda y: 1 - y.data.sin()):
        with pytest.raises(ValueError, match="score_fn must depend on x"):
            losses.ssm_vr(f, x)


@pytest.mark.parametrize("name", CONSTANT)
@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("way", WAYS)
def test_a_constant_score_has_no_jacobian(way, mode, name):
    x = X[:4] if name == "one returned" else X
    s = CONSTANT[name](x).detach()
    half = s.square().sum(1).mean() / 2
    if way == "ssm":
        v = fs.fill_probes(fs.Probes(x, 1, fs.Philox(0)))[0]
        half = ((v * s).sum(1) ** 2).mean() / 2
    if way == "annealed_ssm_vr":
        labels = losses.draw_labels(2, len(x), fs.Philox(0))
        half = (SIGMAS[labels] ** 2 * s.square().sum(1)).mean() / 2
        if name == "the nearest of a code book":  # of the noisy samples
            return
    found = run(way, CONSTANT[name], mode, x)
    if way in WAYS[-4:] or way == "gradient_penalty":
        assert torch.equal(found, torch.zeros_like(found))
    else:
        torch.testing.assert_close(found, half.to(found), equal_nan=True, check_dtype=False)


def test_what_a_constant_costs_is_counted():
    calls = []

    def f(y):
        calls.append(1)
        return torch.ones_like(y)

    for mode in AUTOMATIC:
        calls.clear()
        t = fs.jacobian_trace(f, X, mode=mode, method="exact")
        assert t.evaluations == 1 + 4 + 2 and len(calls) == 3


@pytest.mark.parametrize("mode", AUTOMATIC)
def test_a_constant_of_the_parameters_still_learns(mode):
    loss = losses.ssm_vr(lambda y: W[0].expand_as(y), X, mode=mode, rng=fs.Philox(0))
    torch.testing.assert_close(torch.autograd.grad(loss, W)[0][0], W[0].detach())


def test_a_saturated_score_is_connected():
    """Derivatives of exactly 0 are believed: here at the start of training, where the last layer is 0."""
    last = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    for mode in AUTOMATIC:
        loss = losses.ssm_vr(lambda y: torch.tanh(y @ W) @ last, X, mode=mode, rng=fs.Philox(0))
        assert loss == 0 and torch.autograd.grad(loss, last)[0].abs().max() > 0.01


def test_what_is_cut_in_part():
    """s = sin(x) + 3 c x: the part c is a constant to both modes where it is detached; to vjp alone under no_grad."""

    def detached(y):
        return torch.sin(y) + 3 * y.detach()

    def silent(y):
        with torch.no_grad():
            part = 3 * y
        return torch.sin(y) + part

    smooth = X.cos().sum(1)
    for f, jvp in ((detached, smooth), (silent, smooth + 12)):
        torch.testing.assert_close(fs.jacobian_trace(f, X, mode="vjp").value, smooth)
        torch.testing.assert_close(fs.jacobian_trace(f, X, mode="jvp").value, jvp)
        torch.testing.assert_close(fs.jacobian_trace(f, X, mode="fd", fd_step=1e-4).value, smooth + 12)
        found = losses.ssm_vr(f, X, mode="jvp", reduction="none")
        torch.testing.assert_close(found, f(X).square().sum(1) / 2 + jvp)


@pytest.mark.parametrize("mode", AUTOMATIC)
def test_inside_transforms(mode):
    """vmap, a gradient, and the gradient of each sample: cut scores are found, constant ones have a Jacobian of 0."""

    def trace(f):
        return torch.func.vmap(lambda x: fs.jacobian_trace(f, x[None], mode=mode).value[0])(X)

    def gradient(f):
        return torch.func.grad(lambda w: losses.ssm_vr(lambda y: f(w, y), X, mode=mode, rng=fs.Philox(0)))(W[0, 0])

    def gradients(f):
        return torch.func.vmap(
            torch.func.grad(
                lambda w, x: losses.gradient_penalty(lambda y: f(w, y), x[None], mode=mode, rng=fs.Philox(0))
            ),
            (None, 0),
            randomness="different",
        )(W[0, 0], X)

    for cut in (
        lambda: trace(stopped),
        lambda: gradient(lambda w, y: w * y.detach().sin()),
        lambda: gradients(lambda w, y: w * y.detach().sin()),
    ):
        with pytest.raises(ValueError, match="must depend on x in a way that autograd records"):
            cut()
    constant = A[:1].exp()
    assert torch.equal(trace(lambda y: constant.expand_as(y)), torch.zeros(5, dtype=torch.float64))
    torch.testing.assert_close(gradient(lambda w, y: w * constant.expand_as(y)), W[0, 0] * constant.square().sum())
    assert torch.equal(gradients(lambda w, y: w * constant.expand_as(y)), torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("mode", AUTOMATIC)
def test_under_compile(mode):
    """A cut score is found as the compiled function runs, with gradients recorded and without."""

    def compiled(f):
        torch.compiler.reset()
        return torch.compile(
            lambda: losses.ssm_vr(f, X, mode=mode, rng=fs.Philox(0)), fullgraph=True, backend="aot_eager"
        )

    loss = compiled(stopped)
    for recorded in (True, False):
        with torch.set_grad_enabled(recorded), pytest.raises(RuntimeError, match="the derivative is cut off"):
            loss()
    torch.testing.assert_close(compiled(lambda y: W[:1].expand_as(y))(), W[0].square().sum() / 2)


@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
def test_x_stays_as_it_is(mode):
    x = X.clone()
    with pytest.raises((ValueError, RuntimeError), match=r"must not change x in place|in-place operation"):
        fs.jacobian_trace(lambda y: y.mul_(2).sin(), x, mode=mode, fd_step=0.1 if mode == "fd" else None)
    y = x.clone().requires_grad_() * 1
    with pytest.raises((ValueError, RuntimeError), match=r"must not change x in place|in-place operation"):
        losses.ssm(lambda y: y.mul_(2).sin(), y, mode="vjp")
    torch.testing.assert_close(
        fs.jacobian_trace(
            lambda y: y.clone().mul_(2).sin(), X, mode=mode, fd_step=1e-4 if mode == "fd" else None
        ).value,
        2 * (2 * X).cos().sum(1),
    )
