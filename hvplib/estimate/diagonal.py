"""`diagonal`: the diagonal of an operator from products, with its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from hvplib.estimate.averaged import LEAST, Callback
from hvplib.estimate.coloring import colored_diagonal, colors, neighbours
from hvplib.estimate.deadline import Deadline
from hvplib.estimate.exact import exact_diagonal
from hvplib.estimate.exchangeable import exchanged
from hvplib.estimate.found import Found, result_of
from hvplib.estimate.goal import Goal
from hvplib.estimate.hutchinson import hadamard, sampled
from hvplib.estimate.methods import DIAGONAL, Exact, Hutchinson, Method, XDiag, method_of
from hvplib.estimate.probes import Probes, generator_of
from hvplib.estimate.products import Products
from hvplib.estimate.trace import check_limit, limit_of, square
from hvplib.estimate.xdiag import XDiagSketch
from hvplib.operators.base import Operator
from hvplib.results.common import settled
from hvplib.results.estimate import Estimate
from hvplib.space import Space

__all__ = ["DiagonalEstimate", "diagonal"]

_SKETCH = 2**31


@dataclass(frozen=True, repr=False, eq=False)
class DiagonalEstimate(Estimate):
    """diag A (n,), each entry with its standard error and an interval.

    `value`, `stderr` and the ends of `interval` are tensors of A's dtype on its device, or NumPy arrays if A
    was one of NumPy's or SciPy's. `error` and `tolerance` are of the whole: ‖value − diag A‖ is at most
    `error` with the confidence stated.

    Attributes:
        space: The space of pytrees that A acts on, or None.
    """

    space: Space | None = field(default=None, repr=False)

    def as_tree(self, vector: Any = None, params: Any = None) -> Any:
        """The diagonal as a pytree like A's own point.

        Args:
            vector: Another vector (n,) in its place, such as `stderr`.
            params: Pytree of tensors whose structure is to be taken where A has none, or another.

        Raises:
            ValueError: There is no such structure, or it has not n entries.
        """
        space = self.space if params is None else Space.of(params)
        if space is None:
            raise ValueError("params must be given: the operator acts on flat vectors and knows no pytree")
        return space.unflatten(torch.as_tensor(self.value if vector is None else vector))


def diagonal(
    A: Any,
    *,
    method: Method | str | None = None,
    pattern: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    confidence: float = 0.95,
    max_matvecs: int | None = None,
    time_limit: float | None = None,
    generator: torch.Generator | int | None = None,
    callback: Callback | None = None,
    throw: bool = True,
) -> DiagonalEstimate:
    """d_i = a_ii of a square A known by its products; with a standard error and an interval for each.

    Without a tolerance the products allowed are spent. With one it ends as soon as the bound on the norm of
    the error, t (Σ stderr_i²)^½ with Student's t, is at most max(rtol ‖d‖, atol); looked at as for `trace`.

    Args:
        A: Square (n, n): an operator, tensor, array, or SciPy's sparse matrix or LinearOperator.
        method: "hutchinson" (`Hutchinson`): any square A; "xdiag" (`XDiag`): a symmetric one, or one with
            products of the transpose; "exact" (`Exact`). None takes "exact" where a pattern is given or n
            products are within `max_matvecs` (with a tolerance: where n ≤ 64), else "xdiag" where A is
            symmetric and the sketch takes at most 2 GiB, else "hutchinson".
        pattern: Where A may differ from zero: a SciPy sparse matrix, a torch sparse tensor, or a dense one.
            Columns that do not meet are multiplied as one; twice, with other weights, so that a pattern
            that is too small shows.
        rtol: Relative tolerance on the norm; see above.
        atol: Absolute tolerance on the norm; the larger of both counts.
        confidence: Of the intervals, which are pointwise, and of `error`.
        max_matvecs: Most products; 100 if None, and 1000 with a tolerance. No limit with a pattern.
        time_limit: Seconds; looked at after each block of samples. "exact" is not ended before it is done.
        generator: Of the random vectors, or a seed; without one, equal calls give equal bits.
        callback: Is told an `EstimateProgress` after each block, of norms; a true return value ends it.
        throw: Raise `ConvergenceError` if the tolerance is not reached or a product is not finite.

    Returns:
        A `DiagonalEstimate`; `as_tree()` gives the diagonal as a pytree like A's point.

    Raises:
        ConvergenceError: See `throw`; its `.result` holds what there is.
        ValueError: An argument is out of range, A is not square, or the pattern is too small.

    Source: the methods name their own.

    Example:
        >>> import torch
        >>> from hvplib import HessianOperator, diagonal
        >>> point = {"a": torch.ones(2), "b": torch.tensor(3.0)}
        >>> H = HessianOperator(lambda p: (p["a"] ** 4).sum() * p["b"], point)
        >>> result = diagonal(H)
        >>> result.value, result.status.name
        (tensor([36., 36.,  0.]), 'EXACT')
        >>> result.as_tree()
        {'a': tensor([36., 36.]), 'b': tensor(0.)}
    """
    goal, ending = Goal(rtol, atol, confidence), Deadline(time_limit, callback)
    operator = square(A)
    drawn = generator_of(generator)
    if pattern is None:
        limit = limit_of(max_matvecs, goal)
        used, reason = _chosen(operator, method, goal, limit)
        check_limit(used, operator.shape[0], limit)
        products = Products(operator, limit)
        found = ending.told(_estimated(products, used, goal, drawn, ending))
    else:
        used, reason = Exact() if method is None else method_of(method, DIAGONAL), "a pattern is given"
        colour = colors(neighbours(pattern, operator.shape[0]))
        products = Products(operator, _colored_limit(used, colour, max_matvecs))
        normal = Probes.of(operator, generator=drawn, distribution="normal")
        values = colored_diagonal(products, colour, normal, used.block_size)
        found = Found.exact(values, products.rounding(), goal, products.total)
    plain = result_of(found, goal, products.counts, used, reason, _back(A, operator))
    told = {item.name: getattr(plain, item.name) for item in fields(plain)}
    result = DiagonalEstimate(**told, space=operator.domain)
    return settled(result, throw=throw)


def _estimated(
    products: Products, method: Method, goal: Goal, generator: torch.Generator, callback: Callback | None
) -> Found:
    operator = products.operator
    if isinstance(method, Exact):
        values = exact_diagonal(products, method.block_size)
        return Found.exact(values, products.rounding(), goal, products.total)
    common: dict[str, Any] = {"block_size": method.block_size, "callback": callback}
    if isinstance(method, Hutchinson):
        drawn = Probes.of(operator, generator=generator, distribution=method.distribution)
        return sampled(products, drawn, goal, hadamard, **common)
    sketch = XDiagSketch(products, Probes.of(operator, generator=generator))
    return exchanged(
        sketch,
        goal,
        max_samples=min(products.left // 2, operator.shape[0]),
        spent=lambda: products.total,
        bound=lambda: products.rounding() + sketch.rest,
        **common,
    )


def _chosen(operator: Operator, method: Method | str | None, goal: Goal, limit: int) -> tuple[Method, str]:
    if method is not None:
        return method_of(method, DIAGONAL), "as given"
    n = operator.shape[0]
    if n <= (min(64, limit) if goal.asks else limit):
        return Exact(), f"{n} products give all of it"
    # Vectors of the sketch, and in float64 what is made of them.
    if operator.symmetric and 8 * 4 * min(limit, n) * n <= _SKETCH and limit >= 2 * LEAST:
        return XDiag(), "A is symmetric"
    return Hutchinson(), "a sketch would take more than 2 GiB" if operator.symmetric else "A is not symmetric"


def _colored_limit(method: Method, colour: Tensor, max_matvecs: int | None) -> int:
    if not isinstance(method, Exact):
        raise ValueError(f"pattern is for method 'exact', got {method}; leave one of them out")
    needed = 2 * (int(colour.max()) + 1)
    if max_matvecs is not None and max_matvecs < needed:
        raise ValueError(f"max_matvecs must be at least {needed} for this pattern, got {max_matvecs}")
    return needed


def _back(A: Any, operator: Operator) -> Callable[[Tensor], Any]:
    """A's own kind of vector."""
    numeric = issparse(A) or (isinstance(A, np.ndarray | LinearOperator) and not isinstance(A, Operator))

    def back(vector: Tensor) -> Any:
        vector = vector.to(operator.torch_dtype)
        return vector.cpu().numpy() if numeric else vector

    return back
