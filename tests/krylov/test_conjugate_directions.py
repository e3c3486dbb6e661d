"""Directions out of a Lanczos process, against conjugate gradients by another hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.krylov.conjugate_directions import conjugate_directions
from hvplib.krylov.inner import EUCLIDEAN
from hvplib.krylov.quadratic_process import MetricLanczos
from tests.krylov.systems import normal, with_spectrum

F64 = torch.float64
N = 30
H = with_spectrum(torch.linspace(1, 9, N, dtype=F64))
P = with_spectrum(torch.linspace(0.1, 4, N, dtype=F64), seed=1)


def process(matrix: Tensor, precondition: Tensor | None, steps: int, start: Tensor) -> MetricLanczos:
    block = None if precondition is None else precondition.matmul
    made = MetricLanczos(matrix.matmul, start, block, EUCLIDEAN)
    made.begin(start.clone())
    for _ in range(steps):
        made.expand()
    return made


def directions(matrix: Tensor, precondition: Tensor, steps: int, g: Tensor) -> Tensor:
    """Those of preconditioned conjugate gradients, each with pᵀH p = 1."""
    r, found = g, []
    z = precondition @ r
    p = z
    for _ in range(steps):
        found.append(p / (p.mT @ matrix @ p).sqrt())
        after = r - (r.mT @ z) / (p.mT @ matrix @ p) * (matrix @ p)
        next_z = precondition @ after
        p = next_z + (after.mT @ next_z) / (r.mT @ z) * p
        r, z = after, next_z
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("precondition", [None, P])
@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [7]), (3, [1, 4, 7]), (4, [1, 3, 5, 7]), (8, [*range(8)]), (20, [*range(8)])]
)
def test_those_of_conjugate_gradients(precondition: Tensor | None, count: int, chosen: list[int]) -> None:
    g = normal(N, 1)
    expected = directions(H, torch.eye(N, dtype=F64) if precondition is None else precondition, 8, g)
    S, HS = conjugate_directions(process(H, precondition, 8, g), count) or pytest.fail("there are none")
    signs = (S * expected[:, chosen]).sum(0).sign()
    torch.testing.assert_close(S * signs, expected[:, chosen], rtol=0, atol=1e-11)
    torch.testing.assert_close(HS, H @ S, rtol=0, atol=1e-11)
    torch.testing.assert_close(S.mT @ HS, torch.eye(len(chosen), dtype=F64), rtol=0, atol=1e-11)
    for block in (S, HS):
        assert block.mT.is_contiguous()


def test_those_of_a_space_that_has_ended_and_was_begun_again() -> None:
    _values, vectors = torch.linalg.eigh(H)
    made = process(H, None, 3, vectors[:, [0, 12, 29]].sum(1, keepdim=True))
    for _ in range(2):  # without a vector that follows, and with one after a coupling of zero
        S, HS = conjugate_directions(made, 20) or pytest.fail("there are none")
        assert S.shape == (N, made.count)
        torch.testing.assert_close(HS, H @ S, rtol=0, atol=1e-11)
        torch.testing.assert_close(S.mT @ HS, torch.eye(made.count, dtype=F64), rtol=0, atol=1e-11)
        made.renew(normal(N, 1, seed=4))
        made.expand()


def test_those_before_the_first_that_curves_down() -> None:
    indefinite = with_spectrum(torch.cat([torch.linspace(-4, -1, 5), torch.linspace(1, 9, N - 5)]).double())
    made = process(indefinite, None, 12, normal(N, 1))
    sizes = [float(torch.linalg.eigvalsh(made.T[:m, :m])[0]) > 0 for m in range(1, 13)]
    sound = sizes.index(False)
    assert 0 < sound < 12
    S, HS = conjugate_directions(made, 20) or pytest.fail("there are none")
    assert S.shape == (N, sound)
    torch.testing.assert_close(HS, indefinite @ S, rtol=0, atol=1e-10)
    torch.testing.assert_close(S.mT @ HS, torch.eye(sound, dtype=F64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "matrix", [-H, 0 * H, 1e-13 * torch.eye(N, dtype=F64) + torch.eye(N, dtype=F64).roll(9, 0)]
)
def test_there_may_be_none(matrix: Tensor) -> None:
    matrix = (matrix + matrix.mT) / 2
    start = torch.eye(N, dtype=F64)[:, :1]
    assert conjugate_directions(process(matrix, None, 0, start), 20) is None
    assert conjugate_directions(process(matrix, None, 1, start), 20) is None


def test_single_precision() -> None:
    S, HS = conjugate_directions(process(H.float(), None, 8, normal(N, 1).float()), 4) or pytest.fail("none")
    assert S.dtype == HS.dtype == torch.float32
    torch.testing.assert_close(HS, H.float() @ S, rtol=0, atol=1e-5)
