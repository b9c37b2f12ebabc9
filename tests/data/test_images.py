"""The batcher: every image once an epoch, resumption, rank splits, dequantisation and flips."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastscore as fs
from fastscore.data import Data, ImageData, PointData, dequantize, to_float, two_moons
from fastscore.rng import Philox, Stream

from ..conftest import z_mean


def numbered(n: int, **options) -> ImageData:
    """n images of 2x3 pixels, all of them k in image k; labels 10 k."""
    images = torch.arange(n).to(torch.uint8)[:, None, None, None].expand(n, 1, 2, 3).contiguous()
    return ImageData(images, 10 * torch.arange(n), name="numbered", **options)


def constant(value: int, n: int = 400, **options) -> ImageData:
    return ImageData(torch.full((n, 1, 8, 8), value, dtype=torch.uint8), **options)


def test_images_stay_uint8():
    data = numbered(50, dequantize="uniform", flips=True)
    data.batch(0, 20, seed=0)
    assert data.images.dtype == torch.uint8 and data.images.nbytes == 50 * 6
    assert data.with_options(flips=False).images is data.images


@pytest.mark.parametrize("data", [numbered(5), PointData(two_moons, name="two_moons")])
def test_both_kinds_are_data(data):
    assert isinstance(data, Data)
    assert data.batch(3, 4, seed=1).shape == (4, *data.shape)
    assert data.batch(3, 4, seed=1).dtype == torch.float32
    assert data.name in repr(data)


@pytest.mark.parametrize("n, batch", [(10, 1), (10, 5), (10, 3), (7, 7), (10, 23), (1, 4)])
def test_every_image_once_an_epoch(n, batch):
    data = numbered(n)
    epochs = 6
    iterations = -(-n * epochs // batch)
    rows = torch.cat([data.indices(i, batch, seed=3) for i in range(iterations)])[: n * epochs].view(epochs, n)
    assert torch.equal(rows.sort(1).values, torch.arange(n).expand(epochs, n))
    if n > 1:
        assert len({tuple(row.tolist()) for row in rows}) > 1  # the order changes from epoch to epoch
    for epoch in range(epochs):  # and is the contract's
        assert torch.equal(rows[epoch], Philox(3, step=epoch).permutation(n, stream=Stream.SHUFFLE))


def test_batch_holds_the_images_and_labels_of_indices():
    data = numbered(11)
    index = data.indices(2, 6, seed=5)  # straddles two epochs
    torch.testing.assert_close(data.batch(2, 6, seed=5), to_float(data.images[index]), rtol=0, atol=0)
    assert torch.equal(data.labels[index], 10 * index)


@pytest.mark.parametrize("options", [{}, {"dequantize": "uniform", "flips": True}])
def test_a_batch_is_a_pure_function(options):
    """A fresh data set, asked for one iteration out of order, gives what a run gives; the seed matters."""
    run = numbered(13, **options)
    batches = [run.batch(i, 5, seed=2**63 + 1) for i in range(12)]
    for i in (11, 0, 7, 3):
        assert torch.equal(numbered(13, **options).batch(i, 5, seed=2**63 + 1), batches[i])
        assert torch.equal(run.batch(i, 5, seed=2**63 + 1), batches[i])
    assert not torch.equal(run.batch(0, 5, seed=0), batches[0])
    assert not torch.equal(batches[0], batches[1])
    far = run.batch(2**32 - 1, 5, seed=0)  # the last iteration there is
    assert torch.isfinite(far).all()


@pytest.mark.parametrize("parts", [(4, 4), (1, 7), (3, 3, 2), (8,)])
def test_rank_split_gives_the_whole_batch(parts):
    """Whatever the split: images that straddle epochs, noise and flips are those of the whole batch."""
    data = ImageData(
        torch.randint(0, 256, (11, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
        dequantize="uniform",
        flips=True,
    )
    for iteration in range(5):
        whole = data.batch(iteration, 8, seed=9)
        split, offset = [], 0
        for size in parts:
            split.append(data.batch(iteration, size, seed=9, sample_offset=offset, global_batch_size=8))
            offset += size
        assert torch.equal(torch.cat(split), whole)


def test_two_permutations_are_kept():
    data = numbered(6)
    for i in range(40):
        data.batch(i, 4, seed=i % 3)
        assert len(data._orders) <= 2
    data = numbered(6)
    for i in range(3):  # positions 0 .. 11: two epochs
        data.batch(i, 4, seed=0)
    first, second = data._orders.values()
    data.batch(1, 4, seed=0)
    assert data._orders[0, 0] is first and data._orders[0, 1] is second


def test_no_dequantisation_is_x_over_255():
    data = ImageData(torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1))
    batch = data.batch(0, 256, seed=0).flatten().sort().values
    assert torch.equal(batch, torch.arange(256) / 255)
    assert batch[0] == 0 and batch[-1] == 1


def test_uniform_dequantisation_is_ncsns():
    """(255/256) X + U/256 with the contract's U: stream DEQUANTIZE, step = iteration, sample = row."""
    images = torch.randint(0, 256, (20, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = ImageData(images, dequantize="uniform")
    u = Philox(4, step=7).rand(6, 3, 4, 4, stream=Stream.DEQUANTIZE)
    x = images[data.indices(7, 6, seed=4)].double() / 255
    want = (255 / 256) * x + u.double() / 256
    torch.testing.assert_close(data.batch(7, 6, seed=4).double(), want, rtol=0, atol=2**-24)
    offset = data.batch(7, 4, seed=4, sample_offset=2, global_batch_size=6)
    torch.testing.assert_close(offset.double(), want[2:], rtol=0, atol=2**-24)


@pytest.mark.parametrize("num_values", [2, 17, 256])
def test_dequantised_values_fill_their_own_bin_evenly(num_values):
    """Level k of q becomes uniform on [k/q, (k+1)/q): mean (k + 1/2)/q and variance 1/(12 q^2), for every
    k."""
    for level in {0, 1, num_values // 2, num_values - 1}:
        value = round(255 * level / (num_values - 1))
        data = constant(value, num_values=num_values, dequantize="uniform")
        x = data.batch(0, 400, seed=11).double() * num_values
        assert level <= float(x.min()) and float(x.max()) <= level + 1
        assert abs(z_mean(x, level + 0.5, 1 / 12)) < 4
        assert abs(z_mean((x - level - 0.5).square(), 1 / 12, 1 / 180)) < 4
        assert float(x.max() - x.min()) > 0.99


def test_every_stored_value_of_q_levels_keeps_its_level():
    for q in range(2, 257):
        stored = (torch.arange(q) * (255 / (q - 1))).round().to(torch.uint8)
        middle = dequantize(stored, torch.full((q,), 0.5), q)
        assert torch.equal((middle * q).floor(), torch.arange(q).float())


def test_flips_mirror_half_of_the_images():
    images = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4)
    data = ImageData(images.repeat(1000, 1, 1, 1), flips=True)
    batch = data.batch(5, 4000, seed=8)
    plain, mirrored = to_float(images), to_float(images.flip(-1))
    is_plain = (batch == plain).flatten(1).all(1)
    is_mirrored = (batch == mirrored).flatten(1).all(1)
    assert bool((is_plain ^ is_mirrored).all())
    assert abs(z_mean(is_mirrored.double(), 0.5, 0.25)) < 4
    assert torch.equal(is_mirrored, Philox(8, step=5).rand(4000, stream=Stream.FLIPS) < 0.5)
    assert not torch.equal(data.batch(6, 4000, seed=8), batch)
    assert torch.equal(data.with_options(flips=False).batch(5, 4000, seed=8), plain.expand(4000, 1, 3, 4))


def test_with_options_keeps_what_is_not_named():
    data = numbered(9, num_values=17, dequantize="uniform", flips=True)
    other = data.with_options(dequantize="none")
    assert (other.dequantize, other.flips, other.num_values, other.name) == ("none", True, 17, "numbered")
    assert (data.dequantize, data.flips) == ("uniform", True)
    assert other.labels is data.labels
    assert other._orders is not data._orders


def test_to_float_errors():
    with pytest.raises(TypeError, match="images must be uint8, got a float32 tensor"):
        to_float(torch.zeros(1, 1, 2, 2))


IMAGES = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    "arguments, options, error, text",
    [
        ((IMAGES.float(),), {}, TypeError, "images must be uint8, got a float32 tensor"),
        (([1, 2],), {}, TypeError, "images must be a torch.Tensor, got list"),
        ((IMAGES[0],), {}, ValueError, r"images must have shape \[N, C, H, W\] and not be empty"),
        ((IMAGES[:0],), {}, ValueError, "not be empty"),
        ((IMAGES, torch.zeros(2).long()), {}, ValueError, r"labels must be an int64 tensor of shape \(3,\)"),
        ((IMAGES, torch.zeros(3)), {}, ValueError, "labels must be an int64 tensor"),
        ((IMAGES, torch.tensor([0, 9, -1])), {}, ValueError, r"labels must be from 0 .*, got -1 \(once\)"),
        (
            (IMAGES, torch.tensor([7, 3, 7])),
            {"num_classes": 4},
            ValueError,
            r"labels must be from 0 to num_classes - 1, 3, got 7 \(2 times\)",
        ),
        ((IMAGES, torch.zeros(3).long()), {"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ((IMAGES,), {"num_classes": 4}, ValueError, "num_classes must be None without labels, got 4"),
        ((IMAGES,), {"dequantize": "x"}, ValueError, "dequantize must be one of 'none', 'uniform', got 'x'"),
        ((IMAGES,), {"num_values": 1}, ValueError, "num_values must be from 2 to 256, got 1"),
    ],
)
def test_image_data_errors(arguments, options, error, text):
    with pytest.raises(error, match=text):
        ImageData(*arguments, **options)


@pytest.mark.parametrize("data", [numbered(5), PointData(two_moons, name="two_moons")])
@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"iteration": -1}, ValueError, "iteration must be from 0 to 4294967295, got -1"),
        ({"iteration": 1.0}, TypeError, "iteration must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"seed": None}, TypeError, "seed must be an integer from 0 to .*, got NoneType None"),
        ({"seed": -1}, ValueError, "seed must be from 0 to"),
        ({"sample_offset": -1}, ValueError, "sample_offset must be at least 0, got -1"),
        (
            {"sample_offset": 1},
            ValueError,
            r"global_batch_size must be at least sample_offset \+ batch_size, 1 \+ 2, got None",
        ),
        ({"sample_offset": 3, "global_batch_size": 4}, ValueError, r"3 \+ 2, got 4"),
        ({"global_batch_size": 0}, ValueError, "global_batch_size must be at least 1, got 0"),
    ],
)
def test_batch_errors(data, options, error, text):
    with pytest.raises(error, match=text):
        data.batch(**{"iteration": 0, "batch_size": 2, "seed": 0, **options})


