"""Posterior scores of linear measurements: against closed forms of Gaussian data, and each other's limits."""

import pytest
import torch

import fastscore as fs
from fastscore import guidance, paths
from fastscore._core import checks
from fastscore.samplers import heun, inpaint

from ..fake_cuda import CUDA, fake_cuda, waits

C = 0.7  # of the data, N(M, C^2)
M = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
A = torch.tensor([[1.0, 0.5, -0.3], [0.0, 2.0, 1.0]], dtype=torch.float64)
Y, NOISE = torch.tensor([[0.4, -3.0]], dtype=torch.float64), 0.3
PATHS = {"ve": paths.ve(0.01, 20.0), "vp": paths.vp_linear(), "rectified": paths.rectified()}
each_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def gaussian(path):
    def score(x, t):
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        return -(x - alpha * M) / (alpha**2 * C**2 + sigma**2)

    return score


def posterior(A=A, y=Y, noise=NOISE):
    covariance = torch.linalg.inv(A.T @ A / noise**2 + torch.eye(len(M), dtype=A.dtype) / C**2)
    return (covariance @ (A.T @ y[0] / noise**2 + M / C**2)), covariance


def noised(mean, covariance, path, t, x):
    """The score at x_t of x_0 ~ N(mean, covariance)."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    total = alpha**2 * covariance + sigma**2 * torch.eye(len(mean), dtype=x.dtype)
    return torch.linalg.solve(total, (alpha * mean - x).T).T


@each_path
def test_pigdm_is_the_posteriors_score_for_gaussian_data(path):
    x = 2 * fs.Philox(0).randn(5, 3, dtype=torch.float64)
    guided = guidance.pigdm(gaussian(path), guidance.matrix(A), Y, path, noise_std=NOISE, data_std=C)
    for t in (path.t_min, 0.3, 0.8):
        t = torch.tensor(t, dtype=torch.float64)
        with torch.no_grad():
            value = guided(x, t.expand(5))
        torch.testing.assert_close(value, noised(*posterior(), path, t, x), rtol=1e-7, atol=1e-7)


@each_path
def test_posterior_samples_of_gaussian_data_have_the_closed_forms_mean_and_covariance(path):
    mean, covariance = posterior()
    z = fs.Philox(2).randn(50, 3, dtype=torch.float64)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / len(z))).T  # mean 0 and covariance 1, exactly
    alpha, sigma = path.alpha(path.t_max), path.sigma(path.t_max)
    total = alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=z.dtype)
    start = alpha * mean + z @ torch.linalg.cholesky(total).T
    guided = guidance.pigdm(gaussian(path), guidance.matrix(A), Y, path, noise_std=NOISE, data_std=C)
    x = heun(guided, start.shape, path, steps=300, rule="log_snr", start=start, denoise=False, dtype=z.dtype)
    alpha, sigma = path.alpha(path.t_min), path.sigma(path.t_min)
    expected = alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=z.dtype)
    torch.testing.assert_close(x.mean(0), alpha * mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((x - x.mean(0)).T @ (x - x.mean(0)) / len(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_correlated_data_are_exact_where_they_are_whitened(noise):
    """Of u = L^-1 (x - M), which is N(0, I), measured by A L; without noise A x is y itself."""
    path, L = PATHS["ve"], torch.tensor([[0.7, 0.0, 0.0], [1.2, 0.3, 0.0], [-0.4, 0.8, 1.5]], dtype=torch.float64)
    S, t = L @ L.T, torch.tensor([0.2, 0.6], dtype=torch.float64)
    gain = S @ A.T @ torch.linalg.inv(A @ S @ A.T + noise**2 * torch.eye(2, dtype=A.dtype))
    mean, covariance = gain @ (Y[0] - A @ M), S - gain @ A @ S  # of x - M
    inverse = torch.linalg.inv(L)

    def white(u, t):
        return -u / (1 + path.sigma(t)[:, None] ** 2)

    guided = guidance.pigdm(white, guidance.matrix(A @ L), Y - A @ M, path, noise_std=noise, data_std=1.0)
    u = fs.Philox(3).randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        value = guided(u, t)
    for k in range(2):
        exact = noised(inverse @ mean, inverse @ covariance @ inverse.T, path, t[k], u[k : k + 1])
        torch.testing.assert_close(value[k : k + 1], exact, rtol=1e-8, atol=1e-8)


def test_an_approximate_prior_width_is_no_longer_exact():
    path, x = PATHS["ve"], torch.zeros(1, 3, dtype=torch.float64)
    guided = guidance.pigdm(gaussian(path), guidance.matrix(A), Y, path, noise_std=NOISE, data_std=2 * C)
    t = torch.tensor([0.6], dtype=torch.float64)
    assert (guided(x, t) - noised(*posterior(), path, t, x)).abs().max() > 0.01


@each_path
def test_dps_is_the_gradient_of_its_log_likelihood(path):
    x, t = fs.Philox(0).randn(4, 3, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.7, 0.9], dtype=torch.float64)
    score = gaussian(path)

    def missing(x):
        alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
        return Y - (x + sigma**2 * score(x, t)) / alpha @ A.T

    x.requires_grad_()
    (square,) = torch.autograd.grad(-missing(x).square().sum() / (2 * NOISE**2), x)
    (norm,) = torch.autograd.grad(-missing(x).norm(dim=1).sum(), x)
    known = guidance.dps(score, guidance.matrix(A), Y, path, noise_std=NOISE, scale=0.5)
    rule = guidance.dps(score, guidance.matrix(A), Y, path, scale=0.5)
    with torch.no_grad():
        torch.testing.assert_close(known(x, t), score(x, t) + 0.5 * square, rtol=1e-9, atol=1e-9)
        expected = score(x, t) + 0.5 * norm / path.sigma(t)[:, None] ** 2
        torch.testing.assert_close(rule(x, t), expected, rtol=1e-9, atol=1e-9)


def test_projection_is_the_limit_of_pigdm_for_wide_data_and_keeps_what_inpaint_keeps():
    path, mask = PATHS["ve"], torch.tensor([True, False, True])
    image, x = torch.tensor([[3.0, torch.nan, -1.0]], dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    t = torch.tensor([0.4, 0.7], dtype=torch.float64)
    wide = 1e5

    def flat(x, t):  # data N(0, wide^2)
        return -x / (wide**2 + path.sigma(t)[:, None] ** 2)

    how = (flat, guidance.inpainting(mask), image, path)
    value = guidance.projection(*how)(x, t)
    torch.testing.assert_close(value, guidance.pigdm(*how, data_std=wide)(x, t), rtol=1e-8, atol=1e-8)
    sigma = path.sigma(t)[:, None]
    torch.testing.assert_close(value[:, mask], ((image - x) / sigma**2)[:, mask])  # the score of N(image, sigma^2)
    assert torch.equal(value[:, ~mask], flat(x, t)[:, ~mask])
    sigmas = [1.0, 0.3, 0.1]
    score = guidance.projection(lambda x, c: (M - x) / C**2, guidance.inpainting(mask), image, sigmas)
    done = fs.samplers.annealed_langevin(
        score,
        (2000, 3),
        sigmas,
        step_size=0.002,
        steps_per_level=60,
        denoise=True,
        dtype=torch.float64,
        rng=fs.Philox(0),
    )
    ours = inpaint(
        lambda x, c: (M - x) / C**2, image.expand(2000, 3), mask, sigmas, step_size=0.002, steps_per_level=60
    )
    torch.testing.assert_close(done[:, mask], ours[:, mask])
    assert abs(float(done[:, 1].mean() - M[1])) < 4 * C / 2000**0.5 + 0.02  # what is not known is the prior's


MEASUREMENTS = {
    "inpainting": (guidance.inpainting(torch.arange(16).reshape(4, 4) % 3 == 0), (2, 3, 4, 4)),
    "subsampling": (guidance.subsampling(2), (2, 3, 4, 4)),
    "blur": (guidance.blur(torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.5, 0.1], [0.2, 0.1, 0.4]])), (2, 3, 4, 4)),
    "colour": (guidance.colour(), (2, 3, 4, 4)),
    "matrix": (guidance.matrix(A), (2, 3)),
    "own": (guidance.Measurement(lambda x: x.cumsum(1)[:, 1:]), (2, 3)),
}


@pytest.mark.parametrize("A, shape", MEASUREMENTS.values(), ids=MEASUREMENTS)
def test_a_measurements_transpose_and_solution_are_those_of_its_matrix(A, shape):
    x = fs.Philox(4).randn(*shape, dtype=torch.float64)
    dense = torch.func.jacrev(lambda row: A(row[None])[0].flatten())(x[0]).flatten(1)
    y = A(x)
    v = A(fs.Philox(5).randn(*shape, dtype=torch.float64))  # in the range of A
    torch.testing.assert_close(y.flatten(1), x.flatten(1) @ dense.T)
    torch.testing.assert_close(A.transposed(v, x).flatten(1), v.flatten(1) @ dense)
    a, b = (torch.tensor(pair, dtype=torch.float64) for pair in ([0.5, 2.0], [0.1, 0.3]))
    solved = A.solve(v, x, a, b).flatten(1)
    for i in range(2):
        left = a[i] * dense @ dense.T + b[i] * torch.eye(len(dense), dtype=torch.float64)
        torch.testing.assert_close(left @ solved[i], v[i].flatten(), rtol=1e-9, atol=1e-9)
    alone = A.solve(v[1:], x[1:], a[1:], b[1:]).flatten(1)
    torch.testing.assert_close(alone[0], solved[1], rtol=1e-14, atol=1e-14)  # whatever else is in the batch


SINGULAR = guidance.matrix(torch.cat([A, A + 1e-9]))
V = torch.tensor([[1.0, 2.0, -1.0, 5.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def test_equations_that_are_not_solved_are_no_solution(monkeypatch):
    """Of a network's NaN, of overflow and of ill-conditioned equations: an error, or NaN, of those samples alone."""
    ones, x = torch.ones(2), torch.zeros(2, 3, dtype=torch.float64)
    own = guidance.Measurement(lambda x: x.cumsum(1)[:, 1:])
    solved = own.solve(torch.tensor([[1.0, 2.0], [torch.nan, 1.0]]), x.float(), ones, ones)
    assert solved[0].isfinite().all() and solved[1].isnan().all()

    def far(x, t):
        return torch.where(torch.arange(len(x))[:, None] == 1, torch.nan, -x)

    for method in (guidance.pigdm, guidance.projection):
        value = method(far, guidance.matrix(A), Y, VE, noise_std=NOISE)(X + 1, T)
        assert value[0].isfinite().all() and value[1].isnan().all()
    with pytest.raises(fs.NotConverged, match=r"^y must be smaller for matrix, or data_std larger .* overflow"):
        guidance.projection(gaussian(VE), guidance.matrix(A), 1e25 * Y.float(), VE)(X.float(), T.float())
    monkeypatch.setattr(checks, "readable", lambda value: False)  # as on a GPU
    calls = []
    counted = guidance.Measurement(lambda x: (calls.append(1), SINGULAR(x))[1], SINGULAR.adjoint)
    value = counted.solve(V, x, ones, torch.zeros(2))
    assert value[0].isnan().all() and torch.equal(value[1], V[1]) and len(calls) == 2 * 4 + 8


