"""Reading the published checkpoints of NCSN and NCSNv2, without ever running code from them."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._core import checks
from .._core.errors import CheckpointError
from .._core.prefixes import plain_names
from ._original_config import (
    ALGORITHMS,
    PUBLISHED,
    Options,
    check_fit,
    find_options,
    noise_levels,
    of_the_first_repository,
)
from ._original_file import EXPECTED, OriginalStates, outline, read_states, shadow_of, some
from .ncsn import NCSN, NCSNdeeper
from .ncsnv2 import NCSNv2, NCSNv2Deeper, NCSNv2Deepest
from .refinenet import ScoreRefineNet

__all__ = [
    "ALGORITHMS",
    "PUBLISHED",
    "Options",
    "OriginalStates",
    "find_options",
    "load_original_checkpoint",
    "of_the_first_repository",
    "read_states",
]

_LOG = logging.getLogger(__name__)


def load_original_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    ema: bool = True,
    config: str | os.PathLike[str] | None = None,
    nonlinearity: str | None = None,
    rescaled: bool | None = None,
    logit_transform: bool | None = None,
) -> nn.Module:
    """The network of a checkpoint (.pth) of the original NCSN or NCSNv2.

    Weights do not tell which activation they were trained with, nor whether the images were rescaled before: the
    run's configuration does. It is looked for where both repositories write it, in the checkpoint's folder.

    Args:
        path: of the file: a list [score state_dict, optimizer state_dict], in NCSNv2 followed by epoch, step
            and, where there was one, the EMA shadow (parameters only).
        model: the network to fill; its dtype and device are kept, and it is changed only once all is found to
            fit. It may be wrapped (DataParallel, DDP, torch.compile), and so may the one that was saved: names are
            compared without ``module.`` and ``_orig_mod.``. None: a new :class:`NCSN`, :class:`NCSNdeeper`,
            :class:`NCSNv2`, :class:`NCSNv2Deeper` or :class:`NCSNv2Deepest` on the CPU, of the checkpoint's dtype and
            sizes; of the configuration's image_size, which no shape tells, and, for an NCSN, its noise levels.
        ema: take the parameters from the EMA shadow where the file has one.
        config: path of the run's config.yml. None: the one beside ``path``, if there is one. It is read without
            running anything of it.
        nonlinearity, rescaled, logit_transform: as for :class:`fastscore.models.refinenet.ScoreRefineNet`; what is
            given here goes before the configuration.

    Returns:
        The filled network. Its ``options_from`` (of the network inside, where ``model`` is wrapped) says of each of
        the three options where it is from: "given", the path of the configuration, or "assumed", where that does not
        name it: then it is as published (elu, False, False) or, for a ``model``, its own, and a warning says so.

    Raises:
        CheckpointError: the file is missing, damaged, asks to run code (nothing is run), is no such
            checkpoint, or does not fit the network or the configuration; the text says which, and what was expected.
        TypeError, ValueError: an option is not one that the networks have.
    """
    path = Path(path)
    options = find_options(
        path, config, {"nonlinearity": nonlinearity, "rescaled": rescaled, "logit_transform": logit_transform}
    )
    return filled(path, read_states(path), options, model, ema=ema)


def filled(
    path: Path, states: OriginalStates, options: Options, model: nn.Module | None = None, *, ema: bool
) -> nn.Module:
    """:func:`load_original_checkpoint` of a file that was read, with options that were found."""
    weights = states.weights
    fresh = model is None
    network = _build(path, weights, options) if model is None else model
    own = plain_names(network.state_dict())
    _compare(path, weights, {name: network.state_dict()[given] for name, given in own.items()})
    if ema and states.shadow is not None:
        shadow, parameters = shadow_of(path, states), dict(network.named_parameters())
        _compare(
            path,
            shadow,
            {name: parameters[given] for name, given in own.items() if given in parameters},
            what="the EMA shadow",
        )
        weights = {**weights, **shadow}
    inner = next((module for module in network.modules() if isinstance(module, ScoreRefineNet)), None)
    if type(inner) is NCSN:
        options = of_the_first_repository(options)
    if inner is not None:
        _compare_options(path, options, inner, weights.get("sigmas"))
    # A fresh network lies on the meta device: it takes the checkpoint's tensors instead of copying them.
    network.load_state_dict({own[name]: tensor for name, tensor in weights.items()}, assign=fresh)
    if inner is not None:
        if fresh and inner.sigmas is None:
            inner.sigmas = noise_levels(options, inner.num_levels)
        inner.options_from = dict(options.sources)
        _report(path, options, inner)
    return network


def _compare_options(path: Path, options: Options, network: ScoreRefineNet, sigmas: Tensor | None) -> None:
    """Raise where what is known of the checkpoint's options is not what the network has; check the sizes too."""
    sizes = {"channels": network.channels, "ngf": network.ngf, "num_classes": network.num_levels}
    check_fit(options, sizes, sigmas)
    levels = noise_levels(options, network.num_levels)
    own = network.sigmas if isinstance(network, NCSN) else None  # no part of NCSN's state
    if own is not None and levels is not None and not torch.allclose(own.cpu().float(), levels, rtol=1e-2):
        raise CheckpointError(
            f"{path} was trained with noise levels from {levels[0]:.6g} to {levels[-1]:.6g} ({options.path}), but the "
            f"network given has sigmas from {own[0]:.6g} to {own[-1]:.6g}: build it with these, or without sigmas"
        )
    for name, value in options.values.items():
        if options.sources[name] != "assumed" and getattr(network, name) != value:
            raise CheckpointError(
                f"{path} was trained with {name}={value!r} ({options.sources[name]}), but the network given has "
                f"{name}={getattr(network, name)!r}: build it with {name}={value!r}"
            )


