"""Bounds and estimates of bᵀ f(A) b from T alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.estimate.function_error import Interval, Projected
from hvplib.estimate.spectral_function import SpectralFunction
from hvplib.krylov.lanczos_columns import Recurrence
from hvplib.krylov.quadrature import gauss, gauss_radau

__all__ = ["FormBounds", "form_bounds"]

# What rules with assumed nodes, or of fewer steps, show of the error is taken so many times.
_SAFETY = 3.0


class FormBounds(NamedTuple):
    """lower ≤ bᵀ f(A) b ≤ upper, in exact arithmetic; rounding may add `rounding` on both sides.

    Attributes:
        value: The Gauss rule's.
        lower, upper: Bounds, or estimates.
        certain: Which of the two are bounds.
        nodes, weights: The Gauss rule (m,), of mass ‖b‖².
        projected: Where they come from; None where there were no steps.
    """

    value: float
    lower: float
    upper: float
    certain: tuple[bool, bool]
    nodes: Tensor
    weights: Tensor
    projected: Projected | None

    @property
    def rounding(self) -> float:
        """What the products and sums may have done; it takes as long as the bounds."""
        return self.projected.form_rounding() if self.projected else 0.0


def form_bounds(recurrence: Recurrence, f: SpectralFunction, eps: float, interval: Interval) -> FormBounds:
    """What m steps tell of bᵀ f(A) b.

    Where the derivatives of f of each parity have one sign, the Gauss rule is a bound on one side: from below
    if those of even order are positive. A Gauss-Radau rule is one on the other, with its node at the lower
    end of the spectrum if the signs alternate, at the upper one if they agree. If that end is not known, the
    Ritz values stand in for it, and this side is an estimate; for other functions both are, by the difference
    of the Gauss rules of m and m − 1 steps and the anti-Gauss rule of Laurie.

    Args:
        recurrence: T, with at least one step.
        f: The function.
        eps: Of the vectors' dtype.
        interval: What is known of the ends of the spectrum.

    Source: Golub, Meurant (2010), chapters 6 and 7, 10.1515/9781400833887; Laurie (1996), Anti-Gaussian
    quadrature formulas, 10.1090/S0025-5718-96-00713-2.
    """
    projected = Projected(recurrence, f, eps, interval)
    mass, beta = recurrence.norm**2, recurrence.coupling
    weights = projected.first.square()
    value = mass * float(weights @ projected.f_values)

    def found(lower: float, upper: float, below: bool, above: bool) -> FormBounds:
        return FormBounds(value, lower, upper, (below, above), projected.values, mass * weights, projected)

    if beta == 0:
        return found(value, value, True, True)
    end = projected.end()
    if end is None or f.signs is None:
        off = _SAFETY * _differences(recurrence, projected, mass)
        return found(value - off, value + off, False, False)
    nodes, others = gauss_radau(recurrence.tridiagonal(), beta, end.x)
    other = mass * float(others @ f(nodes, projected.slack))
    if not end.known:
        other = value + _SAFETY * (other - value)
    # In exact arithmetic they are in this order; of equal ones, rounding makes what it likes.
    if f.signs[0] > 0:
        return found(value, max(value, other), end.gauss_certain, end.known)
    return found(min(value, other), value, end.known, end.gauss_certain)


def _differences(recurrence: Recurrence, projected: Projected, mass: float) -> float:
    """What rules of fewer steps, and of opposite errors, show of the Gauss rule's error."""
    m = recurrence.steps
    if m == 1:
        return mass * float(projected.f_values.abs().max())
    T = recurrence.tridiagonal()
    fewer = _value(projected, *gauss(T[:-1, :-1]))
    T[-1, -2] = T[-2, -1] = 2**0.5 * T[-1, -2]
    nodes, weights = gauss(T)
    value = float(projected.first.square() @ projected.f_values)
    differences = [abs(value - fewer)]
    # The anti-Gauss rule's outer nodes may lie where f is not defined.
    if all(projected.is_defined(float(x)) for x in (nodes[0], nodes[-1])):
        differences.append(abs(_value(projected, nodes, weights) - fewer) / 2)
    return mass * max(differences)


def _value(projected: Projected, nodes: Tensor, weights: Tensor) -> float:
    return float(weights @ torch.as_tensor(projected.f_of(nodes)))
