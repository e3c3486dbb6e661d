"""The two bases, and what the process leaves in them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hvplib.krylov.inner import EUCLIDEAN
from hvplib.krylov.quadratic_basis import PairedBasis
from hvplib.krylov.quadratic_process import Block, MetricLanczos
from hvplib.results.status import Status
from tests.krylov.systems import normal, with_spectrum

F64 = torch.float64
N = 50
H = with_spectrum(torch.cat([torch.linspace(-1, 0, 10), torch.linspace(0.5, 3, 40)]).double())
P = with_spectrum(torch.linspace(0.1, 4, N, dtype=F64), seed=1)


def bases(process: MetricLanczos, P: Tensor | None) -> tuple[Tensor, Tensor]:
    V = process.basis.combine(torch.eye(process.count, dtype=F64))
    return V, V if P is None else torch.linalg.solve(P, V)


def process(precondition: Tensor | None, steps: int, *, start: Tensor | None = None) -> MetricLanczos:
    block: Block | None = None if precondition is None else precondition.matmul
    made = MetricLanczos(H.matmul, normal(N, 1), block, EUCLIDEAN)
    made.begin(normal(N, 1) if start is None else start)
    for _ in range(steps):
        made.expand()
    return made


def assert_factorization(made: MetricLanczos, P: Tensor | None) -> None:
    """VᵀU = I, T = VᵀH V, and what H V leaves outside of U has the length β, in the last column only."""
    V, U = bases(made, P)
    torch.testing.assert_close(V.mT @ U, torch.eye(made.count, dtype=F64), rtol=0, atol=1e-11)
    torch.testing.assert_close(V.mT @ H @ V, made.T, rtol=0, atol=1e-11)
    rest = H @ V - U @ made.T
    lengths = (rest * (rest if P is None else P @ rest)).sum(0).clamp(min=0).sqrt()
    assert float(lengths[:-1].max()) < 1e-10
    assert abs(float(lengths[-1]) - made.coupling) < 1e-10


def test_the_factorization() -> None:
    for metric in (None, P):
        for steps in (2, 9, 30):
            made = process(metric, steps)
            assert (made.count, made.num_matvecs, made.fault) == (steps, steps, None)
            assert_factorization(made, metric)


def test_it_begins_with_the_length_of_the_gradient() -> None:
    g = normal(N, 1, seed=3)
    for metric, expected in ((None, float(g.norm())), (P, math.sqrt(float(g.mT @ P @ g)))):
        block = None if metric is None else metric.matmul
        found = MetricLanczos(H.matmul, g, block, EUCLIDEAN).begin(g.clone())
        assert math.isclose(found, expected, rel_tol=1e-13)


def test_the_end_of_the_space_and_what_follows() -> None:
    """From a sum of three eigenvectors: three products, then on from elsewhere, up to the whole space."""
    values, vectors = torch.linalg.eigh(H)
    made = process(None, 3, start=vectors[:, [0, 20, 49]].sum(1, keepdim=True))
    assert not made.has_next
    assert made.coupling == 0
    torch.testing.assert_close(torch.linalg.eigvalsh(made.T), values[[0, 20, 49]])
    made.renew(normal(N, 1, seed=4))
    assert made.has_next
    while made.has_next:
        made.expand()
    assert made.count == N
    assert made.T[2, 3] == 0
    assert_factorization(made, None)
    torch.testing.assert_close(torch.linalg.eigvalsh(made.T), values)
    made.renew(normal(N, 1, seed=5))  # there is nothing else
    assert not made.has_next
    assert made.fault is None


def test_a_random_vector_almost_inside_still_gives_an_orthogonal_one() -> None:
    values, vectors = torch.linalg.eigh(H)
    made = process(None, 3, start=vectors[:, [0, 20, 49]].sum(1, keepdim=True))
    made.renew(vectors[:, [0, 20, 49]] @ normal(3, 1) + 1e-9 * vectors[:, [5, 35]].sum(1, keepdim=True))
    made.expand()
    made.expand()
    assert_factorization(made, None)
    found = torch.linalg.eigvalsh(made.T)
    torch.testing.assert_close(found, values[[0, 5, 20, 35, 49]], rtol=0, atol=1e-5)


def test_a_jump_of_scale_is_followed() -> None:
    """Products of the first vector vanish beside the others, whose squares leave the range of float32."""
    A = torch.diag(torch.tensor([1e-20, 3e25, 2e25], dtype=torch.float32))
    A[0, 1] = A[1, 0] = 1e-18
    g = torch.tensor([[1.0], [0.0], [0.0]])
    made = MetricLanczos(A.matmul, g, None, EUCLIDEAN)
    made.begin(g.clone())
    made.expand()
    assert made.fault is None
    assert math.isclose(made.coupling, 1e-18, rel_tol=1e-6)
    made.expand()
    assert made.fault is None
    assert math.isclose(float(made.T[1, 1]), 3e25, rel_tol=1e-6)


def test_a_fault_leaves_what_was() -> None:
    made = process(None, 5)
    T, V = made.T.clone(), bases(made, None)[0]
    made._matmat = lambda X: X * math.nan
    made.expand()
    assert made.fault is Status.NON_FINITE
    assert (made.count, made.num_matvecs) == (5, 6)
    assert torch.equal(made.T, T)
    assert torch.equal(bases(made, None)[0], V)


def test_room_is_made_as_needed() -> None:
    columns = normal(N, 40)
    for precondition in (None, P.matmul):
        basis = PairedBasis(columns, precondition, EUCLIDEAN)
        for index in range(40):
            basis.put(index, columns[:, index : index + 1], 2 * columns[:, index : index + 1])
        torch.testing.assert_close(basis.combine(torch.eye(40, dtype=F64)), columns)
        w = normal(N, 1, seed=2)
        left = w.clone()
        inside = basis.project_out(left, 10, 20)
        torch.testing.assert_close(inside, columns[:, 10:20].mT @ w)
        dual = columns[:, 10:20] * (1 if precondition is None else 2)
        torch.testing.assert_close(left, w - dual @ inside)
