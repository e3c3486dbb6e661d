from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.eigen.decoupling import decoupling
from tests.contracts import numbers

F64 = torch.float64


def nearly_diagonal(values: Tensor, coupling: float, seed: int = 0) -> Tensor:
    E = numbers(len(values), len(values), dtype=F64, seed=seed)
    return torch.diag(values) + coupling * (E + E.mT).fill_diagonal_(0.0)


def left(T: Tensor) -> Tensor:
    return T - torch.diag(T.diagonal())


SPECTRA = {
    "apart": torch.tensor([3.0, 2.0, 1.0, 0.0, -1.0], dtype=F64),
    "near": 1 + 1e-6 * torch.arange(6, dtype=F64),
    "equal": torch.ones(7, dtype=F64),
    "some equal": torch.tensor([0.0, 0.0, 0.0, 5.0, 5.0, 7.0], dtype=F64),
    "one": torch.ones(1, dtype=F64),
}


@pytest.mark.parametrize("coupling", [1e-12, 1e-8, 1e-5, 0.3])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_couplings_that_matter_are_gone(spectrum: str, coupling: float) -> None:
    values = SPECTRA[spectrum]
    T = nearly_diagonal(values, coupling)
    tolerances = 1e-8 * values.abs().clamp(min=1e-4)
    before = T.clone()
    G = decoupling(T, tolerances)
    assert torch.equal(T, before)
    torch.testing.assert_close(G.mT @ G, torch.eye(len(values), dtype=F64), rtol=0, atol=1e-13)
    turned = G.mT @ T @ G
    assert bool((torch.linalg.vector_norm(left(turned), dim=0) <= 0.11 * tolerances).all())
    torch.testing.assert_close(
        turned.diagonal().sort().values, torch.linalg.eigvalsh(T), rtol=0, atol=len(values) * 1e-8
    )


def test_couplings_that_do_not_matter_are_left() -> None:
    T = nearly_diagonal(SPECTRA["some equal"], 1e-10)
    assert torch.equal(decoupling(T, torch.full((6,), 1e-8, dtype=F64)), torch.eye(6, dtype=F64))


def test_what_need_not_turn_keeps_its_residual() -> None:
    # The first two couple, and are all but equal; the third is equal too, but couples with neither.
    T = torch.ones(3, 3, dtype=F64).diag().diag()
    T[0, 1] = T[1, 0] = 1e-7
    G = decoupling(T, torch.full((3,), 1e-8, dtype=F64))
    assert G[:, 2].tolist() == G[2].tolist() == [0.0, 0.0, 1.0]
    assert G[:2, :2].abs().flatten().tolist() == pytest.approx([math.sqrt(0.5)] * 4)


def test_angle_is_the_coupling_over_the_distance() -> None:
    # A pair at 1, barely converged, and one at 0, where the tolerance is a thousandth of what couples them.
    T = torch.tensor([[1.0, 1e-9], [1e-9, 0.0]], dtype=F64)
    G = decoupling(T, torch.tensor([1e-8, 1e-12], dtype=F64))
    assert abs(float(G[0, 1])) == pytest.approx(1e-9, rel=1e-6)
    assert float(G[1, 1]) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_it_ends_where_numbers_are_not_finite(bad: float) -> None:
    T = nearly_diagonal(SPECTRA["apart"], 1e-3)
    T[1, 2] = T[2, 1] = bad
    assert decoupling(T, torch.full((5,), 1e-8, dtype=F64)).shape == (5, 5)
