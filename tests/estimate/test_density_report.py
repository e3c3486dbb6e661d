"""From rules by hand to a report: shares, shifts, spreads and bands by their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.estimate.density_report import Spectrum, report
from hvplib.estimate.probed import Rule
from hvplib.krylov.lanczos_columns import Recurrence
from hvplib.results import Status

F64 = torch.float64
EPS = 2.0**-52


def rule(nodes: list[float], weights: list[float], *, exhausted: bool = False) -> Rule:
    recurrence = Recurrence(1.0, exhausted=exhausted)
    return Rule(torch.tensor(nodes, dtype=F64), torch.tensor(weights, dtype=F64), recurrence)


def spectrum(outliers: tuple[float, ...] = (), size: int = 10, **changes: Any) -> Spectrum:
    rules = [rule([1.0, 3.0], [0.5, 0.5], exhausted=True), rule([2.0, 3.0], [0.25, 0.75], exhausted=True)]
    return Spectrum(size, rules, torch.tensor(outliers, dtype=F64), EPS, **changes)


def made(
    given: Spectrum, *, status: Status = Status.ESTIMATED, grid: Tensor | int = 200, **changes: Any
) -> Any:
    settings: dict[str, Any] = {"width": 0.2, "scale": "linear", "confidence": 0.95, "steps": 2}
    settings |= {"matvecs": {"iteration": 4}, "method": "by hand"}
    return report(given, grid=grid, status=status, **(settings | changes))


def test_a_whole_spectrum_is_its_own_measure() -> None:
    values = torch.tensor([1.0, 2.0, 2.0, 5.0], dtype=F64)
    t = torch.tensor([0.5, 1.5, 2.5, 6.0], dtype=F64)
    found = made(Spectrum.whole(values, EPS), status=Status.EXACT, grid=t)
    torch.testing.assert_close(found.cdf, torch.tensor([0, 0.25, 0.75, 1], dtype=F64), rtol=1e-12, atol=1e-12)
    assert found.band == 0 and found.confidence == 1.0 and not found.density_stderr.any()
    assert float((found.cdf_bounds[:, 1] - found.cdf_bounds[:, 0]).max()) < 1e-12
    z = (t.unsqueeze(1) - values) / 0.2
    density = (torch.exp(-z.square() / 2) / (0.2 * math.sqrt(2 * math.pi))).mean(1)
    torch.testing.assert_close(found.density, density, rtol=1e-12, atol=1e-15)
    powers = torch.stack([(values**j).mean() for j in range(1, 5)])
    torch.testing.assert_close(found.moments, powers)


def test_the_mean_of_two_rules_and_an_outlier_that_counts_by_itself() -> None:
    given = spectrum(outliers=(8.0,))
    assert given.left == 9 and given.share == 0.9
    t = torch.tensor([0.0, 1.5, 2.5, 4.0, 9.0], dtype=F64)
    found = made(given, grid=t)
    # ¼ of the nine at 1, ⅛ at 2, ⅝ at 3, and one of ten at 8.
    expected = torch.tensor([0, 0.9 / 4, 0.9 * 3 / 8, 0.9, 1.0], dtype=F64)
    torch.testing.assert_close(found.cdf, expected, rtol=1e-12, atol=1e-12)
    mean = 0.9 * (1 / 4 + 2 / 8 + 3 * 5 / 8) + 0.8
    assert float(found.moments[0]) == pytest.approx(mean, rel=1e-14)
    assert found.nodes.shape == (2, 2) and found.outliers.tolist() == [8.0] and found.size == 10


def test_the_standard_error_of_uniform_directions() -> None:
    given = spectrum()
    means, squares = torch.tensor([2.0], dtype=F64), torch.tensor([5.0], dtype=F64)
    # √(2 (5 − 4) / (2 (10 + 2))) for two directions in ten dimensions.
    assert float(given.spread(means, squares)) == pytest.approx(math.sqrt(2 / 24), rel=1e-14)
    assert float(given.spread(means, means**2 - 1e-9)) == 0  # rounding makes no NaN
    assert float(made(given).moment_stderrs[0]) == pytest.approx(
        math.sqrt(2 * ((1 + 9) / 4 + (4 + 27) / 8 - (1 + 3 + 1 + 4.5) ** 2 / 16) / 24), rel=1e-12
    )


def test_the_band_is_that_of_a_union_of_sub_gaussians() -> None:
    found = made(spectrum(), confidence=0.9)
    expected = math.sqrt(math.log(2 * 9 / 0.1) / (2 * 12))
    assert found.band == pytest.approx(expected, rel=1e-14) and found.confidence == 0.9
    half = (found.cdf_bounds[:, 1] - found.cdf_bracket[:, 1]).max()
    assert float(half) <= expected + 1e-12
    assert made(Spectrum(1, spectrum().rules, torch.zeros(0, dtype=F64), EPS)).band == 0


def test_shifts_widen_the_bracket() -> None:
    given = spectrum(coupling=0.25)
    assert given.shift == pytest.approx(0.25 + 32 * EPS * 3)
    t = torch.tensor([0.5, 0.9, 1.1, 1.5], dtype=F64)
    low, high = made(given, grid=t).cdf_bracket.unbind(1)
    # The quarter at 1 may lie between 0.75 and 1.25.
    torch.testing.assert_close(low, torch.tensor([0, 0, 0, 0.25], dtype=F64), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(high, torch.tensor([0, 0.25, 0.25, 0.25], dtype=F64), rtol=1e-12, atol=1e-12)


def test_what_lies_outside_the_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="lies inside"):
        made(spectrum(interval=(1.5, None)))


def test_what_is_not_positive_is_left_out_of_a_logarithmic_scale() -> None:
    rules = [rule([-1.0, 10.0], [0.25, 0.75], exhausted=True)]
    found = made(Spectrum(10, rules, torch.zeros(0, dtype=F64), EPS), scale="log")
    assert found.mass_left_out == pytest.approx(0.25) and found.scale == "log"
    assert float(torch.trapezoid(found.density, found.grid.log10())) == pytest.approx(
        0.75, rel=5e-3
    )  # the grid ends at 3 σ
    assert "left out   0.25 not positive" in str(found) and "4: 4 iteration" in str(found)
