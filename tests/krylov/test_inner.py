"""Inner products of long float32 vectors: as exact as their numbers."""

from __future__ import annotations

import pytest
import torch

from hvplib.krylov.inner import EUCLIDEAN, Inner


def block(n: int, k: int, seed: int) -> torch.Tensor:
    return torch.randn(k, n, generator=torch.Generator().manual_seed(seed)).mT


@pytest.mark.parametrize("n", [2**20 + 3, 2**16])
@pytest.mark.parametrize(("k", "m"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_sums_over_many_rows_keep_float32s_digits(n: int, k: int, m: int) -> None:
    X, Y = block(n, k, 0), block(n, m, 1)
    for left, right in ((X, Y), (X, X)):
        exact = left.double().mT @ right.double()
        found = EUCLIDEAN(left, right)
        assert found.dtype == torch.float32 and found.shape == exact.shape
        # Of random signs, what is left of a sum is √n: errors are measured by the lengths.
        assert float((found - exact).abs().max()) <= 1e-6 * n
    torch.testing.assert_close(
        EUCLIDEAN.columns(X, X).double(), X.double().square().sum(0), rtol=1e-6, atol=0
    )


def test_a_plain_product_would_not() -> None:
    """Why it is done: if this fails, torch sums better than it did, and the parts may go."""
    X = block(2**22, 1, 0)
    exact = float(X.double().square().sum())
    assert abs(float(X.mT @ X) / exact - 1) > 1e-4
    assert abs(float(EUCLIDEAN(X, X)) / exact - 1) < 1e-6


def test_blocks_need_not_be_contiguous() -> None:
    n = 2**17 + 5
    wide = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    X, Y = wide[:, ::2], wide[:, 1:2]
    torch.testing.assert_close(EUCLIDEAN(X, Y).double(), X.double().mT @ Y.double(), rtol=0, atol=1e-7 * n)


def test_parts_of_the_rows_are_summed_over_all_who_hold_them() -> None:
    X, parts = block(2**17, 2, 0), []
    inner = Inner(lambda sums: parts.append(sums) or sums * 2)
    torch.testing.assert_close(inner(X, X), EUCLIDEAN(X, X) * 2)
    torch.testing.assert_close(inner.columns(X, X), EUCLIDEAN.columns(X, X) * 2)
    assert len(parts) == 2
