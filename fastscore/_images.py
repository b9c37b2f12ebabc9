"""Batches of uint8 images as handles, read and perturbed in one pass (the operator ``read_images``)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._core import backends, checks, counter
from ._core.counter import signed
from ._core.operators import ORDINARY, Operator, Stream, example_row
from ._core.registration import declare, direct, per_row, raw, wants_grad
from ._noise import draw, handle
from .rng import Noise, Philox, as_philox


class ImageBatch:
    """A handle on a batch x [B, C, H, W] of uint8 images: which images and which random numbers, not the values.

    ``x_b`` is image ``indices_b``, mirrored where it falls to it, as float32 numbers in [0, 1]. ``tensor()`` gives x, the
    same each time; :func:`fastscore.ops.perturb_images` gives x + sigma z in the same single pass over the bytes.
    :meth:`fastscore.data.ImageData.batch_handle` makes handles. What a CUDA graph recorded reads the same batch with the
    same numbers at each replay: give it ``tensor()``, written to memory of its own.

    Args:
        images: uint8 [N, C, H, W].
        indices: int64 [B], from 0 to N - 1, on the device of ``images``. On an accelerator their values are not checked.
        seed, step: where the numbers of the streams FLIPS and DEQUANTIZE are.
        sample_offset: the global index of row 0.
        num_values: q, 2 to 256: uniform noise fills the gap between two of q values, (k + U) / q; None: k / 255.
        flips: whether each row is mirrored left to right with probability 1/2.
        dtype: of x, rounded from float32.

    Raises:
        TypeError, ValueError: an argument of another type, shape, device or range.
    """

    __slots__ = ("dtype", "flips", "images", "indices", "num_values", "sample_offset", "seed", "step")

    def __init__(
        self,
        images: Tensor,
        indices: Tensor,
        *,
        seed: int,
        step: int,
        sample_offset: int = 0,
        num_values: int | None = None,
        flips: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        if checks.tensor("images", images).dtype != torch.uint8 or images.dim() < 1:
            raise TypeError(f"images must be uint8 of shape [N, C, H, W], got {checks.describe(images)}")
        if checks.tensor("indices", indices).dtype != torch.int64 or indices.dim() != 1:
            raise TypeError(f"indices must be int64 of shape [B], got {checks.describe(indices)}")
        if indices.device != images.device:
            raise ValueError(f"indices must be on the device of the images, {images.device}, got {indices.device}")
        if checks.readable(indices) and indices.numel():
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= len(images):
                raise ValueError(f"indices must be from 0 to {len(images) - 1}, got values from {low} to {high}")
        if num_values is not None:
            num_values = checks.integer("num_values", num_values, low=2, high=256)
        seed, step = counter.seed(seed), counter.word("step", step)
        sample_offset = counter.word("sample_offset", sample_offset)
        counter.rows(sample_offset, len(indices))
        images, dtype = images.contiguous(), counter.dtype(dtype)
        self._keep(images, indices.contiguous(), seed, step, sample_offset, num_values, bool(flips), dtype)

    @classmethod
    def checked(cls, *arguments: Any) -> ImageBatch:
        """The handle of arguments that were checked, in the order of ``__init__``; ``dtype`` float32."""
        batch = cls.__new__(cls)
        batch._keep(*arguments)
        return batch

    def _keep(
        self,
        images: Tensor,
        indices: Tensor,
        seed: int,
        step: int,
        sample_offset: int,
        num_values: int | None,
        flips: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.images, self.indices = images, indices
        self.seed, self.step, self.sample_offset = seed, step, sample_offset
        self.num_values, self.flips, self.dtype = num_values, flips, dtype

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return (
            f"ImageBatch({tuple(self.shape)} of {len(self.images)} images, seed={self.seed}, step={self.step}, "
            f"sample_offset={self.sample_offset}, num_values={self.num_values}, flips={self.flips}, dtype={self.dtype})"
        )

    @property
    def shape(self) -> torch.Size:
        """[B, C, H, W]."""
        return torch.Size((len(self.indices), *self.images.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Where the images are, and x will be."""
        return self.images.device

    def tensor(self, dtype: torch.dtype | None = None) -> Tensor:
        """x [B, C, H, W], contiguous, in ``dtype`` (default: the handle's)."""
        like = self._like(dtype)
        backend, arguments = backends.choose("read_images", self.device), self._arguments(None)
        noise = handle(0, 0, int(Stream.PERTURB), self.sample_offset, like.shape, like.dtype, like.device)
        if backend == "reference":
            return reference(*(like, *arguments, noise))
        return raw("read_images", backend)(like, *arguments, *noise.arguments())

    def _like(self, dtype: torch.dtype | None = None) -> Tensor:
        """Says the form of x, takes no memory."""
        return torch.empty((), dtype=dtype or self.dtype, device=self.device).expand(self.shape)

    def _arguments(self, sigma: Tensor | None) -> tuple:
        """Of the compiled function, between ``like`` and the noise."""
        return self.images, self.indices, sigma, self.num_values or 0, self.flips, signed(self.seed), self.step


