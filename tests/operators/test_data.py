"""Batches of any structure: counting their examples, recognising them again."""

from __future__ import annotations

from collections import UserDict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from hvplib.operators.data import check_data, example_count, fingerprint, length

Pair = namedtuple("Pair", "x y")


class Record:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.ones(3, 2), 3),
        ((torch.ones(3, 2), torch.ones(4)), 3),
        (Pair(torch.ones(2), torch.ones(5)), 2),
        ({"name": "a", "x": torch.ones(4)}, 4),
        (UserDict(x=torch.ones(5, 1)), 5),
        ([None, "text", [{"deep": torch.ones(6)}]], 6),
        (Record(ids=torch.ones(7, 2)), 7),
        (np.ones((8, 2)), 8),
        (torch.ones(0, 2), 0),
    ],
)
def test_examples_are_counted(batch: Any, count: int) -> None:
    assert example_count(batch) == count


def test_fingerprints_tell_batches_apart() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    batches = [
        x,
        x + 1,
        x.flip(0),
        (x, torch.tensor([1, 2])),
        (x, torch.tensor([2, 1])),
        {"x": x, "flag": True},
        {"x": x, "flag": False},
        {"x": x.bfloat16()},
        {"x": x, "text": "a"},
        {"x": x, "text": "b"},
        np.ones(3),
        Record(x=x * 2),
    ]
    prints = [fingerprint(batch) for batch in batches]
    assert len(set(prints)) == len(batches)
    assert prints == [fingerprint(batch) for batch in batches]
    assert fingerprint(x) == fingerprint(x.clone()) == fingerprint(x.mT.contiguous().mT)
    assert fingerprint(torch.empty(0)) == fingerprint(torch.empty(0))
    assert fingerprint(torch.tensor(1.5)) != fingerprint(torch.tensor(2.5))


def test_what_may_be_iterated_again() -> None:
    for data in (None, [1], (1, 2), range(3), Sequential()):
        check_data(data)
    with pytest.raises(TypeError, match="got one ndarray"):
        check_data(np.ones(3))
    with pytest.raises(TypeError, match="got one str"):
        check_data("data.csv")


class Sequential:
    """Iterable by __getitem__ alone."""

    def __getitem__(self, index: int) -> int:
        return [5, 6][index]


def test_lengths() -> None:
    assert (length(None), length([1, 2]), length(Sequential())) == (1, 2, None)
