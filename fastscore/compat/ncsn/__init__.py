"""The functions of ermongroup/ncsn (Song and Ermon 2019), by their names, argument order and defaults.

Those of its ``losses/`` need a changed import line; its samplers are methods of its runners, and the runner calls
these in their place (docs/porting.md has every line). The second repository's are in :mod:`fastscore.compat.ncsnv2`.

**Step sizes** ``step_lr`` are the original's: the update is x + eta s + sqrt(2 eta) z with
eta = step_lr (sigma_i / sigma_L)^2. The rest of fastscore has the paper's step size, which is 2 eta:
``annealed_langevin(step_size=2 * step_lr)``. ``lr`` of the toy samplers is ``step_size`` itself, as there.

**Noise** comes from :class:`fastscore.Philox`: pass ``rng=`` (last argument, ours) for an explicit source, or
``torch.manual_seed`` governs as it did before. Of the sliced losses, particle k of every sample is drawn by step k, so
that a batch split over calls draws what the whole batch would have drawn.

**Energies**: an ``energy_net`` maps [B, ...] to [B] (or [B, 1]), and the score is s = -dE/dx.

What is corrected rather than copied: lists of images hold the state after each update, on the CPU and clamped to [0, 1]
(the original appended before it updated, and so never returned its last one); inpainting takes images of any size, not
of 3 x 32 x 32 alone, and its last frame holds the given half exactly; ``samples`` are not made to require a gradient;
directions of images are of the whole image.
"""

from .losses import (
    anneal_dsm_score_estimation,
    anneal_sliced_score_estimation_vr,
    dsm,
    dsm_score_estimation,
    partial_sliced_score_matching,
    single_sliced_score_matching,
    sliced_score_estimation,
    sliced_score_estimation_vr,
    sliced_score_matching,
    sliced_score_matching_vr,
)
from .runners import (
    Langevin_dynamics,
    anneal_Langevin_dynamics,
    anneal_langevin_dynamics,
    anneal_Langevin_dynamics_inpainting,
    baseline_Langevin_dynamics,
    langevin_dynamics,
)

__all__ = [
    "Langevin_dynamics",
    "anneal_Langevin_dynamics",
    "anneal_Langevin_dynamics_inpainting",
    "anneal_dsm_score_estimation",
    "anneal_langevin_dynamics",
    "anneal_sliced_score_estimation_vr",
    "baseline_Langevin_dynamics",
    "dsm",
    "dsm_score_estimation",
    "langevin_dynamics",
    "partial_sliced_score_matching",
    "single_sliced_score_matching",
    "sliced_score_estimation",
    "sliced_score_estimation_vr",
    "sliced_score_matching",
    "sliced_score_matching_vr",
]
