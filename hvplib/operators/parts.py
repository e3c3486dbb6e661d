"""What operators made of parts have in common: taking the parts, looking at them, inverting one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from hvplib.operators.base import Operator
from hvplib.operators.basic import Matrix

__all__ = ["DenseInverse", "Factor", "check_alike", "check_regular", "operator", "square", "symmetrized"]

Factor = Union[Operator, Tensor, "np.ndarray[Any, Any]"]


class DenseInverse(Operator):
    """x ↦ (M + δ I)⁻¹ x for a symmetric positive definite M + δ I, by its Cholesky factor.

    Args:
        matrix: M (n, n).
        damping: δ.
        name: What to call it in an error.

    Raises:
        ValueError: M + δ I is not positive definite.
    """

    def __init__(self, matrix: Tensor, damping: float = 0.0, *, name: str = "the matrix") -> None:
        size = matrix.shape[0]
        damped = (matrix + matrix.mT) / 2
        damped.diagonal().add_(damping)
        self.factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            least = float(torch.linalg.eigvalsh(damped)[0])
            raise ValueError(
                f"{name} plus the damping {damping:.2g} must be positive definite to be inverted, but has "
                f"the eigenvalue {least:.2g}; use a larger damping"
            )
        super().__init__((size, size), matrix.dtype, matrix.device, positive_semidefinite=True)

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return torch.cholesky_solve(X, self.factor)


def operator(name: str, given: Factor) -> Operator:
    """An operator or a matrix, as an operator."""
    if isinstance(given, Operator):
        return given
    if isinstance(given, Tensor | np.ndarray):
        return Matrix(given)
    raise TypeError(f"{name} must be an operator or a matrix, got {type(given).__name__}")


def square(name: str, given: Factor) -> Operator:
    """The same, if it is square."""
    made = operator(name, given)
    if made.shape[0] != made.shape[1]:
        raise ValueError(f"{name} must be square, got shape {tuple(made.shape)}")
    return made


def check_alike(operators: Sequence[Operator]) -> None:
    """Raise unless all have one dtype and device."""
    kinds = {(part.torch_dtype, str(part.device)) for part in operators}
    if len(kinds) > 1:
        raise TypeError(f"all parts must have one dtype and device, got {sorted(map(str, kinds))}")


def symmetrized(block: Operator) -> Tensor:
    """The matrix of an operator, symmetric to the bit if it is declared symmetric."""
    dense = block.to_dense()
    return (dense + dense.mT) / 2 if block.symmetric else dense


def check_regular(values: Tensor, dtype: torch.dtype, damping: float) -> None:
    """Raise if an eigenvalue vanishes within rounding beside the largest."""
    sizes = values.abs()
    if sizes.numel() and not bool(sizes.min() > torch.finfo(dtype).eps * sizes.max()):
        raise ValueError(
            f"the operator plus the damping {damping:.2g} is singular within rounding and has no inverse: "
            f"its eigenvalues are from {float(sizes.min()):.2g} to {float(sizes.max()):.2g} in size; use "
            "another damping"
        )
