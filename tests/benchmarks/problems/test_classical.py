"""The classical problems: values by another hand, published numbers, derivatives and minima."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks.problems import CLASSICAL, Minimisation, indef
from benchmarks.problems.small import helix, kowosb
from hvplib import check_hvp, scipy_objective
from tests.benchmarks.problems.loops import LOOPS

MAKERS: dict[str, Callable[[], Minimisation]] = {**CLASSICAL, "INDEF": indef}

# SciPy's trust-krylov spins on BROWNBS, and nobody solves MEYER3 from its start: see the tests of those.
BY_SCIPY = sorted(set(CLASSICAL) - {"BROWNBS", "MEYER3"})


def nearby(problem: Minimisation, seed: int = 0) -> torch.Tensor:
    """A point whose entries differ from the start's by about a tenth of their size, or a tenth."""
    noise = torch.randn(problem.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return problem.x0 + 0.1 * noise * torch.where(problem.x0 == 0, 1.0, problem.x0.abs())


def test_twenty_named_problems() -> None:
    assert len(CLASSICAL) == 20 and set(STARTS) == set(MAKERS)


# From the papers, written out.
STARTS: dict[str, list[float]] = {
    "ROSENBR": [-1.2, 1],
    "BEALE": [1, 1],
    "HELIX": [-1, 0, 0],
    "KOWOSB": [0.25, 0.39, 0.415, 0.39],
    "OSBORNEA": [0.5, 1.5, -1, 0.01, 0.02],
    "MEYER3": [0.02, 4000, 250],
    "HIMMELBG": [0.5, 0.5],
    "BROWNBS": [1, 1],
    "GENROSE": [i / 501 for i in range(1, 501)],
    "WOODS": [-3, -1] * 2000,
    "NONDIA": [-1] * 5000,
    "ARWHEAD": [1] * 5000,
    "BDQRTIC": [1] * 1000,
    "CRAGGLVY": [1, *[2] * 999],
    "LIARWHD": [4] * 5000,
    "ENGVAL1": [2] * 5000,
    "TRIDIA": [1] * 1000,
    "DIXMAANB": [2] * 3000,
    "MSQRTALS": [0.2 * math.sin(k * k) for k in range(1, 530)],
    "FREUROTH": [0.5, -2, *[0] * 4998],
    "INDEF": [i / 1001 for i in range(1, 1001)],
}


@pytest.mark.parametrize("name", MAKERS)
def test_standard_start(name: str) -> None:
    np.testing.assert_allclose(MAKERS[name]().x0.numpy(), STARTS[name], rtol=1e-15)


@pytest.mark.parametrize("name", MAKERS)
def test_value_as_in_loops(name: str) -> None:
    problem = MAKERS[name]()
    assert problem.name == name and problem.x0.dtype == torch.float64
    for x in (problem.x0, nearby(problem)):
        value = problem.func(x)
        assert value.shape == ()
        assert float(value) == pytest.approx(LOOPS[name](x.tolist()), rel=1e-12)


@pytest.mark.parametrize("name", MAKERS)
def test_value_at_the_start_as_published(name: str) -> None:
    problem = MAKERS[name]()
    if problem.start_value is None:
        assert name in {"OSBORNEA", "MEYER3", "NONDIA", "CRAGGLVY", "INDEF"}, "held by the loops alone"
    else:
        assert float(problem.func(problem.x0)) == pytest.approx(problem.start_value, rel=1e-9)


@pytest.mark.parametrize("name", MAKERS)
def test_gradient_against_differences_of_the_loops(name: str) -> None:
    problem = MAKERS[name]()
    x = nearby(problem).requires_grad_()
    (gradient,) = torch.autograd.grad(problem.func(x), x)
    scale = torch.where(x == 0, 1.0, x.detach().abs())
    for seed in (1, 2):
        direction = scale * (nearby(problem, seed) - problem.x0).sign()
        step = 1e-4
        plus, minus = (LOOPS[name]((x.detach() + s * direction).tolist()) for s in (step, -step))
        size = float((gradient * direction).abs().sum())
        assert float(gradient @ direction) == pytest.approx((plus - minus) / (2 * step), abs=1e-5 * size)


@pytest.mark.parametrize("name", MAKERS)
def test_products(name: str) -> None:
    problem = MAKERS[name]()
    report = check_hvp(problem.func, nearby(problem))
    assert report.ok, str(report)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_SCIPY)
def test_scipy_reaches_the_minimum(name: str) -> None:
    problem = CLASSICAL[name]()
    assert problem.minimum is not None
    f = scipy_objective(problem.func, problem.x0)
    options = {"gtol": 1e-8 * max(1, abs(problem.minimum)), "maxiter": 2000}
    found = minimize(f.fun, f.x0, jac=f.jac, hessp=f.hessp, method="trust-krylov", options=options)
    assert found.fun == pytest.approx(problem.minimum, abs=1e-9 * max(1, abs(problem.minimum)))


def test_brownbs_is_zero_at_its_minimum() -> None:
    problem = CLASSICAL["BROWNBS"]()
    assert float(problem.func(torch.tensor([1e6, 2e-6], dtype=torch.float64))) == problem.minimum


def test_meyer3_has_the_certified_minimum() -> None:
    # At the parameters that NIST certifies for the same data (MGH10).
    problem = CLASSICAL["MEYER3"]()
    x = torch.tensor([5.6096364710e-3, 6.1813463463e3, 3.4522363462e2], dtype=torch.float64)
    assert float(problem.func(x)) == pytest.approx(problem.minimum, rel=1e-10)


@pytest.mark.parametrize(("last", "minimum"), [(0.0624, 3.078009e-4), (0.0625, 3.075056e-4)])
def test_two_versions_of_kowosb(last: float, minimum: float) -> None:
    problem = kowosb(last)
    assert problem.minimum == pytest.approx(minimum, rel=5e-7)
    f = scipy_objective(problem.func, problem.x0)
    found = minimize(f.fun, f.x0, jac=f.jac, method="BFGS", options={"gtol": 1e-10})
    assert found.fun == pytest.approx(problem.minimum, rel=1e-9)


def test_helix_has_its_cut_on_the_negative_second_axis() -> None:
    func = helix().func
    near = torch.tensor([[1e-9, 1.0, 0], [-1e-9, 1.0, 0], [-1, 1e-9, 0], [-1, -1e-9, 0]], dtype=torch.float64)
    above, below, left, right = (float(func(x)) for x in near)
    assert above == pytest.approx(below) and left == pytest.approx(right)
    across = [float(func(torch.tensor([s * 1e-9, -1.0, 0], dtype=torch.float64))) for s in (1, -1)]
    assert across == pytest.approx([100 * 2.5**2, 100 * 7.5**2])


def test_indef_falls_without_bound() -> None:
    problem = indef(50)
    assert problem.minimum == -math.inf
    falling = [float(problem.func(problem.x0 - t)) for t in (0, 1e3, 1e6)]
    assert falling[0] > falling[1] > falling[2] and falling[2] < -4e7
    hessian = torch.autograd.functional.hessian(problem.func, problem.x0).numpy()
    values = np.linalg.eigvalsh(hessian)
    assert values[0] < -1 and abs(values[-1]) < 1e-12