def perturb_images(batch: ImageBatch, sigma: float | Tensor, rng: Philox | None = None) -> tuple[Tensor, Noise]:
    """``fastscore.perturb(batch.tensor(), sigma, rng)`` in one pass over the bytes: ``x_tilde_b = x_b + sigma_b z_b``.

    The numbers are those of :func:`fastscore.perturb`, and so are the bits. Only to rounding are they where ``sigma`` needs
    a gradient or ``rng`` has another ``sample_offset`` than ``batch``, which takes two passes, and where ``batch`` is
    float16 or bfloat16: here x is not rounded before the noise is added.

    Args:
        batch: the handle of the clean images.
        sigma: standard deviation of the noise, in the units of x: a number or [B], greater than 0.
        rng: source of the noise; takes one step. ``None``: seeded from torch's default generator.

    Returns:
        ``x_tilde`` [B, C, H, W] of the handle's dtype, contiguous, and the handle of the noise.

    Raises:
        TypeError, ValueError: as :func:`fastscore.perturb`, or ``batch`` is no handle.
    """
    if not isinstance(batch, ImageBatch):
        raise TypeError(f"batch must be a fastscore.ops.ImageBatch, got {checks.describe(batch)}")
    like = batch._like()
    backend, transformed = backends.serving("read_images", like.device)
    fast = backend == "native" and not transformed  # which looks at the values itself
    sigma = checks.row_numbers("sigma", sigma, like, values=not fast)
    try:
        return _served(backend, transformed, batch, like, sigma, as_philox(rng))
    except RuntimeError:
        checks.positive_values("sigma", sigma)
        raise


def checked(batch: ImageBatch, sigma: Tensor, rng: Philox) -> tuple[Tensor, Noise]:
    """:func:`perturb_images` of arguments that were checked: ``sigma`` [] or [B], in the dtype of computation."""
    return _served(*backends.serving("read_images", batch.device), batch, batch._like(), sigma, rng)


def _served(
    backend: str, transformed: bool, batch: ImageBatch, like: Tensor, sigma: Tensor, rng: Philox
) -> tuple[Tensor, Noise]:
    noise = rng.noise_for(like, Stream.PERTURB, transformed=transformed, beside=(sigma,))
    if transformed or wants_grad(sigma) or noise.sample_offset != batch.sample_offset:  # what one pass does not do
        checks.positive_values("sigma", sigma)
        return _perturbed(batch.tensor(sigma.dtype), sigma, noise).to(like.dtype), noise
    arguments = batch._arguments(sigma)
    if backend == "reference":
        return reference(*(like, *arguments, noise)), noise
    return direct("read_images", backend)(like, *arguments, *noise.arguments()), noise


def _perturbed(x: Tensor, sigma: Tensor, noise: Noise) -> Tensor:
    return x + per_row(sigma, x) * noise.tensor(x.dtype)


def to_float(images: Tensor) -> Tensor:
    """X = images / 255: uint8 [..., C, H, W] to float32 in [0, 1]."""
    if checks.tensor("images", images).dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {checks.describe(images)}")
    return images.float() / 255