def test_a_blur_with_little_noise_is_solved():
    """At noise of 0.02, 32 x 32 in float32: some 300 iterations."""
    bell = torch.exp(-torch.linspace(-2, 2, 5).square() / 2)
    A = guidance.blur(torch.outer(bell, bell) / bell.sum() ** 2)
    x = fs.Philox(6).randn(1, 1, 32, 32)
    v = A(x) + 0.02 * fs.Philox(7).randn(1, 1, 32, 32)
    w = A.solve(v, x, torch.ones(1), torch.full((1,), 0.02**2))
    left = A(A.transposed(w, x)) + 0.02**2 * w - v
    assert float(left.norm() / v.norm()) < 1e-3


def test_one_measurement_of_all_samples_with_a_mask_for_each():
    mask = torch.arange(6).reshape(2, 1, 3) % 2 == 0
    image, x = torch.tensor([[[3.0, 1.0, -1.0]]], dtype=torch.float64), torch.ones(2, 1, 3, dtype=torch.float64)
    one, each = (guidance.inpainting(mask).missing(y, x) for y in (image, image.expand(2, 1, 3)))
    assert torch.equal(one, each) and torch.equal(one[~mask], torch.zeros(3, dtype=torch.float64))


def test_what_is_on_the_host_is_copied_to_the_device_once():
    kernel, grey = torch.ones(3, 3), torch.zeros(1, 1, 4, 4)
    ways = {
        "colour": (guidance.colour(), grey),
        "blur": (guidance.blur(kernel), torch.zeros(1, 3, 4, 4)),
        "mask": (guidance.inpainting(torch.ones(4, 4, dtype=torch.bool)), torch.zeros(1, 3, 4, 4)),
    }
    labels = torch.tensor([0, 1])
    scores = {name: guidance.projection(lambda x, c: -x, measured, y, [1.0]) for name, (measured, y) in ways.items()}
    scores["label"] = guidance.with_label(lambda x, c, class_labels: x * class_labels.reshape(-1, 1, 1, 1), labels)
    log_prob = guidance.class_log_prob(lambda x, c: x.flatten(1), labels)
    scores["log_prob"] = lambda x, c: log_prob(x, c)
    with fake_cuda():
        x, c = torch.zeros(2, 3, 4, 4, device=CUDA), torch.zeros(2, dtype=torch.int64, device=CUDA)
        for name, score in scores.items():
            with waits() as first:
                score(x, c)
            with waits() as seen:
                score(x, c)
            assert first and not seen, name


