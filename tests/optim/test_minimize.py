from __future__ import annotations

import math
import os
import signal
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from hvplib import DerivativeError, Diagonal
from hvplib.optim import Ending, TrustNCG, minimize

F64 = torch.float64


def rosenbrock(x: Tensor) -> Tensor:
    return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()


START = torch.tensor([0.5, -1.0, 0.5, 1.2, 0.5], dtype=F64)


def test_rosenbrock_against_scipy_and_the_closed_form() -> None:
    result = minimize(rosenbrock, START)
    assert result.success and result.certificate == "minimum" and result.status == 0
    torch.testing.assert_close(result.x, torch.ones(5, dtype=F64), rtol=0, atol=1e-8)
    H = torch.func.hessian(rosenbrock)(result.x)
    assert result.min_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(H)[0]), rel=1e-9)
    assert 0 < result.min_eigenvalue - result.min_eigenvalue_bound <= 1e-9
    theirs = scipy.optimize.minimize(
        lambda x: float(rosenbrock(torch.tensor(x))), START.numpy(), method="Nelder-Mead", tol=1e-9,
        options={"maxiter": 10_000, "maxfev": 10_000},
    )  # fmt: skip
    assert result.fun <= theirs.fun + 1e-15


def test_the_account_is_that_of_the_calls() -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return rosenbrock(x)

    result = minimize(counted, START)
    checks = calls - result.nfev
    assert 0 < checks <= 12  # of the way of differentiating, once
    assert result.njev == result.nfev == result.history[-1].nfev + 2  # beside the minimum, at the end
    assert result.nit == len(result.history) - 1
    assert result.nhev >= result.history[-1].nhev + 5


def test_history_falls() -> None:
    history = minimize(rosenbrock, START).history
    values = [row.fun for row in history]
    assert values == sorted(values, reverse=True) and values[0] == float(rosenbrock(START))
    assert history[0].step_norm == 0 and all(row.step_norm > 0 for row in history[1:])


def test_history_prints_in_a_line() -> None:
    history = minimize(rosenbrock, START).history
    assert repr(history).startswith(f"<{len(history)} rows, f from ") and repr(history[:1]).startswith(
        "[Iter"
    )


# ---------------------------------------- what goes in


def test_result_is_what_the_start_is() -> None:
    tree = {"a": START[:2].clone(), "b": (START[2:].clone().reshape(3, 1),)}
    flat = minimize(rosenbrock, START)

    def of_tree(p: Any) -> Tensor:
        return rosenbrock(torch.cat([p["a"], p["b"][0].reshape(-1)]))

    result = minimize(of_tree, tree)
    torch.testing.assert_close(result.x["a"], flat.x[:2], rtol=0, atol=1e-12)
    assert result.x["b"][0].shape == result.jac["b"][0].shape == (3, 1)
    array = minimize(rosenbrock, START.numpy())
    assert isinstance(array.x, np.ndarray) and array.x.dtype == np.float64
    np.testing.assert_array_equal(array.x, flat.x.numpy())


@pytest.mark.parametrize(
    "start", [[-1, 1], np.array([-1, 1]), (-1.0, 1.0), np.array([-1, 1], dtype=np.float32)]
)
def test_numbers_and_lists_are_taken_as_by_scipy(start: Any) -> None:
    result = minimize(rosenbrock, start)
    assert result.success and isinstance(result.x, np.ndarray)
    assert result.x.dtype == (np.float32 if getattr(start, "dtype", None) == np.float32 else np.float64)


def test_single_number() -> None:
    result = minimize(lambda x: (x - 3) ** 2, 1.0)
    assert result.x.shape == () and float(result.x) == pytest.approx(3)


def test_several_arguments() -> None:
    result = minimize(lambda a, b: (a - 1) ** 2 + (b - a).square().sum(), (START[0], START[1:]))
    torch.testing.assert_close(result.x[1], torch.ones(4, dtype=F64))


def test_mixed_dtypes_keep_theirs() -> None:
    start = (torch.tensor([2.0], dtype=torch.float32), torch.tensor([2.0], dtype=F64))
    result = minimize(lambda a, b: (a - 1).square().sum().double() + (b - a.double()).square().sum(), start)
    assert [x.dtype for x in result.x] == [torch.float32, F64]
    assert result.success and float(result.x[1]) == pytest.approx(1, abs=1e-6)


