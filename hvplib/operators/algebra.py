"""Sums, products and parts of operators. What is declared of the parts is carried over where it follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hvplib.operators.base import Indices, Operator
from hvplib.space import Space

__all__ = ["Power", "Product", "Scaled", "Shifted", "Submatrix", "Sum", "Transposed"]


class Transposed(Operator):
    """x ↦ Aᵀ x."""

    def __init__(self, operator: Operator) -> None:
        rows, columns = operator.shape
        super().__init__(
            (columns, rows),
            operator.torch_dtype,
            operator.device,
            domain=operator.codomain,
            codomain=operator.domain,
        )
        self.operator = operator

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return self.operator._rproduct(X)

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        return self.operator._product(X)

    def _transpose(self) -> Operator:
        return self.operator


class Sum(Operator):
    """x ↦ A x + B x; symmetric or positive semidefinite if both are."""

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.shape != right.shape:
            raise ValueError(f"cannot add operators of shapes {left.shape} and {right.shape}")
        _check_alike(left, right)
        super().__init__(
            left.shape,
            left.torch_dtype,
            left.device,
            symmetric=left.symmetric and right.symmetric,
            positive_semidefinite=left.positive_semidefinite and right.positive_semidefinite,
            domain=left.domain or right.domain,
            codomain=left.codomain or right.codomain,
        )
        self.operands = left, right

    def _matmat_torch(self, X: Tensor) -> Tensor:
        left, right = self.operands
        return left._product(X) + right._product(X)

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        left, right = self.operands
        return left._rproduct(X) + right._rproduct(X)


class Scaled(Operator):
    """x ↦ α A x; positive semidefinite if A is and α ≥ 0."""

    def __init__(self, operator: Operator, scale: float) -> None:
        super().__init__(
            operator.shape,
            operator.torch_dtype,
            operator.device,
            symmetric=operator.symmetric,
            positive_semidefinite=operator.positive_semidefinite and scale >= 0,
            domain=operator.domain,
            codomain=operator.codomain,
        )
        self.operator = operator
        self.scale = scale

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return self.operator._product(X) * self.scale

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        return self.operator._rproduct(X) * self.scale


class Shifted(Operator):
    """x ↦ A x + δ x; positive semidefinite if A is and δ ≥ 0."""

    def __init__(self, operator: Operator, damping: float) -> None:
        if operator.shape[0] != operator.shape[1]:
            raise ValueError(f"only a square operator can be shifted, got shape {operator.shape}")
        super().__init__(
            operator.shape,
            operator.torch_dtype,
            operator.device,
            symmetric=operator.symmetric,
            positive_semidefinite=operator.positive_semidefinite and damping >= 0,
            domain=operator.domain,
            codomain=operator.codomain,
        )
        self.operator = operator
        self.damping = damping

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return torch.add(self.operator._product(X), X, alpha=self.damping)

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        return torch.add(self.operator._rproduct(X), X, alpha=self.damping)


class Product(Operator):
    """x ↦ A (B x); positive semidefinite where it is seen to be A Aᵀ, Aᵀ A or a symmetric A squared."""

    def __init__(self, left: Operator, right: Operator) -> None:
        if left.shape[1] != right.shape[0]:
            raise ValueError(f"cannot multiply operators of shapes {left.shape} and {right.shape}")
        _check_alike(left, right)
        domain, codomain = right.domain, left.codomain
        # A square factor without a structure of its own (a matrix, a diagonal) acts in its neighbour's space.
        if domain is None and right.shape[0] == right.shape[1]:
            domain = left.domain
        if codomain is None and left.shape[0] == left.shape[1]:
            codomain = right.codomain
        super().__init__(
            (left.shape[0], right.shape[1]),
            left.torch_dtype,
            left.device,
            positive_semidefinite=_are_transposes(left, right),
            domain=domain,
            codomain=codomain,
        )
        self.operands = left, right

    def _matmat_torch(self, X: Tensor) -> Tensor:
        left, right = self.operands
        return left._product(right._product(X))

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        left, right = self.operands
        return right._rproduct(left._rproduct(X))


class Power(Operator):
    """x ↦ Aᵖ x for p = 0, 1, 2, ...; an even power of a symmetric operator is positive semidefinite."""

    def __init__(self, operator: Operator, exponent: int) -> None:
        if operator.shape[0] != operator.shape[1]:
            raise ValueError(f"only a square operator has powers, got shape {operator.shape}")
        if not isinstance(exponent, int) or exponent < 0:
            raise ValueError(f"exponent must be a non-negative integer, got {exponent!r}")
        super().__init__(
            operator.shape,
            operator.torch_dtype,
            operator.device,
            symmetric=operator.symmetric,
            positive_semidefinite=operator.positive_semidefinite
            or (operator.symmetric and exponent % 2 == 0),
            domain=operator.domain,
            codomain=operator.codomain,
        )
        self.operator = operator
        self.exponent = exponent

    def _matmat_torch(self, X: Tensor) -> Tensor:
        X = X.clone()
        for _ in range(self.exponent):
            X = self.operator._product(X)
        return X

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        X = X.clone()
        for _ in range(self.exponent):
            X = self.operator._rproduct(X)
        return X


class Submatrix(Operator):
    """x ↦ R A Cᵀ x, where R and C pick rows and columns; indices may repeat."""

    def __init__(self, operator: Operator, rows: Indices, columns: Indices) -> None:
        self.rows = _indices("rows", rows, operator.shape[0], operator.device)
        self.columns = _indices("columns", columns, operator.shape[1], operator.device)
        principal = torch.equal(self.rows, self.columns)
        super().__init__(
            (self.rows.numel(), self.columns.numel()),
            operator.torch_dtype,
            operator.device,
            symmetric=operator.symmetric and principal,
            positive_semidefinite=operator.positive_semidefinite and principal,
        )
        self.operator = operator

    def _matmat_torch(self, X: Tensor) -> Tensor:
        full = _scattered(X, self.columns, self.operator.shape[1])
        return self.operator._product(full).index_select(0, self.rows)

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        full = _scattered(X, self.rows, self.operator.shape[0])
        return self.operator._rproduct(full).index_select(0, self.columns)


def _check_alike(left: Operator, right: Operator) -> None:
    if left.torch_dtype != right.torch_dtype:
        raise TypeError(
            f"cannot combine operators of dtypes {left.dtype} and {right.dtype}: the result would claim more "
            "accuracy than it has; convert one of them first (for a matrix: M.astype or M.to)"
        )
    if left.device != right.device:
        raise ValueError(
            f"cannot combine operators on {left.device} and {right.device}; move one of them first"
        )
    for a, b in ((left.domain, right.domain), (left.codomain, right.codomain)):
        if isinstance(a, Space) and isinstance(b, Space) and a.size == b.size and a.shapes != b.shapes:
            raise ValueError(f"cannot combine operators on pytrees of shapes {a.shapes} and {b.shapes}")


def _are_transposes(left: Operator, right: Operator) -> bool:
    if left is right:
        return left.symmetric
    return (isinstance(right, Transposed) and right.operator is left) or (
        isinstance(left, Transposed) and left.operator is right
    )


def _indices(name: str, given: Any, size: int, device: torch.device) -> Tensor:
    every = torch.arange(size, device=device)
    if given is None or isinstance(given, slice):
        return every if given is None else every[given]
    indices = torch.as_tensor(given, device=device)
    if indices.dim() != 1 or (indices.numel() and indices.is_floating_point()):
        raise TypeError(f"{name} must be a slice, a sequence of integers or None, got {given!r}")
    if indices.dtype == torch.bool and indices.numel() != size:
        raise IndexError(f"{name} has {indices.numel()} flags for {size} entries")
    if (
        indices.dtype != torch.bool
        and indices.numel()
        and not (-size <= indices.min() and indices.max() < size)
    ):
        raise IndexError(f"{name} must lie between {-size} and {size - 1}, got {given!r}")
    return every[indices if indices.numel() else indices.long()]


def _scattered(X: Tensor, indices: Tensor, size: int) -> Tensor:
    # Stored as .mT of a contiguous (k, n), like every block.
    full = X.new_zeros(X.shape[1], size).mT
    return full.index_add_(0, indices, X)
