"""torch.func.vmap and batched gradients: whose numbers each slice gets, and the loop's values and gradients."""

import pytest
import torch
from torch.func import grad, vmap

import fastscore as fs

from .cases import BACKENDS, tensor
from .declared import CALLS

SIGMAS = torch.tensor([2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
N, B, D = 4, 3, 5


@pytest.fixture(params=BACKENDS)
def backend(request, on_backend):
    if request.param == "reference" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        pytest.skip("torch before 2.13 cannot vmap view(dtype), which the reference's normals need")
    on_backend(request.param)
    return request.param


def samples(*shape, seed=0):
    return tensor(shape, torch.float64, seed)


def levels(count, seed=0):
    return tensor((count,), torch.float64, seed).abs() + 0.3


DRAWS = {
    "randn": lambda rng, rows, **k: rng.randn(rows, 2, **k),
    "rand": lambda rng, rows, **k: rng.rand(rows, 2, **k),
    "rademacher": lambda rng, rows, **k: rng.rademacher((rows, 2), **k),
    "randint": lambda rng, rows, **k: rng.randint(1000, rows, **k),
    "noise": lambda rng, rows, **k: rng.noise((rows, 2), **k).tensor(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_by_shape_obeys_randomness(name, backend):
    """ "different": the rows of one batch, the inner vmap's next to each other; "same": the same; "error" raises."""

    def one(_, **k):
        return DRAWS[name](fs.Philox(7, sample_offset=11), B, **k)

    def whole(rows):
        return DRAWS[name](fs.Philox(7, sample_offset=11), rows)

    x = torch.zeros(2, N, 1)
    for outer in ("same", "different"):
        for inner in ("same", "different"):
            got = vmap(vmap(one, randomness=inner), randomness=outer)(x)
            rows = whole(B * (2 if outer == "different" else 1) * (N if inner == "different" else 1))
            sizes = (2 if outer == "different" else 1, N if inner == "different" else 1, B, *rows.shape[1:])
            assert torch.equal(got, rows.view(sizes).expand(got.shape)), (outer, inner)
    for nested in (
        vmap(one),
        vmap(grad(lambda x: x.sum() * one(x).sum().double())),
        vmap(lambda x: vmap(one, randomness="different")(x[:, None])),
    ):
        with pytest.raises(RuntimeError, match="randomness='different'"):
            nested(x[0].double())
    beside = vmap(lambda y: one(y, beside=(x,)))(x)  # of what is not mapped: the same, as for a batch that is captured
    assert torch.equal(beside[0], whole(B)) and torch.equal(beside[1], whole(B))
    mapped = vmap(lambda y: one(y, beside=(x, y)), randomness="different")(x)
    assert torch.equal(mapped.flatten(0, 1), whole(2 * B))


@pytest.mark.parametrize(
    "name", [name for name, call in CALLS.items() if call.operator.stream is not None and "no noise" not in name]
)
def test_different_slices_are_one_batch(name, backend):
    """Of an operator that draws: slice i has the numbers that its rows would have had in the whole batch."""
    call = CALLS[name]
    slices = [torch.stack(parts) for parts in zip(*(call.inputs((B, D), 10 * i) for i in range(N)))]
    kinds = [call.operator.maps[place] for place in call.places()]

    def merged(value, kind):
        if kind == "row" and value.dim() == 1:
            return value.repeat_interleave(B)
        return value.movedim(0, 1).flatten(1, 2) if kind == "probe" else value.flatten(0, 1)

    whole = call(*map(merged, slices, kinds)).unflatten(call.operator.batch, (N, B)).movedim(call.operator.batch, 0)
    torch.testing.assert_close(vmap(call, randomness="different")(*slices), whole)
    with pytest.raises(RuntimeError, match="randomness='different'"):
        vmap(call)(*slices)


ONE_MAPPED = {  # with one tensor mapped and the others captured: x, whose shape it is, is not
    "perturb": lambda x, s, v: fs.perturb(x, v, fs.Philox(2))[0],
    "perturb, alpha": lambda x, s, v: fs.perturb(x, 0.7, fs.Philox(2), alpha=v)[0],
    "langevin_step": lambda x, s, v: fs.langevin_step(x, s, v, fs.Philox(2)),
    "dsm": lambda x, s, v: fs.losses.dsm(lambda y: y.sin(), x, v, rng=fs.Philox(2), reduction="none"),
}


@pytest.mark.parametrize("name", ONE_MAPPED)
def test_what_is_mapped_need_not_be_x(name, backend):
    """vmap over the numbers per row alone: each slice has noise of its own, or by "same" one; never one unasked."""
    function, x, score = ONE_MAPPED[name], samples(B, D), samples(B, D, seed=1)
    many, one = levels(N * B).view(N, B), levels(N)
    for values, rows in ((many, many.flatten()), (one, one.repeat_interleave(B))):
        got = vmap(lambda v: function(x, score, v), randomness="different")(values)
        whole = function(x.repeat(N, 1), score.repeat(N, 1), rows)
        torch.testing.assert_close(got.flatten(0, 1), whole)
        torch.testing.assert_close(
            vmap(lambda v: function(x, score, v), randomness="same")(values),
            torch.stack([function(x, score, v) for v in values]),
        )
        with pytest.raises(RuntimeError, match="randomness='different'"):
            vmap(lambda v: function(x, score, v))(values)


def test_a_mapped_score(backend):
    x, scores = samples(B, D), samples(N, B, D, seed=1)
    got = vmap(lambda s: fs.langevin_step(x, s, 0.3, fs.Philox(2)), randomness="different")(scores)
    torch.testing.assert_close(
        got.flatten(0, 1), fs.langevin_step(x.repeat(N, 1), scores.flatten(0, 1), 0.3, fs.Philox(2))
    )


def network(x, labels=None):
    out = x.sin() @ torch.linspace(-1, 1, D * D, dtype=x.dtype).view(D, D)
    return out if labels is None else out * (1 + labels[:, None])


OBJECTIVES = {
    "ncsn": lambda x, **k: fs.losses.ncsn(network, x, SIGMAS, reduction="none", **k),
    "annealed": lambda x, **k: fs.losses.annealed_ssm_vr(network, x, SIGMAS, reduction="none", **k),
    "annealed, jvp": lambda x, **k: fs.losses.annealed_ssm_vr(
        network, x, SIGMAS, reduction="none", mode="jvp", n_particles=2, **k
    ),
    "ssm": lambda x, **k: fs.losses.ssm(network, x, reduction="none", projection="gaussian", **k),
    "fd_ssm": lambda x, **k: fs.losses.fd_ssm(network, x, reduction="none", **k),
    "penalty": lambda x, **k: fs.losses.gradient_penalty(network, x, reduction="none", **k),
    "compat": lambda x, **k: fs.compat.ncsnv2.anneal_dsm_score_estimation(network, x, SIGMAS, **k).expand(len(x)),
    "trace": lambda x, **k: fs.jacobian_trace(network, x, num_probes=3, **k).value,
    "trace, vjp": lambda x, **k: (
        fs.jacobian_trace(network, x, num_probes=4, method="xtrace", blocks=1, mode="vjp", **k).value
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_draw_all_they_draw_by_slice(name, backend):
    """Labels, noise and directions of slice i are those of its rows in the whole batch, and "same" is the loop."""
    function, x = OBJECTIVES[name], samples(N, B, D)
    got = vmap(lambda x: function(x, rng=fs.Philox(3)), randomness="different")(x)
    alone = torch.stack([function(x[i], rng=fs.Philox(3, sample_offset=i * B)) for i in range(N)])
    torch.testing.assert_close(got, alone, rtol=1e-6, atol=1e-6)
    same = vmap(lambda x: function(x, rng=fs.Philox(3)), randomness="same")(x)
    torch.testing.assert_close(
        same, torch.stack([function(x[i], rng=fs.Philox(3)) for i in range(N)]), rtol=1e-6, atol=1e-6
    )
    with pytest.raises(RuntimeError, match="randomness='different'"):
        vmap(lambda x: function(x, rng=fs.Philox(3)))(x)


def test_levels_that_are_mapped_where_x_is_not(backend):
    x, sigmas = samples(B, D), SIGMAS * torch.tensor([[1.0], [2.0]], dtype=torch.float64)

    def loss(sigmas, offset=0):
        return fs.losses.ncsn(network, x, sigmas, rng=fs.Philox(3, sample_offset=offset), reduction="none")

    alone = torch.stack([loss(sigmas[0]), loss(sigmas[1], B)])
    torch.testing.assert_close(vmap(loss, randomness="different")(sigmas), alone)


@pytest.mark.slow
def test_compiled(on_backend):
    on_backend("native")

    def both(x):
        one = vmap(
            lambda x: (
                fs.losses.ncsn(network, x, SIGMAS, rng=fs.Philox(3), reduction="none") + fs.Philox(4).randint(9, B)
            ),
            randomness="different",
        )
        return one(x), fs.Philox(4).randint(9, B)

    x = samples(N, B, D)
    for got, expected in zip(torch.compile(both, fullgraph=True, backend="aot_eager")(x), both(x)):
        torch.testing.assert_close(got, expected)
