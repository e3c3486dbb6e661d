"""Terms that share their vectors, and their covariance: by definition, with dense algebra, and over seeds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib import Matrix
from hvplib.estimate.exchangeable import Terms
from hvplib.estimate.pairs import Pairs, covariance, left_out
from hvplib.estimate.products import Products
from hvplib.estimate.xdiag import XDiagSketch
from hvplib.estimate.xnystrace import XNysTraceSketch
from hvplib.estimate.xtrace import XTraceSketch
from tests.estimate.spectra import with_spectrum

F64 = torch.float64
N, K = 14, 5


class Fixed:
    """Vectors that are known."""

    def __init__(self, Omega: Tensor) -> None:
        self._Omega, self._drawn = Omega, 0

    def block(self, columns: int) -> Tensor:
        self._drawn += columns
        return self._Omega[:, self._drawn - columns : self._drawn].clone()


def omega(kind: str) -> Tensor:
    Z = torch.randn(K, N, generator=torch.Generator().manual_seed(5), dtype=F64).mT
    return Z.sign() if kind == "xdiag" else Z


def orth(X: Tensor) -> Tensor:
    return torch.linalg.qr(X).Q


def by_definition(kind: str, A: Tensor, Omega: Tensor, test: int, without: set[int]) -> Tensor:
    """The term of the vector `test`, with all vectors in `without` left out of the sketch."""
    others = Omega[:, [i for i in range(K) if i not in without]]
    z, eye = Omega[:, test], torch.eye(N, dtype=F64)
    if kind == "xnystrace":
        Y = A @ others
        nystrom = Y @ torch.linalg.solve(others.mT @ Y, Y.mT)
        beside = eye - orth(others) @ orth(others).mT
        u = beside @ z
        return nystrom.trace() + (N - others.shape[1]) * (u @ (A - nystrom) @ u) / (u @ u)
    Q = orth(A @ others)
    P = Q @ Q.mT
    if kind == "xdiag":
        return (P @ A).diagonal() + z * ((eye - P) @ A @ z)
    u = (eye - P) @ z
    return (P @ A).trace() + (N - others.shape[1]) * (u @ A @ u) / (u @ u)


SKETCHES = {"xtrace": XTraceSketch, "xnystrace": XNysTraceSketch, "xdiag": XDiagSketch}


def matrix(kind: str) -> Matrix:
    if kind == "xnystrace":
        return with_spectrum("slow exponential", N)
    return Matrix(torch.randn(N, N, generator=torch.Generator().manual_seed(1), dtype=F64))


@pytest.mark.parametrize("blocks", [(K,), (2, 3), (1,) * K])
@pytest.mark.parametrize("kind", SKETCHES)
def test_terms_and_covariance_are_what_the_definition_gives(kind: str, blocks: tuple[int, ...]) -> None:
    A, Omega = matrix(kind), omega(kind)
    sketch = SKETCHES[kind](Products(A, 1000), Fixed(Omega))  # type: ignore[arg-type]
    for columns in blocks:
        sketch.grow(columns)
    found = sketch.terms()
    terms = torch.stack([by_definition(kind, A.matrix, Omega, i, {i}) for i in range(K)])
    torch.testing.assert_close(found.values, terms, rtol=1e-9, atol=1e-9)
    total = torch.zeros_like(terms[0])
    for i in range(K):
        for j in range(K):
            if i != j:
                first = terms[i] - by_definition(kind, A.matrix, Omega, i, {i, j})
                total = total + first * (terms[j] - by_definition(kind, A.matrix, Omega, j, {i, j}))
    torch.testing.assert_close(found.covariance, total / (K * (K - 1)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["xtrace", "xnystrace"])
def test_the_covariance_is_without_bias(kind: str) -> None:
    """Over many draws the mean of the estimates is the covariance of two terms."""
    A, seeds = with_spectrum("slow exponential", N), 6000
    generator = torch.Generator().manual_seed(0)
    truth, pairs, estimates = float(A.matrix.trace()), 0.0, 0.0
    for _ in range(seeds):
        sketch = SKETCHES[kind](
            Products(A, 1000),
            Fixed(torch.randn(K, N, generator=generator, dtype=F64).mT),  # type: ignore[arg-type]
        )
        sketch.grow(K)
        terms = sketch.terms()
        off = terms.values - truth
        pairs += float(off.sum() ** 2 - off.square().sum()) / (K * (K - 1)) / seeds
        estimates += float(terms.covariance) / seeds
    assert estimates == pytest.approx(pairs, rel=0.15) and pairs > 0


def test_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    B, H, X = (torch.randn(6, 6, generator=generator, dtype=F64) for _ in range(3))
    S = left_out(B, 6)
    torch.testing.assert_close(S.norm(dim=0), torch.ones(6, dtype=F64))
    inner = (S.mT @ B).fill_diagonal_(0)
    assert float(inner.abs().max()) < 1e-12
    pairs = Pairs(S)
    for i in range(6):
        for j in range(6):
            if i == j:
                continue
            s = S[:, j] - S[:, i] * (S[:, i] @ S[:, j])
            s = s / s.norm()
            torch.testing.assert_close(pairs.along(X)[i, j], s @ X[:, i], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(pairs.form(H)[i, j], s @ H @ s, rtol=1e-10, atol=1e-12)
    assert not left_out(B[:4], 4).any()


def test_covariance_of_pairs() -> None:
    D = torch.tensor([[9.0, 2.0, 0.0], [3.0, 9.0, 1.0], [5.0, -4.0, 9.0]], dtype=F64)
    assert float(covariance(D)) == pytest.approx(2 * (2 * 3 + 0 * 5 + 1 * -4) / 6)
    assert float(covariance(D[:1, :1])) == 0


def test_stderr_counts_both_parts() -> None:
    values = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    assert float(Terms(values, torch.tensor(2.0)).stderr()) == pytest.approx((1 / 3 + 2) ** 0.5)
    # A covariance that seems negative by chance takes off half at most.
    assert float(Terms(values, torch.tensor(-2.0)).stderr()) == pytest.approx((1 / 6) ** 0.5)
    assert float(Terms(values[:1], torch.tensor(0.0)).stderr()) == float("inf")
