"""Derivatives and transforms of the fused operators: torch.func, double backward, torch.compile, autocast, opcheck."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import fastscore as fs
from fastscore._core import backends
from fastscore._core.registration import raw

from .cases import BACKENDS, tensor

SHAPE = (3, 2, 2)
compiled = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")


@pytest.fixture(params=BACKENDS)
def backend(request, on_backend):
    on_backend(request.param)
    return request.param


def sample(seed):
    return tensor(SHAPE, torch.float64, seed).requires_grad_()


def rows(seed):
    return (tensor((3,), torch.float64, seed).abs() + 0.3).requires_grad_()


def handle(score):
    return fs.Philox(0).noise(score.shape, dtype=score.dtype, beside=(score,))


OPERATORS = {  # name: function of tensors, and the tensors; each function draws the same numbers at every call
    "perturb": (lambda x, sigma: fs.perturb(x, sigma, fs.Philox(1))[0], lambda: (sample(0), rows(1))),
    "perturb with alpha": (
        lambda x, sigma, alpha: fs.perturb(x, sigma, fs.Philox(1), alpha=alpha)[0],
        lambda: (sample(0), rows(1), rows(2)),
    ),
    "langevin_step": (
        lambda x, score, alpha: fs.langevin_step(x, score, alpha, fs.Philox(1)),
        lambda: (sample(0), sample(1), rows(2)),
    ),
    "dsm_loss": (lambda score, sigma: fs.dsm_loss(score, handle(score), sigma), lambda: (sample(0), rows(1))),
    "dsm_loss, weight 0.5": (
        lambda score, sigma: fs.dsm_loss(score, handle(score), sigma, 0.5),
        lambda: (sample(0), rows(1)),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_derivative(name, backend):
    function, inputs = OPERATORS[name]
    assert gradcheck(
        function, inputs(), check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert gradgradcheck(function, inputs(), check_fwd_over_rev=True)


@pytest.mark.parametrize("name", OPERATORS)
def test_func_transforms_equal_the_reference(name, backend):
    function, make = OPERATORS[name]
    inputs = tuple(t.detach() for t in make())
    tangents = tuple(tensor(t.shape, t.dtype, 7) for t in inputs)

    def all_of_them():
        value, tangent = jvp(function, inputs, tangents)
        assert tangent.abs().min() > 0
        _, pull = vjp(function, *inputs)
        return (
            value,
            tangent,
            pull(torch.ones_like(value)),
            jacrev(function)(*inputs),
            grad(lambda *a: function(*a).square().sum())(*inputs),
            hessian(lambda *a: function(*a).square().sum())(*inputs),
        )

    with fs.use_backend("reference"):
        expected = all_of_them()
    torch.testing.assert_close(all_of_them(), expected, rtol=1e-10, atol=1e-10)


def probe_dot(coloring=None):
    probes = fs.Probes(torch.zeros(SHAPE, dtype=torch.float64), 4, fs.Philox(4), coloring=coloring)
    return lambda x: fs.probe_dot(torch.stack([x**k for k in range(1, 5)]), probes), lambda: (sample(0),)


@pytest.mark.parametrize("name", [*OPERATORS, "probe_dot", "probe_dot, colored"])
def test_forward_mode_inside_forward_mode(name, backend):
    """Twice and three times forward, also through vmap and from outside it; each against reverse mode."""
    function, make = OPERATORS.get(name) or probe_dot(fs.Coloring(4, 2, 2, 1) if "colored" in name else None)
    inputs = tuple(t.detach() for t in make())

    def total(*arguments):
        return function(*(a.square() for a in arguments)).sum()

    expected = jacrev(jacrev(total))(*inputs)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(jacfwd(jacfwd(total))(*inputs), expected)
    torch.testing.assert_close(hessian(total)(*inputs), expected)
    torch.testing.assert_close(jacfwd(jacrev(jacfwd(total)))(*inputs), jacrev(jacrev(jacrev(total)))(*inputs))

    def twice(x):
        return jvp(lambda x: jvp(lambda x: total(x, *inputs[1:]), (x,), (x,))[1], (x,), (x,))[1]

    x, slope = inputs[0], jacrev(total)(*inputs)
    torch.testing.assert_close(twice(x), (x * ((expected * x).sum((-3, -2, -1)) + slope)).sum())
    several = torch.stack([x, 2 * x])
    torch.testing.assert_close(vmap(twice, randomness="same")(several), torch.stack([twice(x), twice(2 * x)]))
    outside = jvp(vmap(lambda x: total(x, *inputs[1:]), randomness="same"), (several,), (several,))[1]
    torch.testing.assert_close(outside, torch.stack([(y * jacrev(total)(y, *inputs[1:])).sum() for y in several]))


def skip_where_torch_cannot(backend):
    if backend == "reference" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        pytest.skip("torch before 2.13 cannot vmap view(dtype), which the reference's normals need")


def test_vmap_says_whose_noise_it_draws(backend):
    """Slices mapped with randomness="different" get what the whole batch would have got; "same" is a loop's answer."""
    skip_where_torch_cannot(backend)
    x, sigma = tensor((4, 3, 5), torch.float64, 0), torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)

    def loss(x):
        x_tilde, noise = fs.perturb(x, sigma, fs.Philox(1))
        return fs.dsm_loss(-x_tilde, noise, sigma), fs.langevin_step(x, -x, 0.1, fs.Philox(2))

    whole_x_tilde, noise = fs.perturb(x.flatten(0, 1), sigma.repeat(4), fs.Philox(1))
    whole = (
        fs.dsm_loss(-whole_x_tilde, noise, sigma.repeat(4)).view(4, 3),
        fs.langevin_step(x.flatten(0, 1), -x.flatten(0, 1), 0.1, fs.Philox(2)).view(4, 3, 5),
    )
    torch.testing.assert_close(vmap(loss, randomness="different")(x), whole)
    torch.testing.assert_close(
        vmap(vmap(loss, randomness="different"), randomness="different")(x.view(2, 2, 3, 5)),
        (whole[0].view(2, 2, 3), whole[1].view(2, 2, 3, 5)),
    )
    loop = tuple(torch.stack(parts) for parts in zip(*map(loss, x)))
    torch.testing.assert_close(vmap(loss, randomness="same")(x), loop)
    with pytest.raises(RuntimeError, match="randomness='different'"):
        vmap(loss)(x)


