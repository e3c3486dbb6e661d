"""scipy_objective under scipy.optimize.minimize, and what it costs."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from hvplib import functional_loss, scipy_objective
from tests.problems import logistic_regression, rosenbrock


@pytest.mark.parametrize("method", ["Newton-CG", "trust-ncg", "trust-krylov", "trust-constr"])
def test_methods_find_the_minimum(method: str) -> None:
    problem = rosenbrock(3)
    f = scipy_objective(problem.func, problem.point)
    options = {"xtol": 1e-12} if method == "Newton-CG" else {"gtol": 1e-8}
    result = minimize(f.fun, f.x0, jac=f.jac, hessp=f.hessp, method=method, options=options)
    np.testing.assert_allclose(result.x, np.ones(3), atol=1e-6)
    torch.testing.assert_close(f.unravel(result.x), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)


def test_value_gradient_and_product_are_right() -> None:
    problem = logistic_regression()
    f = scipy_objective(problem.func, problem.point)
    x, p = f.x0, np.arange(1.0, 5.0)
    assert isinstance(f.fun(x), float)
    np.testing.assert_allclose(f.fun(x), float(problem.func(problem.point)), rtol=1e-14)
    np.testing.assert_allclose(f.jac(x), problem.gradient.numpy(), rtol=1e-12)
    np.testing.assert_allclose(f.hessp(x, p), problem.hessian.numpy() @ p, rtol=1e-12)
    np.testing.assert_allclose(f.operator(x) @ p, f.hessp(x, p))


def test_one_linearisation_per_point() -> None:
    evaluations = []

    def func(x: Tensor) -> Tensor:
        evaluations.append(1)
        return (x**4).sum()

    f = scipy_objective(func, torch.ones(3, dtype=torch.float64))
    at_start = len(evaluations)
    f.fun(f.x0), f.jac(f.x0), f.hessp(f.x0, f.x0), f.hessp(f.x0, 2 * f.x0)
    assert len(evaluations) == at_start
    x = f.x0 + 1
    f.fun(x), f.jac(x.copy()), f.hessp(x, x)
    assert len(evaluations) == at_start + 1
    x += 1  # a caller may reuse its array
    assert f.fun(x) == 3 * 3.0**4
    assert (f.num_points, f.num_matvecs) == (3, 3)


def test_a_new_point_releases_the_old_one() -> None:
    f = scipy_objective(lambda x: (x**4).sum(), torch.ones(3))
    old = weakref.ref(f.operator(f.x0))
    gc.disable()
    try:
        f.fun(f.x0 + 1)
        assert old() is None
    finally:
        gc.enable()


def test_the_old_linearisation_goes_before_the_new_one_comes() -> None:
    alive = []

    def func(x: Tensor) -> Tensor:
        alive.append(old is not None and old() is not None)
        return (x**4).sum()

    old: weakref.ref[Any] | None = None
    f = scipy_objective(func, torch.ones(3))
    old = weakref.ref(f.operator(f.x0))
    f.fun(f.x0 + 1)
    assert not any(alive)


def test_float32_functions_of_trees() -> None:
    target = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3.0)}

    def func(p: dict[str, Tensor]) -> Tensor:
        return sum(((p[k] - target[k]) ** 2).sum() for k in target)  # type: ignore[return-value]

    f = scipy_objective(func, {"a": torch.zeros(1, 2), "b": torch.tensor(0.0)})
    assert f.x0.dtype == np.float64 and f.jac(f.x0).dtype == np.float64
    assert f.hessp(f.x0, np.ones(3)).dtype == np.float64
    result = minimize(f.fun, f.x0, jac=f.jac, hessp=f.hessp, method="trust-krylov", options={"gtol": 1e-5})
    answer = f.unravel(result.x)
    assert answer["a"].dtype == torch.float32
    torch.testing.assert_close(answer, target)


@pytest.mark.parametrize("budget", ["auto", 0])
def test_a_module_over_batches(budget: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 2, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0]], dtype=torch.float64) + 0.5
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    model = nn.Linear(2, 1).double()
    loss, theta = functional_loss(model, nn.MSELoss())
    f = scipy_objective(loss, theta, data, memory_budget=budget)
    result = minimize(f.fun, f.x0, jac=f.jac, hessp=f.hessp, method="trust-ncg", options={"gtol": 1e-10})
    answer = f.unravel(result.x)
    np.testing.assert_allclose(answer["weight"].numpy(), [[1, -2]], atol=1e-8)
    np.testing.assert_allclose(answer["bias"].numpy(), [0.5], atol=1e-8)
    model.load_state_dict(answer)


def test_a_function_without_kept_graph_is_verified_at_every_point() -> None:
    f = scipy_objective(lambda x: (x**4).sum(), torch.ones(2), strategy="forward-over-reverse")
    np.testing.assert_allclose(f.hessp(f.x0 + 1, np.ones(2)), [48, 48], rtol=1e-6)
