from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hvplib.ad.trace.total import is_total
from tests.ad.problems import normal
from tests.ad.trace.programs import made

W = normal(4, 3, seed=1)


def total(compute: Callable[[Tensor], Any], x: Tensor) -> bool:
    return is_total(made(lambda x: [compute(x)], x).graph)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: (x @ W).tanh().square().mean(),
        lambda x: F.log_softmax(x @ W, 1)[:, 0].sum() / x.numel(),
        lambda x: torch.cat([x.sin(), x.exp()]).reshape(-1).logsumexp(0),
        lambda x: F.gelu(F.linear(x, W.mT)).sum(),
        lambda x: F.mse_loss(x @ W, torch.ones(3, 3, dtype=x.dtype)),
    ],
)
def test_arithmetic_is(compute: Any) -> None:
    assert total(compute, normal(3, 4, seed=2))


@pytest.mark.parametrize(
    "compute",
    [
        torch.linalg.cholesky,
        lambda x: torch.linalg.solve(x, x[:1].mT),
        lambda x: F.binary_cross_entropy(x, torch.ones_like(x)),
        lambda x: x.index_select(0, x[0].argsort()),
    ],
)
def test_what_may_raise_is_not(compute: Any) -> None:
    x = torch.eye(3, dtype=torch.float64) * 0.5 + 0.1
    assert not total(compute, x)
