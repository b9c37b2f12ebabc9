"""NCSN: the noise-conditional score network of Song and Ermon 2019 (arXiv:1907.05600), and its deeper kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._core import calls, checks
from ._inputs import check_num_classes, classes_of, is_sigma, label_of
from .layers import ConditionalInstanceNormPlus, Conditions, Labels, Numbers, mean_pool
from .refinenet import DEEPER, STANDARD, Layout, ScoreRefineNet


class NCSN(ScoreRefineNet):
    """s(x, y), an estimate of grad log p_sigma(x) at the noise level sigma = sigmas[y].

    A dilated RefineNet in which every norm is an InstanceNorm++ conditioned on the level's index y (see
    :class:`fastscore.models.refinenet.ScoreRefineNet`); average pooling in the decoder. The output is not
    divided by sigma. The ``state_dict`` has the keys and shapes of the original checkpoints.

    Args:
        channels: of the images.
        image_size: height and width, kept as an attribute; other sizes of at least 4 x 4 work too.
        ngf: base width, at least 2 (128 for CIFAR-10: 30,117,635 parameters; 64 for MNIST).
        num_levels: number of noise levels. None: the number of ``sigmas``, or 10 without them.
        sigmas: [L] noise levels, strictly decreasing. Given, the network can be called with sigma in place of labels.
            Kept as the buffer ``sigmas``, which is no part of the ``state_dict`` (as in the originals).
        num_classes: K, to be conditioned on classes too: in every norm each class, and "no label", has numbers that are
            added to the level's gamma, alpha and beta (as in the class-conditional norms of other networks, the sum of
            two embeddings). They begin at 0. None: no classes.
        options: ``nonlinearity``, ``rescaled``, ``logit_transform``: what the originals' configurations call so; see
            :class:`fastscore.models.refinenet.ScoreRefineNet`.

    Raises:
        TypeError, ValueError: an argument is not as said; the message names it.

    >>> net = NCSN(channels=1, image_size=8, ngf=16, num_levels=10)
    >>> net(torch.rand(4, 1, 8, 8), torch.tensor([0, 3, 3, 9])).shape
    torch.Size([4, 1, 8, 8])
    """

    _layout: Layout = STANDARD
    sigmas: Tensor | None

    def __init__(
        self,
        channels: int = 3,
        image_size: int = 32,
        ngf: int = 128,
        num_levels: int | None = None,
        *,
        sigmas: Tensor | Sequence[float] | None = None,
        num_classes: int | None = None,
        **options: Any,
    ) -> None:
        if sigmas is not None:
            sigmas = checks.sigmas("sigmas", sigmas).detach().clone()
            if num_levels not in (None, len(sigmas)):
                raise ValueError(f"num_levels must be the number of sigmas, {len(sigmas)}, or None, got {num_levels}")
            num_levels = len(sigmas)
        num_levels = 10 if num_levels is None else checks.integer("num_levels", num_levels, low=1)
        num_classes = check_num_classes(num_classes)
        norm = partial(ConditionalInstanceNormPlus, num_levels=num_levels, num_classes=num_classes)
        super().__init__(
            self._layout,
            channels,
            image_size,
            ngf,
            norm=norm,
            refine_norm=norm,
            pool=mean_pool,
            num_levels=num_levels,
            num_classes=num_classes,
            **options,
        )
        self.register_buffer("sigmas", sigmas, persistent=False)
        self._own_norms = frozenset(self._norms())

    def forward(self, x: Tensor, labels: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The score at x.

        Args:
            x: [B, channels, H, W], data in [0, 1] plus noise, of the network's dtype.
            labels: [B] int64, indices into the noise levels, the largest noise first; or sigma, floating [B], each one
                of the levels that the network was told (to rounding): it has learned an embedding for these alone.
            class_labels: [B] int64 from 0 to ``num_classes`` - 1, or ``num_classes`` for no label; None: none has one.

        Returns:
            [B, channels, H, W], of x's dtype. Where values cannot be read (on a GPU, under vmap or torch.compile), a
            sigma that is not one of the levels gives NaN.

        Raises:
            TypeError, ValueError: a shape or dtype is wrong, or (read on a CPU only) a label is out of range or a sigma
                none of the levels; or sigma was given to a network without ``sigmas``.
        """
        self.check_image(x)
        if not is_sigma(labels):
            labels = checks.labels("labels", labels, x, self.num_levels)
            return self.features(x, self.conditions(x, labels, class_labels)).to(x.dtype)
        if self.sigmas is None:
            raise ValueError(
                "labels must be int64, indices into the noise levels: this network embeds the index and "
                "does not know its levels; build it with sigmas=... (or set net.sigmas) to call it with "
                f"sigma, got {checks.describe(labels)}"
            )
        labels, known = label_of(labels, self.sigmas, x)
        out = self.features(x, self.conditions(x, labels, class_labels)).to(x.dtype)
        return torch.where(known.reshape(-1, 1, 1, 1), out, torch.nan)

    def at_level(self, label: float, class_labels: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """score(x), what the network gives for the label ``label`` of every sample: the level's numbers are looked up here,
        once, and not at every call, unless a norm was replaced or has hooks, which are given labels. Samplers call it.

        Args:
            label: the index of the noise level; or a fraction between two, i + w, for which the embeddings are
                blended, 1 - w of level i and w of the next: the network has never been trained there.
            class_labels: as for a call, [B], of the B samples that x will hold; None: none has one. What a class adds to a
                level's numbers is the same at all levels, and so between them.

        Returns:
            ``score(x)`` of x [B, channels, H, W], with the numbers that the network has now.

        Raises:
            TypeError, ValueError: ``label`` is not a level's index, or not between the first and the last; ``class_labels``
                as for a call.
        """
        if not isinstance(label, float) or label.is_integer():
            whole = int(label) if isinstance(label, float) else label
            label = checks.integer("label", whole, low=0, high=self.num_levels - 1)
        norms = self._norms()
        if norms.keys() != self._own_norms or any(map(calls.hooked, norms.values())):
            return calls.called(self, label, class_labels=class_labels)
        if class_labels is not None:
            batch = self.begin_conv.weight.new_empty(checks.tensor("class_labels", class_labels).numel())
            class_labels = classes_of(class_labels, batch, self.num_classes)
        numbers = self._between(label, class_labels) if label % 1 else self._numbers(int(label), class_labels)
        return self._told(numbers, class_labels)

    def _between(self, label: float, classes: Tensor | None) -> dict[nn.Module, Numbers]:
        if not 0 < label < self.num_levels - 1:
            raise ValueError(f"label must be from 0 to {self.num_levels - 1}, got {label}")
        lower, part = int(label), label % 1
        above = self._numbers(lower + 1, classes)
        blended = {
            norm: tuple(torch.lerp(a, b, part) for a, b in zip(numbers, above[norm]))
            for norm, numbers in self._numbers(lower, classes).items()
        }
        return cast("dict[nn.Module, Numbers]", blended)

    def _numbers(self, label: int, classes: Tensor | None) -> dict[nn.Module, Numbers]:
        """Of every conditional norm, at one level; each [C], or with ``classes`` [B] of the samples' own [B, C]."""
        shape, device = () if classes is None else classes.shape, self.begin_conv.weight.device
        index = torch.full(shape, label, dtype=torch.int64, device=device)  # no copy from the host
        given = index if classes is None else Conditions(index, classes)
        return {norm: norm.numbers(given) for norm in self._norms().values()}

    def _told(self, numbers: Labels, classes: Tensor | None) -> Callable[[Tensor], Tensor]:
        def score(x: Tensor) -> Tensor:
            self.check_image(x)
            if classes is not None and len(x) != len(classes):
                raise ValueError(
                    f"x must hold the {len(classes)} samples whose class_labels at_level was given, got {checks.describe(x)}"
                )
            return self.features(x, numbers).to(x.dtype)

        return score

    def _norms(self) -> dict[str, ConditionalInstanceNormPlus]:
        return {name: part for name, part in self.named_modules() if type(part) is ConditionalInstanceNormPlus}


class NCSNdeeper(NCSN):
    """:class:`NCSN` with two halvings and five levels, of the second repository (ermongroup/ncsnv2).

    Arguments, what is returned and what is raised are those of :class:`NCSN`; sizes of at least 8 x 8.
    """

    _layout = DEEPER