def test_a_network_in_float32_under_vmap_and_grad():
    torch.manual_seed(0)
    net = fs.models.ScoreMLP(dim=3, hidden=16, sigmas=[2.0, 0.5]).requires_grad_(False)
    guided = guidance.pigdm(net, guidance.matrix(A.float()), Y.float(), [2.0, 0.5], noise_std=0.2)
    x, labels = fs.Philox(0).randn(4, 3), torch.tensor([0, 1, 1, 0])
    value = guided(x, labels)
    each = torch.func.vmap(lambda x, label: guided(x[None], label[None])[0])(x, labels)
    torch.testing.assert_close(value, each, rtol=1e-3, atol=1e-4)
    slope = torch.func.jvp(lambda x: guided(x, labels), (x,), (torch.ones_like(x),))[1]
    step = (guided(x + 1e-2, labels) - guided(x - 1e-2, labels)) / 2e-2
    torch.testing.assert_close(slope, step, rtol=1e-2, atol=1e-2)
    x.requires_grad_()
    (twice,) = torch.autograd.grad(guided(x, labels).sum(), x)
    assert twice.isfinite().all()


X, T = torch.zeros(2, 3, dtype=torch.float64), torch.tensor([0.5, 0.5], dtype=torch.float64)
VE = PATHS["ve"]


