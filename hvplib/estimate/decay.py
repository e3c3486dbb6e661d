"""Intervals for means of terms that share their vectors, of an error that falls with each vector more."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hvplib.estimate.samples import unskewed

__all__ = ["growth", "is_steep", "reaches"]

# As measured, over spectra from flat to 0.5^i, 12 to 48 vectors and n of 30 to 300: the error of the mean is
# as skewed as _SKEW (1 − ρ⁻³) for a growth ρ, whatever the number of vectors, since the last few decide; its
# short side is never shorter than _SHORT of Student's; from ρ = _STEEP on the standard error itself strays so
# much that both sides are made longer, in proportion to ρ, up to _MOST times.
_SKEW, _SHORT, _STEEP, _MOST = 0.44, 0.93, 2.0, 4.0


def growth(terms: Tensor, both: Tensor) -> float:
    """ρ = mean over j of Var_i t_ij / Var_i t_i: how the variance of a term grows without one vector more.

    It tells how steeply the spectrum falls where the sketch ends: ρ is near 1 for a flat one, and r⁻² for
    eigenvalues like rⁱ.

    Args:
        terms: t (k,).
        both: t_ij (k, k), the term i with the vector j left out as well; the diagonal does not count.
    """
    k = terms.shape[0]
    if k < 3:
        return 1.0
    beside = ~torch.eye(k, dtype=torch.bool)
    columns = both.mT[beside].reshape(k, k - 1)  # row j: t_ij for i ≠ j
    ratio = float(columns.var(1).mean() / terms.var())
    return max(ratio, 1.0) if math.isfinite(ratio) else 1.0


def is_steep(rho: float) -> bool:
    """Whether an interval is wide because the standard error strays: it then holds more than it says."""
    return rho > _STEEP


def reaches(t: float, rho: float, skewness: float) -> tuple[float, float]:
    """How many standard errors an interval reaches below and above the mean.

    Student's t, changed by Hall's transformation as for samples whose mean is as skewed as ρ tells.

    Args:
        t: Student's quantile.
        rho: The growth of the variance.
        skewness: Of the terms; its sign tells the side of the tail.
    """
    if math.isinf(t):
        return t, t
    skew = torch.tensor(math.copysign(_SKEW * (1 - rho**-3), skewness), dtype=torch.float64)
    ends = torch.tensor([t, -t], dtype=torch.float64)
    below, above = (ends.sign() * unskewed(ends, skew)).tolist()
    stretch = min(max(rho / _STEEP, 1.0), _MOST)
    return stretch * max(below, _SHORT * t), stretch * max(above, _SHORT * t)
