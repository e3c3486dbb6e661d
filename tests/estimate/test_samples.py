"""Moments of samples as they come, and the intervals that they give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from hvplib.estimate.samples import Samples, student

F64 = torch.float64


def gathered(x: torch.Tensor, *sizes: int) -> Samples:
    samples = Samples()
    for block in x.split(sizes or [len(x)]):
        samples.add(block)
    return samples


@pytest.mark.parametrize("sizes", [(), (1, 1, 10), (7, 5), (1,) * 12])
@pytest.mark.parametrize("shape", [(12,), (12, 3)])
def test_moments_are_scipys(shape: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=F64).exp() + 1e3
    samples = gathered(x, *sizes)
    assert samples.count == 12
    torch.testing.assert_close(samples.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(samples.variance, x.var(0), rtol=1e-10, atol=0)
    torch.testing.assert_close(samples.stderr, x.std(0) / math.sqrt(12), rtol=1e-10, atol=0)
    skewness = torch.as_tensor(scipy.stats.skew(x.numpy(), bias=False))
    torch.testing.assert_close(samples.skewness, skewness, rtol=1e-8, atol=0)


def test_few_samples_tell_nothing_of_their_error() -> None:
    none, one = Samples(), gathered(torch.ones(1))
    assert none.count == 0 and none.mean.isnan()
    assert one.mean == 1.0 and one.stderr.isnan() and one.skewness == 0
    for samples in (none, one):
        low, high = samples.interval(0.95)
        assert (float(low), float(high)) == (-math.inf, math.inf)


def test_samples_that_do_not_vary() -> None:
    samples = gathered(torch.full((5,), 0.1, dtype=F64), 2, 3)
    assert samples.skewness == 0 and samples.stderr < 1e-16
    assert [float(end) for end in samples.interval(0.95)] == pytest.approx([0.1, 0.1], rel=1e-15)


def test_symmetric_samples_have_students_interval() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=F64) + 7
    low, high = gathered(x).interval(0.9)
    reference = scipy.stats.t.interval(0.9, 4, loc=7, scale=scipy.stats.sem(x.numpy()))
    np.testing.assert_allclose([float(low), float(high)], reference, rtol=1e-12)
    assert student(0.9, 5) == pytest.approx(scipy.stats.t.ppf(0.95, 4), rel=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
def test_skewed_samples_reach_further_where_the_tail_is(sign: int) -> None:
    x = sign * torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=F64).square()
    samples = gathered(x)
    low, high = (float(end) for end in samples.interval(0.95))
    mean, width = float(samples.mean), student(0.95, 20) * float(samples.stderr)
    tail, other = (high - mean, mean - low) if sign > 0 else (mean - low, high - mean)
    assert tail > 1.1 * width and other == pytest.approx(width)
    # Hall's transformation of the far end is Student's quantile.
    y = tail / float(samples.stderr) / math.sqrt(20)
    skew = abs(float(samples.skewness))
    g = -y + skew * y**2 / 3 - skew**2 * y**3 / 27 + skew / 120
    assert g * math.sqrt(20) == pytest.approx(-student(0.95, 20), rel=1e-10)


def coverage(weights: list[float], m: int, seeds: int) -> float:
    """How often the interval holds the expectation of Σ w_i χ²₁."""
    generator = torch.Generator().manual_seed(0)
    w = torch.tensor(weights, dtype=F64)
    x = torch.randn(m, seeds, len(w), generator=generator, dtype=F64).square() @ w
    low, high = gathered(x).interval(0.95)
    return float(((low <= w.sum()) & (w.sum() <= high)).double().mean())


@pytest.mark.parametrize("m", [16, 40])
@pytest.mark.parametrize(
    "weights",
    [[1.0], [1.0, 0.5, 0.25, 0.125], [1.0] * 20, [1.0, -1.0], [(-1) ** i / i for i in range(1, 30)]],
)
def test_intervals_hold_what_they_say(weights: list[float], m: int) -> None:
    # 20 000 seeds: the standard deviation of the count is 0.15 %.
    assert 0.94 <= coverage(weights, m, 20_000) <= 0.97
