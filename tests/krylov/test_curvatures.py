"""What quotients prove, on quotients by hand."""

from __future__ import annotations

import pytest

from hvplib.krylov.curvatures import Curvatures

EPS = 2.0**-52


@pytest.mark.parametrize("quotient", [-1.0, 0.0, -1e-300])
def test_quotient_that_is_not_positive_is_flat_at_once(quotient: float) -> None:
    assert Curvatures(EPS).meet(quotient)


def test_small_quotient_is_flat_beside_a_large_one_only() -> None:
    seen = Curvatures(EPS)
    assert not seen.meet(1e-12) and not seen.meet(1.0)
    assert not seen.meet(3 * EPS) and seen.meet(1.9 * EPS)


def test_bound_of_the_norm_counts_as_a_quotient_does() -> None:
    assert Curvatures(EPS).meet(EPS, 1.0)
    assert not Curvatures(EPS).meet(EPS, 0.4)


def test_large_quotient_shows_how_small_an_earlier_one_was() -> None:
    seen = Curvatures(EPS)
    assert not seen.meet(1e-17) and not seen.singular
    assert not seen.meet(1.0) and seen.singular
    assert seen.zero == 2 * EPS
