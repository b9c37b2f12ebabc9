"""What every sampler refuses of a network, what it tells it, and that no network harms the samples it is given."""

import functools
import types

import pytest
import torch
from torch import nn

import fastscore as fs
from fastscore import guidance
from fastscore.compat import ncsnv2 as compat
from fastscore.samplers import Trajectory, annealed_langevin, consistent_annealed, langevin

from . import cases
from .cases import CASES, SIGMAS, START

COMPAT = {
    "compat": lambda score, **k: compat.anneal_Langevin_dynamics(START, score, SIGMAS, 2, 1e-3, **k)[-1],
    "compat inpainting": lambda score, **k: compat.anneal_Langevin_dynamics_inpainting(
        START.view(3, 1, 1, 2, 2), START.view(3, 1, 2, 2), score, SIGMAS, 2, 2, 1e-3, **k
    )[-1],
    "compat interpolation": lambda score, **k: compat.anneal_Langevin_dynamics_interpolation(
        START, score, SIGMAS, 2, 2, 1e-3, **k
    )[-1],
}
each_sampler = pytest.mark.parametrize("sampler", CASES.values(), ids=CASES)
each_function = pytest.mark.parametrize("sampler", (CASES | COMPAT).values(), ids=CASES | COMPAT)


class Net(nn.Module):
    """-x, through a layer that is looked at but adds nothing."""

    def __init__(self, layer):
        super().__init__()
        self.body = nn.Sequential(nn.Identity(), layer)

    def forward(self, x, labels=None):
        rows = x.reshape(len(x), -1, 1, 1) if isinstance(self.body[1], nn.BatchNorm2d) else x.reshape(len(x), -1)
        return -x + 0 * self.body(rows).reshape(x.shape)


class Wrapper:
    """An object that holds a network and other things."""

    def __init__(self, network):
        self.other, self.network = None, network

    def score(self, x, labels=None):
        return self.inner(x)

    def inner(self, x):
        return self.network(x)

    __call__ = score


@each_function
@pytest.mark.parametrize("layer", [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.SyncBatchNorm(4)], ids=["1d", "2d", "sync"])
def test_batch_norm_in_training_mode_is_refused(sampler, layer):
    with pytest.raises(
        ValueError,
        match=rf"score_fn must act on each sample by itself, got a network whose "
        rf"{type(layer).__name__} 'body.1' normalises by .*: call .eval\(\)",
    ):
        sampler(Net(layer))
    assert int(layer.num_batches_tracked) == 0  # nothing ran


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("network",)

    def __init__(self, network):
        self.network = network

    def __call__(self, x, labels=None):
        return self.network(x)


HIDDEN = Net(nn.BatchNorm1d(4))


def through_a_global(x, labels=None):
    return helper(x)


def helper(x):
    return HIDDEN(x)


class Static:
    """Names in place of objects."""

    network = HIDDEN

    @staticmethod
    def score(x):
        return helper(x)


class Averaged:
    """An object that shows its network as a property."""

    def __init__(self, network):
        self._network = network

    @property
    def network(self):
        return self._network

    @functools.cached_property
    def kept(self):
        return self._network


def wrapped(network):
    box, held, averaged = {"networks": [nn.Identity(), network]}, Wrapper(network), Averaged(network)
    module = types.ModuleType("networks")
    module.here = network
    return {
        "method": network.forward,
        "function in a function": lambda x, labels=None: (lambda y: HIDDEN(y))(x),
        "keyword default": lambda x, labels=None, *, net=network: net(x),
        "object with slots": Slotted(network),
        "data parallel": nn.DataParallel(network),
        "partial": functools.partial(network, labels=None),
        "closure": lambda x, labels=None: network(x),
        "default": lambda x, labels=None, net=network: net(x),
        "container": lambda x, labels=None: box["networks"][1](x),
        "object": Wrapper(network),
        "object's method": Wrapper(network).score,
        "object in a closure": lambda x, labels=None: held.inner(x),
        "property": lambda x, labels=None: averaged.network(x),
        "cached property": lambda x, labels=None: averaged.kept(x),
        "class": lambda x, labels=None: Static.network(x),
        "static method": lambda x, labels=None: Static.score(x),
        "module": lambda x, labels=None: module.here(x),
        "compiled": torch.compile(network, backend="eager"),
        "compiled function": torch.compile(lambda x, labels=None: network(x), backend="eager"),
        "decorated": torch.no_grad()(lambda x, labels=None: network(x)),
    } | wrapped_by_ours(network)


