from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from hvplib import Diagonal
from hvplib.optim import Ending, TrustNCG, minimize
from tests.optim.bounded_problems import HOCK_SCHITTKOWSKI, Bounded, Quadratic, random_quadratic

F64 = torch.float64
INF = math.inf


def rosenbrock(x: Tensor) -> Tensor:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


def kkt_error(g: np.ndarray, x: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    return float(np.abs(np.clip(x - g, lower, upper) - x).max())


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def seeds(count: int, fast: int) -> list[Any]:
    """The first few at each run, the others where slow tests are run."""
    return [seed if seed < fast else pytest.param(seed, marks=pytest.mark.slow) for seed in range(count)]


# ---------------------------------------- the oracles


@pytest.mark.parametrize("problem", HOCK_SCHITTKOWSKI, ids=str)
def test_published_minima(problem: Bounded) -> None:
    lower, upper = (
        np.broadcast_to(default if side is None else side, len(problem.x0))
        for side, default in zip(problem.bounds, (-INF, INF), strict=True)
    )

    def func(x: Tensor) -> Tensor:
        assert (lower <= x.detach().numpy()).all() and (x.detach().numpy() <= upper).all(), "outside"
        return problem.func(x)

    result = minimize(func, np.array(problem.x0, dtype=float), bounds=problem.bounds)
    assert result.success and result.certificate == "minimum"
    assert min(abs(result.fun - value) for value in problem.minima) <= 1e-8
    assert kkt_error(result.jac, result.x, lower, upper) == pytest.approx(result.gradient_norm) or (
        result.gradient_norm <= 1e-12
    )
    np.testing.assert_array_equal(result.active == -1, result.x == lower)
    np.testing.assert_array_equal(result.active == 1, result.x == upper)


@pytest.mark.parametrize("bounds", [(-2, 0.8), (-0.5, 2), (1.2, 3), (-1.5, 0.5), (None, 0.25)])
@pytest.mark.parametrize("n", [2, 10])
def test_rosenbrock_against_scipy(n: int, bounds: Any) -> None:
    start = torch.tensor([-1.2, 1.0], dtype=F64).repeat(n // 2)
    result = minimize(rosenbrock, start, bounds=bounds)
    assert result.success and result.certificate == "minimum"

    def func(x: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.tensor(x, requires_grad=True)
        value = rosenbrock(at)
        value.backward()
        return value.item(), at.grad.numpy()

    # From four unknowns on there is a second minimum: theirs begins near the one that was found.
    near = start.numpy() if n == 2 else np.random.default_rng(0).normal(result.x.numpy(), 1e-2)
    theirs = scipy.optimize.minimize(
        func, near, jac=True, method="L-BFGS-B", bounds=[bounds] * n,
        options={"ftol": 0, "gtol": 1e-8, "maxiter": 5000},
    )  # fmt: skip
    assert result.fun == pytest.approx(theirs.fun, abs=1e-10)
    np.testing.assert_allclose(result.x.numpy(), theirs.x, atol=1e-5)


def least_squares_solution(problem: Quadratic) -> np.ndarray:
    """The same by SciPy's active-set method, without the variables that are fixed."""
    fixed = problem.lower == problem.upper
    x = np.where(fixed, problem.lower, 0.0)
    if not fixed.all():
        c = problem.c + problem.H @ x
        L = np.linalg.cholesky(problem.H[np.ix_(~fixed, ~fixed)])
        x[~fixed] = scipy.optimize.lsq_linear(
            L.T, -np.linalg.solve(L, c[~fixed]), (problem.lower[~fixed], problem.upper[~fixed]),
            method="bvls", tol=1e-15, max_iter=1000,
        ).x  # fmt: skip
    return x


@pytest.mark.parametrize("seed", seeds(200, 30))
def test_convex_quadratics(seed: int) -> None:
    problem = random_quadratic(seed, convex=True)
    result = minimize(problem, problem.x0, bounds=(problem.lower, problem.upper), gtol=1e-6)
    assert result.success and result.certificate == "minimum"
    assert kkt_error(problem.gradient(result.x), result.x, problem.lower, problem.upper) <= 1.01e-6
    np.testing.assert_allclose(result.jac, problem.gradient(result.x), atol=1e-10)
    theirs = least_squares_solution(problem)
    value = float(problem.c @ theirs + theirs @ problem.H @ theirs / 2)
    assert result.fun == pytest.approx(value, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(result.x, theirs, atol=1e-5 / np.linalg.eigvalsh(problem.H)[0])


@pytest.mark.parametrize("seed", seeds(100, 20))
def test_nonconvex_quadratics(seed: int) -> None:
    problem = random_quadratic(seed, convex=False)
    result = minimize(problem, problem.x0, bounds=(problem.lower, problem.upper), gtol=1e-9)
    assert result.success and result.certificate == "minimum"
    x, g = result.x, problem.gradient(result.x)
    assert kkt_error(g, x, problem.lower, problem.upper) <= 2e-9
    free = (np.abs(g) <= 1e-8) & (problem.lower < problem.upper)
    least = np.linalg.eigvalsh(problem.H[np.ix_(free, free)])[0] if free.any() else INF
    assert least > 0
    assert result.min_eigenvalue == pytest.approx(least, rel=1e-9)
    assert result.min_eigenvalue_bound <= least


# ---------------------------------------- second order


def second_order(H: Tensor, bounds: Any, start: Tensor, c: Tensor | None = None) -> Any:
    shift = torch.zeros(len(H), dtype=F64) if c is None else c
    return minimize(lambda x: x @ H @ x / 2 + shift @ x, start, bounds=bounds, max_iter=100)


def test_negative_curvature_that_leaves_the_box_is_no_saddle() -> None:
    # Along (1, −1) curvature is −1, but both variables are at zero and may only grow.
    result = second_order(tensor(1, 2, 2, 1).reshape(2, 2), (0, None), torch.zeros(2, dtype=F64))
    assert result.success and result.certificate == "undecided"
    assert result.min_eigenvalue == pytest.approx(1) and result.min_eigenvalue_bound == pytest.approx(-1)
    assert result.active.tolist() == [-1, -1] and result.direction is None


@pytest.mark.parametrize("beside", [1e-12, 1e-5])
def test_bounds_that_are_near_are_met(beside: float) -> None:
    # The same, from beside the corner: what is left of the room is too short to be seen in f, or is used up.
    H = tensor(1, 2, 2, 1).reshape(2, 2)
    x0 = torch.full((2,), beside, dtype=F64)
    result = minimize(lambda x: x @ H @ x / 2, x0, bounds=(0, None), gtol=1e-3, max_iter=100)
    assert result.success and result.certificate == "undecided", result.message
    assert result.min_eigenvalue >= 0 and result.nit <= 2


def test_uphill_along_negative_curvature_in_a_narrow_box_is_no_saddle() -> None:
    # Along (1, 1) curvature is −1, but x_1 is held by a slope that outweighs it as far as the box goes.
    result = minimize(
        lambda x: 9e-7 * x[1] - x[0] * x[1],
        torch.zeros(2, dtype=F64),
        bounds=(torch.tensor([-5e-7, 0.0]), torch.tensor([5e-7, 5e-7])),
    )
    assert result.success and result.certificate == "undecided", result.message
    assert result.min_eigenvalue == pytest.approx(-1) and result.x.tolist() == [0, 0]


@pytest.mark.parametrize(("lower", "upper", "value"), [(0, 3, -9.0), (-3, 0, -9.0), (-3, 2, -9.0)])
def test_negative_curvature_into_the_box_is_followed_to_its_end(
    lower: float, upper: float, value: float
) -> None:
    # Stationary at zero, on a bound or between: along (1, 1) and (−1, −1) f falls to the corner.
    result = second_order(tensor(1, -2, -2, 1).reshape(2, 2), (lower, upper), torch.zeros(2, dtype=F64))
    assert result.success and result.certificate == "minimum"
    assert result.fun in (pytest.approx(-lower * lower), pytest.approx(-upper * upper))
    assert result.fun <= value or (lower, upper) == (-3, 2)
    assert result.active.abs().tolist() == [1, 1]


def test_a_saddle_is_told_when_no_step_is_left() -> None:
    def func(x: Tensor) -> Tensor:
        return x[0] ** 2 - x[1] ** 2 + x[2]

    result = minimize(func, torch.zeros(3, dtype=F64), bounds=(0, 1), max_iter=0)
    assert result.status is Ending.MAX_ITER and result.certificate == "saddle" and not result.success
    torch.testing.assert_close(result.direction, tensor(0, 1, 0))
    assert result.min_eigenvalue == pytest.approx(-2)
    escaped = minimize(func, torch.zeros(3, dtype=F64), bounds=(0, 1))
    assert escaped.success and escaped.x.tolist() == [0, 1, 0] and escaped.active.tolist() == [-1, 1, -1]


def test_curvature_of_a_variable_held_by_its_gradient_does_not_count() -> None:
    result = minimize(lambda x: x[0] - x[0] ** 2 / 4 + x[1] ** 2, tensor(0, 1), bounds=(0, 1))
    assert result.success and result.certificate == "minimum"
    assert result.x.tolist() == [0, pytest.approx(0)] and result.min_eigenvalue == pytest.approx(2)


def test_at_a_corner_there_is_no_curvature_to_ask_for() -> None:
    result = minimize(lambda x: (x - x**2 / 8).sum(), torch.ones(3, dtype=F64), bounds=(0, 2))
    assert result.success and result.certificate == "minimum" and result.min_eigenvalue == INF
    assert result.x.tolist() == [0, 0, 0]


@pytest.mark.parametrize("n", [3, 100])
def test_maximum_within_a_box_is_left(n: int) -> None:
    d = torch.linspace(1, 2, n, dtype=F64)
    result = minimize(lambda x: -(d * x**2).sum(), torch.zeros(n, dtype=F64), bounds=(-1, 1))
    assert result.success and result.certificate == "minimum"
    assert result.fun == pytest.approx(-float(d.sum())) and bool((result.active != 0).all())


def test_large_boxes_are_searched_by_lanczos() -> None:
    d = torch.linspace(1, 30, 300, dtype=F64)
    d[100] = -2.0

    def func(x: Tensor) -> Tensor:
        return (d * x**2).sum() / 2 + (x**4).sum() / 4

    start = torch.ones(300, dtype=F64)
    start[100] = 0.0
    result = minimize(func, start, bounds=(0, None))
    assert result.success and float(result.x[100]) == pytest.approx(math.sqrt(2))
    assert result.fun == pytest.approx(-1)


# ---------------------------------------- never outside, and how few products


def test_the_function_is_never_asked_outside() -> None:
    # Neither is its derivative checked there: near zero, differences of gradients would be.
    seen = []

    def func(x: Tensor) -> Tensor:
        # Read afterwards: what is read from x here stays as it is at the point while derivatives are checked.
        seen.append(torch.stack([x.min(), x.max()]))
        return (x * x.log()).sum() + x[0] * x[1] - 3 * x[2]

    result = minimize(func, tensor(1e-8, 1e-8, 1e-8), bounds=(1e-8, 1))
    assert result.success and result.certificate == "minimum"
    assert result.active.tolist() == [0, 0, 1]
    least, most = torch.stack([ends.detach() for ends in seen]).mT
    assert bool((least >= 1e-8).all() and (most <= 1).all())
    assert len(least.unique()) > result.nfev  # those of the proof as well


def test_bounds_that_are_far_away_change_nothing() -> None:
    start = tensor(-1.2, 1.0, -1.2, 1.0, 0.5)
    free = minimize(rosenbrock, start, method=TrustNCG(recycle=0))  # nothing is recycled within bounds
    wide = minimize(rosenbrock, start, method="trust-ncg", bounds=(-1e6, 1e6))
    assert torch.equal(free.x, wide.x) and (free.nit, free.nfev, free.nhev) == (
        wide.nit,
        wide.nfev,
        wide.nhev,
    )
    assert not wide.active.any()


def test_active_sets_are_found_with_few_products() -> None:
    # The obstacle problem: a membrane of 20 × 20 above a hill.
    n = 20
    t = torch.linspace(0, 1, n + 2, dtype=F64)[1:-1]
    hill = (torch.sin(3 * math.pi * t)[:, None] * torch.sin(3 * math.pi * t)).reshape(-1).clamp(min=0)

    def func(x: Tensor) -> Tensor:
        u = torch.nn.functional.pad(x.reshape(n, n), (1, 1, 1, 1))
        return ((u[1:] - u[:-1]) ** 2).sum() / 2 + ((u[:, 1:] - u[:, :-1]) ** 2).sum() / 2 + x.sum() / n**2

    result = minimize(func, torch.ones(n * n, dtype=F64), bounds=(hill, None))
    assert result.success and result.certificate == "minimum"
    assert 20 < int((result.active == -1).sum()) < n * n
    assert result.nit <= 30 and result.history[-1].nhev <= 500
    theirs = scipy.optimize.minimize(
        lambda x: float(func(torch.tensor(x))), result.x.numpy(), method="L-BFGS-B",
        bounds=[(h, None) for h in hill],
        jac=lambda x: torch.func.grad(func)(torch.tensor(x)).numpy(), options={"ftol": 0, "gtol": 1e-9},
    )  # fmt: skip
    assert result.fun <= theirs.fun + 1e-10


def test_preconditioner_saves_products_within_bounds() -> None:
    d = torch.logspace(0, 5, 200, dtype=F64)

    def func(x: Tensor) -> Tensor:
        return (d * (torch.cosh(x - 1) - 1)).sum()

    upper = torch.where(torch.arange(200) % 3 == 0, 0.5, INF).to(F64)
    plain = minimize(func, torch.zeros(200, dtype=F64), bounds=(None, upper))
    faster = minimize(func, torch.zeros(200, dtype=F64), bounds=(None, upper), preconditioner=Diagonal(1 / d))
    for result in (plain, faster):
        assert result.success
        torch.testing.assert_close(result.x, upper.clamp(max=1.0), rtol=0, atol=1e-5)
    assert 3 * faster.history[-1].nhev < plain.history[-1].nhev


# ---------------------------------------- forms of bounds


@pytest.mark.parametrize(
    "bounds",
    [
        (0.0, 0.5),
        (np.zeros(2), [0.5, 0.5]),
        (torch.zeros(2, dtype=F64), torch.tensor(0.5)),
        scipy.optimize.Bounds(0, 0.5),
        scipy.optimize.Bounds([0, 0], [0.5, 0.5]),
        scipy.optimize.Bounds(*zip((0, 0.5), (0, 0.5), strict=True)),
    ],
)
def test_forms(bounds: Any) -> None:
    result = minimize(rosenbrock, np.array([0.1, 0.2]), bounds=bounds)
    np.testing.assert_allclose(result.x, [0.5, 0.25], atol=1e-9)
    assert isinstance(result.active, np.ndarray) and result.active.dtype == np.int64
    assert result.active.tolist() == [1, 0] and result.start_projected is False
    assert result.method == TrustNCG()


def test_pytrees() -> None:
    start = {"a": tensor(5, 5), "b": (tensor(5), torch.full((2, 1), 5.0, dtype=F64))}

    def func(p: Any) -> Tensor:
        return sum(((leaf - 1) ** 2).sum() for leaf in (p["a"], *p["b"]))

    lower = {"a": tensor(2, -9), "b": (None, 3)}
    result = minimize(func, start, bounds=(lower, 4.0))
    assert result.start_projected and result.history[0].fun == 5 * 9
    assert result.active["a"].tolist() == [-1, 0] and result.active["b"][1].tolist() == [[-1], [-1]]
    torch.testing.assert_close(result.x["a"], tensor(2, 1))
    torch.testing.assert_close(result.jac["a"], tensor(2, 0), rtol=0, atol=1e-6)
    assert start["a"].tolist() == [5, 5]


def test_mixed_dtypes_stay_within_what_they_can_hold() -> None:
    start = (torch.tensor([2.0], dtype=torch.float32), tensor(2.0))
    limit = torch.tensor([0.1], dtype=torch.float32)

    def func(a: Tensor, b: Tensor) -> Tensor:
        assert bool((a.detach() >= limit).all()) and bool((b.detach() >= 0.1).all())
        return a.square().sum().double() + b.square().sum()

    result = minimize(func, start, bounds=(0.1, None))
    assert result.success and [leaf.dtype for leaf in result.x] == [torch.float32, F64]
    assert [leaf.dtype for leaf in result.active] == [torch.int64] * 2
    assert torch.equal(result.x[0], limit) and result.x[1].tolist() == [0.1]


def test_float32() -> None:
    result = minimize(rosenbrock, torch.tensor([-1.2, 1.0]), bounds=(None, 0.8))
    assert result.success and result.x.dtype == torch.float32
    torch.testing.assert_close(result.x, torch.tensor([0.8, 0.64]), rtol=0, atol=1e-4)
    assert result.active.tolist() == [1, 0]


@pytest.mark.parametrize(("bounds", "x"), [((4, None), 4), ((None, 2), 2), ((0, 9), 3), ((5, 5), 5)])
def test_one_unknown(bounds: Any, x: float) -> None:
    result = minimize(lambda x: (x - 3) ** 2, 1.0, bounds=bounds)
    assert result.success and result.certificate == "minimum"
    assert result.x.shape == () and float(result.x) == pytest.approx(x)


def test_fixed_variables_stay() -> None:
    seen = []

    def func(x: Tensor) -> Tensor:
        seen.append(float(x[1].detach()))
        return rosenbrock(x)

    lower = tensor(-INF, 0.3, -INF)
    result = minimize(func, tensor(-1, 5, 2), bounds=(lower, tensor(INF, 0.3, INF)))
    assert result.success and set(seen) == {0.3} and result.start_projected
    assert float(result.x[2]) == pytest.approx(0.09) and abs(float(result.jac[1])) > 1e-3
    assert result.active.tolist() == [0, -1, 0]


def test_all_fixed() -> None:
    result = minimize(rosenbrock, tensor(1, 2, 3), bounds=(2, 2))
    assert result.success and result.nit == 0 and result.x.tolist() == [2, 2, 2]


def test_data_within_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(40, 4, generator=generator, dtype=F64)
    y = A @ tensor(1, -2, 3, -4)
    batches = [(A[:7], y[:7]), (A[7:], y[7:])]
    result = minimize(
        lambda w, batch: (batch[0] @ w - batch[1]).square().mean(), torch.ones(4, dtype=F64), batches,
        bounds=(0, None), gtol=1e-10,
    )  # fmt: skip
    np.testing.assert_allclose(result.x.numpy(), scipy.optimize.nnls(A.numpy(), y.numpy())[0], atol=1e-8)


# ---------------------------------------- ends


def test_unbounded_within_bounds() -> None:
    result = minimize(lambda x: x[0] ** 2 - x[1], torch.ones(2, dtype=F64), bounds=([0, 0], None))
    assert result.status is Ending.UNBOUNDED and not result.success


def test_bounds_save_an_unbounded_function() -> None:
    result = minimize(lambda x: x[0] ** 2 - x[1] ** 3, torch.ones(2, dtype=F64), bounds=(None, [INF, 7]))
    assert result.success and result.x[1] == 7


def test_nan_within_the_box_backs_off() -> None:
    def func(x: Tensor) -> Tensor:
        return torch.where(x > 2, math.nan, (x - 1) ** 2 - 0.5 * x).sum()

    result = minimize(func, tensor(0.0), bounds=(0, 5), method=TrustNCG(initial_radius=100.0))
    assert result.success and float(result.x) == pytest.approx(1.25)


def test_nan_at_the_start() -> None:
    result = minimize(lambda x: (x - 1).log().sum(), tensor(0.5), bounds=(0, 5))
    assert result.status is Ending.NON_FINITE


def test_an_infinite_slope_on_a_bound_is_not_finite() -> None:
    result = minimize(lambda x: x.sqrt().sum(), tensor(0.0), bounds=(0, 5))
    assert result.status is Ending.NON_FINITE


def test_kinks_are_told() -> None:
    # Not at the bound, where |x| has none that matters.
    result = minimize(lambda x: (x - 0.3).abs().sum() + x[0] ** 2, tensor(3.0), bounds=(-1, 5))
    assert not result.success and result.status in (Ending.NOT_SMOOTH, Ending.STAGNATED)
    assert float(result.x) == pytest.approx(0.3, abs=1e-6)
    beyond = minimize(lambda x: (x - 0.3).abs().sum() + x[0] ** 2, tensor(3.0), bounds=(1, 5))
    assert beyond.success and beyond.x.tolist() == [1]


@pytest.mark.parametrize(
    ("limit", "ending"),
    [
        ({"max_iter": 3}, Ending.MAX_ITER),
        ({"max_nfev": 3}, Ending.MAX_NFEV),
        ({"max_hvp": 5}, Ending.MAX_HVP),
        ({"callback": lambda state: state.nit == 2}, Ending.STOPPED),
    ],
)
def test_limits(limit: dict[str, Any], ending: Ending) -> None:
    result = minimize(rosenbrock, tensor(-1.2, 1), bounds=(-2, 0.8), **limit)
    assert result.status is ending and not result.success
    assert result.nhev <= limit.get("max_hvp", INF) and bool((result.x <= 0.8).all())


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ((1, 0), ValueError, "lower ≤ upper, got lower = 1.0 and upper = 0.0 for unknown 0; swap"),
        (([0, 3], [1, 2]), ValueError, "for unknown 1; swap"),
        ((math.nan, None), ValueError, "must not be NaN"),
        ((INF, None), ValueError, "leave room for a finite x"),
        ((None, -INF), ValueError, "leave room for a finite x"),
        (([0, 0, 0], None), ValueError, r"the lower bound must be a number or have x0's shape \(2,\)"),
        ((None, "far"), TypeError, "the upper bound cannot be read as numbers"),
        (({"a": tensor(0.0)}, None), TypeError, "a lower bound of another structure than x0, dict"),
        ([(0, 1), (0, 1)], TypeError, r"a list of 2; for pairs \(l_i, u_i\) give .*Bounds\(\*zip"),
        (3.0, TypeError, "bounds must be a tuple .* got float"),
    ],
)
def test_bad_bounds(bounds: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        minimize(rosenbrock, tensor(0.5, 0.5), bounds=bounds)


@pytest.mark.parametrize("method", ["trust-krylov", "trust-exact"])
def test_methods_that_know_no_bounds(method: str) -> None:
    with pytest.raises(ValueError, match="bounds need method='trust-ncg' or 'auto', got Trust"):
        minimize(rosenbrock, tensor(0.5, 0.5), bounds=(0, 1), method=method)


def test_differences_would_leave_the_box() -> None:
    with pytest.raises(ValueError, match="evaluates func outside the bounds"):
        minimize(rosenbrock, tensor(0.5, 0.5), bounds=(0, 1), strategy="finite-difference")
