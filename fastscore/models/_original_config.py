"""What a run of the original NCSN or NCSNv2 says about its network: its config.yml, read without running anything.

Both write ``RUN/logs/DOC/config.yml`` beside ``RUN/logs/DOC/checkpoint_*.pth``: a YAML dump of Namespaces, full of
``!!python/object`` tags. Flat sections of scalars are wanted of it, so these lines are read here, tags are passed
over, and no YAML package is needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import schedules
from .._core import checks
from .._core.errors import CheckpointError
from .layers import ACTIVATIONS

ALGORITHMS = ("dsm", "ssm")  # what training.algo may be, as the objectives are called here

#: The options of a network that its weights do not tell, and their published values.
PUBLISHED: dict[str, Any] = {"nonlinearity": "elu", "rescaled": False, "logit_transform": False}
_SECTIONS = ("data", "model", "training", "optim", "sampling")  # the first two are in every one
_SECTION = {"nonlinearity": "model", "rescaled": "data", "logit_transform": "data"}
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None, "~": None}
_CURE = "pass config=PATH of the right one; with all of nonlinearity=, rescaled= and logit_transform= none is read"


@dataclass(frozen=True)
class Options:
    """The options of a checkpoint's network.

    Attributes:
        values: name to value.
        sources: name to where it is from: ``"given"``, ``"assumed"``, or the path of the config.
        sections: the config's ``data``, ``model``, ``training``, ``optim`` and ``sampling``; empty where none was read.
        path: of the config, or None.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    sections: dict[str, dict[str, Any]]
    path: Path | None


def find_options(checkpoint: Path, config: str | os.PathLike[str] | None, given: Mapping[str, Any]) -> Options:
    """The options ``given`` (not None), else of the config (by default config.yml beside the file), else as published.

    Raises:
        ValueError, TypeError: a given option is not what it may be.
        CheckpointError: the config is missing, unreadable, or names what the networks here do not have.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name == "nonlinearity":
            checks.one_of(name, value, ACTIVATIONS)
        elif not isinstance(value, bool):
            raise TypeError(f"{name} must be True, False or None, got {checks.describe(value)}")
    path = Path(config) if config is not None else checkpoint.parent / "config.yml"
    if config is None and (len(given) == len(PUBLISHED) or not path.is_file()):
        return Options(
            {**PUBLISHED, **given}, {name: "given" if name in given else "assumed" for name in PUBLISHED}, {}, None
        )
    sections = _read(path)
    _refuse_unknown(path, sections)
    named = {name: sections[_SECTION[name]][name] for name in PUBLISHED if name in sections[_SECTION[name]]}
    found = {**PUBLISHED, **named}
    found["nonlinearity"] = str(found["nonlinearity"]).lower()
    for name, value in found.items():
        if not (value in ACTIVATIONS if name == "nonlinearity" else isinstance(value, bool)):
            raise CheckpointError(f"{path}: {name} is {value!r}, which no network here has; {_CURE}")
    sources = {name: str(path) if name in named else "assumed" for name in PUBLISHED}
    return Options({**found, **given}, {**sources, **dict.fromkeys(given, "given")}, sections, path)


def of_the_first_repository(options: Options) -> Options:
    """The same for a checkpoint of the first repository, which has no such choice as nonlinearity or rescaled: where
    its config names neither, they are as published."""
    fixed = {"nonlinearity", "rescaled"}
    if options.path is None or not all(name not in options.sections[_SECTION[name]] for name in fixed):
        return options
    return replace(
        options,
        sources={
            name: str(options.path) if source == "assumed" and name in fixed else source
            for name, source in options.sources.items()
        },
    )


def check_fit(options: Options, sizes: Mapping[str, int], sigmas: Tensor | None) -> None:
    """Raise CheckpointError where the config is of another network than the weights (of these sizes and levels)."""
    stated = {**options.sections.get("data", {}), **options.sections.get("model", {})}
    wrong = [
        f"{name} is {stated[name]} there and {size} in the weights"
        for name, size in sizes.items()
        if name in stated and stated[name] != size
    ]
    if sigmas is not None:
        for name, value in (("sigma_begin", float(sigmas[0])), ("sigma_end", float(sigmas[-1]))):
            if isinstance(stated.get(name), (int, float)) and abs(stated[name] - value) > 1e-4 * abs(value):
                wrong.append(f"{name} is {stated[name]} there and {value:.6g} in the weights")
    if wrong:
        raise CheckpointError(
            f"{options.path} is not the configuration of this checkpoint: {'; '.join(wrong)}; {_CURE}"
        )


def noise_levels(options: Options, count: int) -> Tensor | None:
    """The noise levels that the config describes, which the weights of NCSN do not hold; None where it does not."""
    model = options.sections.get("model", {})
    begin, end, kind = (model.get(name) for name in ("sigma_begin", "sigma_end", "sigma_dist"))
    makers = {
        None: schedules.geometric_sigmas,
        "geometric": schedules.geometric_sigmas,
        "uniform": schedules.uniform_sigmas,
    }
    if kind not in makers or begin is None or end is None:
        return None
    try:
        return makers[kind](begin, end, count)
    except (TypeError, ValueError):
        return None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The scalars of the sections."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; {_CURE}") from error
    text = re.sub(r"(?m)(^|[ \t])#.*$", "", text)  # comments
    text = re.sub(r"[!&][^\s{}]+", "", text)  # tags and anchors
    sections = {}
    for name in _SECTIONS:
        found = re.search(rf"(?ms)^{name}:(.*?)(?=^\S|\Z)", text)
        body = found[1] if found else ""
        if body.lstrip().startswith("{"):
            pairs = re.findall(r"(\w+):\s*([^,{}]*)", body)
        else:
            lines = re.findall(r"(?m)^([ \t]+)(\w+):[ \t]*(.*)$", body)
            pairs = [(key, value) for indent, key, value in lines if indent == lines[0][0]]
        sections[name] = {key: _scalar(value) for key, value in pairs}
    if not sections["data"] or not sections["model"]:
        raise CheckpointError(
            f"{path} is no configuration of ermongroup/ncsn or ncsnv2: it must have the sections "
            f"data and model; {_CURE}"
        )
    return sections


def _scalar(text: str) -> Any:
    """A YAML scalar: a boolean, null, a number, or a string."""
    text = text.strip()
    if text[:1] in ("'", '"'):
        return text[1:-1]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _refuse_unknown(path: Path, sections: Mapping[str, Mapping[str, Any]]) -> None:
    model = sections["model"]
    norm = model.get("normalization", "InstanceNorm++")
    if norm != "InstanceNorm++":
        raise CheckpointError(
            f"{path}: normalization is {norm!r}; the networks here have InstanceNorm++ alone, as "
            "every published configuration"
        )
    if model.get("spec_norm", False) is not False:
        raise CheckpointError(
            f"{path}: spec_norm is {model['spec_norm']!r}; the networks here have no spectral "
            "normalization, as no published configuration has"
        )
