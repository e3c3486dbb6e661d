"""Replayed noise: the same at each pass, and none of it seen outside."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hvplib.operators.noise import replayed, seeded, untouched


def draw() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.random()), random.random()


def test_a_seeded_block_repeats_and_leaves_no_trace() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = [draw(), draw()]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert draw() == expected[0]
    with seeded(3, 0):
        first = draw()
    with pytest.raises(ZeroDivisionError), seeded(3, 0):
        draw()[0] / 0
    with seeded(3, 0):
        assert draw() == first
    with untouched():
        draw()
    with seeded(3, 1):
        assert draw() != first
    with seeded(4, 0):
        assert draw() != first
    assert draw() == expected[1]


class Noisy:
    def __iter__(self) -> Iterator[tuple[float, float, float]]:
        for _ in range(3):
            yield draw()


def test_a_pass_repeats_whatever_happens_between_its_items() -> None:
    first = list(replayed(Noisy(), 0))
    again = []
    for item in replayed(Noisy(), 0):
        torch.rand(3)
        random.random()
        again.append(item)
    assert first == again and len(set(first)) == 3
    assert list(replayed(Noisy(), 1)) != first


def test_a_pass_does_not_move_the_generators() -> None:
    loader = DataLoader(torch.arange(6), batch_size=2, shuffle=True)
    state = torch.get_rng_state()
    first = [batch.tolist() for batch in replayed(loader, 0)]
    torch.rand(4)
    assert first == [batch.tolist() for batch in replayed(loader, 0)]
    torch.set_rng_state(state)
    next(iter(replayed(loader, 0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_lists_are_passed_through() -> None:
    items = [object(), object()]
    assert list(replayed(items, 0)) == items
