"""SciPy's solvers take a Hessian as it is, and find what dense linear algebra finds."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from torch import nn

from hvplib import HessianOperator, Matrix, hessian
from tests.problems import indefinite_quadratic, logistic_regression


@pytest.fixture(params=["closed form", "network"])
def case(request: pytest.FixtureRequest) -> tuple[HessianOperator, np.ndarray]:
    """A Hessian in float64 beside its dense matrix, by formula or by the dense path."""
    if request.param == "closed form":
        problem = indefinite_quadratic(12)
        return HessianOperator(problem.func, problem.point), problem.hessian.numpy()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    shapes = {"a": (4, 3), "b": (4,), "c": (4,)}
    point = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}

    def loss(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((x @ p["a"].mT + p["b"]).tanh() @ p["c"] - 1).square().mean()

    operator = HessianOperator(loss, point)
    space = operator.domain
    assert space is not None
    dense = hessian(lambda v: loss(space.unflatten(v)))(space.flatten(point))
    return operator, dense.numpy()


def test_eigsh(case: tuple[HessianOperator, np.ndarray]) -> None:
    operator, dense = case
    exact = np.linalg.eigvalsh(dense)
    for which, expected in (("LA", exact[-3:]), ("SA", exact[:3])):
        values, vectors = sla.eigsh(operator, k=3, which=which, tol=1e-12)
        np.testing.assert_allclose(np.sort(values), expected, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(operator @ vectors, vectors * values, atol=1e-9 * abs(exact).max())
    largest = exact[np.argsort(-abs(exact))[:2]]
    np.testing.assert_allclose(
        np.sort(sla.eigsh(operator, k=2, return_eigenvectors=False)), np.sort(largest), rtol=1e-9
    )


def test_lobpcg(case: tuple[HessianOperator, np.ndarray]) -> None:
    operator, dense = case
    start = np.random.default_rng(0).standard_normal((operator.shape[0], 2))
    values, _ = sla.lobpcg(operator, start, largest=True, maxiter=400, tol=1e-8)
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(dense)[-2:], rtol=1e-7)


def test_svds(case: tuple[HessianOperator, np.ndarray]) -> None:
    operator, dense = case
    _, values, _ = sla.svds(operator, k=2, tol=1e-10, v0=np.ones(operator.shape[0]))
    np.testing.assert_allclose(np.sort(values), np.linalg.svd(dense)[1][1::-1], rtol=1e-8)


def test_svds_of_a_rectangular_operator() -> None:
    matrix = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, values, _ = sla.svds(Matrix(matrix), k=2, v0=np.ones(5))
    np.testing.assert_allclose(np.sort(values), np.linalg.svd(matrix.numpy())[1][1::-1], rtol=1e-10)


@pytest.mark.parametrize("solver", ["cg", "minres", "gmres"])
def test_linear_solves(solver: str) -> None:
    problem = logistic_regression()
    operator = HessianOperator(problem.func, problem.point).shifted(0.1)
    matrix = problem.hessian + 0.1 * torch.eye(4, dtype=torch.float64)
    b = np.arange(1.0, 5.0)
    x, info = getattr(sla, solver)(operator, b, rtol=1e-12)
    assert info == 0
    np.testing.assert_allclose(x, np.linalg.solve(matrix.numpy(), b), rtol=1e-8)
    np.testing.assert_allclose(operator @ x, b, rtol=1e-8)


def test_minres_on_an_indefinite_hessian(case: tuple[HessianOperator, np.ndarray]) -> None:
    operator, dense = case
    b = dense @ np.ones(len(dense))
    x, _ = sla.minres(operator, b, rtol=1e-13, maxiter=2000)
    assert np.linalg.norm(dense @ x - b) < 1e-7 * np.linalg.norm(b)


def test_an_operator_of_ours_preconditions() -> None:
    problem = logistic_regression()
    operator = HessianOperator(problem.func, problem.point).shifted(0.1)
    inverse = Matrix(torch.linalg.inv(problem.hessian + 0.1 * torch.eye(4, dtype=torch.float64)))
    x, info = sla.cg(operator, np.ones(4), M=inverse, rtol=1e-10, maxiter=3)
    assert info == 0
    np.testing.assert_allclose(operator @ x, np.ones(4), rtol=1e-8)


def test_aslinearoperator_returns_it(case: tuple[HessianOperator, np.ndarray]) -> None:
    assert sla.aslinearoperator(case[0]) is case[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_parameters_work_with_solvers_that_pass_float64(dtype: torch.dtype) -> None:
    scales = torch.arange(1.0, 9.0)
    operator = HessianOperator(lambda x: (scales.to(dtype) * x**2).sum() / 2, torch.ones(8, dtype=dtype))
    assert operator.dtype == np.float32
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    values = sla.eigsh(operator, k=2, tol=tolerance / 10, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), [7, 8], rtol=tolerance)
    x, info = sla.cg(operator, np.ones(8), rtol=tolerance)
    assert info == 0 and x.dtype == np.float64
    np.testing.assert_allclose(x, 1 / scales.numpy(), rtol=10 * tolerance)


def test_a_module_under_eigsh() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    data = [(torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))) for _ in range(2)]
    operator = HessianOperator.from_module(model, nn.CrossEntropyLoss(), data)
    exact = torch.linalg.eigvalsh(operator.to_dense()).numpy()
    values = sla.eigsh(operator, k=3, which="LA", tol=1e-10, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values), exact[-3:], rtol=1e-8)
