"""`check_operator`: whether an operator is what it says, told in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten

from hvplib.ad.check import CheckReport
from hvplib.ad.differences import compare
from hvplib.ad.report import Check
from hvplib.operators.base import Operator
from hvplib.operators.curvature import HessianOperator

__all__ = ["check_operator"]

# Rounding in a product is a few units of eps, times a factor that grows slowly with its length.
_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-1, torch.bfloat16: 2e-1}


def check_operator(operator: Operator, *, seed: int = 0) -> CheckReport:
    """Examine A along random vectors: A(αu + βv) = αAu + βAv, uᵀ(Av) = (Aᵀu)ᵀv, and more.

    * Two equal calls give the same; the product is linear; a block gives what its columns give.
    * It is symmetric if it is declared so, otherwise its transpose is what it says, if it has one.
    * uᵀAu ≥ 0 on the vectors tried, if it is declared positive semidefinite.
    * For a `HessianOperator`: its products agree with differences of its gradients with a ladder of steps;
      "inconclusive" where the steps disagree with one another (kinks, low precision).

    Costs about ten products, and for a `HessianOperator` up to sixteen gradients of the whole data.

    Args:
        operator: A.
        seed: Seed of the random vectors.

    Returns:
        A `CheckReport`; `.ok` is True, False, or None for inconclusive. `print` it.

    Example:
        >>> import torch
        >>> from hvplib.operators import FunctionOperator, Matrix
        >>> check_operator(Matrix(torch.eye(3))).ok
        True
        >>> print(check_operator(FunctionOperator(lambda X: X.cumsum(0), (3, 3), symmetric=True)).checks[-1])
        symmetry: FAILED (relative error 3.8e-01, tolerance 1e-04)
    """
    if not isinstance(operator, Operator):
        raise TypeError(
            f"operator must be an hvplib Operator, got {type(operator).__name__}; see SciPyOperator"
        )
    generator = torch.Generator().manual_seed(seed)
    U = _random(operator, operator.shape[1], generator)
    AU = operator @ U
    checks = [*_linear(operator, U, AU), _adjoint(operator, U, AU, generator)]
    if operator.positive_semidefinite:
        checks.append(_semidefinite(operator, U, AU))
    if isinstance(operator, HessianOperator):
        checks.append(_against_gradients(operator, U[:, 0], AU[:, 0]))
    return CheckReport(tuple(check for check in checks if check is not None))


def _linear(operator: Operator, U: Tensor, AU: Tensor) -> Sequence[Check]:
    tolerance = _tolerance(operator)
    columns = torch.stack([operator @ u for u in U.mT], dim=1)
    combined = operator @ (0.75 * U[:, 0] - 1.5 * U[:, 1])
    return [
        _check("called twice", operator @ U, AU, tolerance),
        _check("a block against its columns", AU, columns, tolerance),
        _check("linearity", combined, 0.75 * AU[:, 0] - 1.5 * AU[:, 1], tolerance),
    ]


def _adjoint(operator: Operator, U: Tensor, AU: Tensor, generator: torch.Generator) -> Check | None:
    """uᵀ(Av) against (Aᵀu)ᵀv, relative to the norms that enter them."""
    try:
        W = U if operator.symmetric else _random(operator, operator.shape[0], generator)
        ATW = AU if operator.symmetric else operator.T @ W
    except NotImplementedError:
        return None
    scale = float((W.norm() * AU.norm() + ATW.norm() * U.norm()).double()) or 1.0
    error = float((W.mT @ AU - (U.mT @ ATW).mT).double().norm()) / scale
    tolerance = _tolerance(operator)
    return Check("symmetry" if operator.symmetric else "transpose", error, tolerance, error <= tolerance)


def _semidefinite(operator: Operator, U: Tensor, AU: Tensor) -> Check:
    cosines = (U * AU).sum(0) / (U.norm(dim=0) * AU.norm(dim=0)).clamp(min=torch.finfo(U.dtype).tiny)
    error = float((-cosines).clamp(min=0).max())
    tolerance = _tolerance(operator)
    return Check("positive semidefinite", error, tolerance, error <= tolerance, f"{U.shape[1]} vectors tried")


def _against_gradients(operator: HessianOperator, v: Tensor, product: Tensor) -> Check:
    space = operator.domain
    assert space is not None

    def evaluate(leaves: Sequence[Tensor]) -> Tensor:
        # `compare` wants a function: a linear one whose gradient at these leaves is that of the loss there.
        point = tree_unflatten([leaf.detach() for leaf in leaves], space.spec)
        gradient = tree_leaves(operator.at(point, memory_budget=0).gradient)
        terms = [(g * x).sum().to(space.device, space.dtype) for g, x in zip(gradient, leaves, strict=True)]
        return torch.stack(terms).sum()

    leaves = tree_leaves(operator.primals)
    return compare(evaluate, leaves, tree_leaves(space.unflatten(v)), tree_leaves(space.unflatten(product)))


def _check(name: str, found: Tensor, expected: Tensor, tolerance: float) -> Check:
    scale = max(float(found.norm()), float(expected.norm())) or 1.0
    error = float((found - expected).norm()) / scale
    return Check(name, error, tolerance, error <= tolerance)


def _random(operator: Operator, size: int, generator: torch.Generator) -> Tensor:
    numbers = torch.randn(3, size, generator=generator, dtype=operator.torch_dtype)
    return numbers.to(operator.device).mT


def _tolerance(operator: Operator) -> float:
    dtypes = [operator.torch_dtype] if operator.domain is None else operator.domain.dtypes
    tolerances = [_TOLERANCE[dtype] for dtype in dtypes]
    if isinstance(operator, HessianOperator) and operator.report is not None:
        # A float64 loss may compute in float32 inside; the checks of its first product know.
        tolerances += [10 * check.tolerance for check in operator.report.checks if check.name == "symmetry"]
    return max(tolerances)
