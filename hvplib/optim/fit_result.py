"""What `least_squares` returns: the fit, and what it says of the parameters' errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import OptimizeResult
from torch import Tensor

from hvplib.optim.squares import Factor
from hvplib.space import Space

__all__ = ["LeastSquaresResult", "Statistics"]


@dataclass(frozen=True)
class Statistics:
    """s² (JᵀJ)⁻¹ from a factored Jacobian, or why there is none.

    Attributes:
        shape: (m, n).
        factor: Of J at the solution; None if J was not computed whole.
        squared_norm: ‖r‖².
        eps: Relative error of J.
        dense_size: What to raise for J to be computed whole.
        x: The solution, a pytree of tensors.
        as_array: Whether x is a NumPy array.
    """

    shape: tuple[int, int]
    factor: Factor | None
    squared_norm: float
    eps: float
    dense_size: int
    x: Any
    as_array: bool

    def covariance(self) -> Any:
        """The matrix (n, n)."""
        root = self._root()
        return self._given(self._like_x(root @ root.mT))

    def stderr(self) -> Any:
        """The square roots of its diagonal, like x."""
        deviations = torch.linalg.vector_norm(self._root(), dim=1)
        return self._given(Space.of(self.x).unflatten(self._like_x(deviations)))

    def _like_x(self, numbers: Tensor) -> Tensor:
        space = Space.of(self.x)
        return numbers.to(dtype=space.dtype, device=space.device)

    def _given(self, tree: Any) -> Any:
        return tree.cpu().numpy() if self.as_array else tree

    def _root(self) -> Tensor:
        """S (n, n) with S Sᵀ = s² (JᵀJ)⁻¹, float64, on the CPU."""
        m, n = self.shape
        if self.factor is None and n <= self.dense_size:
            raise ValueError(
                "the covariance needs the Jacobian, and the run ended before it was computed at x; go on "
                "from x, or look at `message` for what ended the run"
            )
        if self.factor is None:
            raise ValueError(
                f"the covariance needs the Jacobian computed whole, {m} x {n}, and dense_size is "
                f"{self.dense_size}; give a method with a larger dense_size, or solve with a "
                "JᵀJ of products for the entries that matter"
            )
        if m <= n:
            raise ValueError(
                f"the variance of the residuals ‖r‖² / (m - n) needs more residuals than unknowns, got m={m} "
                f"and n={n}"
            )
        scale = self.factor.scale
        _, s, Vh = torch.linalg.svd(self.factor.R / scale, full_matrices=False)
        rank = int((s > m * self.eps * s[0]).sum())
        if rank < n:
            raise ValueError(
                f"J has rank {rank} within rounding and there are {n} unknowns: some combinations of them do "
                "not change the residuals, and have no finite error; fix some of the unknowns, or add data"
            )
        deviation = (self.squared_norm / (m - n)) ** 0.5
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
