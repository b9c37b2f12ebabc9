"""max_pool's kernels where pixels are equal, NaN or -infinity, which the operators' table lacks: torch's choice among them."""

import pytest
import torch
import torch.nn.functional as F

from fastscore.ops.max_pool import reference, reference_gradient

from .cases import DEVICE, on, tensor

from fastscore.kernels import max_pool  # isort: skip


@pytest.mark.parametrize("last", [False, True], ids=["planes", "last"])
@pytest.mark.parametrize(
    "shape, size", [((1, 4, 6, 5), 5), ((1, 3, 2, 3), 5), ((1, 4, 4, 4), 3), ((1, 2, 3, 4), 9)], ids=str
)
def test_the_pixel_that_is_taken(shape, size, last):
    x, upstream = tensor(shape, torch.float32, 0).round(), tensor(shape, torch.float32, 1)
    kind = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    x[kind < 0.5], x[kind > 0.95] = -torch.inf, torch.nan
    x[..., 0, :] = -torch.inf  # nothing else in a window's rows
    if last:
        x, upstream = (t.contiguous(memory_format=torch.channels_last) for t in (x, upstream))
    out, index = max_pool.launch(*on(DEVICE, x), size)
    expected, places = reference(x, size)
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(index.cpu(), places) and index.stride() == out.stride() == x.stride()
    gradient = max_pool.launch_gradient(*on(DEVICE, upstream, places), size).cpu()
    leaf = x.clone().requires_grad_()
    (torchs,) = torch.autograd.grad(F.max_pool2d(leaf, size, stride=1, padding=size // 2), leaf, upstream)
    assert torch.equal(gradient, reference_gradient(upstream, places, size)) and torch.equal(gradient, torchs)
