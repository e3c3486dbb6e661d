"""Generators are put back: torch's, NumPy's, Python's and those passed by name."""

from __future__ import annotations

import random

import numpy as np
import torch

from hvplib.ad.randomness import RandomState


def draw(*named: torch.Generator) -> list[float]:
    """One number from every source."""
    numbers = [float(torch.rand(())), random.random(), float(np.random.rand())]
    return numbers + [float(torch.rand((), generator=g)) for g in named]


def test_every_source_is_put_back_as_often_as_asked() -> None:
    own = torch.Generator().manual_seed(1)
    state = RandomState()
    state.keep(own)
    first = draw(own)
    assert draw(own) != first
    for _ in range(2):
        state.restore()
        assert draw(own) == first


def test_the_first_state_of_a_named_generator_is_kept() -> None:
    own = torch.Generator().manual_seed(1)
    state = RandomState()
    state.keep(own)
    first = draw(own)
    state.keep(own)
    state.restore()
    assert draw(own) == first


def test_generators_that_were_not_kept_are_left_alone() -> None:
    other = torch.Generator().manual_seed(2)
    state = RandomState()
    first = float(torch.rand((), generator=other))
    state.restore()
    assert float(torch.rand((), generator=other)) != first


def test_the_present_state_of_the_same_generators() -> None:
    own = torch.Generator().manual_seed(1)
    state = RandomState()
    state.keep(own)
    first = draw(own)
    now = state.again()
    second = draw(own)
    now.restore()
    assert draw(own) == second
    state.restore()
    assert draw(own) == first
