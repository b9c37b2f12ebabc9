"""A folder of images: order, crop, resize, modes, and what is said of bad files."""

import os
import struct
import zlib

import pytest
import torch
from PIL import Image, features

from fastscore._core.errors import DataError
from fastscore.data import folder


def write(path, pixels: torch.Tensor, **options) -> None:
    """uint8 [H, W, 3] (or [H, W] for grey) to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.numpy()).save(path, **options)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).expand(height, width, 3).contiguous()


def test_order_formats_and_colours(tmp_path):
    """All formats, in folders below too, sorted by path; other files and hidden ones are left out."""
    colours = {"b.png": (255, 0, 0), "a/z.bmp": (0, 255, 0), "a/deep/er/x.PPM": (0, 0, 255), "c.webp": (9, 99, 199)}
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
    want = pixels[top : top + 8, left : left + 8].permute(2, 0, 1)
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
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.png' does not read"):
        folder(tmp_path, 4)


def test_sixteen_bits_are_refused(tmp_path):
    Image.new("I;16", (4, 4), 40_000).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png' has more than 8 bits per channel"):
        folder(tmp_path, 4)


def png(depth: int, colour_type: int, samples: int, size: int = 4) -> bytes:
    """A PNG of zeros, of any depth: pillow writes none of 16 bits in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    line = bytes(1 + (size * samples * depth + 7) // 8)
    palette = chunk(b"PLTE", bytes(range(12))) if colour_type == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, depth, colour_type, 0, 0, 0))
        + palette
        + chunk(b"IDAT", zlib.compress(line * size))
        + chunk(b"IEND", b"")
    )


def tiff(bits: tuple[int, ...], photometric: int, size: int = 4) -> bytes:
    """An uncompressed little-endian TIFF of zeros with these bits per channel."""
    count, content = len(bits), bytes(size * size * sum(bits) // 8)
    ifd = 8 + 2 + 9 * 12 + 4
    tags = [
        (256, 3, 1, size),
        (257, 3, 1, size),
        (258, 3, count, ifd if count > 2 else bits[0]),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, ifd + 2 * count),
        (277, 3, 1, count),
        (278, 3, 1, size),
        (279, 4, 1, len(content)),
    ]
    return (
        struct.pack("<2sHIH", b"II", 42, 8, 9)
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + bytes(4)
        + struct.pack(f"<{count}H", *bits)
        + content
    )


DEEP = {
    "rgb.png": (png(16, 2, 3), "16 bits"),
    "rgba.png": (png(16, 6, 4), "16 bits"),
    "la.png": (png(16, 4, 2), "16 bits"),
    "grey.png": (png(16, 0, 1), "pillow's mode 'I;16'"),
    "rgb.tif": (tiff((16, 16, 16), 2), "16 bits"),
    "cmyk.tiff": (tiff((16, 16, 16, 16), 5), "16 bits"),
    "twelve.ppm": (b"P6 4 4 4095\n" + bytes(96), "12 bits"),
    "deep.ppm": (b"P6 4 4 65535\n" + bytes(96), "16 bits"),
    "text.ppm": (b"P3 4 4 1023\n" + b"0 " * 48, "10 bits"),
    "misnamed.jpg": (png(16, 2, 3), "16 bits"),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_depth_is_that_of_the_file_and_not_pillows(tmp_path, name, channels):
    """Most of these pillow opens as 8-bit "RGB", "RGBA" or "LA" without a word."""
    content, what = DEEP[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}' has more than 8 bits per channel \({what}\).* convert it to 8 bits"):
        folder(tmp_path, 4, channels=channels)


def test_float_tiff_is_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"x\.tif' has more than 8 bits per channel \(pillow's mode 'F'\)"):
        folder(tmp_path, 4)


@pytest.mark.parametrize(
    "name, content",
    [
        ("rgb.png", png(8, 2, 3)),
        ("rgba.png", png(8, 6, 4)),
        ("la.png", png(8, 4, 2)),
        ("grey.png", png(8, 0, 1)),
        ("two.png", png(2, 0, 1)),
        ("one.png", png(1, 0, 1)),
        ("rgb.tif", tiff((8, 8, 8), 2)),
        ("small.ppm", b"P6 4 4 31\n" + bytes(48)),
        ("plain.pgm", b"P2 4 4 255\n" + b"0 " * 16),
        ("bits.pgm", b"P1 4 4\n" + b"1 " * 16),
    ],
)
def test_eight_bits_and_fewer_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert not folder(tmp_path, 4).images.any()


