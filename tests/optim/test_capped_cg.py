from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from torch import Tensor

from hvplib import Diagonal
from hvplib.optim import LineSearchNewtonCG, minimize
from hvplib.optim.capped_cg import _difference, _iterates, capped_conjugate_gradients
from hvplib.optim.ending import Ended, Ending
from tests.optim.points import objective, quadratic

F64 = torch.float64
EPS = 0.1


def matrix(*eigenvalues: float) -> tuple[Tensor, Tensor]:
    """A symmetric matrix, and a gradient that has a part along each of its eigenvectors."""
    n = len(eigenvalues)
    Q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=F64)).Q
    return Q @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ Q.mT, Q @ torch.ones(n, dtype=F64)


@pytest.mark.parametrize("rtol", [0.3, 1e-3, 1e-10])
def test_definite_is_the_damped_newton_step(rtol: float) -> None:
    H, g = matrix(*torch.linspace(0.0, 20, 15).tolist())
    found = capped_conjugate_gradients(quadratic(H, g).start, rtol, eps=EPS, max_iter=30)
    assert found.curvature is None and found.damped
    d = found.d[:, 0]
    damped = H + 2 * EPS * torch.eye(15, dtype=F64)
    assert float((damped @ d + g).norm()) <= rtol * float(g.norm()) * (1 + 1e-8)
    assert float(d @ damped @ d) >= EPS * float(d @ d)
    assert float(g @ d) < 0
    if rtol < 1e-9:
        torch.testing.assert_close(d, -torch.linalg.solve(damped, g), rtol=0, atol=1e-8)


def test_strict_is_as_precise_as_the_reference() -> None:
    H, g = matrix(*torch.linspace(0.0, 20, 15).tolist())
    damped = H + 2 * EPS * torch.eye(15, dtype=F64)
    kappa = (20 + 2 * EPS) / EPS
    norms = []
    for strict in (False, True):
        found = capped_conjugate_gradients(quadratic(H, g).start, 0.3, eps=EPS, max_iter=30, strict=strict)
        norms.append(float((damped @ found.d[:, 0] + g).norm() / g.norm()))
    # The norm seen is at most that of H.
    assert norms[1] <= 1.2 * 0.3 / (3 * kappa) < norms[0] <= 0.3


@pytest.mark.parametrize("least", [-0.15, -0.5, -30.0])
def test_curvature_below_minus_eps_is_found(least: float) -> None:
    H, g = matrix(least, *torch.linspace(0.5, 20, 14).tolist())
    found = capped_conjugate_gradients(quadratic(H, g).start, 1e-12, eps=EPS, max_iter=30)
    d = found.d[:, 0]
    assert found.curvature is not None and found.curvature < -EPS
    assert found.curvature == pytest.approx(float(d @ H @ d), rel=1e-9)
    assert float(d.norm()) == pytest.approx(1, rel=1e-14) and float(g @ d) < 0


def test_weaker_curvature_is_damped() -> None:
    H, g = matrix(-0.05, 1.0, 3.0)
    found = capped_conjugate_gradients(quadratic(H, g).start, 1e-10, eps=EPS, max_iter=30)
    assert found.curvature is None
    torch.testing.assert_close(
        found.d[:, 0], -torch.linalg.solve(H + 2 * EPS * torch.eye(3, dtype=F64), g), rtol=1e-8, atol=0
    )


def test_products_are_counted_and_limited() -> None:
    H, g = matrix(*torch.linspace(1, 2000, 40).tolist())
    problem = quadratic(H, g)
    capped_conjugate_gradients(problem.start, 1e-12, eps=EPS, max_iter=7)
    assert problem.num_matvecs == 8


def test_iterates_are_those_of_conjugate_gradients() -> None:
    """y_j is least in the norm of H over the Krylov space; ∇²f y_j and r_j follow without products."""
    H, g = matrix(*torch.linspace(0.5, 20, 10).tolist())
    damped = H + 2 * EPS * torch.eye(10, dtype=F64)
    krylov = torch.stack([torch.linalg.matrix_power(damped, k) @ g for k in range(4)], dim=1)
    K = torch.linalg.qr(krylov).Q
    state = next(islice(_iterates(H.matmul, g[:, None], EPS), 4, None))
    expected = -K @ torch.linalg.solve(K.mT @ damped @ K, K.mT @ g)
    torch.testing.assert_close(state.y[:, 0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.hy, H @ state.y, rtol=1e-12, atol=1e-13)
    residual = damped @ expected + g
    assert state.sums.rr == pytest.approx(float(residual @ residual), rel=1e-8)
    assert state.sums.hr == pytest.approx(float((H @ residual) @ (H @ residual)), rel=1e-8)
    assert state.sums.norm <= 20 * (1 + 1e-12)


def test_a_difference_of_iterates_shows_the_curvature() -> None:
    """What slow convergence proves: run through again, it is found."""
    H, g = matrix(-3.0, *torch.linspace(0.5, 20, 7).tolist())
    found = _difference(quadratic(H, g).start, EPS, 5)
    assert found is not None and found.curvature is not None and found.curvature < -EPS
    d = found.d[:, 0]
    assert found.curvature == pytest.approx(float(d @ H @ d), rel=1e-6)
    definite, g = matrix(*torch.linspace(0.5, 20, 8).tolist())
    assert _difference(quadratic(definite, g).start, EPS, 5) is None


def test_products_that_are_not_finite_end() -> None:
    problem = objective(lambda x: (x**2).sum() + torch.where(x > 0.5, x, x).sum(), 1.0)
    problem.start.hvp = lambda V: V * math.nan  # type: ignore[method-assign]
    with pytest.raises(Ended) as ended:
        capped_conjugate_gradients(problem.start, 0.1, eps=EPS, max_iter=5)
    assert ended.value.ending is Ending.NON_FINITE


def test_curvature_along_the_gradient_takes_one_product() -> None:
    problem = quadratic(torch.tensor([[-0.15]], dtype=F64), torch.ones(1, dtype=F64))
    found = capped_conjugate_gradients(problem.start, 0.1, eps=EPS, max_iter=5)
    assert found.curvature == pytest.approx(-0.15) and problem.num_matvecs == 1


def test_strict_needs_capped() -> None:
    with pytest.raises(ValueError, match="strict=True is of use with capped=True only"):
        LineSearchNewtonCG(strict=True)


def test_preconditioner_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"preconditioner must be None with LineSearchNewtonCG\(capped=True\)"
    ):
        minimize(
            lambda x: (x**2).sum(),
            torch.ones(2, dtype=F64),
            method=LineSearchNewtonCG(capped=True),
            preconditioner=Diagonal(torch.ones(2, dtype=F64)),
        )


@pytest.mark.parametrize("strict", [False, True])
def test_capped_steps_leave_a_saddle(strict: bool) -> None:
    result = minimize(
        lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4,
        torch.tensor([1.0, 0.0], dtype=F64),
        method=LineSearchNewtonCG(capped=True, strict=strict),
    )
    assert result.success and result.fun == pytest.approx(-0.25)
