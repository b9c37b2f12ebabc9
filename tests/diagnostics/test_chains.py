"""R-hat and effective sample size against recorded values of another implementation, and that one where it is installed."""

import pytest
import torch

import fastscore as fs
from fastscore.diagnostics import effective_sample_size, split_rhat

#: arviz 0.22.0: (chains, states, autocorrelation) -> rhat(rank), ess of bulk, tail and mean.
RECORDED = {
    (4, 100, 0.5): [1.01147306, 128.4857752, 239.112298, 128.0749283],
    (2, 31, 0.95): [1.612758213, 4.150293, 30.45, 3.6260202],
    (3, 50, -0.6): [1.066811957, 326.4136889, 145.4292925, 326.4136889],
}


def chains(c, n, phi):
    """[C, N] of x_t = phi x_(t-1) + sqrt(1 - phi^2) z."""
    z = fs.Philox(n).randn(c, n, dtype=torch.float64)
    x = [z[:, 0]]
    for t in range(1, n):
        x.append(phi * x[-1] + (1 - phi**2) ** 0.5 * z[:, t])
    return torch.stack(x, 1)


@pytest.mark.parametrize("case", RECORDED)
def test_recorded_values(case):
    x = chains(*case)
    found = [float(split_rhat(x)), *(float(effective_sample_size(x, kind=kind)) for kind in ("bulk", "tail", "mean"))]
    assert found == pytest.approx(RECORDED[case], rel=1e-6)
    both = torch.stack([3 * x + 1, -x], 2)[
        ..., None
    ]  # one by one; where values fold to equal ones, rounding ranks them
    assert torch.allclose(split_rhat(both), torch.full((2, 1), found[0], dtype=torch.float64), rtol=1e-3)


@pytest.mark.parametrize("case", RECORDED)
def test_against_arviz(case):
    arviz = pytest.importorskip("arviz")
    x = chains(*case)
    assert float(split_rhat(x)) == pytest.approx(float(arviz.rhat(x.numpy())), rel=1e-9)
    for kind in ("bulk", "tail", "mean"):
        assert float(effective_sample_size(x, kind=kind)) == pytest.approx(
            float(arviz.ess(x.numpy(), method=kind)), rel=1e-9
        )


def test_an_autoregressive_chain_is_worth_what_theory_says():
    """n (1 - phi) / (1 + phi), and 1 chain of N(2, 1) among N(0, 1) has not mixed."""
    x = chains(4, 20_000, 0.6)
    assert float(effective_sample_size(x, kind="mean")) == pytest.approx(80_000 * 0.25, rel=0.06)
    assert float(split_rhat(x)) < 1.01
    x[0] += 2
    assert float(split_rhat(x)) > 1.2 and float(effective_sample_size(x)) < 30


def test_edges():
    assert bool(split_rhat(torch.ones(2, 8)).isnan()) and bool(effective_sample_size(torch.ones(2, 8)).isnan())
    with pytest.raises(ValueError, match="N at least 4"):
        split_rhat(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="chains must be finite"):
        effective_sample_size(torch.full((2, 8), torch.nan))
    with pytest.raises(ValueError, match="kind must be one of 'bulk', 'tail', 'mean'"):
        effective_sample_size(torch.zeros(2, 8), kind="all")
