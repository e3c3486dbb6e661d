"""One backward pass: as torch.autograd.grad makes it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.ad.backward import materialized, pulled_back

X = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
U = torch.linspace(-1.0, 1.0, 4, dtype=torch.float64)


def leaves() -> tuple[Tensor, Tensor]:
    return X.clone().requires_grad_(), X.clone().requires_grad_()


def test_pulled_back_is_that_of_torch_and_the_formula() -> None:
    x, _ = leaves()
    (pulled,) = pulled_back([x**3], [x], [U])
    (by_torch,) = torch.autograd.grad([x**3], [x], [U])
    assert pulled is not None
    assert torch.equal(pulled, by_torch)
    torch.testing.assert_close(pulled, 3 * X**2 * U, rtol=1e-14, atol=0)


def test_input_without_a_part_has_none_then_zeros() -> None:
    x, y = leaves()
    pulled = pulled_back([x**3], [x, y], [U])
    assert pulled[1] is None
    assert materialized(pulled, [x, y])[1].tolist() == [0.0] * 4
    assert torch.equal(materialized(pulled, [x, y])[0], pulled[0])


def test_graph_is_freed_unless_kept() -> None:
    x, _ = leaves()
    output = x**3
    pulled_back([output], [x], [U], retain_graph=True)
    (first,) = pulled_back([output], [x], [U])
    assert first is not None and not first.requires_grad
    with pytest.raises(RuntimeError, match="a second time"):
        pulled_back([output], [x], [U])


def test_create_graph_gives_second_derivatives() -> None:
    x, _ = leaves()
    (first,) = pulled_back([x**3], [x], [U], create_graph=True)
    assert first is not None
    (second,) = pulled_back([first], [x], [torch.ones_like(X)])
    assert second is not None
    torch.testing.assert_close(second, 6 * X * U, rtol=1e-14, atol=0)


def test_cotangent_of_another_shape_is_refused() -> None:
    x, _ = leaves()
    with pytest.raises(RuntimeError, match="invalid gradient"):
        pulled_back([x**3], [x], [torch.ones(3, dtype=torch.float64)])
