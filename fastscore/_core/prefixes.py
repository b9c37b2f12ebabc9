"""Names of parameters, whatever a network was wrapped in: DataParallel, DDP, FSDP, torch.compile, or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

#: Put in by torch.compile, FSDP and checkpoint_wrapper, at any depth; no network names a module so.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """{the name without what wrappers add: the name}.

    ``module.`` (DataParallel, DDP) is taken off the front where every name begins with it, since a network may well
    have a module of that name.

    >>> plain_names(["module._orig_mod.a.weight", "module._orig_mod.a.bias"])
    {'a.weight': 'module._orig_mod.a.weight', 'a.bias': 'module._orig_mod.a.bias'}
    """
    given = list(names)
    plain = [".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in given]
    while plain and all(name.startswith("module.") for name in plain):
        plain = [name.removeprefix("module.") for name in plain]
    if len(set(plain)) != len(given):  # two would become one
        plain = given
    return dict(zip(plain, given))


def renamed(weights: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    """``weights`` under the ``names`` of a network's state_dict, where the two differ only by what wrappers add.

    What has no counterpart keeps its plain name.
    """
    own = plain_names(names)
    return {own.get(name, name): weights[given] for name, given in plain_names(weights).items()}