def dequantize(images: Tensor, u: Tensor, num_values: int = 256) -> Tensor:
    """(k + U) / q: uniform noise as wide as the gap between two of the q values that a pixel can have.

    With q = 256 this is NCSN's (255/256) X + U/256. Data of fewer values needs wider noise: with noise of
    1/256 on 17-valued digits the density stays a comb of 17 spikes, which a model of small noise levels would
    learn.

    Args:
        images: uint8, value k of q stored as round(255 k / (q - 1)).
        u: U in [0, 1), float32 of the same shape.
        num_values: q, 2 to 256.

    Returns:
        float32 in [0, 1]: q times it lies in [k, k + 1], up to the rounding of float32.
    """
    if num_values == 256:
        return (images + u) / 256
    return ((images * ((num_values - 1) / 255)).round() + u) / num_values


def reference(
    like: Tensor,
    images: Tensor,
    indices: Tensor,
    sigma: Tensor | None,
    num_values: int,
    flips: bool,
    seed: int,
    step: int,
    noise: Noise,
) -> Tensor:
    """x, or x + sigma z, in plain torch. All three draws are for the samples of ``noise``; ``like`` says its form.

    Args:
        like: [B, ...], of any values.
        images: uint8 [N, ...].
        indices: int64 [B], or [] for one image in all rows.
        sigma: [] or [B], or None for x itself.
        num_values: q, or 0 for k / 255.
        flips: whether rows are mirrored.
        seed, step: of the streams FLIPS and DEQUANTIZE; ``seed`` as two's complement.
        noise: z.
    """
    rows = like.shape[0]

    def uniform(shape: torch.Size, stream: Stream) -> Tensor:
        key, device = seed % (1 << 64), like.device
        where = handle(key, step, int(stream), noise.sample_offset, shape, torch.float32, device, first=noise.first)
        return draw("uniform", where, torch.float32)

    x = images[indices].expand(like.shape)
    if flips:
        mirrored = uniform(torch.Size((rows, 1)), Stream.FLIPS) < 0.5
        x = torch.where(per_row(mirrored[:, 0], x), x.flip(-1), x) if x.dim() > 1 else x
    x = dequantize(x, uniform(like.shape, Stream.DEQUANTIZE), num_values) if num_values else to_float(x)
    if sigma is None:
        return x.to(like.dtype)
    return _perturbed(x.to(checks.compute_dtype(like)), sigma, noise).to(like.dtype)


_FORMS = {  # name: whether it is perturbed, num_values, flips
    "": (True, 256, True),
    "as it is": (False, 0, False),
    "17 values": (False, 17, True),
}
_COUNT, _SEED, _STEP = 5, -(5 << 40) - 77, 0xFFFFFF01  # of the examples: images, and where their numbers are


def _examples(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> dict[str, tuple]:
    like = torch.empty((), dtype=dtype, device=device).expand(shape)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (_COUNT, *shape[1:]), generator=generator, dtype=torch.uint8, device="cpu")
    indices = (3 * torch.arange(shape[0]) + seed) % _COUNT
    sigma = example_row(shape, dtype, device, seed)
    return {
        name: (like, images.to(device), indices.to(device), sigma if perturbed else None, q, flips, _SEED, _STEP)
        for name, (perturbed, q, flips) in _FORMS.items()
    }


def _call(like: Tensor, images: Tensor, indices: Tensor, sigma: Tensor | None, q: int, *rest: Any) -> Tensor:
    flips, seed, step, rng = rest
    batch = ImageBatch(
        images,
        indices,
        seed=seed % (1 << 64),
        step=step,
        sample_offset=rng.sample_offset,
        num_values=q or None,
        flips=flips,
        dtype=like.dtype,
    )
    return batch.tensor() if sigma is None else perturb_images(batch, sigma, rng)[0]


declare(
    Operator(
        name="read_images",
        schema="(Tensor like, Tensor images, Tensor indices, Tensor? sigma, int num_values, bool flips, "
        "SymInt data_seed, SymInt data_step) -> Tensor",
        maps=("batch", "none", "row", "row", "none", "none", "none", "none"),
        fake=lambda like, *_: like.new_empty(like.shape),
        examples=_examples,
        reference=reference,
        public=perturb_images,
        call=_call,
        stream=Stream.PERTURB,
        backends=ORDINARY,
    )
)
