"""Networks in wrappers: DistributedDataParallel, DataParallel, and what torch.compile made of one."""

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastscore as fs
from fastscore import losses
from fastscore.trace import modules
from fastscore.trace.products import AUTOMATIC, Products

from .cases import LOSSES, X

NAMES = [*LOSSES, "annealed_ssm_vr", "fd_ssm", "exact", "rademacher"]


class Net(nn.Module):
    """With a buffer, which a wrapper copies at each call; every parameter has a part in the Jacobian."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)).double()
        self.register_buffer("scale", torch.tensor(1.5, dtype=torch.float64))

    def forward(self, y, *_):
        return self.scale * torch.sin(self.layers(y))


@pytest.fixture
def one_rank(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def run(name, f, mode):
    rng = fs.Philox(0)
    if name in ("exact", "rademacher"):
        return fs.jacobian_trace(f, X, method=name, mode=mode, rng=rng, create_graph=True).value.sum()
    if name == "fd_ssm":
        return losses.fd_ssm(f, X, rng=rng)
    if name == "annealed_ssm_vr":
        return losses.annealed_ssm_vr(f, X, torch.tensor([1.0, 0.1]), rng=rng, mode=mode)
    return LOSSES[name](f, X, mode=mode, rng=rng, **({} if name == "ism" else {"n_particles": 2}))


def check_equal(name, f, inside, mode):
    """Loss and gradient of ``f`` are those of the network inside."""
    plain = Net()
    got, expected = run(name, f, mode), run(name, plain, mode)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    got.backward()
    expected.backward()
    for one, other in zip(inside.parameters(), plain.parameters()):
        ours = torch.zeros_like(one) if one.grad is None else one.grad
        wanted = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(ours, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"static_graph": True}], ids=str)
def test_distributed(one_rank, options):
    """Reverse mode is right, step after step; forward mode is refused with the cure, which is right."""
    for name in NAMES:
        network = Net()
        wrapped = DistributedDataParallel(network, **options)
        for f in (wrapped, lambda y, *c, w=wrapped: w(y, *c)):
            network.zero_grad()
            check_equal(name, f, network, "vjp")
            if name != "fd_ssm":
                with pytest.raises(ValueError, match=r"DistributedDataParallel for mode='jvp'.*mode='vjp'.*\.module"):
                    run(name, f, "jvp")
        network.zero_grad()
        check_equal(name, wrapped.module, network, "jvp")
        products = Products(wrapped, X, mode="vjp", layers=modules.check(wrapped, "vjp"))
        assert not products._batched  # vmap was not tried on it
        with torch.no_grad():
            torch.testing.assert_close(run(name, wrapped, "vjp"), run(name, network, "vjp"))


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("name", NAMES)
def test_data_parallel(name, mode):
    network = Net()
    check_equal(name, nn.DataParallel(network), network, mode)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["module", "in a closure", "in place", "a function"])
def test_compiled(how):
    """It is run uncompiled where it is differentiated, in either mode, once or again."""
    for name in ("ssm_vr", "annealed_ssm_vr", "exact"):
        for mode in AUTOMATIC:
            torch.compiler.reset()  # dynamo remembers what it could not compile, and would hide a failure
            network = Net()
            if how == "in place":
                network.compile(backend="aot_eager")
            compiled = torch.compile(network.forward if how == "a function" else network, backend="aot_eager")
            f = {"in a closure": lambda y, *c, f=compiled: f(y, *c), "in place": network}.get(how, compiled)
            check_equal(name, f, network, mode)
    for chunk_size in (None, 1):
        found = fs.jacobian_trace(f, X, method="exact", chunk_size=chunk_size).value
        torch.testing.assert_close(found, fs.jacobian_trace(network, X, method="exact", mode="jvp").value)


@pytest.mark.slow
def test_compiled_stays_compiled_for_differences():
    torch.compiler.reset()
    runs = []

    def backend(graph, inputs):
        def counted(*args):
            runs.append(1)
            return graph(*args)

        return counted

    compiled = torch.compile(Net(), backend=backend)
    compiled(X)
    found = fs.jacobian_trace(compiled, X, mode="fd", fd_step=1e-4).value
    assert len(runs) == 1 + 9
    torch.testing.assert_close(found, fs.jacobian_trace(Net(), X).value, rtol=1e-6, atol=1e-6)
