from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.eigen.eigsh import eigsh
from hvplib.eigen.neighbours import Neighbours, next_to
from hvplib.eigen.task import Mark
from hvplib.krylov.lanczos import Factorization
from hvplib.operators import Diagonal
from tests.eigen.matrices import with_spectrum
from tests.krylov.factorizations import run, seeded

F64 = torch.float64
INF = math.inf
EIGENVALUES = torch.cat(
    [torch.linspace(0, 1, 54, dtype=F64), torch.tensor([1.2, 1.5, 1.5, 1.9, 2.4, 3], dtype=F64)]
)


def of(values: list[float], norms: list[float]) -> Neighbours:
    return Neighbours(torch.tensor(values, dtype=F64), torch.tensor(norms, dtype=F64))


CASES = pytest.mark.parametrize(
    ("steps", "dropped", "count", "seed", "sign"),
    [
        (steps, dropped, count, seed, sign)
        for steps, dropped, count in [(8, 0, 1), (10, 1, 2), (12, 3, 2), (14, 2, 3), (18, 5, 4)]
        for seed in range(4)
        for sign in (1, -1)
    ],
)


def compressed(
    steps: int, dropped: int, count: int, seed: int, sign: int = 1
) -> tuple[Neighbours, Tensor, Tensor]:
    """Ritz pairs, A, and its compression to what is orthogonal to them and to eigenvectors.

    The eigenvectors are those of the outermost eigenvalues, so that just the others may be missed.
    """
    A = sign * with_spectrum(EIGENVALUES)
    X = torch.linalg.eigh(sign * A).eigenvectors[:, 60 - dropped :]
    start = seeded(60, seed=seed)(1)
    start -= X @ (X.mT @ start)  # then Ritz pairs are orthogonal to X
    F = run(Factorization(start, capacity=30, size=60), A, steps)
    ritz = F.ritz()
    order = (sign * ritz.values).argsort(descending=True)[:count]
    Y = F.combine(ritz.vectors[:, order])
    N = torch.linalg.qr(torch.cat([X, Y], dim=1), mode="complete").Q[:, dropped + count :]
    return Neighbours(ritz.values[order], ritz.residual_norms[order]), A, N.mT @ A @ N


@CASES
def test_without_them_hardly_less_of_the_spectrum_is_left(
    steps: int, dropped: int, count: int, seed: int, sign: int
) -> None:
    """With A's first eigenvalue that was not dropped at the mark or beyond, B has one beyond the lowered."""
    neighbours, _, B = compressed(steps, dropped, count, seed, sign)
    largest = float(torch.linalg.eigvalsh(sign * B)[-1])
    first = float(EIGENVALUES[60 - dropped - 1])
    for mark in torch.linspace(float((sign * neighbours.values).max()) + 1e-6, 3.0, 40, dtype=F64).tolist():
        lowered = neighbours.lowered(Mark(sign, 0.0, mark)).next
        assert lowered <= mark
        assert largest >= lowered - 1e-12 or mark > first, "an eigenvalue of A from the mark on has got lost"
    # And the bound is not far from what happens, nor a mere −∞.
    assert of([1.0], [1e-4]).lowered(Mark(1, 0.0, 2.0)).next == pytest.approx(2.0 - 1e-8, abs=1e-14)


def test_the_worst_case_is_met() -> None:
    # y and u span all that there is: A = [[θ, ρ], [ρ, a]], with the eigenvalue μ for a = μ − ρ² / (μ − θ).
    theta, rho, mu = 1.0, 0.3, 2.0
    a = mu - rho**2 / (mu - theta)
    A = torch.tensor([[theta, rho], [rho, a]], dtype=F64)
    assert float(torch.linalg.eigvalsh(A)[-1]) == pytest.approx(mu)
    lowered = of([theta], [rho]).lowered(Mark(1, 0.0, mu)).next
    assert lowered <= a and lowered == pytest.approx(a, abs=0.2 * rho**2)


def test_where_nothing_follows_nothing_is_said() -> None:
    mark = Mark(1, 1.0, 2.0)
    assert Neighbours.none().lowered(mark) is mark and not Neighbours.none()
    assert Neighbours.none().reach(1, 0.5) == 0.5
    without = Mark(-1, 1.0, INF)
    assert of([0.5], [0.1]).lowered(without) is without
    assert of([2.0], [1e-9]).lowered(mark).next == -INF
    assert of([1.9, 1.8], [0.1, 0.1]).lowered(mark).next == -INF


@CASES
def test_reach_bounds_all_that_was_not_dropped(
    steps: int, dropped: int, count: int, seed: int, sign: int
) -> None:
    neighbours, _, B = compressed(steps, dropped, count, seed, sign)
    bound = float(torch.linalg.eigvalsh(sign * B)[-1])
    largest = float(EIGENVALUES[60 - dropped - 1])
    reach = neighbours.reach(sign, bound)
    assert largest <= reach + 1e-12
    assert reach <= max(bound, float((sign * neighbours.values).max())) + float(
        neighbours.residual_norms.norm()
    )