def test_palette_keeps_its_colours(tmp_path):
    (tmp_path / "x.png").write_bytes(png(4, 3, 1))
    assert folder(tmp_path, 4).images[0, :, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.skipif(not features.check("avif"), reason="this pillow has no AVIF")
def test_a_format_of_unknown_depth_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.avif")
    (tmp_path / "x.avif").rename(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png' is in fact a file of the format AVIF.*: convert it to PNG"):
        folder(tmp_path, 4)


def test_links_are_followed_once_and_not_in_circles(tmp_path):
    """Linked folders (two names for one, one inside another, one back up, one to the root) give each image once."""
    base, outside = tmp_path / "base", tmp_path / "outside"
    for shade, name in enumerate(("base/a.png", "outside/b.png", "outside/in/c.png", "base/real/d.png")):
        write(tmp_path / name, plain(4, 4, (shade, shade, shade)))
    (base / "alias").symlink_to("real")
    (base / "first").symlink_to(outside)
    (base / "second").symlink_to(outside / "in")
    (outside / "in" / "up").symlink_to("..")
    (base / "real" / "root").symlink_to(base)
    (base / "up").symlink_to(tmp_path)
    (base / "file.png").symlink_to(outside / "b.png")
    (base / "gone.png").symlink_to("nothing")
    (base / ".hidden").symlink_to(outside)
    data = folder(base, 4)
    # a.png, file.png, first/b.png, first/in/c.png (or second/c.png), real/d.png
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 1, 2, 3]
    assert data.notes.startswith(
        "left out: 3 links to folders that they lie in, 2 links to folders that were read "
        "already, 1 hidden, 1 links to files that are not there"
    )


def test_what_was_read_and_left_out_is_reported(tmp_path):
    write(tmp_path / "x.png", plain(4, 4, (1, 2, 3)))
    assert folder(tmp_path, 4).describe() == f"{tmp_path.name}: 1 image of (3, 4, 4), from {tmp_path}"
    for name in ("a.heic", "b.HEIC", "c.heic", "d.txt", "README", ".secret.png"):
        (tmp_path / name).write_text("x")
    os.mkfifo(tmp_path / "pipe.png")
    write(tmp_path / "y.png", plain(4, 4, (1, 2, 3)))
    assert folder(tmp_path, 4).describe() == (
        f"{tmp_path.name}: 2 images of (3, 4, 4), from {tmp_path}; left out: 5 with another ending (.heic 3, "
        ".txt 1, none 1), 1 hidden, 1 pipes, sockets or devices"
    )
    (tmp_path / "x.png").unlink()
    (tmp_path / "y.png").unlink()
    with pytest.raises(DataError, match=r"has no image in it .*left out: 5 with another ending \(\.heic 3"):
        folder(tmp_path, 4)


def test_source_is_absolute_and_the_fingerprint_is_the_contents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one" / "x.png", plain(4, 4, (1, 2, 3)))
    write(tmp_path / "two" / "other.png", plain(4, 4, (1, 2, 3)))
    one = folder("one", 4)
    assert one.source == str(tmp_path / "one") and one.num_classes is None
    assert one.fingerprint() == folder(tmp_path / "two", 4, flips=True).fingerprint()
    assert one.fingerprint() != folder("one", 5).fingerprint()
    write(tmp_path / "one" / "y.png", plain(4, 4, (1, 2, 3)))
    assert one.fingerprint() != folder("one", 4).fingerprint()


@pytest.mark.parametrize("closed, module, function", [("below", os, "scandir"), ("below/x.png", Image, "open")])
def test_unreadable_folders_and_files_are_named(tmp_path, monkeypatch, closed, module, function):
    """Refused by hand, for the superuser may read everything."""
    write(tmp_path / "below" / "x.png", plain(4, 4, (1, 2, 3)))
    write(tmp_path / "y.png", plain(4, 4, (1, 2, 3)))
    real = getattr(module, function)

    def refuse(path, *arguments):
        if str(path) == str(tmp_path / closed):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments)

    monkeypatch.setattr(module, function, refuse)
    with pytest.raises(DataError, match=rf"{closed}' does not read \(Permission denied\): make it readable"):
        folder(tmp_path, 4)


def test_a_looping_link_is_no_folder(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError, match=r"there is no folder '.*loop'"):
        folder(tmp_path / "loop", 4)


@pytest.mark.parametrize(
    "size, options, text",
    [
        (0, {}, "image_size must be at least 1, got 0"),
        (8, {"channels": 4}, r"channels must be 1 \(grey\) or 3 \(RGB\), got int 4"),
    ],
)
def test_argument_errors(tmp_path, size, options, text):
    with pytest.raises(ValueError, match=text):
        folder(tmp_path, size, **options)
