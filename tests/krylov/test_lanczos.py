from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.krylov.lanczos import Factorization
from tests.contracts import numbers, symmetric
from tests.krylov.factorizations import check, run, seeded, started, with_pair_locked

F32, F64 = torch.float32, torch.float64


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_identity_as_it_expands(width: int, dtype: torch.dtype) -> None:
    A = symmetric(40, dtype)
    F = started(40, width, dtype=dtype)
    tol = 100 * torch.finfo(dtype).eps
    for step in range(1, 12 // width + 1):
        check(F, A, tol=tol)
        assert not F.full
        assert F.expand(A.matmul, seeded(40, dtype))
        assert (F.count, F.width, F.num_steps) == (width * step, width, step)
        assert F.num_matvecs == width * step
    check(F, A, tol=tol)
    assert F.full
    assert F.asymmetry <= tol * F.norm


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_identity_after_restarts(width: int) -> None:
    A = symmetric(40, F64)
    F = started(40, width)
    for _ in range(4):
        run(F, A)
        ritz = F.ritz()
        F.restart(ritz.vectors[:, [0, -2, -1]])
        check(F, A)
        assert F.count == 3
        torch.testing.assert_close(F.ritz().values, ritz.values[[0, -2, -1]])
    assert F.asymmetry <= 1e-13 * F.norm


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_ritz_pairs_against_dense(width: int) -> None:
    A = symmetric(40, F64)
    F = run(started(40, width, lockable=2), A)
    ritz = F.ritz()
    V = F.basis[: F.count]
    torch.testing.assert_close(ritz.values, torch.linalg.eigvalsh(V.mT @ A @ V))
    Y = F.combine(ritz.vectors)
    torch.testing.assert_close(ritz.residual_norms, torch.linalg.vector_norm(A @ Y - Y * ritz.values, dim=0))
    assert torch.equal(ritz.residual_norms, ritz.deflated_norms)


def test_restarts_converge_to_eigenvalues() -> None:
    values = torch.linspace(-1, 1, 60, dtype=F64) ** 3
    Q = torch.linalg.qr(numbers(60, 60, dtype=F64)).Q
    A = (Q * values) @ Q.mT
    F = started(60)
    for _ in range(40):
        F.restart(run(F, A).ritz().vectors[:, -4:])
    torch.testing.assert_close(F.ritz().values[-2:], values[-2:], rtol=0, atol=1e-13)
    assert F.ritz().residual_norms[-2:].max() <= 1e-12
    check(F, A)


# Locking.


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_identity_after_locking(width: int) -> None:
    F, A, _ = with_pair_locked(width)
    assert (F.locked, F.count, F.active) == (2, 6, 4)
    check(F, A)
    torch.testing.assert_close(F.T[:2, :2], torch.tensor([4.0, 3.0], dtype=F64).diag(), atol=1e-12, rtol=0)
    run(F, A)
    check(F, A)
    assert F.active <= F.capacity
    # What is locked is found no more.
    assert F.ritz().values.max() <= 1 + 1e-12
    F.restart(F.ritz().vectors[:, -3:])
    check(F, A)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_renewed_beside_the_locked(width: int) -> None:
    F, A, _ = with_pair_locked(width)
    before = F.num_matvecs
    F.renew(numbers(3, 40, dtype=F64, seed=7).mT)
    assert (F.locked, F.active, F.width, F.num_steps, F.num_matvecs) == (2, 0, 3, 0, before)
    run(F, A)
    check(F, A)
    assert F.num_steps == (F.num_matvecs - before) // 3
    assert F.asymmetry <= 1e-13 * F.norm


def test_locked_columns_may_be_far_from_eigenvectors() -> None:
    # The identity of the deflated operator holds all the same, and so do the residual norms of A itself.
    A = symmetric(40, F64)
    F = run(started(40, lockable=3), A, 5)
    F.lock(3)
    F.renew(numbers(40, 1, dtype=F64, seed=9))
    run(F, A)
    check(F, A, forgotten=math.inf)
    X, V = F.basis[:3], F.basis[3 : F.count]
    ritz = F.ritz()
    Y = F.combine(ritz.vectors)
    outside = torch.eye(40, dtype=F64) - X @ X.mT
    assert (outside @ A @ V - V @ F.T[3 : F.count, 3 : F.count]).norm() > 0
    torch.testing.assert_close(ritz.residual_norms, torch.linalg.vector_norm(A @ Y - Y * ritz.values, dim=0))
    deflated = torch.linalg.vector_norm(outside @ A @ Y - Y * ritz.values, dim=0)
    torch.testing.assert_close(ritz.deflated_norms, deflated)
    assert (ritz.deflated_norms < ritz.residual_norms).all()
    # X X^T A V is in T, though A X was never formed again.
    torch.testing.assert_close(F.T[:3, 3 : F.count], X.mT @ A @ V)


def test_locked_columns_turned() -> None:
    # Far from eigenvectors, so that each part of the identity counts.
    A = symmetric(40, F64)
    F = run(started(40, lockable=3), A, 8)
    X = F.basis[:3].clone()
    F.lock(3)
    G = torch.linalg.qr(numbers(3, 3, dtype=F64, seed=9)).Q
    F.turn_locked(G)
    torch.testing.assert_close(F.basis[:3], X @ G)
    check(F, A)
    turned = F.T[:3, :3]
    torch.testing.assert_close(turned, (X @ G).mT @ A @ (X @ G))
    run(F, A, 2)
    torch.testing.assert_close(
        F.cross(torch.eye(F.active, dtype=F64)), F.basis[:3].mT @ A @ F.basis[3 : F.count]
    )


@pytest.mark.parametrize("kept", [[0], [1], [1, 0], []])
def test_keep_locked(kept: list[int]) -> None:
    F, A, _ = with_pair_locked(2)
    X, V = F.basis[:2].clone(), F.basis[2 : F.count + F.width].clone()
    F.keep_locked(kept)
    assert (F.locked, F.active, F.width) == (len(kept), 4, 2)
    torch.testing.assert_close(F.basis[: len(kept)], X[:, kept])
    torch.testing.assert_close(F.basis[len(kept) : F.count + 2], V)
    check(F, A, tol=1e-12)
    run(F, A)
    check(F, A, tol=1e-12)
    assert F.asymmetry <= 1e-12


# The end of the space.


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 2, 5, 7, 12])
def test_whole_space(n: int, width: int) -> None:
    A = symmetric(n, F64)
    F = started(n, width, capacity=n)
    run(F, A)
    check(F, A)
    assert (F.count, F.width) == (n, 0)
    assert not F.ritz().residual_norms.any()
    torch.testing.assert_close(F.ritz().values, torch.linalg.eigvalsh(A))


