"""Lanczos factorisations beside the straight road: bad products, states, other storage, other spaces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.krylov.inner import Inner
from hvplib.krylov.lanczos import Factorization
from tests.contracts import numbers, symmetric
from tests.krylov.factorizations import check, run, seeded, started, with_pair_locked
from tests.krylov.spaces import Guarded, Plain, Shared, Slanted, in_parts

F32, F64 = torch.float32, torch.float64


# What goes wrong in a product.


def snapshot(F: Factorization) -> dict[str, Any]:
    return F.state() | {"count": F.count}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        torch.equal(one[name], other[name]) if isinstance(one[name], Tensor) else one[name] == other[name]
        for name in one
    )


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_product_that_is_not_finite_changes_nothing(width: int, bad: float) -> None:
    A = symmetric(40, F64)
    F = run(started(40, width), A, 2)
    before = snapshot(F)

    def spoilt(X: Tensor) -> Tensor:
        Y = A @ X
        Y[7, -1] = bad
        return Y

    assert not F.expand(spoilt, seeded(40))
    before["num_matvecs"] += width  # the product was made
    assert same(before, snapshot(F))
    run(F, A)
    check(F, A)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_exception_in_a_product_changes_nothing(error: type[BaseException]) -> None:
    A = symmetric(40, F64)
    F = run(started(40, 2), A, 2)
    before = snapshot(F)

    def broken(X: Tensor) -> Tensor:
        raise error

    with pytest.raises(error):
        F.expand(broken, seeded(40))
    assert same(before, snapshot(F))


def test_product_that_returns_its_argument_changes_no_column() -> None:
    F = started(6, capacity=3)
    start = F.basis[:1].clone()
    assert F.expand(lambda X: X.clone(), seeded(6))
    assert torch.equal(F.basis[:1], start)


@pytest.mark.parametrize("width", [1, 2])
def test_one_pass_over_the_columns_in_each_step(width: int) -> None:
    # Beside the next block's own part and its length, nothing but one inner product with each column; after a
    # restart, and with columns locked, too.
    A, read = symmetric(40, F64), [0]

    class Counted(Inner):
        def __call__(self, X: Tensor, Y: Tensor) -> Tensor:
            read[0] += X.shape[1]
            return super().__call__(X, Y)

    F = started(40, width, lockable=2, inner=Counted())
    for cycle in range(3):
        while not F.full:
            before, read[0] = F.count, 0
            assert F.expand(A.matmul, seeded(40))
            own = 0 if width == 1 else 2 * width  # Gram matrices of a block
            assert read[0] == before + 2 * width + own
        F.restart(F.ritz().vectors[:, -5:])
        if cycle == 1:
            F.lock(1)
    assert F.num_steps > 10


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_columns_stay_orthonormal_where_the_product_contradicts_the_recurrence(
    width: int, size: float
) -> None:
    # The product contains more of the columns than the recurrence knows, by that much.
    A = symmetric(40, F64)
    F = started(40, width)

    def product(X: Tensor) -> Tensor:
        C = size * numbers(F.count, X.shape[1], dtype=F64, seed=F.num_matvecs)
        return A @ X + F.basis[: F.count] @ C

    for _ in range(3):
        while not F.full:
            assert F.expand(product, seeded(40))
        F.restart(F.ritz().vectors[:, -4:])
    Q = F.basis[: F.count + F.width]
    assert (Q.mT @ Q - torch.eye(Q.shape[1], dtype=F64)).abs().max() <= 1e-13
    assert F.asymmetry >= size / 10


def test_columns_stay_orthonormal_where_little_is_new() -> None:
    # Of the product with the last column nearly all lies in the columns: rounding is long beside what is new.
    for small in (1e-4, 1e-8, 1e-12):
        A = symmetric(40, F64)
        A[:6, 6:] *= small
        A[6:, :6] *= small
        start = torch.zeros(40, 1, dtype=F64)
        start[:6, 0] = 1.0
        F = run(Factorization(start, capacity=12, size=40), A)
        Q = F.basis[: F.count + F.width]
        assert (Q.mT @ Q - torch.eye(Q.shape[1], dtype=F64)).abs().max() <= 1e-14
        check(F, A)


def test_a_product_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"matmat must return a block like its argument, \(6, 1\)"):
        started(6, capacity=3).expand(lambda X: X[:5], seeded(6))


def test_asymmetry_is_measured() -> None:
    # <q_i, A q_j> - <A q_i, q_j> = 2 d for one pair of coordinates that the basis contains.
    A, d = symmetric(20, F64), 1e-4
    skew = torch.zeros(20, 20, dtype=F64)
    skew[3, 5], skew[5, 3] = d, -d
    F = run(started(20, capacity=20), A + skew)
    Q = F.basis[: F.count]
    worst = float((Q.mT @ (2 * skew) @ Q).abs().max())
    assert 0.3 * worst <= F.asymmetry <= (1 + 1e-8) * worst
    symmetric_part = run(started(20, capacity=20), A)
    assert symmetric_part.asymmetry <= 1e-13


def test_norm_is_a_lower_bound_that_comes_close() -> None:
    A = symmetric(40, F64)
    norm = float(torch.linalg.matrix_norm(A, 2))
    F = run(started(40, capacity=25), A)
    assert 0.6 * norm <= F.norm <= norm


# Kept and taken up again.


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_state_goes_on_bit_for_bit(width: int, dtype: torch.dtype) -> None:
    F, A, _ = with_pair_locked(width, dtype=dtype)
    run(F, A, 1)
    state = F.state()
    other = started(40, 1, capacity=16, lockable=2 + width - 1, dtype=dtype)
    other.load(state)
    assert same(snapshot(F), snapshot(other))
    run(F, A)
    F.restart(F.ritz().vectors[:, -2:])
    run(other, A)
    other.restart(other.ritz().vectors[:, -2:])
    assert same(snapshot(F), snapshot(other))
    other.load(state)  # what was handed out is a copy
    assert not same(snapshot(F), snapshot(other))
    run(other, A)
    other.restart(other.ritz().vectors[:, -2:])
    assert same(snapshot(F), snapshot(other))


def test_state_of_another_size_is_refused() -> None:
    A = symmetric(40, F64)
    state = run(started(40), A).state()
    with pytest.raises(ValueError, match="state holds 13 columns of length 40, but there is room for 6"):
        started(40, capacity=5).load(state)
    with pytest.raises(ValueError, match="but there is room for 13 of length 39"):
        started(39).load(state)


@pytest.mark.parametrize("width", [1, 2])
def test_defect_tells_the_operator(width: int) -> None:
    A = symmetric(40, F64)
    F = run(started(40, width), A)
    before = F.num_matvecs
    assert F.defect(A.matmul) <= 1e-14
    assert F.num_matvecs == before + 1
    assert F.defect((A + 1e-6 * torch.eye(40, dtype=F64)).matmul) >= 1e-8
    assert F.defect(((1 + 1e-6) * A).matmul) >= 1e-8
    assert F.defect(lambda X: math.nan * X) != F.defect(A.matmul)
    F.restart(F.ritz().vectors[:, -3:])
    assert F.defect(A.matmul) <= 1e-14


# Where the basis lies, and what it is orthonormal in.


@pytest.mark.parametrize("width", [1, 3])
def test_basis_in_half_the_memory(width: int) -> None:
    A = symmetric(40, F64)
    start = numbers(width, 40, dtype=F64, seed=1).mT
    F = Factorization(start, capacity=12, size=40, dtype=F32)
    assert F.basis.rows.dtype == F32 and F.eps == torch.finfo(F32).eps
    run(F, A)
    check(F, A, tol=2e-6)
    F.restart(F.ritz().vectors[:, -4:])
    run(F, A)
    check(F, A, tol=4e-6)


SPACES: dict[str, Callable[[], Plain]] = {
    "weighted": lambda: Slanted(numbers(37, 37, dtype=F64, seed=3) + 8 * torch.eye(37, dtype=F64)),
    "guarded": lambda: Guarded(37),
}


@pytest.mark.parametrize("make", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("width", [1, 2, 4])
def test_other_spaces_give_the_same(make: Callable[[], Plain], width: int) -> None:
    A = symmetric(37, F64)
    plain, other = (story(A, width, space) for space in (Plain(), make()))
    torch.testing.assert_close(plain, other, rtol=1e-9, atol=1e-9)


def story(A: Tensor, width: int, space: Plain) -> Tensor:
    """Expand, restart, lock and renew in a space; the Ritz values at the end."""
    n = A.shape[0]
    start, again = (space.vectors(numbers(width, n, dtype=F64, seed=seed).mT) for seed in (1, 2))
    with space.watched():
        F = Factorization(start, capacity=12, lockable=3, size=n, inner=space.inner)
        product, random = space.product(A), lambda k: space.vectors(seeded(n)(k))
        for _ in range(12):
            while not F.full:
                assert F.expand(product, random)
            F.restart(F.ritz().vectors[:, -6:])
        F.lock(1)
        F.renew(again)
        while not F.full:
            assert F.expand(product, random)
        assert F.defect(product) <= 1e-10
    check(F, A, tol=1e-11, space=space, forgotten=math.inf)
    return F.ritz().values


@pytest.mark.parametrize("sizes", [[37], [20, 17], [1, 30, 6]], ids=str)
def test_rows_shared_out_between_processes(sizes: list[int]) -> None:
    A = symmetric(37, F64)

    def work(space: Shared) -> Tensor:
        return story(A, 2, space)

    results = in_parts(sizes, work)
    torch.testing.assert_close(results[0][0], story(A, 2, Plain()), rtol=1e-9, atol=1e-9)
    for values, space in results[1:]:
        assert torch.equal(values, results[0][0])
        assert space.reductions == results[0][1].reductions


def test_a_step_of_one_column_takes_two_passes() -> None:
    A, inner_products = symmetric(40, F64), [0]

    class Counted(Inner):
        def __call__(self, X: Tensor, Y: Tensor) -> Tensor:
            inner_products[0] += 1
            return super().__call__(X, Y)

    F = Factorization(numbers(40, 1, dtype=F64), capacity=12, size=40, inner=Counted())
    inner_products[0] = 0
    F.expand(A.matmul, seeded(40))
    assert inner_products[0] == 2  # two passes of Gram–Schmidt; the length comes with the second
