"""What the program says to strange arguments, closed streams, signals and log files: one line and the right code."""

import io
import os
import random
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fastscore.experiment import cli, launch, progress, terminal
from fastscore.experiment.presets import preset
from fastscore.experiment.train import Trainer

HUGE, MANY = "7" * 26, "7" * 400
INTEGERS = ("0", "-3", "9" * 19, HUGE, MANY, "2e5", "nan", "", "eleven", "--", "-9223372036854775809", "4294967297")
FLOATS = ("0", "-2", "nan", "inf", "-inf", "1e308", "5e-324", "1e40", MANY, "", "x", "--")
TEXTS = ("", "no such", "/", "line\nbreak", "\udce9", "\0", "é" * 300, "x" * 3000, "loop", "cuda:" + HUGE, "meta")
PATHS = ("", "file", "file/x", "loop", "loop/x", "nothing", "/proc/none", "/dev/null", "x" * 300, "\udce9", "\0")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny run, a file, and links to themselves and to nothing."""
    folder = tmp_path_factory.mktemp("terminal")
    config = preset(
        "toy",
        sampler="annealed",
        data="two_moons",
        iterations=1,
        width=4,
        batch_size=4,
        num_levels=3,
        steps_per_level=1,
    )
    Trainer(config, folder / "run").train(progress=False)
    (folder / "file").touch()
    (folder / "loop").symlink_to("loop")
    (folder / "nothing").symlink_to("nowhere/at all")
    return folder


def absurd_line(choose: random.Random, folder: Path) -> list[str]:
    """A command line with one or two absurd values."""
    values = {"INT": INTEGERS, "FLOAT": FLOATS, "STR": TEXTS, "PATH": PATHS}
    if choose.random() < 0.5:
        line = ["train", "toy", "--data", "two_moons", "--iterations", "1", "--width", "4", "--batch-size", "4"]
        options = {
            "STR": ("data", "data-dir", "model", "objective", "start", "device"),
            "PATH": ("out",),
            "FLOAT": ("lr", "eps", "beta1", "beta2", "ema", "step-size", "sigma-begin", "sigma-end", "clip-norm"),
            "INT": (
                "iterations",
                "batch-size",
                "width",
                "num-levels",
                "warmup",
                "keep",
                "seed",
                "log-every",
                "steps-per-level",
                "checkpoint-every",
            ),
        }
    else:
        line = ["sample", choose.choice(PATHS) if choose.random() < 0.2 else "run", "--num", "2"]
        options = {
            "STR": ("sampler", "weights", "device"),
            "PATH": ("out",),
            "FLOAT": ("step-size",),
            "INT": ("num", "seed", "steps-per-level", "checkpoint", "batch-size"),
        }
    for _ in range(choose.choice((1, 2))):
        kind = choose.choice(list(options))
        line += [f"--{choose.choice(options[kind])}", choose.choice(values[kind])]
    return line if "--out" in line else [*line, "--out", str(folder / f"new{choose.random()}")]


@pytest.mark.parametrize("seed", range(2))
def test_absurd_command_lines(seed, place, tmp_path, monkeypatch, capsys):
    """They end with code 0 (the value was fine) or with code 2 and either one line or the parser's box."""
    monkeypatch.chdir(place)
    choose = random.Random(seed)
    for _ in range(25):
        line, code = absurd_line(choose, tmp_path), 0
        try:
            cli.main([*line, "--quiet"])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        told = [text for text in err.splitlines() if not text.startswith("warning: ")]
        box = "full helptext" in out + err or "──" in out + err
        assert code in (0, 2), (line, err)
        assert code == 0 or box or (len(told) == 1 and told[0].startswith("error: ")), (line, err)
        assert len(err) < 10_000 and "Traceback" not in err and "[Errno" not in err, (line, err)


