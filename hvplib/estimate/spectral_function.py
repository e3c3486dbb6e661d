"""Functions of eigenvalues: those with a name, those of the user, and where they are defined."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["NAMES", "SpectralFunction", "SpectrumError", "interval_of", "spectral_function"]

# An eigenvalue is known to so many roundings of the largest: below that it may be zero.
_ROUNDINGS = 100.0


class SpectrumError(ValueError):
    """An eigenvalue was met where there should be none: outside f's domain, or the interval given."""


@dataclass(frozen=True)
class SpectralFunction:
    """f, as it acts on eigenvalues.

    Attributes:
        name: For messages.
        call: f of a tensor of eigenvalues, float64 on the CPU.
        signs: The signs of the even derivatives from the second on, and of the odd ones, where each kind has
            one sign on all of the domain's positive part (on all of ℝ if `least` is −∞); None if unknown.
        least: Where the domain begins.
        closed: Whether f is defined at `least`.
        around_zero: Whether f is defined below zero too, and only at zero not.
    """

    name: str
    call: Callable[[Tensor], Any]
    signs: tuple[int, int] | None = None
    least: float = -math.inf
    closed: bool = False
    around_zero: bool = False

    def __call__(self, values: Tensor, rounding: float = 0.0) -> Tensor:
        """f of eigenvalues (any shape), each known to ± rounding.

        Raises:
            ValueError: f is not defined at one of them.
        """
        values = values.double()
        self._refuse(values, rounding)
        if self.closed:
            values = values.clamp(min=self.least)
        found = torch.as_tensor(self.call(values))
        if found.is_complex() or found.shape != values.shape:
            raise ValueError(
                f"f must return a real number for each eigenvalue, {tuple(values.shape)}, got "
                f"{tuple(found.shape)} of {found.dtype}; write it with operations on whole tensors"
            )
        found = found.to("cpu", torch.float64)
        bad = ~found.isfinite()
        if bool(bad.any()):
            where, what = float(values[bad][0]), float(found[bad][0])
            raise ValueError(f"f must be finite on the spectrum of A, got {what} at {where:.6g}")
        return found

    def limit(self, x: float) -> float | None:
        """f(x), or None where it is not defined or not finite."""
        try:
            return float(self(torch.tensor([x], dtype=torch.float64))[0])
        except ValueError:
            return None

    def rounding(self, eps: float, size: float) -> float:
        """How far an eigenvalue of a matrix of this size may be from zero and still be zero."""
        return _ROUNDINGS * eps * size

    def _refuse(self, values: Tensor, rounding: float) -> None:
        if self.around_zero:
            bad, where = values.abs() <= rounding, "at zero"
        elif self.closed:
            bad, where = values < self.least - rounding, f"below {self.least:g}"
        elif self.least > -math.inf:
            bad, where = values <= self.least + rounding, f"at or below {self.least:g}"
        else:
            return
        if bool(bad.any()):
            value = float(values[bad][values[bad].abs().argmax()])
            within = f", which is zero to within rounding ({rounding:.1g})" if abs(value) <= rounding else ""
            raise SpectrumError(
                f"f = {self.name} is not defined {where}, but the spectrum of A reaches to {value:.6g}"
                f"{within}; add a damping, A.shifted(damping), or take a function that is defined there"
            )


def _inverse_sqrt(values: Tensor) -> Tensor:
    return values.rsqrt()


NAMES: dict[str, SpectralFunction] = {
    "exp": SpectralFunction("exp", torch.exp, (1, 1)),
    "log": SpectralFunction("log", torch.log, (-1, 1), least=0.0),
    "sqrt": SpectralFunction("sqrt", torch.sqrt, (-1, 1), least=0.0, closed=True),
    "inv_sqrt": SpectralFunction("inv_sqrt", _inverse_sqrt, (1, -1), least=0.0),
    "inverse": SpectralFunction("inverse", torch.reciprocal, (1, -1), around_zero=True),
    "sign": SpectralFunction("sign", torch.sign, around_zero=True),
}


def spectral_function(f: Any, signs: tuple[int, int] | None = None) -> SpectralFunction:
    """f by its name, or the user's own with what is said of its derivatives.

    Args:
        f: A name of `NAMES`, or a function of a tensor of eigenvalues.
        signs: The signs of its even and its odd derivatives, if known; for a function of the user only.
    """
    if signs is not None and (len(signs) != 2 or not all(sign in (-1, 1) for sign in signs)):
        raise ValueError(
            f"derivative_signs must be two of 1 and -1, for the even and the odd derivatives, got {signs!r}"
        )
    if isinstance(f, str):
        if f not in NAMES:
            raise ValueError(f"f must be one of {', '.join(map(repr, NAMES))}, or a function, got {f!r}")
        if signs is not None:
            raise ValueError(f"derivative_signs are known of f = {f!r}; leave them out")
        return NAMES[f]
    if isinstance(f, SpectralFunction):
        return f
    if not callable(f):
        raise TypeError(f"f must be a name or a function of a tensor of eigenvalues, got {type(f).__name__}")
    return SpectralFunction(getattr(f, "__name__", type(f).__name__), f, signs)


def interval_of(interval: Any, *, positive_semidefinite: bool) -> tuple[float | None, float | None]:
    """(a, b) with a ≤ λ ≤ b for all eigenvalues λ, None where nothing is known.

    Args:
        interval: As the user gave it, or None.
        positive_semidefinite: Whether A is declared so: a is at least 0 then.
    """
    try:
        low, high = (None, None) if interval is None else interval
        low, high = (None if end is None else float(end) for end in (low, high))
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if (low is not None and math.isnan(low)) or (high is not None and math.isnan(high)):
        raise ValueError(f"interval must be two numbers or None each, (a, b), got {interval!r}")
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"interval must have its lower end first, got {interval!r}")
    low, high = (None if end is None or math.isinf(end) else end for end in (low, high))
    if positive_semidefinite and (low is None or low < 0):
        low = 0.0
    return low, high
