"""Kronecker products of operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from hvplib.operators.base import Operator
from hvplib.operators.parts import Factor, check_alike, check_regular, operator, symmetrized

__all__ = ["Kronecker"]


class Kronecker(Operator):
    """x ↦ (A_1 ⊗ ... ⊗ A_p) x, with (A ⊗ B) vec(X) = vec(A X Bᵀ) for the rows of X one after the other.

    Args:
        factors: A_1, ..., A_p, operators or matrices of one dtype.

    Attributes:
        factors: As given, as operators.

    Example:
        >>> import torch
        >>> A = Kronecker(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
        >>> A @ torch.ones(4)
        tensor([4., 6.])
    """

    def __init__(self, *factors: Factor) -> None:
        if not factors:
            raise ValueError("give at least one factor, an operator or a matrix")
        self.factors = [operator(f"factors[{i}]", factor) for i, factor in enumerate(factors)]
        check_alike(self.factors)
        first = self.factors[0]
        shapes = [factor.shape for factor in self.factors]
        super().__init__(
            (prod(m for m, _ in shapes), prod(n for _, n in shapes)),
            first.torch_dtype,
            first.device,
            symmetric=all(factor.symmetric for factor in self.factors),
            positive_semidefinite=all(factor.positive_semidefinite for factor in self.factors),
        )

    def inverse(self, damping: float = 0.0) -> Operator:
        """(A_1 ⊗ ... ⊗ A_p + δ I)⁻¹, exactly, by eigenvalue decompositions of the factors.

        Args:
            damping: δ.

        Raises:
            ValueError: A factor is not symmetric, or the sum is singular within rounding.
        """
        for i, factor in enumerate(self.factors):
            if not factor.symmetric:
                raise ValueError(
                    f"factors[{i}] must be declared symmetric for inverse(); symmetrise it, or declare it so "
                    "with Matrix(..., symmetric=True)"
                )
        pairs = [torch.linalg.eigh(symmetrized(factor).double()) for factor in self.factors]
        values = reduce(lambda a, b: (a.unsqueeze(1) * b).reshape(-1), [pair[0] for pair in pairs]) + damping
        check_regular(values, self.torch_dtype, damping)
        return _KroneckerSpectral([pair[1].to(self.torch_dtype) for pair in pairs], 1 / values)

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return _along_modes([factor._product for factor in self.factors], [f.shape for f in self.factors], X)

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        shapes = [(n, m) for m, n in (factor.shape for factor in self.factors)]
        return _along_modes([factor._rproduct for factor in self.factors], shapes, X)


class _KroneckerSpectral(Operator):
    """x ↦ Q diag(v) Qᵀ x with Q the Kronecker product of orthogonal matrices."""

    def __init__(self, bases: Sequence[Tensor], values: Tensor) -> None:
        size = values.numel()
        super().__init__(
            (size, size),
            bases[0].dtype,
            bases[0].device,
            symmetric=True,
            positive_semidefinite=bool((values >= 0).all()),
        )
        self._bases = list(bases)
        self._values = values.to(bases[0].dtype).unsqueeze(1)

    def _matmat_torch(self, X: Tensor) -> Tensor:
        shapes = [(Q.shape[0], Q.shape[0]) for Q in self._bases]
        there = _along_modes([Q.mT.matmul for Q in self._bases], shapes, X)
        return _along_modes([Q.matmul for Q in self._bases], shapes, self._values * there)


def _along_modes(products: Sequence[Any], shapes: Sequence[tuple[int, int]], X: Tensor) -> Tensor:
    """Each product along its own index of the rows of X, which are numbered with the last index fastest."""
    size, count = X.shape
    for product, (rows, columns) in zip(products, shapes, strict=True):
        # The first index is worked on and goes to the end: after all of them the order is the first one.
        others = size // max(columns, 1)
        done = product(X.reshape(columns, others * count))
        size = rows * others
        X = done.reshape(rows, others, count).movedim(0, 1).reshape(size, count)
    return X.mT.contiguous().mT
