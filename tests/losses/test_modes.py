"""The two modes: equal values and gradients, one evaluation of the network, dtypes, transforms and torch.compile."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

import fastscore as fs
from fastscore import losses
from fastscore.trace.products import AUTOMATIC

from .cases import LOSSES, A, X, net

SIGMAS = torch.tensor([1.0, 0.1])


def perceptron(dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)).to(dtype)


def call(name, score_fn, x=X, **options):
    options = {"rng": fs.Philox(5)} | options
    if name == "annealed_ssm_vr":
        return losses.annealed_ssm_vr(lambda y, labels: score_fn(y), x, SIGMAS, **options)
    return getattr(losses, name)(score_fn, x, **options)


def gradients(loss, network):
    found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return [torch.zeros(()) if g is None else g for g in found]  # the last bias has no part in a penalty


NAMES = [*LOSSES, "annealed_ssm_vr"]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_both_modes_give_the_same_value_and_gradient(name, n):
    network = perceptron()
    score_fn = network
    if name == "gradient_penalty":  # the two modes agree where the Jacobian is symmetric

        def score_fn(y):
            return torch.func.grad(lambda z: network(z).square().sum())(y)

    particles = {} if name == "ism" else {"n_particles": n}
    vjp, jvp = (call(name, score_fn, mode=mode, **particles) for mode in AUTOMATIC)
    torch.testing.assert_close(vjp, jvp, rtol=1e-10, atol=1e-10)
    for a, b in zip(gradients(vjp, network), gradients(jvp, network)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("name", [*NAMES, "fd_ssm"])
def test_gradients_by_finite_differences(name, mode):
    options = {} if name == "fd_ssm" else {"mode": mode}
    if name not in ("ism",):
        options["n_particles"] = 2
    w = torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True)
    x = X.clone().requires_grad_()

    def loss(w, x):
        return call(name, lambda y: w[0] * net(y) + torch.sin(w[1] * y), x, **options)

    assert torch.autograd.gradcheck(loss, (w, x))


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("name", [n for n in NAMES if n != "ism"])
def test_the_network_is_evaluated_once_for_all_particles(name, mode):
    calls = []

    def counted(y):
        calls.append(tuple(y.shape))
        return net(y)

    call(name, counted, n_particles=5, mode=mode)
    assert calls == [(5, 4)]


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("name", NAMES)
def test_where_gradients_are_off(name, mode):
    """A validation loop: the same value, and no graph."""
    network = perceptron()
    expected = call(name, network, mode=mode)
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            got = call(name, network, X.clone(), mode=mode)
        assert not got.requires_grad
        torch.testing.assert_close(got, expected.detach())
    assert expected.requires_grad


def test_an_inference_tensor_outside_inference_mode():
    with torch.inference_mode():
        x = X.clone()
    torch.testing.assert_close(losses.ssm(perceptron(), x, rng=fs.Philox(5)), call("ssm", perceptron()))


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("name", NAMES)
def test_under_func_grad(name, mode):
    network = perceptron()
    parameters = {k: v.detach() for k, v in network.named_parameters()}
    options = {"mode": mode} if name == "ism" else {"mode": mode, "n_particles": 2}
    got = torch.func.grad(lambda p: call(name, lambda y: functional_call(network, p, (y,)), **options))(parameters)
    for a, b in zip(got.values(), gradients(call(name, network, **options), network)):
        torch.testing.assert_close(a, b.expand_as(a).to(a))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, mode, n, compiler",
    [
        ("ssm_vr", "jvp", 1, "aot_eager"),  # as it was traced: a compiler's kernels are not asked for each time
        ("ssm", "jvp", 2, "inductor"),
        ("ssm_vr", "vjp", 2, "inductor"),
        ("annealed_ssm_vr", "jvp", 1, "aot_eager"),
    ],
)
def test_compiled_whole(name, mode, n, compiler):
    """The loss with the network in it, in one graph: the gradient of the eager loss."""
    network, x = perceptron(torch.float32), X.float()
    torch.compiler.reset()
    function = lambda x: call(name, network, x, mode=mode, n_particles=n)  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend=compiler)
    got, expected = compiled(x), call(name, network, x, mode=mode, n_particles=n)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(got, network), gradients(expected, network)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "dtype, out, tolerance",
    [
        (torch.float64, torch.float64, 1e-12),
        (torch.float32, torch.float32, 1e-4),
        (torch.bfloat16, torch.float32, 0.1),
    ],
)
def test_dtypes(dtype, out, tolerance, name, mode):
    """The network's own dtype, and a loss in the dtype of computation."""
    network = perceptron()
    expected = call(name, network, X.to(dtype).double(), mode=mode)
    got = call(name, perceptron(dtype), X.to(dtype), mode=mode)
    assert got.dtype == out
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["ssm", "ssm_vr", "ism"])
def test_bfloat16_sums_in_float32(name):
    """s = x / 8 of ones, D = 4,000: v^T J v = 500, ||s||^2 / 2 = 31.25. In bfloat16 the sums would stall far below."""
    x = torch.ones(2, 4000, dtype=torch.bfloat16)
    if name == "ssm":
        got = losses.ssm(lambda y: y / 8, x, rng=fs.Philox(0), reduction="none")
        v = fs.fill_probes(fs.Probes(x, 1, fs.Philox(0)))[0].float()
        expected = 500 + (v.sum(1) / 8).square() / 2
    else:
        options = {"chunk_size": 4000} if name == "ism" else {"rng": fs.Philox(0)}
        got = getattr(losses, name)(lambda y: y / 8, x, reduction="none", **options)
        expected = torch.full((2,), 531.25)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("mode", AUTOMATIC)