def wrapped_by_ours(network):
    """Modules that were made of functions, behind which a network is."""

    def plain(x, labels=None, class_labels=None):
        return network(x)

    def log_prob(x, labels=None):
        return network(x).reshape(len(x), -1).log_softmax(1)[:, 0]

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = plain

        def forward(self, x, labels=None):
            return self.function(x)

    one = guidance.Measurement(lambda x: x)
    return {
        "a user's own module": Own(),
        "classifier": guidance.classifier(lambda x, *c: -x, log_prob),
        "classifier-free": guidance.classifier_free(plain, 0, guidance=2.0),
        "autoguidance": guidance.autoguidance(lambda x, *c: -x, plain, guidance=2.0),
        "pigdm": guidance.pigdm(plain, one, START, SIGMAS),
        "an object": guidance.projection(Wrapper(network), one, START, SIGMAS),
        "as_score": fs.as_score(plain, kind="score", path=fs.paths.levels(SIGMAS), conditioning="labels"),
        "preconditioned": fs.models.Preconditioned(plain, sigmas=SIGMAS),
        "a wrapper in a wrapper": guidance.with_label(fs.energy_score(lambda x, *c, class_labels: log_prob(x)), 0),
    }


@pytest.mark.parametrize("way", wrapped(HIDDEN) | {"global": None})
def test_batch_norm_is_found_wherever_the_network_is(way):
    score = wrapped(HIDDEN).get(way, through_a_global)
    with pytest.raises(ValueError, match=r"whose BatchNorm1d '.*body.1' normalises by statistics"):
        CASES["annealed"](score)
    with pytest.raises(ValueError, match=r"whose BatchNorm1d '.*body.1' normalises by statistics"):
        fs.losses.ssm(score, START)  # the losses and traces look in the same places


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "compiler", [torch.jit.script, lambda network: torch.jit.trace(network, START)], ids=["script", "trace"]
)
def test_torchscript_hides_no_layer(compiler):
    """It keeps a layer's mode, but not its class."""

    def compiled(layer, training):
        return compiler(nn.Sequential(nn.Linear(4, 4), layer).train(training))

    def score(network):
        return lambda x, labels=None: network(x)

    learning = nn.InstanceNorm1d(3, track_running_stats=True)
    for layer, text in ((nn.BatchNorm1d(4), "normalises by statistics"), (learning, "learns running statistics")):
        with pytest.raises(ValueError, match=f"whose {type(layer).__name__} '1' {text}"):
            CASES["annealed"](score(compiled(layer, True)))
        CASES["annealed"](score(compiled(layer, False)))
    with pytest.raises(ValueError, match=r"whose BatchNorm1d '1' normalises by statistics"):
        fs.losses.ssm(score(compiled(nn.BatchNorm1d(4), True)), START)
    CASES["annealed"](score(compiled(nn.Identity(), True)))


def test_what_a_score_does_not_call_is_not_looked_at():
    unused = Wrapper(HIDDEN)
    unused.fine = Net(nn.Identity())
    CASES["annealed"](lambda x, labels: unused.fine(x))


def test_a_score_may_set_the_mode_itself(recwarn):
    """And set it back: before and after the network is in training mode."""
    norm = nn.BatchNorm1d(4)
    network = nn.Sequential(norm, nn.Dropout(0.5))

    def score(x, labels=None):
        network.eval()
        try:
            return network(x)
        finally:
            network.train()

    for run in (CASES["annealed"], lambda score: fs.losses.ssm(score, START)):
        run(score)
        run(lambda x, labels=None: score(x))
    assert not recwarn.list and int(norm.num_batches_tracked) == 0


network = HIDDEN  # of the name of an attribute below


def test_an_attribute_is_no_global_of_its_name():
    """A script has a global ``network`` that it trains, and samples by ``average.network``."""
    average = Wrapper(Net(nn.BatchNorm1d(4)).eval())
    CASES["annealed"](lambda x, labels: average.network(x))
    fs.losses.ssm(lambda x: average.network(x), START)