@pytest.mark.parametrize(
    "line, message",
    [
        (["train", "digits", "--out", ""], "--out must not be empty"),
        (["train", "digits", "--data-dir="], "--data-dir must not be empty"),
        (["sample", ""], "argument 2 must not be empty"),
        (["sample", "run", "--label", "None"], "--label must not be the word None: leave the option out"),
        (["train", "digits", "--out=None"], "--out must not be the word None: leave the option out"),
        (["sample", "caf\udce9"], r"argument 2 must be valid UTF-8, got b'caf\xe9'"),
        (["train", "digits", "--out", "caf\udce9"], r"--out must be valid UTF-8, got b'caf\xe9'"),
        (["evaluate", "run", "--out", "a\0b"], r"--out must not hold a zero byte, got 'a\x00b'"),
        (
            ["train", "mnist", "--data-dir", "loop"],
            "--data-dir must be a folder that can be read, got 'loop': Too many levels of symbolic links",
        ),
        (
            ["train", "mnist", "--data-dir", "file"],
            "--data-dir must be a folder that can be read, got 'file': Not a dir",
        ),
        (["train", "toy", "--data", "moons"], "data must be one of 'checkerboard'"),
        (["train", "toy", "--batch-size", "20000000000"], "batch_size must be smaller: with 20000000000"),
        (
            ["train", "digits", "--width", HUGE],
            f"width must be smaller: with {HUGE}, weights take at least 2^179 bytes",
        ),
        (["sample", "run", "--sampler", "ddim", "--steps", "-1"], "steps must be from 0 to 4294967295, got -1"),
        (
            ["sample", "run", "--sampler", "pc", "--corrections", HUGE],
            "corrections must be from 0 to 4294967295, got 7",
        ),
        (["inspect", "run", "--num", HUGE], "num must be from 20 to 10000000, got 7"),
        (["sample", "run", "--num", HUGE], f"num must be at most 2^32, the samples of one seed, got {HUGE}"),
        (
            ["sample", "run", "--steps-per-level", MANY],
            "steps_per_level times num_levels must be less than 2^32, got a number of 400 digi",
        ),
    ],
)
def test_one_line_names_the_option(line, message, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cli.main(line)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    "error, arguments, line",
    [
        (OSError(13, "Permission denied", "/data/a/b"), ["--out", "/data/a"], "/data/a/b: Permission denied (--out)"),
        (OSError(13, "Permission denied", "/data/ab"), ["--out=/data/a"], "/data/ab: Permission denied"),
        (OSError(28, "No space left on device"), [], "No space left on device"),
        (ValueError("one\n  two"), [], "one two"),
        (
            ValueError("go on with: fastscore train toy --out 'a  b'"),
            [],
            "go on with: fastscore train toy --out 'a  b'",
        ),
        (ValueError("a" * 900 + "b" * 900), [], "a" * 700 + " ... " + "b" * 700),
        (OverflowError("too large"), ["--lr", "1e308", "--keep", "3"], "a number is too large: --lr 1e308 (too large)"),
        (
            RuntimeError("overflow\nat 0x7f"),
            [f"--width={MANY}"],
            "a number is too large: --width (400 digits) (overflow)",
        ),
        (
            MemoryError("no room"),
            ["--steps", "2147483648", "--num", "9", "--seed", "12345678", "--iterations=3000000"],
            "out of memory: use a smaller --batch-size, or train with a smaller --width, or a smaller number than --steps "
            "2147483648 (no room)",
        ),
        (
            MemoryError("no room"),
            ["reproduce", "cifar10", "--data", "photos"],
            "out of memory: use a smaller --sampling-batch-size, --batch-size, or train with a smaller --width (no room)",
        ),
        (RuntimeError("shapes do not agree"), ["--keep", "3"], None),
        (ZeroDivisionError(), [], None),
        (KeyError("x"), ["--lr", "1e308"], None),
    ],
)
def test_reports(error, arguments, line):
    """None: a fault of the program, which keeps its traceback."""
    assert terminal.report(error, arguments) == line


def test_next_lines_can_be_pasted(tmp_path, capsys):
    folder = tmp_path / "it's a run; $HOME"
    cli.main(
        [
            "train",
            "toy",
            "--data",
            "two_moons",
            "--iterations",
            "1",
            "--width",
            "4",
            "--batch-size",
            "4",
            "--steps-per-level",
            "1",
            "--num-levels",
            "3",
            "--out",
            str(folder),
            "--quiet",
        ]
    )
    for _ in range(3):  # train, sample and evaluate each name the next command
        following = capsys.readouterr().out.rstrip().splitlines()[-1].removeprefix("next: fastscore ")
        arguments = shlex.split(following)
        assert arguments[1] == str(folder)
        cli.main([*arguments, "--quiet"])


def test_next_lines_can_be_pasted_after_a_toy_which_is_evaluated_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(
        [
            "train",
            "toy",
            "--iterations",
            "1",
            "--width",
            "4",
            "--batch-size",
            "4",
            "--steps-per-level",
            "1",
            "--num-levels",
            "3",
            "--out=-dash",
            "--quiet",
        ]
    )
    for command in ("sample ./-dash", "evaluate ./-dash", "sample ./-dash"):
        following = capsys.readouterr().out.rstrip().splitlines()[-1].removeprefix("next: fastscore ")
        assert following.startswith(command)
        cli.main([*shlex.split(following), "--quiet"])


