"""Which columns of a Lanczos factorisation are what, as a value that takes the place of another at once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Shape"]


@dataclass(frozen=True)
class Shape:
    """Which columns of the basis are what: locked, active, and the next block behind them.

    Attributes:
        locked: Columns X that are kept as they are.
        count: Columns in all before the next block.
        width: Columns of the next block; 0 when the basis spans the whole space.
        coupling: C (width, count), the next block's share in A Q.
        reach: The first column whose share is not zero.
        log_scale: See `Factorization.log_scale`.
    """

    locked: int
    count: int
    width: int
    coupling: Tensor
    reach: int
    log_scale: float
