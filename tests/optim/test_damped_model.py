"""The damped minimiser of a quadratic model, beside dense algebra."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hvplib.optim.damped_model import DampedModel
from hvplib.results.status import Status


def spd(n: int, seed: int = 0) -> Tensor:
    M = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return M @ M.mT / n + 0.1 * torch.eye(n, dtype=torch.float64)


def column(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def value(A: Tensor, g: Tensor, s: Tensor) -> float:
    return float((g * s).sum() + 0.5 * (s * (A @ s)).sum())


@pytest.mark.parametrize("damping", [0.0, 0.3, torch.linspace(0.1, 2.0, 12).double().unsqueeze(1)])
def test_the_minimiser_solves_the_damped_system(damping: float | Tensor) -> None:
    B, g = spd(12), column(12)
    model = DampedModel(B.matmul, g, damping)
    found = model.minimise(None, rtol=1e-13, max_iter=50)
    diagonal = torch.eye(12, dtype=torch.float64) * damping
    torch.testing.assert_close(found.step, torch.linalg.solve(B + diagonal, -g), rtol=1e-10, atol=1e-11)
    assert found.status is Status.CONVERGED
    assert model.num_matvecs == found.num_iter


def test_the_tolerance_is_that_of_the_damped_residual() -> None:
    B, g = spd(40), column(40)
    model = DampedModel(B.matmul, g, 0.2)
    loose, tight = (model.minimise(None, rtol=rtol, max_iter=100) for rtol in (1e-1, 1e-6))
    for rtol, found in ((1e-1, loose), (1e-6, tight)):
        residual = g + B @ found.step + 0.2 * found.step
        assert 1e-3 * rtol * g.norm() < residual.norm() <= rtol * g.norm()
    assert loose.num_iter < tight.num_iter


def test_a_good_start_is_taken_and_a_bad_one_is_not() -> None:
    B, g = spd(30), column(30)
    solution = torch.linalg.solve(B, -g)
    model = DampedModel(B.matmul, g, 0.0)
    near = model.minimise(0.999999 * solution, rtol=1e-4, max_iter=50)
    assert near.num_iter == 0  # already within the tolerance
    assert torch.equal(near.step, 0.999999 * solution)
    cold = model.minimise(None, rtol=1e-4, max_iter=50)
    for bad in (-solution, 3 * solution):
        assert value(B, g, bad) > 0
        assert torch.equal(model.minimise(bad, rtol=1e-4, max_iter=50).step, cold.step)


def test_from_a_start_the_model_falls_at_each_step() -> None:
    B, g = spd(30), column(30)
    start = -0.1 * g
    values = [
        value(B, g, DampedModel(B.matmul, g, 0.0).minimise(start, rtol=0.0, max_iter=k).step)
        for k in range(1, 8)
    ]
    assert values[0] < value(B, g, start) < 0
    assert all(after < before for before, after in pairwise(values))


def test_a_zero_gradient_gives_no_step() -> None:
    B = spd(5)
    found = DampedModel(B.matmul, torch.zeros(5, 1).double(), 0.0).minimise(column(5), rtol=0.1, max_iter=9)
    assert not found.step.any()


def test_first_direction_of_negative_curvature_by_hand() -> None:
    # p = −g, c = −2, r = −g: s = −g · ‖g‖² / (2 ‖g‖²).
    B, g = -2 * torch.eye(3, dtype=torch.float64), column(3)
    found = DampedModel(B.matmul, g, 0.5).minimise(None, rtol=1e-6, max_iter=9)
    assert found.status is Status.NEGATIVE_CURVATURE
    torch.testing.assert_close(found.step, -g / 1.5, rtol=1e-14, atol=0.0)  # of the damped matrix, c = −1.5
    # Where the damping is larger than |c|, it is what counts.
    found = DampedModel(lambda X: -0.6 * X, g, 0.5).minimise(None, rtol=1e-6, max_iter=9)
    torch.testing.assert_close(found.step, -g / 0.5, rtol=1e-14, atol=0.0)


def test_later_directions_of_negative_curvature_lower_the_model_and_are_no_longer_than_the_step() -> None:
    d = torch.tensor([3.0, 2.0, 1.0, -0.001], dtype=torch.float64).unsqueeze(1)
    g = torch.tensor([1.0, 1.0, 1.0, 0.3], dtype=torch.float64).unsqueeze(1)
    model = DampedModel(lambda X: d * X, g, 0.0)
    short = model.minimise(None, rtol=1e-8, max_iter=3).step
    found = model.minimise(None, rtol=1e-8, max_iter=20)
    assert found.status is Status.NEGATIVE_CURVATURE
    B = torch.diag(d[:, 0])
    assert value(B, g, found.step) < value(B, g, short) < 0
    assert (found.step - short).norm() <= (1 + 1e-12) * short.norm()


def test_a_linear_function_without_damping_has_no_step() -> None:
    found = DampedModel(lambda X: 0 * X, column(4), 0.0).minimise(None, rtol=1e-6, max_iter=9)
    assert not found.step.any()


def test_decrease_is_that_of_the_model_without_damping() -> None:
    B, g, d = spd(6), column(6), column(6, seed=5)
    decrease, slope, curvature = DampedModel(B.matmul, g, 7.0).decrease(d)
    assert decrease == pytest.approx(-value(B, g, d), rel=1e-13)
    assert slope == pytest.approx(float(g[:, 0] @ d[:, 0]), rel=1e-13)
    assert curvature == pytest.approx(float(d[:, 0] @ B @ d[:, 0]), rel=1e-13)
