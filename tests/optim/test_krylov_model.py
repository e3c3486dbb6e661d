from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib import Diagonal, HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim import Ending, TrustKrylov, TrustNCG, minimize
from hvplib.optim import build as module
from hvplib.optim.ending import Ended
from hvplib.optim.evaluation import Limits, Objective
from hvplib.optim.krylov_model import KrylovModel
from hvplib.optim.methods import Auto, TrustExact

F64 = torch.float64


def objective(d: Tensor, b: Tensor) -> Objective:
    operator = HessianOperator(lambda x: (d * x**2).sum() / 2 - b @ x, torch.zeros_like(d))
    return Objective(operator, Limits(), Interrupt())


def model(problem: Objective, rtol: float = 1e-10, boundary_rtol: float = 0.0) -> KrylovModel:
    return KrylovModel(
        problem.start,
        rtol,
        boundary_rtol=boundary_rtol,
        krylov_dim=50,
        precondition=None,
        random=lambda k: torch.ones(problem.space.size, k, dtype=F64),
    )


def test_step_satisfies_the_optimality_conditions() -> None:
    d = torch.linspace(-2, 5, 30, dtype=F64)
    b = torch.cos(torch.arange(30.0, dtype=F64))
    problem = objective(d, b)
    step = model(problem).ball(0.7)
    s = step.s[:, 0]
    assert step.on_boundary and float(s.norm()) == pytest.approx(0.7) and step.multiplier >= 2
    torch.testing.assert_close((d + step.multiplier) * s, b, rtol=1e-8, atol=1e-8)


def test_smaller_balls_cost_no_product() -> None:
    problem = objective(torch.linspace(1, 5, 30, dtype=F64), torch.ones(30, dtype=F64))
    space = model(problem)
    space.ball(10.0)
    spent = problem.num_matvecs
    assert 0 < spent < 30
    for radius in (1.0, 0.1):
        assert space.ball(radius).norm == pytest.approx(radius)
    assert problem.num_matvecs == spent


def test_steps_to_the_boundary_need_fewer_digits() -> None:
    d, b = torch.logspace(0, 3, 60, dtype=F64), torch.ones(60, dtype=F64)
    problems = [objective(d, b) for _ in range(2)]
    exact = model(problems[0]).ball(0.5)
    rough = model(problems[1], boundary_rtol=0.5).ball(0.5)
    assert problems[1].num_matvecs < problems[0].num_matvecs / 2
    assert 0.7 * exact.predicted <= rough.predicted <= exact.predicted


def test_products_that_are_not_finite_end_it() -> None:
    operator = HessianOperator(
        lambda x: x.abs().pow(1.5).sum() + x.sum(), torch.zeros(2, dtype=F64), verify=False
    )
    problem = Objective(operator, Limits(), Interrupt())
    with pytest.raises(Ended) as caught:
        model(problem).ball(1.0)
    assert caught.value.ending is Ending.NON_FINITE


@pytest.mark.parametrize("method", ["trust-krylov", "trust-ncg"])
def test_indefinite_preconditioner_is_told(method: str) -> None:
    result = minimize(
        lambda x: (torch.cosh(x) - x).sum(),
        torch.zeros(3, dtype=F64),
        method=method,
        preconditioner=Diagonal(-torch.ones(3, dtype=F64)),
    )
    assert result.status is Ending.INDEFINITE_PRECONDITIONER and not result.success


def test_auto_follows_size_memory_and_preconditioner(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (objective(torch.ones(n, dtype=F64), torch.ones(n, dtype=F64)) for n in (64, 300))
    assert isinstance(module.chosen(Auto(), small, preconditioned=False), TrustExact)
    assert isinstance(module.chosen(Auto(), small, preconditioned=True), TrustKrylov)
    assert isinstance(module.chosen(Auto(), large, preconditioned=False), TrustKrylov)
    given = TrustNCG(max_cg_iter=3)
    assert module.chosen(given, large, preconditioned=False) is given
    monkeypatch.setattr(module, "free_bytes", lambda device: 8 * 200 * 300 * 8 - 1)
    assert isinstance(module.chosen(Auto(), large, preconditioned=False), TrustNCG)


def test_basis_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda device: 8 * 19 * 300 * 8)
    start = torch.ones(300, dtype=F64)
    with pytest.raises(MemoryError, match=r"a Krylov basis of 20 vectors takes .* use method='trust-ncg'"):
        minimize(lambda x: (x**2).sum(), start, method="trust-krylov")
    assert minimize(lambda x: (x**2).sum(), start, method=TrustKrylov(krylov_dim=5)).success
