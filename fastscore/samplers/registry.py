"""The samplers by name. To add one, write a file with its entry, and add a line here."""

from __future__ import annotations

from typing import Any

from ._sampler import Sampler
from .adaptive_ode import ADAPTIVE_ODE
from .ancestral import ANCESTRAL
from .annealed import ANNEALED
from .consistent import CONSISTENT
from .ddim import DDIM
from .dpm_solver import DPM, DPM_SDE
from .flow_ode import FLOW_ODE
from .gotta_go_fast import GOTTA_GO_FAST
from .heun import HEUN
from .predictor_corrector import PREDICTOR_CORRECTOR
from .reverse_sde import REVERSE_SDE

#: Every sampler that draws from a trained network alone, by name.
SAMPLERS: dict[str, Sampler] = {
    entry.name: entry
    for entry in (
        ANNEALED,
        CONSISTENT,
        DPM_SDE,
        DPM,
        DDIM,
        ANCESTRAL,
        REVERSE_SDE,
        HEUN,
        PREDICTOR_CORRECTOR,
        FLOW_ODE,
        ADAPTIVE_ODE,
        GOTTA_GO_FAST,
    )
}
#: The one of a run whose config names none, as none did before it could.
DEFAULT = ANNEALED.name
#: The one that a run's settings of sampling describe: the published recipe, with which others are compared.
RECIPE = ANNEALED.name
#: The one whose samples are the best of few evaluations: what most presets name.
BEST_OF_FEW = DPM_SDE.name
#: Those among which somebody with a number of hours chooses, with the options by which they draw in few evaluations.
SHORTLIST: dict[str, dict[str, Any]] = {
    RECIPE: {},
    DPM_SDE.name: {"steps": 50},
    DDIM.name: {"steps": 100},
    HEUN.name: {"steps": 18},
    PREDICTOR_CORRECTOR.name: {},
}


def table() -> str:
    """The samplers as a table in Markdown: name, title, network evaluations per sample, options, source."""
    rows = [["`--sampler`", "", "network evaluations per sample", "options", "source"], ["---"] * 5]
    for entry in SAMPLERS.values():
        options = ", ".join(f"`{option.name}`" for option in entry.options)
        rows.append([f"`{entry.name}`", f"{entry.title}: {entry.summary}", entry.cost, options, entry.source])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def options_table() -> str:
    """The samplers' options as a table in Markdown: name, what it is, default, the samplers that take it."""
    rows = [["option", "what it is", "default", "samplers"], ["---"] * 4]
    for name in dict.fromkeys(option.name for entry in SAMPLERS.values() for option in entry.options):
        takers = {e.name: option for e in SAMPLERS.values() for option in e.options if option.name == name}
        for option in dict.fromkeys(takers.values()):
            default = "as the run was trained" if option.setting else f"`{option.default}`"
            whose = ", ".join(f"`{taker}`" for taker, its in takers.items() if its == option)
            rows.append([f"`{name}`", option.help, default, whose])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
