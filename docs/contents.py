"""What the library itself lists, as parts of the site's pages: its public names, operators, samplers and presets.

Each function that gives a text gives Markdown; a page includes it by ``{generated} its_name``, with arguments after it.
"""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

import tables

import fastscore as fs
from fastscore._core.operators import OPERATORS, Operator
from fastscore.losses import objectives as objectives_registry
from fastscore.paths import registry as paths_registry
from fastscore.samplers import registry

#: Whose public names the reference must hold.
PUBLIC = (
    *(
        "losses",
        "paths",
        "conversions",
        "samplers",
        "guidance",
        "trace",
        "likelihood",
        "diagnostics",
        "schedules",
        "models",
        "data",
        "compat.ncsn",
        "compat.ncsnv2",
        "compat.patch",
    ),
    *(f"evaluation.{name}" for name in fs.evaluation.__all__),
    *(f"experiment.{name}" for name in fs.experiment.__all__),
)


def operators() -> str:
    """The reference of every operator, by the name that users call it by."""
    from fastscore import ops

    lines = ["```{eval-rst}"]
    for name in ops.__all__:
        home = "fastscore" if hasattr(fs, name) else "fastscore.ops"
        kind = "class" if inspect.isclass(getattr(ops, name)) else "function"
        lines += [f".. auto{kind}:: {home}.{name}", *(["   :members:"] if kind == "class" else []), ""]
    return "\n".join([*lines, "```"])


def module(name: str, without: str = "") -> str:
    """The reference of a module: its text, its functions and classes, and the constants that it makes public."""
    lines = ["```{eval-rst}", f".. automodule:: {name}", "   :members:", f"   :exclude-members: {without}", ""]
    for constant in constants(importlib.import_module(name)):
        lines += [f".. autodata:: {name}.{constant}", ""]
    return "\n".join([*lines, "```"])


def constants(of: ModuleType) -> list[str]:
    """The names in ``__all__`` that stand for neither a module, a function nor a class."""
    names = {name: getattr(of, name) for name in getattr(of, "__all__", ())}
    return [
        name
        for name, value in names.items()
        if not (inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value))
    ]


def modules(package: str) -> str:
    """The reference of every module that a package makes public."""
    names = importlib.import_module(package).__all__
    return "\n\n".join(f"## {name}\n\n{module(f'{package}.{name}')}" for name in names)


def backends() -> str:
    """Which backend serves which operator on which device, the default first."""
    devices = {"cpu": "on a CPU", "cuda": "on a CUDA GPU"}
    rows = [
        [f"`{name}`", *(", ".join([*_serving(operator, device), "reference"]) for device in devices)]
        for name, operator in OPERATORS.items()
    ]
    return tables.markdown(["operator", *devices.values()], rows, words=3)


def _serving(operator: Operator, device: str) -> list[str]:
    return [backend for backend, kinds in operator.backends.items() if device in kinds]


def streams() -> str:
    """What each stream of the random numbers is for: the texts beside the members of the enumeration."""
    texts = dict(re.findall(r"(?m)^    ([A-Z]+) = \d+  #: (.*)$", inspect.getsource(fs.Stream)))
    return tables.markdown(
        ["stream", "number", "what is drawn from it"],
        [[f"`{stream.name}`", str(int(stream)), texts[stream.name]] for stream in fs.Stream],
        words=3,
    )


def samplers() -> str:
    """The samplers of the command line, and their options."""
    return f"{registry.table()}\n{registry.options_table()}"


def objectives() -> str:
    """The objectives of the command line, and their options."""
    return f"{objectives_registry.table()}\n{objectives_registry.options_table()}"


def run_paths() -> str:
    """The paths of the command line, and their options."""
    return paths_registry.table()


def scaling() -> str:
    """Several ranks against one process of as many threads, on every machine that they were timed on."""
    found = [path.read_text() for path in sorted(tables.RESULTS.glob("*-scaling.md"))]
    return "\n".join(found) or "*`make bench` has not been run since this was added.*"


def presets() -> str:
    """What ``fastscore train`` can start from."""
    from fastscore.experiment.presets import PRESETS

    return tables.markdown(
        ["preset", "what", "network", "noise levels", "iterations"],
        [
            [
                f"`{name}`",
                text,
                config.model,
                _noise(config),
                f"{config.iterations:,}",
            ]
            for name, (text, config) in PRESETS.items()
        ],
        words=4,
    )


def _noise(config: Any) -> str:
    """Of a preset: its noise levels, or its path."""
    if paths_registry.PATHS[config.path].continuous:
        return f"path `{config.path}`"
    return f"{config.sigma_begin:g} to {config.sigma_end:g}, {config.num_levels}"


def public_names() -> dict[str, Any]:
    """Every name that the reference must document, as users write it, and what it names."""
    modules = {
        "fastscore": fs,
        **{f"fastscore.{path}": importlib.import_module(f"fastscore.{path}") for path in PUBLIC},
    }
    return {f"{path}.{name}": getattr(module, name) for path, module in modules.items() for name in named(module)}


def named(of: ModuleType) -> list[str]:
    """A module's ``__all__`` without modules, or where it has none the functions and classes that it defines."""
    if hasattr(of, "__all__"):
        return [name for name in of.__all__ if not inspect.ismodule(getattr(of, name))]
    return [
        name
        for name, value in vars(of).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == of.__name__
    ]
