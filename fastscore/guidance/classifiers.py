"""Guidance by the gradient of a classifier's log p(y | x_t)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._core import calls, checks
from .._core.registration import rows_of
from ..energy import EnergyScore
from ..paths import Path
from ._noise import Held, NoiseOf, check_score


class _MinusLog(nn.Module):
    """-log p(y | x_t), [B], known to be finite."""

    def __init__(self, log_prob: Callable[..., Tensor]):
        super().__init__()
        self.log_prob = log_prob

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        value = self.log_prob(x, *condition)
        if not isinstance(value, Tensor) or value.dtype not in checks.FLOATS:
            checks.floating("the output of log_prob", value, batched=False)  # which says so
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"the output of log_prob must be one number for each sample, of shape ({len(x)},), got {checks.describe(value)}"
            )
        finite = value.isfinite()
        if checks.readable(finite) and not bool(finite.all()):
            wrong = (~finite & rows_of(x).isfinite().all(1)).nonzero()
            if len(wrong):  # else it is no fault of log_prob, but of samples that are not finite
                bad = int(wrong[0])
                raise ValueError(
                    f"log_prob must be finite for every sample, got {value[bad].item()} for sample {bad}, whose numbers are up "
                    f"to {x[bad].abs().max():.3g}: give the logarithm itself, as log_softmax does, not the logarithm of a "
                    "probability, which may be 0; or guide less strongly, where it is the sample that is too large"
                )
        return value * torch.where(finite, -1.0, torch.nan)  # a gradient of NaN, which samplers refuse


class ClassifierGuided(nn.Module):
    """s(x, c) + scale grad_x log p(y | x, c); see :func:`classifier`."""

    def __init__(self, score_fn: Callable[..., Tensor], log_prob: Callable[..., Tensor], scale: float):
        super().__init__()
        check_score("score_fn", score_fn)
        check_score("log_prob", log_prob)
        self.score_fn, self.scale = score_fn, checks.number("scale", scale, largest=checks.FLOAT32)
        self.gradient = EnergyScore(_MinusLog(log_prob), "log_prob")

    def forward(self, x: Tensor, *condition: Tensor, **keywords: Any) -> Tensor:
        """The score at x, [B, ...]; ``keywords`` are those of ``score_fn``."""
        score = calls.score("score_fn", self.score_fn, x, *condition, **keywords)
        if self.scale == 0:
            return score
        compute = checks.compute_dtype(x)
        return (score.to(compute) + self.scale * self.gradient(x, *condition).to(compute)).to(x.dtype)


def classifier(score_fn: Callable[..., Tensor], log_prob: Callable[..., Tensor], *, scale: float = 1.0) -> nn.Module:
    """The score given a class, by Bayes' rule: s(x, c) + scale grad_x log p(y | x, c).

    With scale 1 and the exact log p(y | x_t) it is the score of the data of class y at that noise. Above 1 it is of p(x)
    p(y | x)^scale: samples that the classifier is surer of, and less varied.

    Args:
        score_fn: s(x, c) of all data.
        log_prob: log p(y | x_t) at the noise level that c says, called ``log_prob(x, c)`` as ``score_fn`` is, [B, ...] -> [B];
            any function that autograd can differentiate, the y in it. It must know noisy samples, not clean ones alone.
        scale: any number; with 0 ``log_prob`` is not called.

    Returns:
        A module s(x, c).

    Raises:
        TypeError, ValueError: an argument is not as said; at a call: ``log_prob`` does not depend on x as far as autograd can
            see, is not [B], or is not finite (where values cannot be read, on a GPU, the score of that sample is NaN).

    Source: Dhariwal & Nichol 2021, "Diffusion models beat GANs on image synthesis", section 4; Song et al. 2021, section 5.

    Example:
        >>> log_prob = lambda x: torch.nn.functional.logsigmoid(2 * x[:, 0])  # of the class at +1, p = (N(-1, 1) + N(1, 1)) / 2
        >>> guided = classifier(lambda x: x.tanh() - x, log_prob)
        >>> torch.allclose(guided(torch.tensor([[0.3]])), torch.tensor([[1 - 0.3]]))  # the score of N(1, 1)
        True
    """
    return ClassifierGuided(score_fn, log_prob, scale)


class _ClassLogProb(nn.Module):
    def __init__(
        self,
        network: Callable[..., Tensor],
        label: int | Tensor,
        path: Path | Tensor | Sequence[float] | None,
        conditioning: str,
    ):
        super().__init__()
        check_score("network", network)
        label = check_label(label)
        self.network, self.label = network, Held(label) if isinstance(label, Tensor) else label
        self._noise = None if path is None else NoiseOf(path, conditioning)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        if self._noise is None:
            logits = self.network(x, *condition)
        else:
            alpha, sigma = self._noise(x, condition)
            logits = self.network((x / alpha).to(x.dtype), (sigma / alpha).flatten())
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x):
            raise ValueError(
                f"the output of network must be logits of shape ({len(x)}, K), got {checks.describe(logits)}"
            )
        label = labels_of(self.label, x, logits.shape[1])
        return logits.log_softmax(1).gather(1, label[:, None])[:, 0]


def class_log_prob(
    network: Callable[..., Tensor],
    label: int | Tensor,
    *,
    path: Path | Tensor | Sequence[float] | None = None,
    conditioning: str = "t",
) -> Callable[..., Tensor]:
    """log p(y | x_t) of a network's logits, for :func:`classifier`.

    Args:
        network: a classifier, called as (x, c), [B, ...] -> logits [B, K]; with ``path`` as (x_t / alpha, sigma / alpha), the
            noisy sample at alpha = 1 and its noise, floating [B], as :class:`fastscore.models.NoiseClassifier` is.
        label: y from 0 to K - 1, an integer or int64 [B].
        path: the noise levels [L] or the path that c belongs to, for a network that is told the noise; ``conditioning``: see
            :mod:`fastscore.guidance`.

    Returns:
        A module log_prob(x, c) -> [B].
    """
    return _ClassLogProb(network, label, path, conditioning)


def check_label(label: Any) -> int | Tensor:
    """An integer from 0, or an integer tensor [B]."""
    if isinstance(label, Tensor) and label.dim():
        if label.dtype not in (torch.int64, torch.int32) or label.dim() != 1:
            raise ValueError(f"label must be an integer or an int64 tensor of shape (B,), got {checks.describe(label)}")
        return label.long()
    return checks.integer("label", label, low=0)


def labels_of(label: int | Held, x: Tensor, num_classes: int | None) -> Tensor:
    """``label`` as int64 [B] on the device of ``x``; of ``num_classes`` classes, where that is known."""
    if isinstance(label, Held):
        if len(label.value) not in (1, len(x)):
            raise ValueError(
                f"label must be one for each of the {len(x)} samples, shape ({len(x)},), got {checks.describe(label.value)}"
            )
        value = label.on(x.device).expand(len(x))
    else:
        value = torch.full((len(x),), label, dtype=torch.int64, device=x.device)
    if num_classes is None:
        return value
    bad: list[int] = []
    if isinstance(label, int):  # from 0, and on no device
        bad = [label] if label >= num_classes else []
    elif checks.readable(value) and not bool(((value >= 0) & (value < num_classes)).all()):
        bad = value[(value < 0) | (value >= num_classes)][:1].tolist()
    if bad:
        raise ValueError(f"label must be from 0 to {num_classes - 1}, of {num_classes} classes, got {bad[0]}")
    return value
