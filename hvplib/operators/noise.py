"""The same noise at each pass: random numbers that a loss or a loader draws are replayed from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from hvplib.ad.guard import derivative
from hvplib.ad.randomness import RandomState

__all__ = ["replayed", "seeded", "untouched"]


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Run a block with the global generators set from these numbers, and put them back.

    Args:
        entropy: Non-negative numbers, say a seed and the index of a batch; other numbers, independent noise.
    """
    # The lock of the derivatives: two threads must not set one generator for different batches at once.
    with derivative(), untouched():
        _seed(entropy)
        yield


@contextmanager
def untouched() -> Iterator[None]:
    """Run a block and put the global generators back to what they were."""
    outside = RandomState()
    try:
        yield
    finally:
        outside.restore()


def replayed(data: Iterable[Any], seed: int) -> Iterator[Any]:
    """The items of `data`, drawn as if the global generators were at `seed` when the pass began.

    Shuffling and random augmentation that draw from torch, NumPy or Python's global generators so give the
    same items at each pass, and the user's generators do not move.
    """
    if isinstance(data, list | tuple):
        yield from data
        return
    with seeded(seed):
        iterator = iter(data)
        inside = RandomState()
    while True:
        outside = RandomState()
        # Ctrl-C may end the wait for the item, but not what puts generators in place.
        try:
            with derivative():
                inside.restore()
            item = next(iterator)
        except StopIteration:
            return
        finally:
            with derivative():
                inside = RandomState()
                outside.restore()
        yield item


def _seed(entropy: tuple[int, ...]) -> None:
    numbers = np.random.SeedSequence(entropy).generate_state(2)
    # Not torch.manual_seed, which also leaves a seed behind for devices that are not in use yet.
    torch.default_generator.manual_seed(int(numbers[0]))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(int(numbers[0]))
    random.seed(int(numbers[1]))
    np.random.seed(int(numbers[1]))
