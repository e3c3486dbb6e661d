"""One product of matrices where vmap writes many with the same matrix: the same numbers, fewer operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator, local_model
from hvplib.ad.batched_products import BatchedProducts
from tests.ad.problems import normal
from tests.ad.trace.programs import calls, made

aten: Any = torch.ops.aten
A, S = normal(5, 4, seed=0), normal(4, 4, seed=1)


def products(compute: Callable[[Tensor], Tensor], x: Tensor) -> list[Any]:
    """The kinds of matrix products in it, after a look at what they give."""

    def inside(x: Tensor) -> list[Tensor]:
        with BatchedProducts():
            return [compute(x)]

    torch.testing.assert_close(inside(x)[0], compute(x), rtol=1e-13, atol=1e-13)
    assert inside(x)[0].shape == compute(x).shape
    return [call for call in calls(made(inside, x)) if call in (aten.mm.default, aten.bmm.default)]


@pytest.mark.parametrize("width", [2, 3])
def test_many_vectors_times_one_matrix_are_one_product(width: int) -> None:
    X = normal(width, 4, seed=2)
    one = [aten.mm.default]
    assert products(lambda X: torch.bmm(A.expand(width, 5, 4), X.unsqueeze(2)), X) == one
    assert products(lambda X: torch.bmm(X.unsqueeze(1), A.t().expand(width, 4, 5)), X) == one
    assert products(lambda X: torch.bmm(X.unsqueeze(1), S.expand(width, 4, 4)), X) == one
    strided = normal(4, width, seed=2).t()
    assert products(lambda X: torch.bmm(A.expand(width, 5, 4), X.unsqueeze(2)), strided) == one


def test_others_stay() -> None:
    X, many = normal(3, 4, 2, seed=3), [aten.bmm.default]
    assert products(lambda X: torch.bmm(A.expand(3, 5, 4), X), X) == many  # many matrices
    assert products(lambda X: torch.bmm(X.mT, X), X) == many
    assert products(lambda X: torch.bmm(A.repeat(3, 1, 1), X[:, :, :1]), X) == many  # not known to be one
    assert products(lambda X: torch.bmm(A.expand(1, 5, 4), X), X[:1, :, :1]) == many  # one vector


def test_products_of_a_block_are_products_of_matrices() -> None:
    """logistic regression: for 64 vectors, the data are read twice."""
    data = normal(30, 4, seed=4)

    def func(w: Tensor) -> Tensor:
        return torch.nn.functional.softplus(torch.nn.functional.linear(data, w)).sum()

    w, V = normal(1, 4, seed=5), normal(6, 1, 4, seed=6)
    slope = (data @ w.t()).sigmoid()
    hessian = data.t() @ (slope * (1 - slope) * data)
    for engine in ("graph", "record"):
        model = local_model(func, w, engine=engine)  # type: ignore[arg-type]
        torch.testing.assert_close(model.hvp_block(V), V @ hessian, rtol=1e-12, atol=1e-12)
    again = model.hvp_block(V)
    assert model.engine._pullback._blocks[6].program is not None  # type: ignore[union-attr]
    assert torch.equal(again, local_model(func, w, engine="graph").hvp_block(V))
    H = HessianOperator(func, w)
    torch.testing.assert_close(H @ V.view(6, 4).t(), hessian @ V.view(6, 4).t(), rtol=1e-12, atol=1e-12)
