"""The model in a ball, solved exactly: by the eigendecomposition of the whole Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.ad.memory import free_bytes, readable
from hvplib.krylov.secular import ball_step
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.whole_hessian import whole_hessian

__all__ = ["Exact", "ExactStep", "check_storable"]


@dataclass(frozen=True)
class ExactStep:
    """The minimiser of the model in a ball.

    Attributes:
        s: The step (n, 1).
        predicted: How much the model falls.
        norm: ‖s‖.
        on_boundary: Whether it lies on the boundary.
    """

    s: Tensor
    predicted: float
    norm: float
    on_boundary: bool


def check_storable(n: int) -> None:
    """Refuse what does not fit: the Hessian, its eigenvectors, and what LAPACK needs beside them.

    Raises:
        MemoryError: With the numbers.
    """
    needed, free = 4 * 8 * n**2, free_bytes(torch.device("cpu"))
    if needed > free:
        raise MemoryError(
            f"method='trust-exact' decomposes the Hessian of {n} unknowns, which takes {readable(needed)}; "
            f"{readable(free)} are free; use method='trust-krylov'"
        )


class Exact:
    """s = argmin ∇fᵀs + ½ sᵀ∇²f s in ‖s‖ ≤ Δ, hard case included; n products for all radii.

    The Hessian is computed where the unknowns are, and decomposed on the CPU in float64.

    Args:
        point: Of the model.

    Raises:
        Ended: A product is not finite.
    """

    def __init__(self, point: Point) -> None:
        H = whole_hessian(point.hvp, point.x)
        if not bool(H.isfinite().all()):
            raise Ended(Ending.NON_FINITE)
        self._like = point.gradient
        self._values, self._vectors = torch.linalg.eigh(H)
        self._coefficients = self._vectors.mT @ point.gradient[:, 0].to("cpu", torch.float64)

    def leave(self) -> None:
        """Nothing of it serves elsewhere."""

    def ball(self, radius: float) -> ExactStep:
        """The step for a radius."""
        found = ball_step(self._values, self._coefficients, radius)
        s = (self._vectors @ found.coordinates).unsqueeze(1).to(self._like)
        return ExactStep(s, found.predicted, found.norm, found.on_boundary)
