"""Points where torch's formulas break down are seen, and only those."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hvplib.ad.singular import SINGULAR, SUBGRADIENT, is_singular

ZERO, ONE = torch.zeros(3), torch.ones(3)
MIXED = torch.tensor([[0.0, 0.0], [1.0, 2.0]])


def seen(func: Any, *args: Any, **kwargs: Any) -> bool:
    return is_singular(func, args, kwargs, func(*args, **kwargs))


@pytest.mark.parametrize("func", [torch.norm, torch.linalg.norm, torch.linalg.vector_norm, torch.Tensor.norm])
def test_norms_at_zero(func: Any) -> None:
    assert seen(func, ZERO)
    assert not seen(func, ONE)


def test_one_norm_of_several_at_zero() -> None:
    assert seen(torch.linalg.vector_norm, MIXED, dim=1)
    assert not seen(torch.linalg.vector_norm, MIXED, dim=0)


def test_distances_of_equal_points() -> None:
    assert seen(torch.dist, ONE, ONE.clone()) and not seen(torch.dist, ONE, ZERO)
    assert seen(torch.cdist, MIXED, MIXED) and not seen(torch.cdist, MIXED, MIXED + 5)


@pytest.mark.parametrize("func", [torch.atan2, torch.Tensor.atan2])
def test_the_angle_at_the_origin(func: Any) -> None:
    assert seen(func, ZERO, ZERO)
    assert not seen(func, ZERO, ONE)
    assert not seen(func, ONE, ZERO)


@pytest.mark.parametrize("func", [F.cosine_similarity, torch.cosine_similarity])
def test_the_cosine_with_a_zero_vector(func: Any) -> None:
    assert seen(func, MIXED, MIXED + 1)
    assert not seen(func, MIXED + 1, MIXED + 2)


def test_normalising_a_zero_vector_given_by_keyword() -> None:
    assert seen(F.normalize, input=MIXED)
    assert not seen(F.normalize, input=MIXED + 1)


def test_only_norms_have_a_subgradient_convention() -> None:
    assert {torch.norm, torch.cdist, torch.hypot} <= SUBGRADIENT
    assert not {torch.atan2, F.normalize, F.cosine_similarity} & SUBGRADIENT
    assert set(SINGULAR) > SUBGRADIENT
