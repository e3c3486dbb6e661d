from __future__ import annotations

import pytest
import torch

from hvplib import Diagonal, HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.optim import Ending, minimize
from hvplib.optim import exact as module
from hvplib.optim.ending import Ended
from hvplib.optim.evaluation import Limits, Objective
from hvplib.optim.exact import Exact

F64 = torch.float64


def test_step_satisfies_the_optimality_conditions() -> None:
    A = torch.tensor([[1.0, 4, 0], [4, -2, 1], [0, 1, 3]], dtype=F64)
    b = torch.tensor([1.0, -2, 0.5], dtype=F64)
    operator = HessianOperator(lambda x: b @ x + x @ A @ x / 2, torch.zeros(3, dtype=F64))
    objective = Objective(operator, Limits(), Interrupt())
    model = Exact(objective.start)
    for radius in (0.1, 1.0, 10.0):
        step = model.ball(radius)
        s = step.s[:, 0]
        assert step.norm == pytest.approx(float(s.norm())) == pytest.approx(radius)
        assert step.on_boundary
        multiplier = -float(s @ (A @ s + b)) / radius**2
        torch.testing.assert_close(A @ s + multiplier * s, -b, rtol=1e-10, atol=1e-10)
        assert multiplier >= -float(torch.linalg.eigvalsh(A)[0]) - 1e-10
        assert step.predicted == pytest.approx(-float(b @ s + s @ A @ s / 2))
    assert objective.num_matvecs == 3  # for all radii


def test_newton_step_inside_the_ball() -> None:
    operator = HessianOperator(lambda x: (x**2).sum() - x.sum(), torch.zeros(2, dtype=F64))
    step = Exact(Objective(operator, Limits(), Interrupt()).start).ball(9.0)
    torch.testing.assert_close(step.s[:, 0], torch.full((2,), 0.5, dtype=F64))
    assert not step.on_boundary


def test_products_that_are_not_finite_end_it() -> None:
    operator = HessianOperator(lambda x: x.abs().pow(1.5).sum(), torch.zeros(2, dtype=F64), verify=False)
    with pytest.raises(Ended) as caught:
        Exact(Objective(operator, Limits(), Interrupt()).start)
    assert caught.value.ending is Ending.NON_FINITE


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda device: 3000)
    with pytest.raises(MemoryError, match=r"takes .*; .* are free; use method='trust-krylov'"):
        minimize(lambda x: (x**2).sum(), torch.ones(10, dtype=F64), method="trust-exact")


def test_preconditioner_is_refused() -> None:
    with pytest.raises(ValueError, match="preconditioner is of no use to method='trust-exact'"):
        minimize(
            lambda x: (x**2).sum(),
            torch.ones(2, dtype=F64),
            method="trust-exact",
            preconditioner=Diagonal(torch.ones(2, dtype=F64)),
        )
