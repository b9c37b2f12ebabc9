"""The setting in which a function is differentiated: torch's choices that lack the derivatives are left out.

Fused attention has no forward-mode rule, no second derivative, and no backward pass for many directions at once, all of
which torch's own composition of it (``MATH``) has; so do cuDNN's and oneDNN's recurrent layers. The fast path of
``nn.TransformerEncoderLayer`` in eval mode has no second derivative, and what ``torch.compile`` made of a network no
second backward pass. The values are the same, to rounding. A single backward pass needs none of this, and gets none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, cast

import torch
from torch.backends import cuda

from .modules import Layers

_RECOMPUTED = (
    "saved tensor hooks (as of activation checkpointing, or save_on_cpu) do not record what forward mode computes"
)


def setting(mode: str, layers: Layers, record: bool, *, batched: bool = False) -> Any:
    """A context for products in ``mode``, which are differentiated again where ``record``, and are computed for many
    directions at once where ``batched``."""
    needed = record or batched or layers.compiled or mode == "jvp"
    if mode == "fd" or not needed or torch.compiler.is_compiling():
        return nullcontext()
    return _setting(mode, layers, record, batched)


@contextmanager
def _setting(mode: str, layers: Layers, record: bool, batched: bool) -> Iterator[None]:
    with ExitStack() as stack:
        if layers.compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if layers.recurrent:
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            if batched or mode == "jvp":
                set_onednn = cast(Any, torch.backends.mkldnn.set_flags)  # flags() would set, and warn of, more
                was, *_ = set_onednn(False, _fp32_precision=None)
                stack.callback(set_onednn, was, _fp32_precision=None)
        if mode == "jvp" and record:
            with suppress(RuntimeError):  # where the caller's own are in force
                stack.enter_context(torch.autograd.graph.disable_saved_tensors_hooks(_RECOMPUTED))
        before = (
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
            cuda.math_sdp_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
        )
        try:
            _choose(False, False, False, True, False)
            yield
        finally:
            _choose(*before)


def _choose(flash: bool, efficient: bool, cudnn: bool, math: bool, fast: bool) -> None:
    cuda.enable_flash_sdp(flash)
    cuda.enable_mem_efficient_sdp(efficient)
    cuda.enable_cudnn_sdp(cudnn)
    cuda.enable_math_sdp(math)
    torch.backends.mha.set_fastpath_enabled(fast)
