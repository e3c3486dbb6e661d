"""A preconditioner for each point: one for all, or one that is made anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from hvplib.linear.preconditioning import precondition
from hvplib.optim.evaluation import Objective, Point

__all__ = ["Block", "Preconditioning", "preconditioning"]

Block = Callable[[Tensor], Tensor]
Preconditioning = Callable[[Point], "Block | None"]


def preconditioning(
    preconditioner: Any, objective: Objective, back: Callable[[Tensor], Any]
) -> Preconditioning:
    """Of a point, the function X ↦ P X of blocks, or None.

    Args:
        preconditioner: None; an operator or a matrix; or a function x ↦ operator or matrix.
        objective: At whose points it is wanted.
        back: From x (n,) to what the function takes.

    Raises:
        TypeError, ValueError: As `hvplib.solve` does.
    """
    if callable(preconditioner) and not isinstance(preconditioner, LinearOperator):
        return lambda point: precondition(preconditioner(back(point.x)), point.operator)
    always = precondition(preconditioner, objective.start.operator)
    return lambda point: always
