"""How many Ritz vectors to keep at a restart: what makes the next cycle converge fastest per product."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["kept"]

# What a restart costs, in the logarithm of the error: a Chebyshev polynomial of degree s on the interval of
# what is not wanted reduces the error by 2 exp(−s ρ), so short cycles waste their first steps. log 2 would
# be its part; what the neighbours of the interval's ends cost beside it was measured on some fifty spectra,
# where 3 gave the fewest products and 2.5 to 3.5 hardly more.
_COST = 3.0


def kept(
    values: Tensor, residual_norms: Tensor, highest: int, lowest: int, *, capacity: int, width: int
) -> Tensor:
    """Indices of the Ritz vectors to keep: the a highest and the b lowest of ascending values (m,).

    The next cycle of s = (capacity − a − b) / width steps damps what lies in the interval of the values that
    are given up, [θ_lo, θ_hi], against a wanted value at distance d outside it, by exp(−s ρ) with
    ρ = arcosh(1 + 2 d / (θ_hi − θ_lo)). Chosen are a and b with the largest ρ − c / s, the gain per step. (To
    choose the number by such an estimate: Yamazaki, Bai, Simon, Wang, Wu 2010, 10.1145/1824801.1824805.)

    At an end where none is wanted, what is kept only shortens the interval; few outliers there, as a Hessian
    has them above the small eigenvalues, make it many times as long. But a vector that is not yet told apart
    from the next one does not take its value out of the interval: so the outermost are candidates as far as
    the residual norm of each is below the distance to the next value.

    Args:
        values: Ritz values (m,), ascending, on the CPU.
        residual_norms: Theirs (m,).
        highest: How many are wanted at the upper end; at least so many are kept there.
        lowest: How many are wanted at the lower end.
        capacity: Columns that the basis may have.
        width: Columns that a step adds.

    Returns:
        Indices (a + b,): the lowest in ascending order, then the highest.
    """
    theta, norms, m = values.numpy(), residual_norms.numpy(), values.numel()
    # A cycle of one step would only multiply the residual, and one of a few steps costs more time for turning
    # the basis than it saves in products.
    room = m - max(2 * width, capacity // 4)
    gaps = np.diff(theta)
    upper = _choices(highest, room, (norms[1:] < gaps)[::-1])
    lower = _choices(lowest, room, norms[:-1] < gaps)
    a, b = np.repeat(upper, len(lower)), np.tile(lower, len(upper))
    fits = a + b <= max(room, highest + lowest)
    a, b = a[fits], b[fits]
    low, high = theta[np.minimum(b, m - 1)], theta[np.maximum(m - 1 - a, 0)]
    span = np.maximum(high - low, np.finfo(theta.dtype).tiny)
    distance = np.full_like(span, np.inf)
    if highest:
        distance = np.minimum(distance, theta[m - highest] - high)
    if lowest:
        distance = np.minimum(distance, low - theta[lowest - 1])
    steps = (capacity - a - b) / width
    gain = np.arccosh(1 + 2 * np.maximum(distance / span, 0)) - _COST / np.maximum(steps, 0.5)
    best = int(gain.argmax())
    return torch.tensor([*range(b[best]), *range(m - a[best], m)])


def _choices(wanted: int, room: int, apart: NDArray[np.bool_]) -> NDArray[np.intp]:
    """How many may be kept at an end: the wanted and more, or, of none wanted, those that are told apart."""
    if wanted:
        return np.arange(wanted, max(room, wanted) + 1)
    told_apart = len(apart) if apart.all() else int(apart.argmin())
    return np.arange(min(told_apart, room) + 1)
