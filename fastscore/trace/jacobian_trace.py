"""jacobian_trace: tr(df/dx) for every sample of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .._core import checks
from ..ops import Coloring
from ..rng import Philox, as_philox
from . import modules
from ._plan import Plan
from .coloring import coloring_for
from .exact import exact
from .hutchinson import hutchinson
from .hutchpp import hutchpp
from .messages import OF_TRACE, Words
from .probing import probing
from .products import DEFAULT_MODE, MODES, Products
from .xtrace import xtrace

METHODS = {
    "rademacher": hutchinson,
    "gaussian": hutchinson,
    "sphere": hutchinson,
    "probing": probing,
    "hutchpp": hutchpp,
    "xtrace": xtrace,
    "exact": exact,
}
BLOCKED = ("probing", "hutchpp", "xtrace")  # those whose error is judged from blocks


class Trace(NamedTuple):
    """What :func:`jacobian_trace` returns.

    Attributes:
        value: tr(df/dx)(x_b), [B]; float64 for a float64 x, else float32.
        stderr: its standard error [B]: NaN where there is one block (or one probe) alone, 0 for ``"exact"``.
        output: f(x), [B, ...].
        evaluations: what was asked of f for each sample: 1 for f(x), 1 for each product with the Jacobian (2 in mode
            ``"fd"``). The f(x) that mode ``"jvp"`` evaluates anew in each chunk is counted once. Of a constant f, 2
            more: it was evaluated beside x.
    """

    value: Tensor
    stderr: Tensor
    output: Tensor
    evaluations: int


def jacobian_trace(
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    method: str = "auto",
    num_probes: int = 8,
    blocks: int = 2,
    coloring: str | Coloring = "lattice",
    mode: str = DEFAULT_MODE,
    shift: float | Tensor | None = None,
    chunk_size: int | None = None,
    rng: Philox | None = None,
    create_graph: bool = False,
    receptive_field: int | None = None,
    fd_step: float | Tensor | None = None,
) -> Trace:
    """tr(df/dx)(x_b) for every sample b, with an error bar: the divergence of a vector field, as of a score.

    Args:
        f: [B, ...] -> [B, ...] of x's shape, each sample by itself (BatchNorm in training mode is refused where it can
            be seen); other arguments of a network by ``functools.partial``. Dropout in training mode draws one mask
            for all the probes of a chunk. The gradient of an energy is :func:`fastscore.energy_score`.
        x: the samples [B, ...]; float16, bfloat16, float32 or float64.
        method: ``"auto"`` is ``"exact"`` where a sample has no more than ``num_probes`` elements, which costs no more;
            else ``"probing"`` for images, [B, H, W] or [B, C, H, W], and ``"rademacher"`` for anything else.

            - ``"rademacher"``, ``"gaussian"``, ``"sphere"``: Hutchinson's estimator; each probe is a block;
            - ``"probing"``: Rademacher probes split into ``num_probes`` / ``blocks`` colours: for images;
            - ``"hutchpp"``, ``"xtrace"``: a sketch of the range and the rest by Hutchinson: for Jacobians of low rank
              (or low rank after ``shift``). A block takes at least 3 products, or an even number;
            - ``"exact"``: D products, or (``receptive_field`` + 1)^2 for each channel; ``num_probes`` is ignored.
        num_probes: products with the Jacobian.
        blocks: independent estimates that they are split into, for ``stderr``; a divisor of ``num_probes``. The
            error bar of 2 blocks has one degree of freedom: it is right on average, and wide for a single sample.
        coloring: ``"lattice"``, or a :class:`fastscore.Coloring` of ``num_probes`` / ``blocks`` colours.
        mode: how products are computed: ``"vjp"`` (J^T v), ``"jvp"`` (J v) or ``"fd"`` (differences). The first is the
            fastest for the networks measured on a CPU, and serves nearly every one; the second takes less memory;
            :mod:`fastscore.trace.products` has the reasons, and what becomes of an f that detaches some of what it
            computes. With the same ``rng`` the values are the same, to rounding (to ``fd_step`` in ``"fd"``), but for
            ``"hutchpp"`` and ``"xtrace"`` where J is not symmetric: they sketch the range of J^T in ``"vjp"``, which
            is another estimate, as good.
        shift: s > 0, a number or [B]: ``"hutchpp"`` and ``"xtrace"`` sketch I + s J (for a score at noise sigma:
            sigma^2). Also where ``fd_step`` comes from.
        chunk_size: probes at a time; 1 uses no ``vmap``. ``None``: as many as make 2^20 elements. The probes, and so
            the values up to rounding, do not depend on it.
        rng: source of the probes; ``"exact"`` takes none. ``None``: seeded from torch's default generator. An rng draws
            new probes at every call: right along an ODE of fixed steps, as for a likelihood, where the errors of the
            steps average out (2.5 to 10 times more accurate than the same probes at every step). A solver that adapts
            its steps, or that is differentiated, needs one and the same function: make the rng anew, ``Philox(seed)``,
            at every call.
        create_graph: record value, stderr and output for autograd, in x and whatever f depends on. Bases and probes
            count as constants there.
        receptive_field: r, for ``"exact"``: no output depends on an input more than r pixels away, in max-norm.
            Checked by other signs, at the price of one sample's trace (not under ``vmap`` or ``torch.compile``).
        fd_step: the most that an element of x is moved in mode ``"fd"``, a number or [B]; ``None``: 0.01
            sqrt(``shift``), that is 0.01 sigma.

    Raises:
        TypeError, ValueError: an argument of the wrong kind, shape or value, or an f that autograd finds cut off from x
            though its values depend on it (see :mod:`fastscore.trace.products`); the message names it.
        NotImplementedError: mode ``"jvp"`` met an operation without a forward-mode rule.
        RuntimeError: mode ``"vjp"``, and torch.autograd does not differentiate f.

    Example:
        >>> import fastscore as fs
        >>> t = fs.jacobian_trace(lambda x: -3 * x, torch.zeros(2, 50), rng=fs.Philox(0))
        >>> t.value, t.evaluations
        (tensor([-150., -150.]), 9)
    """
    layers = modules.check(f, mode, OF_TRACE.name)
    check_x(x)
    checks.one_of("mode", mode, MODES)
    return estimate(
        OF_TRACE,
        layers,
        f,
        x,
        method=method,
        num_probes=num_probes,
        blocks=blocks,
        coloring=coloring,
        mode=mode,
        shift=shift,
        chunk_size=chunk_size,
        rng=rng,
        create_graph=create_graph,
        receptive_field=receptive_field,
        fd_step=fd_step,
    )


def estimate(
    words: Words,
    layers: modules.Layers,
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    method: str,
    num_probes: int,
    mode: str,
    chunk_size: int | None,
    rng: Philox | None,
    create_graph: bool,
    blocks: int = 2,
    coloring: str | Coloring = "lattice",
    shift: float | Tensor | None = None,
    receptive_field: int | None = None,
    fd_step: float | Tensor | None = None,
) -> Trace:
    """:func:`jacobian_trace` of a function with ``layers``, of which messages speak in other ``words``; f, x and
    ``mode`` were checked, the other arguments are checked here."""
    method = chosen(x, method, num_probes, coloring)
    num_probes, blocks, chunk_size = counts(x, method, num_probes, blocks, chunk_size)
    if receptive_field is not None:
        if method != "exact":
            raise ValueError(
                f"receptive_field must be None where method is not 'exact', got {receptive_field} with "
                f"method={method!r}"
            )
        receptive_field = checks.integer("receptive_field", receptive_field, low=0)
    colors = coloring_for(coloring, tuple(x.shape[1:]), num_probes // blocks) if method == "probing" else None
    shift = None if shift is None else checks.row_numbers("shift", shift, x)
    step = finite_step(x, mode, shift, fd_step)
    if rng is None and method == "exact" and receptive_field is None:
        rng = Philox(0)  # never drawn from: torch's own generator stays where it is
    plan = Plan(method, num_probes, blocks, colors, shift, receptive_field, as_philox(rng))
    if not (create_graph and torch.is_grad_enabled()):
        checks.not_differentiated("x", x, "pass create_graph=True")
    with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
        products = Products(f, x, mode=mode, chunk_size=chunk_size, fd_step=step, layers=layers, words=words)
        value, stderr = METHODS[method](products, plan)
    assert products.output is not None  # there was a product
    return Trace(value, stderr, products.output, products.evaluations)


def chosen(x: Tensor, method: str, num_probes: int, coloring: str | Coloring) -> str:
    """The method that is meant: ``"auto"`` chooses by the size and shape of a sample."""
    if method != "auto":
        return checks.one_of("method", method, ("auto", *METHODS))
    num_probes = checks.integer("num_probes", num_probes, low=1)
    if x.shape[1:].numel() <= num_probes and coloring == "lattice":
        return "exact"
    return "probing" if x.dim() in (3, 4) else "rademacher"


def check_x(x: Tensor) -> None:
    """[B, ...] of at least two dimensions, and not empty."""
    checks.floating("x", x)
    if x.dim() < 2:
        raise ValueError(f"x must be [B, ...] with at least 2 dimensions, got {checks.describe(x)}")
    if x.numel() == 0:
        raise ValueError(f"x must have at least one sample, and each at least one element, got {checks.describe(x)}")


def counts(x: Tensor, method: str, num_probes: int, blocks: int, chunk_size: int | None) -> tuple[int, int, int | None]:
    """The integers, once found to be what the method can take."""
    num_probes = checks.integer("num_probes", num_probes, low=1)
    blocks = checks.integer("blocks", blocks, low=1)
    if chunk_size is not None:
        chunk_size = checks.integer("chunk_size", chunk_size, low=1)
    if method not in BLOCKED:
        return num_probes, blocks, chunk_size
    if num_probes % blocks:
        raise ValueError(f"num_probes must be a multiple of blocks={blocks}, got {num_probes}")
    size, each = x.shape[1:].numel(), num_probes // blocks
    if num_probes > size:
        raise ValueError(
            f"num_probes must be at most the {size} elements of a sample for method={method!r}, "
            f"got {num_probes}: method='exact' takes {size}"
        )
    if method == "hutchpp" and each < 3:
        raise ValueError(
            f"num_probes must be at least 3 for each of blocks={blocks} where method='hutchpp' "
            f"(a range, its trace, and the rest), got {num_probes}"
        )
    if method == "xtrace" and each % 2:
        raise ValueError(
            f"num_probes must be an even number for each of blocks={blocks} where method='xtrace', got {num_probes}"
        )
    return num_probes, blocks, chunk_size


def finite_step(x: Tensor, mode: str, shift: Tensor | None, fd_step: float | Tensor | None) -> Tensor | None:
    """How far finite differences reach, [] or [B]; None in the other modes."""
    if mode != "fd":
        if fd_step is not None:
            raise ValueError(
                f"fd_step must be None where mode is not 'fd', got {checks.describe(fd_step)} with mode={mode!r}"
            )
        return None
    if fd_step is not None:
        return checks.row_numbers("fd_step", fd_step, x)
    if shift is None:
        raise ValueError("fd_step must be given where mode='fd' and shift is None: a good one is 0.01 sigma")
    return 0.01 * shift.sqrt()
