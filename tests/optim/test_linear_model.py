from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.optim.linear_model import DenseModel, ModelStep
from hvplib.optim.squares import Factor

F64 = torch.float64
EPS = torch.finfo(F64).eps


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def graded(m: int, n: int, power: float) -> Tensor:
    """(m, n) with singular values from 1 to 10^-power."""
    U, _, Vh = torch.linalg.svd(normal(m, n, seed=m + n), full_matrices=False)
    k = min(m, n)
    return U @ torch.diag(torch.logspace(0, -power, k, dtype=F64)) @ Vh


CASES = {
    "tall": graded(9, 4, 1),
    "square": graded(4, 4, 1),
    "wide": graded(3, 7, 1),
    "one": graded(5, 1, 0),
    "ill-conditioned": graded(20, 5, 8),
    "deficient": torch.cat([graded(9, 3, 1), torch.zeros(9, 1, dtype=F64)], dim=1),
}
each_case = pytest.mark.parametrize("J", CASES.values(), ids=CASES.keys())


def model(J: Tensor, scale: Tensor | None = None) -> tuple[DenseModel, Tensor, Tensor]:
    r = normal(J.shape[0], seed=7)
    factor = Factor.of(J, r)
    D = factor.scale if scale is None else scale
    return DenseModel(factor, D, EPS, r), r, D


def fall(J: Tensor, r: Tensor, step: ModelStep) -> float:
    after = r + J @ step.s[:, 0]
    return float(r @ r - after @ after) / 2


@each_case
def test_factor(J: Tensor) -> None:
    r = normal(J.shape[0], seed=7)
    factor = Factor.of(J, r)
    assert factor.R.shape == (min(J.shape), J.shape[1])
    assert (factor.R.mT @ factor.R - J.mT @ J).norm() < 1e-14
    assert (factor.R.mT @ factor.c - J.mT @ r).norm() < 1e-14
    assert (factor.norms - J.norm(dim=0)).norm() < 1e-14
    assert bool((factor.scale > 0).all())


@each_case
@pytest.mark.parametrize("share", [1e-6, 1e-2, 0.5, 0.9])
def test_step_on_the_boundary(J: Tensor, share: float) -> None:
    linear, r, D = model(J, torch.logspace(-2, 2, J.shape[1], dtype=F64))
    free = linear.damped(0.0).norm
    step = linear.ball(share * free)
    s = step.s[:, 0]
    assert step.on_boundary and step.damping > 0
    assert abs(step.norm / (share * free) - 1) <= 0.011
    assert abs(float((D * s).norm()) - step.norm) < 1e-12 * step.norm
    optimality = J.mT @ (r + J @ s) + step.damping * D**2 * s
    size = float((J / D).norm())
    terms = float(r.norm()) + size * step.norm
    assert float((optimality / D).norm()) < 1e-13 * (size * terms + step.damping * step.norm)
    assert abs(step.predicted - fall(J, r, step)) < 1e-13 * terms**2


@each_case
def test_step_inside(J: Tensor) -> None:
    linear, r, _ = model(J)
    step = linear.ball(1e12)
    assert not step.on_boundary and step.damping == 0
    best = r - J @ torch.linalg.lstsq(J, r, driver="gelsd").solution
    expected = float(r @ r - best @ best) / 2
    assert abs(step.predicted - expected) < 1e-7 and abs(fall(J, r, step) - expected) < 1e-7


@each_case
def test_shortest_step_is_that_of_the_pseudoinverse(J: Tensor) -> None:
    linear, r, _ = model(J)
    expected = -torch.linalg.lstsq(J, r, driver="gelsd").solution
    assert (linear.shortest().s[:, 0] - expected).norm() < 1e-6 * expected.norm()
    assert linear.rank == int(torch.linalg.matrix_rank(J))


def test_shortest_step_in_badly_scaled_unknowns() -> None:
    K = graded(9, 3, 1) * torch.tensor([1.0, 1e6, 1e-6], dtype=F64)
    linear, r, _ = model(torch.cat([K, 10 * K[:, :1]], dim=1))
    # x = (a, b, c, d): a + 10 d is all that is known of a and d, shared 1 : 10 by the shortest.
    together, b, c = -torch.linalg.lstsq(K, r).solution
    expected = torch.stack([together / 101, b, c, 10 * together / 101])
    assert linear.rank == 3 and (linear.shortest().s[:, 0] - expected).norm() < 1e-8 * expected.norm()


@each_case
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_correction(J: Tensor, damping: float) -> None:
    linear, _, D = model(J)
    g = J.mT @ normal(J.shape[0], seed=8)
    a = linear.correction(g.unsqueeze(1), damping)[:, 0]
    residual = J.mT @ (J @ a) + damping * D**2 * a + g
    assert float((residual / D).norm()) < 1e-12 * float((g / D).norm())


def test_length_is_scaled() -> None:
    linear, _, D = model(CASES["tall"])
    x = normal(4, seed=9)
    assert abs(linear.length(x) - float((D * x).norm())) < 1e-14
    assert linear.length(x) == linear.length(x.unsqueeze(1))
