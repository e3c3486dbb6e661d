"""Bounds hold against dense algebra in thousands of instances; where nothing is known, they say nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from scipy.special import betainc
from torch import Generator, Tensor

from hvplib.eigen.bounds import (
    cluster_enclosures,
    eigenvector_bounds,
    enclosures,
    gap_bounds,
    miss_probability,
    remainder,
    resolution_for,
    steps_for,
)
from hvplib.krylov.ends import Which

F64 = torch.float64
INF, NAN = math.inf, math.nan
ROUNDING = 1e-12


def tensor(*numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=F64)


def normal(rng: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=rng, dtype=F64)


def integer(rng: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=rng))


class Instance:
    """Some perturbed eigenvectors of a symmetric matrix, orthonormal, with Rayleigh quotients."""

    def __init__(self, seed: int) -> None:
        rng = Generator().manual_seed(seed)
        n = integer(rng, 1, 9)
        z = normal(rng, n)
        spectrum = [z, z.round(), 1 + 1e-6 * z, 10 ** (4 * z)][integer(rng, 0, 3)]
        self.spectrum = spectrum.sort().values
        self.eigenvectors = torch.linalg.qr(normal(rng, n, n)).Q
        A = (self.eigenvectors * self.spectrum) @ self.eigenvectors.mT
        self.A = (A + A.mT) / 2
        self.chosen = torch.randperm(n, generator=rng)[: integer(rng, 1, n)].sort().values
        noise = 10.0 ** -integer(rng, 0, 8)
        X = self.eigenvectors[:, self.chosen]
        self.X = torch.linalg.qr(X + noise * normal(rng, *X.shape)).Q
        self.theta = (self.X * (self.A @ self.X)).sum(0)
        self.R = self.A @ self.X - self.X * self.theta
        self.norms = torch.linalg.vector_norm(self.R, dim=0)
        self.rounding = ROUNDING * max(1.0, float(self.spectrum.abs().max()))
        self.rng = rng

    def rest(self) -> Tensor:
        """The eigenvalues of the deflated matrix, each an interval by itself: a condition that is true."""
        Y = torch.linalg.qr(self.X, mode="complete").Q[:, len(self.theta) :]
        return torch.linalg.eigvalsh(Y.mT @ self.A @ Y).unsqueeze(1).expand(-1, 2)


def instances(count: int) -> Iterator[Instance]:
    return map(Instance, range(count))


def within(intervals: Tensor, numbers: Tensor) -> Tensor:
    return (intervals[:, :1] <= numbers) & (numbers <= intervals[:, 1:])


def matched(intervals: Tensor, numbers: Tensor) -> bool:
    """Whether each interval can be given a number of its own; for equal lengths a greedy choice is right."""
    left = numbers.sort().values.tolist()
    for low, high in sorted(intervals.tolist()):
        inside = [number for number in left if low <= number <= high]
        if not inside:
            return False
        left.remove(inside[0])
    return True


# ------------------------------------------------------------------------------------------------ enclosures


def test_each_enclosure_holds_an_eigenvalue() -> None:
    for one in instances(3000):
        assert within(enclosures(one.theta, one.norms, one.rounding), one.spectrum).any(1).all()


def test_enclosure_holds_for_any_value_and_is_sharp() -> None:
    """For x the mean of two eigenvectors and θ in the middle, the eigenvalues are the interval's ends."""
    A, x = torch.diag(tensor(1.0, 3.0)), tensor(1.0, 1.0) / math.sqrt(2)
    norm = torch.linalg.vector_norm(A @ x - 2 * x).reshape(1)
    torch.testing.assert_close(enclosures(tensor(2.0), norm), tensor([1.0, 3.0]))


def test_rounding_widens_by_itself() -> None:
    torch.testing.assert_close(enclosures(tensor(1.0), tensor(0.25), 0.5), tensor([0.25, 1.75]))


@pytest.mark.parametrize(("theta", "norm"), [(NAN, 1.0), (1.0, NAN), (1.0, INF), (INF, 1.0), (-INF, INF)])
def test_what_is_not_finite_encloses_nothing(theta: float, norm: float) -> None:
    found = enclosures(tensor(theta, 1.0), tensor(norm, 0.5))
    assert found.tolist() == [[-INF, INF], [0.5, 1.5]]


def test_pairs_of_a_cluster_stand_for_as_many_eigenvalues() -> None:
    for one in instances(3000):
        found = cluster_enclosures(one.theta, one.R.mT @ one.R, one.rounding)
        assert matched(found, one.spectrum)