@pytest.mark.gpu
def test_gpu_batches_are_the_cpus():
    data = ImageData(torch.randint(0, 256, (50, 3, 8, 8)).to(torch.uint8), dequantize="uniform", flips=True)
    there = ImageData(data.images.cuda(), dequantize="uniform", flips=True)
    for i in range(3):
        want = data.batch(i, 32, seed=1)
        assert torch.equal(data.batch(i, 32, seed=1, device="cuda").cpu(), want)
        assert torch.equal(there.batch(i, 32, seed=1).cpu(), want)


def test_a_fingerprint_sees_every_change():
    """One value, one label, their order, the shape of the same bytes, a missing label: each gives another."""
    images = torch.arange(48, dtype=torch.uint8).view(3, 1, 4, 4)
    labels = torch.tensor([2, 0, 1])
    changed = images.clone()
    changed[2, 0, 3, 3] += 1
    sets = [
        (images, labels),
        (changed, labels),
        (images.flip(0), labels.flip(0)),
        (images, labels.flip(0)),
        (images, None),
        (images.view(3, 1, 2, 8), labels),
        (images.view(3, 4, 2, 2), labels),
        (images[:2], labels[:2]),
    ]
    found = [ImageData(*pair).fingerprint() for pair in sets]
    assert len(set(found)) == len(sets)
    strided = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert ImageData(strided, labels, name="other", source="elsewhere").fingerprint() == found[0]


