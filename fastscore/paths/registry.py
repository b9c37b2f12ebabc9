"""The paths that a network is trained on, by name. To add one, add an entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .._core import checks
from .._core.options import Option, complete
from .makers import edm, levels, rectified, sub_vp, ve, vp_cosine, vp_linear
from .path import Path


@dataclass(frozen=True)
class PathKind:
    """An entry of :data:`PATHS`.

    Args:
        name: its key in the registry, and what the command line calls it.
        title: what it is, in a few words.
        source: authors and year.
        make: ``make(sigmas, **options)``, the path; ``sigmas`` [L] are the noise levels of the run, strictly decreasing.
        takes_sigmas: whether ``make`` takes anything from ``sigmas``; the others have their noise from their options alone.
        keeps_scale: whether alpha is 1, so that annealed Langevin dynamics, which knows no other, can draw from its scores.
        continuous: whether every t between its ends is on it, so that the network must take any sigma.
        options: the options that it takes; ``make`` takes a value for each by name.
    """

    name: str
    title: str
    source: str
    make: Callable[..., Path]
    takes_sigmas: bool = False
    keeps_scale: bool = False
    continuous: bool = True
    options: tuple[Option, ...] = ()

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every option's value, checked: the one of ``given`` (None counts as not given) or its default.

        Raises:
            TypeError, ValueError: a value out of its range, or an option that this path does not take.
        """
        return complete(self.options, given, f"path {self.name!r}")


def _ends(t_max: float) -> tuple[Option, Option]:
    return (
        Option("t_min", float, "Time of the least noise, from which on the path is trained", checks.positive, 1e-3),
        Option("t_max", float, "Time of the most noise, where sampling begins", checks.positive, t_max),
    )


_BETAS = (
    Option("beta_min", float, "Rate beta at t = 0", checks.positive, 0.1),
    Option("beta_max", float, "Rate beta at t = 1", checks.positive, 20.0),
)


def _of_options(maker: Callable[..., Path]) -> Callable[..., Path]:
    return lambda sigmas, **options: maker(**options)


def _of_sigmas(maker: Callable[..., Path]) -> Callable[..., Path]:
    def make(sigmas: Tensor) -> Path:
        return maker(sigma_min=float(sigmas[-1]), sigma_max=float(sigmas[0]))

    return make


#: Every path that ``fastscore train`` can follow, by name.
PATHS: dict[str, PathKind] = {
    kind.name: kind
    for kind in (
        PathKind(
            "levels",
            "noise levels, alpha = 1",
            "Song & Ermon 2019",
            levels,
            takes_sigmas=True,
            keeps_scale=True,
            continuous=False,
        ),
        PathKind(
            "ve",
            "variance exploding, alpha = 1, sigma geometric in t",
            "Song et al. 2021",
            _of_sigmas(ve),
            takes_sigmas=True,
            keeps_scale=True,
        ),
        PathKind(
            "edm", "alpha = 1, sigma = t", "Karras et al. 2022", _of_sigmas(edm), takes_sigmas=True, keeps_scale=True
        ),
        PathKind(
            "vp_linear",
            "variance preserving, beta linear in t",
            "Song et al. 2021",
            _of_options(vp_linear),
            options=(*_BETAS, _ends(1.0)[0]),
        ),
        PathKind(
            "vp_cosine",
            "variance preserving, alpha a quarter of a cosine",
            "Nichol & Dhariwal 2021",
            _of_options(vp_cosine),
            options=(
                Option(
                    "offset",
                    float,
                    "How far into the cosine t = 0 is",
                    lambda name, value: checks.positive(name, value, zero_allowed=True),
                    0.008,
                ),
                *_ends(0.9946),
            ),
        ),
        PathKind(
            "sub_vp",
            "alpha of vp_linear, sigma = 1 - alpha^2",
            "Song et al. 2021",
            _of_options(sub_vp),
            options=(*_BETAS, _ends(1.0)[0]),
        ),
        PathKind(
            "rectified",
            "alpha = 1 - t, sigma = t",
            "Liu et al. 2022; Lipman et al. 2022",
            _of_options(rectified),
            options=_ends(0.999),
        ),
    )
}


def table() -> str:
    """The paths as a table in Markdown: name, title, options, source."""
    rows = [["`--path`", "", "options", "source"], ["---"] * 4]
    for kind in PATHS.values():
        options = ["`sigma_begin`, `sigma_end` of the run"] if kind.takes_sigmas else []
        options += [f"`{option.name}` ({option.default:g})" for option in kind.options]
        rows.append([f"`{kind.name}`", kind.title, ", ".join(options), kind.source])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
