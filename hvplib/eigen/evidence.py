"""What a method knows beside the pairs it returns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hvplib.eigen.bounds import remainder
from hvplib.eigen.recomputed import floor
from hvplib.krylov.eigen_outcome import EigenOutcome
from hvplib.krylov.ends import Which

__all__ = ["Evidence", "anywhere", "of_outcome"]


def anywhere() -> Tensor:
    """The interval of all numbers: of where eigenvalues are, nothing is known."""
    return torch.tensor([[-math.inf, math.inf]], dtype=torch.float64)


@dataclass(frozen=True)
class Evidence:
    """What is known of the rest of the spectrum, and what was spent for what.

    Attributes:
        method: The settings used, with what they left open filled in.
        by_purpose: Products by what they were made for.
        rounding: Bound on the errors of residual norms and Rayleigh quotients.
        elsewhere: Interval (1, 2) that holds all eigenvalues but those that the pairs stand for; empty where
            its upper end is below its lower one, (−∞, ∞) where nothing is known.
        asymmetry, miss_probability, miss_resolution: See `EigenResult`.
    """

    method: Any
    by_purpose: Mapping[str, int]
    rounding: float
    elsewhere: Tensor = field(default_factory=anywhere)
    asymmetry: float = math.nan
    miss_probability: float = math.nan
    miss_resolution: float = math.nan


def of_outcome(outcome: EigenOutcome, settings: Any, which: Which, *, whole: bool) -> Evidence:
    """What is known where no search for missed members was made.

    Args:
        outcome: Pairs with recomputed residuals.
        settings: The settings used.
        which: Which pairs are wanted.
        whole: Whether the matrix was diagonalised, so that nothing can be missed.
    """
    size, found = outcome.vectors.shape[0], outcome.values
    elsewhere = anywhere()
    if whole and found.numel():
        elsewhere = remainder(found, which) if found.numel() < size else -anywhere()
    unknown = 0.0 if whole else math.nan
    return Evidence(
        method=settings,
        by_purpose={
            "iteration": outcome.num_matvecs - outcome.num_confirmations,
            "confirmation": outcome.num_confirmations,
        },
        rounding=floor(size, outcome.vectors.dtype) * outcome.operator_norm,
        elsewhere=elsewhere,
        miss_probability=unknown,
        miss_resolution=unknown,
    )
