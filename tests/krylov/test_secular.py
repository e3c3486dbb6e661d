"""The small problems: conditions of optimality to rounding, closed forms, SciPy, and every scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import brentq, minimize
from torch import Tensor

from hvplib.krylov import secular
from hvplib.krylov.secular import Minimiser, ball_step, cubic_step

F64 = torch.float64
Problem = tuple[Tensor, Tensor]


def norm(x: Tensor) -> float:
    """‖x‖ of the largest and the smallest numbers too."""
    return math.hypot(*x.tolist())


def normal(m: int, rng: torch.Generator) -> Tensor:
    return torch.randn(m, generator=rng, dtype=F64)


def power(low: int, high: int, rng: torch.Generator) -> float:
    return 10.0 ** int(torch.randint(low, high, (1,), generator=rng))


def definite(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    return values.abs(), c


def indefinite(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    return values, c


def singular(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    values = values.abs()
    values[0] = 0.0
    return values, c


def hard(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    c[values.argmin()] = 0.0
    return values, c


def nearly_hard(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    c[values.argmin()] *= power(-320, -3, rng)
    return values, c


def without_gradient(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    return values, torch.zeros_like(c)


def without_curvature(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    return torch.zeros_like(values), c


def repeated(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    return values.sign(), c


def of_any_scale(values: Tensor, c: Tensor, rng: torch.Generator) -> Problem:
    return values * power(-150, 151, rng), c * power(-150, 151, rng)


KINDS = [
    *(definite, indefinite, singular, hard, nearly_hard),
    *(without_gradient, without_curvature, repeated, of_any_scale),
]


def problems(kind: Callable[..., Problem], count: int) -> list[tuple[Tensor, Tensor, float]]:
    """Eigenvalues, coefficients, and a number that may be a radius or σ."""
    rng = torch.Generator().manual_seed(KINDS.index(kind))
    found = []
    for _ in range(count):
        m = int(torch.randint(1, 20, (1,), generator=rng))
        values, c = normal(m, rng) * power(-5, 6, rng), normal(m, rng) * power(-8, 8, rng)
        found.append((*kind(values, c, rng), power(-12, 13, rng)))
    return found


def assert_stationary(step: Minimiser, values: Tensor, c: Tensor) -> None:
    """(Λ + μ) y = −c, Λ + μ positive semidefinite, μ ≥ 0, all to rounding."""
    y, mu = step.coordinates, step.multiplier
    largest = float(values.abs().max())
    scale = max(largest * step.norm, norm(c))
    residual = (values + mu) * y + c
    assert float(residual.abs().max()) <= 1e-14 * scale
    assert mu >= 0
    assert float((values + mu).min()) >= -1e-15 * largest
    assert step.predicted >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_ball_step_is_optimal(kind: Callable[..., Problem]) -> None:
    for values, c, radius in problems(kind, 60):
        step = ball_step(values, c, radius)
        assert_stationary(step, values, c)
        length = norm(step.coordinates)
        assert step.norm == pytest.approx(length, rel=1e-14, abs=0)
        if step.on_boundary:
            assert length == pytest.approx(radius, rel=1e-14, abs=0)
        else:
            assert step.multiplier == 0
            assert length <= radius * (1 + 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cubic_step_is_optimal(kind: Callable[..., Problem]) -> None:
    for values, c, sigma in problems(kind, 60):
        step = cubic_step(values, c, sigma)
        assert_stationary(step, values, c)
        length = norm(step.coordinates)
        assert step.norm == pytest.approx(length, rel=1e-14, abs=0)
        assert step.multiplier == pytest.approx(
            sigma * length, rel=1e-13, abs=1e-15 * float(values.abs().max())
        )
        assert not step.on_boundary


def value(values: Tensor, c: Tensor, y: Tensor) -> float:
    return float(c @ y + (values * y * y).sum() / 2)


@pytest.mark.parametrize("kind", [definite, indefinite, singular, hard, repeated, without_curvature])
def test_predicted_is_what_the_function_falls_by(kind: Callable[..., Problem]) -> None:
    for values, c, _ in problems(kind, 40):
        ball = ball_step(values, c, 2.0)
        size = norm(c) * 2 + float(values.abs().max()) * 4
        assert ball.predicted == pytest.approx(-value(values, c, ball.coordinates), abs=1e-14 * size)
        cubic = cubic_step(values, c, 3.0)
        fall = -value(values, c, cubic.coordinates) - cubic.norm**3
        size = norm(c) * cubic.norm + float(values.abs().max()) * cubic.norm**2
        assert cubic.predicted == pytest.approx(fall, abs=1e-13 * size)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lower_that_scipy_finds(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values, c = normal(4, rng), normal(4, rng)

    def fall(y: Tensor, sigma: float) -> float:
        return -value(values, c, y) - sigma / 3 * float(y.norm()) ** 3

    def within(x: list[float], radius: float) -> Tensor:
        y = torch.as_tensor(x, dtype=F64)
        return y * min(1.0, radius / float(y.norm()))

    for size in (0.3, 1.0, 4.0):
        best_in_ball = best_cubic = 0.0
        for _ in range(3):
            x0 = (normal(4, rng) * 2).numpy()
            found = minimize(lambda x, size=size: -fall(within(x, size), 0.0), x0, method="Nelder-Mead")
            best_in_ball = max(best_in_ball, -found.fun)
            found = minimize(lambda x, size=size: -fall(torch.as_tensor(x, dtype=F64), size), x0)
            best_cubic = max(best_cubic, -found.fun)
        assert ball_step(values, c, size).predicted == pytest.approx(best_in_ball, rel=1e-3)
        assert ball_step(values, c, size).predicted >= best_in_ball - 1e-12
        assert cubic_step(values, c, size).predicted == pytest.approx(best_cubic, rel=1e-6)
        assert cubic_step(values, c, size).predicted >= best_cubic - 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_the_multiplier_is_the_root_that_scipy_finds(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values, c = normal(7, rng), normal(7, rng)
    least = -float(values.min())

    def length(mu: float) -> float:
        return float((c / (values + mu)).norm())

    inside = max(least, 0.0) + 1e-9
    root = brentq(lambda mu: length(mu) - 0.5, inside, 1e3, xtol=1e-14, rtol=1e-14)
    assert ball_step(values, c, 0.5).multiplier == pytest.approx(root, rel=1e-12)
    root = brentq(lambda mu: length(mu) - mu / 2.0, inside, 1e3, xtol=1e-14, rtol=1e-14)
    assert cubic_step(values, c, 2.0).multiplier == pytest.approx(root, rel=1e-12)


def test_newton_inside() -> None:
    values, c = torch.tensor([1.0, 4.0], dtype=F64), torch.tensor([2.0, -4.0], dtype=F64)
    step = ball_step(values, c, 10.0)
    assert step.coordinates.tolist() == [-2.0, 1.0]
    assert (step.multiplier, step.on_boundary, step.predicted) == (0.0, False, 4.0)


def test_one_dimension() -> None:
    one = torch.ones(1, dtype=F64)
    assert ball_step(-one, one, 3.0).coordinates.tolist() == [-3.0]
    assert ball_step(0 * one, one, 3.0).coordinates.tolist() == [-3.0]
    # y (1 + |y|) = −2
    assert cubic_step(one, 2 * one, 1.0).coordinates.tolist() == [-1.0]
    # −|y| + σ y² = 0 without a gradient.
    assert cubic_step(-one, 0 * one, 0.25).coordinates.tolist() == [4.0]


def test_nothing_to_do() -> None:
    zero = torch.zeros(3, dtype=F64)
    for step in (ball_step(zero, zero, 1.0), cubic_step(zero, zero, 1.0)):
        assert step.coordinates.tolist() == [0.0, 0.0, 0.0]
        assert (step.norm, step.multiplier, step.predicted, step.on_boundary) == (0.0, 0.0, 0.0, False)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("tiny", [1e-3, 1e-9, 1e-30, 1e-200, 1e-300])
def test_near_the_hard_case_no_digit_is_lost(tiny: float, sign: float) -> None:
    """From the side: c₁ → 0 with y₂ = −1/3 and y₁ = ∓√(1 − 1/9)."""
    values, c = torch.tensor([-1.0, 2.0], dtype=F64), torch.tensor([sign * tiny, 1.0], dtype=F64)
    step = ball_step(values, c, 1.0)
    y1, y2 = step.coordinates.tolist()
    assert y2 == pytest.approx(-1 / (2 + step.multiplier), rel=1e-15)
    assert y1 == pytest.approx(-sign * math.sqrt(1 - y2 * y2), rel=1e-14)
    assert step.multiplier - 1 == pytest.approx(tiny / abs(y1), abs=1e-15)


@pytest.mark.parametrize("factor", [1e-100, 1e100])
def test_scaling_the_problem_scales_the_step(factor: float) -> None:
    values, c = torch.tensor([-1.0, 2.0, 3.0], dtype=F64), torch.tensor([0.5, 1.0, -2.0], dtype=F64)
    plain, scaled = ball_step(values, c, 0.7), ball_step(values * factor, c * factor, 0.7)
    torch.testing.assert_close(scaled.coordinates, plain.coordinates, rtol=1e-14, atol=0)
    assert scaled.predicted == pytest.approx(plain.predicted * factor, rel=1e-14, abs=0)
    plain, scaled = cubic_step(values, c, 0.7), cubic_step(values * factor, c * factor, 0.7 * factor)
    torch.testing.assert_close(scaled.coordinates, plain.coordinates, rtol=1e-14, atol=0)
    assert scaled.multiplier == pytest.approx(plain.multiplier * factor, rel=1e-14, abs=0)


def test_newtons_method_needs_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit of 30 instead of 200, all is as optimal as before."""
    monkeypatch.setattr(secular, "_MAX_ITER", 30)
    for kind in KINDS:
        test_a_ball_step_is_optimal(kind)
        test_a_cubic_step_is_optimal(kind)


@pytest.mark.parametrize("step", [ball_step, cubic_step])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_the_number_must_be_positive_and_finite(step: Callable[..., Minimiser], bad: float) -> None:
    name = "radius" if step is ball_step else "sigma"
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
        step(torch.ones(2), torch.ones(2), bad)


@pytest.mark.parametrize("step", [ball_step, cubic_step])
@pytest.mark.parametrize("shapes", [((2,), (3,)), ((2, 1), (2, 1)), ((0,), (0,))])
def test_shapes_must_agree(step: Callable[..., Minimiser], shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"must both be \(m,\) with m ≥ 1, got"):
        step(torch.ones(shapes[0]), torch.ones(shapes[1]), 1.0)
