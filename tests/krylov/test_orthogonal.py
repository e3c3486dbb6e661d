from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.krylov.basis import Basis
from hvplib.krylov.inner import EUCLIDEAN, Inner, Weighted
from hvplib.krylov.orthogonal import orthonormalize, project_out, take_out
from tests.contracts import numbers

F32, F64 = torch.float32, torch.float64
WEIGHTS = torch.linspace(0.5, 40.0, 60, dtype=F64).unsqueeze(1)


def weighted(dtype: torch.dtype) -> Inner:
    weights = WEIGHTS.to(dtype)
    return Weighted(lambda X: weights * X)


def orthonormal_basis(m: int, dtype: torch.dtype, inner: Inner, n: int = 60) -> Basis:
    """m columns that are orthonormal in the inner product, by another way than those under test."""
    X = numbers(n, m, dtype=F64)
    if inner is not EUCLIDEAN:
        root = WEIGHTS.sqrt()
        X = torch.linalg.qr(root * X).Q / root
    else:
        X = torch.linalg.qr(X).Q
    basis = Basis(m, X.to(dtype))
    basis.put(0, X.to(dtype))
    return basis


def skewness(Q: Tensor, inner: Inner = EUCLIDEAN) -> float:
    """Largest entry of QᵀQ − I."""
    return float((inner(Q, Q) - torch.eye(Q.shape[1], dtype=Q.dtype)).abs().max())


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("in_weights", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_what_is_projected_out(dtype: torch.dtype, in_weights: bool, k: int) -> None:
    inner, eps = weighted(dtype) if in_weights else EUCLIDEAN, torch.finfo(dtype).eps
    basis = orthonormal_basis(8, dtype, inner)
    W = numbers(k, 60, dtype=dtype, seed=1).mT
    before = W.clone()
    H = project_out(W, basis, 8, inner)
    scale = float(before.norm())
    assert (H - inner(basis[:8], before)).abs().max() <= 100 * eps * scale
    assert (basis[:8] @ H + W - before).abs().max() <= 100 * eps * scale
    assert inner(basis[:8], W).abs().max() <= 100 * eps * scale


def test_only_the_first_columns_are_projected_out() -> None:
    basis = orthonormal_basis(8, F64, EUCLIDEAN)
    W = numbers(60, 1, dtype=F64, seed=1)
    after = W.clone()
    H = project_out(after, basis, 5, EUCLIDEAN)
    assert H.shape == (5, 1)
    torch.testing.assert_close(basis[5:8].mT @ after, basis[5:8].mT @ W)


def test_twice_is_enough_where_once_is_not() -> None:
    # All but 1e-10 of the vector lies in the span: one pass leaves a part that is large beside the rest.
    basis = orthonormal_basis(8, F64, EUCLIDEAN)
    W = basis[:8] @ numbers(8, 1, dtype=F64, seed=2) + 1e-10 * numbers(60, 1, dtype=F64, seed=3)
    once = W - basis[:8] @ (basis[:8].mT @ W)
    assert (basis[:8].mT @ once).abs().max() > 1e-8 * once.norm()
    project_out(W, basis, 8, EUCLIDEAN)
    assert (basis[:8].mT @ W).abs().max() <= 1e-14 * W.norm()


def test_one_pass_is_enough_for_what_has_few_parts_in_the_columns() -> None:
    basis = orthonormal_basis(8, F64, EUCLIDEAN)
    W = 0.1 * basis[:8] @ numbers(8, 1, dtype=F64, seed=2) + numbers(60, 1, dtype=F64, seed=3)
    before = W.clone()
    H = take_out(W, basis, 5, EUCLIDEAN)
    torch.testing.assert_close(H, basis[:5].mT @ before)
    torch.testing.assert_close(W, before - basis[:5] @ H)
    assert (basis[:5].mT @ W).abs().max() <= 1e-15 * W.norm()


def graded(n: int, sizes: list[float], dtype: torch.dtype) -> Tensor:
    """Columns of these lengths, each nearly a multiple of the first."""
    Q = torch.linalg.qr(numbers(n, len(sizes), dtype=F64)).Q
    mixing = torch.ones(len(sizes), len(sizes), dtype=F64).triu()
    return (Q @ (torch.tensor(sizes, dtype=F64).unsqueeze(1) * mixing)).to(dtype)


@pytest.mark.parametrize("in_weights", [False, True])
@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    "sizes", [[1.0], [1.0, 1.0, 1.0], [1.0, 1e-3], [1.0, 1e-2, 1e-4]], ids=lambda sizes: str(len(sizes))
)
def test_orthonormal_factors(dtype: torch.dtype, in_weights: bool, sizes: list[float]) -> None:
    inner, eps = weighted(dtype) if in_weights else EUCLIDEAN, torch.finfo(dtype).eps
    W = graded(60, sizes, dtype)
    Q, B = orthonormalize(W.clone(), inner, 100 * eps)
    assert Q.shape == W.shape and Q.dtype == dtype
    assert B.dtype == F64 and B.device.type == "cpu"
    assert skewness(Q, inner) <= 50 * eps
    assert (Q @ B.to(dtype) - W).abs().max() <= 50 * eps * W.abs().max()


