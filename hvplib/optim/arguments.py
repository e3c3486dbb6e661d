"""The arguments that all minimisers share, checked."""

from __future__ import annotations

import math

from hvplib.optim.evaluation import Limits

__all__ = ["check_numbers", "limits_of"]


def limits_of(**limits: float | None) -> Limits:
    """What may be spent on points, products and seconds, in this order; None for no limit.

    Raises:
        ValueError: One is negative; the message has its name.
    """
    for name, limit in limits.items():
        if limit is not None and not limit >= 0:
            raise ValueError(f"{name} must not be negative, got {limit!r}; leave it out for no limit")
    return Limits(*(math.inf if limit is None else limit for limit in limits.values()))


def check_numbers(
    *, gtol: float | None, ftol: float, max_iter: int, check_matvecs: int, miss_probability: float
) -> None:
    """Make sure that the numbers are what they must be.

    Raises:
        ValueError: With the name of the argument, what was expected and what came.
    """
    for name, tolerance in (("gtol", gtol), ("ftol", ftol)):
        if tolerance is not None and not 0 <= tolerance < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {tolerance!r}")
    if not isinstance(max_iter, int) or max_iter < 0:
        raise ValueError(f"max_iter must be an integer, at least 0, got {max_iter!r}")
    if not isinstance(check_matvecs, int) or check_matvecs < 1:
        raise ValueError(f"check_matvecs must be a positive integer, got {check_matvecs!r}")
    if not 0 < miss_probability < 1:
        raise ValueError(f"miss_probability must lie between 0 and 1, got {miss_probability!r}")
