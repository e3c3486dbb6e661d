from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hvplib.eigen.bounds import miss_probability
from hvplib.eigen.missed import BlockEnd, End, described, miss_bound, remade, resolution_of
from hvplib.eigen.start import Start
from hvplib.krylov.lanczos import Factorization

F64 = torch.float64
STARTS = 20_000
NONE = torch.zeros(0, dtype=F64)

# Spectra that hide their largest eigenvalue from a few steps as well as they can: the rest is quickly told.
SPECTRA: dict[str, Tensor] = {
    "three": torch.tensor([0.0, 0.5, 1.0], dtype=F64),
    "close": torch.tensor([0.0, 0.95, 1.0], dtype=F64),
    "far": torch.tensor([0.99, 0.995, 1.0], dtype=F64) * 100 - 99,
    "repeated below": torch.tensor([0.0] * 20 + [0.9] * 20 + [1.0], dtype=F64),
    "repeated far below": torch.tensor([0.0] * 50 + [0.1] * 50 + [1.0], dtype=F64),
    "three below": torch.tensor([-1.0] * 10 + [0.0] * 10 + [0.5] * 10 + [1.0], dtype=F64),
    "uniform": torch.linspace(-1, 1, 12, dtype=F64),
    "graded": torch.cat([torch.logspace(-6, -1, 30, dtype=F64), torch.ones(1, dtype=F64)]),
}


def shown(values: Tensor, steps: int) -> list[End]:
    """What random starts show at the upper end after so many steps, by dense algebra."""
    n = values.numel()
    z = torch.randn(STARTS, n, generator=torch.Generator().manual_seed(n), dtype=F64)
    powers = (values.reshape(-1, 1) - values.mean()) ** torch.arange(steps, dtype=F64)
    Q = torch.linalg.qr(z.unsqueeze(2) * powers).Q
    T = Q.mT @ (values.unsqueeze(1) * Q)
    theta, S = torch.linalg.eigh((T + T.mT) / 2)
    Y = Q @ S
    norms = torch.linalg.vector_norm(values.unsqueeze(1) * Y - Y * theta.unsqueeze(1), dim=1)
    # The last step brings in a vector as long as all residuals together.
    new = torch.cat([T.diagonal(1, 1, 2).abs(), norms.norm(dim=1, keepdim=True)], dim=1)
    scales = new.log().sum(1).tolist()
    return [End(n, *row, NONE, scale, 0.0) for *row, scale in zip(theta, norms, scales, strict=True)]


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_largest_eigenvalue_is_declared_missing_no_more_often_than_stated(
    spectrum: str, steps: int
) -> None:
    # It is there. So "there is none beyond, but for a probability p" is an error, and p bounds how often.
    values = SPECTRA[spectrum]
    stated = torch.tensor([end.probability(float(values[-1])) for end in shown(values, steps)])
    for p in (0.3, 0.1, 0.03, 0.01, 0.003):
        errors = int((stated <= p).sum())
        assert errors <= p * STARTS + 4 * math.sqrt(p * STARTS), p


def test_it_is_declared_missing_nearly_as_often_as_stated() -> None:
    # The bound is no larger than it has to be: two exact steps of a spectrum of three values.
    stated = torch.tensor([end.probability(1.0) for end in shown(SPECTRA["close"], 2)])
    for p in (0.1, 0.03):
        assert int((stated <= p).sum()) >= p * STARTS / 4, p


def part_of(u: Tensor, F: Factorization) -> float:
    """How much of a unit vector the basis and the next block contain."""
    return float((F.basis.rows[F.locked : F.count + F.width] @ u).norm())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("capacity", [40, 12, 9])
def test_it_is_by_how_much_the_start_s_part_of_an_eigenvector_has_grown(sign: int, capacity: int) -> None:
    # u has so little of the start that the Ritz values are those without it.
    n, part, beyond = 200, 1e-14, 1.3
    values = torch.cat([torch.linspace(-1, 1, n - 1, dtype=F64) ** 3, torch.tensor([beyond], dtype=F64)])
    z = torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    z[-1] = 0
    z[-1] = part * z.norm()
    u = torch.eye(n, dtype=F64)[-1]
    F = Factorization(z, capacity=capacity, size=n)
    start = Start(F, [1, -1])
    for step in range(24):
        if F.full:
            start.restart(F.ritz(), *((1, 0) if sign > 0 else (0, 1)))
        assert F.expand(lambda X: sign * values.unsqueeze(1) * X, lambda k: torch.zeros(n, k, dtype=F64))
        ritz = F.ritz()
        end = start.seen(ritz.values, ritz.residual_norms)[0 if sign > 0 else 1]
        expected = math.sqrt(2 * n / math.pi) * part / part_of(u, F)
        probability = end.probability(beyond)
        assert probability == 1.0 if expected > 1 else probability == pytest.approx(expected, rel=1e-6), step
    assert probability < 1e-6


