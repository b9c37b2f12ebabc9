"""score, epsilon, x0, v and velocity from one another; networks of other packages as scores, and ours as theirs."""

import copy
import itertools
import re

import pytest
import torch

import fastscore as fs
from fastscore import losses, paths
from fastscore.conversions import KINDS, convert
from fastscore.data import GaussianMixture
from fastscore.models import NCSN, ScoreMLP

from .conftest import optional

PATHS = {"vp": paths.vp_linear(), "sub_vp": paths.sub_vp(), "rectified": paths.rectified(), "edm": paths.edm(0.1, 2.0)}
X = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.15, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
M, C = 0.5, 0.7


def truth(path, x, t):
    """Each kind, of data N(M, C^2): the posterior's means, and the drift of the probability-flow ODE."""
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    tau = alpha**2 * C**2 + sigma**2
    x0 = M + alpha * C**2 / tau * (x - alpha * M)
    epsilon = sigma / tau * (x - alpha * M)
    h = 1e-5
    slope = [(f(t + h) - f(t - h))[:, None] / (2 * h) for f in (path.alpha, path.sigma)]
    return {
        "score": -(x - alpha * M) / tau,
        "epsilon": epsilon,
        "x0": x0,
        "v": alpha * epsilon - sigma * x0,
        "velocity": slope[0] * x0 + slope[1] * epsilon,
    }


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("source, target", list(itertools.product(KINDS, KINDS)))
def test_the_true_score_in_every_kind(name, source, target):
    path = PATHS[name]
    exact = truth(path, X, T)
    got = convert(exact[source], X, T, path, source=source, target=target)
    torch.testing.assert_close(got, exact[target], rtol=1e-6, atol=1e-8)