def test_images_from_a_folder_whose_path_is_no_text(tmp_path, monkeypatch, capsys):
    """What the run says of its data could not be printed, after it had begun."""
    pictures = tmp_path / os.fsdecode(b"\xff") / "pictures"
    pictures.mkdir(parents=True)
    monkeypatch.chdir(pictures.parent)
    with pytest.raises(SystemExit):
        cli.main(["train", "digits", "--data", "folder", "--data-dir", "pictures", "--out", "run"])
    assert "--data-dir must be valid UTF-8" in capsys.readouterr().err and not Path("run").exists()


def test_flags_of_a_preset_come_in_pairs_under_one_text(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "digits", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for flag in ("decay", "denoise", "flip", "dequantize", "download"):
        assert f"--{flag}, --no-{flag} " in text
    assert "--no-resume" not in text and "--no-quiet" not in text and "(default: None)" not in text


@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr"])
def test_closed_streams(closed, place, monkeypatch):
    """``>&-`` leaves None there."""
    monkeypatch.setattr(sys, closed, None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["sample", str(place / "nowhere")])
    assert stop.value.code == 2
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert stop.value.code == 0


@pytest.fixture
def program(tmp_path):
    """Starts the program with a ``fastscore.experiment.cli`` made of two texts: its module, and the body of main."""
    started = []

    def start(module: str, main: str) -> subprocess.Popen:
        folder = tmp_path / "fastscore" / "experiment"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").touch()
        (folder / "__init__.py").touch()
        (folder / "cli.py").write_text(f"import sys, time\n{module}\ndef main():\n    {main}\n")
        process = subprocess.Popen(
            [sys.executable, launch.__file__],
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "now\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


NAP = "print('now', flush=True); time.sleep(60)"


def test_ctrl_c_while_the_package_is_imported(program):
    """Even where the import would turn the exception into another, as those of compiled modules do."""
    process = program(f"try:\n    {NAP}\nexcept BaseException:\n    raise ImportError from None", "pass")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "\nstopped\n") and process.returncode == 130


@pytest.mark.parametrize("number, code, seen", [(signal.SIGINT, 3, "KeyboardInterrupt"), (signal.SIGTERM, 143, "Exit")])
def test_signals_in_a_command_unwind_it(number, code, seen, program):
    body = (
        "try:\n        " + NAP + "\n    except KeyboardInterrupt:\n        print('KeyboardInterrupt'); sys.exit(3)"
        "\n    except SystemExit:\n        print('Exit'); raise"
    )
    process = program("", body)
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == f"{seen}\n" and process.returncode == code


def test_the_program_is_the_command_line(place, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["fastscore", "sample", str(place / "nowhere")])
    try:
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(launch.__file__, run_name="__main__")
        assert stop.value.code == 2 and "is not a run folder" in capsys.readouterr().err
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_ends_with_its_block_however_that_ends(shown, monkeypatch, capsys):
    """Else the text of the error stands behind it in its line."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with (
        pytest.raises(ZeroDivisionError),
        progress.counting(30_000, desc="features", unit="image", progress=shown) as count,
    ):
        clock[0] += 2.0
        count(24_690)
        raise ZeroDivisionError
    line = "features: 24,690 of 30,000 (82 %), 12,340 image/s, 0 s left\n"
    assert capsys.readouterr().err == (line if shown else "")


def test_a_log_gets_lines_and_a_terminal_a_bar(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    bar = progress.progress_bar(200, desc="training", unit="it", initial=40)
    for i in range(160):
        clock[0] += 1.0
        if i == 99:
            bar.set_postfix(loss="0.25")
        bar.update()
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "training: 100 of 200 (50 %), 1 it/s, 1 min 40 s left",
        "training: 160 of 200 (80 %), 1 it/s, 40 s left, loss 0.25",
        "training: 200 of 200 (100 %), 1 it/s, loss 0.25",
    ]
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "require", lambda *names: type("T", (), {"tqdm": staticmethod(lambda **o: o)}))
    assert progress.progress_bar(5, desc="d", unit="u") == {"total": 5, "initial": 0, "desc": "d", "unit": "u"}


def test_a_command_in_a_log_file_writes_no_carriage_return(place, tmp_path, capsys):
    cli.main(["sample", str(place / "run"), "--num", "3", "--out", str(tmp_path)])
    err = capsys.readouterr().err
    assert err.startswith("sampling: 3 of 3 (100 %), ") and err.count("\n") == 1 and "\r" not in err
