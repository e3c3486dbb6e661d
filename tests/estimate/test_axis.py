"""The axis of a density."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib.estimate.axis import Axis

F64 = torch.float64


def test_linear_is_the_identity() -> None:
    axis, x = Axis("linear", 1e-12), torch.tensor([-2.0, 0.0, 3.0], dtype=F64)
    assert torch.equal(axis.of(x), x) and torch.equal(axis.back(x), x)
    assert axis.left_out([(x, torch.ones(3, dtype=F64))]) == 0.0


def test_log_puts_what_is_not_positive_at_minus_infinity() -> None:
    axis, x = Axis("log", 1e-6), torch.tensor([-2.0, 0.0, 1e-7, 0.01, 100.0], dtype=F64)
    assert axis.of(x).tolist() == pytest.approx([-math.inf, -math.inf, -math.inf, -2.0, 2.0])
    torch.testing.assert_close(axis.back(axis.of(x[3:])), x[3:])
    weights = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1], dtype=F64)
    assert axis.left_out([(x, weights)]) == pytest.approx(0.6)


def test_width_is_that_of_m_even_nodes() -> None:
    nodes = torch.linspace(-1, 1, 41, dtype=F64)
    expected = 2 / (40 * math.sqrt(8 * math.log(1.25)))
    assert Axis("linear", 0.0).width(nodes, 41) == pytest.approx(expected)
    assert Axis("linear", 0.0).width(torch.tensor([5.0], dtype=F64), 1) > 0
    assert Axis("log", 0.0).width(torch.tensor([-math.inf], dtype=F64), 9) > 0


def test_grid_covers_nodes_and_outliers() -> None:
    axis = Axis("linear", 0.0)
    grid = axis.grid(11, torch.tensor([0.0, 1.0], dtype=F64), torch.tensor([50.0], dtype=F64), 0.1)
    assert float(grid[0]) == pytest.approx(-0.3) and len(grid) == 20
    assert bool((grid.diff() > 0).all()) and float((grid - 50.0).abs().min()) < 1e-12
    same = axis.grid(torch.tensor([1.0, 2.0]), grid, grid[:0], 0.1)
    assert same.dtype == F64 and same.tolist() == [1.0, 2.0]
