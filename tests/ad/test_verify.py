"""The checks one by one: what passes, what fails, and that no number that is not finite passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._pytree import tree_flatten

from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from hvplib.ad.verify import against_difference, agreement, probes, repeatability, symmetry
from tests.ad.problems import F64, normal

H = normal(4, 4) + normal(4, 4).T
V, W = normal(4, seed=110), normal(4, seed=111)
NAN, INF = torch.full((4,), math.nan, dtype=F64), torch.full((4,), math.inf, dtype=F64)


def test_symmetry() -> None:
    assert symmetry([V], [H @ V], [W], [H @ W], F64).passed is True
    skew = H + 1e-6 * normal(4, 4, seed=112)
    check = symmetry([V], [skew @ V], [W], [skew @ W], F64)
    assert check.passed is False and 1e-9 < check.error < 1e-5
    zero = torch.zeros(4, dtype=F64)
    assert symmetry([V], [zero], [W], [zero], F64).passed is True


def test_agreement_and_repeatability() -> None:
    assert agreement([V], [V], "a against b", F64).passed is True
    assert agreement([V], [V * (1 + 1e-9)], "a against b", F64).passed is True
    assert repeatability([V], [V * (1 + 1e-9)], F64).passed is False, "the same way must repeat much closer"
    far = agreement([V], [1.5 * V], "a against b", F64)
    assert far.passed is False and far.error == pytest.approx(1 / 3) and far.name == "a against b"
    zero = torch.zeros(4, dtype=F64)
    assert agreement([zero], [zero], "a against b", F64).passed is True
    assert agreement([zero], [V], "a against b", F64).passed is False


@pytest.mark.parametrize("bad", [NAN, INF])
def test_what_is_not_finite_passes_no_check(bad: torch.Tensor) -> None:
    assert symmetry([V], [bad], [W], [H @ W], F64).passed is False
    assert symmetry([V], [H @ V], [W], [bad], F64).passed is False
    zero = torch.zeros(4, dtype=F64)
    assert agreement([zero], [bad], "a", F64).passed is False
    assert agreement([bad], [zero], "a", F64).passed is False
    assert agreement([bad], [V], "a", F64).passed is False
    assert agreement([V], [bad], "a", F64).passed is False
    assert repeatability([V], [bad], F64).passed is False


def test_tolerances_follow_the_precision() -> None:
    off = V * (1 + 1e-5)
    assert agreement([V], [off], "a", F64).passed is False
    assert agreement([V], [off], "a", torch.float32).passed is True
    assert agreement([V], [V * 1.05], "a", torch.float32).passed is False
    assert agreement([V], [V * 1.05], "a", torch.bfloat16).passed is True


def test_probes_are_random_reproducible_and_leave_the_generator_alone() -> None:
    state = torch.get_rng_state()
    primals = [normal(200), normal(3, 2).bfloat16()]
    first, second = probes(primals, 2)
    again = probes(primals, 2)[0]
    other = probes(primals, 1, seed=1)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert [(v.shape, v.dtype) for v in first] == [(x.shape, x.dtype) for x in primals]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[0], other[0])
    assert abs(float(first[0].mean())) < 0.3 and 0.8 < float(first[0].std()) < 1.2


def test_a_difference_of_the_function_that_autograd_sees() -> None:
    """What is cut by detach is a constant to autograd: the difference keeps it where it is."""
    x = normal(4)
    objective = Objective(lambda x: (x.detach() * x**2).sum(), tree_flatten(x)[1])
    with derivative(), objective.session():
        assert against_difference(objective, [x], [V], [2 * x * V]).passed is True
        assert against_difference(objective, [x], [V], [4 * x * V]).passed is False


def test_another_path_nearby_is_undecided() -> None:
    """A function that cuts more often at a neighbouring point cannot be compared."""

    def func(x: torch.Tensor) -> torch.Tensor:
        extra = x.detach() if x.sum() != total else 0.0
        return (x.detach() * x**2).sum() + (0 * extra * x).sum()

    x = normal(4)
    total = x.sum()
    objective = Objective(func, tree_flatten(x)[1])
    with derivative(), objective.session():
        check = against_difference(objective, [x], [V], [2 * x * V])
    assert check.passed is None and check.detail == "func takes another path nearby"