def test_data_are_averaged() -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(50, 3, generator=generator, dtype=F64)
    y = X @ torch.tensor([1.0, -2, 3], dtype=F64) + torch.randn(50, generator=generator, dtype=F64)
    batches = [(X[:17], y[:17]), (X[17:20], y[17:20]), (X[20:], y[20:])]
    result = minimize(
        lambda w, batch: (batch[0] @ w - batch[1]).square().mean(), torch.zeros(3, dtype=F64), batches
    )
    torch.testing.assert_close(result.x, torch.linalg.lstsq(X, y).solution, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "bfgs"}, "method must be one of 'auto', 'trust-"),
        ({"gtol": -1.0}, "gtol must be at least 0"),
        ({"gtol": math.nan}, "gtol must be at least 0"),
        ({"ftol": math.inf}, "ftol must be at least 0 and finite"),
        ({"max_iter": -1}, "max_iter must be an integer"),
        ({"max_iter": 2.5}, "max_iter must be an integer"),
        ({"max_hvp": -1}, "max_hvp must not be negative"),
        ({"time_limit": math.nan}, "time_limit must not be negative"),
        ({"check_matvecs": 0}, "check_matvecs must be a positive integer"),
        ({"miss_probability": 0.0}, "miss_probability must lie between"),
        ({"preconditioner": Diagonal(torch.ones(4, dtype=F64))}, "preconditioner must have A's shape"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimize(rosenbrock, START, **arguments)


@pytest.mark.parametrize("start", ["text", [1j], {"a": "b"}, None])
def test_starts_that_are_none(start: Any) -> None:
    with pytest.raises(TypeError, match="x0 must be a tensor"):
        minimize(rosenbrock, start)


def test_integer_tensors_are_not_converted_silently() -> None:
    with pytest.raises(ValueError, match=r"x0 must be of real floating point numbers, got torch.int64"):
        minimize(rosenbrock, torch.tensor([1, 2]))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="initial_radius must be positive"):
        TrustNCG(initial_radius=0.0)


# ---------------------------------------- the limits


def test_no_step_is_made_where_none_is_allowed() -> None:
    result = minimize(rosenbrock, START, max_iter=0)
    assert (result.status, result.nit, result.nfev, result.nhev) == (Ending.MAX_ITER, 0, 1, 0)
    torch.testing.assert_close(result.x, START, rtol=0, atol=0)
    assert not result.success and result.certificate == "undecided"


def test_at_the_minimum_no_step_is_needed() -> None:
    result = minimize(rosenbrock, torch.ones(5, dtype=F64), max_iter=0)
    assert result.success and result.certificate == "minimum" and result.nit == 0


@pytest.mark.parametrize(
    ("limit", "ending"),
    [
        ({"max_iter": 3}, Ending.MAX_ITER),
        ({"max_nfev": 3}, Ending.MAX_NFEV),
        ({"max_hvp": 7}, Ending.MAX_HVP),
        ({"time_limit": 1e-9}, Ending.TIME_LIMIT),
        ({"ftol": 10.0}, Ending.FTOL),
    ],
)
def test_limits(limit: dict[str, Any], ending: Ending) -> None:
    result = minimize(rosenbrock, START, **limit)
    assert result.status is ending and not result.success and result.message == ending.message
    assert result.nfev <= limit.get("max_nfev", math.inf) and result.nhev <= limit.get("max_hvp", math.inf)
    assert result.fun == float(rosenbrock(result.x)) <= float(rosenbrock(START))


def test_what_is_saved_at_a_limit_is_the_best_so_far() -> None:
    whole = minimize(rosenbrock, START).history
    for max_iter in (1, 4, 7):
        assert minimize(rosenbrock, START, max_iter=max_iter).fun == whole[max_iter].fun


def test_callback_is_told_and_may_stop() -> None:
    told = []

    def callback(state: Any) -> bool:
        told.append((state.nit, state.fun))
        assert float(rosenbrock(state.x)) == state.fun
        state.x.zero_()  # its own
        return state.nit == 4

    result = minimize(rosenbrock, START, callback=callback)
    assert result.status is Ending.STOPPED and [nit for nit, _ in told] == [1, 2, 3, 4]
    assert result.fun == told[-1][1] == float(rosenbrock(result.x))


def test_callback_may_stop_as_in_scipy() -> None:
    def callback(intermediate_result: Any) -> None:
        raise StopIteration

    assert minimize(rosenbrock, START, callback=callback).status is Ending.STOPPED


def test_ctrl_c_returns_the_best_so_far() -> None:
    def callback(state: Any) -> None:
        if state.nit == 3:
            os.kill(os.getpid(), signal.SIGINT)

    result = minimize(rosenbrock, START, callback=callback)
    assert result.status is Ending.INTERRUPTED and result.nit == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_ctrl_c_raises() -> None:
    def callback(state: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        minimize(rosenbrock, START, callback=callback)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_the_function_raises_passes_through_and_nothing_is_changed() -> None:
    start, calls = START.clone().requires_grad_(), 0
    state = torch.random.get_rng_state()

    def failing(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 30:
            raise ZeroDivisionError("midway")
        return rosenbrock(x)

    with pytest.raises(ZeroDivisionError, match="midway"):
        minimize(failing, start)
    assert start.grad is None and torch.equal(start.detach(), START)
    assert torch.equal(torch.random.get_rng_state(), state)


# ---------------------------------------- what it says


def test_functions_with_a_wrong_derivative_are_refused() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0] * 3 * ctx.saved_tensors[0].detach() ** 2

    with pytest.raises(DerivativeError):
        minimize(lambda x: Wrong.apply(x).sum(), START)


def test_stagnation_by_rounding_is_told_as_such() -> None:
    # Rounding in f is 2e-6 and hides what is left; the gradient in float32 stays at 1e-4.
    target = torch.linspace(1, 2, 5)
    result = minimize(lambda x: (1000 * (x - target)).square().sum() + 30, torch.zeros(5), gtol=1e-9)
    assert result.status in (Ending.STAGNATED, Ending.CONVERGED)
    torch.testing.assert_close(result.x, target, rtol=1e-6, atol=0)


def test_saddle_found_when_no_step_is_left() -> None:
    result = minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, torch.zeros(2, dtype=F64), max_iter=0)
    assert result.status is Ending.MAX_ITER and result.certificate == "saddle"
    torch.testing.assert_close(result.direction.abs(), torch.tensor([0.0, 1.0], dtype=F64))
    assert result.min_eigenvalue == pytest.approx(-2)


