"""Conjugate gradients: against dense solves, SciPy and the dense trust-region problem; and how it ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.krylov.inner import Inner
from hvplib.krylov.outcome import LinearOutcome
from hvplib.results.status import Progress, Status
from tests.krylov.watched import Reads, Watched, numbers, with_spectrum

F32, F64 = torch.float32, torch.float64
EPS = torch.finfo(F64).eps


def norms(X: Tensor) -> Tensor:
    return X.norm(dim=0)


def one_status(outcome: LinearOutcome) -> Status:
    (status,) = outcome.statuses
    return status


def same(left: LinearOutcome, right: LinearOutcome) -> None:
    """Equal up to the rounding of products of blocks of other widths."""
    assert left.statuses == right.statuses
    torch.testing.assert_close(left.x, right.x, rtol=1e-9, atol=1e-12)


# --- Systems that it solves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
def test_solution_is_that_of_a_dense_solve(condition: float) -> None:
    n = 60
    A, _ = with_spectrum(torch.logspace(0, math.log10(condition), n, dtype=F64))
    b = numbers(n, 3, seed=1)
    outcome = cg(A.matmul, b, rtol=1e-12, max_iter=40 * n)
    assert outcome.statuses == (Status.CONVERGED,) * 3
    residuals = norms(b - A @ outcome.x)
    assert (residuals <= 2e-12 * norms(b) + EPS * condition * norms(outcome.x)).all()
    torch.testing.assert_close(outcome.residual_norms, residuals, rtol=0.1, atol=EPS * condition * 50)
    torch.testing.assert_close(
        outcome.x, torch.linalg.solve(A, b), rtol=0, atol=1e-11 * condition * float(norms(b).max())
    )


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_it_spends_the_products_of_scipy(condition: float) -> None:
    n = 200
    A, _ = with_spectrum(torch.logspace(0, math.log10(condition), n, dtype=F64))
    b = numbers(n, 1, seed=1)
    calls: list[np.ndarray] = []

    def counted(x: np.ndarray) -> np.ndarray:
        calls.append(x)
        return A.numpy() @ x

    operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=counted, dtype=float)
    x, _ = scipy.sparse.linalg.cg(operator, b.numpy()[:, 0], rtol=1e-8, maxiter=5000)
    outcome = cg(A.matmul, b, rtol=1e-8, max_iter=5000)
    assert one_status(outcome) is Status.CONVERGED
    # In exact arithmetic they are the same; rounding decides of a step more or less in the long run.
    assert outcome.num_matvecs <= 1.01 * len(calls)
    assert norms(b - A @ outcome.x)[0] <= 1.001e-8 * norms(b)[0]
    np.testing.assert_allclose(outcome.x[:, 0].numpy(), x, rtol=0, atol=1e-7 * np.linalg.norm(x))


@pytest.mark.parametrize("distinct", [1, 2, 3, 5])
def test_as_many_steps_as_distinct_eigenvalues(distinct: int) -> None:
    values = torch.linspace(1, 7, distinct, dtype=F64).repeat_interleave(60 // distinct)
    A, _ = with_spectrum(values)
    product = Watched(A)
    b = numbers(len(values), 2, seed=1)
    outcome = cg(product, b, rtol=1e-10, max_iter=60)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert outcome.num_iter == distinct
    assert outcome.num_matvecs == 2 * distinct
    assert product.widths == [2] * distinct
    assert outcome.history.shape == (distinct + 1, 2)
    torch.testing.assert_close(outcome.history[0], norms(b))
    torch.testing.assert_close(outcome.history[-1], outcome.residual_norms, rtol=0, atol=0)


def test_history_holds_the_true_residuals_of_the_iterates() -> None:
    A, _ = with_spectrum(torch.logspace(0, 2, 30, dtype=F64))
    b = numbers(30, 1, seed=1)
    whole = cg(A.matmul, b, rtol=1e-10, max_iter=100)
    for steps in range(whole.num_iter):
        part = cg(A.matmul, b, rtol=1e-10, max_iter=steps, radius=math.inf)
        assert one_status(part) is Status.MAX_ITER
        assert part.num_iter == part.num_matvecs == steps
        torch.testing.assert_close(norms(b - A @ part.x), whole.history[steps], rtol=1e-8, atol=1e-14)


def test_iterates_minimise_the_energy_over_the_krylov_space() -> None:
    A, _ = with_spectrum(torch.logspace(0, 3, 20, dtype=F64))
    b = numbers(20, 1, seed=1)
    K = b
    for steps in range(1, 6):
        outcome = cg(A.matmul, b, rtol=0.0, max_iter=steps, radius=math.inf)
        Q, _ = torch.linalg.qr(K)
        torch.testing.assert_close(
            outcome.x, Q @ torch.linalg.solve(Q.mT @ A @ Q, Q.mT @ b), rtol=1e-9, atol=0
        )
        K = torch.cat([K, A @ K[:, -1:]], dim=1)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("radius", [None, 3.0])
def test_many_right_hand_sides_are_each_alone(preconditioned: bool, radius: float | None) -> None:
    A, Q = with_spectrum(torch.linspace(1, 30, 40, dtype=F64))
    # A zero one; ends after one, two and many steps; of sizes far apart.
    b = torch.stack(
        [
            torch.zeros(40, dtype=F64),
            Q[:, 3],
            1e3 * (Q[:, 0] + Q[:, 9]),
            numbers(40),
            1e-9 * numbers(40, seed=1),
        ],
        dim=1,
    )
    P = torch.diag(1 / A.diagonal()) if preconditioned else torch.eye(40, dtype=F64)
    settings: dict[str, Any] = {"rtol": 1e-9, "max_iter": 200, "radius": radius}
    if preconditioned:
        settings["precondition"] = P.matmul
    together = cg(A.matmul, b, **settings)
    alone = [cg(A.matmul, b[:, [j]], **settings) for j in range(5)]
    assert together.statuses == tuple(one_status(outcome) for outcome in alone)
    assert together.num_matvecs == sum(outcome.num_matvecs for outcome in alone)
    assert together.num_iter == max(outcome.num_iter for outcome in alone)
    torch.testing.assert_close(
        together.x / norms(b).clamp(min=1e-300),
        torch.cat([outcome.x for outcome in alone], dim=1) / norms(b).clamp(min=1e-300),
        rtol=1e-6,
        atol=1e-9,
    )
    for j, outcome in enumerate(alone):
        torch.testing.assert_close(
            together.history[: outcome.num_iter + 1, j] / norms(b)[j].clamp(min=1e-300),
            outcome.history[:, 0] / norms(b)[j].clamp(min=1e-300),
            rtol=1e-6,
            atol=1e-9,
        )
        assert (together.history[outcome.num_iter :, j] == together.history[-1, j]).all()


def test_a_column_that_has_ended_is_not_multiplied_again() -> None:
    A, Q = with_spectrum(torch.arange(1, 31, dtype=F64))
    b = torch.stack([Q[:, :m].sum(1) for m in (3, 1, 2)], dim=1)
    product, preconditioner = Watched(A), Watched(torch.eye(30, dtype=F64))
    outcome = cg(product, b, precondition=preconditioner, rtol=1e-10, max_iter=30)
    assert product.widths == [3, 2, 1]
    assert preconditioner.widths == [3, 2, 1]
    # The directions left after one step lie in the span of three and of two eigenvectors, not of one.
    assert [int((Q.mT @ X).abs().gt(1e-9).sum()) for X in product.blocks[1].mT] == [3, 2]
    assert [int((Q.mT @ X).abs().gt(1e-9).sum()) for X in product.blocks[2].mT] == [3]
    assert outcome.num_matvecs == 6


def test_preconditioner_of_the_inverse_needs_one_step() -> None:
    A, _ = with_spectrum(torch.logspace(0, 5, 30, dtype=F64))
    inverse = torch.linalg.inv(A)
    b = numbers(30, 2)
    outcome = cg(A.matmul, b, precondition=inverse.matmul, rtol=1e-8, max_iter=30)
    assert outcome.statuses == (Status.CONVERGED,) * 2 and outcome.num_iter == 1
    torch.testing.assert_close(outcome.x, torch.linalg.solve(A, b), rtol=1e-9, atol=1e-9)


def test_preconditioned_is_plain_on_the_split_system() -> None:
    # With P = C Cᵀ the iterates are C times those of Cᵀ A C y = Cᵀ b.
    A, _ = with_spectrum(torch.logspace(0, 3, 25, dtype=F64))
    C = torch.tril(0.1 * numbers(25, 25, seed=4)) + torch.eye(25, dtype=F64)
    b = numbers(25, 1)
    split = C.mT @ A @ C
    for steps in (1, 2, 5):
        settings: dict[str, Any] = {"rtol": 0.0, "max_iter": steps, "radius": math.inf}
        outcome = cg(A.matmul, b, precondition=(C @ C.mT).matmul, **settings)
        plain = cg(split.matmul, C.mT @ b, **settings)
        torch.testing.assert_close(outcome.x, C @ plain.x, rtol=1e-9, atol=1e-12)


def test_preconditioner_of_any_scale_is_not_taken_for_curvature() -> None:
    # pᵀA p / pᵀp is one all along, while rᵀP r falls by 1e17.
    P = torch.tensor([[1.0], [1e-17]], dtype=F64)
    b = torch.ones(2, 1, dtype=F64)
    outcome = cg(lambda X: X, b, precondition=lambda R: P * R, rtol=1e-8, max_iter=5)
    assert one_status(outcome) is Status.CONVERGED
    torch.testing.assert_close(outcome.x, b)


def test_preconditioner_may_return_its_argument() -> None:
    A, _ = with_spectrum(torch.logspace(0, 2, 20, dtype=F64))
    b = numbers(20, 2)
    same(
        cg(A.matmul, b, precondition=lambda R: R, rtol=1e-10, max_iter=99),
        cg(A.matmul, b, rtol=1e-10, max_iter=99),
    )


def test_product_may_return_its_argument() -> None:
    b = numbers(20, 2)
    outcome = cg(lambda X: X, b, rtol=1e-14, max_iter=5)
    assert outcome.statuses == (Status.CONVERGED,) * 2 and outcome.num_iter == 1
    torch.testing.assert_close(outcome.x, b, rtol=1e-15, atol=0)


@pytest.mark.parametrize("condition", [1e8, 1e12])
def test_condition_up_to_1e12_is_neither_singular_nor_stagnant(condition: float) -> None:
    n = 40
    A, _ = with_spectrum(torch.logspace(-math.log10(condition), 0, n, dtype=F64))
    x = numbers(n, 2)
    smooth = cg(A.matmul, A @ x, rtol=1e-8, max_iter=20000)
    assert smooth.statuses == (Status.CONVERGED,) * 2
    assert (norms(A @ x - A @ smooth.x) <= 2e-8 * norms(A @ x)).all()
    rough = cg(A.matmul, x, rtol=1e-8, max_iter=3000)
    assert all(status in (Status.CONVERGED, Status.MAX_ITER) for status in rough.statuses)


def test_diagonal_of_condition_1e12_is_solved_to_rounding() -> None:
    d = torch.logspace(-12, 0, 12, dtype=F64)[:, None]
    outcome = cg(lambda X: d * X, torch.ones(12, 1, dtype=F64), rtol=1e-10, max_iter=500)
    assert one_status(outcome) is Status.CONVERGED
    torch.testing.assert_close(outcome.x, 1 / d, rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_size_of_the_right_hand_side_does_not_matter(size: float, dtype: torch.dtype) -> None:
    # The squares of 1e±30 are beyond float32.
    A, _ = with_spectrum(torch.logspace(0, 2, 30, dtype=F64))
    b = numbers(30, 2, dtype=dtype)
    unit = cg(A.to(dtype).matmul, b, rtol=1e-5, max_iter=99)
    scaled = cg(A.to(dtype).matmul, b * size, rtol=1e-5, max_iter=99)
    assert scaled.statuses == (Status.CONVERGED,) * 2
    torch.testing.assert_close(scaled.x / size, unit.x, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scaled.history[0] / size, norms(b).double(), rtol=1e-6, atol=0)


def test_float32_stays_float32_and_reaches_its_precision() -> None:
    A, _ = with_spectrum(torch.logspace(0, 2, 50, dtype=F64))
    b = numbers(50, 2, dtype=F32)
    outcome = cg(A.float().matmul, b, rtol=1e-6, max_iter=200)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert outcome.x.dtype is F32 and outcome.history.dtype is F64
    # 1e-6 of the recurrence, and what rounding in x adds: eps ‖A‖ ‖x‖.
    bound = 1e-6 * norms(b) + torch.finfo(F32).eps * 100 * norms(outcome.x)
    assert (norms(b.double() - A @ outcome.x.double()) <= bound).all()


def test_one_unknown() -> None:
    outcome = cg(lambda X: 4 * X, torch.tensor([[2.0, -8.0]]), rtol=1e-6, max_iter=3)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert outcome.x.tolist() == [[0.5, -2.0]] and outcome.num_matvecs == 2


def test_no_right_hand_side_at_all() -> None:
    outcome = cg(lambda X: X, torch.zeros(3, 0), rtol=1e-6, max_iter=3)
    assert outcome.statuses == () and outcome.x.shape == (3, 0) and outcome.num_matvecs == 0


# --- Where it starts ----------------------------------------------------------------------------------------


def test_zero_right_hand_side_needs_no_product() -> None:
    product = Watched(torch.eye(4, dtype=F64))
    outcome = cg(product, torch.zeros(4, 2, dtype=F64), x0=numbers(4, 2), rtol=1e-6, max_iter=9)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert not outcome.x.any() and not outcome.residual_norms.any()
    assert product.widths == [] and outcome.num_matvecs == outcome.num_iter == 0
    assert outcome.history.tolist() == [[0.0, 0.0]]


def test_right_hand_side_below_the_absolute_tolerance_needs_no_product() -> None:
    b = torch.tensor([[3.0], [4.0]])
    outcome = cg(lambda X: X, b, rtol=0.0, atol=5.0, max_iter=9)
    assert one_status(outcome) is Status.CONVERGED
    assert not outcome.x.any() and outcome.num_matvecs == 0 and outcome.residual_norms.tolist() == [5.0]
    assert cg(lambda X: X, b, rtol=0.0, atol=4.9, max_iter=9).num_matvecs == 1


def test_tolerance_is_the_larger_of_the_two() -> None:
    A, _ = with_spectrum(torch.logspace(0, 3, 40, dtype=F64))
    b = 100 * numbers(40, 1)
    for rtol, atol in ((1e-3, 0.0), (1e-9, 1e-3), (1e-3, 1e-9)):
        outcome = cg(A.matmul, b, rtol=rtol, atol=atol, max_iter=500)
        tolerance = max(rtol * float(norms(b)), atol)
        assert outcome.history[-1] <= tolerance < outcome.history[-2]


def test_start_from_the_solution_costs_its_check() -> None:
    A, _ = with_spectrum(torch.logspace(0, 2, 20, dtype=F64))
    x = numbers(20, 2)
    product = Watched(A)
    outcome = cg(product, A @ x, x0=x, rtol=1e-12, max_iter=9)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert torch.equal(outcome.x, x)
    assert product.widths == [2] and outcome.num_matvecs == 2 and outcome.num_iter == 0


def test_start_nearby_saves_steps_and_is_left_alone() -> None:
    A, _ = with_spectrum(torch.logspace(0, 4, 50, dtype=F64))
    x = numbers(50, 2)
    b = A @ x
    x0 = x + 1e-6 * numbers(50, 2, seed=1)
    kept = x0.clone()
    cold, warm = (cg(A.matmul, b, x0=start, rtol=1e-9, max_iter=999) for start in (None, x0))
    assert warm.statuses == (Status.CONVERGED,) * 2
    assert warm.num_matvecs < 0.75 * cold.num_matvecs
    assert (norms(b - A @ warm.x) <= 1.01e-9 * norms(b)).all()
    torch.testing.assert_close(warm.history[0], norms(b - A @ x0))
    assert torch.equal(x0, kept)


def test_start_is_multiplied_only_where_it_is_needed() -> None:
    A, _ = with_spectrum(torch.logspace(0, 1, 10, dtype=F64))
    b = numbers(10, 3)
    b[:, 1] = 0
    x0 = numbers(10, 3, seed=1)
    product = Watched(A)
    outcome = cg(product, b, x0=x0, rtol=1e-9, max_iter=99)
    torch.testing.assert_close(product.blocks[0], x0[:, [0, 2]])
    torch.testing.assert_close(outcome.x, torch.linalg.solve(A, b), rtol=0, atol=1e-8)


# --- Curvature ----------------------------------------------------------------------------------------------


def holds_direction(A: Tensor, b: Tensor, outcome: LinearOutcome, column: int = 0) -> float:
    """The curvature along the direction, after a check that it is what is reported."""
    assert outcome.direction is not None and outcome.curvature is not None
    p = outcome.direction[:, column]
    curvature = float(p @ A @ p / (p @ p))
    size = float(torch.linalg.matrix_norm(A, 2))
    assert curvature == pytest.approx(float(outcome.curvature[column]), rel=1e-8, abs=10 * EPS * size)
    assert float(b[:, column] @ p) >= 0
    return curvature


def test_negative_curvature_on_the_first_step() -> None:
    A = torch.diag(torch.tensor([-2.0, 1.0], dtype=F64))
    b = torch.tensor([[2.0], [1.0]], dtype=F64)
    outcome = cg(A.matmul, b, rtol=1e-6, max_iter=9)
    assert one_status(outcome) is Status.NEGATIVE_CURVATURE
    assert not outcome.x.any() and outcome.num_matvecs == 1
    assert outcome.direction is not None and outcome.curvature is not None
    cosine = torch.nn.functional.cosine_similarity(outcome.direction, b, dim=0)
    assert float(cosine) == pytest.approx(1.0)
    assert float(outcome.curvature) == pytest.approx(-7 / 5)
    assert outcome.residual_norms.tolist() == pytest.approx([math.sqrt(5)])


def test_negative_curvature_later_leaves_the_last_good_iterate() -> None:
    A, _ = with_spectrum(torch.cat([torch.tensor([-0.1]), torch.linspace(1, 10, 29)]))
    b = numbers(30, 1)
    outcome = cg(A.matmul, b, rtol=1e-10, max_iter=99)
    assert one_status(outcome) is Status.NEGATIVE_CURVATURE
    assert outcome.num_iter > 3
    assert holds_direction(A, b, outcome) < 0
    torch.testing.assert_close(norms(b - A @ outcome.x), outcome.residual_norms, rtol=1e-9, atol=0)
    assert outcome.residual_norms[0] == outcome.history.min()


def test_negative_curvature_ends_its_column_only() -> None:
    A, Q = with_spectrum([-1.0, *range(1, 10)])
    b = torch.stack([Q[:, 1:].sum(1), Q[:, 0] + 0.5 * Q[:, 3], Q[:, 4]], dim=1)
    outcome = cg(A.matmul, b, rtol=1e-9, max_iter=99)
    assert outcome.statuses == (Status.CONVERGED, Status.NEGATIVE_CURVATURE, Status.CONVERGED)
    assert holds_direction(A, b, outcome, 1) < 0
    assert outcome.direction is not None and outcome.curvature is not None
    assert not outcome.direction[:, [0, 2]].any()
    assert outcome.curvature.isnan().tolist() == [True, False, True]
    torch.testing.assert_close(outcome.x[:, [0, 2]], torch.linalg.solve(A, b)[:, [0, 2]], rtol=0, atol=1e-8)


def test_directions_are_absent_where_none_was_met() -> None:
    outcome = cg(lambda X: X, torch.ones(3, 1), rtol=1e-6, max_iter=3)
    assert outcome.direction is None and outcome.curvature is None


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("rank", [1, 20, 59])
@pytest.mark.parametrize("seed", range(3))
def test_consistent_singular_system_has_the_shortest_solution(
    dtype: torch.dtype, rank: int, seed: int
) -> None:
    A, _ = with_spectrum(torch.cat([torch.zeros(60 - rank), torch.linspace(1, 9, rank)]), seed=seed)
    b = (A @ numbers(60, 2, seed=seed)).to(dtype)
    rtol = 1e-9 if dtype is F64 else 1e-4
    outcome = cg(A.to(dtype).matmul, b, rtol=rtol, max_iter=500)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    expected = torch.linalg.pinv(A, rtol=1e-10) @ b.double()
    torch.testing.assert_close(outcome.x.double(), expected, rtol=0, atol=100 * rtol)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("smallest", [1.0, 1e-2])
@pytest.mark.parametrize("nullity", [1, 30])
@pytest.mark.parametrize("seed", range(3))
def test_inconsistent_system_is_told_and_keeps_a_sensible_iterate(
    dtype: torch.dtype, smallest: float, nullity: int, seed: int
) -> None:
    values = torch.cat([torch.zeros(nullity), torch.logspace(math.log10(smallest), 0.5, 60)])
    A, _ = with_spectrum(values, seed=seed)
    b = numbers(len(values), 2, seed=seed + 10).to(dtype)
    outcome = cg(A.to(dtype).matmul, b, rtol=1e-6, max_iter=5000)
    assert set(outcome.statuses) <= {Status.NEGATIVE_CURVATURE, Status.STAGNATED}
    assert outcome.num_iter < 1000
    # The iterate is no worse than zero, and its residual is what is said.
    residuals = norms(b.double() - A @ outcome.x.double())
    assert (residuals <= (1 + 1e-5) * norms(b)).all()
    rounding = torch.finfo(dtype).eps * 3.2 * norms(outcome.x.double())
    assert ((residuals - outcome.residual_norms).abs() <= 10 * rounding + 1e-6 * residuals).all()
    best = norms(b.double() - A @ (torch.linalg.pinv(A, rtol=1e-10) @ b.double()))
    assert (residuals >= (1 - 1e-5) * best).all()


def test_right_hand_side_in_the_null_space_has_no_curvature_at_all() -> None:
    A = torch.diag(torch.tensor([0.0, 1.0, 2.0], dtype=F64))
    outcome = cg(A.matmul, torch.tensor([[3.0], [0.0], [0.0]], dtype=F64), rtol=1e-6, max_iter=9)
    assert one_status(outcome) is Status.NEGATIVE_CURVATURE
    assert outcome.curvature is not None and outcome.curvature.tolist() == [0.0]
    assert not outcome.x.any() and outcome.num_matvecs == 1


@pytest.mark.parametrize("seed", range(5))
def test_null_space_that_products_show_only_as_noise(seed: int) -> None:
    A, Q = with_spectrum(torch.cat([torch.zeros(1), torch.linspace(1, 2, 29)]), seed=seed)
    b = Q[:, [0]].clone()
    outcome = cg(A.matmul, b, rtol=1e-6, max_iter=500)
    assert one_status(outcome) in (Status.NEGATIVE_CURVATURE, Status.STAGNATED)
    assert norms(b - A @ outcome.x)[0] <= 1 + 1e-9
    assert norms(outcome.x)[0] < 1e3


def test_iterate_that_only_a_later_step_shows_to_be_noise_is_taken_back() -> None:
    # The first step, of length 1e17, halves the residual; the second shows that ‖A‖ is 1.
    A = torch.tensor([[1e-17, 5e-18], [5e-18, 1.0]], dtype=F64)
    b = torch.tensor([[1.0], [0.0]], dtype=F64)
    outcome = cg(A.matmul, b, rtol=1e-6, max_iter=9)
    assert one_status(outcome) is Status.NEGATIVE_CURVATURE
    # It is what the iterate was: a null vector as far as anyone can tell.
    assert outcome.direction is not None and outcome.curvature is not None
    assert abs(float(outcome.direction[1])) < 1e-15 * abs(float(outcome.direction[0]))
    assert float(outcome.curvature) == 0.0
    assert outcome.history[:2, 0].tolist() == pytest.approx([1.0, 0.5])
    assert not outcome.x.any() and outcome.residual_norms.tolist() == [1.0]


def test_residual_that_cannot_have_risen_so_far_ends_the_iteration() -> None:
    # Not symmetric: all curvatures are one, and the residual grows by ‖A‖.
    for size, ends in ((1e7, False), (1e8, True)):
        A = torch.tensor([[1.0, -size], [size, 1.0]], dtype=F64)
        outcome = cg(A.matmul, torch.tensor([[1.0], [0.0]], dtype=F64), rtol=1e-6, max_iter=1)
        assert one_status(outcome) is (Status.STAGNATED if ends else Status.MAX_ITER)
        assert not outcome.x.any() and outcome.residual_norms.tolist() == [1.0]


def test_convergence_where_rounding_hides_it_is_not_claimed() -> None:
    # x is 1e15 long, and what rounding leaves of A x a tenth of b.
    A, Q = with_spectrum(torch.tensor([1e-15, 1.0, 1.0, 1.0]))
    b = Q @ torch.ones(4, 1, dtype=F64)
    outcome = cg(A.matmul, b, rtol=1e-6, max_iter=50)
    assert not one_status(outcome).success


def test_the_zero_matrix() -> None:
    outcome = cg(torch.zeros_like, numbers(5, 2), rtol=1e-6, max_iter=9)
    assert outcome.statuses == (Status.NEGATIVE_CURVATURE,) * 2
    assert not outcome.x.any() and outcome.num_matvecs == 2


def test_tolerance_of_zero_ends() -> None:
    A, _ = with_spectrum(torch.linspace(1, 3, 20))
    b = numbers(20, 2)
    outcome = cg(A.matmul, b, rtol=0.0, max_iter=100_000)
    assert outcome.num_iter < 200
    assert set(outcome.statuses) <= {Status.STAGNATED, Status.CONVERGED}
    torch.testing.assert_close(outcome.x, torch.linalg.solve(A, b), rtol=1e-12, atol=1e-14)


# --- The trust region ---------------------------------------------------------------------------------------


def model(A: Tensor, b: Tensor, x: Tensor) -> float:
    return float(0.5 * (x * (A @ x)).sum() - (b * x).sum())


def cauchy(A: Tensor, b: Tensor, radius: float) -> Tensor:
    """The minimum of the model along b within the ball."""
    curvature, norm = float((b * (A @ b)).sum()), float(b.norm())
    step = radius / norm
    return b * (min(step, norm**2 / curvature) if curvature > 0 else step)


def exact(A: Tensor, b: Tensor, radius: float) -> float:
    """The minimum of the model within the ball, by bisection for the multiplier (not the hard case)."""
    values, vectors = torch.linalg.eigh(A)
    c = vectors.mT @ b[:, 0]

    def length(multiplier: float) -> float:
        return float((c / (values + multiplier)).norm())

    if values[0] > 0 and length(0.0) <= radius:
        return model(A, b, vectors @ (c / values)[:, None])
    low = max(0.0, -float(values[0])) + 1e-14
    high = low + float(c.norm()) / radius + 1
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if length(middle) > radius else (low, middle)
    return model(A, b, (vectors @ (c / (values + high)))[:, None])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radius", [1e-3, 0.5, 5.0, 100.0, 1e6])
@pytest.mark.parametrize("lowest", [0.1, 0.0, -1.0])
def test_trust_region_step_is_on_the_boundary_and_beats_cauchys(
    lowest: float, radius: float, seed: int
) -> None:
    A, _ = with_spectrum(torch.cat([torch.tensor([lowest]), torch.linspace(1, 10, 29)]), seed=seed)
    b = numbers(30, 1, seed=seed + 1)
    outcome = cg(A.matmul, b, rtol=1e-9, max_iter=99, radius=radius)
    x = outcome.x
    inside = lowest > 0 and float(torch.linalg.solve(A, b).norm()) < radius
    assert one_status(outcome) is (Status.CONVERGED if inside else Status.BOUNDARY)
    if inside:
        torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=0, atol=1e-7)
    else:
        assert float(x.norm()) == pytest.approx(radius, rel=1e-10)
    torch.testing.assert_close(norms(b - A @ x), outcome.residual_norms, rtol=1e-7, atol=1e-8)
    best = exact(A, b, radius)
    assert best - 1e-9 * abs(best) <= model(A, b, x) <= model(A, b, cauchy(A, b, radius)) + 1e-9 * abs(best)
    # Half of the best decrease at the least, of a convex model: Yuan (2000), doi:10.1007/s101070050012.
    if lowest > 0:
        assert model(A, b, x) <= 0.5 * best
    if outcome.direction is not None:
        assert holds_direction(A, b, outcome) <= 0
        assert lowest <= 0


@pytest.mark.parametrize("lowest", [0.1, -1.0])
@pytest.mark.parametrize("radius", [0.5, 3.0, 30.0])
def test_trust_region_of_a_preconditioned_run_is_that_of_the_inverse(lowest: float, radius: float) -> None:
    A, _ = with_spectrum(torch.cat([torch.tensor([lowest]), torch.logspace(0, 2, 29)]))
    C = torch.tril(0.1 * numbers(30, 30, seed=4)) + torch.eye(30, dtype=F64)
    b = numbers(30, 1)
    outcome = cg(A.matmul, b, precondition=(C @ C.mT).matmul, rtol=1e-9, max_iter=99, radius=radius)
    split = C.mT @ A @ C
    plain = cg(split.matmul, C.mT @ b, rtol=0, max_iter=outcome.num_iter, radius=radius)
    if one_status(outcome) is Status.BOUNDARY:
        assert float(torch.linalg.solve(C, outcome.x).norm()) == pytest.approx(radius, rel=1e-10)
    torch.testing.assert_close(outcome.x, C @ plain.x, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(norms(b - A @ outcome.x), outcome.residual_norms, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("preconditioned", [False, True])
def test_step_is_on_the_boundary_after_many_steps_too(preconditioned: bool) -> None:
    # The recurrences of the norm must hold where the residuals have lost their orthogonality.
    A, _ = with_spectrum(torch.logspace(-6, 0, 40, dtype=F64))
    b = numbers(40, 1)
    scale = torch.linspace(1, 2, 40, dtype=F64)[:, None]
    split = A * scale * scale.mT if preconditioned else A
    target = torch.linalg.solve(split, scale * b if preconditioned else b)
    radius = 0.95 * float(target.norm())
    settings: dict[str, Any] = {"precondition": lambda R: R * scale**2} if preconditioned else {}
    outcome = cg(A.matmul, b, rtol=1e-13, max_iter=2000, radius=radius, **settings)
    assert one_status(outcome) is Status.BOUNDARY and outcome.num_iter > 60
    x = outcome.x / scale if preconditioned else outcome.x
    assert float(x.norm()) == pytest.approx(radius, rel=1e-12)


def test_negative_curvature_within_a_ball_keeps_its_direction() -> None:
    A = torch.diag(torch.tensor([-2.0, 1.0], dtype=F64))
    b = torch.tensor([[2.0], [1.0]], dtype=F64)
    outcome = cg(A.matmul, b, rtol=1e-6, max_iter=9, radius=10.0)
    assert one_status(outcome) is Status.BOUNDARY
    torch.testing.assert_close(outcome.x, 10 * b / b.norm())
    assert holds_direction(A, b, outcome) == pytest.approx(-7 / 5)
    torch.testing.assert_close(norms(b - A @ outcome.x), outcome.residual_norms)
    torch.testing.assert_close(outcome.history[:, 0], torch.stack([b.norm(), norms(b - A @ outcome.x)[0]]))


def test_infinite_radius_keeps_the_last_iterate_and_ends_on_negative_curvature() -> None:
    values = torch.cat([torch.tensor([-0.1]), torch.logspace(0, 4, 29)])
    A, _ = with_spectrum(values)
    b = numbers(30, 1)
    last = cg(A.matmul, b, rtol=1e-10, max_iter=99, radius=math.inf)
    best = cg(A.matmul, b, rtol=1e-10, max_iter=99)
    assert one_status(last) is one_status(best) is Status.NEGATIVE_CURVATURE
    assert model(A, b, last.x) < model(A, b, best.x)
    assert last.residual_norms[0] > best.residual_norms[0]
    torch.testing.assert_close(norms(b - A @ last.x), last.residual_norms, rtol=1e-6, atol=0)


def test_huge_radius_is_no_radius() -> None:
    A = torch.diag(torch.tensor([1.0, -1.0], dtype=F64))
    b = torch.tensor([[1.0], [2.0]], dtype=F64)
    outcome = cg(A.matmul, b, rtol=1e-6, max_iter=9, radius=1e200)
    assert one_status(outcome) is Status.BOUNDARY
    torch.testing.assert_close(outcome.x / 1e200, b / b.norm())


def test_infinite_radius_holds_a_step_whose_square_is_none() -> None:
    outcome = cg(lambda X: 1e-200 * X, torch.ones(3, 1, dtype=F64), rtol=1e-6, max_iter=9, radius=math.inf)
    assert one_status(outcome) is Status.CONVERGED
    assert outcome.x[:, 0].tolist() == pytest.approx([1e200] * 3)


def test_float32_step_is_on_the_boundary() -> None:
    A, _ = with_spectrum(torch.logspace(0, 3, 40, dtype=F64))
    b = numbers(40, 1, dtype=F32)
    outcome = cg(A.float().matmul, b, rtol=1e-5, max_iter=99, radius=0.5)
    assert one_status(outcome) is Status.BOUNDARY
    assert float(outcome.x.norm()) == pytest.approx(0.5, rel=1e-5)


# --- Numbers that are none, and preconditioners that are none -----------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_right_hand_side_that_is_not_finite_ends_alone(bad: float) -> None:
    A, _ = with_spectrum(torch.linspace(1, 2, 10))
    b = numbers(10, 3)
    b[4, 1] = bad
    outcome = cg(A.matmul, b, rtol=1e-10, max_iter=50)
    assert outcome.statuses == (Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED)
    assert not outcome.x[:, 1].any()
    torch.testing.assert_close(outcome.x[:, [0, 2]], torch.linalg.solve(A, b[:, [0, 2]]), rtol=0, atol=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["product", "preconditioner"])
@pytest.mark.parametrize("radius", [None, 100.0])
def test_product_that_is_not_finite_ends_its_column(bad: float, which: str, radius: float | None) -> None:
    A, _ = with_spectrum(torch.linspace(1, 9, 20))
    b = numbers(20, 3)
    calls = 0

    def spoilt(X: Tensor, Y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            assert X.shape[1] == 3
            Y = Y.clone()
            Y[5, 1] = bad
        return Y

    settings: dict[str, Any] = {"rtol": 1e-10, "max_iter": 50, "radius": radius}
    if which == "product":
        outcome = cg(lambda X: spoilt(X, A @ X), b, precondition=lambda R: R, **settings)
    else:
        outcome = cg(A.matmul, b, precondition=lambda R: spoilt(R, R), **settings)
    assert outcome.statuses == (Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED)
    before = cg(A.matmul, b[:, [1]], rtol=1e-10, max_iter=2, radius=radius)
    torch.testing.assert_close(outcome.x[:, [1]], before.x, rtol=1e-12, atol=0)
    assert outcome.residual_norms.isfinite().all() and outcome.history.isfinite().all()
    torch.testing.assert_close(outcome.x[:, [0, 2]], torch.linalg.solve(A, b[:, [0, 2]]), rtol=0, atol=1e-8)


def test_start_that_is_not_finite_ends_alone() -> None:
    x0 = torch.zeros(4, 2, dtype=F64)
    x0[1, 0] = math.nan
    outcome = cg(lambda X: 2 * X, torch.ones(4, 2, dtype=F64), x0=x0, rtol=1e-10, max_iter=9)
    assert outcome.statuses == (Status.NON_FINITE, Status.CONVERGED)
    assert outcome.x[:, 1].tolist() == [0.5] * 4


def test_overflow_is_not_taken_for_a_solution() -> None:
    outcome = cg(lambda X: 1e38 * (X * 1e38), numbers(4, 1, dtype=F32), rtol=1e-6, max_iter=9)
    assert one_status(outcome) is Status.NON_FINITE
    assert not outcome.x.any()
    # Here pᵀA p is one, and only ‖r‖² is too large.
    A = torch.tensor([[1.0, 1e25], [1e25, 1.0]])
    outcome = cg(A.matmul, torch.tensor([[1.0], [0.0]]), rtol=1e-6, max_iter=9)
    assert one_status(outcome) is Status.NON_FINITE
    assert not outcome.x.any() and outcome.num_matvecs == 1


@pytest.mark.parametrize("smallest", [-1.0, 0.0])
def test_preconditioner_that_is_not_positive_definite_is_told(smallest: float) -> None:
    A, _ = with_spectrum(torch.linspace(1, 9, 10))
    P = torch.diag(torch.tensor([smallest] + [1.0] * 9, dtype=F64))
    b = torch.zeros(10, 2, dtype=F64)
    b[0, 0] = 1.0
    b[1:, 1] = 1.0
    outcome = cg(A.matmul, b, precondition=P.matmul, rtol=1e-10, max_iter=50)
    assert outcome.statuses[0] is Status.INDEFINITE_PRECONDITIONER
    assert not outcome.x[:, 0].any() and outcome.residual_norms[0] == 1.0


def test_preconditioner_found_indefinite_later_leaves_the_iterate_before() -> None:
    A, Q = with_spectrum(torch.linspace(1, 9, 10))
    P = (Q * torch.tensor([-0.3] + [1.0] * 9, dtype=F64)) @ Q.mT
    b = Q @ torch.ones(10, 1, dtype=F64)
    outcome = cg(A.matmul, b, precondition=P.matmul, rtol=1e-10, max_iter=50)
    assert one_status(outcome) is Status.INDEFINITE_PRECONDITIONER
    assert outcome.num_iter > 1 and outcome.x.any()
    torch.testing.assert_close(norms(b - A @ outcome.x), outcome.residual_norms, rtol=1e-9, atol=0)


# --- Ends from outside --------------------------------------------------------------------------------------


def test_iteration_limit_keeps_the_least_residual() -> None:
    A, _ = with_spectrum(torch.logspace(-4, 0, 50, dtype=F64))
    b = numbers(50, 2)
    outcome = cg(A.matmul, b, rtol=1e-12, max_iter=17)
    assert outcome.statuses == (Status.MAX_ITER,) * 2
    assert outcome.num_iter == 17 and outcome.num_matvecs == 34
    assert torch.equal(outcome.residual_norms, outcome.history.min(0).values)
    assert (outcome.residual_norms < outcome.history[-1]).any()
    torch.testing.assert_close(norms(b - A @ outcome.x), outcome.residual_norms, rtol=1e-9, atol=0)


def test_columns_that_keep_different_iterates() -> None:
    # At any step the residual of some columns falls and that of others rises.
    A, _ = with_spectrum(torch.logspace(-3, 0, 30, dtype=F64))
    b = numbers(30, 6)
    for steps in range(1, 12):
        outcome = cg(A.matmul, b, rtol=1e-12, max_iter=steps)
        torch.testing.assert_close(norms(b - A @ outcome.x), outcome.history.min(0).values, rtol=1e-8, atol=0)
    rises = (outcome.history.diff(dim=0) > 0).sum(1)
    assert bool(((rises > 0) & (rises < 6)).any())


def test_no_step_at_all() -> None:
    outcome = cg(lambda X: X, torch.ones(3, 1), rtol=1e-6, max_iter=0)
    assert one_status(outcome) is Status.MAX_ITER
    assert not outcome.x.any() and outcome.num_matvecs == 0 and outcome.history.shape == (1, 1)


def test_callback_is_told_each_step_and_stops() -> None:
    A, Q = with_spectrum(torch.logspace(0, 3, 30, dtype=F64))
    b = torch.stack([numbers(30), Q[:, 2]], dim=1)
    told: list[Progress] = []

    def callback(progress: Progress) -> bool:
        told.append(progress)
        return len(told) == 4

    outcome = cg(A.matmul, b, rtol=1e-10, max_iter=99, callback=callback)
    assert outcome.statuses == (Status.STOPPED, Status.CONVERGED)
    assert [p.num_iter for p in told] == [1, 2, 3, 4]
    assert [p.num_matvecs for p in told] == [2, 3, 4, 5]
    torch.testing.assert_close(torch.stack([p.residual_norms for p in told]), outcome.history[1:])
    assert all(p.values is None for p in told)


def test_callback_does_not_undo_convergence() -> None:
    outcome = cg(lambda X: X, torch.ones(3, 1), rtol=1e-6, max_iter=5, callback=lambda progress: True)
    assert one_status(outcome) is Status.CONVERGED


# --- What it may touch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"radius": 1e9}, {"precondition": lambda R: 2 * R}])
def test_one_synchronisation_a_step(columns: int, settings: dict[str, Any]) -> None:
    d = torch.logspace(0, 3, 100, dtype=F64)[:, None]
    b = numbers(100, columns)

    def reads(steps: int) -> int:
        with Reads() as counted:
            outcome = cg(lambda X: d * X, b, rtol=1e-15, max_iter=steps, **settings)
        assert outcome.num_iter == steps
        return counted.count

    assert reads(30) - reads(10) == 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("radius", [None, 2.0])
def test_it_runs_where_the_vectors_live(radius: float | None) -> None:
    A, _ = with_spectrum(torch.cat([torch.tensor([-0.5]), torch.linspace(1, 9, 29)]))
    b = numbers(30, 3)
    b[:, 1] = 0
    b[:, 2] = A @ A @ b[:, 2]
    there = cg(A.cuda().matmul, b.cuda(), rtol=1e-9, max_iter=99, radius=radius)
    here = cg(A.matmul, b, rtol=1e-9, max_iter=99, radius=radius)
    assert there.x.device.type == "cuda" and there.residual_norms.device.type == "cpu"
    assert there.statuses == here.statuses
    torch.testing.assert_close(there.x.cpu(), here.x, rtol=1e-8, atol=1e-10)
    assert there.direction is not None and here.direction is not None
    torch.testing.assert_close(there.direction.cpu(), here.direction, rtol=1e-6, atol=1e-8)


def test_sums_over_rows_go_through_inner() -> None:
    # Rows cut in halves: what holds for the whole must be found from sums of the halves' sums.
    A, _ = with_spectrum(torch.cat([torch.tensor([-0.5]), torch.logspace(0, 2, 29)]))
    b = numbers(30, 3)

    class Halves(Inner):
        def __call__(self, X: Tensor, Y: Tensor) -> Tensor:
            raise AssertionError("all pairs are not needed")

        def columns(self, X: Tensor, Y: Tensor) -> Tensor:
            return sum((x * y).sum(0) for x, y in zip(X.split(15), Y.split(15), strict=True))  # type: ignore[return-value]

    for radius in (None, 2.0):
        settings: dict[str, Any] = {
            "rtol": 1e-9,
            "max_iter": 99,
            "radius": radius,
            "precondition": lambda R: 2 * R,
        }
        same(cg(A.matmul, b, inner=Halves(), **settings), cg(A.matmul, b, **settings))


def test_arguments_are_left_alone() -> None:
    A, _ = with_spectrum(torch.linspace(1, 5, 10))
    b = numbers(10, 2)
    kept = b.clone()
    cg(A.matmul, b, rtol=1e-9, max_iter=99)
    assert torch.equal(b, kept)


def test_blocks_are_transposes_of_contiguous_ones() -> None:
    A, _ = with_spectrum(torch.linspace(1, 5, 10))
    layouts: list[bool] = []

    def product(X: Tensor) -> Tensor:
        layouts.append(X.mT.is_contiguous())
        return (A @ X).contiguous()

    outcome = cg(product, numbers(10, 3).contiguous(), rtol=1e-9, max_iter=99)
    assert all(layouts) and outcome.x.mT.is_contiguous()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"b": torch.ones(3)}, "b must be \\(n, k\\) of float32 or float64, got \\(3,\\)"),
        ({"b": torch.ones(3, 1, dtype=torch.int64)}, "got \\(3, 1\\) of torch.int64"),
        ({"x0": torch.ones(3, 2)}, "x0 must be like b, \\(3, 1\\).* got \\(3, 2\\)"),
        ({"x0": torch.ones(3, 1, dtype=F64)}, "x0 must be like b, .* of torch.float64"),
        ({"rtol": -1.0}, "must not be negative, got rtol=-1.0"),
        ({"atol": math.nan}, "must not be negative, .*atol=nan"),
        ({"max_iter": -1}, "must not be negative, .*max_iter=-1"),
        ({"radius": 0.0}, "radius must be positive, got 0.0"),
        ({"radius": math.nan}, "radius must be positive, got nan"),
        ({"radius": 1.0, "x0": torch.ones(3, 1)}, "radius and x0 exclude each other"),
        ({"matmat": lambda X: X[:-1]}, "matmat must return .* \\(3, 1\\) .* got \\(2, 1\\)"),
        ({"matmat": lambda X: X.double()}, "matmat must return .* got \\(3, 1\\) of torch.float64"),
        ({"precondition": lambda X: X.mT}, "precondition must return .* got \\(1, 3\\)"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "matmat": lambda X: X,
        "b": torch.ones(3, 1),
        "rtol": 1e-6,
        "max_iter": 3,
    } | settings
    matmat: Callable[[Tensor], Tensor] = arguments.pop("matmat")
    with pytest.raises(ValueError, match=message):
        cg(matmat, arguments.pop("b"), **arguments)


@pytest.mark.parametrize("radius", [1e-3, 0.5, math.inf])
@pytest.mark.parametrize("shift", [0.0, -3.0])
@pytest.mark.parametrize("scale", [1.0, 1e-120])
def test_decrease_of_the_model(radius: float, shift: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(2)
    d = torch.linspace(0.5, 9, 30, dtype=torch.float64)[:, None] + shift
    b = scale * torch.randn(30, 2, generator=generator, dtype=torch.float64)
    for mass in (torch.ones_like(d), 1 + d.abs()):
        outcome = cg(
            lambda X: d * X,
            b,
            rtol=1e-3,
            max_iter=7,
            radius=radius * scale,
            precondition=lambda R, mass=mass: R / mass,
        )
        x = outcome.x
        expected = (b * x).sum(0) - (x * (d * x)).sum(0) / 2
        assert outcome.decrease is not None and outcome.lengths is not None
        torch.testing.assert_close(outcome.lengths, (mass * x * x).sum(0).sqrt(), rtol=1e-9, atol=0)
        torch.testing.assert_close(outcome.decrease, expected, rtol=1e-11, atol=0)


def test_decrease_is_for_trust_regions() -> None:
    assert cg(lambda X: X, torch.ones(2, 1), rtol=1e-3, max_iter=7).decrease is None
