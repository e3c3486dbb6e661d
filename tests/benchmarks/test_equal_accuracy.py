"""The least work that is accurate enough over many seeds."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.equal_accuracy import Reached, Trial, fewest


def test_the_first_size_within_the_target() -> None:
    """Errors of known size fall like 1/√size: 25 is the first within a fifth, and nothing later runs."""
    asked: list[tuple[int, int]] = []

    def method(size: int, seed: int) -> Trial:
        asked.append((size, seed))
        return Trial((-1) ** seed / math.sqrt(size), 2 * size, 1.0 + seed, 0.5)

    found = fewest(method, (4, 16, 24, 25, 36), 0.2001, 10)
    assert (found.size, found.enough, found.products, found.seconds) == (25, True, 50, 5.5)
    assert found.error == pytest.approx(0.2) and found.stated == pytest.approx(0.5)
    counts = [sum(size == one for size, _ in asked) for one in (4, 16, 24, 25, 36)]
    # 10 · 0.2² and a little is exceeded by the second square of 1/4, the seventh of 1/16, the last of 1/24.
    assert counts == [2, 7, 10, 10, 0]


def test_what_is_never_enough_shows_what_it_reached() -> None:
    found = fewest(lambda size, seed: Trial(1.0 + seed, size, 1.0), (1, 2), 0.1, 3)
    assert (found.size, found.enough, len(found.trials)) == (2, False, 3)
    assert found.error == pytest.approx(math.sqrt(14 / 3)) and found.stated is None


def test_nothing_is_given_up_that_would_have_passed() -> None:
    """The same answer as with all seeds at all sizes, for errors of chance."""
    errors = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)).double()
    sizes = (1, 2, 4, 8, 16, 32)

    def method(size: int, seed: int) -> Trial:
        return Trial(float(errors[sizes.index(size), seed]) / math.sqrt(size), size, 0.0)

    for target in (2.0, 0.6, 0.45, 0.3, 0.2):
        whole = (errors / torch.tensor(sizes).double().sqrt().unsqueeze(1)).square().mean(1).sqrt()
        expected = next((s for s, e in zip(sizes, whole.tolist(), strict=True) if e <= target), sizes[-1])
        found = fewest(method, sizes, target, 40)
        assert found.size == expected
        assert found.error == pytest.approx(float(whole[sizes.index(expected)]))


def test_a_nan_is_no_success() -> None:
    assert not fewest(lambda size, seed: Trial(math.nan, size, 0.0), (1, 2), 0.1, 2).enough
    assert isinstance(fewest(lambda size, seed: Trial(0.0, size, 0.0), (1,), 0.1, 2), Reached)
