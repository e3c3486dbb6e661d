"""A sketch keeps norms, is linear, and is the same for the same vector."""

from __future__ import annotations

import pytest
import torch

from hvplib.ad import sketch as module
from hvplib.ad.sketch import sketch
from tests.ad.problems import F64, normal


def test_norms_are_kept_within_two_percent() -> None:
    for seed in range(5):
        x = normal(300_000, seed=seed)
        assert float(sketch([x]).norm()) == pytest.approx(float(x.norm()), rel=0.06)
        bent = x.clone()
        bent[seed] += 3.0  # one entry is enough to be seen
        assert float((sketch([x]) - sketch([bent])).norm()) == pytest.approx(3.0, rel=1e-9)


def test_it_is_linear_and_repeats() -> None:
    x, y = [normal(2000), normal(3, 5, seed=1)], [normal(2000, seed=2), normal(3, 5, seed=3)]
    assert torch.equal(sketch(x), sketch(x))
    both = [2 * a - b for a, b in zip(x, y, strict=True)]
    torch.testing.assert_close(sketch(both), 2 * sketch(x) - sketch(y), rtol=1e-12, atol=1e-12)
    assert sketch([torch.ones(7)]).dtype is F64 and not torch.equal(sketch(x), sketch(y))


def test_entries_in_one_place_of_different_tensors_and_pieces_have_signs_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PIECE", 4096)
    x = torch.ones(4096 * 50, dtype=F64)
    # With one sign for all pieces the norm would be 50 · 64, not √50 · 64.
    assert float(sketch([x]).norm()) == pytest.approx(50**0.5 * 64, rel=0.06)
    assert float(sketch([x[:4096]] * 50).norm()) == pytest.approx(50**0.5 * 64, rel=0.06)


def test_what_is_not_a_number_shows() -> None:
    assert sketch([torch.tensor([1.0, float("nan")])]).isnan().any()
