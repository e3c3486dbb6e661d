"""What a minimisation may start from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hvplib.optim import least_squares, minimize
from hvplib.optim.start import started


@pytest.mark.parametrize(
    ("x0", "dtype", "back"),
    [
        ([1, 2], torch.float64, np.float64),
        (np.ones(2, dtype=np.float32), torch.float32, np.float32),
        (np.array([True, False]), torch.float64, np.float64),
        (3, torch.float64, np.float64),
    ],
)
def test_arrays_and_numbers(x0: Any, dtype: torch.dtype, back: Any) -> None:
    x, unravel = started(x0)
    assert x.dtype is dtype and x.shape == np.shape(x0)
    returned = unravel(x)
    assert isinstance(returned, np.ndarray) and returned.dtype == back
    np.testing.assert_array_equal(returned, np.asarray(x0, dtype=back))


def test_tensors_stay_as_they_are() -> None:
    x0 = {"a": torch.ones(2), "b": torch.zeros(0, dtype=torch.float64)}
    x, unravel = started(x0)
    assert x is x0 and unravel(x) is x0


@pytest.mark.parametrize("solve", [minimize, least_squares])
@pytest.mark.parametrize(
    ("x0", "error", "text"),
    [
        (torch.tensor([1, 2]), ValueError, r"x0 must be of real .* got torch.int64; give x0.double\(\)"),
        ((torch.ones(1), torch.tensor([1])), ValueError, "x0 must be of real .* got torch.int64"),
        (torch.ones(1, dtype=torch.complex64), ValueError, "x0 .* torch.complex64; split it into real"),
        (torch.zeros(0), ValueError, "x0 must hold at least one number"),
        ([], ValueError, "x0 must hold at least one number"),
        ("a", TypeError, "x0 must be a tensor, a pytree of tensors, or an array of real numbers, got str"),
        (None, TypeError, "x0 must be a tensor"),
    ],
)
def test_what_is_refused_is_called_x0(solve: Any, x0: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        solve(lambda *x: sum((part**2).sum() for part in x), x0)