@pytest.mark.parametrize("small", [1e-6, 1e-9, 1e-12])
def test_columns_that_are_dependent_but_for_little(small: float) -> None:
    # The Gram matrix of these has a condition of up to 1e24, far beyond 1 / eps.
    W = graded(60, [1.0, small, small], F64)
    Q, B = orthonormalize(W.clone(), EUCLIDEAN, 1e-14)
    assert Q.shape == (60, 3)
    assert skewness(Q) <= 1e-14
    assert (Q @ B - W).abs().max() <= 1e-14


@pytest.mark.parametrize("factor", [1e-140, 1e-30, 1e30, 1e140])
def test_scale_is_no_matter(factor: float) -> None:
    W = graded(60, [1.0, 1e-3, 1e-3], F64) * factor
    Q, B = orthonormalize(W.clone(), EUCLIDEAN, 1e-14 * factor)
    assert Q.shape == (60, 3) and skewness(Q) <= 1e-14
    assert (Q @ B - W).abs().max() <= 1e-14 * factor


def test_columns_of_different_scales() -> None:
    W = torch.linalg.qr(numbers(60, 4, dtype=F64)).Q * torch.tensor([1e6, 1e-6, 1.0, 1e3], dtype=F64)
    Q, B = orthonormalize(W.clone(), EUCLIDEAN, 1e-14)
    assert Q.shape == (60, 4) and skewness(Q) <= 1e-14
    assert ((Q @ B - W).abs().max(0).values <= 1e-9).all()


@pytest.mark.parametrize(
    ("columns", "rank"),
    [
        ([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 1),
        ([[0.0, 0.0, 0.0], [0.0, 3.0, 0.0]], 1),
        ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], 0),
        ([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [3.0, 5.0, 0.0]], 2),
        ([[1.0, 0.0, 0.0], [1.0, 1e-9, 0.0]], 1),
        ([[3.0, -4.0, 0.0]], 1),
        ([[0.0, 0.0, 0.0]], 0),
        ([[0.0, 9e-9, 0.0]], 0),
        ([[0.0, math.nan, 0.0]], 0),
    ],
)
def test_dependent_columns_are_dropped(columns: list[list[float]], rank: int) -> None:
    W = torch.tensor(columns, dtype=F64).mT
    Q, B = orthonormalize(W.clone(), EUCLIDEAN, 1e-8)
    assert Q.shape == (3, rank) and B.shape == (rank, len(columns))
    assert rank == 0 or skewness(Q) <= 1e-14
    assert not (Q @ B - W).abs().max() > 1e-8


def test_no_column_at_all() -> None:
    Q, B = orthonormalize(torch.zeros(5, 0, dtype=F64), EUCLIDEAN, 1e-8)
    assert Q.shape == (5, 0) and B.shape == (0, 0)
