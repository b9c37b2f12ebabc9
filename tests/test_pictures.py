"""fastscore.pictures: what is at which pixel, what the axes hold, and that no half-written file stays."""

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

from fastscore import errors, pictures
from fastscore.rng import Philox

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
    seen, save = [], pictures._save_figure

    def look(figure, path):
        seen.append(figure)
        return save(figure, path)

    monkeypatch.setattr(pictures, "_save_figure", look)
    return seen


# --- grids ---


@pytest.fixture(params=["torchvision", "plain torch"])
def both_grids(request, monkeypatch):
    if request.param == "plain torch":
        no_torchvision(monkeypatch)
    else:
        pytest.importorskip("torchvision")


def test_grid_puts_every_pixel_where_it_belongs(both_grids, tmp_path):
    images = Philox(seed=0).rand(5, 3, 8, 8)
    path = pictures.save_grid(images, tmp_path / "new" / "folder" / "grid.png", columns=3)
    pixels, tile = read(path), 48 + 3
    assert pixels.shape == (2 * tile + 3, 3 * tile + 3, 3)
    expected = torch.full_like(pixels, GAP)
    for i, image in enumerate(images):
        y, x = i // 3 * tile + 3, i % 3 * tile + 3
        block = image.mul(255).round().int().permute(1, 2, 0)
        expected[y:y + 48, x:x + 48] = block.repeat_interleave(6, 0).repeat_interleave(6, 1)
    assert torch.equal(pixels, expected)
    assert os.listdir(path.parent) == ["grid.png"]


@pytest.mark.parametrize("shape, columns", [((1, 1, 8, 8), None), ((1, 3, 4, 6), 5), ((7, 1, 8, 8), None),
                                            ((4, 3, 100, 60), 9), ((2, 2, 8, 8), 1), ((6, 1, 1, 1), 2)])
