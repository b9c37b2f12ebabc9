"""The score and the trace of its Jacobian at a point of a solve, in groups of independent estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from ..ops import Coloring, Probes, fill_probes
from ..ops import probe_dot as dot
from ..rng import Philox
from ..trace import modules
from ..trace.coloring import coloring_for
from ..trace.hutchinson import quadratic_forms
from ..trace.jacobian_trace import estimate
from ..trace.messages import OF_LIKELIHOOD
from ..trace.products import Products

METHODS = ("auto", "rademacher", "gaussian", "probing", "exact")
PROBES = ("renewed", "fixed")
Exact = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class At(NamedTuple):
    """At x: the score s [B, ...], and tr(ds/dx) by probes of this evaluation alone and by those of the whole solve."""

    score: Tensor
    drawn: Tensor  # [G, B], or [0, B] where the steady ones serve
    steady: Tensor  # [H, B]


class Divergence:
    """tr(ds/dx) for x of one shape, exactly or by probes.

    Args:
        x: the samples [B, ...].
        method, num_probes, blocks: as for :func:`fastscore.jacobian_trace`.
        probes: ``"renewed"`` or ``"fixed"``.
        rng: takes the steps of the probes that stay; each :meth:`__call__` those of its own.
        exact: exact(x, c) -> (score, trace) in place of all that, or None.

    Attributes:
        exact: whether there are no probes.
        products: how many evaluations of the score, or products with its Jacobian, were asked for, for each sample.
    """

    def __init__(
        self, x: Tensor, method: str, num_probes: int, blocks: int, probes: str, rng: Philox, exact: Exact | None
    ):
        checks.one_of("method", method, METHODS)
        self.renewed = checks.one_of("probes", probes, PROBES) == "renewed"
        num_probes, blocks = checks.integer("num_probes", num_probes, low=1), checks.integer("blocks", blocks, low=1)
        size = x.shape[1:].numel()
        if method == "auto":
            method = "exact" if size <= num_probes else "probing" if x.dim() in (3, 4) else "rademacher"
        self.exact, self.products, self._own, self._rng = method == "exact" or exact is not None, 0, exact, rng
        self._layers: modules.Layers | None = None
        if self.exact:
            return
        self._distribution, self._groups, self._coloring = "rademacher", num_probes, None
        if method == "probing":
            if num_probes % blocks or num_probes > size or blocks < 2:
                raise ValueError(
                    f"num_probes must be a multiple of blocks, blocks at least 2, and num_probes at most the {size} elements of "
                    f"a sample, where method is 'probing', got num_probes={num_probes} and blocks={blocks}"
                )
            self._groups, self._coloring = blocks, coloring_for("lattice", tuple(x.shape[1:]), num_probes // blocks)
        elif num_probes < 2:
            raise ValueError("num_probes must be at least 2, of which an error bar can be made, got 1")
        else:
            self._distribution = method
        self._num_probes, self._first = num_probes, Philox(rng.seed, step=rng.step, sample_offset=rng.sample_offset)
        self._taken = 1 if self.renewed else self._draws
        rng.step += self._taken

    @property
    def _draws(self) -> int:
        return self._groups if self._coloring is not None else self._num_probes

    def __call__(self, f: Callable[[Tensor], Tensor], x: Tensor, c: Tensor, *, steady: bool) -> At:
        """At ``x``, where the score is f; ``steady``: by the probes of the whole solve alone."""
        self.products += 1
        if self._own is not None:
            score, trace = self._own(x, c)
            checks.like("divergence(x, c)[0]", score, "x", x)
            if not isinstance(trace, Tensor) or trace.shape != x.shape[:1]:
                raise ValueError(f"divergence(x, c)[1] must have shape ({len(x)},), got {checks.describe(trace)}")
            return self._at(score, [], [trace[None]])
        if self._layers is None:  # of one network, whatever the c that each f tells it
            self._layers = modules.check(f, "vjp", "score_fn")
        if self.exact:
            found = estimate(
                OF_LIKELIHOOD,
                self._layers,
                f,
                x,
                method="exact",
                num_probes=1,
                mode="vjp",
                chunk_size=None,
                rng=None,
                create_graph=False,
            )
            self.products += found.evaluations - 1
            return self._at(found.output, [], [found.value[None]])
        with torch.no_grad():
            products = Products(f, x, layers=self._layers, words=OF_LIKELIHOOD)
            stays = Philox(self._first.seed, step=self._first.step, sample_offset=self._first.sample_offset)
            drawn = [] if steady or not self.renewed else [self._grouped(products, x, self._rng)]
            if self.renewed:
                one = Probes(x, 1, stays)
                kept = [dot(products(fill_probes(one)), one)]
            else:
                kept = [self._grouped(products, x, stays)]
        assert products.output is not None  # there was a product
        self.products += products.evaluations - 1
        return self._at(products.output, drawn, kept)

    def _grouped(self, products: Products, x: Tensor, rng: Philox) -> Tensor:
        coloring: Coloring | None = self._coloring
        probes = Probes(x, self._num_probes, rng, distribution=self._distribution, coloring=coloring)
        forms = quadratic_forms(products, probes)
        return forms if coloring is None else forms.unflatten(0, (self._groups, -1)).sum(1)

    def _at(self, score: Tensor, drawn: list[Tensor], steady: list[Tensor]) -> At:
        """In float64, of which integrals are made."""
        empty = torch.empty(0, len(score), dtype=torch.float64, device=score.device)
        one, other = (parts[0].double() if parts else empty for parts in (drawn, steady))
        return At(score, one, other)