@pytest.mark.parametrize(
    "make, kind, text",
    [
        (
            lambda: guidance.pigdm(gaussian(VE), guidance.matrix(A), Y[:, :1], VE)(X, T),
            ValueError,
            r"y must have the shape of a measurement by matrix, \(2, 2\) or \(1, 2\), got a float64 tensor of shape \(1, 1\)",
        ),
        (lambda: guidance.pigdm(gaussian(VE), A, Y, VE), TypeError, "must be a fastscore.guidance.Measurement"),
        (
            lambda: guidance.pigdm(lambda x, t: -x.detach(), guidance.matrix(A), Y, VE)(X, T),
            ValueError,
            "score_fn must depend on x in a way that autograd records",
        ),
        (lambda: guidance.dps(gaussian(VE), guidance.matrix(A), Y, VE, noise_std=0), ValueError, "noise_std must be"),
        (
            lambda: guidance.projection(gaussian(VE), guidance.matrix(A), Y, VE, noise_std=1e200),
            ValueError,
            r"noise_std must be 0 or between 1e-18 and 1e18, .* got 1e\+200",
        ),
        (
            lambda: guidance.pigdm(gaussian(VE), guidance.matrix(A), Y, VE, data_std=1e-30),
            ValueError,
            "data_std must be",
        ),
        (lambda: guidance.dps(gaussian(VE), guidance.matrix(A), Y, VE, scale=1e300), ValueError, "scale must be from"),
        (
            lambda: guidance.projection(gaussian(VE), guidance.matrix(A), Y, VE)(X, torch.tensor([0, 1])),
            ValueError,
            r"path must be noise levels \[L\] for a score that is called with labels",
        ),
        (lambda: guidance.projection(gaussian(VE), guidance.matrix(A), Y, VE)(X), ValueError, "got x alone"),
        (
            lambda: guidance.matrix(torch.cat([A, A + 1e-9])).solve(
                torch.tensor([[1.0, 2.0, -1.0, 5.0]], dtype=torch.float64), X[:1], torch.ones(1), torch.zeros(1)
            ),
            fs.NotConverged,
            "noise_std must be larger for matrix",
        ),
        (
            lambda: guidance.pigdm(gaussian(VE), guidance.matrix(A), Y * torch.nan, VE)(X, T),
            ValueError,
            "y must be finite where matrix gives a value",
        ),
        (lambda: guidance.subsampling(2)(torch.zeros(1, 1, 3, 4)), ValueError, "multiples of 2"),
        (lambda: guidance.inpainting(torch.ones(2)), TypeError, "mask must be a bool tensor"),
        (
            lambda: guidance.inpainting(torch.ones(3, 4, 4, dtype=torch.bool))(torch.zeros(3, 3, 4, 4)),
            ValueError,
            r"mask must say what its first 3 are, where x of shape \(3, 3, 4, 4\) .*pass mask\[:, None\]",
        ),
    ],
)
def test_bad_input_is_named(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


@pytest.mark.parametrize("make", [guidance.pigdm, guidance.dps, guidance.projection])
def test_samples_of_one_number(make):
    """[B], as samplers and losses take them, is [B, 1]; by conjugate gradients too."""
    x, t, double = torch.linspace(-1, 1, 4), torch.full((4,), 0.5), guidance.Measurement(lambda x: 2 * x)

    def score(x, t):
        return x.sin() - x

    flat = make(score, double, torch.ones(4), VE)(x, t)
    torch.testing.assert_close(flat, make(score, double, torch.ones(4, 1), VE)(x[:, None], t)[:, 0])
