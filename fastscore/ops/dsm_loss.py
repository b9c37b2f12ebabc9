"""dsm_loss: l_b = 1/2 sigma_b^weight || score_b + z_b / sigma_b ||^2."""

from __future__ import annotations

from torch import Tensor

from .. import _check
from ..rng import Noise


def dsm_loss(score: Tensor, noise: Noise | Tensor, sigma: float | Tensor, weight: float = 2.0) -> Tensor:
    """Denoising score matching, one loss a sample.

    The score of N(alpha x, sigma^2 I) at x_tilde = alpha x + sigma z is -z / sigma, whatever alpha, so
    ``loss_b = 1/2 sigma_b^weight sum_d (score_bd + z_bd / sigma_b)^2``.

    Args:
        score: the network's score at x_tilde, [B, ...]; float16, bfloat16, float32 or float64.
        noise: what :func:`fastscore.perturb` returned, or z itself [B, ...].
        sigma: standard deviation of the noise: a number or [B], greater than 0.
        weight: the power p of sigma. 2 makes every noise level count alike (Song & Ermon 2019); 0 is Vincent's loss.

    Returns:
        [B]; float64 for a float64 ``score``, else float32.

    Raises:
        TypeError: ``score`` is not a floating tensor, ``noise`` neither handle nor tensor.
        ValueError: ``noise`` has another shape or device than ``score``; ``sigma`` not positive and finite.

    Source: Vincent 2011, equation 9; Song & Ermon 2019, equations 5 and 6.
    """
    _check.floating("score", score)
    if not isinstance(noise, Noise):
        if not isinstance(noise, Tensor):
            raise TypeError(f"noise must be the handle that perturb returned, or a tensor, "
                            f"got {_check.describe(noise)}")
        _check.like("noise", noise, "score", score)
    elif noise.shape != score.shape or noise.device != score.device:
        raise ValueError(f"noise must have the shape and device of score, {tuple(score.shape)} on {score.device}, "
                         f"got noise of shape {tuple(noise.shape)} on {noise.device}")
    sigma = _check.per_sample("sigma", sigma, score)
    return reference(score, noise, sigma, _check.number("weight", weight))


def reference(score: Tensor, noise: Noise | Tensor, sigma: Tensor, weight: float) -> Tensor:
    """1/2 sigma^weight || score + z / sigma ||^2 in plain torch; ``sigma`` broadcasts against ``score``."""
    compute = _check.compute_dtype(score)
    z = noise.tensor(compute) if isinstance(noise, Noise) else noise.to(compute)
    residual = (score.to(compute) + z / sigma).reshape(score.shape[0], score.shape[1:].numel())
    factor = sigma.reshape(-1) if sigma.dim() else sigma
    return 0.5 * factor**weight * residual.square().sum(1)
