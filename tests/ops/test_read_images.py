"""read_images: the bits of a batch that is read, mirrored and dequantised step by step and then perturbed; handles."""

from contextlib import nullcontext

import pytest
import torch
from torch.func import grad, vmap

import fastscore as fs
from fastscore._core import backends
from fastscore.data import dequantize, to_float
from fastscore.ops import ImageBatch, perturb_images

IMAGES = torch.randint(0, 256, (7, 3, 5, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
SIGMA = torch.linspace(0.1, 1.0, 4)
compiled = pytest.mark.skipif(backends.problem("native") is not None, reason="needs the C++ extension")


@pytest.fixture(params=["reference", "native"])
def backend(request, on_backend):
    on_backend(request.param, "cpu", "read_images")
    return request.param


def batch(images=IMAGES, indices=(6, 0, 3, 3), **options) -> ImageBatch:
    options = {"seed": 2**63 + 5, "step": 9, "sample_offset": 2, "num_values": 256, "flips": True} | options
    return ImageBatch(images, torch.as_tensor(indices), **options)


def by_hand(of: ImageBatch) -> torch.Tensor:
    """One torch operation after the other, on the numbers of the contract."""
    images = of.images[of.indices]

    def uniform(shape, stream):
        return fs.Philox(of.seed, step=of.step, sample_offset=of.sample_offset).rand(shape, stream=stream)

    if of.flips:
        images = torch.where(uniform((len(of), 1, 1, 1), fs.Stream.FLIPS) < 0.5, images.flip(-1), images)
    if of.num_values is None:
        return to_float(images)
    return dequantize(images, uniform(images.shape, fs.Stream.DEQUANTIZE), of.num_values)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("num_values", [None, 256, 17, 2])
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 8, 8), (3, 40, 36), (2, 1, 2050)], ids=str)
def test_one_pass_has_the_bits_of_many(shape, num_values, flips, backend):
    """Lines shorter and longer than a block of the native backend, rows whole and in blocks, each instruction set."""
    images = torch.randint(0, 256, (7, *shape), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    of = batch(images, num_values=num_values, flips=flips)
    expected = by_hand(of)
    for isa in backends.ISAS[: backends.ISAS.index(backends.isa()) + 1] if backend == "native" else (None,):
        with nullcontext() if isa is None else backends.native_isa(isa):
            assert torch.equal(of.tensor(), expected)
            assert backends.last["read_images"] == backend
            rng, other = fs.Philox(3, sample_offset=2), fs.Philox(3, sample_offset=2)
            got, noise = perturb_images(of, SIGMA, rng)
            separately, _ = fs.perturb(expected, SIGMA, other)
        assert torch.equal(got, separately) and rng.step == other.step == 1
        assert torch.equal(noise.tensor(), fs.Philox(3, sample_offset=2).randn(got.shape, stream=fs.Stream.PERTURB))


def test_which_rows_are_mirrored(backend):
    of = batch(IMAGES[:, :1, :1], torch.arange(280) % 7, num_values=None)
    mirrored = (of.tensor() != to_float(of.images[of.indices])).flatten(1).any(1)
    assert torch.equal(of.tensor(), by_hand(of)) and abs(int(mirrored.sum()) - 140) < 4 * 70**0.5


def test_where_one_pass_does_not_serve_two_do(backend):
    """Other samples' noise than those of the batch, a gradient of sigma, vmap: the values of perturb, to rounding."""
    of = batch()
    torch.testing.assert_close(
        perturb_images(of, SIGMA, fs.Philox(3))[0], fs.perturb(of.tensor(), SIGMA, fs.Philox(3))[0]
    )

    def through(perturb):
        return lambda sigma: perturb(sigma).square().sum()

    one = through(lambda sigma: perturb_images(of, sigma, fs.Philox(3, sample_offset=2))[0])
    two = through(lambda sigma: fs.perturb(of.tensor(), sigma, fs.Philox(3, sample_offset=2))[0])
    torch.testing.assert_close(grad(one)(SIGMA), grad(two)(SIGMA))
    leaf = SIGMA.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(one(leaf), leaf)[0], grad(two)(SIGMA))
    many = torch.stack([SIGMA, SIGMA.flip(0)])
    torch.testing.assert_close(vmap(one, randomness="same")(many), torch.stack([one(sigma) for sigma in many]))


def test_half_precision_is_rounded_once():
    of, exact = batch(dtype=torch.bfloat16), batch()
    rng = lambda: fs.Philox(3, sample_offset=2)  # noqa: E731
    assert torch.equal(of.tensor(), exact.tensor().bfloat16())
    assert torch.equal(perturb_images(of, SIGMA, rng())[0], perturb_images(exact, SIGMA, rng())[0].bfloat16())


def test_a_handle_holds_no_values():
    of = batch(IMAGES.expand(7, 3, 5, 7))
    assert of.images is IMAGES or of.images.data_ptr() == IMAGES.data_ptr()
    assert of.shape == (4, 3, 5, 7) and len(of) == 4 and "seed=9223372036854775813" in repr(of)


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: batch(IMAGES.float()), TypeError, r"images must be uint8 of shape \[N, C, H, W\], got a float32"),
        (lambda: ImageBatch(IMAGES, [0], seed=0, step=0), TypeError, "indices must be a torch.Tensor, got list"),
        (lambda: batch(indices=(0.5,)), TypeError, r"indices must be int64 of shape \[B\], got a float32"),
        (lambda: batch(indices=(0, 7)), ValueError, "indices must be from 0 to 6, got values from 0 to 7"),
        (lambda: batch(indices=(-1,)), ValueError, "indices must be from 0 to 6, got values from -1 to -1"),
        (lambda: batch(num_values=1), ValueError, "num_values must be from 2 to 256, got 1"),
        (lambda: batch(seed=-1), ValueError, "seed must be from 0 to"),
        (lambda: batch(sample_offset=2**32 - 2), ValueError, r"sample_offset \+ batch size must be at most 2\^32"),
        (lambda: perturb_images(IMAGES, 0.5), TypeError, "batch must be a fastscore.ops.ImageBatch, got a uint8"),
        (lambda: perturb_images(batch(), SIGMA[:2]), ValueError, r"sigma must be a number or have shape \(4,\)"),
        (lambda: perturb_images(batch(), -1.0), ValueError, "sigma must be finite and greater than 0"),
        (lambda: perturb_images(batch(), -SIGMA), ValueError, "sigma must be finite and greater than 0 everywhere"),
        (lambda: perturb_images(batch(), 1.0, rng=3), TypeError, "rng must be a fastscore.Philox or None"),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


@compiled
def test_the_compiled_function_never_reads_elsewhere():
    """It looks at the indices itself: they may come from other hands than a handle's."""
    of = batch()
    like = torch.empty(of.shape)
    for indices in ([0, 1, 2, 7], [0, -1, 2, 3]):
        arguments = like, IMAGES, torch.tensor(indices), None, 256, True, 0, 0, 0, 0, 2, 0, None, None
        with pytest.raises(RuntimeError, match="indices must be from 0 to 6"):
            torch.ops.fastscore.read_images_native(*arguments)