def test_capacity_is_no_more_than_the_space() -> None:
    F = started(5, capacity=50, lockable=50)
    assert (F.capacity, F.basis.capacity) == (5, 6)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_invariant_subspaces_are_left_at_random(width: int) -> None:
    # The identity: each Krylov space is invariant after one step.
    A, drawn = torch.eye(10, dtype=F64), [0]
    random = seeded(10)

    def counted(k: int) -> Tensor:
        drawn[0] += k
        return random(k)

    F = run(started(10, width, capacity=10), A, random=counted)
    check(F, A)
    assert (F.count, F.width) == (10, 0)
    assert drawn[0] == 10 - width
    torch.testing.assert_close(F.ritz().values, torch.ones(10, dtype=F64))


def test_a_random_vector_close_to_the_span_still_leads_out_of_it() -> None:
    A = torch.eye(10, dtype=F64)
    F = started(10, 1, capacity=10)
    random = seeded(10)

    def close(k: int) -> Tensor:
        inside = F.basis[: F.count + 1] if F.count else F.basis[:1]
        return inside @ torch.ones(inside.shape[1], k, dtype=F64) + 1e-12 * random(k)

    check(run(F, A, random=close), A, tol=1e-14)
    assert F.count == 10


def test_breakdown_of_some_columns_of_a_block() -> None:
    # One column of the start is an eigenvector: it brings nothing new, the other goes on alone.
    A = symmetric(30, F64)
    start = torch.stack([torch.linalg.eigh(A).eigenvectors[:, 4], numbers(30, dtype=F64)]).mT
    F = Factorization(start, capacity=10, size=30)
    assert F.width == 2
    assert F.expand(A.matmul, seeded(30))
    assert (F.count, F.width) == (2, 1)
    run(F, A)
    check(F, A)
    assert F.count == 10


