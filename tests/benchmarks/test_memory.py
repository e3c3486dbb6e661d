"""Peaks are those of one computation, whatever went before it."""

from __future__ import annotations

import os

import pytest
import torch

from benchmarks.memory import measured_apart, peak_growth

MEBIBYTE = 2**20
LINUX = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux lets a process forget its peak"
)


def held(mebibytes: int) -> torch.Tensor:
    return torch.ones(mebibytes, MEBIBYTE // 4)


def growth(mebibytes: int, before: int) -> int:
    """The peak of one that is held, after one that is not."""
    held(before)
    return peak_growth(lambda: held(mebibytes), lambda: held(before))


def failing() -> int:
    raise ValueError("of no use")


def dying() -> int:
    os._exit(3)


@LINUX
def test_a_peak_of_its_own() -> None:
    """It is seen though the warm-up had a larger one, which is over."""
    grown = measured_apart(growth, 24, 64)
    assert isinstance(grown, int) and 23.5 * MEBIBYTE < grown < 28 * MEBIBYTE


@LINUX
def test_small_peaks_are_seen() -> None:
    """Less than a heap holds in reserve."""
    grown = measured_apart(growth, 2, 24)
    assert isinstance(grown, int) and 1.5 * MEBIBYTE < grown < 4 * MEBIBYTE


@pytest.mark.parametrize(
    ("measure", "told"), [(failing, "fails (ValueError: of no use)"), (dying, "died (status 3)")]
)
def test_what_became_of_it(measure: object, told: str) -> None:
    assert measured_apart(measure) == told  # type: ignore[arg-type]
