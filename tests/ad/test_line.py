"""Second differences: what they confirm, what they contradict, what they cannot tell."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib.ad.line import compare_curvature, midpoint_violated

F64, F32 = torch.float64, torch.float32


@pytest.mark.parametrize("dtype", [F32, F64])
def test_smooth_functions(dtype: torch.dtype) -> None:
    phi = lambda t: float(torch.tensor(t, dtype=dtype).add(0.3).exp())  # noqa: E731
    right = math.exp(0.3)
    assert compare_curvature(phi, right, 1.0, dtype).passed is True
    wrong = compare_curvature(phi, 1.2 * right, 1.0, dtype)
    assert wrong.passed is False and "agree with each other" in wrong.detail


def test_a_kink_and_rounding_tell_nothing() -> None:
    assert compare_curvature(lambda t: abs(t), 0.0, 1.0, F64).passed is None
    assert compare_curvature(lambda t: 1e9 + 1e-12 * t * t, 5e-9, 1.0, F64).passed is not False


def test_zero_is_confirmed() -> None:
    assert compare_curvature(lambda t: 3 * t, 0.0, 1.0, F64).passed is True
    assert compare_curvature(lambda t: math.nan, 0.0, 1.0, F64).passed is None


def test_concave_functions_are_convicted_and_others_are_not() -> None:
    assert midpoint_violated(math.cos, -1.0, 1.0, F64)
    assert not midpoint_violated(math.cosh, -1.0, 1.0, F64)
    assert not midpoint_violated(lambda t: 1.0, -1e-16, 1.0, F64)
    noisy = lambda t: float(torch.tensor(1.0 + t * t * 1e-9, dtype=F32))  # noqa: E731
    assert not midpoint_violated(noisy, -1e-8, 1.0, F32)