def test_an_ensemble_shares_the_noise_of_its_batch(backend):
    """vmap over networks, one batch: the noise in the loss is the noise in x_tilde."""
    x, factors = tensor((3, 5), torch.float64, 0), torch.tensor([-1.0, -0.5], dtype=torch.float64)

    def loss(factor):
        x_tilde, noise = fs.perturb(x, 0.5, fs.Philox(1))
        return fs.dsm_loss(factor * x_tilde, noise, 0.5)

    expected = torch.stack([loss(f) for f in factors])
    for randomness in ("same", "different"):
        torch.testing.assert_close(vmap(loss, randomness=randomness)(factors), expected)


def test_gradients_for_each_sample_by_vmap(backend):
    skip_where_torch_cannot(backend)
    network = torch.nn.Linear(5, 5).double()
    parameters, x = dict(network.named_parameters()), tensor((4, 5), torch.float64, 0)

    def loss(parameters, x):
        return fs.losses.dsm(lambda y: functional_call(network, parameters, (y,)), x[None], 0.5, rng=fs.Philox(3))

    got = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, x)
    for k in range(4):
        one = fs.losses.dsm(network, x[k : k + 1], 0.5, rng=fs.Philox(3, sample_offset=k))
        expected = torch.autograd.grad(one, network.parameters())
        torch.testing.assert_close(tuple(g[k] for g in got.values()), expected)


@pytest.mark.parametrize(
    "around",
    [lambda f: grad(f), lambda f: vmap(f, randomness="same"), torch.inference_mode()],
    ids=["grad", "vmap", "inference"],
)
def test_a_number_first_met_in_a_transform_is_a_plain_one_later(around, backend, request):
    """Constants are kept from call to call: none may be of the transform, or the mode, that was on at the first."""
    number = 0.1 + len(request.node.name) / 1000 + (backend == "native")  # not met before
    x = torch.ones(2, 3)
    around(lambda x: fs.perturb(x, number, fs.Philox(0))[0].sum())(x)
    score = x.clone().requires_grad_()
    fs.dsm_loss(score, fs.perturb(x, number, fs.Philox(0))[1], number).sum().backward()
    assert torch.isfinite(score.grad).all()


def test_backward_again_and_again():
    """The gradient made in the loss's own pass is given away once; later ones are computed anew."""
    x, score = tensor((4, 7), torch.float32, 0), tensor((4, 7), torch.float32, 1).requires_grad_()
    noise = fs.perturb(x, 0.5, fs.Philox(0))[1]
    loss = fs.dsm_loss(score, noise, 0.5).mean()
    (first,) = torch.autograd.grad(loss, score, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, score, retain_graph=True)
    loss.backward(retain_graph=True)
    score.grad.zero_()
    loss.backward()
    for again in (second, first, score.grad):
        torch.testing.assert_close(again, kept)
    torch.testing.assert_close(kept, 0.25 * 0.25 * (score.detach() + noise.tensor() / 0.5))


