from __future__ import annotations

import math

import pytest
from torch import Tensor

from benchmarks.problems.nist import NIST
from hvplib.optim.fit_methods import LevenbergMarquardt
from hvplib.optim.least_squares import least_squares


def digits(got: Tensor, certified: Tensor) -> float:
    return -math.log10(max(float(((got - certified) / certified).abs().max()), 1e-16))


@pytest.mark.parametrize("start", [0, 1], ids=["far", "near"])
@pytest.mark.parametrize("name", sorted(NIST))
def test_nist_certified_values(name: str, start: int) -> None:
    problem = NIST[name]
    result = least_squares(problem.residual, problem.starts[start])
    assert result.success and result.certificate == "minimum"
    assert digits(result.x, problem.parameters) > 6
    assert digits(result.stderr, problem.deviations) > 6
    assert math.isclose(2 * result.cost, problem.residual_sum_of_squares, rel_tol=1e-9)


def test_geodesic_acceleration_saves_steps_along_a_curved_valley() -> None:
    problem = NIST["MGH10"]
    plain, faster = (
        least_squares(problem.residual, problem.starts[1], method=LevenbergMarquardt(acceleration=a))
        for a in (0.0, 0.75)
    )
    assert faster.success and digits(faster.x, problem.parameters) > 6
    assert faster.nit < plain.nit / 3 and faster.nfev < plain.nfev


def test_meyer_spends_a_few_hundred_evaluations() -> None:
    problem = NIST["MGH10"]
    result = least_squares(problem.residual, problem.starts[0])
    assert result.nfev < 400 and result.num_products < 1000
