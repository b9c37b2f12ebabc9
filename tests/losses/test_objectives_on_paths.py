"""Objectives of training on a path of continuous t: each is its public loss, at the times that it draws itself."""

import math

import pytest
import torch

import fastscore as fs
from fastscore import losses, paths
from fastscore.losses import OBJECTIVES


@pytest.mark.parametrize("path", [paths.ve(0.1, 5.0), paths.vp_linear(), paths.rectified()], ids=lambda p: p.name[:4])
@pytest.mark.parametrize(
    "name, options",
    [
        ("dsm", {}),
        ("csm", {"weighting": "g^2", "proposal": "importance"}),
        ("csm", {"weighting": "sigma^2/alpha^2"}),
        ("ddpm", {}),
        ("stf", {}),
    ],
)
def test_an_objective_on_a_path_is_its_public_loss(name, options, path):
    """Bit for bit to the place in the random sequence; another weight is a power of sigma."""
    network = fs.models.ScoreMLP(hidden=8, sigmas=[1.0, 0.1])
    score = fs.as_score(network, kind="score", path=path, conditioning="sigma", rescale=True)
    x = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    ours, theirs = fs.Philox(3), fs.Philox(3)
    got, t = OBJECTIVES[name].on_path(score, path, (2,), weight=2.0, **options)(x, ours)
    loss = getattr(losses, "csm" if name == "dsm" else name)
    model = fs.as_prediction(score, kind="epsilon", path=path) if name == "ddpm" else score
    want = loss(model, x, path, rng=theirs, reduction="none", **options)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert ours.step == theirs.step and t.dtype == torch.float64
    other, again = OBJECTIVES[name].on_path(score, path, (2,), weight=0.5, **options)(x, fs.Philox(3))
    torch.testing.assert_close(other, got * path.sigma(t).float() ** -1.5, rtol=1e-5, atol=1e-6)
    assert torch.equal(t, again)


def test_edm_on_a_path_is_edm_of_the_clean_scale():
    """Of x_t / alpha at the noise sigma / alpha, whose logarithm is normal, cut off at the path's ends."""
    path = paths.vp_linear(t_min=0.05)
    network = fs.models.ScoreMLP(hidden=8, sigmas=[1.0, 0.1])
    score = fs.as_score(network, kind="score", path=path, conditioning="sigma", rescale=True)
    x, rng, own = torch.randn(64, 2), fs.Philox(5), {"data_std": 0.8, "p_mean": 0.0, "p_std": 1.2}
    got, t = OBJECTIVES["edm"].on_path(score, path, (2,), weight=2.0, **own)(x, rng)
    ratio, after = (-path.log_snr(t) / 2).exp().float(), fs.Philox(5)
    after.step = 1  # times took a step
    want = losses.edm(network, x, sigma=ratio, rng=after, reduction="none", **own)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    n = 20_000
    _, t = OBJECTIVES["edm"].on_path(lambda x, t: x, path, (2,), weight=2.0, **own)(torch.zeros(n, 2), fs.Philox(0))
    z = -path.log_snr(t) / 2 / 1.2
    low, high = (-float(path.log_snr(end)) / 2 / 1.2 for end in (path.t_min, path.t_max))
    assert low <= float(z.min()) and float(z.max()) <= high and low > -2  # it is cut off
    inside = torch.special.ndtr(torch.tensor([0.0, low, high]).double())
    share = float((inside[0] - inside[1]) / (inside[2] - inside[1]))
    assert abs(float((z < 0).double().mean()) - share) < 4 * math.sqrt(share * (1 - share) / n)
    with pytest.raises(ValueError, match="p_mean and p_std must leave the log-normal on vp_linear"):
        OBJECTIVES["edm"].on_path(score, path, (2,), weight=2.0, p_mean=50.0)