@pytest.mark.parametrize(
    "reduce",
    [torch.mean, torch.sum, lambda loss: 7 * loss.mean(), lambda loss: (loss * torch.tensor([1.0, 2.0, 3.0])).sum()],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_pass_gradient_equals_the_reference(reduce, dtype):
    def gradient():
        score = tensor((3, 50), dtype, 1).requires_grad_()
        reduce(fs.dsm_loss(score, handle(score), 0.5).float()).backward()
        return score.grad

    with fs.use_backend("reference"):
        expected = gradient()
    torch.testing.assert_close(gradient(), expected)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 4), (7, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_second_backward_has_the_same_bits(shape, dtype):
    score = tensor(shape, dtype, 1).requires_grad_()
    for reduce in (torch.sum, lambda loss: loss.mean() if len(loss) else loss.sum()):
        loss = reduce(fs.dsm_loss(score, handle(score), 0.3))
        first, second = (torch.autograd.grad(loss, score, retain_graph=True)[0].clone() for _ in range(2))
        assert torch.equal(first, second) and first.shape == shape


@compiled
@pytest.mark.slow
class TestCompile:
    def loss(self, x, sigma, rng):
        x_tilde, noise = fs.perturb(x, sigma, rng)
        return fs.dsm_loss(-x_tilde * x_tilde, noise, sigma).sum() + fs.langevin_step(x, x_tilde, sigma, rng).sum()

    def test_forward_and_backward(self):
        x, sigma = sample(0), rows(1)
        compiled = torch.compile(lambda x, sigma: self.loss(x, sigma, fs.Philox(3)), fullgraph=True)
        expected = self.loss(x, sigma, fs.Philox(3))
        torch.testing.assert_close(compiled(x, sigma), expected)
        torch.testing.assert_close(
            torch.autograd.grad(compiled(x, sigma), (x, sigma)), torch.autograd.grad(expected, (x, sigma))
        )

    def test_two_draws_are_independent_and_eagers(self):
        def draws(x, rng):
            return fs.perturb(x, 1.0, rng)[0], fs.perturb(x, 1.0, rng)[0], rng.randn(3, 2, 2, dtype=torch.float64)

        x = torch.zeros(SHAPE, dtype=torch.float64)
        compiled, rng, other = torch.compile(draws, fullgraph=True), fs.Philox(5), fs.Philox(5)
        for _ in range(4):
            got, expected = compiled(x, rng), draws(x, other)
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
            assert rng.step == other.step
            assert len({t.sum().item() for t in got}) == 3

    def test_func_inside(self):
        x, sigma = sample(0).detach(), rows(1).detach()

        def both(x):
            return (
                jvp(lambda x: self.loss(x, sigma, fs.Philox(3)), (x,), (torch.ones_like(x),)),
                grad(lambda x: self.loss(x, sigma, fs.Philox(3)))(x),
            )

        torch.testing.assert_close(torch.compile(both, fullgraph=True)(x), both(x))

    def test_a_sampler_step_in_place(self):
        def step(x, rng):
            return fs.langevin_step(x, -x, 0.1, rng, out=x)

        x, y = torch.zeros(SHAPE), torch.zeros(SHAPE)
        compiled, rng, other = torch.compile(step, fullgraph=True), fs.Philox(0), fs.Philox(0)
        with torch.no_grad():
            for _ in range(3):
                torch.testing.assert_close(compiled(x, rng), step(y, other))


def test_autocast(backend):
    """A network's bfloat16 scores under autocast: the loss is computed in float32, the gradient comes in bfloat16."""
    x, network = tensor((4, 8), torch.float32, 0), torch.nn.Linear(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        x_tilde, noise = fs.perturb(x, 0.5, fs.Philox(0))
        score = network(x_tilde)
        score.retain_grad()
        loss = fs.dsm_loss(score, noise, 0.5).mean()
        y = fs.langevin_step(x, score, 0.1, fs.Philox(1))
    assert x_tilde.dtype == y.dtype == loss.dtype == torch.float32 and score.dtype == torch.bfloat16
    loss.backward()
    exact = 0.25 / 4 * (score.detach().float() + noise.tensor() / 0.5)
    assert score.grad.dtype == torch.bfloat16
    torch.testing.assert_close(score.grad, exact.bfloat16())


@compiled
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "expanded"])
def test_opcheck(layout):
    from .cases import LAYOUTS

    x = LAYOUTS[layout](tensor((2, 3, 4, 5), torch.float32, 0))
    sigma, where = torch.tensor([0.3, 0.7]), (5, 6, 2, 0, None, torch.tensor([4, 9]))
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")
    for name, arguments in {
        "perturb": (x, None, sigma),
        "langevin_step": (x, x, sigma),
        "dsm_loss": (x, sigma, 2.0),
        "dsm_loss_and_gradient": (x, sigma, 2.0, 0.5),
        "dsm_loss_gradient": (x, sigma, 2.0, sigma),
        "fill": (x, 0),
    }.items():
        torch.library.opcheck(raw(name, "native"), (*arguments, *where), test_utils=tests)
    torch.library.opcheck(
        raw("langevin_step_out", "native"), (x, x, sigma, torch.empty_like(x), *where), test_utils=tests
    )
