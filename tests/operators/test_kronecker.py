"""Kronecker: torch.kron is the judge, of products and of damped inverses."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from torch import Tensor

from hvplib import Identity, Kronecker, Matrix, check_operator, solve
from tests.curvatures import assert_same, numbers

F64 = torch.float64


def spd(n: int, seed: int = 0) -> Tensor:
    a = numbers(n, n, seed=seed)
    return a @ a.mT + 0.1 * torch.eye(n, dtype=F64)


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (4, 2)], [(2, 2), (1, 3), (3, 2)], [(1, 1), (2, 2)]])
def test_products(shapes: list[tuple[int, int]]) -> None:
    factors = [numbers(*shape, seed=i) for i, shape in enumerate(shapes)]
    A, dense = Kronecker(*factors), reduce(torch.kron, factors)
    assert_same(A.to_dense(), dense, 1e-13)
    assert_same(A.T.to_dense(), dense.mT, 1e-13)
    assert_same(A @ numbers(dense.shape[1]), dense @ numbers(dense.shape[1]), 1e-13)
    assert check_operator(A).ok


def test_it_is_what_a_layer_does_to_its_weight() -> None:
    """(A ⊗ B) vec(W) = vec(A W Bᵀ)."""
    a, b, w = numbers(3, 3), numbers(2, 2, seed=1), numbers(3, 2, seed=2)
    assert_same((Kronecker(a, b) @ w.reshape(-1)).view(3, 2), a @ w @ b.mT, 1e-13)


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_inverse(damping: float) -> None:
    factors = [spd(2), spd(3, 1), spd(2, 2)]
    A = Kronecker(*(Matrix(f, symmetric=True, positive_semidefinite=True) for f in factors))
    dense = reduce(torch.kron, factors)
    inverse = A.inverse(damping)
    assert_same(inverse.to_dense(), torch.linalg.inv(dense + damping * torch.eye(12, dtype=F64)), 1e-9)
    assert A.positive_semidefinite and inverse.positive_semidefinite
    solution = solve(A, numbers(12), damping=damping, preconditioner=inverse)
    assert solution.num_iter <= 2


def test_singular_and_indefinite_factors() -> None:
    singular = Matrix(torch.diag(torch.tensor([1.0, 0.0], dtype=F64)))
    A = Kronecker(singular, Identity(2, dtype=F64))
    with pytest.raises(ValueError, match="singular within rounding"):
        A.inverse()
    assert_same(A.inverse(0.5).to_dense(), torch.linalg.inv(A.to_dense() + 0.5 * torch.eye(4, dtype=F64)))
    indefinite = Kronecker(torch.diag(torch.tensor([1.0, -2.0], dtype=F64)), spd(2))
    inverse = indefinite.inverse()
    assert inverse.symmetric and not inverse.positive_semidefinite
    assert_same(inverse.to_dense(), torch.linalg.inv(indefinite.to_dense()))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least one factor"):
        Kronecker()
    with pytest.raises(ValueError, match=r"factors\[1\] must be declared symmetric"):
        Kronecker(torch.eye(2), torch.tensor([[1.0, 1.0], [0.0, 1.0]])).inverse()
