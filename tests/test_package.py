"""The package as it is installed."""

import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastscore as fs

from .conftest import LONGEST, place_of

ROOT = Path(__file__).parent.parent


def python(code: str, **kwargs) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **kwargs).stdout


def test_import_needs_torch_and_numpy_alone(tmp_path):
    """Nothing optional is imported, and no application; it works from any folder. The trainer draws no samples."""
    optional = [
        "torchvision",
        "safetensors",
        "tqdm",
        "matplotlib",
        "PIL",
        "sklearn",
        "tyro",
        "filelock",
        "torch_fidelity",
        "scipy",
        "triton",
    ]
    code = (
        "import torch, sys; before = set(sys.modules); import fastscore; print(*set(sys.modules) - before); "
        "import fastscore.experiment.train; print(*sys.modules); import fastscore.kernels as k; print(k.__name__)"
    )
    library, trainer, kernels = (line.split() for line in python(code, cwd=tmp_path).splitlines())
    assert not {name.split(".")[0] for name in library} & set(optional)
    assert "fastscore" in library and kernels == ["fastscore.kernels"]
    assert not [name for name in library if name.startswith(("fastscore.experiment", "fastscore.evaluation"))]
    sampling = {f"fastscore.experiment.{name}" for name in ("sample", "sample_folder", "trained_run")}
    assert not [name for name in trainer if name in sampling or name.startswith("fastscore.evaluation")]


def test_a_missing_package_is_reported_on_use(tmp_path):
    """All modules load without the packages that they use; what needs one says how to get it."""
    code = """
import sys
absent = ["matplotlib", "matplotlib.figure", "PIL", "PIL.Image", "torchvision", "torchvision.utils", "sklearn",
          "sklearn.svm", "sklearn.datasets", "safetensors", "safetensors.torch", "tqdm", "tyro"]
sys.modules.update(dict.fromkeys(absent))
import fastscore as fs, torch
for name in fs._LAZY:
    getattr(fs, name)
for name in fs.experiment.__all__:
    getattr(fs.experiment, name)
images = torch.rand(20, 1, 8, 8)
for use in (lambda: fs.evaluation.pictures.save_bars({"a": [1, 2]}, "x.png"), lambda: fs.evaluation.pictures.save_grid(images, "x.png"),
            lambda: fs.evaluation.features.make("classifier", images=images, labels=torch.arange(20) % 2),
            lambda: fs.data.load("digits")):
    try:
        use()
    except fs.MissingDependency as error:
        print("pip install --no-build-isolation '.[train]'" in str(error))
print(float(fs.evaluation.metrics.frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))))
"""
    assert python(code, cwd=tmp_path).split() == ["True"] * 4 + ["9.0"]


def test_metadata():
    metadata = importlib.metadata.metadata("fastscore-torch")
    assert metadata["License-Expression"] == "MIT" and metadata["Requires-Python"] == ">=3.10"
    plain = [r for r in importlib.metadata.requires("fastscore-torch") if "extra ==" not in r]
    assert sorted(r.split(">")[0] for r in plain) == ["numpy", "torch"]
    assert (Path(fs.__file__).parent / "py.typed").exists()
    assert fs.__version__ == importlib.metadata.version("fastscore-torch")
    assert f"\nversion: {fs.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {fs.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_program_tells_its_version(capsys):
    from fastscore.experiment import cli

    cli.main(["--version"])
    assert capsys.readouterr().out == f"fastscore {fs.__version__}\n"


def test_public_names_exist():
    for name in fs.__all__:
        assert hasattr(fs, name), name
    public = {m.name for m in pkgutil.iter_modules(fs.__path__) if not m.name.startswith("_")} - {"kernels"}
    assert {"compat", "data", "evaluation", "experiment", "models"} < public
    told = python(
        "import fastscore as fs; names = dir(fs); print(*names); print(*fs._LAZY & set(vars(fs))); "
        f"print([getattr(fs, name).__name__ for name in {sorted(public)}])"
    ).splitlines()
    assert public | set(fs.__all__) <= set(told[0].split())
    assert told[1] == ""  # none was loaded before it was asked for
    assert told[2] == str([f"fastscore.{name}" for name in sorted(public)])
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fs.nothing  # noqa: B018


@pytest.mark.parametrize(
    "path",
    sorted(p for folder in ("fastscore", "kernels", "tests", "benchmarks") for p in (ROOT / folder).rglob("*.py")),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_text_speaks_of_the_project_alone(path):
    text = path.read_text()
    for foreign in ("/" + "work/", "/" + "tmp/w/", "/" + "root/"):
        assert foreign not in text


def test_the_longest_files_begin_first(request):
    """Those that are named are there; what was collected is in that order; the runner does not sort by numbers of tests."""
    assert all((ROOT / "tests" / name).is_file() for name in LONGEST) and len(set(LONGEST)) == len(LONGEST)
    places = [place_of(item.path) for item in request.session.items]
    assert places == sorted(places)
    assert place_of(ROOT / "tests" / LONGEST[1]) == 1 and place_of(Path(__file__)) == len(LONGEST)
    assert re.search(r"pytest .*-n auto --dist loadfile --no-loadscope-reorder\n", (ROOT / "Makefile").read_text())


def readme_code() -> str:
    """The Python blocks of the README, one after the other."""
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) >= 3
    return "\n".join(block.split("```")[0] for block in blocks)


def test_readme_code_runs(tmp_path):
    python(readme_code(), cwd=tmp_path)
