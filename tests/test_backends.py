"""Which backend serves what; and that losses and samplers give the same numbers on all of them."""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

import fastscore as fs
from fastscore._core import backends
from fastscore._core.operators import OPERATORS
from fastscore.experiment.doctor import report

SIGMAS = torch.tensor([1.0, 0.5, 0.1])
needs_native = pytest.mark.skipif(backends.problem("native") is not None, reason=str(backends.problem("native")))


def score(x, labels=None):
    return -x / (1 + x * x)


def losses():
    x = torch.linspace(-1, 1, 4 * 3 * 16).view(4, 3, 4, 4)
    yield "dsm", lambda: fs.losses.dsm(score, x, 0.5, rng=fs.Philox(1))
    yield "dsm, epsilon", lambda: fs.losses.dsm(score, x, 0.5, rng=fs.Philox(1), parametrization="epsilon")
    yield "ncsn", lambda: fs.losses.ncsn(score, x, SIGMAS, rng=fs.Philox(1))
    for name in ("annealed_langevin", "consistent_annealed"):
        keyword = {"step_size": 0.01} if name == "annealed_langevin" else {"eta": 0.99}
        yield (
            name,
            lambda name=name, keyword=keyword: getattr(fs.samplers, name)(
                score, x.shape, SIGMAS, rng=fs.Philox(2), start="normal", **keyword
            ),
        )
    yield "langevin", lambda: fs.samplers.langevin(score, x, num_steps=20, step_size=0.1, rng=fs.Philox(3))
    mask = x > 0
    yield (
        "inpaint",
        lambda: fs.samplers.inpaint(score, x, mask, SIGMAS, step_size=0.01, steps_per_level=5, rng=fs.Philox(4)),
    )


@needs_native
@pytest.mark.parametrize("name, run", list(losses()), ids=lambda v: v if isinstance(v, str) else "")
def test_losses_and_samplers_give_the_references_numbers(name, run):
    backends.last.clear()
    fused = run()
    assert set(backends.last.values()) == {"native"}
    with fs.use_backend("reference"):
        expected = run()
    assert set(backends.last.values()) == {"reference"}
    torch.testing.assert_close(fused, expected, rtol=2e-5, atol=2e-5)


@needs_native
def test_use_backend_nests_and_restores():
    x = torch.zeros(2, 3)
    with fs.use_backend("reference"):
        with fs.use_backend("native"):
            fs.perturb(x, 1.0)
            assert backends.last["perturb"] == "native"
        fs.perturb(x, 1.0)
        assert backends.last["perturb"] == "reference"
    with pytest.raises(KeyError), fs.use_backend("reference"):
        raise KeyError
    fs.perturb(x, 1.0)
    assert backends.last["perturb"] == "native"


def test_a_backend_that_is_not_there_says_what_to_do(monkeypatch):
    with (
        pytest.raises(ValueError, match="backend must be one of 'reference', 'native', 'triton', got 'cuda'"),
        fs.use_backend("cuda"),
    ):
        pass
    monkeypatch.setattr(backends, "_native_problem", "the C++ extension is not built")
    with (
        pytest.raises(fs.BackendUnavailable, match=r"native backend is not there: the C\+\+ extension is not built"),
        fs.use_backend("native"),
    ):
        pass
    assert backends.default(torch.device("cpu")) == "reference"
    fs.perturb(torch.zeros(2, 3), 1.0)
    assert backends.last["perturb"] == "reference"
    assert "the C++ extension is not built" in report()
    monkeypatch.setattr(backends, "_has_triton", False)
    with pytest.raises(fs.BackendUnavailable, match="pip install triton"), fs.use_backend("triton"):
        pass