@pytest.mark.parametrize("small", [1e-1, 1e-3, 1e-5, 1e-7, 1e-9, 1e-11])
def test_columns_of_the_next_block_that_are_nearly_dependent(small: float) -> None:
    # A maps the second column near to the image of the first: what sets them apart is short, but counts.
    n = 30
    A, U = torch.diag(torch.linspace(1, 2, n, dtype=F64)), torch.linalg.qr(numbers(n, n, dtype=F64)).Q
    for column, row, entry in ((0, 2, 1.0), (1, 2, 1.0), (1, 3, small)):
        A[row, column] = A[column, row] = entry
    A = U @ A @ U.mT
    F = Factorization(U[:, :2].clone(), capacity=8, size=n)
    assert F.expand(A.matmul, seeded(n))
    assert F.width == 2
    check(F, A, tol=1e-14)
    run(F, A)
    check(F, A)


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9, 1e-11])
def test_start_of_nearly_dependent_columns(small: float) -> None:
    A, X = symmetric(30, F64), numbers(30, 3, dtype=F64)
    start = torch.stack([X[:, 0], X[:, 0] + small * X[:, 1], X[:, 0] + small * X[:, 2]]).mT
    F = Factorization(start, capacity=9, size=30)
    assert F.width == 3
    run(F, A)
    check(F, A)


@pytest.mark.parametrize("small", [1e-3, 1e-6, 1e-9])
def test_renewed_from_nearly_dependent_columns(small: float) -> None:
    F, A, _ = with_pair_locked()
    X = numbers(40, 3, dtype=F64, seed=4)
    F.renew(torch.stack([X[:, 0], X[:, 0] + small * X[:, 1]]).mT)
    assert F.width == 2
    check(F, A)


@pytest.mark.parametrize("width", [2, 3])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_norm_is_one_from_below_where_a_block_is_dependent(width: int, size: float) -> None:
    # All columns of the product lie in one direction.
    u = numbers(30, 1, dtype=F64, seed=2)
    A = size * u @ u.mT
    F = started(30, width)
    assert F.expand(A.matmul, seeded(30))
    assert F.width == 1
    check(F, A)


def test_start_of_dependent_columns() -> None:
    A, x = symmetric(30, F64), numbers(30, dtype=F64)
    F = Factorization(torch.stack([x, -2 * x, 0 * x]).mT, capacity=9, size=30)
    assert F.width == 1
    run(F, A)
    check(F, A)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_start_that_is_none(bad: float) -> None:
    F = Factorization(torch.full((30, 1), bad, dtype=F64), capacity=9, size=30)
    assert (F.count, F.width) == (0, 0)
    F.renew(numbers(30, 1, dtype=F64))
    assert F.width == 1


@pytest.mark.parametrize("factor", [1e-120, 1e120])
def test_scale_of_the_start_is_no_matter(factor: float) -> None:
    A, x = symmetric(30, F64), numbers(30, 1, dtype=F64)
    one, other = (Factorization(f * x, capacity=9, size=30) for f in (1.0, factor))
    torch.testing.assert_close(run(one, A).T, run(other, A).T)
