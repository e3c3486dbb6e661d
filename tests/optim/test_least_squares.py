from __future__ import annotations

import math
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from scipy.optimize import OptimizeResult
from torch import Tensor

from hvplib.errors import OutputError
from hvplib.optim.ending import Ending
from hvplib.optim.fit_methods import FitMethod, GaussNewton, LevenbergMarquardt
from hvplib.optim.least_squares import least_squares

F64 = torch.float64
METHODS: dict[str, FitMethod] = {
    "lm": LevenbergMarquardt(),
    "accelerated": LevenbergMarquardt(acceleration=0.75),
    "gn": GaussNewton(),
    "lm by products": LevenbergMarquardt(dense_size=0),
    "gn by products": GaussNewton(dense_size=0),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


A, b = normal(30, 4, seed=1), normal(30, seed=2)
ZERO = torch.zeros(4, dtype=F64)


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def rosenbrock(x: Tensor) -> Tensor:
    return torch.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


T = torch.linspace(0, 2, 40, dtype=F64)
Y = 3 * torch.exp(-1.5 * T) + 0.05 * normal(40, seed=3)


def decay(x: Tensor) -> Tensor:
    return x[0] * torch.exp(-x[1] * T) - Y


def digits(got: Tensor, certified: Tensor) -> float:
    return -math.log10(max(float(((got - certified) / certified).abs().max()), 1e-16))


# ------------------------------------------------------------------------------------- linear least squares


@each_method
def test_linear(method: FitMethod) -> None:
    result = least_squares(lambda x: A @ x - b, ZERO, method=method)
    expected = torch.linalg.lstsq(A, b).solution
    assert result.success and result.certificate == "minimum" and result.status is Ending.CONVERGED
    assert (result.x - expected).norm() < 1e-13
    r = A @ expected - b
    assert abs(result.cost - float(r @ r) / 2) < 1e-13
    assert (result.fun - r).norm() < 1e-12
    assert (result.grad - A.mT @ result.fun).norm() < 1e-12
    assert result.optimality == float(result.grad.abs().max())


@pytest.mark.parametrize("name", ["gn", "lm by products", "gn by products"])
def test_least_norm_of_a_rank_deficient_problem(name: str) -> None:
    B = torch.cat([A, 1e3 * A[:, :1] + A[:, 1:2]], dim=1)
    result = least_squares(lambda x: B @ x - b, torch.zeros(5, dtype=F64), method=METHODS[name])
    assert result.success
    assert (result.x - torch.linalg.pinv(B) @ b).norm() < 1e-10


@each_method
def test_rank_deficient_reaches_the_least_residual(method: FitMethod) -> None:
    B = torch.cat([A, A[:, :1]], dim=1)
    result = least_squares(lambda x: B @ x - b, torch.zeros(5, dtype=F64), method=method)
    r = A @ torch.linalg.lstsq(A, b).solution - b
    assert result.success and abs(result.cost - float(r @ r) / 2) < 1e-12
    with pytest.raises(ValueError, match=r"rank 4 .* 5 unknowns|computed whole"):
        result.covariance()


@each_method
def test_more_unknowns_than_residuals(method: FitMethod) -> None:
    result = least_squares(lambda x: A.mT @ x - b[:4], torch.zeros(30, dtype=F64), method=method)
    assert result.success and result.certificate == "minimum" and result.cost < 1e-26
    if not (isinstance(method, LevenbergMarquardt) and method.dense_size):
        assert (result.x - torch.linalg.pinv(A.mT) @ b[:4]).norm() < 1e-12
    with pytest.raises(ValueError, match=r"m=4 and n=30|computed whole"):
        result.covariance()


@each_method
def test_start_at_the_solution(method: FitMethod) -> None:
    result = least_squares(lambda x: A @ x - b, torch.linalg.lstsq(A, b).solution, method=method)
    assert result.success and result.nit <= 1


def test_columns_of_very_different_size() -> None:
    scale = 10.0 ** vector(-8, 0, 4, 10)
    result = least_squares(lambda x: (A * scale) @ x - b, ZERO)
    expected = torch.linalg.lstsq(A, b).solution / scale
    assert result.success and digits(result.x, expected) > 12
    assert digits(result.stderr * scale, least_squares(lambda x: A @ x - b, ZERO).stderr) > 12


# ----------------------------------------------------------------------------------- nonlinear least squares


@each_method
def test_rosenbrock(method: FitMethod) -> None:
    result = least_squares(rosenbrock, vector(-1.2, 1), method=method)
    assert result.success and result.certificate == "minimum"
    assert (result.x - 1).abs().max() < 1e-8 and result.cost < 1e-16


@each_method
def test_agrees_with_scipy(method: FitMethod) -> None:
    result = least_squares(decay, vector(1, 0), method=method)
    other = scipy.optimize.least_squares(
        lambda x: decay(torch.from_numpy(x)).numpy(),
        [1, 0],
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        x_scale="jac",
    )
    assert result.success and result.certificate == "minimum"
    assert np.abs(result.x.numpy() - other.x).max() < 1e-7
    assert abs(result.cost - other.cost) < 1e-13


def test_statistics_agree_with_curve_fit() -> None:
    result = least_squares(decay, np.array([1.0, 0.0]))
    x, covariance = scipy.optimize.curve_fit(
        lambda t, c, k: c * np.exp(-k * t), T.numpy(), Y.numpy(), [1, 0], xtol=1e-14, ftol=1e-14
    )
    assert np.allclose(result.covariance(), covariance, rtol=1e-5)
    assert np.allclose(result.stderr, np.sqrt(np.diag(covariance)), rtol=1e-5)
    assert np.allclose(result.x, x, rtol=1e-7)


def test_one_parameter() -> None:
    result = least_squares(lambda x: torch.exp(x) - vector(1, 2, 4), vector(0))
    assert result.success and abs(float(result.x.exp()) - 7 / 3) < 1e-8


def test_column_of_j_that_vanishes_at_the_minimum() -> None:
    result = least_squares(lambda x: 2 * x.cos() + 5, vector(1.0))
    assert result.success and result.certificate == "minimum" and abs(float(result.x) - math.pi) < 1e-7


@pytest.mark.parametrize("name", ["lm", "gn", "lm by products", "gn by products"])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_single_precision(name: str, noise: float) -> None:
    y = (3 * torch.exp(-1.5 * T) + noise * normal(40, seed=3)).float()
    t = T.float()
    result = least_squares(
        lambda x: x[0] * torch.exp(-x[1] * t) - y, torch.tensor([1.0, 0.0]), method=METHODS[name]
    )
    expected = least_squares(lambda x: x[0] * torch.exp(-x[1] * T) - y.double(), vector(1, 0)).x
    assert result.success and result.x.dtype == torch.float32
    assert (result.x - expected).abs().max() < 2e-4


def test_large_problem_by_products() -> None:
    n = 2000
    result = least_squares(
        lambda x: torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]]), torch.full((n,), 0.5, dtype=F64)
    )
    assert result.success and result.cost < 1e-12 and result.jac is None
    assert (result.x - 1).abs().max() < 1e-6
    with pytest.raises(ValueError, match=r"3998 x 2000, and dense_size is 300"):
        result.covariance()


