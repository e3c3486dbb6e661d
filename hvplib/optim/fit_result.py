"""What `least_squares` returns: the fit, and what it says of the parameters' errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scipy.optimize import OptimizeResult
from torch import Tensor

from hvplib.optim.squares import Factor

__all__ = ["LeastSquaresResult", "Statistics"]


class Statistics:
    """s² (JᵀJ)⁻¹ from a factored Jacobian, or why there is none.

    Args:
        shape: (m, n).
        factor: Of J at the solution; None if J was not computed whole.
        squared_norm: ‖r‖².
        eps: Relative error of J.
        dense_size: What to raise for J to be computed whole.
        like: Flat vectors are to be like it.
        unravel: From a flat vector (n,) to what x is.
        matrix: From a tensor (n, n) to the kind of array that x is.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        factor: Factor | None,
        squared_norm: float,
        eps: float,
        dense_size: int,
        like: Tensor,
        unravel: Callable[[Tensor], Any],
        matrix: Callable[[Tensor], Any],
    ) -> None:
        self._shape, self._factor, self._squared_norm = shape, factor, squared_norm
        self._eps, self._dense_size, self._like = eps, dense_size, like
        self._unravel, self._matrix = unravel, matrix

    def covariance(self) -> Any:
        """The matrix (n, n)."""
        root = self._root()
        return self._matrix((root @ root.mT).to(self._like))

    def stderr(self) -> Any:
        """The square roots of its diagonal, like x."""
        return self._unravel(torch.linalg.vector_norm(self._root(), dim=1).to(self._like))

    def _root(self) -> Tensor:
        """S (n, n) with S Sᵀ = s² (JᵀJ)⁻¹, float64, on the CPU."""
        m, n = self._shape
        if self._factor is None:
            raise ValueError(
                f"the covariance needs the Jacobian computed whole, {m} x {n}, and dense_size is "
                f"{self._dense_size}; give a method with a larger dense_size, or solve with a "
                "JᵀJ of products for the entries that matter"
            )
        if m <= n:
            raise ValueError(
                f"the variance of the residuals ‖r‖² / (m - n) needs more residuals than unknowns, got m={m} "
                f"and n={n}"
            )
        scale = self._factor.scale
        _, s, Vh = torch.linalg.svd(self._factor.R / scale, full_matrices=False)
        rank = int((s > m * self._eps * s[0]).sum())
        if rank < n:
            raise ValueError(
                f"J has rank {rank} within rounding and there are {n} unknowns: some combinations of them do "
                "not change the residuals, and have no finite error; fix some of the unknowns, or add data"
            )
        deviation = (self._squared_norm / (m - n)) ** 0.5
        root: Tensor = deviation * (Vh.mT / s) / scale.unsqueeze(1)
        return root


class LeastSquaresResult(OptimizeResult):  # type: ignore[misc]  # SciPy carries no types
    """The result of `least_squares`: SciPy's fields, and the statistics of a regression."""

    def covariance(self) -> Any:
        """s² (JᵀJ)⁻¹ with s² = ‖r‖² / (m − n): the covariance of x in a regression, linearised at x.

        Returns:
            (n, n), a NumPy array where x is one, else a tensor, in the order of the entries of x.

        Raises:
            ValueError: m ≤ n, J is rank deficient, or J was not computed whole; the message gives the
                numbers.
        """
        return self["statistics"].covariance()

    @property
    def stderr(self) -> Any:
        """√diag of the covariance, like x: standard errors. Raises as `covariance` does."""
        return self["statistics"].stderr()
