"""What the kernels for linear systems return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hvplib.results.status import Status

__all__ = ["LinearOutcome"]


@dataclass(frozen=True)
class LinearOutcome:
    """Where an iteration for A x_j = b_j, j = 1 ... k, stopped, column by column.

    The residual norms are the recurrence's own: a caller who needs proof recomputes them.

    Attributes:
        x: The last iterates (n, k).
        statuses: How each column ended.
        residual_norms: Estimates (k,) of ‖b − A x‖, on the CPU, float64.
        num_iter: Steps made, the largest over the columns.
        num_matvecs: Products made; a column that has ended takes part in none.
        history: Estimates (steps + 1, k) of the residual norms, on the CPU, float64; a column that has ended
            keeps its last value.
        direction: Directions (n, k) of non-positive curvature; zero in columns that met none. None if none
            of them did.
        curvature: pᵀA p / pᵀp (k,) of these directions, on the CPU, float64; NaN in columns that met none.
        decrease: bᵀx − ½ xᵀA x (k,) by the recurrence, on the CPU, float64, where the method minimises it.
        lengths: ‖x‖_M (k,) in the norm of the trust region, by the recurrence, on the CPU, float64.
    """

    x: Tensor
    statuses: tuple[Status, ...]
    residual_norms: Tensor
    num_iter: int
    num_matvecs: int
    history: Tensor
    direction: Tensor | None = None
    curvature: Tensor | None = None
    decrease: Tensor | None = None
    lengths: Tensor | None = None