def test_pairs_of_a_cluster_need_not_be_rayleigh_quotients() -> None:
    for one in instances(2000):
        theta = one.theta + 0.5 * normal(one.rng, len(one.theta))
        R = one.A @ one.X - one.X * theta
        assert matched(cluster_enclosures(theta, R.mT @ R, one.rounding), one.spectrum)


def test_pairs_of_a_cluster_need_not_be_orthonormal() -> None:
    tight = 0
    for one in instances(2000):
        k = len(one.theta)
        X = one.X + 10.0 ** -integer(one.rng, 0, 4) * normal(one.rng, *one.X.shape)
        X = X / torch.linalg.vector_norm(X, dim=0)
        R, G = one.A @ X - X * one.theta, X.mT @ X
        rounding = one.rounding / float(torch.linalg.eigvalsh(G)[0].clamp(1e-9))
        found = cluster_enclosures(one.theta, R.mT @ R, rounding, gram=G)
        assert matched(found, one.spectrum)
        tight += bool((found[:, 1] - found[:, 0] < 0.1 * one.spectrum.abs().max()).all()) and k > 1
    assert tight > 200  # not all of them hold because they are wide


def test_skew_vectors_do_not_prove_copies() -> None:
    """Two unit vectors that nearly coincide have tiny residuals each, but stand for one eigenvalue."""
    A = torch.diag(tensor(1.0, 5.0))
    X = torch.stack([tensor(1.0, 0.0), tensor(1.0, 1e-6)], dim=1)
    theta = tensor(1.0, 1.0)
    R = A @ X - X * theta
    assert not matched(cluster_enclosures(theta, R.mT @ R), tensor(1.0, 5.0))
    assert matched(cluster_enclosures(theta, R.mT @ R, gram=X.mT @ X), tensor(1.0, 5.0))


def test_skewness_counts_by_the_spread_of_the_values() -> None:
    """‖SΘ − ΘS‖ for S = [[c, s], [s, c]] and Θ = diag(0, d) is s d; λ_min(S) = c − s."""
    c, s, d = 0.8, 0.1, 3.0
    S = tensor([c, s], [s, c])
    found = cluster_enclosures(tensor(0.0, d), torch.zeros(2, 2, dtype=F64), gram=S @ S)
    radius = s * d / (c - s)
    torch.testing.assert_close(found, tensor([-radius, radius], [d - radius, d + radius]))


def test_cluster_of_what_is_not_finite_or_of_full_rank_is_not_enclosed() -> None:
    theta, zero, eye = tensor(1.0, 2.0), torch.zeros(2, 2, dtype=F64), torch.eye(2, dtype=F64)
    everything = [[-INF, INF], [-INF, INF]]
    assert cluster_enclosures(theta, zero + NAN).tolist() == everything
    assert cluster_enclosures(theta, zero, gram=eye * NAN).tolist() == everything
    assert cluster_enclosures(theta, zero, gram=torch.diag(tensor(1.0, 0.0))).tolist() == everything
    assert cluster_enclosures(theta * NAN, zero, gram=eye).tolist() == everything


def test_a_single_entry_that_is_not_finite_is_seen() -> None:
    """LAPACK may answer with finite numbers."""
    gram, theta = torch.eye(30, dtype=F64), torch.linspace(0, 1, 30, dtype=F64)
    gram[0, 1] = gram[1, 0] = NAN
    everything = [[-INF, INF]] * 30
    assert cluster_enclosures(theta, gram).tolist() == everything
    assert cluster_enclosures(theta, torch.eye(30, dtype=F64), gram=gram).tolist() == everything


def test_no_pairs_have_no_enclosures() -> None:
    none, square = torch.zeros(0, dtype=F64), torch.zeros(0, 0, dtype=F64)
    assert enclosures(none, none).shape == (0, 2)
    assert cluster_enclosures(none, square).shape == (0, 2)
    for elsewhere in (tensor([0.0, 1.0]), torch.zeros(0, 2, dtype=F64)):
        assert gap_bounds(none, none, elsewhere).shape == (0,)


# ------------------------------------------------------------------------------------------- bounds by gaps


def test_bounds_by_gaps_hold_where_their_condition_does() -> None:
    known = sharper = 0
    for one in instances(4000):
        found = gap_bounds(one.theta, one.norms, one.rest(), one.rounding)
        errors = (one.spectrum.unsqueeze(1) - one.theta).abs().amin(0)
        held = ~(errors > found)  # NaN claims nothing
        assert held.all(), (errors, found)
        known += int(found.isfinite().sum())
        sharper += int((found < 0.1 * one.norms).sum())
    assert known > 3000 and sharper > 1000