# ------------------------------------------------------------------------------------------- honest endings


@each_method
@pytest.mark.parametrize(
    ("residual", "x0", "cost"),
    [
        (lambda x: (x[0] * x[1] - 1)[None], (0.0, 0.0), 0.0),  # a saddle
        (lambda x: x**2 - 1, (0.0,), 0.0),  # a maximum
        (lambda x: x[0] ** 2 - x[1:] ** 2 - 1, (0.0, 0.0), 0.0),
        (lambda x: torch.stack([x[0], x[1] ** 2 - 2]), (1.0, 0.0), 0.0),  # Gauss-Newton falls into the saddle
        (lambda x: 2 * x.cos() + 5, (0.0,), 4.5),
        (lambda x: x**3 + 1, (0.0,), 0.0),  # flat, and lower to the left
    ],
)
def test_stationary_points_that_are_no_minima_are_left(
    residual: Callable[[Tensor], Tensor], x0: tuple[float, ...], cost: float, method: FitMethod
) -> None:
    result = least_squares(residual, vector(*x0), method=method)
    assert result.success and abs(result.cost - cost) < 1e-12


class OnceDifferentiable(torch.autograd.Function):
    """x², whose backward cannot be differentiated: J is right, and the Hessian has to do with differences."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grad

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * tangent


@pytest.mark.parametrize("start", [1.0, 0.0], ids=["away", "at the maximum"])
def test_second_derivative_that_torch_lacks_is_taken_by_differences(start: float) -> None:
    def residual(x: Tensor) -> Tensor:
        return torch.cat([OnceDifferentiable.apply(x), x]) - torch.tensor([3.0, 0.0], dtype=F64)

    result = least_squares(residual, vector(start))
    # (x² − 3)² + x² is least where 2 x² = 5.
    assert result.success and result.certificate == "minimum"
    assert abs(float(result.x) ** 2 - 2.5) < 1e-6 and abs(result.cost - (0.25 + 2.5) / 2) < 1e-12


@each_method
def test_degenerate_minimum_is_not_called_more_than_it_is(method: FitMethod) -> None:
    result = least_squares(lambda x: torch.cat([torch.ones(1, dtype=F64), x**2]), vector(1.0), method=method)
    assert result.success and result.certificate == "undecided" and abs(float(result.x)) < 1e-2


@each_method
def test_trial_points_that_are_not_finite_are_backed_off_from(method: FitMethod) -> None:
    result = least_squares(lambda x: torch.log(x) + 5, vector(4.0), method=method)
    assert result.success and abs(float(result.x) - math.exp(-5)) < 1e-9
    result = least_squares(lambda x: torch.sqrt(x) - 0.1, vector(1.0), method=method)
    assert result.success and abs(float(result.x) - 0.01) < 1e-9


@each_method
def test_start_that_is_not_finite(method: FitMethod) -> None:
    result = least_squares(torch.log, vector(-1.0), method=method)
    assert result.status is Ending.NON_FINITE and not result.success and float(result.x) == -1


@pytest.mark.parametrize("name", ["lm", "gn"])
def test_unknown_that_runs_off_is_told(name: str) -> None:
    result = least_squares(lambda x: torch.exp(-x) + 1, vector(1.0), method=METHODS[name])
    assert result.status is Ending.UNBOUNDED and not result.success and "ran off" in result.message


def test_jump_is_told() -> None:
    result = least_squares(lambda x: torch.where(x > 1, x + 2, x - 9), vector(3.0), method="gauss-newton")
    assert not result.success and result.status is Ending.NOT_SMOOTH and "jump" in result.message
    result = least_squares(lambda x: torch.where(x > 1, x + 2, x - 9), vector(3.0))
    assert not result.success and abs(float(result.x) - 1) < 1e-8


def test_rounding_that_hides_the_rest_is_measured() -> None:
    # The residual is a small difference of large numbers: its angle with J comes to no 1e-8.
    result = least_squares(lambda x: (4e9 + A @ x) - (4e9 + b), ZERO)
    expected = torch.linalg.lstsq(A, b).solution
    assert result.success and (result.x - expected).norm() < 1e-4
    assert result.orthogonality > 1.5e-8


@each_method
def test_no_steps_allowed(method: FitMethod) -> None:
    result = least_squares(decay, vector(1, 0), method=method, max_iter=0)
    assert result.status is Ending.MAX_ITER and not result.success and result.nit == 0
    assert torch.equal(result.x, vector(1, 0)) and torch.equal(result.fun, decay(vector(1, 0)))


@pytest.mark.parametrize(
    ("limit", "ending"),
    [
        ({"max_nfev": 3}, Ending.MAX_NFEV),
        ({"max_products": 7}, Ending.MAX_HVP),
        ({"max_products": 0}, Ending.MAX_HVP),
        ({"max_iter": 2}, Ending.MAX_ITER),
        ({"time_limit": 0.0}, Ending.TIME_LIMIT),
        ({"ftol": 1.0}, Ending.FTOL),
    ],
)
@each_method
def test_limits(limit: dict[str, Any], ending: Ending, method: FitMethod) -> None:
    result = least_squares(rosenbrock, vector(-1.2, 1), method=method, **limit)
    assert result.status is ending and not result.success
    assert result.nfev <= limit.get("max_nfev", 100)
    assert result.num_products <= limit.get("max_products", 200)
    name = next(iter(limit)).replace("time_limit", "time limit")
    assert name in result.message


def test_products_are_counted() -> None:
    result = least_squares(decay, vector(1, 0))
    assert result.num_products == 2 * result.njev + result.nhev + 0
    assert result.nhev >= 2 and result.njev == result.nit + 1 and result.nfev >= result.njev
    assert len(result.history) == result.nit + 1 and result.history[-1].fun == result.cost


def test_callback_sees_each_step_and_may_stop() -> None:
    seen: list[OptimizeResult] = []

    def callback(told: OptimizeResult) -> bool:
        seen.append(told)
        return told.nit == 3

    result = least_squares(rosenbrock, vector(-1.2, 1), callback=callback)
    assert result.status is Ending.STOPPED and [told.nit for told in seen] == [1, 2, 3]
    assert seen[-1].cost == result.cost and torch.equal(seen[-1].x, result.x)

    def stop(told: OptimizeResult) -> None:
        raise StopIteration

    assert least_squares(rosenbrock, vector(-1.2, 1), callback=stop).status is Ending.STOPPED


def test_interrupt_returns_the_best_so_far() -> None:
    handler = signal.getsignal(signal.SIGINT)

    def callback(told: OptimizeResult) -> None:
        if told.nit == 2:
            os.kill(os.getpid(), signal.SIGINT)

    result = least_squares(rosenbrock, vector(-1.2, 1), callback=callback)
    assert result.status is Ending.INTERRUPTED and result.nit == 2
    assert signal.getsignal(signal.SIGINT) is handler


def test_residual_that_raises_midway_leaves_everything() -> None:
    told = []
    x0 = vector(-1.2, 1).requires_grad_()

    def residual(x: Tensor) -> Tensor:
        torch.rand(2)
        if len(told) > 2:
            raise KeyError("mine")
        return rosenbrock(x)

    before = torch.get_rng_state()
    with pytest.raises(KeyError, match="mine"):
        least_squares(residual, x0, callback=told.append)
    assert torch.equal(torch.get_rng_state(), before)
    assert x0.grad is None and torch.equal(x0.detach(), vector(-1.2, 1))


def test_noise_is_the_same_for_the_jacobian_and_the_hessian() -> None:
    torch.manual_seed(6)
    before = torch.get_rng_state()
    result = least_squares(lambda x: torch.nn.functional.dropout(A @ x, 0.5) - b, ZERO)
    J = result.jac
    assert result.success and (J == 0).all(dim=1).any() and torch.equal(torch.get_rng_state(), before)
    scale = J.norm(dim=0)
    values, vectors = torch.linalg.eigh(J.mT @ J / torch.outer(scale, scale))
    d = vectors[:, 0] / scale
    assert math.isclose(result.min_eigenvalue, float((J @ d).norm() / d.norm()) ** 2, rel_tol=1e-10)
    assert math.isclose(float(values[0]), float((J @ d).norm()) ** 2, rel_tol=1e-10)


# ------------------------------------------------------------------------------------------ what is given in


def test_arrays_in_arrays_out() -> None:
    result = least_squares(rosenbrock, np.array([-1.2, 1.0]))
    for value, shape in ((result.x, (2,)), (result.grad, (2,)), (result.fun, (2,)), (result.jac, (2, 2))):
        assert isinstance(value, np.ndarray) and value.shape == shape and value.dtype == np.float64
    assert np.allclose(result.jac, [[-20, 10], [-1, 0]])
    assert isinstance(least_squares(decay, np.array([1.0, 0.0])).covariance(), np.ndarray)


def test_lists_of_integers() -> None:
    assert np.allclose(least_squares(rosenbrock, [-1, 2]).x, 1)
    with pytest.raises(ValueError, match=r"x0 must be of real floating point numbers, got torch.int64"):
        least_squares(rosenbrock, torch.tensor([-1, 2]))


def test_pytrees() -> None:
    def residual(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"fit": p["scale"] * torch.exp(-p["rates"][0] * T) - Y, "prior": 0.1 * p["rates"]}

    result = least_squares(residual, {"scale": torch.tensor(1.0, dtype=F64), "rates": vector(0)})
    flat = least_squares(lambda x: torch.cat([decay(x), 0.1 * x[1:]]), vector(1, 0))
    assert result.x["scale"].shape == () and result.fun["prior"].shape == (1,)
    for got, expected in ((result.x, flat.x), (result.stderr, flat.stderr)):
        assert (torch.stack([got["scale"], got["rates"][0]]) - expected).norm() < 1e-12


def test_tuple_of_arguments() -> None:
    result = least_squares(
        lambda c, k: c * torch.exp(-k * T) - Y, (torch.ones((), dtype=F64), torch.zeros((), dtype=F64))
    )
    expected = least_squares(decay, vector(1, 0)).x
    assert abs(result.x[0] - expected[0]) < 1e-12 and abs(result.x[1] - expected[1]) < 1e-12


def test_mixed_dtypes_keep_their_own() -> None:
    start = (torch.ones((), dtype=torch.float32), torch.zeros((), dtype=F64))
    result = least_squares(lambda c, k: c * torch.exp(-k * T) - Y, start)
    assert result.success and result.x[0].dtype == torch.float32 and result.x[1].dtype == F64
    assert abs(float(result.x[1]) - float(least_squares(decay, vector(1, 0)).x[1])) < 2e-4


@pytest.mark.parametrize("x0", [vector(1, 0), np.array([1.0, 0.0])], ids=["tensor", "array"])
def test_result_can_be_pickled(x0: Any) -> None:
    result = least_squares(decay, x0)
    again = pickle.loads(pickle.dumps(result))
    assert type(again.stderr) is type(result.stderr) and (again.stderr == result.stderr).all()
    assert again.status is Ending.CONVERGED and (again.x == result.x).all()


@pytest.mark.parametrize("bound", [1e-3, 0.75])
def test_bound_on_the_acceleration_makes_steps_shorter(bound: float) -> None:
    result = least_squares(rosenbrock, vector(-1.2, 1), method=LevenbergMarquardt(acceleration=bound))
    assert result.success and (result.nit > 50) == (bound < 0.1)


def test_start_is_not_written_to() -> None:
    x0 = vector(-1.2, 1)
    result = least_squares(rosenbrock, x0)
    assert torch.equal(x0, vector(-1.2, 1))
    result.x.zero_()
    assert torch.equal(x0, vector(-1.2, 1))


def test_equal_calls_give_equal_bits() -> None:
    first, again = (least_squares(decay, vector(1, 0), method=METHODS["lm by products"]) for _ in range(2))
    assert torch.equal(first.x, again.x) and first.min_eigenvalue == again.min_eigenvalue


def test_units_of_the_residual_do_not_matter() -> None:
    plain, tiny = (least_squares(lambda x, s=s: s * decay(x), vector(1, 0)) for s in (1.0, 1e-12))
    assert tiny.success and tiny.nit == plain.nit and (tiny.x - plain.x).norm() < 1e-9


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "lm"}, "method must be one of 'levenberg-marquardt', 'gauss-newton'"),
        ({"gtol": -1.0}, "gtol must be at least 0 and finite, got -1.0"),
        ({"ftol": math.nan}, "ftol must be at least 0 and finite, got nan"),
        ({"max_iter": -1}, "max_iter must be an integer, at least 0, got -1"),
        ({"max_nfev": -1}, "max_nfev must not be negative, got -1"),
        ({"max_products": -1}, "max_products must not be negative, got -1"),
        ({"check_matvecs": 0}, "check_matvecs must be a positive integer, got 0"),
        ({"miss_probability": 1.0}, "miss_probability must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        least_squares(decay, vector(1, 0), **arguments)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LevenbergMarquardt(initial_radius=0.0), "initial_radius must be positive"),
        (lambda: LevenbergMarquardt(acceleration=-1.0), "acceleration must not be negative"),
        (lambda: GaussNewton(dense_size=-1), "dense_size must not be negative"),
        (lambda: GaussNewton(max_cg_iter=0), "max_cg_iter must be at least 1"),
    ],
)
def test_bad_settings(make: Callable[[], FitMethod], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_bad_residuals() -> None:
    with pytest.raises(OutputError, match="must return a pytree of real floating point tensors"):
        least_squares(lambda x: 3.0, vector(1, 0))
    with pytest.raises(TypeError, match="x0 must be"):
        least_squares(decay, "start")


def test_no_covariance_without_a_jacobian_at_the_end() -> None:
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    result = least_squares(
        lambda x: torch.exp(x[0] * t) + x[1] - 3 * t, torch.zeros(2).double(), max_products=1
    )
    with pytest.raises(ValueError, match="the run ended before it was computed at x"):
        result.covariance()
