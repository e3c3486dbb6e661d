from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib import Diagonal, EigenResult, Lanczos, Status, eigsh
from hvplib.eigen.search import Search
from hvplib.krylov.ritz import Ritz
from tests.eigen.matrices import EASY, HARD, honest, operator, residuals, with_spectrum

F32, F64 = torch.float32, torch.float64


def found(values: Tensor, k: int, which: Any, **options: Any) -> EigenResult:
    """By Lanczos, of a dense matrix with these eigenvalues; judged but for which values they are."""
    A = with_spectrum(values)
    result = eigsh(A, k, which=which, **({"method": "lanczos"} | options))
    assert result.status is Status.CONVERGED and result.converged.all()
    honest(A, result)
    return result


# Repeated eigenvalues: a Krylov space shows one copy of each.


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("copies", [2, 3, 5])
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_all_copies_are_found(which: str, copies: int, seed: int) -> None:
    values = torch.cat([torch.linspace(0, 1, 150), torch.full((copies,), 2.0), torch.tensor([3.0])]).double()
    sign = -1.0 if which == "SA" else 1.0
    result = found(sign * values, copies + 2, which, generator=seed)
    expected = sign * torch.tensor([3.0, *[2.0] * copies, 1.0], dtype=F64)
    torch.testing.assert_close(result.eigenvalues, expected, rtol=0, atol=1e-12)
    assert result.miss_probability <= 1e-3


@pytest.mark.parametrize("which", ["LM", "BE"])
def test_copies_at_both_ends(which: str) -> None:
    values = torch.cat([torch.full((3,), -2.0), torch.linspace(-1, 1, 150), torch.full((3,), 2.0)])
    result = found(values, 6, which)
    assert sorted(result.eigenvalues.tolist()) == pytest.approx([-2.0] * 3 + [2.0] * 3, abs=1e-12)


def test_copies_where_only_some_are_wanted() -> None:
    values = torch.cat([torch.linspace(0, 1, 150), torch.full((10,), 2.0)])
    result = found(values, 4, "LA")
    assert result.eigenvalues.tolist() == pytest.approx([2.0] * 4, abs=1e-12)
    # One value is as good as a copy of it: none of these would change anything, so none is looked for.
    assert "missed members" not in result.matvecs


def test_start_that_hides_an_eigenvector() -> None:
    # v0 has no part in the largest: only the second start can show it.
    values = torch.cat([torch.linspace(0, 1, 150), torch.tensor([2.0, 3.0])]).double()
    v0 = torch.cat([torch.ones(151), torch.zeros(1)]).double()
    result = eigsh(Diagonal(values), 2, which="LA", v0=v0, method="lanczos")
    torch.testing.assert_close(result.eigenvalues, torch.tensor([3.0, 2.0], dtype=F64))
    assert result.matvecs["missed members"] > 0


def test_without_the_second_start_copies_may_be_missed_and_nothing_is_claimed() -> None:
    values = torch.cat([torch.linspace(0, 0.01, 150), torch.tensor([1.0, 2.0, 2.0])])
    # So few steps that rounding brings no copy either.
    result = found(values, 2, "LA", method=Lanczos(miss_probability=None), rtol=1e-3)
    assert "missed members" not in result.matvecs
    assert result.eigenvalues.tolist() == pytest.approx([2.0, 1.0], rel=1e-3)
    assert found(values, 2, "LA", rtol=1e-3).eigenvalues.tolist() == pytest.approx([2.0, 2.0])
    assert math.isnan(result.miss_probability) and math.isnan(result.miss_resolution)


@pytest.mark.parametrize("probability", [0.1, 1e-3, 1e-9])
def test_the_probability_asked_for_is_kept(probability: float) -> None:
    result = found(EASY, 3, "LM", method=Lanczos(miss_probability=probability))
    assert 0 < result.miss_probability <= probability
    assert result.miss_resolution == pytest.approx(1.0, abs=1e-10)  # beyond 4, up to 5


def test_more_certainty_costs_more_products() -> None:
    costs = [
        found(EASY, 3, "LM", method=Lanczos(miss_probability=p)).matvecs["missed members"]
        for p in (0.1, 1e-4, 1e-8)
    ]
    assert costs == sorted(costs) and costs[0] < costs[-1]


