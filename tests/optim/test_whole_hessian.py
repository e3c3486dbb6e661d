"""Whole Hessians, in blocks or by columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.optim.whole_hessian import whole_hessian


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "widths"), [(1, [1]), (3, [1, 1, 1]), (4, [1, 1, 1, 1]), (5, [5]), (20, [20])])
def test_n_products_of_few_columns_by_themselves(n: int, widths: list[int], dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(n)
    A = torch.randn(n, n, generator=rng, dtype=dtype)
    found: list[int] = []

    def hvp(V: Tensor) -> Tensor:
        assert V.shape[0] == n and V.dtype == dtype
        found.append(V.shape[1])
        return A @ V

    H = whole_hessian(hvp, torch.zeros(n, dtype=dtype))
    assert found == widths
    assert H.dtype == torch.float64
    assert torch.equal(H, H.mT)
    torch.testing.assert_close(H, (A.double() + A.double().mT) / 2, rtol=0, atol=torch.finfo(dtype).eps * 4)
