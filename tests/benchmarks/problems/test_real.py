"""Problems of statistics: by another hand, at known solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

from benchmarks.problems import REAL
from benchmarks.problems.real import digits, digits_net, factorisation, logistic
from hvplib import check_hvp, scipy_objective


@pytest.mark.parametrize("name", ["logistic regression", "digits net", "matrix factorisation"])
def test_products(name: str) -> None:
    problem = REAL[name]()
    assert problem.name == name and problem.x0.dtype == torch.float64
    noise = torch.randn(problem.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    report = check_hvp(problem.func, problem.x0 + 0.1 * noise)
    assert report.ok, str(report)


def losses(logits: np.ndarray) -> np.ndarray:
    labels = digits()[1].numpy()
    return logsumexp(logits, axis=1) - logits[np.arange(len(labels)), labels]


def test_logistic_in_numpy() -> None:
    problem = logistic(regularisation=2.0)
    theta = np.sin(np.arange(650))
    weight, bias = theta[:640].reshape(10, 64), theta[640:]
    expected = losses(digits()[0].numpy() @ weight.T + bias).sum() + (weight**2).sum()
    assert float(problem.func(torch.from_numpy(theta))) == pytest.approx(expected, rel=1e-13)
    assert problem.minimum is None


def test_net_in_numpy() -> None:
    problem = digits_net(hidden=3, regularisation=0.5)
    theta = problem.x0.numpy()
    w1, b1, w2, b2 = np.split(theta, [192, 195, 225])
    hidden = np.tanh(digits()[0].numpy() @ w1.reshape(3, 64).T + b1)
    expected = losses(hidden @ w2.reshape(10, 3).T + b2).mean() + 0.25 * (theta**2).sum()
    assert float(problem.func(problem.x0)) == pytest.approx(expected, rel=1e-13)


def test_minimum_of_the_logistic_regression() -> None:
    problem = logistic()
    assert float(problem.func(problem.x0)) == pytest.approx(1797 * math.log(10), rel=1e-13)
    f = scipy_objective(problem.func, problem.x0)
    found = minimize(f.fun, f.x0, jac=f.jac, hessp=f.hessp, method="Newton-CG", options={"xtol": 1e-9})
    assert found.fun == pytest.approx(problem.minimum, rel=1e-11)


def test_minimum_of_the_factorisation() -> None:
    problem = factorisation()
    start = problem.x0.numpy()
    f = scipy_objective(problem.func, problem.x0)
    found = minimize(f.fun, start, jac=f.jac, hessp=f.hessp, method="trust-krylov", options={"gtol": 1e-8})
    assert found.fun == pytest.approx(problem.minimum, rel=1e-12)
    hessian = torch.autograd.functional.hessian(problem.func, torch.from_numpy(found.x)).numpy()
    values = np.linalg.eigvalsh(hessian)
    assert np.abs(values[:9]).max() < 1e-6 and values[9] > 0.1  # the flat directions of U A^-T, V A: 3 x 3


def test_zero_is_a_strict_saddle_of_the_factorisation() -> None:
    problem = factorisation(displacement=0.0)
    zero = problem.x0.requires_grad_()
    (gradient,) = torch.autograd.grad(problem.func(zero), zero)
    assert not gradient.any()
    values = np.linalg.eigvalsh(torch.autograd.functional.hessian(problem.func, problem.x0.detach()).numpy())
    # The Hessian at zero has the eigenvalues -s_i and s_i of -M, three times each.
    assert float(problem.func(zero.detach())) == pytest.approx(sum(values[values > 0] ** 2) / 6, rel=1e-12)
    assert values[0] == pytest.approx(-values[-1]) and values[0] < -10