def test_a_single_pair_rests_on_the_first_start() -> None:
    result = found(EASY, 1, "LA")
    assert result.miss_probability == 1e-3 and "missed members" not in result.matvecs
    assert 0 < result.miss_resolution < 0.1


def test_a_start_that_was_given_says_nothing_of_what_it_does_not_contain() -> None:
    eigenvector = torch.linalg.eigh(with_spectrum(EASY)).eigenvectors[:, 50]
    result = found(EASY, 1, "LA", v0=eigenvector)
    assert float(result.eigenvalues[0]) == pytest.approx(float(EASY.max()), abs=1e-10)
    assert result.matvecs["missed members"] > 0 and result.miss_probability <= 1e-3


# Bounds by gaps: only where a start was made that would have shown the others.


def test_gap_bounds_rest_on_the_second_start() -> None:
    values = torch.cat([torch.linspace(0, 1, 195), torch.tensor([3.0, 3.0, 4.0, 6.0, 9.0])]).double()
    result = found(values, 5, "LA")
    # Of the last pair too: the second start has shown how far below the others are. Not of the double one.
    assert result.gap_bounds.isnan().tolist() == [False, False, False, True, True]
    assert result.gap_bounds[:3].max() < 1e-11
    exact = torch.tensor([9.0, 6.0, 4.0], dtype=F64)
    assert ((result.eigenvalues[:3] - exact).abs() <= result.gap_bounds[:3]).all()
    blind = found(values[[*range(196), 197, 198, 199]], 4, "LA", method=Lanczos(miss_probability=None))
    assert blind.gap_bounds.isnan().all()


def test_gap_bound_of_the_last_pair_is_by_what_the_second_start_has_shown() -> None:
    near = torch.cat([torch.linspace(0, 1, 198, dtype=F64), torch.tensor([3.0, 3.1], dtype=F64)])
    for which, sign in (("LA", 1), ("SA", -1), ("LM", 1), ("LM", -1)):
        result = found(sign * near, 2, which)
        assert bool((result.gap_bounds <= 1e-11).all()), which
        exact = sign * torch.tensor([3.1, 3.0], dtype=F64)
        assert bool(((result.eigenvalues - exact).abs() <= result.gap_bounds).all())
        # A copy of 9 is ruled out before one of 3, which would change nothing, and so is not waited for.
        near[-1] = 9.0
        assert found(sign * near, 2, which).gap_bounds.isnan().tolist() == [False, True]
        near[-1] = 3.1


@pytest.mark.parametrize("width", [1e-8, 1e-10, 1e-13])
def test_a_single_pair_of_a_cluster_has_no_gap_bound(width: float) -> None:
    # Its vector is a mixture of the cluster, whose other members one Krylov space does not show.
    values = torch.cat([torch.linspace(-0.5, 0.5, 120), 1 - width * torch.arange(6) / 6]).double()
    assert found(values, 1, "LA").gap_bounds.isnan().all()


@pytest.mark.parametrize("method", ["arpack", "lobpcg"])
def test_methods_that_look_for_nothing_missed_know_no_gap(method: str) -> None:
    assert eigsh(with_spectrum(EASY), 3, method=method).gap_bounds.isnan().all()


# From a start nearby.


@pytest.mark.parametrize("k", [1, 3, 6])
def test_exact_vectors_cost_a_step_and_the_confirmation(k: int) -> None:
    A = with_spectrum(HARD)
    cold = eigsh(A, k, which="LA", method="lanczos", rtol=1e-10)
    warm = eigsh(A, k, which="LA", method="lanczos", v0=cold.eigenvectors)
    assert warm.matvecs["iteration"] + warm.matvecs["confirmation"] <= 2 * k + 1
    assert warm.num_matvecs < cold.num_matvecs
    torch.testing.assert_close(warm.eigenvalues, cold.eigenvalues)