@each_sampler
def test_in_eval_mode_statistics_stay_and_a_sample_ignores_its_batch(sampler):
    norm = nn.BatchNorm1d(4)
    norm(5 + torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    network = nn.Sequential(norm, nn.Flatten()).eval()
    score = lambda x, labels=None: -network(x)  # noqa: E731
    whole = sampler(score, rng=fs.Philox(1))
    alone = sampler(score, START[1:2], rng=fs.Philox(1, sample_offset=1))
    torch.testing.assert_close(alone[0], whole[1], rtol=1e-6, atol=1e-6)
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_instance_norm_that_learns_statistics_is_refused():
    with pytest.raises(ValueError, match=r"leave its network as it is .* InstanceNorm1d 'body.1' learns running stat"):
        CASES["annealed"](Net(nn.InstanceNorm1d(4, track_running_stats=True)))


@each_function
@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Dropout(0.1),
        nn.RReLU,
        lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
    ],
    ids=["dropout", "rrelu", "spectral norm", "spectral parametrization"],
)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.spectral_norm`:FutureWarning")
def test_layers_that_differ_from_call_to_call_are_warned_of(sampler, layer, recwarn):
    """Sampling with dropout is legal; that rng alone then no longer decides is said."""
    network = Net(layer())
    with pytest.warns(UserWarning, match=r"'body.1.*' is in training mode .* not on rng alone. Call .eval") as caught:
        sampler(network)
    assert caught[0].filename in (__file__, cases.__file__)  # the caller's, not the library's
    recwarn.clear()
    sampler(network.eval())
    assert not recwarn.list


def test_layers_without_effect_are_not_warned_of(recwarn):
    for layer in (nn.Dropout(0.0), nn.InstanceNorm1d(3), nn.LayerNorm(4), nn.GroupNorm(2, 4)):
        CASES["annealed"](Net(layer))
    assert not recwarn.list


def write_values(x, _=None):
    x.data.mul_(-1)  # which torch's version counter does not see
    return x


IN_PLACE = {
    "returns x": lambda x, _=None: x.neg_(),
    "scratch": lambda x, _=None: -(x.add_(1) - 1),
    "data": write_values,
}


@each_sampler
@pytest.mark.parametrize("change", IN_PLACE)
@pytest.mark.parametrize("inference", [False, True])
def test_a_score_that_works_in_place_harms_nothing(sampler, change, inference):
    x = START.clone()
    with torch.inference_mode(inference):
        result = sampler(IN_PLACE[change], x, rng=fs.Philox(2))
        want = sampler(lambda x, _=None: -x, x, rng=fs.Philox(2))
    assert torch.equal(x, START) and not x.requires_grad
    torch.testing.assert_close(result, want, rtol=1e-6, atol=1e-6)


@each_sampler
def test_a_score_that_works_in_place_later_is_an_error(sampler):
    calls = []

    def score(x, labels=None):
        calls.append(1)
        return -x if len(calls) < 3 else x.neg_()

    with pytest.raises(ValueError, match=r"score_fn must not change its x in place, as it did at evaluation 3"):
        sampler(score)


@each_sampler
def test_a_score_gets_the_samples_themselves_where_it_leaves_them(sampler, monkeypatch):
    """One copy a run, not one an evaluation."""
    copies, clone = [], torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda x, *a, **k: copies.append(1) or clone(x, *a, **k))
    sampler(lambda x, labels=None: -x)
    assert len(copies) == 1


@each_sampler
def test_a_callback_may_not_change_the_chain(sampler):
    with pytest.raises(ValueError, match=r"callback must not change x in place, .*x.clone\(\)"):
        sampler(lambda x, labels=None: -x, callback=lambda step, x: x.clamp_(0, 1))


@each_sampler
def test_in_inference_mode_a_callback_cannot_change_the_chain(sampler):
    """There torch does not count changes in place."""
    score = lambda x, labels=None: -x  # noqa: E731
    with torch.inference_mode():
        got = sampler(score, rng=fs.Philox(1), callback=lambda step, x: x.zero_())
    assert torch.equal(got, sampler(score, rng=fs.Philox(1)))


@each_sampler
def test_a_gradient_that_a_score_requires_of_its_x_is_not_required_of_the_chain(sampler):
    def score(x, labels=None):
        with torch.enable_grad():
            return -torch.autograd.grad(x.requires_grad_().square().sum() / 2, x)[0]

    states = []
    assert not sampler(score, callback=lambda step, x: states.append(x)).requires_grad
    assert len(states) > 1 and not any(x.requires_grad for x in states)


def by_autograd(x, labels=None):
    x.requires_grad_()
    return -torch.autograd.grad(x.square().sum() / 2, x)[0]


def by_backward(x, labels=None):
    x = x.detach().requires_grad_()
    (x.square().sum() / 2).backward()
    return -x.grad


@each_function
@pytest.mark.parametrize("score", [by_autograd, by_backward])
def test_a_gradient_under_no_grad_is_explained(sampler, score):
    x = START.clone()
    with pytest.raises(
        RuntimeError,
        match=r"score_fn takes a gradient .* fastscore.energy_score\(energy\), or .*"
        r"torch.enable_grad\(\).* Torch says: element 0",
    ):
        sampler(score)
    assert torch.equal(START, x) and not START.requires_grad


@each_sampler
@pytest.mark.parametrize("score", [by_autograd, by_backward])
def test_a_gradient_under_enable_grad_serves(sampler, score):
    result = sampler(torch.enable_grad()(score), rng=fs.Philox(2))
    torch.testing.assert_close(result, sampler(lambda x, _=None: -x, rng=fs.Philox(2)))
    assert not result.requires_grad and not START.requires_grad


def test_errors_of_the_score_itself_stay_theirs():
    for message in ("mat1 and mat2 shapes cannot be multiplied", "x does not require grad, says a user"):

        def broken(x, labels, message=message):
            raise RuntimeError(message)

        with pytest.raises(RuntimeError, match=f"^{message}$"):
            CASES["annealed"](broken)


@each_sampler
def test_model_kwargs_reach_every_evaluation(sampler):
    seen, table = [], torch.tensor([2.0])

    def score(x, labels=None, *, scale, shift=0.0):
        seen.append(scale)
        return -scale * x + shift

    result = sampler(score, rng=fs.Philox(2), model_kwargs={"scale": table, "shift": 0.5})
    assert torch.equal(result, sampler(lambda x, _=None: -2.0 * x + 0.5, rng=fs.Philox(2)))
    assert len(seen) >= 3 and all(scale is table for scale in seen)


@each_sampler
@pytest.mark.parametrize("value", [[("scale", 1)], "scale", {1: 2}])
def test_model_kwargs_of_another_kind(sampler, value):
    with pytest.raises(TypeError, match="model_kwargs must be a mapping from names"):
        sampler(lambda x, labels=None: -x, model_kwargs=value)


@each_sampler
@pytest.mark.parametrize("name", ["x", "labels", "typo"])
def test_model_kwargs_that_score_fn_cannot_take(sampler, name):
    """By name, and before anything runs."""
    calls = []

    def score(x, labels=None, scale=1.0):
        calls.append(1)
        return -x

    if sampler is CASES["langevin"]:  # whose adapter above takes any
        sampler = functools.partial(langevin, x=START, num_steps=1, step_size=0.1)
        score = functools.partial(score, labels=None) if name != "labels" else lambda x: -x
    with pytest.raises(TypeError, match=rf"model_kwargs must be arguments .* beside \(x.*, got '{name}'"):
        sampler(score, model_kwargs={name: 1})
    assert not calls


@each_sampler
def test_what_is_returned_is_no_argument(sampler):
    """Nor is it where there is no update at all."""
    assert sampler(lambda x, labels=None: -x).data_ptr() != START.data_ptr()
    x = consistent_annealed(lambda x, i: -x, START.shape, [0.1], eta=0.8, start=START, denoise=False)
    assert torch.equal(x, START) and x.data_ptr() != START.data_ptr()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sigma_is_passed_in_the_dtype_of_computation(dtype):
    """[B], every level between too: what a network that takes sigma sees."""
    seen = []
    consistent_annealed(
        lambda x, sigma: seen.append(sigma) or -x,
        (2, 3),
        SIGMAS,
        eta=0.8,
        steps_per_level=2,
        conditioning="sigma",
        dtype=dtype,
        trajectory=Trajectory(),
    )
    assert {s.dtype for s in seen} == {torch.float64 if dtype == torch.float64 else torch.float32}
    want = [1.0, 0.3**0.5, 0.3, (0.3 * 0.1) ** 0.5, 0.1]  # and the last again, for denoising
    torch.testing.assert_close(torch.stack(seen).double(), torch.tensor(want).double()[:, None].expand(5, 2))


BAD = {
    "dtype": (dict(dtype=torch.int64), TypeError, "dtype must be torch.float16, .*got torch.int64"),
    "start array": (dict(start=START.numpy()), ValueError, "start must be 'uniform', .* or a tensor, got ndarray"),
    "start list": (dict(start=[1.0]), ValueError, "start must be 'uniform', 'normal' or a tensor, got list"),
    "clamp words": (dict(clamp=("0", "b")), ValueError, r"clamp must be None or \(low, high\)"),
    "clamp nan": (dict(clamp=(0.0, float("nan"))), ValueError, r"clamp must be None or \(low, high\)"),
    "clamp one": (dict(clamp=1.0), ValueError, r"clamp must be None or \(low, high\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case):
    changes, error, text = BAD[case]
    with pytest.raises(error, match=text):
        annealed_langevin(lambda x, i: -x, START.shape, SIGMAS, **({"step_size": 1e-3} | changes))


def test_clamp_takes_any_pair_of_numbers():
    x = annealed_langevin(
        lambda x, i: -x,
        START.shape,
        SIGMAS,
        step_size=1e-3,
        steps_per_level=1,
        start=START,
        clamp=torch.tensor([-0.1, float("inf")]).numpy(),
    )
    assert float(x.min()) == pytest.approx(-0.1) and float(x.max()) > 0.1
