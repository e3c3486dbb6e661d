from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hvplib.eigen.restart import kept

F64 = torch.float64


def ritz(m: int, seed: int = 0) -> Tensor:
    return torch.randn(m, generator=torch.Generator().manual_seed(seed), dtype=F64).sort().values


def blurred(values: Tensor) -> Tensor:
    """Residual norms with which no value is told apart from the next."""
    return torch.ones_like(values) * 10 * float(values.max() - values.min() + 1)


def gain(values: list[float], upper: int, lower: int, wanted: tuple[int, int], steps: float) -> float:
    """What a step of the next cycle wins, in the logarithm of the error."""
    m = len(values)
    low, high = values[lower], values[m - 1 - upper]
    distances = []
    if wanted[0]:
        distances.append(values[m - wanted[0]] - high)
    if wanted[1]:
        distances.append(low - values[wanted[1] - 1])
    ratio = 1 + 2 * max(min(distances), 0.0) / max(high - low, 2.3e-308)
    return math.acosh(ratio) - 3.0 / steps


@pytest.mark.parametrize("wanted", [(3, 0), (0, 3), (2, 1), (1, 1), (6, 0)])
@pytest.mark.parametrize(("capacity", "width"), [(20, 1), (20, 2), (20, 4), (14, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_choice_gains_more(wanted: tuple[int, int], capacity: int, width: int, seed: int) -> None:
    values = ritz(capacity, seed)
    highest, lowest = wanted
    chosen = kept(values, blurred(values), highest, lowest, capacity=capacity, width=width).tolist()
    lower = next((place for place, index in enumerate(chosen) if index != place), len(chosen))
    upper = len(chosen) - lower
    assert chosen == [*range(lower), *range(capacity - upper, capacity)]
    assert upper >= highest and lower >= lowest
    assert (upper == 0) is (highest == 0) and (lower == 0) is (lowest == 0)
    numbers = values.tolist()
    found = gain(numbers, upper, lower, wanted, (capacity - upper - lower) / width)
    room = capacity - max(2 * width, capacity // 4)
    for a in range(highest, room + 1 if highest else 1):
        for b in range(lowest, room + 1 if lowest else 1):
            if a + b <= room and a + b < capacity - 1:
                other = gain(numbers, a, b, wanted, (capacity - a - b) / width)
                assert found >= other - 1e-12


@pytest.mark.parametrize(("capacity", "width", "most"), [(20, 1, 15), (20, 3, 14), (20, 4, 12), (6, 1, 4)])
def test_there_is_room_for_two_steps_and_a_quarter_of_the_basis(capacity: int, width: int, most: int) -> None:
    # To keep all but the lowest two would make the interval a point.
    values = torch.cat([torch.tensor([0.0, 1e-9]), torch.linspace(10, 10.1, capacity - 2)]).double()
    assert len(kept(values, blurred(values), 1, 0, capacity=capacity, width=width)) <= most


def test_what_is_wanted_is_kept_even_where_there_is_no_room() -> None:
    assert kept(ritz(6), blurred(ritz(6)), 5, 0, capacity=6, width=2).tolist() == [1, 2, 3, 4, 5]
    assert kept(ritz(6), blurred(ritz(6)), 3, 2, capacity=6, width=2).tolist() == [0, 1, 3, 4, 5]


def test_a_gap_behind_the_wanted_is_made_use_of() -> None:
    # The value that is wanted lies in a cluster: to keep it whole makes convergence many times faster.
    values = torch.cat([torch.linspace(0, 4, 12), torch.linspace(5, 5.11, 4)]).double()
    assert {12, 13, 14, 15} <= set(kept(values, blurred(values), 1, 0, capacity=16, width=1).tolist())


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_equal_values(value: float) -> None:
    values = torch.full((10,), value, dtype=F64)
    found = kept(values, torch.zeros_like(values), 2, 1, capacity=10, width=1)
    assert found[0] == 0 and found[-2:].tolist() == [8, 9]


def outliers(upside_down: bool) -> Tensor:
    values = torch.cat([torch.linspace(0, 1, 16), torch.tensor([5.0, 20.0, 100.0, 500.0])]).double()
    return -values.flip(0) if upside_down else values


@pytest.mark.parametrize("upside_down", [False, True])
@pytest.mark.parametrize("exact", [0, 1, 3, 4])
def test_outliers_at_the_other_end_are_kept_as_far_as_they_are_told_apart(
    upside_down: bool, exact: int
) -> None:
    values = outliers(upside_down)
    order = slice(None) if upside_down else slice(None, None, -1)
    norms = blurred(values)
    outermost = torch.arange(20)[:exact] if upside_down else torch.arange(19, 19 - exact, -1)
    norms[outermost] = 1e-3
    wanted = (2, 0) if upside_down else (0, 2)
    chosen = kept(values, norms, *wanted, capacity=20, width=1)
    kept_there = int((values[chosen].abs() > 2).sum())
    assert kept_there == exact, (values[order], chosen)


def test_a_value_that_is_not_told_apart_shields_those_behind_it() -> None:
    norms = torch.full((20,), 1e-3, dtype=F64)
    norms[18] = 81.0  # of 100, above 20
    chosen = kept(outliers(False), norms, 0, 2, capacity=20, width=1).tolist()
    assert 19 in chosen and 18 not in chosen and 17 not in chosen
