"""Algebra of operators: the expressions, what is declared of the results, and the refusals.

That each kind of result multiplies right is in `test_base`, for every row of `tests/contracts.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from hvplib import Diagonal, HessianOperator, Identity, LowRank, Matrix, Operator
from tests.contracts import numbers, symmetric

F64 = torch.float64
M, N = numbers(3, 3, dtype=F64), numbers(3, 3, dtype=F64, seed=1)
A, B = Matrix(M), Matrix(N)
EYE = torch.eye(3, dtype=F64)


@pytest.mark.parametrize(
    ("operator", "dense"),
    [
        (A + B, M + N),
        (A - B, M - N),
        (-A, -M),
        (+1 * A, M),
        (2 * A, 2 * M),
        (A * 2, 2 * M),
        (A * np.float64(2), 2 * M),
        (np.float64(2) * A, 2 * M),
        (torch.tensor(2.0) * A, 2 * M),
        (A * torch.tensor(2.0), 2 * M),
        (A / 4, M / 4),
        (A @ B, M @ N),
        (A * B, M @ N),
        (A.dot(B), M @ N),
        (A**0, EYE),
        (A**2, M @ M),
        (A.shifted(0.5), M + 0.5 * EYE),
        (A[1:, [0, 2]], M[1:][:, [0, 2]]),
        (A.submatrix(rows=[2]), M[[2]]),
        (A[torch.tensor([True, False, True]), np.array([-1])], M[[0, 2]][:, [-1]]),
        (A[[], :], M[[]]),
        (A + N, M + N),
        (N + A, M + N),
        (A - N.numpy(), M - N),
        (N.numpy() - A, N - M),
        (N - A, N - M),
        (A + scipy.sparse.csr_array(N.numpy()), M + N),
        (scipy.sparse.csr_array(N.numpy()) - A, N - M),
        (A + aslinearoperator(N.numpy()), M + N),
        (A @ aslinearoperator(N.numpy()), M @ N),
        ((A @ B).T, (M @ N).mT),
        ((A + B).H, (M + N).mT),
    ],
)
def test_expressions(operator: Operator, dense: torch.Tensor) -> None:
    assert isinstance(operator, Operator)
    torch.testing.assert_close(operator.to_dense(), dense, rtol=1e-12, atol=1e-12)


def test_a_scipy_operator_on_the_left_gives_a_scipy_operator() -> None:
    for combined, dense in (
        (aslinearoperator(N.numpy()) @ A, N @ M),
        (aslinearoperator(N.numpy()) + A, N + M),
    ):
        assert isinstance(combined, LinearOperator) and not isinstance(combined, Operator)
        np.testing.assert_allclose(combined @ np.eye(3), dense.numpy(), rtol=1e-12, atol=1e-12)


def test_calling_multiplies() -> None:
    torch.testing.assert_close(A(torch.ones(3, dtype=F64)), M.sum(1))
    np.testing.assert_allclose(A.dot(np.ones(3)), M.sum(1).numpy())


P, Q = LowRank(torch.ones(3, 1, dtype=F64)), Diagonal(torch.tensor([1.0, 2.0, 3.0], dtype=F64))
S = Matrix(symmetric(3, F64))


@pytest.mark.parametrize(
    ("make", "is_symmetric", "is_semidefinite"),
    [
        (lambda: P + Q, True, True),
        (lambda: P - Q, True, False),
        (lambda: P + S, True, False),
        (lambda: P + A, False, False),
        (lambda: 2 * P, True, True),
        (lambda: -2 * P, True, False),
        (lambda: P / -2, True, False),
        (lambda: P.shifted(1.0), True, True),
        (lambda: P.shifted(-1.0), True, False),
        (lambda: S.shifted(1.0), True, False),
        (lambda: P @ Q, False, False),
        (lambda: A @ A.T, True, True),
        (lambda: A.T @ A, True, True),
        (lambda: A @ A, False, False),
        (lambda: S @ S, True, True),
        (lambda: S @ S.T, True, True),
        (lambda: S**2, True, True),
        (lambda: S**3, True, False),
        (lambda: P**3, True, True),
        (lambda: A**2, False, False),
        (lambda: P[[0, 2], [0, 2]], True, True),
        (lambda: S[:2, :2], True, False),
        (lambda: S[[0, 2], [2, 0]], False, False),
        (lambda: Identity(3), True, True),
        (lambda: S.T, True, False),
        (lambda: A.T, False, False),
    ],
)
def test_declared_facts_follow(
    make: Callable[[], Operator], is_symmetric: bool, is_semidefinite: bool
) -> None:
    operator = make()
    assert (operator.symmetric, operator.positive_semidefinite) == (is_symmetric, is_semidefinite)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"cannot add operators of shapes \(3, 3\) and \(2, 2\)"):
        A + Identity(2, dtype=F64)
    with pytest.raises(ValueError, match=r"cannot multiply operators of shapes \(3, 3\) and \(2, 2\)"):
        A @ Identity(2, dtype=F64)
    with pytest.raises(TypeError, match="dtypes float64 and float32: the result would claim more accuracy"):
        A + Identity(3, dtype=torch.float32)
    with pytest.raises(TypeError, match="dtypes float64 and float32"):
        A @ Identity(3, dtype=torch.float32)
    with pytest.raises(ValueError, match="cannot combine operators on cpu and meta"):
        A + Matrix(torch.ones(3, 3, dtype=F64, device="meta"), symmetric=False)
    with pytest.raises(TypeError, match=r"A \+ scalar is not defined; use A.shifted\(scalar\)"):
        A + 1
    with pytest.raises(TypeError, match=r"A \+ scalar is not defined"):
        1 - A
    with pytest.raises(ValueError, match=r"A @ scalar is not defined; use A \* scalar"):
        A @ 2.0
    with pytest.raises(ValueError, match=r"scalar @ A is not defined; use scalar \* A"):
        2.0 @ A
    with pytest.raises(
        TypeError, match="expected a real scalar, got 2j; complex operators are not supported"
    ):
        2j * A
    with pytest.raises(TypeError, match="an operator can be divided by a scalar only, got Matrix"):
        A / B
    with pytest.raises(TypeError, match="expected an operator or a matrix, got str"):
        A + "B"
    with pytest.raises(ValueError, match="exponent must be a non-negative integer, got -1"):
        A**-1
    with pytest.raises(ValueError, match=r"only a square operator has powers, got shape \(2, 3\)"):
        Matrix(torch.ones(2, 3)) ** 2
    with pytest.raises(ValueError, match=r"only a square operator can be shifted, got shape \(2, 3\)"):
        Matrix(torch.ones(2, 3)).shifted(1)
    with pytest.raises(IndexError, match=r"rows must lie between -3 and 2, got \[3\]"):
        A[[3], :]
    with pytest.raises(IndexError, match="columns has 2 flags for 3 entries"):
        A[:, torch.tensor([True, False])]
    with pytest.raises(TypeError, match=r"rows must be a slice, a sequence of integers or None, got 1"):
        A[1, :]
    with pytest.raises(TypeError, match="columns must be a slice, a sequence of integers"):
        A[:, [0.5]]


def test_hessians_at_points_of_different_structure_do_not_mix() -> None:
    flat = HessianOperator(lambda x: (x**2).sum(), torch.ones(4, dtype=F64))
    square = HessianOperator(lambda x: (x**2).sum(), torch.ones(2, 2, dtype=F64))
    with pytest.raises(ValueError, match="cannot combine operators on pytrees of shapes"):
        flat + square
