"""fastscore.evaluation.pictures: what is at which pixel, what the axes hold, and that no half-written file stays."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastscore._core import errors
from fastscore.evaluation import canvas, pictures, plots
from fastscore.rng import Philox

from ..conftest import optional

Image = pytest.importorskip("PIL.Image")
matplotlib = pytest.importorskip("matplotlib")

pytestmark = pytest.mark.filterwarnings("error")

GAP = round(255 * pictures._GAP)


def read(path):
    """[H, W, 3] int: the pixels of a PNG file."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).int()


def no_torchvision(monkeypatch):
    """torchvision as beside a torch it was not built for."""
    real = importlib.import_module

    def broken(name, *rest):
        if name.startswith("torchvision"):
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(errors.MissingDependency, match=r"does not import.*nms.*release that matches"):
        errors.require("torchvision.utils", "train")


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved during the test, for a look at what they hold."""
    seen, save = [], canvas.save_figure

    def look(figure, path):
        seen.append(figure)
        return save(figure, path)

    monkeypatch.setattr(canvas, "save_figure", look)
    return seen


# --- grids ---


@pytest.fixture(params=["torchvision", "plain torch"])
def both_grids(request, monkeypatch):
    if request.param == "plain torch":
        no_torchvision(monkeypatch)
    else:
        optional("torchvision")


def test_grid_puts_every_pixel_where_it_belongs(both_grids, tmp_path):
    images = Philox(seed=0).rand(5, 3, 8, 8)
    path = pictures.save_grid(images, tmp_path / "new" / "folder" / "grid.png", columns=3)
    pixels, tile = read(path), 48 + 3
    assert pixels.shape == (2 * tile + 3, 3 * tile + 3, 3)
    expected = torch.full_like(pixels, GAP)
    for i, image in enumerate(images):
        y, x = i // 3 * tile + 3, i % 3 * tile + 3
        block = image.mul(255).round().int().permute(1, 2, 0)
        expected[y : y + 48, x : x + 48] = block.repeat_interleave(6, 0).repeat_interleave(6, 1)
    assert torch.equal(pixels, expected)
    assert os.listdir(path.parent) == ["grid.png"]


@pytest.mark.parametrize(
    "shape, columns",
    [
        ((1, 1, 8, 8), None),
        ((1, 3, 4, 6), 5),
        ((7, 1, 8, 8), None),
        ((4, 3, 100, 60), 9),
        ((2, 2, 8, 8), 1),
        ((6, 1, 1, 1), 2),
    ],
)
def test_grid_in_plain_torch_equals_torchvisions(shape, columns, tmp_path, monkeypatch):
    optional("torchvision")
    images = Philox(seed=1).rand(*shape)
    one = pictures.save_grid(images, tmp_path / "one.png", columns)
    no_torchvision(monkeypatch)
    two = pictures.save_grid(images, str(tmp_path / "two.png"), columns)
    assert one.read_bytes() == two.read_bytes()


def test_grid_clamps_rounds_and_shows_channels(both_grids, tmp_path):
    values = torch.tensor([-3.0, 0.0, 0.5, 1.0, 7.0, 100.6 / 255]).reshape(1, 1, 2, 3)
    for dtype in (torch.float32, torch.float64):
        pixels = read(pictures.save_grid(values.to(dtype), tmp_path / "a.png", scale=1))
        assert pixels[..., 0].tolist() == [[0, 0, 128], [255, 255, 101]]
        assert torch.equal(pixels[..., 0], pixels[..., 1]) and torch.equal(pixels[..., 0], pixels[..., 2])
    two = torch.cat([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)], 1)  # two channels: left and right
    pixels = read(pictures.save_grid(two, tmp_path / "b.png", scale=1))
    assert pixels[..., 0].tolist() == [[0, 0, 255, 255]] * 2
    rgb = torch.tensor([1.0, 0.0, 0.2]).reshape(1, 3, 1, 1)
    assert read(pictures.save_grid(rgb, tmp_path / "c.png", scale=2)).tolist() == [[[255, 0, 51]] * 2] * 2


def test_grid_scale_makes_small_images_visible_and_leaves_large_ones(tmp_path):
    for size, expected in ((1, 48), (8, 48), (28, 56), (32, 64), (48, 48), (64, 64)):
        image = torch.zeros(1, 1, size, size)
        assert read(pictures.save_grid(image, tmp_path / "a.png")).shape[:2] == (expected, expected)
    assert read(pictures.save_grid(torch.zeros(1, 1, 8, 8), tmp_path / "a.png", scale=5)).shape[0] == 40
    sixteen = read(pictures.save_grid(torch.zeros(16, 1, 8, 8), tmp_path / "a.png"))
    assert sixteen.shape[:2] == (4 * 51 + 3, 4 * 51 + 3)  # the default is a square


@pytest.mark.parametrize(
    "images, options, kind, text",
    [
        (torch.zeros(8, 8), {}, ValueError, r"images must be \[N, C, H, W\] and not empty, got.*\(8, 8\)"),
        (torch.zeros(0, 1, 8, 8), {}, ValueError, "not empty"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {}, TypeError, "images must be float16.*uint8"),
        (torch.tensor([0, math.nan, 1, math.inf]).reshape(4, 1, 1, 1), {}, ValueError, "in 2 of 4 images"),
        (torch.zeros(2, 1, 8, 8), {"columns": 0}, ValueError, "columns must be at least 1, got 0"),
        (torch.zeros(2, 1, 8, 8), {"scale": 1.5}, TypeError, "scale must be an integer"),
    ],
)
def test_grid_refuses(images, options, kind, text, tmp_path):
    with pytest.raises(kind, match=text):
        pictures.save_grid(images, tmp_path / "a.png", **options)
    assert list(tmp_path.iterdir()) == []


# --- writing ---


def bars(path):
    return pictures.save_bars({"real": [1, 2]}, path)


def grid(path):
    return pictures.save_grid(torch.zeros(2, 1, 8, 8), path)


@pytest.mark.parametrize("save", [bars, grid])
def test_failed_write_leaves_the_old_picture_and_nothing_else(save, tmp_path, monkeypatch):
    path = save(tmp_path / "a.png")
    old = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(errors.CannotWrite, match=f"{path} cannot be written: No space left") as caught:
            save(path)
    assert caught.value.errno == 28
    assert path.read_bytes() == old and os.listdir(tmp_path) == ["a.png"]


def test_impossible_places_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(errors.CannotWrite, match=f"^{path} cannot be written: "):
            grid(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]
    assert os.listdir(tmp_path / "folder.png") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(errors.CannotWrite, match=r"a\.png cannot be written: Permission denied"):
        grid(tmp_path / "a.png")


def test_the_name_must_end_in_png(tmp_path):
    for name in ("a.jpg", "a", "png"):
        with pytest.raises(ValueError, match=r"path must end in \.png, got"):
            grid(tmp_path / name)
    assert grid(tmp_path / "a.PNG").exists()


def test_same_input_same_bytes_and_umask(tmp_path):
    assert bars(tmp_path / "a.png").read_bytes() == bars(tmp_path / "b.png").read_bytes()
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert (tmp_path / "a.png").stat().st_mode == plain.stat().st_mode  # readable like any other file


def test_imports_are_late_and_pyplot_never_comes(tmp_path):
    code = (
        "import sys, fastscore.evaluation.pictures as p\n"
        "assert not {'matplotlib', 'PIL', 'torchvision'} & set(sys.modules)\n"
        "p.save_bars({'a': [1]}, sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules; print('fine')"
    )
    command, root = [sys.executable, "-c", code, str(tmp_path / "a.png")], Path(pictures.__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("module, save", [("matplotlib.figure", bars), ("PIL.Image", grid)])
def test_missing_packages_are_named(module, save, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        errors.MissingDependency, match=rf"{module.split('.')[0]}.*pip install --no-build-isolation '.\[train\]'"
    ):
        save(tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


# --- trajectories and neighbours: tables of tiles ---


def tile(pixels, row, left, size=48):
    """The pixels of one tile of a table: 12 pixels of margin, 48 above, tiles 3 apart."""
    y, x = 48 + row * (size + 3), 12 + left
    return pixels[y : y + size, x : x + size]


def blown_up(image):
    pixels = image.clamp(0, 1).mul(255).round().int().expand(3, 8, 8).permute(1, 2, 0)
    return pixels.repeat_interleave(6, 0).repeat_interleave(6, 1)


def test_trajectory_shows_each_frame_crisply(tmp_path, figures):
    frames = [2 * Philox(seed=i).rand(2, 1, 8, 8) - 0.5 for i in range(4)]
    pixels = read(pictures.save_trajectory(frames, [1.0, 0.1, 0.0123], tmp_path / "a.png"))
    for j, frame in enumerate(frames):
        for i, image in enumerate(frame):
            assert (tile(pixels, i, 51 * j) - blown_up(image)).abs().max() <= 1
    assert bool((pixels[48:147, 12 + 48 : 12 + 51] - GAP).abs().max() <= 1)  # the gap between two columns
    labels = [text.get_text() for text in figures[0].axes[0].texts]
    assert labels == ["1", "0.1", "0.0123", "denoised"]
    assert figures[0].texts[0].get_text() == "From σ = 1 to σ = 0.0123 in 3 noise levels"
    assert os.listdir(tmp_path) == ["a.png"]


def test_trajectory_of_many_levels_shows_twelve_with_first_and_last(tmp_path, figures):
    sigmas = torch.logspace(math.log10(50), -2, 232)
    frames = [torch.full((1, 1, 8, 8), i / 231) for i in range(232)]
    pixels = read(pictures.save_trajectory(frames, sigmas, tmp_path / "a.png"))
    chosen = [round(i * 231 / 11) for i in range(12)]
    labels = [text.get_text() for text in figures[0].axes[0].texts]
    assert labels == [f"{float(sigmas[i]):.3g}" for i in chosen]
    for j, i in enumerate(chosen):
        assert (tile(pixels, 0, 51 * j) - round(i / 231 * 255)).abs().max() <= 1


@pytest.mark.parametrize(
    "count, sigmas, text",
    [
        (2, [1.0, 0.5, 0.1], r"frames must hold one for each noise level \(3\), or one more, got 2"),
        (6, [1.0, 0.5, 0.1], r"or one more, got 6: of T updates at each level, Trajectory\(every=T\) keeps the last"),
        (2, [0.1, 1.0], "sigmas must be strictly decreasing"),
    ],
)
def test_trajectory_refuses(count, sigmas, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        pictures.save_trajectory([torch.zeros(1, 1, 8, 8)] * count, sigmas, tmp_path / "a.png")
    frames = [torch.zeros(1, 1, 8, 8), torch.zeros(2, 1, 8, 8)]
    with pytest.raises(ValueError, match=r"frames\[1\] must have the shape of frames\[0\], \(1, 1, 8, 8\)"):
        pictures.save_trajectory(frames, [1.0, 0.5], tmp_path / "a.png")


def test_neighbours_stand_beside_their_sample_in_blocks_of_ten(tmp_path, figures):
    samples, near = Philox(seed=5).rand(13, 1, 8, 8), Philox(seed=6).rand(13, 2, 1, 8, 8)
    pixels = read(pictures.save_neighbours(samples, near, tmp_path / "a.png"))
    lefts = [0, 48 + 14, 2 * 48 + 17]
    block = 3 * 48 + 17 + 36
    for i in range(13):
        for j, image in enumerate([samples[i], *near[i]]):
            found = tile(pixels, i % 10, lefts[j] + block * (i // 10))
            assert (found - blown_up(image)).abs().max() <= 1
    assert (tile(pixels, 5, block) - GAP).abs().max() <= 1  # the second block has three rows
    labels = [text.get_text() for text in figures[0].axes[0].texts]
    assert labels == ["sample", "nearest", "2."] * 2


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (3, 2, 1, 8, 8), (2, 2, 1, 8, 4), (2, 0, 1, 8, 8)])
def test_neighbours_refuse(shape, tmp_path):
    with pytest.raises(ValueError, match=r"neighbours must be \[n, k, C, H, W\].*\(2, 1, 8, 8\), got"):
        pictures.save_neighbours(torch.zeros(2, 1, 8, 8), torch.zeros(shape), tmp_path / "a.png")


def boxes(figure):
    """What is written in ``figure``, and where: text -> (left, bottom, right, top) in pixels, as it is rendered."""
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip() and text.get_visible()]
    return [(text.get_text(), text.get_window_extent(renderer).extents) for text in texts]


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: pictures.save_neighbours(torch.zeros(2, 1, 9, 9), torch.zeros(2, 1, 1, 9, 9), path),
        lambda path: pictures.save_trajectory([torch.zeros(1, 1, 9, 9)], [0.00123], path),
        lambda path: pictures.save_bars({"a" * 30: [1, 2], "b" * 25: [2, 3]}, path, title="More than a word or two"),
        lambda path: plots.save_points(
            torch.rand(9, 2), path, title="W" * 30 + " " + "M" * 30 + " and more words " * 4
        ),
        lambda path: plots.save_score_field(
            torch.neg,
            torch.neg,
            path,
            samples={"Data": torch.randn(9, 2), "Plain Langevin": torch.randn(9, 2)},
            modes=torch.randn(9, 2),
        ),
    ],
)
def test_no_text_is_cut_off_or_lies_on_another(draw, tmp_path, figures):
    with Image.open(draw(tmp_path / "a.png")) as picture:
        width, height = picture.size
    figures[0].set_dpi(canvas.DPI)
    written = boxes(figures[0])
    assert written
    titles = [box for text, box in written if len(text) > 12 and "$" not in text]  # no tick labels
    for left, bottom, right, top in titles:
        assert left >= 0 and bottom >= 0 and right <= width and top <= height
    for i, one in enumerate(titles):
        for other in titles[:i]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


# --- bars ---


def test_bars_are_shares_with_their_standard_errors(tmp_path, figures):
    path = pictures.save_bars({"real": [30, 10], "samples": [1, 3]}, tmp_path / "a.png", title="Digits")
    ax = figures[0].axes[0]
    assert [patch.get_height() for patch in ax.patches] == [0.75, 0.25, 0.25, 0.75]
    centres = [patch.get_x() + patch.get_width() / 2 for patch in ax.patches]
    assert centres == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    (x, low), (_, high) = ax.collections[0].get_segments()[0]
    assert (x, (high - low) / 2) == pytest.approx((-0.2, math.sqrt(0.75 * 0.25 / 40)))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["real (n = 40)", "samples (n = 4)"]
    assert (ax.get_title("left"), ax.get_xlabel(), ax.get_ylabel()) == ("Digits", "class", "share")
    colours = {tuple(pixel) for pixel in read(path).reshape(-1, 3).tolist()}
    assert {(154, 165, 177), (59, 111, 182)} <= colours and path.stat().st_size > 5000


@pytest.mark.parametrize(
    "histograms, text",
    [
        ({}, "histograms must hold at least one"),
        ({"a": [1, 2], "b": [1]}, r"histograms\['b'\] must have 2 counts"),
        ({"a": [0, 0]}, "not all zero"),
        ({"a": [1, -1]}, r"histograms\['a'\]\[1\] must be finite and at least 0"),
    ],
)
def test_bars_refuse(histograms, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        pictures.save_bars(histograms, tmp_path / "a.png")
