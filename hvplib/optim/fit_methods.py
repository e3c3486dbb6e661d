"""The methods of `least_squares`, as numbers, and their names."""

from __future__ import annotations

from dataclasses import dataclass

from hvplib.optim.methods import Method

__all__ = ["FIT_NAMES", "FitMethod", "GaussNewton", "LevenbergMarquardt", "fit_method_of"]


@dataclass(frozen=True)
class FitMethod(Method):
    """What the methods share.

    Attributes:
        dense_size: Up to this many unknowns, and 3·10⁷ entries, J is computed whole, by min(m, n) products,
            and factored by QR and singular values; beyond, steps are found by products with J and Jᵀ.
        max_cg_iter: Most steps of conjugate gradients for one step, of two products each; 2 n if None.
    """

    dense_size: int = 300
    max_cg_iter: int | None = None

    def __post_init__(self) -> None:
        if self.dense_size < 0:
            raise ValueError(f"dense_size must not be negative, got {self.dense_size!r}")
        if self.max_cg_iter is not None and self.max_cg_iter < 1:
            raise ValueError(f"max_cg_iter must be at least 1, got {self.max_cg_iter!r}")

    def is_dense(self, m: int, n: int) -> bool:
        """Whether J (m, n) is computed whole."""
        return n <= self.dense_size and m * n <= 30_000_000


@dataclass(frozen=True)
class LevenbergMarquardt(FitMethod):
    """The linearised residual minimised in a ball, with unknowns scaled by the columns of J (Moré 1978).

    Attributes:
        initial_radius: The first Δ, as a share of ‖D x_0‖.
        acceleration: Largest geodesic acceleration 2‖D a‖ / ‖D s‖ of a step (Transtrum and Sethna 2012); 0
            leaves it out. One more evaluation and two more products a step, and fewer steps through narrow
            curved valleys.
    """

    initial_radius: float = 1.0
    acceleration: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.initial_radius > 0:
            raise ValueError(f"initial_radius must be positive, got {self.initial_radius!r}")
        if not self.acceleration >= 0:
            raise ValueError(f"acceleration must not be negative, got {self.acceleration!r}")


@dataclass(frozen=True)
class GaussNewton(FitMethod):
    """Steps to the minimum of the linearised residual, of least norm where J is rank deficient."""


FIT_NAMES: dict[str, type[FitMethod]] = {
    "levenberg-marquardt": LevenbergMarquardt,
    "gauss-newton": GaussNewton,
}


def fit_method_of(method: FitMethod | str) -> FitMethod:
    """The settings that a name stands for; settings as they are."""
    if isinstance(method, FitMethod):
        return method
    if method not in FIT_NAMES:
        raise ValueError(
            f"method must be one of {', '.join(map(repr, FIT_NAMES))} or settings of one, got {method!r}"
        )
    return FIT_NAMES[method]()
