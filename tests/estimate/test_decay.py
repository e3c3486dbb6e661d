"""How the variance grows without a vector, against a loop; and how far an interval reaches for it."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib.estimate.decay import growth, reaches
from hvplib.estimate.products import Products
from hvplib.estimate.samples import student
from hvplib.estimate.xnystrace import XNysTraceSketch
from hvplib.estimate.xtrace import XTraceSketch
from tests.estimate.spectra import with_spectrum
from tests.estimate.test_exchangeable import Fixed, by_definition

F64 = torch.float64


def test_growth_is_a_ratio_of_variances() -> None:
    generator = torch.Generator().manual_seed(0)
    terms, both = torch.randn(6, generator=generator, dtype=F64), torch.randn(6, 6, generator=generator)
    both = 5 * both.double()
    both.fill_diagonal_(math.nan)  # nobody looks at it
    each = [torch.stack([both[i, j] for i in range(6) if i != j]).var() for j in range(6)]
    assert growth(terms, both) == pytest.approx(float(torch.stack(each).mean() / terms.var()), rel=1e-12)
    assert growth(terms, both / 1e6) == 1.0  # it never falls by leaving something out
    assert growth(torch.ones(6, dtype=F64), both) == 1.0 and growth(terms[:2], both[:2, :2]) == 1.0


@pytest.mark.parametrize("kind", ["xtrace", "xnystrace"])
def test_the_sketches_state_it(kind: str) -> None:
    k, n = 5, 14
    Omega = torch.randn(k, n, generator=torch.Generator().manual_seed(5), dtype=F64).mT
    A = with_spectrum("slow exponential", n)
    sketch = {"xtrace": XTraceSketch, "xnystrace": XNysTraceSketch}[kind](
        Products(A, 1000),
        Fixed(Omega),  # type: ignore[arg-type]
    )
    sketch.grow(k)
    terms = torch.stack([by_definition(kind, A.matrix, Omega, i, {i}) for i in range(k)])
    both = torch.zeros(k, k, dtype=F64)
    for i in range(k):
        for j in range(k):
            if i != j:
                both[i, j] = by_definition(kind, A.matrix, Omega, i, {i, j})
    stated = sketch.terms().growth
    assert stated == pytest.approx(growth(terms, both), rel=1e-7) and stated > 1


def test_students_where_nothing_falls() -> None:
    t = student(0.95, 16)
    assert reaches(t, 1.0, 2.0) == pytest.approx((t, t), rel=1e-9)
    assert reaches(math.inf, 3.0, 1.0) == (math.inf, math.inf)


def test_the_long_side_is_where_the_tail_is() -> None:
    t = student(0.95, 16)
    below, above = reaches(t, 1.4, 0.3)
    assert reaches(t, 1.4, -0.3) == (above, below)
    # Hall's transformation of the end gives Student's back, with a = 0.44 (1 − ρ⁻³).
    a = 0.44 * (1 - 1.4**-3)
    assert -above + a * above**2 / 3 - a**2 * above**3 / 27 + a / 6 == pytest.approx(-t, rel=1e-9)
    assert below == pytest.approx(0.93 * t) and above > 1.2 * t


def test_steep_spectra_have_wide_intervals_and_no_endless_ones() -> None:
    t = student(0.95, 16)
    at_two, at_four, at_most = (reaches(t, rho, 1.0) for rho in (2.0, 4.0, 1e9))
    assert at_four[0] == pytest.approx(2 * 0.93 * t) and at_two[0] == pytest.approx(0.93 * t)
    assert at_most[0] == pytest.approx(4 * 0.93 * t) and at_most[1] < 20 * t


def test_growth_tells_the_ratio_of_eigenvalues() -> None:
    """Over seeds its median for eigenvalues like 0.7ⁱ is near 0.7⁻²."""
    found = []
    for seed in range(60):
        Omega = torch.randn(20, 60, generator=torch.Generator().manual_seed(seed), dtype=F64).mT
        sketch = XTraceSketch(Products(with_spectrum("exponential", 60), 1000), Fixed(Omega))  # type: ignore[arg-type]
        sketch.grow(20)
        found.append(sketch.terms().growth)
    assert torch.tensor(found).median() == pytest.approx(0.7**-2, rel=0.25)
