r"""Gray-Scott reaction-diffusion patterns: an image data set computed on the spot, with nothing to download.

Two substances on a periodic grid, u fed at the rate F, v removed at the rate F + k, and u + 2v -> 3v:

    du/dt = D_u lap u - u v^2 + F (1 - u)
    dv/dt = D_v lap v + u v^2 - (F + k) v

with the five-point Laplacian (grid spacing 1) and explicit Euler steps. Without diffusion it rests at (u, v)
= (1, 0) and, where F >= 4 (F + k)^2, at u = (1 +- sqrt(1 - 4 (F + k)^2 / F)) / 2, v = (F + k) / u.
Source: Pearson, "Complex patterns in a simple system", Science 261 (1993).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._core import checks
from ..rng import Philox, Stream
from .images import ImageData

D_U, D_V = 0.12, 0.06
DT = 1.0
STEPS = 3000
# name -> (F, k). An image's label is its regime's place in this table.
REGIMES: dict[str, tuple[float, float]] = {
    "spots": (0.032, 0.062),
    "mitosis": (0.0367, 0.0649),
    "coral": (0.0545, 0.062),
    "maze": (0.029, 0.057),
    "worms": (0.050, 0.063),
    "holes": (0.042, 0.059),
}
V_SCALE = 0.45  # v stays below this in every regime: it becomes 255
# Below 32,768 elements torch runs an operation on one thread. That is the faster way here: the fields stay in
# the cache, and threads that wait for each other at every step come to a standstill where cores are shared.
_VALUES_AT_ONCE = (1 << 15) - 1


def laplacian(x: Tensor) -> Tensor:
    """The periodic five-point Laplacian of the last two dimensions: the four neighbours' sum minus 4 x."""
    return x.roll(1, -1) + x.roll(-1, -1) + x.roll(1, -2) + x.roll(-1, -2) - 4 * x


def rates(
    u: Tensor, v: Tensor, feed: Tensor | float, kill: Tensor | float, *, d_u: float = D_U, d_v: float = D_V
) -> tuple[Tensor, Tensor]:
    """(du/dt, dv/dt) of the equations above, as they are written: the reference of :func:`simulate`.

    Args:
        u, v: the two fields [..., H, W].
        feed, kill: F and k, numbers or tensors that broadcast against the fields.
    """
    reaction = u * v * v
    return (d_u * laplacian(u) - reaction + feed * (1 - u), d_v * laplacian(v) + reaction - (feed + kill) * v)


def steady_states(feed: float, kill: float) -> list[tuple[float, float]]:
    """The uniform states (u, v) at rest: (1, 0), and where F >= 4 (F + k)^2 two more, that of small u last.

    Without diffusion (1, 0) is stable, the second is a saddle, and the last is stable where v^2 > k.

    Example:
        >>> [tuple(round(x, 4) for x in state) for state in steady_states(0.05, 0.05)]
        [(1.0, 0.0), (0.7236, 0.1382), (0.2764, 0.3618)]
    """
    feed, kill = checks.positive("feed", feed), checks.positive("kill", kill, zero_allowed=True)
    inside = 1 - 4 * (feed + kill) ** 2 / feed
    if inside < 0:
        return [(1.0, 0.0)]
    roots = ((1 + math.sqrt(inside)) / 2, (1 - math.sqrt(inside)) / 2)
    return [(1.0, 0.0)] + [(u, (feed + kill) / u) for u in roots]


@torch.no_grad()
def simulate(
    u: Tensor,
    v: Tensor,
    feed: Tensor | float,
    kill: Tensor | float,
    steps: int,
    *,
    d_u: float = D_U,
    d_v: float = D_V,
    dt: float = DT,
) -> tuple[Tensor, Tensor]:
    """``steps`` explicit Euler steps of the equations above, all images at once, in place on padded copies:

        u <- (1 - 4 dt D_u - dt F) u + dt D_u (sum of the four neighbours) - dt u v^2 + dt F
        v <- (1 - 4 dt D_v - dt (F + k)) v + dt D_v (sum of the four neighbours) + dt u v^2

    Every operation is one rounded add or multiply on each pixel, so an image comes out with the same bits
    whatever images are beside it and however many threads run.

    Args:
        u, v: the fields [N, H, W], of one floating dtype.
        feed, kill: F and k, numbers or tensors [N].
        steps: how many steps.
        dt: the length of a step; stable up to about 1 / (4 d_u).

    Returns:
        the two fields after ``steps`` steps, [N, H, W].
    """
    if checks.floating("u", u).dim() != 3:
        raise ValueError(f"u must have shape [N, H, W], got {checks.describe(u)}")
    steps = checks.integer("steps", steps, low=0)
    fields = torch.stack([u, checks.like("v", v, "u", u)])
    w = torch.nn.functional.pad(fields, (1, 1, 1, 1))
    centre, up, down = w[..., 1:-1, 1:-1], w[..., :-2, 1:-1], w[..., 2:, 1:-1]
    left, right = w[..., 1:-1, :-2], w[..., 1:-1, 2:]
    edges = [
        (w[..., 0, :], w[..., -2, :]),
        (w[..., -1, :], w[..., 1, :]),
        (w[..., 0], w[..., -2]),
        (w[..., -1], w[..., 1]),
    ]
    diffusion = fields.new_tensor([d_u * dt, d_v * dt]).view(2, 1, 1, 1)
    feed, kill = (torch.as_tensor(rate, dtype=u.dtype, device=u.device).reshape(-1, 1, 1) for rate in (feed, kill))
    kept = 1 - 4 * diffusion - torch.stack([feed, feed + kill]) * dt
    feed = feed * dt
    neighbours, reaction = torch.empty_like(fields), torch.empty_like(fields[0])
    for _ in range(steps):
        for edge, opposite in edges:
            edge.copy_(opposite)
        torch.add(up, down, out=neighbours).add_(left).add_(right).mul_(diffusion)
        torch.mul(centre[1], centre[1], out=reaction).mul_(centre[0])
        if dt != 1:
            reaction.mul_(dt)
        centre.mul_(kept).add_(neighbours)
        centre[0].sub_(reaction).add_(feed)
        centre[1].add_(reaction)
    return centre[0].clone(), centre[1].clone()


