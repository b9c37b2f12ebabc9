"""affine_step: x' = a x + sum_k b_k s_k + c z, z ~ N(0, I): one update of any solver that is a table of coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._core import backends, checks
from .._core.operators import ORDINARY, Function, Operator, Stream, example, example_row
from .._core.private_torch import dispatch_modes
from .._core.registration import declare, direct, per_row, wants_grad, written
from ..rng import Noise, Philox
from ._affine_step_derivatives import differentiable
from ._memory import check_out
from ._source import drawn_from

MOST = 3
_STREAM = int(Stream.LANGEVIN)
Three = tuple[Tensor | None, Tensor | None, Tensor | None]
Factors = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]  # a, b_0, b_1, b_2, c
_NUMBERS = {float, type(None)}
_NOWHERE = (0, 0, _STREAM, 0, None, None)  # the position of noise that is not drawn


def affine_step(
    x: Tensor,
    scores: Sequence[Tensor],
    a: float | Tensor,
    b: Sequence[float | Tensor],
    c: float | Tensor | None = None,
    rng: Philox | None = None,
    *,
    noise: Noise | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """An affine combination of the samples, of stored tensors and of noise: one update of a solver.

    ``x'_i = a_i x_i + sum_k b_ki s_ki + c_i z_i`` of each sample i, with z ~ N(0, I) drawn on the way. Langevin's step,
    the ancestral one, DDIM's, Euler-Maruyama's and those of multistep solvers are numbers a, b, c;
    ``langevin_step(x, s, h, rng)`` is ``affine_step(x, [s], 1, [h / 2], sqrt(h), rng)``, with the same noise. Computed
    in float32 (float64 for float64), the terms added from left to right, and rounded once.

    Args:
        x: samples [B, ...]; float16, bfloat16, float32 or float64.
        scores: none to three tensors s_k of ``x``'s shape and device: scores, or what a solver remembers.
        a: a number or [B].
        b: the factor of each s_k: numbers or [B].
        c: a number or [B], at least 0. ``None`` and the number 0: no noise, and no step of ``rng`` is taken; a tensor
            draws whatever it holds.
        rng: source of the noise; takes one step where there is noise. ``None``: seeded from torch's default generator.
        noise: noise to use in place of a draw from ``rng``: a handle, or a tensor of ``x``'s shape (which the
            reference serves). Not read where ``c`` is None or 0.
        out: where to write the result, of ``x``'s shape, dtype and device; may be ``x`` itself or another argument,
            but may not overlap one in part. Not differentiable.

    Returns:
        x' [B, ...] of ``x``'s dtype (``out`` where given).

    Raises:
        TypeError: ``x`` or a tensor of ``scores`` is not a floating tensor; ``scores`` or ``b`` is no list or tuple.
        ValueError: more than three ``scores``, or not as many ``b``; shapes or devices differ; a coefficient not finite,
            or ``c`` negative; ``out`` while gradients are recorded, or in memory that it shares with an argument in
            part, or with itself.

    Example:
        >>> import fastscore as fs
        >>> x = fs.Philox(0).randn(4, 2)  # of the variance 1: the score is -x
        >>> fs.affine_step(x, [-x], 1.0, [0.5]).equal(0.5 * x)  # no noise
        True

    Source: Song & Ermon 2019, algorithm 1, with any coefficients; Zhang & Chen 2023 write multistep solvers so.
    """
    checks.floating("x", x)
    _check_lists(x, scores, b)
    if isinstance(noise, Tensor):
        backend, transformed = "reference", backends.transformed()
    else:
        backend, transformed = backends.serving("affine_step", x.device)
    draws = c is not None and (isinstance(c, Tensor) or (isinstance(c, np.ndarray) and c.ndim > 0) or c != 0)
    plain = not transformed and not dispatch_modes()
    if plain and {type(value) for value in (a, c, *b)} <= _NUMBERS:  # what most callers pass, at once
        factors = _constants(a, tuple(b), c if draws else None, checks.compute_dtype(x), x.device)
    else:
        factors = _factors(x, a, b, c if draws else None, values=backend != "native" or transformed)
    if out is not None:
        made = zip(("a", *(f"b[{k}]" for k in range(MOST)), "c"), (a, *b, *(None,) * (MOST - len(b)), c), factors)
        read = {name: factor for name, given, factor in made if isinstance(given, Tensor)}
        read |= {f"scores[{k}]": s for k, s in enumerate(scores)}
        check_out(out, x, transformed=transformed, noise=noise if draws else None, **read)
    source = None if not draws and rng is None is noise else drawn_from(x, rng, noise)
    return _served(backend, transformed, x, scores, factors, source, out)


def checked(
    x: Tensor, scores: Sequence[Tensor], a: Tensor, b: Sequence[Tensor], c: Tensor | None, rng: Philox | None
) -> Tensor:
    """:func:`affine_step` of arguments that were checked: ``a``, each ``b`` and ``c`` [] or [B], in the dtype of
    computation; ``c`` None where nothing is drawn."""
    return _served(*backends.serving("affine_step", x.device), x, scores, (a, *_three(b), c), rng, None)


def _check_lists(x: Tensor, scores: Any, b: Any) -> None:
    for name, value in (("scores", scores), ("b", b)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} must be a list or tuple, one entry for each term, got {checks.describe(value)}")
    if len(scores) > MOST:
        raise ValueError(f"scores must have at most {MOST} tensors, got {len(scores)}: take several steps")
    if len(b) != len(scores):
        raise ValueError(f"b must have a number for each of the {len(scores)} scores, got {len(b)}")
    for k, s in enumerate(scores):
        checks.like(f"scores[{k}]", s, "x", x)


@lru_cache(maxsize=4096)
def _constants(a: float, b: tuple[float, ...], c: float | None, compute: torch.dtype, device: torch.device) -> Factors:
    """:func:`_factors` of numbers, made once."""
    return _factors(torch.empty(0, dtype=compute, device=device), a, b, c, values=True)


def _factors(
    x: Tensor, a: float | Tensor, b: Sequence[float | Tensor], c: float | Tensor | None, *, values: bool
) -> Factors:
    """a, b_0, b_1, b_2 and c as the compiled functions take them, None where there is none."""
    of_scores = [checks.row_numbers(f"b[{k}]", value, x, signed=True, values=values) for k, value in enumerate(b)]
    return (
        checks.row_numbers("a", a, x, signed=True, values=values),
        *_three(of_scores),
        None if c is None else checks.row_numbers("c", c, x, zero_allowed=True, values=values),
    )


def _three(values: Sequence[Tensor]) -> Three:
    """None where there are fewer."""
    count = len(values)
    if count == 1:
        return values[0], None, None
    if count == 2:
        return values[0], values[1], None
    return (values[0], values[1], values[2]) if count else (None, None, None)


def _served(
    backend: str,
    transformed: bool,
    x: Tensor,
    scores: Sequence[Tensor],
    factors: Factors,
    noise: Philox | Noise | Tensor | None,
    out: Tensor | None,
) -> Tensor:
    """``noise``: where to draw it from, its handle, or its values, which the reference takes."""
    dtype, draws = x.dtype, factors[-1] is not None
    if backend == "reference" or isinstance(noise, Tensor):
        if isinstance(noise, Philox):
            beside = (*scores, *factors)
            noise = noise.noise_for(x, _STREAM, transformed=transformed, beside=beside) if draws else None
        s0, s1, s2 = _three(scores)
        value = reference(x, s0, s1, s2, *factors, noise)
        return value if out is None else out.copy_(value)
    if not draws:
        where: tuple = _NOWHERE
    elif isinstance(noise, Noise):
        where = noise.arguments()
    else:
        assert noise is not None
        beside = (*scores, *factors) if transformed else ()
        where = noise.arguments_for(x, _STREAM, transformed=transformed, beside=beside)
    for s in scores:
        if s.dtype != dtype:
            x, scores, factors = _widened(x, scores, factors)
            break
    s0, s1, s2 = _three(scores)
    try:
        if transformed or (out is None and wants_grad(x, *scores, *factors)):
            value = differentiable(backend, x, s0, s1, s2, *factors, *where)
        elif out is None or out.dtype != x.dtype or out.is_neg():  # a view by -1, as of an imaginary part: not in place
            value = direct("affine_step", backend)(x, s0, s1, s2, *factors, *where)
        else:
            direct("affine_step_out", backend)(x, s0, s1, s2, *factors, out, *where)
            return written(out)
    except RuntimeError:
        for name, factor in zip(("a", *(f"b[{k}]" for k in range(MOST))), factors):
            if factor is not None:
                checks.finite_values(name, factor)
        if factors[-1] is not None:
            checks.positive_values("c", factors[-1], zero_allowed=True)
        raise
    if value.dtype != dtype:
        value = value.to(dtype)
    return value if out is None else out.copy_(value)


def _widened(x: Tensor, scores: Sequence[Tensor], factors: Factors) -> tuple[Tensor, list[Tensor], Factors]:
    """Tensors of several dtypes in the widest of them, which is computed in and rounded from once."""
    wide = x.dtype
    for s in scores:
        wide = torch.promote_types(wide, s.dtype)
    x = x.to(wide)
    a, *others = (None if factor is None else factor.to(checks.compute_dtype(x)) for factor in factors)
    assert a is not None
    b0, b1, b2, c = others
    return x, [s.to(wide) for s in scores], (a, b0, b1, b2, c)


def reference(
    x: Tensor,
    s0: Tensor | None,
    s1: Tensor | None,
    s2: Tensor | None,
    a: Tensor,
    b0: Tensor | None,
    b1: Tensor | None,
    b2: Tensor | None,
    c: Tensor | None,
    noise: Noise | Tensor | None,
) -> Tensor:
    """a x + sum_k b_k s_k + c z in plain torch; a, b_k and c are [] or [B], and what is None is left out."""
    compute = checks.compute_dtype(x)
    value = per_row(a, x) * x.to(compute)
    for b, s in ((b0, s0), (b1, s1), (b2, s2)):
        if b is not None and s is not None:
            value = value + per_row(b, x) * s.to(compute)
    if c is not None and noise is not None:
        z = noise.tensor(compute) if isinstance(noise, Noise) else noise.to(compute)
        value = value + per_row(c, x) * z
    return value.to(x.dtype)


def _call(
    x: Tensor,
    s0: Tensor | None,
    s1: Tensor | None,
    s2: Tensor | None,
    a: Tensor,
    b0: Tensor | None,
    b1: Tensor | None,
    b2: Tensor | None,
    c: Tensor | None,
    rng: Philox,
) -> Tensor:
    scores, b = ([v for v in values if v is not None] for values in ((s0, s1, s2), (b0, b1, b2)))
    return affine_step(x, scores, a, b, c, rng)


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    x, *s = (example(shape, dtype, device, seed + i) for i in range(4))
    a, b, c = (example_row(shape, dtype, device, seed + i) for i in range(4, 7))
    numbers = [torch.full_like(a[:1], value).squeeze() for value in (0.7, 0.4, -0.6, -1.5, 0.3)]
    return {
        "": (x, s[0], None, None, a, -b, None, None, c),
        "three tensors, one number each": (x, *s, *numbers),
        "two tensors, no noise": (x, s[0], s[1], None, a, -b, numbers[2], None, None),
        "no tensor": (x, None, None, None, a, None, None, None, numbers[4]),
    }


def _examples_out(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    return {name: (*given, torch.empty_like(given[0])) for name, given in _examples(shape, dtype, device, seed).items()}


_ARGUMENTS = "Tensor x, Tensor? s0, Tensor? s1, Tensor? s2, Tensor a, Tensor? b0, Tensor? b1, Tensor? b2, Tensor? c"
_MAPS = ("batch",) * (1 + MOST) + ("row",) * (1 + MOST + 1)

declare(
    Operator(
        name="affine_step",
        schema=f"({_ARGUMENTS}) -> Tensor",
        maps=_MAPS,
        fake=lambda x, *_: torch.empty_like(x),
        examples=_examples,
        reference=reference,
        public=affine_step,
        call=_call,
        stream=Stream.LANGEVIN,
        backends=ORDINARY,
        variants=(
            Function(
                name="affine_step_out",
                schema=f"({_ARGUMENTS}, Tensor(a!) out) -> ()",
                maps=(*_MAPS, "batch"),
                fake=lambda *_: None,
                examples=_examples_out,
            ),
        ),
    )
)
