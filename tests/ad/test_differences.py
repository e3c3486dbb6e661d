"""Differences of gradients: exact where theory says so, honest about their error, and a judge."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.differences import compare, compare_value, difference, ladder
from tests.ad.problems import F64, PROBLEMS, Problem, flat, normal, relative

X, V = normal(5, seed=90), normal(5, seed=91)
STEPS_IN_USE = [3e-3, 2e-4, 1e-5, 5e-7]


def of_list(func: Any) -> Any:
    return lambda xs: func(*xs)


# ---------------------------------------------------------------------------------------------- the formula


@pytest.mark.parametrize("power", [2, 3, 4, 5])
def test_exact_for_polynomials_up_to_degree_five(power: int) -> None:
    """A fourth-order formula differentiates gradients of degree four without truncation, at any step."""
    truth = power * (power - 1) * X ** (power - 2) * V
    for step in (0.5, 0.1):
        got = difference(of_list(lambda x: (x**power).sum()), [X], [V], step, F64)
        assert relative(got.product, truth) < 1e-13
        assert got.step == step


def test_fourth_order() -> None:
    """The error of a smooth function falls by 2⁴ when the step is halved."""
    truth = -X.sin() * V
    errors = [
        float((difference(of_list(lambda x: x.sin().sum()), [X], [V], h, F64).product[0] - truth).norm())
        for h in (0.2, 0.1, 0.05)
    ]
    assert 15 < errors[0] / errors[1] < 17 and 15 < errors[1] / errors[2] < 17


@pytest.mark.parametrize("step", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
def test_the_error_bar_holds(step: float) -> None:
    got = difference(of_list(lambda x: x.sin().exp().sum()), [X], [V], step, F64)
    truth = (X.cos() ** 2 - X.sin()) * X.sin().exp() * V
    error = float((got.product[0] - truth).norm())
    assert error <= 3 * got.error
    assert got.error < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_bar_holds_in_low_precision(dtype: torch.dtype) -> None:
    x, v = X.to(dtype), V.to(dtype)
    for step in ladder([x], [v], dtype):
        got = difference(of_list(lambda x: x.sin().exp().sum()), [x], [v], step, dtype)
        truth = (x.double().cos() ** 2 - x.double().sin()) * x.double().sin().exp() * v.double()
        assert float((got.product[0].double() - truth).norm()) <= 10 * got.error


def test_several_primals_and_unused_ones() -> None:
    y, w = normal(2, seed=92), normal(2, seed=93)
    got = difference(lambda xs: (xs[0] ** 2).sum() * xs[1].sum(), [X, y, y], [V, w, w], 0.1, F64)
    assert relative(got.product[0], 2 * V * y.sum() + 2 * X * w.sum()) < 1e-13
    assert relative(got.product[1], (2 * X @ V) * torch.ones(2, dtype=F64)) < 1e-13
    assert torch.equal(got.product[2], torch.zeros(2, dtype=F64))


# ----------------------------------------------------------------------------------------------- the ladder


def test_steps_are_small_beside_the_primals() -> None:
    for scale in (1.0, 1e4):
        steps = list(ladder([scale * X], [V], F64))
        assert steps == sorted(steps, reverse=True)
        moves = [h * float(V.abs().max()) for h in steps]
        size = scale * float(X.norm()) / math.sqrt(X.numel())
        assert all(m <= 0.01 * size for m in moves) and moves[-1] >= 1e-8 * size


def test_steps_do_not_depend_on_the_length_of_the_tangents() -> None:
    moves = [[h * t for h in ladder([X], [t * V], F64)] for t in (1e-8, 1.0, 1e8)]
    assert moves[0] == pytest.approx(moves[1]) and moves[2] == pytest.approx(moves[1])


def test_zero_and_empty_are_no_special_cases() -> None:
    zero, nothing = torch.zeros(3, dtype=F64), torch.empty(0, dtype=F64)
    for primals, tangents in (([zero], [zero]), ([nothing], [nothing]), ([zero, nothing], [V[:3], nothing])):
        steps = list(ladder(primals, tangents, F64))
        assert steps and all(math.isfinite(h) and h > 0 for h in steps)


# ------------------------------------------------------------------------------------------------ the judge


def evaluate_of(problem: Problem) -> tuple[Any, list[Tensor], Any]:
    leaves, spec = torch.utils._pytree.tree_flatten(problem.primals)

    def evaluate(xs: Any) -> Tensor:
        tree = torch.utils._pytree.tree_unflatten(list(xs), spec)
        return problem.func(*tree) if type(tree) is tuple else problem.func(tree)

    return evaluate, leaves, [x.shape for x in leaves]


def split(vector: Tensor, shapes: Any) -> list[Tensor]:
    parts = vector.split([math.prod(s) for s in shapes])
    return [p.reshape(s) for p, s in zip(parts, shapes, strict=True)]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_right_products_pass_and_wrong_ones_fail(problem: Problem) -> None:
    evaluate, leaves, shapes = evaluate_of(problem)
    v = [normal(*s, seed=94 + i) for i, s in enumerate(shapes)]
    hv = problem.dense @ flat(v)
    right = compare(evaluate, leaves, v, split(hv, shapes))
    assert right.passed is True and right.error < 1e-6
    noise = normal(hv.numel(), seed=95)
    noise *= hv.norm() / noise.norm()
    for size in (1e-3, 1e-1, 1.0):
        wrong = compare(evaluate, leaves, v, split(hv + size * noise, shapes))
        assert wrong.passed is False
        assert "agree with each other" in wrong.detail
    assert compare(evaluate, leaves, v, split(0 * hv, shapes)).passed is False
    assert compare(evaluate, leaves, v, split(hv + 1e-9 * noise, shapes)).passed is True


@pytest.mark.parametrize(
    ("dtype", "wrong"), [(torch.float32, 0.05), (torch.bfloat16, 1.0), (torch.float16, 0.6)]
)
def test_low_precision(dtype: torch.dtype, wrong: float) -> None:
    x, v = X.to(dtype), V.to(dtype)
    func = of_list(lambda x: (x**3).sum())
    product = 6 * x * v
    right = compare(func, [x], [v], [product])
    assert right.passed or (right.passed is None and dtype == torch.bfloat16), "its rounding may drown it"
    assert compare(func, [x], [v], [(1 + wrong) * product]).passed is not True


def test_a_kink_nearby_needs_the_finer_steps() -> None:
    x = torch.tensor([1e-4, 1.0], dtype=F64)
    v = torch.ones(2, dtype=F64)
    func = of_list(lambda x: (x.relu() ** 2 + x**3).sum())
    check = compare(func, [x], [v], [(2 + 6 * x) * v])
    assert check.passed is True and check.detail in ("step 1e-05", "step 7e-06", "step 4e-07", "step 5e-07")


def test_a_kink_at_the_point_is_undecided() -> None:
    x, v = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    check = compare(of_list(lambda x: x.abs().sum()), [x], [v], [torch.zeros(1, dtype=F64)])
    assert check.passed is None and check.detail == "the steps disagree with one another"


def test_products_that_are_not_finite() -> None:
    func = of_list(lambda x: (x**2).sum())
    for bad in (math.nan, math.inf):
        check = compare(func, [X], [V], [torch.full((5,), bad, dtype=F64)])
        assert check.passed is False and check.error == math.inf
    nowhere = of_list(lambda x: (x * math.nan).sum())
    assert compare(nowhere, [X], [V], [torch.full((5,), math.nan, dtype=F64)]).passed is None


def test_zero_products_of_linear_functions_pass() -> None:
    check = compare(of_list(lambda x: (3 * x).sum()), [X], [V], [torch.zeros_like(X)])
    assert check.passed is True


# ---------------------------------------------------------------------------------- gradients and the value


def test_the_slope_of_the_value() -> None:
    func = of_list(lambda x: x.sin().exp().sum())
    slope = X.cos() * X.sin().exp()
    right = compare_value(func, [X], [V], [slope])
    assert right.passed is True and right.error < 1e-8
    for factor in (0.0, 0.9, 1.01, -1.0):
        assert compare_value(func, [X], [V], [factor * slope]).passed is False
    assert compare_value(func, [X], [V], [slope]).name == "gradient against differences of the value"


def test_the_slope_that_cancels() -> None:
    """⟨∇f, v⟩ = 0 is no reason to doubt."""
    x = torch.tensor([1.0, 1.0], dtype=F64)
    v = torch.tensor([1.0, -1.0], dtype=F64)
    assert compare_value(of_list(lambda x: (x**3).sum()), [x], [v], [3 * x**2]).passed is True


def test_a_step_of_the_value_is_undecided() -> None:
    """A jump at the point: no slope fits, and the steps disagree with one another."""
    x, v = torch.zeros(1, dtype=F64), torch.ones(1, dtype=F64)
    func = of_list(lambda x: torch.where(x > 0, x + 1, x).sum())
    assert compare_value(func, [x], [v], [torch.ones(1, dtype=F64)]).passed is None
