"""A loss of outputs: gradient, curvature, values along a line, and what is said of convexity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.outer_loss import NotConvexError, OuterLoss
from hvplib.ad.randomness import RandomState
from tests.ad.problems import F64, normal

Z = {"a": normal(4), "b": normal(2, 3, seed=1)}
V = [normal(4, seed=2), normal(2, 3, seed=3)]


def smooth(z: Any, _anchor: Any) -> tuple[Tensor, float]:
    return z["a"].exp().sum() * (1 + z["b"].square().sum()), 7.0


def outer(loss: Any = smooth) -> OuterLoss:
    return OuterLoss(loss, Z, RandomState())


def test_gradient_product_and_values() -> None:
    loss = outer()
    value, aux = loss.look()
    e, s = Z["a"].exp(), 1 + Z["b"].square().sum()
    torch.testing.assert_close(value, e.sum() * s)
    torch.testing.assert_close(loss.gradient(), [e * s, 2 * Z["b"] * e.sum()])
    assert aux == 7.0 and loss.custom == () and not value.requires_grad
    along_b = (Z["b"] * V[1]).sum()
    expected = [e * s * V[0] + 2 * e * along_b, 2 * V[1] * e.sum() + 2 * Z["b"] * (e @ V[0])]
    torch.testing.assert_close(loss.product(V), expected, rtol=1e-12, atol=1e-12)
    assert loss.value() == pytest.approx(float(value), rel=1e-14)
    moved = {"a": Z["a"] + 0.3 * V[0], "b": Z["b"] + 0.3 * V[1]}
    assert loss.value_along(V, 0.3) == pytest.approx(float(smooth(moved, None)[0]), rel=1e-13)


def test_what_does_not_depend_on_part_or_all_of_the_outputs() -> None:
    part = outer(lambda z, anchor: (z["a"].square().sum(), 1.0))
    torch.testing.assert_close(part.product(V), [2 * V[0], 0 * V[1]])
    linear = outer(lambda z, anchor: (z["a"].sum(), 1.0))
    torch.testing.assert_close(linear.product(V), [0 * V[0], 0 * V[1]])
    nothing = outer(lambda z, anchor: (torch.tensor(2.0, dtype=F64), 1.0))
    assert (
        float(nothing.look()[0]) == 2
        and not any(g.any() for g in nothing.gradient())
        and not any(p.any() for p in nothing.product(V))
    )


def test_the_anchor_is_a_constant() -> None:
    loss = outer(lambda z, anchor: ((z["a"] * anchor["a"]).sum(), 1.0))
    torch.testing.assert_close(loss.gradient(), [Z["a"], 0 * Z["b"]])


def test_the_unit_of_a_line() -> None:
    size = (sum(float(z.square().sum()) for z in Z.values()) / 10) ** 0.5
    length = (sum(float(v.square().sum()) for v in V) / 10) ** 0.5
    assert outer().unit(V) == pytest.approx(size / length, rel=1e-12)
    assert outer().unit([0 * v for v in V]) == 1.0
    tiny = OuterLoss(smooth, {name: 1e-9 * z for name, z in Z.items()}, RandomState())
    assert tiny.unit(V) == pytest.approx(1e-2 / length, rel=1e-12)


def test_convexity() -> None:
    bowl = outer(lambda z, anchor: (-z["a"].square().sum(), 1.0))
    curvature = -2 * float(V[0] @ V[0])
    with pytest.raises(NotConvexError, match="the loss is not convex in the outputs of the model"):
        bowl.refuse_if_not_convex(V, curvature, abs(curvature))
    calls = []

    def counted(z: Any, anchor: Any) -> tuple[Tensor, float]:
        calls.append(1)
        return -z["a"].square().sum(), 1.0

    # What rounding makes is not even looked at.
    outer(counted).refuse_if_not_convex(V, -1e-14 * abs(curvature), abs(curvature))
    assert not calls
    # A negative number that differences of the loss do not bear out is no conviction.
    outer(lambda z, anchor: (z["a"].square().sum(), 1.0)).refuse_if_not_convex(V, curvature, abs(curvature))
