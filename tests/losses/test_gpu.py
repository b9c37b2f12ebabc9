"""The losses on a device give what they give on the CPU: the same directions, sums to rounding."""

import pytest
import torch

import fastscore as fs
from fastscore import losses
from fastscore.trace.products import AUTOMATIC

from .cases import LOSSES, PROJECTIONS, X, net

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("mode", AUTOMATIC)
@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("name", [*(name for name in LOSSES if name != "ism"), "fd_ssm"])
def test_on_a_device(name, projection, mode):
    options = {"projection": projection, "n_particles": 2} | ({} if name == "fd_ssm" else {"mode": mode})
    found = []
    for device in ("cpu", "cuda"):
        w = torch.ones((), dtype=torch.float64, device=device, requires_grad=True)
        loss = getattr(losses, name)(
            lambda y, w=w: torch.sin(w * y) * y.flip(1), X.to(device), rng=fs.Philox(3), **options
        )
        loss.backward()
        found.append(torch.stack([loss.detach(), w.grad]).cpu())
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "rademacher"])
def test_ism_on_a_device(method):
    found = [losses.ism(net, X.float().to(device), method=method, rng=fs.Philox(3)).cpu() for device in ("cpu", "cuda")]
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("loss", ["csm", "ddpm", "stf"])
@pytest.mark.parametrize("path", [fs.paths.vp_linear(), fs.paths.vp_discrete(), fs.paths.levels([1.0, 0.1])])
def test_on_a_path_on_a_device(loss, path):
    given = {} if loss == "ddpm" else {"proposal": "importance", "weighting": "g^2"}
    found = [
        getattr(losses, loss)(lambda y, t: y * t[:, None], X.to(device), path, rng=fs.Philox(3), **given).cpu()
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
