"""A folder of images: order, crop, resize, modes, and what is said of bad files."""

import pytest
import torch
from PIL import Image

from fastscore.data import folder
from fastscore.errors import DataError


def write(path, pixels: torch.Tensor, **options) -> None:
    """uint8 [H, W, 3] (or [H, W] for grey) to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path, **options)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(height, width, 3).contiguous()


def test_order_formats_and_colours(tmp_path):
    """All formats, in folders below too, sorted by path; other files and hidden ones are left out."""
    colours = {"b.png": (255, 0, 0), "a/z.bmp": (0, 255, 0), "a/deep/er/x.PPM": (0, 0, 255),
               "c.webp": (9, 99, 199)}
    for name, colour in colours.items():
        write(tmp_path / name, plain(9, 9, colour), **({"lossless": True} if name.endswith("webp") else {}))
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "._b.png").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "b.png").write_text("not an image")
    data = folder(tmp_path, 4)
    want = torch.tensor([colours[name] for name in ("a/deep/er/x.PPM", "a/z.bmp", "b.png", "c.webp")])
    assert torch.equal(data.images.long(), want[:, :, None, None].expand(4, 3, 4, 4))
    assert data.images.dtype == torch.uint8 and data.labels is None
    assert data.name == tmp_path.name


def test_jpeg_is_near(tmp_path):
    write(tmp_path / "x.jpg", plain(32, 32, (200, 50, 100)), quality=95)
    write(tmp_path / "y.JPEG", plain(32, 32, (200, 50, 100)), quality=95)
    data = folder(tmp_path, 8)
    assert len(data) == 2
    assert (data.images.float() - torch.tensor([200.0, 50, 100])[:, None, None]).abs().max() <= 3


@pytest.mark.parametrize("height, width", [(8, 20), (20, 8), (8, 21), (8, 8)])
def test_centre_crop_without_resize(tmp_path, height, width):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator).to(torch.uint8)
    write(tmp_path / "x.png", pixels)
    top, left = (height - 8) // 2, (width - 8) // 2
    want = pixels[top:top + 8, left:left + 8].permute(2, 0, 1)
    assert torch.equal(folder(tmp_path, 8).images[0], want)


def test_resize_is_antialiased_and_keeps_direction(tmp_path):
    """A one-pixel chessboard shrinks to its mean (a filter without antialiasing would give 0 or 255); a
    picture
    dark at the left and light at the top keeps both."""
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255).to(torch.uint8)
    write(tmp_path / "a.png", board[..., None].expand(64, 64, 3).contiguous())
    across = (4 * torch.arange(64)).expand(64, 64)
    ramp = torch.stack([across, 252 - across.T, torch.full((64, 64), 7)], -1).to(torch.uint8)
    write(tmp_path / "b.png", ramp)
    images = folder(tmp_path, 8).images.float()
    assert (images[0, :, 1:-1, 1:-1] - 127.5).abs().max() <= 1
    want = torch.arange(8) * 32 + 14.0  # the mean of eight steps of the ramp
    assert (images[1, 0, :, 1:-1] - want[1:-1]).abs().max() <= 1
    assert (images[1, 1, 1:-1] - want.flip(0)[1:-1, None]).abs().max() <= 1
    assert (images[1, 2] == 7).all()


def test_grey_palette_alpha_and_rotation(tmp_path):
    grey = torch.arange(16, dtype=torch.uint8).view(4, 4) * 10
    write(tmp_path / "a.png", grey)
    write(tmp_path / "b.png", plain(4, 4, (100, 100, 100)))
    Image.open(tmp_path / "b.png").quantize(4).save(tmp_path / "c.gif")
    Image.open(tmp_path / "b.png").convert("RGBA").save(tmp_path / "d.png")
    turned = Image.fromarray(grey.numpy())
    exif = turned.getexif()
    exif[0x0112] = 3  # turned by 180 degrees
    turned.save(tmp_path / "e.png", exif=exif)
    images = folder(tmp_path, 4, channels=1).images
    assert images.shape == (5, 1, 4, 4)
    assert torch.equal(images[0, 0], grey)
    assert (images[1:4] == 100).all()
    assert torch.equal(images[4, 0], grey.flip(0, 1))
    rgb = folder(tmp_path, 4, channels=3).images
    assert torch.equal(rgb[0], grey.expand(3, 4, 4))


def test_options_reach_the_batches(tmp_path):
    write(tmp_path / "x.png", plain(4, 4, (0, 0, 0)))
    batch = folder(str(tmp_path), 4, dequantize="uniform", flips=True).batch(0, 2, seed=0)
    assert 0 < float(batch.max()) <= 1 / 256


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"root .* must be a folder of images; there is no folder '.*nowhere'"):
        folder(tmp_path / "nowhere", 8)


def test_empty_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"has no image in it or below it; files with .*: \.png, "):
        folder(tmp_path, 8)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n cut short"])
def test_unreadable_image_is_named(tmp_path, content):
    write(tmp_path / "good.png", plain(4, 4, (1, 2, 3)))
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"the image '.*bad\.png' does not read \(.*replace or remove it"):
        folder(tmp_path, 4)


def test_truncated_image_is_named(tmp_path):
    noise = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    write(tmp_path / "cut.png", noise)
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.png' does not read"):
        folder(tmp_path, 4)


def test_sixteen_bits_are_refused(tmp_path):
    Image.new("I;16", (4, 4), 40_000).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png' has more than 8 bits a channel"):
        folder(tmp_path, 4)


@pytest.mark.parametrize("size, options, text", [
    (0, {}, "image_size must be at least 1, got 0"),
    (8, {"channels": 4}, r"channels must be 1 \(grey\) or 3 \(RGB\), got int 4"),
])
def test_argument_errors(tmp_path, size, options, text):
    with pytest.raises(ValueError, match=text):
        folder(tmp_path, size, **options)