def _report(path: Path, options: Options, network: ScoreRefineNet) -> None:
    """Say where the options are from: a warning where some were assumed, else a line for the log."""
    assumed = [name for name, source in options.sources.items() if source == "assumed"]
    if not assumed:
        said = ", ".join(f"{name}={value!r} ({options.sources[name]})" for name, value in options.values.items())
        _LOG.info("%s: %s", path, said)
        return
    taken = ", ".join(f"{name}={getattr(network, name)!r}" for name in assumed)
    why = f"{options.path} does not say" if options.path else "there is no config.yml beside it"
    warnings.warn(
        f"{path}: {why}, so {taken} was assumed. Had it been trained otherwise, the outputs would be wrong: pass these "
        "options, or config=PATH of the run's config.yml",
        stacklevel=4,
    )


def _build(path: Path, weights: Mapping[str, Tensor], options: Options) -> ScoreRefineNet:
    """The network that fits the weights' shapes, on the meta device: nothing is allocated or initialised."""
    begin, embed = weights.get("begin_conv.weight"), weights.get("normalizer.embed.weight")
    sigmas = weights.get("sigmas")
    num_levels = embed.shape[0] if embed is not None and embed.dim() == 2 else None
    if begin is None or begin.dim() != 4 or (num_levels is None) == (sigmas is None):
        raise CheckpointError(
            f"{path} holds neither an NCSN (begin_conv.weight and normalizer.embed.weight) nor an NCSNv2 "
            f"(begin_conv.weight and sigmas), but {outline(weights)}; {EXPECTED}"
        )
    ngf, channels = begin.shape[:2]
    blocks = {name.partition(".")[0] for name in weights}
    levels: dict[str, Any] = {"sigmas": sigmas} if num_levels is None else {"num_levels": num_levels}
    if isinstance(size := options.sections.get("data", {}).get("image_size"), int):
        levels["image_size"] = size
    try:
        with torch.device("meta"):
            if num_levels is not None:
                kind: Callable[..., ScoreRefineNet] = NCSNdeeper if "res5" in blocks else NCSN
            else:
                kind = NCSNv2Deepest if "res31" in blocks else NCSNv2Deeper if "res5" in blocks else NCSNv2
            return kind(channels, ngf=ngf, **levels, **options.values)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} describes a network that cannot be built: {error}") from error


def _compare(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, what: str = "it") -> None:
    """Raise where names or shapes differ or a tensor is not floating, saying which."""
    faults = []
    if missing := wanted.keys() - found.keys():
        faults.append(f"{what} lacks {some(missing)}")
    if surplus := found.keys() - wanted.keys():
        faults.append(f"{what} has {some(surplus)}, which the network has not")
    wrong = [
        f"{name} is {checks.describe(found[name])} where the network has shape {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and (found[name].shape != tensor.shape or not found[name].is_floating_point())
    ]
    faults += wrong[:3]
    if len(wrong) > 3:
        faults.append(f"{len(wrong) - 3} more have wrong shapes")
    if faults:
        raise CheckpointError(f"{path} does not fit the network: {'; '.join(faults)}")
