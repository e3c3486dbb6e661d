"""Systems that grow, against dense solves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.krylov.growing_system import GrowingSystem

F64 = torch.float64


def tridiagonal(diagonal: Tensor, beside: Tensor) -> Tensor:
    return torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)


def grown(diagonal: Tensor, beside: Tensor) -> GrowingSystem:
    system = GrowingSystem()
    for entry, coupling in zip(diagonal.tolist(), [0.0, *beside.tolist()], strict=True):
        system.grow(entry, coupling)
    return system


@pytest.mark.parametrize("seed", range(5))
def test_the_solution_at_each_size(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    diagonal, beside = 2 + torch.rand(12, generator=rng, dtype=F64), torch.rand(11, generator=rng, dtype=F64)
    lengths = []
    for m in range(1, 13):
        system = grown(diagonal[:m], beside[: m - 1])
        right = torch.zeros(m, dtype=F64)
        right[0] = -1.0
        y = torch.linalg.solve(tridiagonal(diagonal[:m], beside[: m - 1]), right)
        assert system.definite
        assert system.length == pytest.approx(float(y.norm()), rel=1e-13)
        assert system.last == pytest.approx(abs(float(y[-1])), rel=1e-13)
        lengths.append(system.length)
    assert lengths == sorted(lengths)  # as those of conjugate gradients are


@pytest.mark.parametrize("m", [1, 4, 9])
@pytest.mark.parametrize("least", [0.1, -0.1])
def test_definite_as_long_as_all_eigenvalues_are_positive(m: int, least: float) -> None:
    rng = torch.Generator().manual_seed(m)
    diagonal, beside = torch.randn(m, generator=rng, dtype=F64), torch.randn(m - 1, generator=rng, dtype=F64)
    diagonal += least - torch.linalg.eigvalsh(tridiagonal(diagonal, beside))[0]
    assert grown(diagonal, beside).definite == (least > 0)


@pytest.mark.parametrize("pivot", [0.0, -1.0, math.nan])
def test_what_follows_an_indefinite_row_changes_nothing(pivot: float) -> None:
    system = GrowingSystem()
    system.grow(2.0, 0.0)
    before = system.length, system.last
    system.grow(pivot, 0.0)
    system.grow(5.0, 3.0)
    assert not system.definite
    assert (system.length, system.last) == before


def test_after_a_row_by_itself_there_is_nothing() -> None:
    """Where a space is begun again from elsewhere, y ends."""
    system = GrowingSystem()
    for row in ((2.0, 0.0), (2.0, 1.0), (3.0, 0.0), (3.0, 1.0)):
        system.grow(*row)
    y = torch.linalg.solve(
        torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=F64), torch.tensor([-1.0, 0]).double()
    )
    assert system.definite
    assert system.last == 0
    assert system.length == pytest.approx(float(y.norm()))
