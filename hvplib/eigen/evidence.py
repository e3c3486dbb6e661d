"""What a method knows beside the pairs it returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hvplib.eigen.bounds import remainder
from hvplib.eigen.certainty import Certainty, of_whole_space
from hvplib.eigen.recomputed import floor
from hvplib.krylov.eigen_outcome import EigenOutcome
from hvplib.krylov.ends import Which

__all__ = ["Evidence", "of_outcome"]


@dataclass(frozen=True)
class Evidence:
    """What is known of the rest of the spectrum, and what was spent for what.

    Attributes:
        method: The settings used, with what they left open filled in.
        by_purpose: Products by what they were made for.
        rounding: Bound on the errors of residual norms and Rayleigh quotients.
        certainty: How sure it is that no pair is missing.
        asymmetry: See `EigenResult`.
    """

    method: Any
    by_purpose: Mapping[str, int]
    rounding: float
    certainty: Certainty = field(default_factory=Certainty)
    asymmetry: float = math.nan


def of_outcome(outcome: EigenOutcome, settings: Any, which: Which, *, whole: bool) -> Evidence:
    """What is known where no search for missed members was made.

    Args:
        outcome: Pairs with recomputed residuals.
        settings: The settings used.
        which: Which pairs are wanted.
        whole: Whether the matrix was diagonalised, so that nothing can be missed.
    """
    size, found = outcome.vectors.shape[0], outcome.values
    certainty = Certainty()
    if whole and found.numel():
        certainty = of_whole_space(remainder(found, which)[0] if found.numel() < size else found[:0])
    return Evidence(
        method=settings,
        by_purpose={
            "iteration": outcome.num_matvecs - outcome.num_confirmations,
            "confirmation": outcome.num_confirmations,
        },
        rounding=floor(size, outcome.vectors.dtype) * outcome.operator_norm,
        certainty=certainty,
    )