def test_precision_and_gradients():
    """Computed in float32 for a bfloat16 x, rounded once; linear in the output, so gradients pass."""
    path, x = PATHS["vp"], X.bfloat16()
    out = truth(path, x.double(), T)["epsilon"].bfloat16().requires_grad_()
    got = convert(out, x, T, path, source="epsilon", target="x0")
    expected = (x.double() - path.sigma(T)[:, None] * out.double()) / path.alpha(T)[:, None]
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), expected, rtol=8e-3, atol=1e-3)
    got.sum().backward()
    torch.testing.assert_close(
        out.grad.double(), -(path.sigma(T) / path.alpha(T))[:, None].expand(5, 3), rtol=8e-3, atol=0
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_there_and_back(kind):
    path = PATHS["rectified"]
    score = lambda x, t: torch.sin(x) * t[:, None]  # noqa: E731
    there = fs.as_prediction(score, kind=kind, path=path)
    back = fs.as_score(there, kind=kind, path=path)
    torch.testing.assert_close(back(X, T), score(X, T), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back(X, 0.3), score(X, torch.full((5,), 0.3)), rtol=1e-6, atol=1e-7)


def test_what_the_model_is_called_with():
    path, seen = paths.levels([1.0, 0.5]), []
    model = lambda x, *c, **k: seen.append((x, *c, k)) or torch.zeros_like(x)  # noqa: E731
    t = torch.tensor([0.5, 1.0, 0.5, 0.5, 1.0])
    for conditioning in ("t", "sigma", "log_snr", "labels", "none", lambda t: 999 * t):
        fs.as_score(model, kind="score", path=path, conditioning=conditioning)(X.float(), t, y=3)
    values = [call[1] if len(call) == 3 else None for call in seen]
    assert torch.equal(values[0], t) and torch.equal(values[1], t) and values[4] is None and seen[0][-1] == {"y": 3}
    assert values[3].tolist() == [1, 0, 1, 1, 0] and torch.equal(values[5], 999 * t)
    torch.testing.assert_close(values[2], -2 * t.log())


def test_a_network_of_alpha_1_serves_every_path():
    """With rescale, the exact score of a mixture with noise sigma is that of alpha x + sigma z."""
    mixture, path = GaussianMixture(means=((1.0, 0.0), (-1.0, 2.0)), stds=0.5), PATHS["vp"]
    x, t = X[:, :2], T
    score = fs.as_score(mixture.score, kind="score", path=path, conditioning="sigma", rescale=True)
    scaled = GaussianMixture(means=0.6 * mixture.means, stds=0.3)
    at = path.t_of_log_snr(torch.tensor(2 * torch.tensor(0.6 / 0.8).log().item()))
    torch.testing.assert_close(score(x, at), scaled.score(x, 0.8), rtol=1e-6, atol=1e-7)
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    for kind in ("epsilon", "x0"):
        model = fs.as_prediction(mixture.score, kind=kind, path=paths.edm(1e-4, 1e4), conditioning="sigma")
        same = fs.as_score(model, kind=kind, path=path, conditioning="sigma", rescale=True)
        torch.testing.assert_close(same(x, t), score(x, t), rtol=1e-6, atol=1e-7)
    expected = mixture.score(x / alpha, (sigma / alpha)[:, 0]) / alpha
    torch.testing.assert_close(score(x, t), expected, rtol=1e-9, atol=1e-9)


def test_it_is_a_module():
    network = ScoreMLP(dim=2, hidden=8, sigmas=[1.0, 0.1])
    score = fs.as_score(network, kind="score", path=paths.edm(), conditioning="sigma")
    assert sum(p.numel() for p in score.parameters()) == sum(p.numel() for p in network.parameters())
    x = torch.zeros(3, 2)
    assert torch.equal(copy.deepcopy(score)(x, 0.5), network(x, torch.full((3,), 0.5)))
    assert "score to score on edm" in repr(score)
    trace = fs.jacobian_trace(lambda y: score(y, 0.5), x, method="exact").value
    torch.testing.assert_close(
        trace, fs.jacobian_trace(lambda y: network(y, torch.full((3,), 0.5)), x, method="exact").value
    )


def model(x, t):
    return x


def as_score(**changes):
    given = {"model": model, "kind": "score", "path": PATHS["vp"]} | changes
    return fs.as_score(given.pop("model"), **given)


BAD = {
    "kind": (
        lambda: as_score(kind="noise"),
        ValueError,
        "kind must be one of 'score', 'epsilon', 'x0', 'v', 'velocity'",
    ),
    "path": (lambda: as_score(path="vp"), TypeError, "path must be a fastscore.paths.Path.*got str 'vp'"),
    "model": (lambda: as_score(model=1), TypeError, "model must be a function of .*got int 1"),
    "conditioning": (lambda: as_score(conditioning="time"), ValueError, "conditioning must be one of 't', 'sigma'"),
    "output": (lambda: as_score(output=1), TypeError, "output must be a function of what the model returns"),
    "rescale": (lambda: as_score(kind="v", rescale=True), ValueError, "rescale must be False for 'v'"),
    "variance": (
        lambda: as_score(model=lambda x, t: torch.cat([x, x], 1))(X, T),
        ValueError,
        r"the output of model must have the shape of x, \(5, 3\).*learned variance",
    ),
    "no tensor": (
        lambda: as_score(model=lambda x, t: None)(X, T),
        ValueError,
        "the output of model must .*got NoneType",
    ),
    "t": (lambda: as_score()(X, 2.0), ValueError, "t must be from 0.001 to 1"),
    "t shape": (lambda: as_score()(X, T[:3]), ValueError, r"t must be a number or have shape \(5,\)"),
    "source": (lambda: convert(X, X, T, PATHS["vp"], source="a", target="v"), ValueError, "source must be one of"),
    "shapes": (
        lambda: convert(X[:2], X, T, PATHS["vp"], source="v", target="v"),
        ValueError,
        "output must have the shape",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, message = BAD[name]
    with pytest.raises(error) as caught:
        call()
    assert re.search(message, str(caught.value)), caught.value


# The real packages


def test_a_diffusers_network_and_scheduler():
    """A UNet2DModel is a score, epsilon = -sigma s at every step k; its loss is DDPM's; and our score drives its DDIM."""
    diffusers = optional("diffusers")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    path = paths.vp_discrete(betas=scheduler.betas)
    k = torch.tensor([3, 500, 999])
    torch.testing.assert_close(path.alpha(k.double()).square().float(), scheduler.alphas_cumprod[k], rtol=1e-4, atol=0)
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    x = torch.randn(3, 1, 8, 8)
    score = fs.as_score(network, kind="epsilon", path=path)
    epsilon = network(x, k).sample
    torch.testing.assert_close(
        -path.sigma(k.float())[:, None, None, None] * score(x, k.float()), epsilon, rtol=1e-4, atol=1e-5
    )
    z = fs.Philox(0).randn(x.shape, stream=fs.Stream.PERTURB)
    loss = losses.ddpm(lambda y, t: network(y, t).sample, x, path, t=k.double(), rng=fs.Philox(0))
    expected = 0.5 * (network(scheduler.add_noise(x, z, k), k).sample - z).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    # one of its DDIM steps by our exact score of N(M, C^2): alpha' x0 + sigma' epsilon
    ours = fs.as_prediction(lambda x, t: truth(path, x, t)["score"], kind="epsilon", path=path)
    scheduler.set_timesteps(10)
    now, then = (int(v) for v in scheduler.timesteps[4:6])
    points, at = X, torch.full((5,), float(now), dtype=torch.float64)
    exact = truth(path, points, at)
    expected = path.alpha(then) * exact["x0"] + path.sigma(then) * exact["epsilon"]
    got = scheduler.step(ours(points, at), now, points).prev_sample
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_an_azula_denoiser_and_sampler():
    """A KarrasDenoiser is a score of its schedule's path; our score is a denoiser for its DDIM: Gaussian data come out."""
    optional("azula")
    from azula.denoise import Denoiser, DiracPosterior, KarrasDenoiser
    from azula.noise import RectifiedSchedule, VPSchedule
    from azula.sample import DDIMSampler

    schedule = VPSchedule()
    path = paths.Path(schedule.alpha, schedule.sigma, t_min=0.0)
    assert float(path.alpha(1.0)) == pytest.approx(1e-3)

    class Backbone(torch.nn.Linear):
        def forward(self, x, t):
            return torch.tanh(super().forward(x)) * t[:, None]

    denoiser = KarrasDenoiser(Backbone(3, 3), schedule)
    score, t = fs.as_score(denoiser, kind="x0", path=path), T.float()
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    x = X.float()
    expected = (alpha * denoiser(x, t).mean - x) / sigma**2
    torch.testing.assert_close(score(x, t), expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in score.parameters()) == 12

    flow = RectifiedSchedule()
    path = paths.Path(flow.alpha, flow.sigma, t_min=0.0)

    class Ours(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule = flow
            exact = lambda x, t: truth(path, x, t.clamp(1e-5, 1 - 1e-5))["score"]  # noqa: E731
            self.mean = fs.as_prediction(exact, kind="x0", path=path)

        def forward(self, x, t):
            return DiracPosterior(self.mean(x, t))

    start = path.prior((4000, 1), mean=M, std=C, rng=fs.Philox(0), dtype=torch.float64)
    drawn = DDIMSampler(Ours(), steps=64, silent=True)(start)
    assert abs(float(drawn.mean()) - M) < 0.05 and abs(float(drawn.std()) - C) < 0.05


def test_labels_of_an_ncsn():
    sigmas = torch.tensor([1.0, 0.1])
    network = NCSN(channels=1, image_size=8, ngf=8, num_levels=2)
    score = fs.as_score(network, kind="score", path=paths.levels(sigmas), conditioning="labels")
    x, t = torch.rand(2, 1, 8, 8), torch.tensor([0.1, 1.0])
    assert torch.equal(score(x, t), network(x, torch.tensor([1, 0])))
    with pytest.raises(ValueError, match="sigma must be one of the 2 noise levels"):
        score(x, 0.5)
