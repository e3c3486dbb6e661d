"""Functions whose gradient and Hessian are known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """A function of one vector (n,), a point, and the derivatives there by formula."""

    name: str
    func: Callable[[Tensor], Tensor]
    point: Tensor
    gradient: Tensor
    hessian: Tensor

    def __str__(self) -> str:
        return self.name


def indefinite_quadratic(n: int = 6) -> Problem:
    """½ xᵀAx + bᵀx with eigenvalues of both signs: A x + b, A."""
    rng = torch.Generator().manual_seed(1)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64))
    a = q @ torch.diag(torch.linspace(-2, 3, n, dtype=torch.float64)) @ q.mT
    a = (a + a.mT) / 2
    b, x = torch.randn(2, n, generator=rng, dtype=torch.float64)
    return Problem("indefinite quadratic", lambda x: x @ a @ x / 2 + b @ x, x, a @ x + b, a)


def rosenbrock(n: int = 5) -> Problem:
    """Σ 100 (x_{i+1} − x_i²)² + (1 − x_i)²; the Hessian is tridiagonal."""
    x = torch.linspace(-1, 1.5, n, dtype=torch.float64)
    gradient, hessian = torch.zeros(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64)
    for i in range(n - 1):
        gradient[i] += -400 * x[i] * (x[i + 1] - x[i] ** 2) - 2 * (1 - x[i])
        gradient[i + 1] += 200 * (x[i + 1] - x[i] ** 2)
        hessian[i, i] += 1200 * x[i] ** 2 - 400 * x[i + 1] + 2
        hessian[i + 1, i + 1] += 200
        hessian[i, i + 1] = hessian[i + 1, i] = -400 * x[i]
    return Problem(
        "rosenbrock",
        lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(),
        x,
        gradient,
        hessian,
    )


def logistic_regression(m: int = 20, n: int = 4) -> Problem:
    """Mean of log(1 + exp(−y aᵀx)): the Hessian is Aᵀ diag(p (1 − p)) A / m."""
    rng = torch.Generator().manual_seed(2)
    a = torch.randn(m, n, generator=rng, dtype=torch.float64)
    y = torch.randint(2, (m,), generator=rng).double() * 2 - 1
    x = torch.randn(n, generator=rng, dtype=torch.float64)
    p = torch.sigmoid(-y * (a @ x))
    return Problem(
        "logistic regression",
        lambda x: torch.nn.functional.softplus(-y * (a @ x)).mean(),
        x,
        -(a.mT @ (y * p)) / m,
        a.mT @ ((p * (1 - p)).unsqueeze(1) * a) / m,
    )


def log_sum_exp(n: int = 5) -> Problem:
    """log Σ exp x: softmax p, and diag(p) − p pᵀ, which is singular along the ones."""
    x = torch.linspace(-1, 2, n, dtype=torch.float64)
    p = torch.softmax(x, 0)
    return Problem("log-sum-exp", lambda x: x.logsumexp(0), x, p, torch.diag(p) - torch.outer(p, p))


def linear(n: int = 3) -> Problem:
    """bᵀx: no curvature at all."""
    b = torch.arange(1.0, n + 1, dtype=torch.float64)
    return Problem("linear", lambda x: b @ x, torch.ones_like(b), b, torch.zeros(n, n, dtype=torch.float64))


def quartic() -> Problem:
    """x⁴ in one variable: 4 x³, 12 x²."""
    x = torch.tensor([2.0], dtype=torch.float64)
    return Problem("quartic", lambda x: (x**4).sum(), x, 4 * x**3, 12 * x.unsqueeze(1) ** 2)


def saddle() -> Problem:
    """x² − y² + y⁴ at its saddle: no gradient, curvature 2 and −2."""
    zero = torch.zeros(2, dtype=torch.float64)
    hessian = torch.diag(torch.tensor([2.0, -2.0], dtype=torch.float64))
    return Problem("saddle", lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, zero, zero, hessian)


PROBLEMS = [
    indefinite_quadratic(),
    rosenbrock(),
    logistic_regression(),
    log_sum_exp(),
    linear(),
    quartic(),
    saddle(),
]