def test_bounds_of_eigenvectors_hold_where_their_condition_does() -> None:
    known = 0
    for one in instances(4000):
        found = eigenvector_bounds(one.theta, one.norms, one.rest(), one.rounding)
        v = one.eigenvectors[:, (one.spectrum.unsqueeze(1) - one.theta).abs().argmin(0)]
        sines = torch.linalg.vector_norm(one.X - v * (v * one.X).sum(0), dim=0)
        held = ~(sines > found + ROUNDING)
        assert held.all(), (sines, found)
        known += int((found < 0.5).sum())
    assert known > 2000


def test_bounds_by_gaps_are_sharp_to_second_order() -> None:
    """In two dimensions with x = (cos φ, sin φ) and gap g: λ − θ = g sin² φ, r = g sin φ cos φ."""
    phi, g = 1e-3, 2.0
    theta, norm = tensor(g * math.sin(phi) ** 2), tensor(g * math.sin(phi) * math.cos(phi))
    elsewhere = tensor([g, g]) * math.cos(phi) ** 2
    torch.testing.assert_close(gap_bounds(theta, norm, elsewhere), theta, rtol=3 * phi, atol=0)
    found = eigenvector_bounds(theta, norm, elsewhere)
    torch.testing.assert_close(found, tensor(math.sin(phi)), rtol=3 * phi, atol=0)


def test_gap_is_to_where_neighbours_may_be() -> None:
    theta, norms = tensor(10.0, 8.0), tensor(0.1, 0.5)
    gap = 2 - 2 * math.hypot(0.1, 0.5)
    found = gap_bounds(theta, norms, tensor([-INF, 5.0]))
    torch.testing.assert_close(found, tensor(0.01 / gap, 0.25 / gap))
    found = eigenvector_bounds(theta, norms, tensor([-INF, 5.0]))
    torch.testing.assert_close(found, tensor(0.1 / gap, 0.5 / gap))


def test_rounding_is_added_to_residuals_and_quotients_and_taken_from_gaps() -> None:
    found = gap_bounds(tensor(10.0), tensor(0.1), tensor([-INF, 8.0]), rounding=0.01)
    torch.testing.assert_close(found, tensor(0.11**2 / (2 - 2 * 0.11 - 0.01) + 0.01))


def test_bound_by_a_gap_is_never_worse_than_the_residual() -> None:
    torch.testing.assert_close(gap_bounds(tensor(1.0), tensor(0.5), tensor([2.1, INF])), tensor(0.5))
    torch.testing.assert_close(eigenvector_bounds(tensor(1.0), tensor(0.5), tensor([2.1, INF])), tensor(1.0))


def test_nothing_is_known_within_a_cluster() -> None:
    theta, norms = tensor(3.0, 3.0 - 1e-9, 1.0), torch.full((3,), 1e-6, dtype=F64)
    for bounds in (gap_bounds, eigenvector_bounds):
        found = bounds(theta, norms, tensor([-INF, 0.0]))
        assert found[:2].isnan().all() and found[2] < 1e-5


def test_nothing_is_known_beside_a_pair_that_is_not_finite() -> None:
    for bounds in (gap_bounds, eigenvector_bounds):
        assert bounds(tensor(3.0, 1.0), tensor(0.1, NAN), tensor([-INF, 0.0])).isnan().all()
        assert bounds(tensor(3.0, NAN), tensor(0.1, 0.1), tensor([-INF, 0.0])).isnan().all()


def test_the_only_eigenvalue_has_an_infinite_gap() -> None:
    nowhere = torch.zeros(0, 2, dtype=F64)
    assert gap_bounds(tensor(3.0), tensor(0.1), nowhere, rounding=1e-3).tolist() == [1e-3]
    assert eigenvector_bounds(tensor(3.0), tensor(0.1), nowhere).tolist() == [0.0]


# ------------------------------------------------------------------------------------------------- remainder


@pytest.mark.parametrize(
    ("which", "expected"),
    [("LA", [-INF, -6.0]), ("SA", [9.0, INF]), ("LM", [-4.0, 4.0]), ("BE", [-6.0, 4.0])],
)
def test_the_rest_is_beyond_the_wanted(which: Which, expected: list[float]) -> None:
    assert remainder(tensor(4.0, -6.0, 9.0), which).tolist() == [expected]


def test_of_one_value_at_both_ends_the_rest_is_below() -> None:
    assert remainder(tensor(4.0), "BE").tolist() == [[-INF, 4.0]]


def test_without_others_the_last_pair_has_no_bound() -> None:
    theta, norms = tensor(9.0, 8.0, 7.0), torch.full((3,), 0.1, dtype=F64)
    found = gap_bounds(theta, norms, remainder(theta, "LA"))
    assert found.isnan().tolist() == [False, False, True]


