"""Bits per dimension: the offset, what they bound, and which images have any."""

import math

import pytest
import torch

import fastscore as fs
from fastscore import likelihood, paths

PATH = paths.ve(0.001, 20.0)


def wide(x, sigma):
    """The score of N(0.5, 100^2): nearly the same density, 1 / (100 sqrt(2 pi)), everywhere in [0, 1]."""
    return -(x - 0.5) / (100.0**2 + sigma.reshape(-1, 1, 1, 1) ** 2)


@pytest.mark.parametrize(("num_values", "step"), [(256, 1), (17, 255 / 16)])
def test_the_offset(num_values, step):
    """A density of 1 / (100 sqrt(2 pi)) gives each of q values that over q."""
    k = torch.arange(2 * 16).reshape(2, 1, 4, 4) % num_values % 17
    images = (k * step).round().to(torch.uint8)
    found = likelihood.bits_per_dim(
        wide, images, PATH, num_values=num_values, mean=0.5, std=100.0, conditioning="sigma", rng=fs.Philox(0)
    )
    assert found.offset == math.log2(num_values)
    assert found.mean == pytest.approx(math.log2(num_values * 100 * math.sqrt(2 * math.pi)), abs=1e-3)


def test_the_draws_part_is_honest():
    """Of a narrow Gaussian, whose log p at (k + U) / q is quadratic in U: errors of 200 images against the exact mean."""
    std, q, path = 0.4, 17, paths.ve(0.05, 4.0)
    images = torch.full((200, 1, 4, 4), 0, dtype=torch.uint8)

    def score(x, sigma):
        return -(x - 0.5) / (std**2 + sigma.reshape(-1, 1, 1, 1) ** 2)

    found = likelihood.bits_per_dim(
        score, images, path, num_values=q, draws=8, mean=0.5, std=std, conditioning="sigma", steps=16, rng=fs.Philox(0)
    )
    v = std**2 + 0.05**2
    mean_square = ((0.5 - 1 / q) ** 3 - 0.5**3) / (3 * -1 / q)  # of (U / q - 0.5)
    exact = (mean_square / v + math.log(2 * math.pi * v)) / 2 / math.log(2) + math.log2(q)
    z = (found.value - exact) / found.dequantization
    spread = float(z.std()) / (7 / 5) ** 0.5  # as z is a t of 7 degrees of freedom, whose variance is 7 / 5
    assert abs(found.mean - exact) <= found.bar and 0.9 < spread < 1.2
    assert found.parts["dequantization"] < 0.003 and found.parts["images"] > 0


@pytest.mark.parametrize(
    ("images", "more", "error", "words"),
    [
        (torch.rand(2, 1, 4, 4), {}, TypeError, "images must be uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), {}, ValueError, r"shape \[B, C, H, W\]"),
        (torch.full((2, 1, 4, 4), 3, dtype=torch.uint8), {"num_values": 17}, ValueError, "num_values .* got 17"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), {"draws": 1}, ValueError, "draws must be at least 2"),
    ],
)
def test_images_without_bits_are_refused(images, more, error, words):
    with pytest.raises(error, match=words):
        likelihood.bits_per_dim(wide, images, PATH, conditioning="sigma", **more)
