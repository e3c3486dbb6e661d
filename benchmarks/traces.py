"""The trace estimators of the libraries, on products that are given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.eigensolvers import Products
from benchmarks.peers import curvlinops_of, eigenthings_of, pyhessian_of

__all__ = ["TRACES", "Estimator"]

# (products, n, how many, seed) -> the estimate, and what is stated of its error: None if nothing.
Estimator = Callable[[Products, int, int, int], tuple[float, float | None]]


def hvplib(products: Products, n: int, budget: int, seed: int, *, method: str) -> tuple[float, float | None]:
    from hvplib import FunctionOperator, trace

    A = FunctionOperator(products, (n, n), dtype=torch.float64, symmetric=True)
    result = trace(A, method=method, max_matvecs=budget, generator=seed)
    return result.value, result.stderr


def curvlinops(products: Products, n: int, budget: int, seed: int, *, name: str) -> tuple[float, None]:
    import curvlinops as package

    torch.manual_seed(seed)  # it draws from the global generator
    return float(getattr(package, name)(curvlinops_of(products, n), budget)), None


def eigenthings(products: Products, n: int, budget: int, seed: int) -> tuple[float, float | None]:
    from hessian_eigenthings.algorithms import trace

    result = trace(eigenthings_of(products, n), num_matvecs=budget, method="hutch++", seed=seed)
    return float(result.estimate), float(result.stderr)


def pyhessian(products: Products, n: int, budget: int, seed: int) -> tuple[float, None]:
    torch.manual_seed(seed)  # it draws from the global generator
    samples = pyhessian_of(products, n).trace(maxIter=budget, tol=0.0)
    return sum(samples) / len(samples), None


# (whose operator, the estimator). Of each library what needs the fewest products, and Hutchinson where that
# is all there is.
TRACES: dict[str, tuple[str, Estimator]] = {
    "**hvplib** XTrace, its default here": ("hvplib", partial(hvplib, method="xtrace")),
    "**hvplib** Hutch++": ("hvplib", partial(hvplib, method="hutch++")),
    "**hvplib** Hutchinson": ("hvplib", partial(hvplib, method="hutchinson")),
    "curvlinops XTrace": ("curvlinops", partial(curvlinops, name="xtrace")),
    "curvlinops Hutch++": ("curvlinops", partial(curvlinops, name="hutchpp_trace")),
    "hessian-eigenthings Hutch++": ("hessian-eigenthings", eigenthings),
    "PyHessian (Hutchinson)": ("PyHessian", pyhessian),
}
