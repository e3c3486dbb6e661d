"""What a quadratic model over a Krylov space says of its minimiser."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hvplib.results.status import Status

__all__ = ["QuadraticStep"]


@dataclass(frozen=True)
class QuadraticStep:
    """A minimiser over the Krylov space: (H + μM) s = −g up to the residual, and V ᵀ(H + μM) V is psd.

    Attributes:
        s: (n, 1).
        predicted: How much the model falls from 0 to s, its cubic term included where it has one. Positive
            but where s is zero.
        norm: ‖s‖_M.
        multiplier: μ ≥ 0.
        on_boundary: Whether s lies on the boundary of the ball.
        residual_norm: ‖(H + μM) s + g‖ in the norm of M⁻¹, as the factorisation has it; exact to rounding.
        num_matvecs: Products made for the space so far.
        krylov_dim: Dimension of the space.
        least_ritz: The least eigenvalue θ of T; λ_min(H, M) ≤ θ. NaN if no product was made.
        least_ritz_residual: ‖H u − θ M u‖ in the norm of M⁻¹, for its Ritz vector u.
        direction: u (n, 1) with ‖u‖_M = 1 if θ < 0; None otherwise.
        status: CONVERGED, MAX_ITER, NON_FINITE or INDEFINITE_PRECONDITIONER.
    """

    s: Tensor
    predicted: float
    norm: float
    multiplier: float
    on_boundary: bool
    residual_norm: float
    num_matvecs: int
    krylov_dim: int
    least_ritz: float
    least_ritz_residual: float
    direction: Tensor | None
    status: Status