def test_triton_on_the_cpu_wants_the_interpreter(monkeypatch):
    monkeypatch.setattr(backends, "_has_triton", True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with fs.use_backend("triton"), pytest.raises(fs.BackendUnavailable, match="TRITON_INTERPRET=1"):
        fs.perturb(torch.zeros(2, 3), 1.0)


@pytest.fixture
def declared(monkeypatch):
    """Three operators that are there only in name, as only their backends count here; all backends work."""
    for name, backend in {
        "everywhere": {"native": ("cpu", "cuda"), "triton": ("cuda",)},
        "by triton first": {"triton": ("cuda",), "native": ("cpu", "cuda")},
        "on cuda alone": {"triton": ("cuda",)},
    }.items():
        monkeypatch.setitem(OPERATORS, name, SimpleNamespace(name=name, backends=backend))
    for name, value in {"_native_problem": None, "_cuda_problem": None, "_has_triton": True}.items():
        monkeypatch.setattr(backends, name, value)
    monkeypatch.setattr(backends, "isa", lambda: "avx2")


def test_the_first_declared_backend_of_a_device_is_its_default(declared, monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    served = {name: [backends.choose(name, d) for d in (cpu, cuda)] for name in list(OPERATORS)[-3:]}
    assert served == {
        "everywhere": ["native", "native"],
        "by triton first": ["native", "triton"],
        "on cuda alone": ["reference", "triton"],
    }
    assert backends.slow("on cuda alone", cpu) is None  # there is nothing faster to be had
    monkeypatch.setattr(backends, "_cuda_problem", "not built")
    assert (
        backends.choose("everywhere", cuda) == "triton"
        and backends.problem("native", cuda, "everywhere") == "not built"
    )
    monkeypatch.setattr(backends, "_has_triton", False)
    assert backends.default(cuda, "everywhere") == "reference" and backends.slow("everywhere", cuda) == "not built"


def test_what_is_not_declared_is_refused(declared):
    assert backends.problem("native", "cpu", "on cuda alone") == (
        "it has no Native version: its backends are reference, triton"
    )
    assert backends.problem("native", "meta", "everywhere") == "native serves the CPU and CUDA devices, not meta"
    assert backends.problem("triton", "meta", "everywhere") == "triton serves CUDA devices, not meta"
    assert backends.problem("reference", "meta", "on cuda alone") is None
    with (
        fs.use_backend("triton"),
        pytest.raises(fs.BackendUnavailable, match="cannot serve probe_dot here: it has no Tr"),
    ):
        backends.choose("probe_dot", torch.device("cuda"))


def test_doctor_lists_every_operator_with_those_served_alike(declared):
    lines = report().splitlines()
    groups = [line for line in lines if line.startswith("operators (")]
    listed = [name for line in groups for name in line[len("operators (") : -1].split(", ")]
    assert sorted(listed) == sorted(OPERATORS)
    at = lines.index("operators (on cuda alone)")
    assert [line.split() for line in lines[at + 1 : at + 3]] == [["cpu", "reference"], ["cuda", "triton"]]


@needs_native
def test_a_tensor_elsewhere_is_refused_by_name():
    with fs.use_backend("native"), pytest.raises(fs.BackendUnavailable, match="native serves the CPU, not meta"):
        fs.perturb(torch.zeros(2, 3, device="meta"), 1.0)


@needs_native
def test_an_extension_that_does_not_load_leaves_the_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastscore._C", None)
    assert "the C++ extension does not load beside torch" in backends._load("_C", "C++", "a C++ compiler")


def without_the_extension(monkeypatch):
    monkeypatch.setattr(backends, "_native_problem", "the C++ extension is not built: run make")
    monkeypatch.setattr(backends, "_told", set())


CALLS = {
    "perturb": lambda: fs.perturb(torch.zeros(2, 3), 1.0),
    "fill": lambda: fs.Philox(0).rand(2),
    "probe_dot": lambda: fs.probe_dot(torch.ones(2, 3), fs.Probes(torch.zeros(3), 2)),
    "mlp_divergence": lambda: fs.mlp_divergence(
        torch.ones(2, 1), [torch.nn.Linear(1, 2), torch.nn.Linear(2, 1)], activation="tanh"
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_slow_default_warns_once(name, monkeypatch):
    """With the cure, at the first call of any operator; nothing where the reference was asked for."""
    without_the_extension(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fs.use_backend("reference"):
            CALLS[name]()
    with pytest.warns(
        UserWarning,
        match=f"computes {name} on cpu by its plain-torch reference, 10 to 100 times slower"
        r".*use_backend\('reference'\).*not built: run make",
    ) as said:
        CALLS[name]()
        for call in CALLS.values():
            call()
    assert len(said) == 1 and said[0].filename == __file__
    assert "cpu              reference, 10 to 100 times slower than compiled: the C++ ext" in report()


@needs_native
def test_a_fast_default_does_not_warn(monkeypatch):
    monkeypatch.setattr(backends, "_told", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, call in CALLS.items():
            call()
            assert backends.last[name] == "native" and backends.slow(name, torch.device("cpu")) is None
        assert backends.choose("perturb", torch.device("meta")) == "reference"  # where nothing is computed
    assert "cpu              native\n" in report()


def test_a_gpu_without_triton_is_slow_too(monkeypatch):
    monkeypatch.setattr(backends, "_told", set())
    monkeypatch.setattr(backends, "_has_triton", False)
    with pytest.warns(UserWarning, match="perturb on cuda .*pip install triton"):
        assert backends.choose("perturb", torch.device("cuda")) == "reference"
    assert backends._told == {"cuda"}
