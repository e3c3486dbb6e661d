"""Second moments of scores, kept and frugal, against the dense Jacobian of the terms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.ad.scores import ScoreModel
from tests.ad.problems import F64, normal

X = normal(4)
W = torch.tensor([0.5, 0.0, 2.0], dtype=F64)


def terms(x: Tensor) -> Tensor:
    return torch.stack([x.exp().sum(), x[0] * x[1], (x * x).sum().sin()])


@pytest.mark.parametrize("keep", [True, False])
def test_against_the_dense_matrix(keep: bool) -> None:
    model = ScoreModel(terms, W, X, aux=3.0, verify=True, may_keep=lambda _: keep, proven=set())
    dense = torch.func.jacrev(terms)(X)
    matrix = dense.mT @ torch.diag(W) @ dense
    torch.testing.assert_close(model.value, W @ terms(X))
    torch.testing.assert_close(model.gradient, dense.mT @ W)
    assert model.aux == 3.0
    torch.testing.assert_close(model.hvp(normal(4, seed=1)), matrix @ normal(4, seed=1))
    torch.testing.assert_close(model.hvp_block(torch.eye(4, dtype=F64)), matrix)
    assert model.transferable and model.nbytes > 0
    names = [check.name for check in model.report.checks]
    assert all(check.passed is not False for check in model.report.checks) and len(names) >= 3
    assert keep or "gradient against differences of the value" in names


def test_cross_entropy_by_rows() -> None:
    y = torch.tensor([0, 2, 1, 1, 0])
    x = normal(5, 3)

    def losses(z: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(z, y, reduction="none")

    model = ScoreModel(
        losses, torch.ones(5, dtype=F64), x, aux=1.0, verify=True, may_keep=lambda _: False, proven=set()
    )
    dense = torch.func.jacrev(losses)(x).reshape(5, 15)
    v = normal(5, 3, seed=2)
    expected = (dense.mT @ (dense @ v.reshape(-1))).reshape(5, 3)
    torch.testing.assert_close(model.hvp(v), expected)
    assert model.transferable  # the operation by rows is the library's own