@pytest.mark.parametrize("options", [{}, {"dequantize": "uniform", "flips": True, "num_values": 17}])
def test_a_handle_is_the_batch(options):
    data = numbered(11, **options)
    where = {"seed": 9, "sample_offset": 2, "global_batch_size": 8}  # straddles two epochs at iteration 1
    for iteration in range(3):
        handle = data.batch_handle(iteration, 5, **where)
        assert torch.equal(handle.tensor(), data.batch(iteration, 5, **where))
        assert torch.equal(handle.indices, data.indices(iteration, 5, **where))
        assert handle.images is data.images


def test_indices_are_a_copy():
    data = numbered(11)
    data.indices(0, 5, seed=1).zero_()
    assert torch.equal(data.indices(0, 5, seed=1), Philox(1).permutation(11, stream=Stream.SHUFFLE)[:5])


class Operations(TorchDispatchMode):
    """The names of what is dispatched inside."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_a_resident_data_set_copies_and_reads_nothing():
    """On a device that has none of the values: whatever came from the host, or went there, would be seen."""
    with FakeTensorMode():
        data = ImageData(torch.empty(11, 1, 4, 4, dtype=torch.uint8), dequantize="uniform", flips=True).to("cuda")
        sigma = torch.ones(5, device="cuda")
        with Operations() as seen, torch.no_grad():
            for iteration in range(3):  # two epochs' orders
                handle = data.batch_handle(iteration, 5, seed=0, device="cuda")
                x_tilde, _ = fs.ops.perturb_images(handle, sigma, Philox(0))
                assert x_tilde.device.type == handle.indices.device.type == "cuda"
    assert any("sort" in name for name in seen.names)
    copies = [name for name in seen.names if "copy" in name or "local_scalar" in name or name == "aten::item"]
    assert copies == []


def test_to_keeps_everything_else():
    data = numbered(11, dequantize="uniform", num_values=17)
    other = data.to("cpu")
    assert other._orders is not data._orders and repr(other) == repr(data)
    assert torch.equal(other.batch(1, 4, seed=2), data.batch(1, 4, seed=2))
    assert torch.equal(Philox(5).permutation(50, device="cpu"), Philox(5).permutation(50))