def test_autocast(mode):
    network, x = perceptron(torch.float32), X.float()
    with torch.autocast("cpu", torch.bfloat16):
        got = call("ssm_vr", network, x, mode=mode)
    expected = call("ssm_vr", network, x, mode=mode)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0.02)
    for a, b in zip(gradients(got, network), gradients(expected, network)):
        torch.testing.assert_close(a, b, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("mode", AUTOMATIC)
def test_particles_share_what_the_network_draws(mode):
    """One evaluation, one dropout mask: for signs and s = mask x each particle's v^T J v is the mask's sum."""
    torch.manual_seed(0)
    with torch.no_grad():
        got = losses.gradient_penalty(
            nn.Dropout(0.5), torch.ones(50, 8), rng=fs.Philox(0), n_particles=3, mode=mode, reduction="none"
        )
    assert torch.equal(got / 4, (got / 4).round())  # 4 for each element that is kept, not the mean of three masks


@pytest.mark.parametrize("name", [*NAMES, "fd_ssm"])
def test_batch_norm_that_does_not_mix_samples_is_taken(name):
    """In eval mode it is a linear map of each sample."""
    norm = nn.BatchNorm1d(4).double().eval()
    norm.running_var.fill_(4.0)
    torch.testing.assert_close(call(name, norm), call(name, lambda y: y / (4 + norm.eps) ** 0.5))


def test_a_network_that_ignores_x_has_no_jacobian():
    w = torch.ones(4, dtype=torch.float64, requires_grad=True)
    for mode in AUTOMATIC:
        got = losses.ssm_vr(lambda y: w.expand(5, 4), X, rng=fs.Philox(0), mode=mode)
        torch.testing.assert_close(got, torch.tensor(2.0, dtype=torch.float64))


@pytest.mark.parametrize("name", LOSSES)
def test_compatible_with_modules_that_torch_func_refuses(name):
    """An autograd.Function of the older kind, as many networks hold: mode vjp takes it as it is."""

    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0].cos()

    if name != "ism":  # whose trace is found by torch.func
        torch.testing.assert_close(call(name, lambda y: Sine.apply(y) @ A), call(name, lambda y: y.sin() @ A))
    for n in (1, 2):
        with pytest.raises(NotImplementedError, match="mode='vjp'"):
            call(name, lambda y: Sine.apply(y) @ A, mode="jvp", **({} if name == "ism" else {"n_particles": n}))


def test_several_particles_need_a_vmap_rule():
    class Sine(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.sin()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_forward(*inputs)

        @staticmethod
        def jvp(ctx, tangent):
            return tangent * ctx.saved_tensors[0].cos()

    with torch.no_grad():
        one = losses.ssm_vr(Sine.apply, X, rng=fs.Philox(5), mode="jvp")
    torch.testing.assert_close(one, losses.ssm_vr(torch.sin, X, rng=fs.Philox(5)))
    text = "not work under vmap: pass n_particles=1 or mode='vjp'"
    with torch.no_grad(), pytest.raises(NotImplementedError, match=text):
        losses.ssm_vr(Sine.apply, X, rng=fs.Philox(5), mode="jvp", n_particles=2)


def test_errors_of_the_network_itself_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        losses.ssm(lambda y: y @ torch.ones(3, 3, dtype=y.dtype), X, mode="jvp")
    assert "use mode='vjp'" not in str(caught.value)