def test_float32() -> None:
    result = minimize(rosenbrock, START.float())
    assert result.success and result.x.dtype == torch.float32
    torch.testing.assert_close(result.x, torch.ones(5), rtol=0, atol=1e-3)


def test_large_problems_are_searched_by_lanczos() -> None:
    d = torch.linspace(1, 30, 300, dtype=F64)
    d[100] = -2.0

    def func(x: Tensor) -> Tensor:
        return (d * x**2).sum() / 2 + (x**4).sum() / 4

    start = torch.ones(300, dtype=F64)
    start[100] = 0.0  # on the ridge
    result = minimize(func, start)
    assert result.success and result.fun == pytest.approx(-1)
    assert abs(float(result.x[100])) == pytest.approx(math.sqrt(2))
    exact = float(torch.linalg.eigvalsh(torch.func.hessian(func)(result.x))[0])
    assert result.min_eigenvalue_bound <= exact <= result.min_eigenvalue + 1e-12


def test_preconditioner_saves_products() -> None:
    d = torch.logspace(0, 5, 200, dtype=F64)

    def func(x: Tensor) -> Tensor:
        return (d * (torch.cosh(x - 1) - 1)).sum()

    plain = minimize(func, torch.zeros(200, dtype=F64), method="trust-ncg")
    fixed = minimize(func, torch.zeros(200, dtype=F64), method="trust-ncg", preconditioner=Diagonal(1 / d))
    moving = minimize(
        func, torch.zeros(200, dtype=F64), method="trust-ncg",
        preconditioner=lambda x: Diagonal(1 / (d * torch.cosh(x - 1))),
    )  # fmt: skip
    assert plain.success and fixed.success and moving.success
    most = max(moving.history[-1].nhev, fixed.history[-1].nhev)
    assert 5 * most < plain.history[-1].nhev


def test_equal_calls_give_equal_bits() -> None:
    d = torch.linspace(-1, 30, 100, dtype=F64)
    results = [
        minimize(lambda x: (d * x**2).sum() + (x**4).sum(), torch.zeros(100, dtype=F64)) for _ in range(2)
    ]
    assert torch.equal(results[0].x, results[1].x) and results[0].nhev == results[1].nhev


def test_valleys_along_which_a_symmetry_leads_are_no_saddles() -> None:
    # The product of two matrices does not change with (U, V) → (U G, V G⁻ᵀ).
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(10, 8, generator=generator, dtype=F64)

    def func(factors: dict[str, Tensor]) -> Tensor:
        return (factors["u"] @ factors["v"].mT - target).square().sum()

    start = {
        "u": torch.randn(10, 2, generator=generator, dtype=F64),
        "v": torch.randn(8, 2, generator=generator, dtype=F64),
    }
    result = minimize(func, start)
    assert result.success and result.certificate == "undecided" and result.direction is None
    best = float(torch.linalg.svdvals(target)[2:].square().sum())
    assert result.fun == pytest.approx(best, rel=1e-12)
    assert abs(result.min_eigenvalue) < 1e-5


def test_the_coarsest_unknown_decides_the_tolerance() -> None:
    x0 = {"a": torch.zeros(2), "b": torch.zeros(2, dtype=F64)}
    result = minimize(lambda x: 1e3 * ((x["a"].double() - 1 / 3) ** 2).sum() + (x["b"] ** 4).sum(), x0)
    assert result.success and 1e-6 < result.gradient_norm <= 1e-3, result.message


@pytest.mark.parametrize("method", ["trust-exact", "trust-ncg", "arc", "newton-cg"])
def test_no_walk_along_the_side_of_a_valley_of_minima(method: str) -> None:
    """Curvature is negative there, but less than the gradient: what lies within its tolerance is taken."""
    result = minimize(lambda x: (x.prod() - 1) ** 2, torch.zeros(2), method=method)
    assert result.success and result.nit <= 10 and result.fun < 1e-6