# -------------------------------------------------------------------------------------- probability of a miss


def failure(n: int, steps: int, resolution: float) -> float:
    """The smallest bound that holds for all spectra: P(|⟨b, v⟩| < 1 / cosh((2m − 1) artanh √ε)).

    The Lanczos method fails if no polynomial of degree m − 1 shows the eigenvalue; the one that shows it best
    is a Chebyshev polynomial of the fourth kind, and ⟨b, v⟩² is beta distributed.
    """
    z = (2 * steps - 1) * math.atanh(math.sqrt(resolution))
    return float(betainc(0.5, (n - 1) / 2, math.cosh(z) ** -2.0)) if z < 300 else 0.0


@pytest.mark.parametrize("n", [2, 3, 10, 1000, 10**6])
def test_probability_of_a_miss_bounds_the_sharp_one(n: int) -> None:
    close = 0
    for steps, resolution in product([1, 2, 5, 30, 200], [1e-6, 1e-4, 1e-2, 0.1, 0.5, 0.99]):
        bound, sharp = miss_probability(n, steps, resolution), failure(n, steps, resolution)
        assert sharp <= bound <= 1
        close += bool(resolution < 0.05 and 0 < bound < 0.1 and bound < 2 * sharp)
    assert close or n == 10**6


def test_misses_are_as_rare_as_stated() -> None:
    """The share of random starts after which Lanczos is off by more than the resolution."""
    n, starts, rng = 60, 400, Generator().manual_seed(0)
    spectrum = torch.linspace(0, 1, n, dtype=F64) ** 0.5
    for steps, resolution in ((8, 0.05), (12, 0.02), (20, 0.01)):
        misses = 0
        for _ in range(starts):
            powers = torch.stack([spectrum**i for i in range(steps)]).mT * normal(rng, n, 1)
            Q = torch.linalg.qr(powers).Q
            top = torch.linalg.eigvalsh(Q.mT @ (spectrum.unsqueeze(1) * Q))[-1]
            misses += float(top) < 1 - resolution
        bound = miss_probability(n, steps, resolution)
        assert misses / starts <= bound + 4 * math.sqrt(bound / starts)
    assert bound < 0.4


@pytest.mark.parametrize("n", [1, 7, 10**5, 10**9])
@pytest.mark.parametrize("probability", [1e-12, 1e-3, 0.5, 0.999])
@pytest.mark.parametrize("resolution", [1e-4, 0.01, 0.9, 1.0])
def test_steps_are_the_fewest(n: int, probability: float, resolution: float) -> None:
    steps = steps_for(n, probability, resolution)
    assert miss_probability(n, steps, resolution) <= probability * (1 + 1e-9)
    assert steps == 1 or miss_probability(n, steps - 1, resolution) > probability


@pytest.mark.parametrize("n", [1, 7, 10**5])
@pytest.mark.parametrize("probability", [1e-12, 1e-3, 0.5])
@pytest.mark.parametrize("steps", [1, 10, 300])
def test_resolution_is_the_finest(n: int, probability: float, steps: int) -> None:
    resolution = resolution_for(n, steps, probability)
    assert 0 < resolution <= 1
    if resolution < 1:
        assert miss_probability(n, steps, resolution) == pytest.approx(probability)
    else:
        assert miss_probability(n, steps, 0.999999) > probability * (1 - 1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: miss_probability(0, 5, 0.1), "n must be at least 1, got 0"),
        (lambda: miss_probability(5, 0, 0.1), "steps must be at least 1, got 0"),
        (lambda: miss_probability(5, 5, 0.0), "resolution must lie above 0 and be at most 1, got 0.0"),
        (lambda: miss_probability(5, 5, 1.5), "resolution must lie above 0 and be at most 1, got 1.5"),
        (lambda: miss_probability(5, 5, NAN), "resolution must lie above 0 and be at most 1, got nan"),
        (lambda: steps_for(5, 0.0, 0.1), "probability must lie between 0 and 1, both excluded, got 0.0"),
        (lambda: steps_for(5, 0.1, 2.0), "resolution must lie above 0"),
        (lambda: steps_for(0, 0.1, 0.1), "n must be at least 1"),
        (lambda: resolution_for(5, 0, 0.1), "steps must be at least 1"),
        (lambda: resolution_for(5, 5, 1.0), "probability must lie between 0 and 1, both excluded, got 1.0"),
        (lambda: resolution_for(0, 5, 0.1), "n must be at least 1"),
    ],
)
def test_questions_without_sense_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
