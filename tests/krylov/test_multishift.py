"""A path of shifts from one Krylov space: against dense solves and CG on each; and how each shift ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.krylov.inner import Inner
from hvplib.krylov.multishift import multishift_cg
from hvplib.results.status import Progress, Status
from tests.krylov.watched import Reads, Watched, numbers, with_spectrum

F32, F64 = torch.float32, torch.float64
EPS = torch.finfo(F64).eps


def dense(A: Tensor, b: Tensor, shifts: Tensor) -> Tensor:
    eye = torch.eye(len(A), dtype=A.dtype)
    return torch.cat([torch.linalg.solve(A + shift * eye, b) for shift in shifts.tolist()], dim=1)


def residuals(A: Tensor, b: Tensor, x: Tensor, shifts: Tensor) -> Tensor:
    return (b - A @ x - x * shifts).norm(dim=0)


@pytest.mark.parametrize("condition", [1e1, 1e3, 1e5])
def test_each_column_is_the_dense_solution_of_its_shift(condition: float) -> None:
    A, _ = with_spectrum(torch.logspace(0, math.log10(condition), 60, dtype=F64))
    b = numbers(60, 1)
    shifts = torch.tensor([0.0, 1e-3, 1.0, 30.0, 1e4, -0.5, 1.0], dtype=F64)
    outcome = multishift_cg(A.matmul, b, shifts, rtol=1e-10, max_iter=3000)
    assert outcome.statuses == (Status.CONVERGED,) * 7
    found = residuals(A, b, outcome.x, shifts)
    assert (found <= 1.1e-10 * b.norm() + 10 * EPS * condition * outcome.x.norm(dim=0)).all()
    torch.testing.assert_close(
        outcome.residual_norms, found, rtol=0.1, atol=50 * EPS * condition * float(b.norm())
    )
    torch.testing.assert_close(outcome.x, dense(A, b, shifts), rtol=0, atol=1e-9 * float(b.norm()))


def test_one_product_serves_all_shifts() -> None:
    A, _ = with_spectrum(torch.linspace(1, 10, 50))
    b = numbers(50, 1)
    shifts = torch.linspace(0, 20, 30, dtype=F64)
    product = Watched(A)
    outcome = multishift_cg(product, b, shifts, rtol=1e-9, max_iter=99)
    assert product.widths == [1] * outcome.num_matvecs
    assert outcome.num_iter == outcome.num_matvecs
    # No more than the shift that needs most of them needs alone.
    alone = [
        cg((A + s * torch.eye(50, dtype=F64)).matmul, b, rtol=1e-9, max_iter=99).num_matvecs
        for s in shifts.tolist()
    ]
    assert outcome.num_matvecs == max(alone)


def test_iterates_are_those_of_cg_for_each_shift() -> None:
    A, _ = with_spectrum(torch.logspace(0, 2, 40, dtype=F64))
    b = numbers(40, 1)
    shifts = torch.tensor([0.0, 0.5, 100.0, -0.9], dtype=F64)
    for steps in (1, 2, 5, 9):
        path = multishift_cg(A.matmul, b, shifts, rtol=0.0, max_iter=steps)
        assert path.statuses == (Status.MAX_ITER,) * 4 and path.num_matvecs == steps
        for i, shift in enumerate(shifts.tolist()):
            plain = cg(
                (A + shift * torch.eye(40, dtype=F64)).matmul,
                b,
                rtol=0.0,
                max_iter=steps,
                radius=math.inf,
            )
            torch.testing.assert_close(path.x[:, [i]], plain.x, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(path.history[:, i], plain.history[:, 0], rtol=1e-9, atol=0)


@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_as_many_steps_as_distinct_eigenvalues(distinct: int) -> None:
    A, _ = with_spectrum(torch.linspace(1, 7, distinct, dtype=F64).repeat_interleave(40 // distinct))
    outcome = multishift_cg(A.matmul, numbers(40, 1), torch.tensor([0.0, 3.0]), rtol=1e-10, max_iter=40)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    assert outcome.num_matvecs == distinct and outcome.history.shape == (distinct + 1, 2)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_widely_spread_shifts_do_not_overflow(dtype: torch.dtype) -> None:
    A, _ = with_spectrum(torch.logspace(0, 3, 80, dtype=F64))
    b = numbers(80, 1, dtype=dtype)
    rtol = 1e-8 if dtype is F64 else 1e-4
    shifts = torch.logspace(-8, 4, 25, dtype=F64)
    outcome = multishift_cg(A.to(dtype).matmul, b, shifts, rtol=rtol, max_iter=2000)
    assert outcome.statuses == (Status.CONVERGED,) * 25
    assert outcome.x.isfinite().all() and outcome.history.isfinite().all()
    expected = dense(A, b.double(), shifts)
    assert ((outcome.x - expected).norm(dim=0) <= 200 * rtol * expected.norm(dim=0)).all()


def test_shift_that_has_converged_is_frozen() -> None:
    A, _ = with_spectrum(torch.logspace(0, 4, 60, dtype=F64))
    b = numbers(60, 1)
    shifts = torch.tensor([1e6, 0.0, 1e3], dtype=F64)
    outcome = multishift_cg(A.matmul, b, shifts, rtol=1e-8, max_iter=2000)
    steps = [int((outcome.history[:, i] > 1e-8 * b.norm()).sum()) for i in range(3)]
    assert steps[0] < steps[2] < steps[1] == outcome.num_iter
    for i in (0, 2):
        short = multishift_cg(A.matmul, b, shifts, rtol=1e-8, max_iter=steps[i])
        assert torch.equal(short.x[:, i], outcome.x[:, i])
        assert (outcome.history[steps[i] :, i] == outcome.residual_norms[i]).all()


def test_shift_that_meets_negative_curvature_ends_alone() -> None:
    A, _ = with_spectrum(torch.linspace(-1, 9, 40))
    b = numbers(40, 1)
    shifts = torch.tensor([0.0, 1.5, 0.9, 5.0], dtype=F64)
    outcome = multishift_cg(A.matmul, b, shifts, rtol=1e-9, max_iter=400)
    bad, good = [0, 2], [1, 3]
    assert [outcome.statuses[i] for i in bad] == [Status.NEGATIVE_CURVATURE] * 2
    assert [outcome.statuses[i] for i in good] == [Status.CONVERGED] * 2
    torch.testing.assert_close(outcome.x[:, good], dense(A, b, shifts[good]), rtol=0, atol=1e-7)
    assert outcome.direction is not None and outcome.curvature is not None
    assert not outcome.direction[:, good].any() and outcome.curvature[good].isnan().all()
    for i in bad:
        p = outcome.direction[:, i]
        curvature = float(p @ (A @ p) / (p @ p) + shifts[i])
        assert curvature < 0
        assert curvature == pytest.approx(float(outcome.curvature[i]), rel=1e-8)
    # What was reached before is kept.
    torch.testing.assert_close(
        residuals(A, b, outcome.x, shifts)[bad], outcome.residual_norms[bad], rtol=1e-8, atol=0
    )


def test_negative_curvature_is_met_with_the_direction_of_cg() -> None:
    A, _ = with_spectrum(torch.linspace(-1, 9, 40))
    b = numbers(40, 1)
    path = multishift_cg(A.matmul, b, torch.zeros(1), rtol=1e-9, max_iter=400)
    plain = cg(A.matmul, b, rtol=1e-9, max_iter=400, radius=math.inf)
    assert path.statuses == plain.statuses == (Status.NEGATIVE_CURVATURE,)
    assert path.num_matvecs == plain.num_matvecs
    torch.testing.assert_close(path.x, plain.x, rtol=1e-8, atol=1e-10)
    assert path.direction is not None and plain.direction is not None
    cosine = torch.nn.functional.cosine_similarity(path.direction, plain.direction, dim=0)
    assert abs(float(cosine)) == pytest.approx(1.0, abs=1e-9)


def test_negative_curvature_on_the_first_step_leaves_zero() -> None:
    outcome = multishift_cg(
        lambda X: -2 * X, torch.ones(3, 1), torch.tensor([0.0, 1.0, 3.0]), rtol=1e-6, max_iter=5
    )
    assert outcome.statuses == (Status.NEGATIVE_CURVATURE,) * 2 + (Status.CONVERGED,)
    assert outcome.curvature is not None and outcome.curvature[:2].tolist() == pytest.approx([-2, -1])
    assert not outcome.x[:, :2].any() and outcome.x[:, 2].tolist() == pytest.approx([1] * 3)
    assert outcome.residual_norms[:2].tolist() == pytest.approx([math.sqrt(3)] * 2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [F32, F64])
def test_inconsistent_shift_is_told_and_others_go_on(seed: int, dtype: torch.dtype) -> None:
    A, _ = with_spectrum(torch.cat([torch.zeros(5), torch.linspace(1, 9, 35)]), seed=seed)
    b = numbers(40, 1, seed=seed).to(dtype)
    shifts = torch.tensor([0.0, 0.1], dtype=F64)
    rtol = 1e-8 if dtype is F64 else 1e-4
    outcome = multishift_cg(A.to(dtype).matmul, b, shifts, rtol=rtol, max_iter=2000)
    assert outcome.statuses[0] in (Status.NEGATIVE_CURVATURE, Status.STAGNATED)
    assert outcome.statuses[1] is Status.CONVERGED
    assert outcome.num_iter < 200
    expected = dense(A, b.double(), shifts[1:])
    torch.testing.assert_close(outcome.x[:, [1]].double(), expected, rtol=0, atol=3000 * rtol)


def test_consistent_singular_shift_has_the_shortest_solution() -> None:
    A, _ = with_spectrum(torch.cat([torch.zeros(5), torch.linspace(1, 9, 35)]))
    b = A @ numbers(40, 1)
    outcome = multishift_cg(A.matmul, b, torch.tensor([0.0, 2.0]), rtol=1e-9, max_iter=200)
    assert outcome.statuses == (Status.CONVERGED,) * 2
    torch.testing.assert_close(outcome.x[:, [0]], torch.linalg.pinv(A, rtol=1e-10) @ b, rtol=0, atol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_null_space_that_products_show_only_as_noise(seed: int) -> None:
    A, Q = with_spectrum(torch.cat([torch.zeros(1), torch.linspace(1, 2, 29)]), seed=seed)
    b = Q[:, [0]].clone()
    outcome = multishift_cg(A.matmul, b, torch.tensor([0.0, 1.0]), rtol=1e-9, max_iter=200)
    assert outcome.statuses[0] in (Status.NEGATIVE_CURVATURE, Status.STAGNATED)
    assert outcome.statuses[1] is Status.CONVERGED
    torch.testing.assert_close(outcome.x[:, [1]], b, rtol=0, atol=1e-9)


def test_curvature_that_only_a_later_step_shows_to_be_noise_ends_the_shift() -> None:
    # Tridiagonal, and b the first unit vector: T is A.
    A = torch.diag(torch.tensor([1e-17, 1.0, 2.0, 3.0, 4.0], dtype=F64))
    beside = torch.tensor([5e-18, 0.5, 0.5, 0.5], dtype=F64)
    A += torch.diag(beside, 1) + torch.diag(beside, -1)
    b = torch.eye(5, 1, dtype=F64)
    outcome = multishift_cg(A.matmul, b, torch.zeros(1), rtol=1e-9, max_iter=9)
    assert outcome.statuses == (Status.STAGNATED,) and outcome.num_iter == 2


def test_convergence_where_rounding_hides_it_is_not_claimed() -> None:
    # x is 1e15 long beside ‖A‖ = 1: rounding in A x is a tenth of b.
    d = torch.tensor([[1e-15], [1.0]], dtype=F64)
    outcome = multishift_cg(
        lambda X: d * X, torch.ones(2, 1, dtype=F64), torch.zeros(1), rtol=1e-3, max_iter=9
    )
    assert outcome.statuses == (Status.STAGNATED,)
    assert outcome.residual_norms[0] < 1e-3


def test_condition_1e12_is_not_singular() -> None:
    d = torch.logspace(-12, 0, 12, dtype=F64)[:, None]
    shifts = torch.tensor([0.0, 1e-6, 1.0], dtype=F64)
    outcome = multishift_cg(lambda X: d * X, torch.ones(12, 1, dtype=F64), shifts, rtol=1e-10, max_iter=500)
    assert outcome.statuses == (Status.CONVERGED,) * 3
    torch.testing.assert_close(outcome.x, 1 / (d + shifts), rtol=1e-3, atol=0)


def test_exhausted_krylov_space_ends_what_cannot_converge() -> None:
    # A shift beyond the reach of a tolerance of zero: the space is all there is.
    outcome = multishift_cg(lambda X: 3 * X, numbers(7, 1), torch.tensor([0.1]), rtol=0.0, max_iter=1000)
    assert outcome.num_iter <= 3
    assert outcome.statuses[0] in (Status.STAGNATED, Status.CONVERGED)
    torch.testing.assert_close(outcome.x, numbers(7, 1) / 3.1)


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_size_of_the_right_hand_side_does_not_matter(size: float, dtype: torch.dtype) -> None:
    A, _ = with_spectrum(torch.logspace(0, 1, 20, dtype=F64))
    b = numbers(20, 1, dtype=dtype)
    shifts = torch.tensor([0.0, 1.0])
    unit = multishift_cg(A.to(dtype).matmul, b, shifts, rtol=1e-5, max_iter=99)
    scaled = multishift_cg(A.to(dtype).matmul, b * size, shifts, rtol=1e-5, max_iter=99)
    assert scaled.statuses == (Status.CONVERGED,) * 2
    torch.testing.assert_close(scaled.x / size, unit.x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scaled.history / size, unit.history, rtol=1e-3, atol=1e-4)


def test_zero_right_hand_side_needs_no_product() -> None:
    product = Watched(torch.eye(4, dtype=F64))
    outcome = multishift_cg(product, torch.zeros(4, 1, dtype=F64), torch.zeros(3), rtol=1e-6, max_iter=9)
    assert outcome.statuses == (Status.CONVERGED,) * 3 and product.widths == []
    assert not outcome.x.any() and outcome.x.shape == (4, 3) and not outcome.residual_norms.any()


def test_absolute_tolerance() -> None:
    b = torch.tensor([[3.0], [4.0]])
    assert multishift_cg(lambda X: X, b, torch.zeros(1), rtol=0.0, atol=5.0, max_iter=9).num_matvecs == 0
    assert multishift_cg(lambda X: X, b, torch.zeros(1), rtol=0.0, atol=4.9, max_iter=9).num_matvecs == 1
    A, _ = with_spectrum(torch.logspace(0, 3, 40, dtype=F64))
    b = 100 * numbers(40, 1)
    for rtol, atol in ((1e-3, 0.0), (1e-9, 1e-3)):
        outcome = multishift_cg(A.matmul, b, torch.zeros(1), rtol=rtol, atol=atol, max_iter=500)
        assert outcome.history[-1] <= max(rtol * float(b.norm()), atol) < outcome.history[-2]


def test_one_unknown_and_no_shift() -> None:
    shifts = torch.tensor([0.0, 1.0])
    outcome = multishift_cg(lambda X: 3 * X, torch.tensor([[6.0]]), shifts, rtol=1e-6, max_iter=5)
    torch.testing.assert_close(outcome.x, torch.tensor([[2.0, 1.5]]))
    assert outcome.statuses == (Status.CONVERGED,) * 2 and outcome.num_matvecs == 1
    none = multishift_cg(lambda X: X, torch.ones(3, 1), torch.zeros(0), rtol=1e-6, max_iter=5)
    assert none.x.shape == (3, 0) and none.statuses == () and none.num_matvecs == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_end_all(bad: float) -> None:
    A, _ = with_spectrum(torch.linspace(1, 9, 20))
    b = numbers(20, 1)
    calls = 0

    def spoilt(X: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        Y = A @ X
        if calls == 3:
            Y[5] = bad
        return Y

    shifts = torch.tensor([0.0, 1e9], dtype=F64)
    outcome = multishift_cg(spoilt, b, shifts, rtol=1e-5, max_iter=50)
    assert outcome.statuses == (Status.NON_FINITE, Status.CONVERGED)
    before = multishift_cg(A.matmul, b, shifts, rtol=1e-5, max_iter=2)
    assert torch.equal(outcome.x, before.x)
    assert outcome.num_matvecs == 3 and outcome.history.isfinite().all()
    b[3] = bad
    outcome = multishift_cg(A.matmul, b, shifts, rtol=1e-5, max_iter=50)
    assert outcome.statuses == (Status.NON_FINITE,) * 2
    assert not outcome.x.any() and outcome.num_matvecs == 0


def test_callback_is_told_each_step_and_stops() -> None:
    A, _ = with_spectrum(torch.logspace(0, 3, 30, dtype=F64))
    told: list[Progress] = []

    def callback(progress: Progress) -> bool:
        told.append(progress)
        return len(told) == 4

    shifts = torch.tensor([0.0, 1e9], dtype=F64)
    outcome = multishift_cg(A.matmul, numbers(30, 1), shifts, rtol=1e-6, max_iter=99, callback=callback)
    assert outcome.statuses == (Status.STOPPED, Status.CONVERGED)
    assert [p.num_iter for p in told] == [p.num_matvecs for p in told] == [1, 2, 3, 4]
    torch.testing.assert_close(torch.stack([p.residual_norms for p in told]), outcome.history[1:])


def test_no_step_at_all() -> None:
    outcome = multishift_cg(lambda X: X, torch.ones(3, 1), torch.zeros(2), rtol=1e-6, max_iter=0)
    assert outcome.statuses == (Status.MAX_ITER,) * 2 and outcome.num_matvecs == 0


def test_sums_over_rows_go_through_inner() -> None:
    A, _ = with_spectrum(torch.linspace(-1, 9, 30))
    b = numbers(30, 1)

    class Halves(Inner):
        def columns(self, X: Tensor, Y: Tensor) -> Tensor:
            return sum((x * y).sum(0) for x, y in zip(X.split(15), Y.split(15), strict=True))  # type: ignore[return-value]

    settings: dict[str, Any] = {"rtol": 1e-9, "max_iter": 99}
    shifts = torch.tensor([0.0, 2.0])
    parts = multishift_cg(A.matmul, b, shifts, inner=Halves(), **settings)
    whole = multishift_cg(A.matmul, b, shifts, **settings)
    assert parts.statuses == whole.statuses == (Status.NEGATIVE_CURVATURE, Status.CONVERGED)
    torch.testing.assert_close(parts.x, whole.x, rtol=1e-8, atol=1e-10)


def test_arguments_are_left_alone() -> None:
    A, _ = with_spectrum(torch.linspace(1, 5, 10))
    b, shifts = numbers(10, 1), torch.tensor([0.0, 1.0])
    kept = b.clone()
    outcome = multishift_cg(A.matmul, b, shifts, rtol=1e-9, max_iter=99)
    assert torch.equal(b, kept) and shifts.tolist() == [0.0, 1.0]
    assert outcome.x.mT.is_contiguous()


def test_one_synchronisation_a_step() -> None:
    d = torch.logspace(0, 3, 100, dtype=F64)[:, None]
    b, shifts = numbers(100, 1), torch.tensor([0.0, 1.0])

    def reads(steps: int) -> int:
        with Reads() as counted:
            outcome = multishift_cg(lambda X: d * X, b, shifts, rtol=1e-15, max_iter=steps)
        assert outcome.num_iter == steps
        return counted.count

    assert reads(30) - reads(10) == 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_it_runs_where_the_vectors_live() -> None:
    A, _ = with_spectrum(torch.linspace(-0.5, 9, 30))
    b, shifts = numbers(30, 1), torch.tensor([0.0, 1.0], dtype=F64)
    there = multishift_cg(A.cuda().matmul, b.cuda(), shifts.cuda(), rtol=1e-9, max_iter=99)
    here = multishift_cg(A.matmul, b, shifts, rtol=1e-9, max_iter=99)
    assert there.x.device.type == "cuda" and there.statuses == here.statuses
    torch.testing.assert_close(there.x.cpu(), here.x, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"b": torch.ones(3)}, "b must be \\(n, 1\\) of float32 or float64, got \\(3,\\)"),
        ({"b": torch.ones(3, 2)}, "got \\(3, 2\\).* call once for each"),
        ({"b": torch.ones(3, 1).half()}, "got \\(3, 1\\) of torch.float16"),
        ({"shifts": torch.ones(3, 1)}, "shifts must be finite real numbers \\(s,\\)"),
        ({"shifts": torch.tensor([1.0, math.nan])}, "shifts must be finite"),
        ({"shifts": torch.ones(2, dtype=torch.complex64)}, "shifts must be finite real"),
        ({"rtol": -1.0}, "must not be negative, got rtol=-1.0"),
        ({"max_iter": -1}, "must not be negative, .*max_iter=-1"),
        ({"matmat": lambda X: X[:-1]}, "matmat must return .* \\(3, 1\\) .* got \\(2, 1\\)"),
    ],
)
def test_bad_arguments_are_refused(settings: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"matmat": lambda X: X, "b": torch.ones(3, 1), "shifts": torch.zeros(2)}
    arguments |= {"rtol": 1e-6, "max_iter": 3} | settings
    matmat: Callable[[Tensor], Tensor] = arguments.pop("matmat")
    with pytest.raises(ValueError, match=message):
        multishift_cg(matmat, arguments.pop("b"), arguments.pop("shifts"), **arguments)