def gray_scott(
    num_images: int = 512,
    image_size: int = 32,
    *,
    seed: int = 0,
    sample_offset: int = 0,
    fields: str = "v",
    steps: int = STEPS,
    dequantize: str = "none",
    flips: bool = False,
) -> ImageData:
    """A data set of Gray-Scott patterns; image k depends on ``seed``, k, ``image_size`` and ``steps`` alone.

    Each image starts from (1, 0) with a few discs of (0.5, 0.25) and a little noise, drawn from the stream
    DATA with k as the sample index, and has the regime k mod 6 of ``REGIMES``, which is its label. 512 images
    of 32x32 take about 4 s on two cores; the time grows as images, pixels and steps do.

    Args:
        num_images: N.
        image_size: H = W, 24 or more. Spots are about 9 pixels apart; at 24 about 1 image in 600 dies out
            (black), at 32 none of 6,000 did.
        seed: the seed of the images.
        sample_offset: k of the first image, so that a later part of the set, or one image, can be made alone;
            a held-out set is one that starts where the training set ends.
        fields: "v" for one channel, v / 0.45; "uv" for two, u and v / 0.45.
        steps: how many time steps; fewer give patterns that are still growing.
        dequantize, flips: see :class:`ImageData`.

    Returns:
        an :class:`ImageData` of uint8 [N, C, H, W] with labels int64 [N].
    """
    num_images = checks.integer("num_images", num_images, low=1)
    image_size = checks.integer("image_size", image_size, low=24)
    sample_offset = checks.integer("sample_offset", sample_offset, low=0, high=2**32 - num_images)
    steps = checks.integer("steps", steps, low=0)
    checks.one_of("fields", fields, ("v", "uv"))
    labels = torch.arange(sample_offset, sample_offset + num_images, device="cpu") % len(REGIMES)
    feed, kill = torch.tensor(list(REGIMES.values()), dtype=torch.float32, device="cpu")[labels].unbind(1)
    chunk = max(1, _VALUES_AT_ONCE // (2 * image_size**2))
    images = torch.empty(num_images, len(fields), image_size, image_size, dtype=torch.uint8, device="cpu")
    for first in range(0, num_images, chunk):
        part = slice(first, min(first + chunk, num_images))
        u, v = _start(part.stop - first, image_size, seed, sample_offset + first)
        u, v = simulate(u, v, feed[part], kill[part], steps)
        channels = [u, v / V_SCALE] if fields == "uv" else [v / V_SCALE]
        images[part] = torch.stack(channels, 1).clamp(0, 1).mul(255).round().to(torch.uint8)
    return ImageData(images, labels, name="gray_scott", dequantize=dequantize, flips=flips, num_classes=len(REGIMES))


def _start(rows: int, size: int, seed: int, sample_offset: int) -> tuple[Tensor, Tensor]:
    """The two fields [rows, size, size] that the images ``sample_offset`` .. start from."""
    discs = -(-6 * size * size // 32**2)
    draws = Philox(seed, sample_offset=sample_offset).rand(
        rows, 3 * discs + size * size, stream=Stream.DATA, dtype=torch.float32, device="cpu"
    )
    x, y, radius = (draws[:, : 3 * discs].view(rows, 3, discs, 1) * size).unbind(1)
    radius = 1.5 + radius * (2.5 / size)  # pixels
    inside = torch.zeros(rows, size, size, dtype=torch.bool, device="cpu")
    grid = torch.arange(size, dtype=torch.float32, device="cpu")
    gap_x, gap_y = (size / 2 - (size / 2 - (grid - c).abs()).abs() for c in (x, y))  # periodic distance
    for d in range(discs):
        squared = gap_y[:, d, :, None].square() + gap_x[:, d, None, :].square()
        inside |= squared < radius[:, d, :, None].square()
    noise = draws[:, 3 * discs :].view(rows, size, size) * 0.02
    return 1 - 0.5 * inside - noise, 0.25 * inside + noise