def test_few_products_show_nothing() -> None:
    # One product: c^2 (1 + (x - theta)^2 / rho^2) <= 1, in closed form.
    one = End(1000, torch.tensor([0.9], dtype=F64), torch.tensor([0.1], dtype=F64), NONE, math.log(0.1), 0.0)
    growth = math.sqrt(1 + ((100.0 - 0.9) / 0.1) ** 2)
    assert one.probability(100.0) == pytest.approx(math.sqrt(2 * 1000 / math.pi) / growth, rel=1e-12)
    assert one.probability(1.0) == 1.0


def test_a_small_probability_is_no_smaller_than_rounding() -> None:
    end = End(1000, torch.zeros(1, dtype=F64), torch.zeros(1, dtype=F64), NONE, math.log(1e-300), 1e-15)
    assert end.probability(1.0) == 1e-15


@pytest.mark.parametrize("beyond", [1.0, 1.1, 2.0])
def test_of_a_block_it_is_the_bound_of_the_krylov_space_of_a_vector(beyond: float) -> None:
    end = BlockEnd(1000, value=0.9, smallest=-1.0, steps=40)
    gap, span = beyond - 0.9, 0.9 + 1.0  # of what is missing, and of the Ritz values
    expected = 2 * miss_probability(1000, 40, gap / (span + 2 * gap))
    assert end.probability(beyond) == expected and end.residual_norm == math.inf
    assert remade(described(end)) == end


def ends(norm: float, steps: int = 5) -> list[End]:
    """Two ends of a start whose largest Ritz pairs have this residual norm."""
    values = torch.linspace(-1, 1, steps, dtype=F64)
    norms = torch.full_like(values, norm)
    return [End(500, values, norms, NONE, math.log(norm), 0.0), End(500, values - 0.1, norms, NONE, 0.0, 0.0)]


def test_fields_make_it_again() -> None:
    (end, _) = ends(1e-3)
    other = remade(described(end))
    assert isinstance(other, End) and other.probability(1.1) == end.probability(1.1)
    assert (other.value, other.residual_norm) == (end.value, end.residual_norm) == (1.0, 1e-3)


@pytest.mark.parametrize("beyond", [1.0, 0.5, -math.inf])
def test_nothing_is_known_of_what_has_been_seen(beyond: float) -> None:
    assert ends(1e-9)[0].probability(beyond) == 1.0
    # Nor of what was seen, and given up.
    given_up = replace(ends(1e-9)[0], given_up=torch.tensor([1.5], dtype=F64))
    assert given_up.probability(1.5) == 1.0 > given_up.probability(1.6)
    assert BlockEnd(10, value=1.0, smallest=-1.0, steps=5).probability(beyond) == 1.0


def test_bound_falls_with_the_distance_and_adds_up_over_the_ends() -> None:
    upper, lower = ends(1e-8)
    near, far = (upper.probability(1.0 + gap) for gap in (0.01, 0.1))
    assert far < near < 1
    assert miss_bound([upper, lower], [1.1, 8.0]) == upper.probability(1.1) + lower.probability(8.0)
    assert miss_bound([upper, lower], [0.9, 0.6]) == 1.0
    assert miss_bound([], []) == 0.0


@pytest.mark.parametrize("probability", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("norm", [1e-10, 1e-3, 1.0])
def test_resolution_is_where_the_bound_meets_the_probability(probability: float, norm: float) -> None:
    both, marks = ends(norm), [1.2, 1.0]
    found = resolution_of(both, marks, probability, scale=1e6)
    assert 0 < found < math.inf
    assert miss_bound(both, [mark + found for mark in marks]) <= probability
    at_marks = miss_bound(both, marks) <= probability
    assert at_marks or miss_bound(both, [mark + 0.98 * found for mark in marks]) > probability
    if at_marks:
        assert found <= 1e-9


def test_resolution_at_its_limits() -> None:
    blind = ends(1.0, steps=1)[:1]
    assert resolution_of(blind, [1.0], 1e-3, scale=4.0) == math.inf
    assert resolution_of(blind, [1.0], 1e-3, scale=0.0) == 0.0
