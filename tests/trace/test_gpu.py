"""On a device: the CPU's estimates from the same seed."""

import pytest
import torch

import fastscore as fs
from fastscore.trace import METHODS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("mode", ["jvp", "vjp", "fd"])
@pytest.mark.parametrize("method", METHODS)
def test_a_device_gives_the_cpus_estimates(method, mode):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 2, 3, padding=1)
    ).double()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    options = {"method": method, "mode": mode, "num_probes": 12, "fd_step": 1e-3 if mode == "fd" else None}
    here = fs.jacobian_trace(net, x, rng=fs.Philox(1), **options)
    there = fs.jacobian_trace(net.cuda(), x.cuda(), rng=fs.Philox(1), **options)
    assert there.value.is_cuda and there.output.is_cuda
    torch.testing.assert_close(there.value.cpu(), here.value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(there.stderr.cpu(), here.stderr, rtol=1e-4, atol=1e-4)


def test_a_receptive_field_on_a_device():
    net = torch.nn.Conv2d(1, 1, 5, padding=2).cuda()
    x = torch.randn(2, 1, 9, 9, device="cuda")
    exact = fs.jacobian_trace(net, x, method="exact")
    colored = fs.jacobian_trace(net, x, method="exact", receptive_field=2)
    torch.testing.assert_close(colored.value, exact.value, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="receptive_field=1 does not hold"):
        fs.jacobian_trace(net, x, method="exact", receptive_field=1)
