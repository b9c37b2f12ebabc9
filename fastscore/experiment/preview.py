"""A picture of what the network can do so far, drawn while it is trained: a callback of :meth:`Trainer.train`."""

from __future__ import annotations

import warnings
from functools import partial

from .._core.errors import NonFiniteSamples, NotConverged
from ..evaluation.pictures import save_grid
from ..rng import Philox
from . import checkpoint, moments
from .classes import Asked
from .precision import for_sampling
from .sample import draw
from .train import Trainer

_IMAGES = 64


def save_preview(trainer: Trainer) -> None:
    """samples/step_N.png in the run folder: 64 images from the present weights, or their moving average.

    Of a network of classes, image k is of class k mod K. Points have no such picture. Samples that are not finite, or not
    come to an end, are a warning, and no reason to end the training.

    Raises:
        CheckpointError, CannotWrite: as :meth:`Trainer.writing`.
    """
    config, shape, step = trainer.config, trainer.data.shape, trainer.step
    if len(shape) == 1:
        return
    try:
        network = for_sampling(trainer.network, config.precision)
        asked = Asked("each" if config.num_classes else None)
        guide = partial(asked.score, config, first=0, size=_IMAGES, device=trainer.device)
        about = partial(moments.of_run, config, trainer.run)
        shape = (_IMAGES, *shape)
        images = draw(config, network, shape, Philox(config.seed), device=trainer.device, guide=guide, about=about)
    except (NonFiniteSamples, NotConverged) as error:
        warnings.warn(f"no picture of iteration {step}: {error}", stacklevel=2)
        return
    with trainer.writing():
        folder = trainer.run / checkpoint.SAMPLES
        folder.mkdir(exist_ok=True)
        save_grid(images.cpu(), folder / f"step_{step:08d}.png")