def test_grid_in_plain_torch_equals_torchvisions(shape, columns, tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
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


@pytest.mark.parametrize("images, options, kind, text", [
    (torch.zeros(8, 8), {}, ValueError, r"images must be \[N, C, H, W\] and not empty, got.*\(8, 8\)"),
    (torch.zeros(0, 1, 8, 8), {}, ValueError, "not empty"),
    (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {}, TypeError, "images must be float16.*uint8"),
    (torch.tensor([0, math.nan, 1, math.inf]).reshape(4, 1, 1, 1), {}, ValueError, "in 2 of 4 images"),
    (torch.zeros(2, 1, 8, 8), {"columns": 0}, ValueError, "columns must be at least 1, got 0"),
    (torch.zeros(2, 1, 8, 8), {"scale": 1.5}, TypeError, "scale must be an integer"),
])
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
    for error in (PermissionError(13, "Permission denied"), OSError(28, "No space")):
        def fail(*_, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fail)
            with pytest.raises(type(error), match=f"cannot write .*{path}: {error.strerror}") as caught:
                save(path)
        assert caught.value.errno == error.errno
        assert path.read_bytes() == old and os.listdir(tmp_path) == ["a.png"]


def test_half_a_write_leaves_nothing(tmp_path, monkeypatch):
    def half(self, data):
        with open(self, "wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tmp_path), "write_bytes", half)
    with pytest.raises(OSError, match=r"cannot write the picture .*No space left"):
        grid(tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_impossible_places_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "a.png", tmp_path / "folder.png"):
        with pytest.raises(OSError, match=f"cannot write the picture {path}"):
            grid(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.png"]
    assert os.listdir(tmp_path / "folder.png") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot write the picture"):
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
    code = ("import sys, fastscore.pictures as p\n"
            "assert not {'matplotlib', 'PIL', 'torchvision'} & set(sys.modules)\n"
            "p.save_bars({'a': [1]}, sys.argv[1])\n"
            "assert 'matplotlib.pyplot' not in sys.modules; print('fine')")
    command, root = [sys.executable, "-c", code, str(tmp_path / "a.png")], Path(pictures.__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("module, save", [("matplotlib.figure", bars), ("PIL.Image", grid)])
def test_missing_packages_are_named(module, save, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(errors.MissingDependency, match=rf"{module.split('.')[0]}.*fastscore\[train\]"):
        save(tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


# --- trajectories and neighbours: tables of tiles ---


def tile(pixels, row, left, size=48):
    """The pixels of one tile of a table: 12 pixels of margin, 48 above, tiles 3 apart."""
    y, x = 48 + row * (size + 3), 12 + left
    return pixels[y:y + size, x:x + size]


def blown_up(image):
    pixels = image.clamp(0, 1).mul(255).round().int().expand(3, 8, 8).permute(1, 2, 0)
    return pixels.repeat_interleave(6, 0).repeat_interleave(6, 1)


def test_trajectory_shows_each_frame_crisply(tmp_path, figures):
    frames = [2 * Philox(seed=i).rand(2, 1, 8, 8) - 0.5 for i in range(4)]
    pixels = read(pictures.save_trajectory(frames, [1.0, 0.1, 0.0123], tmp_path / "a.png"))
    for j, frame in enumerate(frames):
        for i, image in enumerate(frame):
            assert (tile(pixels, i, 51 * j) - blown_up(image)).abs().max() <= 1
    assert bool((pixels[48:147, 12 + 48:12 + 51] - GAP).abs().max() <= 1)  # the gap between two columns
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


@pytest.mark.parametrize("count, sigmas, text", [
    (2, [1.0, 0.5, 0.1], r"frames must be one a noise level \(3\), or one more, got 2"),
    (5, [1.0, 0.5, 0.1], "or one more, got 5"),
    (2, [0.1, 1.0], "sigmas must be strictly decreasing"),
])
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


@pytest.mark.parametrize("histograms, text", [
    ({}, "histograms must hold at least one"),
    ({"a": [1, 2], "b": [1]}, r"histograms\['b'\] must have 2 counts"),
    ({"a": [0, 0]}, "not all zero"),
    ({"a": [1, -1]}, r"histograms\['a'\]\[1\] must be finite and at least 0"),
])
def test_bars_refuse(histograms, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        pictures.save_bars(histograms, tmp_path / "a.png")


# --- training curves ---


def test_curves_of_a_short_run_are_the_records(tmp_path, figures):
    history = [{"step": s, "loss": 100 / s, "loss_per_sigma": [50 / s, None, 1 / s], "images_per_second": r}
               for s, r in ((30, 900.0), (10, 1000.0), (20, 5000.0))]  # in any order
    path = pictures.save_training_curves(history, tmp_path / "a.png", sigmas=[1.0, 0.1, 0.01])
    total, levels, last, bar = figures[0].axes
    assert total.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert total.lines[0].get_ydata().tolist() == pytest.approx([10, 5, 100 / 30])
    assert [len(line.get_xdata()) for line in levels.lines] == [3, 0, 3]
    assert levels.lines[2].get_ydata().tolist() == pytest.approx([0.1, 0.05, 1 / 30])
    assert last.lines[0].get_xdata().tolist() == pytest.approx([1, 0.1, 0.01])
    assert last.lines[0].get_ydata().tolist() == pytest.approx([5 / 3, math.nan, 1 / 30], nan_ok=True)
    assert total.get_title("left") == "Loss (30 steps, 1,000 images/s)"
    assert {ax.get_xlabel() for ax in (total, levels)} == {"step"}
    assert last.get_xlabel() == bar.get_ylabel() == "noise level σ (units of the data)"
    assert {ax.get_ylabel() for ax in (total, levels, last)} == {"loss per sample"}
    assert (total.get_yscale(), levels.get_yscale(), last.get_xscale(), total.get_xscale()) == \
        ("log", "log", "log", "linear")
    pixels = read(path)
    assert pixels.shape == (510, 2130, 3) and path.stat().st_size > 20_000
    assert pixels[0, 0].tolist() == [255, 255, 255] and (pixels < 100).all(-1).any()


def test_curves_of_a_long_run_are_medians_coloured_by_sigma(tmp_path, figures):
    noise = Philox(seed=0).randn(6000, dtype=torch.float64)
    history = [{"step": i + 1, "loss": float(noise[i].exp()), "loss_per_sigma": [float(noise[i].exp())] * 10}
               for i in range(6000)]
    sigmas = torch.logspace(0, -2, 10)
    pictures.save_training_curves(history, tmp_path / "a.png", sigmas=sigmas)
    total, levels, last, _ = figures[0].axes
    middle = next(line for line in total.lines if line.get_label() == "median")
    assert len(total.lines[0].get_xdata()) == 6000 and len(middle.get_xdata()) <= pictures._BINS
    assert total.get_xscale() == "log"  # 1 to 6000: bins of equal width in log steps
    steps = torch.arange(1.0, 6001.0, dtype=torch.float64).log()
    rows = (steps / steps[-1] * 60).long().clamp(max=59) == 59
    assert middle.get_ydata()[-1] == pytest.approx(float(noise[rows].exp().quantile(0.5)))
    assert middle.get_xdata()[-1] == torch.arange(1.0, 6001.0)[rows].median()
    lightness = [np.dot(line.get_color()[:3], (0.3, 0.6, 0.1)) for line in levels.lines]
    assert np.all(np.diff(lightness) < 0)  # perceptual: the most noise is the lightest
    viridis = matplotlib.colormaps["viridis"]
    assert levels.lines[0].get_color() == pytest.approx(viridis(0.93), abs=0.02)
    assert levels.lines[-1].get_color() == pytest.approx(viridis(0.0), abs=0.02)
    assert last.lines[0].get_ydata()[0] == pytest.approx(float(noise[-600:].exp().quantile(0.5)))


@pytest.mark.parametrize("history, sigmas", [
    ([{"step": 0, "loss": 1.0}], None),
    ([{"step": 5, "loss": math.nan, "loss_per_sigma": [None, None]}], [1.0, 0.1]),
    ([{"step": i, "loss": i - 1.0, "loss_per_sigma": [-1.0, None, 2.0]} for i in range(300)], [1, 0.1, 0.01]),
    ([{"step": i, "loss": math.inf if i % 7 else 2.0} for i in range(300)], None),
    ([{"step": i, "loss": 1.0, "loss_per_sigma": None if i % 9 else [1.0, 2.0]} for i in range(99)], None),
    ([{"step": i, "loss": 1.0, "loss_per_sigma": [1.0]} for i in range(3)], torch.tensor([0.5])),
    ([{"step": i, "loss": 1.0} for i in range(3)], [1.0, 0.5]),
])
def test_curves_of_odd_runs_are_drawn_without_a_warning(history, sigmas, tmp_path, figures):
    assert pictures.save_training_curves(history, tmp_path / "a.png", sigmas=sigmas).stat().st_size > 5000
    drawn = figures[0].axes[0].lines[-1].get_ydata()
    losses = [row["loss"] for row in history if math.isfinite(row["loss"])]
    if losses:
        assert min(losses) <= np.nanmin(drawn) and np.nanmax(drawn) <= max(losses)
    log = bool(losses) and max(losses) >= 3 * min(losses) > 0
    assert figures[0].axes[0].get_yscale() == ("log" if log else "linear")


@pytest.mark.parametrize("history, sigmas, text", [
    ([], None, "history must hold records"),
    ([{"step": 1}], None, "history must hold records with 'step' and 'loss'"),
    ([{"step": 1, "loss": 1.0, "loss_per_sigma": [1.0] * n} for n in (2, 3)], None, r"got lengths \[2, 3\]"),
    ([{"step": 1, "loss": 1.0, "loss_per_sigma": [1.0] * 2}], [1, 0.5, 0.1], "sigmas must be one .*2, got 3"),
])
def test_curves_refuse(history, sigmas, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        pictures.save_training_curves(history, tmp_path / "a.png", sigmas=sigmas)


# --- score fields ---


def pull(x):
    """The score of N((1, 0), I)."""
    return torch.tensor([1.0, 0.0]) - x


def test_score_field_arrows_errors_and_weights(tmp_path, figures):
    modes = torch.tensor([[-4.0, 0.0], [4.0, 0.0]])
    data = modes.repeat_interleave(torch.tensor([80, 20]), 0)
    plain = modes.repeat_interleave(torch.tensor([50, 50]), 0)
    annealed = torch.cat([data, torch.tensor([[-9.0, 0.0], [math.nan, 0.0]])])
    path = pictures.save_score_field(
        lambda x: pull(x) + torch.tensor([0.0, 0.5]), pull, tmp_path / "a.png", samples_plain=plain,
        samples_annealed=annealed, samples_data=data, modes=modes,
        log_density=lambda x: -pull(x).square().sum(1) / 2)
    learned, exact, error, *clouds, _ = figures[0].axes
    assert [ax.get_title("left") for ax in clouds] == [
        "Data: mode weights 0.80 / 0.20", "Plain Langevin: mode weights 0.50 / 0.50",
        "Annealed Langevin: mode weights 0.79 / 0.20\n2 of 102 outside the picture"]
    arrows = next(c for c in exact.collections if hasattr(c, "U"))
    points = torch.from_numpy(np.stack([arrows.X, arrows.Y], 1)).float()
    score = pull(points)
    arrow = torch.from_numpy(np.stack([np.asarray(arrows.U), np.asarray(arrows.V)], 1)).float()
    torch.testing.assert_close(torch.nn.functional.normalize(arrow), torch.nn.functional.normalize(score))
    ratio = arrow.norm(dim=1) / score.norm(dim=1).log1p()
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    tilted = next(c for c in learned.collections if hasattr(c, "U"))
    assert np.mean(np.asarray(tilted.V) > np.asarray(arrows.V)) > 0.95  # pulled up, and on the same scale
    mesh = error.collections[0].get_array()
    assert np.allclose(mesh, 0.5, atol=1e-6) and mesh.size == 120**2
    assert all(ax.get_xlim() == (-8, 8) and ax.get_aspect() == 1 for ax in (learned, exact, error, *clouds))
    assert len(clouds[0].collections[0].get_offsets()) == 100
    assert read(path).shape == (1110, 1650, 3)


def test_score_field_density_is_shaded_at_its_place(tmp_path, figures):
    """The mode is at (2, 0) of the data's coordinates: x and y are not exchanged, nor up and down."""
    path = pictures.save_score_field(pull, pull, tmp_path / "a.png", limits=(-4, 4), log_density=lambda x: -(
        x - torch.tensor([2.0, 0.5])).square().sum(1) * 3)
    pixels = read(path)

    def shade(ax, x, y):
        """The red of the most common colour near a point, whatever the arrows: less in darker blue."""
        column, up = (int(value) for value in ax.transData.transform((x, y)))
        row = pixels.shape[0] - up
        return pixels[row - 8:row + 9, column - 8:column + 9, 0].flatten().mode().values.item()

    for ax in figures[0].axes[:2]:
        assert shade(ax, 2.1, 0.6) < 110 < shade(ax, 3.2, 0.6) < 235
        assert min(shade(ax, *point) for point in ((0.6, 2.1), (-2.1, 0.6), (2.1, -2.1), (2.1, 3.6))) > 240


def test_score_field_without_samples_or_with_one_kind(tmp_path, figures):
    assert read(pictures.save_score_field(pull, pull, tmp_path / "a.png")).shape == (570, 1650, 3)
    pictures.save_score_field(pull, pull, tmp_path / "b.png", samples_annealed=torch.zeros(5, 2))
    panels = figures[1].axes
    assert [ax.axison for ax in panels[:6]] == [True] * 4 + [False] * 2
    assert panels[3].get_title("left") == "Annealed Langevin"


@pytest.mark.parametrize("learned, options, text", [
    (pull, {"limits": (3, 3)}, r"limits must be \(low, high\) with low < high"),
    (pull, {"samples_plain": torch.zeros(3, 3)}, r"samples_plain must have shape \[N, 2\].*\(3, 3\)"),
    (pull, {"modes": torch.zeros(2)}, r"modes must have shape \[N, 2\]"),
    (lambda x: x.sum(1), {}, r"learned must give finite values of shape \(484, 2\)"),
    (lambda x: x / 0, {}, "learned must give finite values"),
    (pull, {"log_density": pull}, r"log_density must give finite values of shape \(14400,\)"),
])
def test_score_field_refuses(learned, options, text, tmp_path):
    with pytest.raises(ValueError, match=text):
        pictures.save_score_field(learned, pull, tmp_path / "a.png", **options)
    assert os.listdir(tmp_path) == []
