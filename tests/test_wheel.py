"""The built wheel, installed with its dependencies into an empty environment outside the tree: ``make test-wheel``."""

import os
import subprocess
import tarfile
import venv

import pytest
import torch

import fastscore as fs

from .test_package import ROOT, readme_code

DIST = os.environ.get("FASTSCORE_DIST")  # the folder that `make wheel` wrote
pytestmark = pytest.mark.skipif(not DIST, reason="needs a wheel: make test-wheel")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """run(*command): what a program of that environment prints."""
    place = tmp_path_factory.mktemp("installed")
    (wheel,) = (ROOT / DIST).glob("*.whl")
    venv.create(place / "venv", with_pip=True)
    programs = place / "venv" / "bin"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str) -> str:
        command = (str(programs / command[0]), *command[1:])
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    beside = f"torch=={torch.__version__.partition('+')[0]}"
    run("python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", beside, f"{wheel}[train]")
    return run


def test_readme_code_runs(installed):
    installed("python", "-c", readme_code())


def test_it_is_the_wheel_that_runs_with_its_extension(installed):
    where = installed("python", "-c", "import fastscore, fastscore.kernels as k; print(fastscore.__file__, k.__file__)")
    assert all("venv" in path and str(ROOT) not in path for path in where.split())
    assert installed("fastscore", "--version") == f"fastscore {fs.__version__}\n"
    native = "from fastscore._core import backends; print(backends.problem('native') or 'there')"
    assert installed("python", "-c", native) == "there\n"


def test_one_wheel_serves_every_python_from_3_10_on():
    (wheel,) = (ROOT / DIST).glob("*.whl")
    assert wheel.name.startswith(f"fastscore_torch-{fs.__version__}-cp310-abi3-linux_")


def test_the_source_distribution_has_all_that_git_has():
    """The wheel is built from it, so what is compiled is there; the tests and the documentation are too."""
    (archive,) = (ROOT / DIST).glob("*.tar.gz")
    with tarfile.open(archive) as sdist:
        there = {name.partition("/")[2] for name in sdist.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    hidden = {path for path in listed if path.startswith(".")}
    assert set(listed) - hidden <= there, sorted(set(listed) - hidden - there)
    assert not [name for name in there if name.endswith((".so", ".pyc"))]
