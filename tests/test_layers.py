"""Who may use whose names: what begins with an underscore stays in its module, or in the package of a module so named."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "fastscore"
MODULES = sorted(p for p in ROOT.rglob("*.py") if "kernels" not in p.relative_to(ROOT).parts)
EXTENSIONS = ("_C", "_C_cuda")  # modules without a file of source


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_module(name: tuple[str, ...], root: Path) -> bool:
    place = root.parent.joinpath(*name)
    return place.is_dir() or place.with_suffix(".py").exists() or name[-1] in EXTENSIONS


def out_of_reach(module: tuple[str, ...], here: tuple[str, ...]) -> bool:
    """Whether a part of ``module`` is private to a package that ``here`` is not in."""
    return any(is_private(part) and here[:i] != module[:i] for i, part in enumerate(module))


def foreign_names(path: Path, root: Path = ROOT) -> set[str]:
    """The private names that the module at ``path`` takes from other modules of the package at ``root``.

    A private module belongs to the package that it lies in, with all below: ``_core`` to all of fastscore.
    """
    tree, found, modules = ast.parse(path.read_text()), set(), {}
    here = path.relative_to(root.parent).with_suffix("").parts
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == root.name):
            start = here[: len(here) - node.level] if node.level else ()
            source = (*start, *node.module.split(".")) if node.module else start
            for alias in node.names:
                full = (*source, alias.name)
                if is_module(full, root):
                    modules[alias.asname or alias.name] = full
                elif is_private(alias.name):
                    found.add(".".join(full))
                if out_of_reach(modules.get(alias.asname or alias.name, source), here):
                    found.add(".".join(modules.get(alias.asname or alias.name, source)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and is_private(node.attr):
            full = (*modules.get(node.value.id, ()), node.attr)
            if len(full) > 1 and (not is_module(full, root) or out_of_reach(full, here)):
                found.add(".".join(full))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_stay_at_home(path):
    assert foreign_names(path) == set()


def test_the_test_finds_them(tmp_path):
    package = tmp_path / "fastscore"
    for name, text in {
        "_core/checks.py": "",
        "a/_inner.py": "",
        "a/plots.py": "",
        "a/pictures.py": "from .plots import _INK, size\nfrom . import plots, _inner\nplots._figure()\nplots.__name__",
        "b.py": "from .a._inner import x\nfrom .a import plots as p, _inner as q\nfrom ._core import checks\np.y, q.z\n",
        "c.py": "from . import a\na._inner.x\nfrom fastscore.a.plots import _y\nimport numpy as a2\na2._core\n",
    }.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    assert foreign_names(package / "a" / "pictures.py", package) == {
        "fastscore.a.plots._INK",
        "fastscore.a.plots._figure",
    }
    assert foreign_names(package / "b.py", package) == {"fastscore.a._inner"}
    assert foreign_names(package / "c.py", package) == {"fastscore.a._inner", "fastscore.a.plots._y"}
