"""What MINRES and MINRES-QLP share: both are held to everything here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.krylov.minres import minres
from hvplib.krylov.minres_qlp import minres_qlp
from hvplib.krylov.outcome import LinearOutcome
from hvplib.results.status import Progress, Status
from tests.krylov.systems import SYSTEMS, System, normal, with_spectrum

F32, F64 = torch.float32, torch.float64
Method = Callable[..., LinearOutcome]

pytestmark = pytest.mark.parametrize("method", [minres, minres_qlp])

INDEFINITE = with_spectrum(torch.cat([torch.linspace(-9, -1, 15), torch.linspace(2, 10, 25)]).double())
POSITIVE = with_spectrum(torch.linspace(1, 20, 40, dtype=F64))
# Rows of zero sum: the vector of ones is a null vector, up to rounding.
LAPLACIAN = torch.diag((normal(40, 40).abs() + normal(40, 40).abs().mT).sum(1)) - (
    normal(40, 40).abs() + normal(40, 40).abs().mT
)


class Counted:
    """X ↦ A X, one column at a time, so that a column does not depend on its neighbours to the last bit.

    Attributes:
        widths: Of the blocks multiplied so far.
    """

    def __init__(self, A: Tensor) -> None:
        self._A = A
        self.widths: list[int] = []

    def __call__(self, X: Tensor) -> Tensor:
        self.widths.append(X.shape[1])
        return torch.stack([self._A @ x for x in X.mT]).mT


def solved(method: Method, A: Tensor, b: Tensor, **options: Any) -> LinearOutcome:
    return method(A.matmul, b, **{"rtol": 1e-10, "max_iter": 1000, **options})


def true_norms(A: Tensor, x: Tensor, b: Tensor) -> Tensor:
    return (b.double() - A.double() @ x.double()).norm(dim=0)


# ------------------------------------------------------------------------------------ the table of systems


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_systems(method: Method, system: System) -> None:
    matmat = Counted(system.A)
    outcome = method(matmat, system.b, rtol=1e-10, max_iter=1000)
    assert outcome.statuses == (system.status,)
    assert outcome.num_matvecs == outcome.num_iter == len(matmat.widths)
    norm = float(true_norms(system.A, outcome.x, system.b))
    scale = float(system.b.norm())
    assert float(outcome.residual_norms) == pytest.approx(norm, rel=1e-4, abs=1e-12 * scale)
    if system.status is Status.CONVERGED:
        assert norm <= 1.001e-10 * scale
        torch.testing.assert_close(outcome.x, system.x, rtol=0, atol=1e-10 * system.condition * scale)
    else:
        assert norm <= system.least_residual * (1 + 1e-10)
        # As close as the arithmetic allows: the range is told from the null space up to √eps.
        assert outcome.direction is not None
        error = float((outcome.x - system.x).norm())
        assert error <= 1e-8 * system.condition * max(float(system.x.norm()), scale)


def test_number_of_steps_is_that_of_different_eigenvalues(method: Method) -> None:
    A = with_spectrum(torch.arange(30, dtype=F64) % 3 - 4)
    assert solved(method, A, normal(30, 1)).num_iter == 3


@pytest.mark.parametrize("eigenvalue", [5.0, -0.5])
def test_an_eigenvector_takes_one_step(method: Method, eigenvalue: float) -> None:
    A = torch.diag(torch.tensor([1.0, eigenvalue, 7, -3], dtype=F64))
    outcome = solved(method, A, torch.eye(4, dtype=F64)[:, 1:2])
    assert (outcome.statuses, outcome.num_iter) == ((Status.CONVERGED,), 1)
    torch.testing.assert_close(outcome.x[1, 0], torch.tensor(1 / eigenvalue, dtype=F64))
    assert float(outcome.residual_norms) == 0


# --------------------------------------------------------------------------------------------- inconsistency


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("seed", range(3))
def test_inconsistent_systems_give_the_pseudoinverse(method: Method, dtype: torch.dtype, seed: int) -> None:
    spectrum = normal(60, seed=seed)
    spectrum = torch.where(spectrum.abs() < 0.1, 0, spectrum)
    A, b = with_spectrum(spectrum, seed).to(dtype), normal(60, 1, seed=seed + 9).to(dtype)
    outcome = solved(method, A, b)
    assert outcome.statuses == (Status.INCONSISTENT,)
    x = torch.linalg.pinv(A.double(), rtol=1e-5, hermitian=True) @ b.double()
    eps = torch.finfo(dtype).eps
    assert float((outcome.x - x).norm() / x.norm()) < 100 * math.sqrt(eps)
    assert outcome.direction is not None
    if (A @ outcome.direction).norm() < 100 * math.sqrt(eps) * outcome.direction.norm():
        assert abs(float(outcome.curvature)) < 1e-3  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [F32, F64])
def test_null_vector_that_only_rounding_hides(method: Method, dtype: torch.dtype) -> None:
    A, b = LAPLACIAN.to(dtype), torch.ones(40, 1, dtype=dtype)
    assert 0 < (A @ b).norm() < 1e-4
    outcome = solved(method, A, b)
    assert outcome.statuses == (Status.INCONSISTENT,)
    assert outcome.x.count_nonzero() == 0
    assert float(outcome.residual_norms) == pytest.approx(math.sqrt(40))
    assert outcome.direction is not None and outcome.curvature is not None
    torch.testing.assert_close(outcome.direction / outcome.direction.norm(), b / b.norm())
    assert abs(float(outcome.curvature)) < 100 * torch.finfo(dtype).eps


def test_null_vector_beside_other_columns(method: Method) -> None:
    b = torch.cat([normal(40, 1), torch.ones(40, 1, dtype=F64), LAPLACIAN @ normal(40, 1, seed=4)], dim=1)
    outcome = solved(method, LAPLACIAN, b)
    assert outcome.statuses == (Status.INCONSISTENT, Status.INCONSISTENT, Status.CONVERGED)
    x = torch.linalg.pinv(LAPLACIAN, rtol=1e-12, hermitian=True) @ b
    torch.testing.assert_close(outcome.x, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(
        outcome.residual_norms, true_norms(LAPLACIAN, outcome.x, b), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("condition", [1e8, 1e10, 1e12])
@pytest.mark.parametrize("signs", ["positive", "both signs", "one apart", "a pair apart"])
def test_ill_conditioned_systems_are_not_taken_for_singular_ones(
    method: Method, condition: float, signs: str
) -> None:
    spectrum = torch.logspace(-math.log10(condition), 0, 60, dtype=F64)
    if signs == "both signs":
        spectrum[::2] *= -1
    elif signs != "positive":
        spectrum[2:] = torch.linspace(0.01, 1, 58, dtype=F64)
        spectrum[1] = -spectrum[0] if signs == "a pair apart" else 0.5
    outcome = solved(method, with_spectrum(spectrum), normal(60, 1), max_iter=400)
    assert outcome.statuses[0] in (Status.STAGNATED, Status.MAX_ITER, Status.CONVERGED)


def test_beyond_the_working_precision_a_matrix_is_singular(method: Method) -> None:
    spectrum = torch.linspace(0.01, 1, 60, dtype=F64)
    spectrum[0] = 1e-12
    A, b = with_spectrum(spectrum), normal(60, 1)
    assert solved(method, A, b).statuses != (Status.INCONSISTENT,)
    assert solved(method, A.float(), b.float()).statuses == (Status.INCONSISTENT,)


# ---------------------------------------------------------------------------------------------- many columns


def test_columns_are_as_they_would_be_alone(method: Method) -> None:
    b = torch.cat([normal(40, 3), torch.ones(40, 1), torch.zeros(40, 1)], dim=1)
    matmat = Counted(INDEFINITE)
    together = method(matmat, b, rtol=1e-9, max_iter=100)
    alone = [method(Counted(INDEFINITE), b[:, j : j + 1], rtol=1e-9, max_iter=100) for j in range(5)]
    for j, outcome in enumerate(alone):
        torch.testing.assert_close(together.x[:, j : j + 1], outcome.x, rtol=0, atol=1e-9)
        torch.testing.assert_close(
            together.history[: len(outcome.history), j], outcome.history[:, 0], rtol=1e-5, atol=1e-6
        )
        assert (together.history[len(outcome.history) :, j] == together.residual_norms[j]).all()
        assert together.statuses[j] == outcome.statuses[0]
    assert together.num_matvecs == sum(matmat.widths) == sum(outcome.num_matvecs for outcome in alone)
    assert together.num_iter == max(outcome.num_iter for outcome in alone)
    assert matmat.widths == sorted(matmat.widths, reverse=True)


def test_no_columns(method: Method) -> None:
    outcome = solved(method, POSITIVE, torch.zeros(40, 0, dtype=F64))
    assert (outcome.x.shape, outcome.statuses, outcome.num_matvecs) == ((40, 0), (), 0)


def test_layout_and_input(method: Method) -> None:
    b = normal(40, 3)
    kept = b.clone()
    outcome = solved(method, POSITIVE, b)
    assert outcome.x.mT.is_contiguous()
    torch.testing.assert_close(b, kept, rtol=0, atol=0)


def test_result_has_no_graph(method: Method) -> None:
    b = normal(40, 1).requires_grad_()
    assert not solved(method, POSITIVE, b, x0=normal(40, 1, seed=3).requires_grad_()).x.requires_grad


# ----------------------------------------------------------------------------------------- NaN, zero, limits


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [1, 2, 3, 7])
def test_a_product_that_is_not_finite_ends_its_own_column(method: Method, value: float, at: int) -> None:
    calls = 0

    def matmat(X: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        product = INDEFINITE @ X
        if calls == at:
            product[5, 1] = value
        return product

    b = normal(40, 3)
    outcome = method(matmat, b, rtol=1e-9, max_iter=100)
    assert outcome.statuses == (Status.CONVERGED, Status.NON_FINITE, Status.CONVERGED)
    expected = solved(method, INDEFINITE, b[:, 1:2], rtol=1e-9, max_iter=at - 1)
    torch.testing.assert_close(outcome.x[:, 1:2], expected.x)
    assert outcome.residual_norms[1] == pytest.approx(float(expected.residual_norms))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_right_side_that_is_not_finite_ends_its_own_column(method: Method, value: float) -> None:
    b = normal(40, 3)
    b[3, 0] = value
    outcome = solved(method, INDEFINITE, b)
    assert outcome.statuses == (Status.NON_FINITE, Status.CONVERGED, Status.CONVERGED)
    assert outcome.x[:, 0].count_nonzero() == 0
    assert outcome.num_iter > 0


def test_products_of_nan_only(method: Method) -> None:
    outcome = method(lambda X: X * math.nan, normal(40, 2), rtol=1e-9, max_iter=10**9)
    assert outcome.statuses == (Status.NON_FINITE,) * 2
    assert outcome.num_iter == 1


def test_a_preconditioner_that_is_not_finite(method: Method) -> None:
    for late in (False, True):
        calls: list[int] = []

        def precondition(Y: Tensor, late: bool = late, calls: list[int] = calls) -> Tensor:
            calls.append(1)
            return Y * (1.0 if late and len(calls) < 3 else math.nan)

        outcome = solved(method, POSITIVE, normal(40, 1), precondition=precondition)
        assert outcome.statuses == (Status.NON_FINITE,)
        assert outcome.x.isfinite().all()
        assert outcome.num_iter == (2 if late else 0)


def test_zero_right_side_takes_no_step(method: Method) -> None:
    b = torch.zeros(40, 2, dtype=F64)
    outcome = solved(method, INDEFINITE, b)
    assert (outcome.statuses, outcome.num_matvecs) == ((Status.CONVERGED,) * 2, 0)
    assert outcome.x.count_nonzero() == 0
    assert outcome.history.tolist() == [[0, 0]]


def test_zero_right_side_has_the_solution_zero_wherever_it_starts(method: Method) -> None:
    b = torch.cat([torch.zeros(40, 1, dtype=F64), normal(40, 1)], dim=1)
    outcome = solved(method, INDEFINITE, b, x0=normal(40, 2, seed=5))
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert outcome.x[:, 0].count_nonzero() == 0


@pytest.mark.parametrize("max_iter", [0, 1, 5])
def test_iteration_limit(method: Method, max_iter: int) -> None:
    b = normal(40, 2)
    outcome = solved(method, INDEFINITE, b, max_iter=max_iter)
    assert outcome.statuses == (Status.MAX_ITER,) * 2
    assert (outcome.num_iter, outcome.num_matvecs) == (max_iter, 2 * max_iter)
    assert outcome.history.shape == (max_iter + 1, 2)
    torch.testing.assert_close(outcome.residual_norms, true_norms(INDEFINITE, outcome.x, b))


def test_history_is_that_of_the_true_residuals_and_falls(method: Method) -> None:
    b = normal(40, 1)
    outcome = solved(method, INDEFINITE, b)
    assert (outcome.history.diff(dim=0) <= 0).all()
    for k in range(0, outcome.num_iter, 5):
        x = solved(method, INDEFINITE, b, max_iter=k).x
        assert float(outcome.history[k]) == pytest.approx(float(true_norms(INDEFINITE, x, b)), rel=1e-6)


def test_absolute_tolerance(method: Method) -> None:
    b = normal(40, 1)
    outcome = solved(method, POSITIVE, b, rtol=0.0, atol=1e-3)
    assert outcome.statuses == (Status.CONVERGED,)
    assert outcome.history[-1] <= 1e-3 < outcome.history[-2]
    assert solved(method, POSITIVE, b, rtol=0.0, atol=1e3).num_iter == 0


# ------------------------------------------------------------------------------------- x0, shift, callback


def test_x0_costs_a_product_and_is_where_it_starts(method: Method) -> None:
    b, x0 = normal(40, 2), normal(40, 2, seed=3)
    matmat = Counted(INDEFINITE)
    outcome = method(matmat, b, x0=x0, rtol=1e-10, max_iter=100)
    torch.testing.assert_close(outcome.x, torch.linalg.solve(INDEFINITE, b), rtol=0, atol=1e-8)
    assert outcome.num_matvecs == sum(matmat.widths) > 2 * 2
    torch.testing.assert_close(outcome.history[0], true_norms(INDEFINITE, x0, b))
    step = solved(method, INDEFINITE, b - INDEFINITE @ x0, rtol=0.0, max_iter=4).x
    torch.testing.assert_close(solved(method, INDEFINITE, b, x0=x0, rtol=0.0, max_iter=4).x, x0 + step)


def test_a_solution_as_x0_takes_no_step(method: Method) -> None:
    b = normal(40, 1)
    outcome = solved(method, INDEFINITE, b, x0=torch.linalg.solve(INDEFINITE, b))
    assert (outcome.statuses, outcome.num_iter, outcome.num_matvecs) == ((Status.CONVERGED,), 0, 1)


def test_inconsistent_with_x0_takes_the_shortest_way_from_it(method: Method) -> None:
    A = with_spectrum(torch.arange(40, dtype=F64) - 5)
    b, x0 = normal(40, 1), normal(40, 1, seed=3)
    outcome = solved(method, A, b, x0=x0)
    assert outcome.statuses == (Status.INCONSISTENT,)
    x = x0 + torch.linalg.pinv(A, rtol=1e-12, hermitian=True) @ (b - A @ x0)
    torch.testing.assert_close(outcome.x, x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 1e-200])
def test_an_x0_that_rounding_keeps_from_improving(method: Method, scale: float) -> None:
    # ‖A‖ ‖x0‖ eps is far above the tolerance.
    A, x0 = scale * POSITIVE, 1e9 * normal(40, 1, seed=3)
    b = A @ x0 + 1e-6 * scale * normal(40, 1)
    outcome = solved(method, A, b, x0=x0, rtol=0.0, atol=1e-9 * scale)
    assert (outcome.statuses, outcome.num_iter) == ((Status.STAGNATED,), 1)


@pytest.mark.parametrize("shift", [3.0, -5.5])
def test_shift(method: Method, shift: float) -> None:
    b, x0 = normal(40, 2), normal(40, 2, seed=3)
    shifted = INDEFINITE + shift * torch.eye(40, dtype=F64)
    x = torch.linalg.solve(shifted, b)
    for options in ({}, {"x0": x0}):
        outcome = solved(method, INDEFINITE, b, shift=shift, **options)
        assert outcome.statuses == (Status.CONVERGED,) * 2
        torch.testing.assert_close(outcome.x, x, rtol=0, atol=1e-8)
        torch.testing.assert_close(
            outcome.residual_norms, true_norms(shifted, outcome.x, b), rtol=1e-3, atol=1e-13
        )


def test_shift_to_an_eigenvalue_is_singular(method: Method) -> None:
    A = with_spectrum(torch.arange(40, dtype=F64) - 5)
    assert solved(method, A, normal(40, 1), shift=-2.0).statuses == (Status.INCONSISTENT,)


def test_callback_sees_each_step_and_can_stop(method: Method) -> None:
    seen: list[Progress] = []

    def callback(progress: Progress) -> bool:
        seen.append(progress)
        return progress.num_iter == 4

    b = normal(40, 2)
    outcome = solved(method, INDEFINITE, b, callback=callback)
    assert outcome.statuses == (Status.STOPPED,) * 2
    assert [progress.num_iter for progress in seen] == [1, 2, 3, 4]
    assert [progress.num_matvecs for progress in seen] == [2, 4, 6, 8]
    for k, progress in enumerate(seen, start=1):
        torch.testing.assert_close(progress.residual_norms, outcome.history[k])
    torch.testing.assert_close(outcome.x, solved(method, INDEFINITE, b, max_iter=4).x)


def test_a_column_that_ends_in_the_last_step_is_not_stopped(method: Method) -> None:
    outcome = solved(method, torch.eye(40, dtype=F64), normal(40, 1), callback=lambda progress: True)
    assert outcome.statuses == (Status.CONVERGED,)


# ------------------------------------------------------------------------------------------- preconditioning


def test_preconditioner_saves_steps_and_changes_no_solution(method: Method) -> None:
    scales = torch.logspace(-2, 2, 40, dtype=F64)
    A = INDEFINITE * scales.sqrt()[:, None] * scales.sqrt()
    b = normal(40, 2)
    plain = solved(method, A, b)
    outcome = solved(method, A, b, precondition=lambda R: R / scales[:, None])
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert outcome.num_matvecs < plain.num_matvecs
    torch.testing.assert_close(outcome.x, torch.linalg.solve(A, b), rtol=1e-5, atol=1e-7)
    norms = true_norms(A, outcome.x, b)
    assert (norms <= 1.001e-10 * b.norm(dim=0)).all()
    torch.testing.assert_close(outcome.residual_norms, norms, rtol=1e-3, atol=1e-12)


def test_preconditioned_history_is_of_plain_norms(method: Method) -> None:
    P = with_spectrum(torch.logspace(-2, 2, 40, dtype=F64), seed=8)
    b = normal(40, 1)
    outcome = solved(method, INDEFINITE, b, precondition=P.matmul, rtol=1e-6)
    assert outcome.num_iter > 10
    for k in range(1, outcome.num_iter, 3):
        x = solved(method, INDEFINITE, b, precondition=P.matmul, max_iter=k).x
        assert float(outcome.history[k]) == pytest.approx(float(true_norms(INDEFINITE, x, b)), rel=1e-5)


def test_preconditioned_iterates_are_those_of_the_transformed_system(method: Method) -> None:
    P = with_spectrum(torch.linspace(0.1, 3, 40, dtype=F64), seed=8)
    root = with_spectrum(torch.linspace(0.1, 3, 40, dtype=F64).sqrt(), seed=8)
    b = normal(40, 1)
    x = solved(method, INDEFINITE, b, precondition=P.matmul, rtol=0.0, max_iter=9).x
    y = solved(method, root @ INDEFINITE @ root, root @ b, rtol=0.0, max_iter=9).x
    torch.testing.assert_close(x, root @ y)


def test_the_inverse_as_preconditioner_takes_one_step(method: Method) -> None:
    outcome = solved(method, POSITIVE, normal(40, 2), precondition=torch.linalg.inv(POSITIVE).matmul)
    assert (outcome.statuses, outcome.num_iter) == ((Status.CONVERGED,) * 2, 1)


def test_preconditioned_inconsistent_system(method: Method) -> None:
    A = with_spectrum(torch.arange(40, dtype=F64) - 5)
    P = with_spectrum(torch.linspace(0.5, 2, 40, dtype=F64), seed=8)
    root = with_spectrum(torch.linspace(0.5, 2, 40, dtype=F64).sqrt(), seed=8)
    b = normal(40, 1)
    outcome = solved(method, A, b, precondition=P.matmul)
    assert outcome.statuses == (Status.INCONSISTENT,)
    x = root @ torch.linalg.pinv(root @ A @ root, rtol=1e-12, hermitian=True) @ root @ b
    torch.testing.assert_close(outcome.x, x, rtol=0, atol=1e-6)


def test_preconditioner_that_returns_its_argument(method: Method) -> None:
    b = normal(40, 2)
    outcome = solved(method, INDEFINITE, b, precondition=lambda R: R)
    torch.testing.assert_close(outcome.x, solved(method, INDEFINITE, b).x)


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_preconditioner_that_is_not_positive_at_the_start(method: Method, sign: float) -> None:
    outcome = solved(method, POSITIVE, normal(40, 2), precondition=lambda R: sign * R)
    assert outcome.statuses == (Status.INDEFINITE_PRECONDITIONER,) * 2
    assert (outcome.num_iter, outcome.num_matvecs) == (0, 0)


def test_preconditioner_found_to_be_indefinite_on_the_way(method: Method) -> None:
    diagonal = torch.ones(40, 1, dtype=F64)
    diagonal[7] = -1
    b = torch.ones(40, 1, dtype=F64)
    outcome = solved(method, POSITIVE, b, precondition=lambda R: diagonal * R)
    assert outcome.statuses == (Status.INDEFINITE_PRECONDITIONER,)
    # The step that shows it is not made.
    options = {"precondition": lambda R: diagonal * R, "max_iter": outcome.num_iter - 1}
    torch.testing.assert_close(outcome.x, solved(method, POSITIVE, b, **options).x, rtol=0, atol=0)


def test_singular_preconditioner_is_no_success(method: Method) -> None:
    # ‖r‖_P = 0 after a step, but r ≠ 0: it lies where the preconditioner does not look.
    A = torch.diag(torch.tensor([2.0, 3, 5], dtype=F64))
    diagonal = torch.tensor([[1.0], [1], [0]], dtype=F64)
    b = torch.tensor([[1.0], [0], [1]], dtype=F64)
    outcome = solved(method, A, b, precondition=lambda R: diagonal * R)
    assert (outcome.statuses, outcome.num_iter) == ((Status.INDEFINITE_PRECONDITIONER,), 1)
    assert float(outcome.residual_norms) == float(true_norms(A, outcome.x, b)) == 1


# ----------------------------------------------------------------------------------------- negative curvature


def test_no_direction_for_a_positive_definite_matrix(method: Method) -> None:
    outcome = solved(method, POSITIVE, normal(40, 2))
    assert outcome.direction is None
    assert outcome.curvature is None


@pytest.mark.parametrize("preconditioned", [False, True])
def test_direction_of_negative_curvature(method: Method, preconditioned: bool) -> None:
    P = with_spectrum(torch.linspace(0.5, 2, 40, dtype=F64), seed=8)
    options = {"precondition": P.matmul} if preconditioned else {}
    # One negative eigenvalue, which takes a few steps to be met; and a column that lies in positive ones.
    spectrum = torch.linspace(1, 20, 40, dtype=F64)
    spectrum[0] = -1
    A = with_spectrum(spectrum)
    b = torch.cat([normal(40, 1), A @ normal(40, 1, seed=6)], dim=1)
    outcome = solved(method, A, b, **options)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert outcome.direction is not None and outcome.curvature is not None
    for j in range(2):
        p = outcome.direction[:, j]
        assert float(outcome.curvature[j]) < 0
        assert float(outcome.curvature[j]) == pytest.approx(float(p @ A @ p / (p @ p)), rel=1e-8)
        # The first residual, preconditioned, of those where the curvature is not positive.
        for k in range(outcome.num_iter):
            x = solved(method, A, b[:, j : j + 1], max_iter=k, **options).x
            r = b[:, j : j + 1] - A @ x
            q = P @ r if preconditioned else r
            if float(q.mT @ A @ q) <= 0:
                break
        torch.testing.assert_close(p[:, None] / p.norm(), q / q.norm(), rtol=0, atol=1e-7)


def test_direction_of_the_columns_that_met_one(method: Method) -> None:
    A = torch.diag(torch.tensor([1.0, 2, 3, -4], dtype=F64))
    b = torch.tensor([[1.0, 1], [1, 1], [1, 1], [0, 1]], dtype=F64)
    outcome = solved(method, A, b)
    assert outcome.direction is not None and outcome.curvature is not None
    assert outcome.direction[:, 0].count_nonzero() == 0
    assert outcome.curvature[0].isnan()
    assert outcome.curvature[1] < 0


# -------------------------------------------------------------------------------------- precision and scale


def test_single_precision(method: Method) -> None:
    b = normal(40, 2)
    outcome = solved(method, INDEFINITE.float(), b.float(), rtol=1e-5)
    assert outcome.x.dtype == F32
    assert outcome.statuses == (Status.CONVERGED,) * 2
    torch.testing.assert_close(outcome.x.double(), torch.linalg.solve(INDEFINITE, b), rtol=0, atol=1e-3)
    assert (true_norms(INDEFINITE.float(), outcome.x, b) <= 1.1e-5 * b.norm(dim=0)).all()


@pytest.mark.parametrize("dtype", [F32, F64])
def test_rounding_ends_it_where_no_tolerance_is_asked_for(method: Method, dtype: torch.dtype) -> None:
    A, b = POSITIVE.to(dtype), normal(40, 2).to(dtype)
    outcome = solved(method, A, b, rtol=0.0)
    assert outcome.statuses == (Status.STAGNATED,) * 2
    scale = 20 * outcome.x.double().norm(dim=0)
    assert (true_norms(A, outcome.x, b) < 20 * torch.finfo(dtype).eps * scale).all()


@pytest.mark.parametrize(("dtype", "small"), [(F32, 1e-30), (F64, 1e-290)])
@pytest.mark.parametrize("of", ["A", "b", "both", "inverse"])
def test_any_scale(method: Method, dtype: torch.dtype, small: float, of: str) -> None:
    A, b = INDEFINITE.to(dtype), normal(40, 2).to(dtype)
    a_scale = {"A": small, "b": 1.0, "both": small, "inverse": 1 / small / 100}[of]
    b_scale = {"A": 1.0, "b": small, "both": small, "inverse": 1 / small / 100}[of]
    A_scaled, b_scaled = A * a_scale, b * b_scale
    outcome = solved(method, A_scaled, b_scaled, rtol=1e-5)
    plain = solved(method, A, b, rtol=1e-5)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert abs(outcome.num_iter - plain.num_iter) <= 1
    norms = b.double().norm(dim=0) * b_scale
    assert (outcome.residual_norms <= 1e-5 * norms).all()
    torch.testing.assert_close(outcome.history[0], norms, rtol=1e-5, atol=0)
    x = outcome.x.double() * (a_scale / b_scale)
    torch.testing.assert_close(x, plain.x.double(), rtol=0, atol=1e-4)
    assert outcome.curvature is not None and plain.curvature is not None
    torch.testing.assert_close(outcome.curvature / a_scale, plain.curvature, rtol=1e-3, atol=0)


# --------------------------------------------------------------------------------------------------- devices


def test_one_synchronisation_a_step(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def watch(name: str) -> None:
        call = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any) -> Any:
            if self.is_floating_point():
                calls.append(name)
            return call(self, *args)

        monkeypatch.setattr(Tensor, name, counted)

    for name in ("tolist", "item", "cpu", "__bool__", "__float__"):
        watch(name)
    counts = []
    for max_iter in (5, 15):
        calls.clear()
        solved(method, INDEFINITE, normal(40, 2), max_iter=max_iter, precondition=lambda R: 2 * R)
        counts.append(len(calls))
    assert counts[1] - counts[0] == 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [F32, F64])
def test_on_a_gpu(method: Method, dtype: torch.dtype) -> None:
    A, b = INDEFINITE.to("cuda", dtype), normal(40, 3).to("cuda", dtype)
    b[:, 2] = 0
    rtol = 1e-5 if dtype == F32 else 1e-10
    outcome = solved(method, A, b, rtol=rtol, x0=torch.ones_like(b), precondition=lambda R: 2 * R)
    assert outcome.statuses == (Status.CONVERGED,) * 3
    assert outcome.x.device == b.device
    expected = torch.linalg.solve(INDEFINITE, b.cpu().double())
    torch.testing.assert_close(outcome.x.cpu().double(), expected, rtol=0, atol=1e2 * rtol)
    singular = A - torch.linalg.eigvalsh(INDEFINITE)[3] * torch.eye(40, device="cuda", dtype=dtype)
    assert solved(method, singular, b[:, :1], rtol=rtol).statuses == (Status.INCONSISTENT,)


# ---------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"b": torch.ones(4)}, r"b must be \(n, k\) of float32 or float64, got \(4,\).*b\[:, None\]"),
        ({"b": torch.ones(4, 1, dtype=torch.int64)}, "b must be .* got .* of torch.int64"),
        ({"x0": torch.ones(4, 2)}, r"x0 must be like b, \(4, 1\) of torch.float32, got \(4, 2\)"),
        ({"x0": torch.ones(4, 1, dtype=F64)}, "x0 must be like b, .* of torch.float64"),
        ({"rtol": -1.0}, "must not be negative, got rtol=-1.0"),
        ({"rtol": math.nan}, "must not be negative, got rtol=nan"),
        ({"atol": -1.0}, "must not be negative, got .* atol=-1.0"),
        ({"max_iter": -1}, "must not be negative, got .* max_iter=-1"),
        ({"matmat": lambda X: X.double()}, "matmat must return a block like its argument"),
        ({"matmat": lambda X: X[:3]}, "matmat must return a block like its argument"),
        ({"precondition": lambda X: X[:3]}, "precondition must return a block like its argument"),
    ],
)
def test_errors(method: Method, arguments: dict[str, Any], message: str) -> None:
    whole = {"matmat": lambda X: X, "b": torch.ones(4, 1), "rtol": 0.1, "max_iter": 3, **arguments}
    with pytest.raises(ValueError, match=message):
        method(whole.pop("matmat"), whole.pop("b"), **whole)