def test_reach_is_met_where_all_is_coupled() -> None:
    A = torch.tensor([[1.0, 0.3], [0.3, 0.8]], dtype=F64)
    assert of([1.0], [0.3]).reach(1, 0.8) == pytest.approx(float(torch.linalg.eigvalsh(A)[-1]), rel=1e-12)
    assert of([-1.0], [0.3]).reach(-1, 0.8) == of([1.0], [0.3]).reach(1, 0.8)
    assert of([0.5], [0.0]).reach(1, 0.8) == pytest.approx(0.8)


VALUES = torch.tensor([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0], dtype=F64)
UPPER, LOWER = Mark(1, 4.0, 5.0), Mark(-1, 3.0, 3.5)


@pytest.mark.parametrize(
    ("norms", "marks", "most", "expected"),
    [
        ([0.0] * 8, [UPPER], 3, [6, 5, 4]),
        ([0.0] * 8, [UPPER], 0, []),
        ([0.0] * 8, [LOWER], 2, [0, 1]),
        # At the end where it is closest: 5 − 3 to 3.5 − 3, then 3.5 − 2; 5 − 3 to 3.5 − 1.
        ([0.0] * 8, [UPPER, LOWER], 4, [0, 1, 6, 2]),
        ([0.0] * 8, [UPPER, LOWER._replace(next=INF)], 4, [6, 5, 4, 3]),
        ([0.0] * 8, [UPPER._replace(next=INF)], 4, []),
        # As long as the mark stays apart from 4: 0.4² / 2 is less than a tenth of 5 − 4, but not 0.5² / 2.
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.4, 0.0], [UPPER], 1, [6]),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0], [UPPER], 1, []),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0], [UPPER], 3, [6]),
        # What the lower end takes from the mark of the upper counts too: 0.15² / 7, of 0.05 or of 0.03.
        ([0.15, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [UPPER._replace(next=4.05), LOWER], 3, [0, 6, 1]),
        ([0.15, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [UPPER._replace(next=4.03), LOWER], 3, []),
    ],
)
def test_the_outermost_are_chosen_where_it_is_closest(
    norms: list[float], marks: list[Mark], most: int, expected: list[int]
) -> None:
    every = torch.tensor(norms, dtype=F64)
    chosen, pairs = next_to(VALUES, every, torch.tensor([7]), marks, most)
    assert chosen.tolist() == expected
    assert torch.equal(pairs.values, VALUES[expected]) and torch.equal(pairs.residual_norms, every[expected])


def test_of_a_basis_that_is_all_wanted_there_are_none() -> None:
    chosen, pairs = next_to(VALUES[:2], VALUES[:2], torch.tensor([0, 1]), [UPPER, LOWER], 5)
    assert chosen.tolist() == [] and not pairs


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("copies", [2, 3])
def test_copies_are_found_beside_them(which: str, copies: int) -> None:
    """A second start that sees something goes on without them, to the same residuals."""
    sign = -1 if which == "SA" else 1
    values = torch.cat(
        [0.97 ** torch.arange(2000, dtype=F64), torch.tensor([0.97] * (copies - 1), dtype=F64)]
    )
    found = eigsh(Diagonal(sign * values), 4, which=which, method="lanczos", rtol=1e-9)
    expected = values.sort(descending=True).values[:4]
    torch.testing.assert_close(
        sign * found.eigenvalues.sort(descending=sign > 0).values, expected, rtol=1e-9, atol=0
    )
    assert bool((found.residual_norms <= 1e-9).all()) and found.miss_probability <= 1e-3


def test_a_cluster_at_one_end_is_not_hidden_by_what_is_deflated_at_the_other() -> None:
    # The mark lies 1e-7 from the last of the cluster; pairs at the other end take the squares of residuals.
    cluster = -1 + 1e-7 * torch.tensor([0.3, 0.5, 1.1, 1.2, 1.9, 2.5, 6.2], dtype=F64)
    rest = torch.cat([torch.linspace(-0.3, 0.35, 58, dtype=F64), torch.linspace(0.36, 0.5, 8, dtype=F64)])
    A = with_spectrum(torch.cat([cluster, rest]))
    for seed in range(20):
        found = eigsh(A, 15, which="BE", method="lanczos", generator=seed)
        assert (found.eigenvalues.sort().values[:7] - cluster).abs().max() <= 3e-8, seed
        assert found.miss_probability <= 1e-3


def test_they_save_products() -> None:
    found = eigsh(Diagonal(0.99 ** torch.arange(3000, dtype=F64)), 5, which="LA", method="lanczos")
    # Without them 29, and with a start that has to converge 54.
    assert found.matvecs["missed members"] <= 20 and found.miss_probability <= 1e-3
