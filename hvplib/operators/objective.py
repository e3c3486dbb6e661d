"""A function as `scipy.optimize.minimize` wants it: value, gradient and Hessian products of NumPy vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from hvplib.operators.curvature import HessianOperator

__all__ = ["ScipyObjective", "scipy_objective"]

Vector = np.ndarray[Any, np.dtype[np.float64]]


def scipy_objective(
    func: Callable[..., Any], x0: Any, data: Iterable[Any] | None = None, **options: Any
) -> ScipyObjective:
    """f, ∇f and v ↦ ∇²f(x) v as functions of NumPy vectors, for `scipy.optimize.minimize`.

    Works with every method that takes `hessp` (Newton-CG, trust-ncg, trust-krylov, trust-constr). Value,
    gradient and products at one point share one linearisation, which the next point replaces.

    A float32 function is evaluated in float32 at the rounded point, whatever SciPy computes with: ask for
    tolerances that float32 can meet.

    Args:
        func: As for `HessianOperator`. For a module, `func, theta = functional_loss(model, loss)` and
        x0=theta.
        x0: Starting point, a pytree of floating point tensors.
        data: As for `HessianOperator`.
        options: As for `HessianOperator`. The function is verified at x0 only.

    Example:
        >>> import torch
        >>> from scipy.optimize import minimize
        >>> rosenbrock = lambda p: (1 - p["x"]) ** 2 + 100 * (p["y"] - p["x"] ** 2) ** 2
        >>> x0 = {"x": torch.tensor(-1.0, dtype=torch.float64), "y": torch.tensor(2.0, dtype=torch.float64)}
        >>> f = scipy_objective(rosenbrock, x0)
        >>> result = minimize(f.fun, f.x0, jac=f.jac, hessp=f.hessp, method="trust-krylov")
        >>> {name: round(float(value), 6) for name, value in f.unravel(result.x).items()}
        {'x': 1.0, 'y': 1.0}
    """
    return ScipyObjective(HessianOperator(func, x0, data, **options))


class ScipyObjective:
    """The functions made by `scipy_objective`.

    Attributes:
        x0: The starting point as a vector (n,), float64.
        num_points: Points at which f was linearised so far.
        num_matvecs: Products made so far.
    """

    def __init__(self, operator: HessianOperator) -> None:
        assert operator.domain is not None
        self._space = operator.domain
        self._elsewhere = operator._elsewhere
        self._operator: HessianOperator | None = operator
        self.x0: Vector = self._space.flatten(operator.primals).double().cpu().numpy()
        self._point = self.x0.copy()
        self.num_points = 1
        self.num_matvecs = 0

    def fun(self, x: Vector) -> float:
        """f(x)."""
        return float(self.operator(x).value)

    def jac(self, x: Vector) -> Vector:
        """∇f(x) (n,)."""
        gradient: Vector = self.operator(x).flat_gradient.double().cpu().numpy()
        return gradient

    def hessp(self, x: Vector, p: Vector) -> Vector:
        """∇²f(x) p (n,)."""
        self.num_matvecs += 1
        product: Vector = self.operator(x) @ np.asarray(p, dtype=np.float64)
        return product

    def unravel(self, x: Vector) -> Any:
        """The pytree of a vector (n,), like the starting point."""
        vector = torch.tensor(np.asarray(x), dtype=self._space.dtype, device=self._space.device)
        return self._space.unflatten(vector)

    def operator(self, x: Vector) -> HessianOperator:
        """The Hessian at x; the last one is kept."""
        if self._operator is None or not np.array_equal(x, self._point):
            # The old linearisation goes before the new one comes: only one is ever in memory.
            self._operator = None
            self._operator = self._elsewhere(self.unravel(x))
            self._point = np.array(x, dtype=np.float64)
            self.num_points += 1
        return self._operator
