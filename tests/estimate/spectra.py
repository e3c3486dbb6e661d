"""Matrices whose spectrum and trace are known, and how often intervals hold the truth."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hvplib import Matrix
from hvplib.results.estimate import Estimate

F64 = torch.float64


def _indices(n: int) -> Tensor:
    return torch.arange(1, n + 1, dtype=F64)


SPECTRA: dict[str, Callable[[int], Tensor]] = {
    "flat": lambda n: torch.linspace(3, 1, n, dtype=F64),
    "power 1/2": lambda n: _indices(n) ** -0.5,
    "power 1": lambda n: 1 / _indices(n),
    "power 2": lambda n: _indices(n) ** -2,
    "exponential": lambda n: 0.7 ** _indices(n),
    "slow exponential": lambda n: 0.9 ** _indices(n),
    "step": lambda n: torch.where(_indices(n) <= n / 10, 1.0, 1e-3),
    "low rank": lambda n: (_indices(n) <= 5).to(F64),
    "indefinite": lambda n: torch.linspace(-1, 1.3, n, dtype=F64),
    "indefinite, decaying": lambda n: (-1) ** (_indices(n) + 1) / _indices(n),
}
INDEFINITE = ("indefinite", "indefinite, decaying")


def with_spectrum(name: str, n: int, dtype: torch.dtype = F64) -> Matrix:
    """A = U diag(λ) Uᵀ, with a random orthogonal U; declared semidefinite where it is."""
    U = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=F64)).Q
    A = U * SPECTRA[name](n) @ U.mT
    return Matrix(((A + A.mT) / 2).to(dtype), symmetric=True, positive_semidefinite=name not in INDEFINITE)


def coverage(estimate: Callable[[int], Estimate], truth: float, seeds: int) -> tuple[float, float, float]:
    """Over many seeds: how often the interval holds the truth, mean error in its own standard errors, and
    mean squared standard error relative to the mean squared error."""
    results = [estimate(seed) for seed in range(seeds)]
    held = sum(low <= truth <= high for low, high in (result.interval for result in results))
    errors = torch.tensor([result.value - truth for result in results], dtype=F64)
    stated = torch.tensor([result.stderr for result in results], dtype=F64)
    bias = float(errors.mean() / (errors.std() / seeds**0.5)) if float(errors.std()) > 0 else 0.0
    return held / seeds, bias, float(stated.square().mean() / errors.square().mean())
