from __future__ import annotations

import math

import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor

from hvplib.krylov.minres import minres
from hvplib.optim import Ending, minimize
from hvplib.optim.ending import Ended
from hvplib.optim.methods import NewtonMR
from hvplib.optim.newton_mr import minimal_residuals
from tests.optim.points import quadratic, rosenbrock

F64 = torch.float64
START = torch.tensor([-1.2, 1.0, -1.2], dtype=F64)


def matrix(*eigenvalues: float) -> tuple[Tensor, Tensor]:
    """A symmetric matrix, and a gradient that has a part along each of its eigenvectors."""
    n = len(eigenvalues)
    Q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=F64)).Q
    return Q @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ Q.mT, Q @ torch.ones(n, dtype=F64)


def test_iterates_are_those_of_minres_and_scipy() -> None:
    H, g = matrix(*torch.linspace(1, 100, 20).tolist())
    for steps in (1, 3, 7):
        d = minimal_residuals(quadratic(H, g).start, 0.0, max_iter=steps, precondition=None).d
        ours = minres(H.matmul, -g[:, None], rtol=0.0, max_iter=steps)
        torch.testing.assert_close(d, ours.x, rtol=1e-9, atol=1e-12)
        theirs, _ = scipy.sparse.linalg.minres(H.numpy(), -g.numpy(), rtol=1e-30, maxiter=steps)
        torch.testing.assert_close(d[:, 0], torch.from_numpy(theirs), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("rtol", [0.5, 1e-2, 1e-8])
def test_the_tolerance_is_on_the_newton_equations(rtol: float) -> None:
    H, g = matrix(*torch.linspace(1, 100, 30).tolist())
    problem = quadratic(H, g)
    d = minimal_residuals(problem.start, rtol, max_iter=60, precondition=None).d[:, 0]
    assert float((H @ d + g).norm()) <= rtol * float(g.norm()) * (1 + 1e-6)
    assert float(g @ d) < 0 and problem.num_matvecs <= 30


def test_singular_and_inconsistent_ends_without_the_limit() -> None:
    """The part of ∇f outside the range stays in the residual, along which there is no curvature."""
    H, g = matrix(0.0, 0.0, 1.0, 2.0, 3.0, 4.0)
    problem = quadratic(H, g)
    found = minimal_residuals(problem.start, 1e-3, max_iter=60, precondition=None)
    assert problem.num_matvecs <= 6
    assert float((g[:, None] * found.d).sum()) < 0
    residual = g if found.curvature is not None else g + H @ found.d[:, 0]
    assert float((residual - (torch.eye(6, dtype=F64) - H @ torch.linalg.pinv(H)) @ g).norm()) < 2


def test_the_first_residual_without_positive_curvature_is_the_direction() -> None:
    H, g = matrix(-3.0, *torch.linspace(1, 20, 9).tolist())
    problem = quadratic(H, g)
    found = minimal_residuals(problem.start, 1e-10, max_iter=60, precondition=None)
    d = found.d[:, 0]
    assert found.curvature is not None and found.curvature < 0
    assert found.curvature == pytest.approx(float(d @ H @ d), rel=1e-9)
    assert float(d.norm()) == pytest.approx(1, rel=1e-14) and float(g @ d) < 0
    kernel = minres(H.matmul, -g[:, None], rtol=1e-10, max_iter=60)
    assert kernel.direction is not None
    unit = kernel.direction[:, 0] / kernel.direction.norm()
    torch.testing.assert_close(d, unit, rtol=1e-7, atol=1e-9)
    assert problem.num_matvecs < kernel.num_matvecs


def test_a_preconditioner_that_is_the_inverse_takes_one_product() -> None:
    H, g = matrix(*torch.logspace(0, 5, 12).tolist())
    problem, P = quadratic(H, g), torch.linalg.inv(H)
    d = minimal_residuals(problem.start, 1e-6, max_iter=40, precondition=P.matmul).d[:, 0]
    assert problem.num_matvecs == 1
    torch.testing.assert_close(d, -P @ g, rtol=1e-6, atol=1e-9)


def test_broken_ends() -> None:
    H, g = matrix(1.0, 2.0, 3.0)
    with pytest.raises(Ended) as ended:
        minimal_residuals(quadratic(H, g).start, 1e-8, max_iter=9, precondition=lambda R: -R)
    assert ended.value.ending is Ending.INDEFINITE_PRECONDITIONER
    with pytest.raises(Ended) as ended:
        minimal_residuals(quadratic(H, g).start, 1e-8, max_iter=9, precondition=lambda R: R * math.nan)
    assert ended.value.ending is Ending.NON_FINITE


# ---------------------------------------- minimisation


def test_rosenbrock() -> None:
    result = minimize(rosenbrock, START, method="newton-mr")
    assert result.success and result.certificate == "minimum" and result.method == NewtonMR()
    torch.testing.assert_close(result.x, torch.ones(3, dtype=F64), rtol=0, atol=1e-6)
    values = [row.fun for row in result.history]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("start", [(1.0, 0.0), (0.0, 0.0), (1.0, 1e-12)])
def test_saddle_that_minimal_residuals_alone_would_be_drawn_to(start: tuple[float, float]) -> None:
    x0 = torch.tensor(start, dtype=F64)
    result = minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4, x0, method="newton-mr")
    assert result.success and result.fun == pytest.approx(-0.25, abs=1e-12)


def test_slope_without_curvature_and_without_bound() -> None:
    result = minimize(lambda x: (x**4 - x).sum(), torch.zeros(1, dtype=F64), method="newton-mr")
    assert result.success and float(result.x) == pytest.approx(0.25 ** (1 / 3), abs=1e-6)
    fall = minimize(lambda x: x.sum(), torch.zeros(2, dtype=F64), method="newton-mr")
    assert fall.status is Ending.UNBOUNDED and fall.nit < 50


def test_walls_of_nan_single_precision_and_limits() -> None:
    wall = minimize(
        lambda x: (x - torch.log(x)).sum(), torch.tensor([1e-6, 50.0]).double(), method="newton-mr"
    )
    assert wall.success and wall.fun == pytest.approx(2, abs=1e-10)
    single = minimize(rosenbrock, START.float(), method="newton-mr")
    assert single.success and single.x.dtype == torch.float32
    none = minimize(rosenbrock, START, method="newton-mr", max_iter=0)
    assert none.status is Ending.MAX_ITER and none.nit == 0
    few = minimize(rosenbrock, START, method=NewtonMR(max_inner_iter=1), max_hvp=5)
    assert few.status is Ending.MAX_HVP and few.nhev <= 5
