"""Constants of a function: passed through, recorded, replayed, forgotten."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import Tensor

from hvplib.ad.stops import Stops


def tensor(number: float) -> Tensor:
    return torch.tensor(number)


def test_values_pass_through_until_they_are_recorded() -> None:
    stops = Stops()
    assert float(stops.value(lambda: tensor(1.0))) == 1
    assert float(stops.value(lambda: tensor(2.0))) == 2


def test_values_are_replayed_in_order_and_as_often_as_asked() -> None:
    stops = Stops()
    stops.record()
    assert [float(stops.value(lambda n=n: tensor(n))) for n in (1.0, 2.0)] == [1, 2]
    for _ in range(2):
        stops.replay()
        assert [float(stops.value(lambda: tensor(9.0))) for _ in range(2)] == [1, 2]
    stops.forget()
    assert float(stops.value(lambda: tensor(9.0))) == 9


def test_what_is_recorded_is_a_copy() -> None:
    stops, value = Stops(), tensor(1.0)
    stops.record()
    stops.value(lambda: value)
    value.fill_(5)
    stops.replay()
    assert float(stops.value(lambda: value)) == 1


def test_numbers_are_constants_only_where_asked() -> None:
    stops, numbers = Stops(), count()
    stops.record()
    assert stops.value(lambda: next(numbers)) == 0
    assert stops.value(lambda: next(numbers), numbers=True) == 1
    stops.replay()
    assert stops.value(lambda: next(numbers)) == 2
    assert stops.value(lambda: next(numbers), numbers=True) == 1


def test_a_target_is_written_again() -> None:
    stops, target = Stops(), torch.zeros(2)
    stops.record()
    stops.value(lambda: target.fill_(3), target)
    stops.replay()
    assert stops.value(lambda: target.fill_(8), target) is target
    assert target.tolist() == [3, 3]


def test_constants_within_a_constant_are_not_recorded() -> None:
    stops = Stops()
    stops.record()
    stops.value(lambda: stops.value(lambda: tensor(1.0)) + 1)
    stops.value(lambda: tensor(7.0))
    stops.replay()
    assert [float(stops.value(lambda: tensor(0.0))) for _ in range(2)] == [2, 7]


def test_another_path_is_an_error() -> None:
    stops = Stops()
    stops.record()
    stops.value(lambda: tensor(1.0))
    stops.replay()
    stops.value(lambda: tensor(1.0))
    with pytest.raises(IndexError, match="another path"):
        stops.value(lambda: tensor(1.0))


def test_recording_goes_on_after_an_error_in_a_constant() -> None:
    stops = Stops()
    stops.record()
    with pytest.raises(ZeroDivisionError):
        stops.value(lambda: 1 / 0)
    stops.value(lambda: tensor(4.0))
    stops.replay()
    assert float(stops.value(lambda: tensor(0.0))) == 4
