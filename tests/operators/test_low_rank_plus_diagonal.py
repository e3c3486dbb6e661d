"""LowRankPlusDiagonal: the dense matrix and its inverse are the judges."""

from __future__ import annotations

import pytest
import torch

from hvplib import LowRankPlusDiagonal, check_operator, solve
from tests.curvatures import assert_same, numbers

F64 = torch.float64


def make(n: int, r: int, signs: bool = False) -> LowRankPlusDiagonal:
    values = numbers(r, seed=2) if signs else numbers(r, seed=2).square() + 0.1
    return LowRankPlusDiagonal(numbers(n).square() + 0.5, numbers(n, r, seed=1), values)


@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize(("n", "r"), [(1, 1), (6, 2), (5, 5), (3, 5), (4, 0)])
def test_product_and_inverse(n: int, r: int, signs: bool) -> None:
    A = make(n, r, signs)
    dense = torch.diag(A.diagonal) + A.factor @ torch.diag(A.values) @ A.factor.mT
    assert_same(A.to_dense(), dense, 1e-13)
    assert A.positive_semidefinite == bool((A.values >= 0).all()) and check_operator(A).ok
    for damping in (0.0, 0.6):
        damped = dense + damping * torch.eye(n, dtype=F64)
        inverse = A.inverse(damping)
        assert_same(inverse.to_dense(), torch.linalg.inv(damped), 1e-9)
        assert inverse.positive_semidefinite == bool((torch.linalg.eigvalsh(damped) > 0).all())
        assert_same(inverse.inverse().to_dense(), damped, 1e-8)


def test_it_preconditions() -> None:
    A = LowRankPlusDiagonal(10.0 ** -torch.arange(8, dtype=F64), numbers(8, 2))
    solution = solve(A, numbers(8), preconditioner=A.inverse())
    assert solution.num_iter <= 3
    assert_same(A.to_dense() @ solution.x, numbers(8), 1e-5)


def test_float32_inverts_to_its_accuracy() -> None:
    A = LowRankPlusDiagonal(torch.full((20,), 0.1), numbers(20, 3, dtype=torch.float32) * 10)
    product = A.inverse() @ (A @ torch.ones(20))
    assert float((product - 1).abs().max()) < 0.02  # condition 10⁵, times eps


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"shapes \(n,\), \(n, r\) and \(r,\)"):
        LowRankPlusDiagonal(torch.ones(3), torch.ones(2, 1))
    with pytest.raises(TypeError, match="one dtype"):
        LowRankPlusDiagonal(torch.ones(2), torch.ones(2, 1, dtype=F64))
    with pytest.raises(ValueError, match=r"diagonal \+ damping must be positive, got 0"):
        LowRankPlusDiagonal(torch.zeros(2), torch.ones(2, 1)).inverse()
    with pytest.raises(ValueError, match="singular within rounding"):
        LowRankPlusDiagonal(torch.ones(1, dtype=F64), torch.ones(1, 1, dtype=F64), -torch.ones(1)).inverse()