def test_vectors_of_an_operator_nearby_save_products() -> None:
    A = with_spectrum(HARD)
    nearby = A + 1e-6 * with_spectrum(torch.linspace(-1, 1, 200), seed=5)
    old = eigsh(nearby, 1, which="LA", method="lanczos", rtol=1e-10)
    cold = eigsh(A, 1, which="LA", method="lanczos")
    warm = eigsh(A, 1, which="LA", method="lanczos", v0=old.eigenvectors)
    assert warm.matvecs["iteration"] < cold.matvecs["iteration"]
    torch.testing.assert_close(warm.eigenvalues, cold.eigenvalues)


@pytest.mark.parametrize("kind", ["more", "fewer", "dependent", "some zero"])
def test_starts_of_any_rank(kind: str) -> None:
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    start = {
        "more": x,
        "fewer": x[:, :2],
        "dependent": x[:, [0, 0, 1]],
        "some zero": torch.cat([x[:, :2], torch.zeros(200, 1, dtype=F64)], dim=1),
    }[kind]
    result = found(EASY, 3, "LA", v0=start)
    assert result.eigenvalues.tolist() == pytest.approx([6.0, 5.0, 4.0], abs=1e-12)


# Hard and degenerate spectra.


@pytest.mark.parametrize("value", [0.0, -3.0])
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_multiples_of_the_identity(value: float, which: Any) -> None:
    result = eigsh(value * torch.eye(100, dtype=F64), 4, which=which, method="lanczos")
    torch.testing.assert_close(result.eigenvalues, torch.full((4,), value, dtype=F64))
    assert result.status is Status.CONVERGED


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank(rank: int) -> None:
    values = torch.cat([torch.arange(1.0, rank + 1), torch.zeros(120)]).double()
    result = found(values, 5, "LM")
    expected = torch.cat([torch.arange(rank, 0, -1.0), torch.zeros(5 - rank)]).double()
    torch.testing.assert_close(result.eigenvalues, expected, rtol=0, atol=1e-13)


def test_a_tie_of_magnitudes() -> None:
    result = found(torch.cat([torch.linspace(-1, 1, 98), torch.tensor([-2.0, 2.0])]), 2, "LM")
    assert sorted(result.eigenvalues.tolist()) == pytest.approx([-2.0, 2.0], abs=1e-12)


def test_values_far_below_the_largest() -> None:
    values = torch.logspace(0, -12, 120, dtype=F64)
    result = found(values, 8, "LA", rtol=1e-6)
    assert ((result.eigenvalues - values[:8]).abs() <= result.residual_norms + 1e-14).all()


def test_float32() -> None:
    A = with_spectrum(EASY).float()
    result = eigsh(A, 3, method="lanczos")
    assert result.eigenvectors.dtype == F32 and result.status is Status.CONVERGED
    assert result.eigenvalues.tolist() == pytest.approx([6.0, 5.0, 4.0], abs=1e-5)
    assert (residuals(A, result.eigenvalues, result.eigenvectors) <= 6 * torch.finfo(F32).eps ** 0.5).all()


# What is told of the way.


def test_history() -> None:
    A = operator(with_spectrum(HARD))
    result = eigsh(A, 3, which="LA", method="lanczos")
    matvecs, done, ratio = result.history.mT
    assert result.history.shape[1] == 3
    assert (matvecs.diff() > 0).all() and matvecs[-1] <= result.num_matvecs
    assert ((done >= 0) & (done <= 3)).all() and done[-1] == 3
    assert ratio[0] > 1 >= ratio[-1]


@pytest.mark.parametrize(("phase", "purpose"), [("_iterate", "iteration"), ("_check", "missed members")])
def test_the_small_eigenproblem_is_not_solved_in_every_step(
    monkeypatch: pytest.MonkeyPatch, phase: str, purpose: str
) -> None:
    looks: list[Ritz] = []
    look = getattr(Search, phase)
    monkeypatch.setattr(Search, phase, lambda search, ritz: (looks.append(ritz), look(search, ritz))[1])
    values = torch.cat([torch.linspace(0, 1, 400), torch.tensor([1.2, 1.3, 1.4, 1.4])])
    result = found(values, 4, "LA", method=Lanczos(krylov_dim=40))
    assert result.eigenvalues.tolist() == pytest.approx([1.4, 1.4, 1.3, 1.2], abs=1e-7)
    assert 1 < len(looks) < 0.6 * result.matvecs[purpose]
