"""Gradient and curvature of a closure's loss at the parameters as they are, and their proof."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from hvplib.ad.differences import Evaluate, compare, compare_value
from hvplib.ad.engines import GraphEngine
from hvplib.ad.graph import graph_facts
from hvplib.ad.guard import derivative
from hvplib.ad.report import Check
from hvplib.ad.select import failing_op, is_missing_derivative
from hvplib.ad.vectors import all_finite
from hvplib.ad.verify import probes, repeatability, rounding, symmetry
from hvplib.errors import DerivativeError
from hvplib.optim.before_step import put
from hvplib.optim.closures import Closure, Result
from hvplib.optim.gauss_newton_product import GaussNewton

__all__ = ["GGN", "HESSIAN", "Curvature", "gradient", "linearised", "prove"]

GGN, HESSIAN = "ggn", "hessian"
Curvature = GaussNewton | GraphEngine


def gradient(result: Result, params: Sequence[Tensor], *, graph: bool = False) -> list[Tensor]:
    """∇loss by the parameters, zero for those that it does not depend on; the graph of `result` is kept."""
    with derivative(), torch.enable_grad():
        return list(
            torch.autograd.grad(
                result.loss,
                params,
                create_graph=graph,
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )


def linearised(closure: Closure, result: Result, params: Sequence[Tensor], curvature: str) -> Curvature:
    """What multiplies with the Gauss-Newton matrix ("ggn") or the Hessian ("hessian") of a result.

    Raises:
        DerivativeError: An operation has no second derivative.
        ValueError: The Gauss-Newton matrix needs outputs, and there are none.
    """
    precision = closure.precision(params)
    with _missing_derivatives_named():
        if curvature == GGN:
            if not result.outputs:
                raise ValueError(
                    'closure must return (loss, outputs) for curvature="ggn", with the tensors that the loss '
                    'is computed from, say the output of the model; or use curvature="hessian"'
                )
            return GaussNewton(params, result.loss, result.outputs, precision)
        return GraphEngine(list(params), result.loss, gradient(result, params, graph=True), precision)


def prove(closure: Closure, params: Sequence[Tensor], curvature: str) -> list[Check]:
    """Make sure of the products with the curvature, or raise DerivativeError.

    For random v and w: the closure gives the same loss when it is called again; ⟨w, B v⟩ = ⟨B w, v⟩,
    and ⟨u, J v⟩ = ⟨Jᵀu, v⟩; a product comes out the same twice; and differences contradict neither it nor the
    gradient. The differences are of the loss, and of gradients for the Hessian, of the outputs and of the
    gradient of the loss by them for the Gauss-Newton matrix.

    The parameters move, and are put back bit for bit.
    """
    result = closure.result()
    checks = [_same_value(closure, result)]
    if checks[0].passed is False:
        raise DerivativeError(
            f"closure gives another loss when it is called again ({checks[0]}); draw the batch before "
            "step(closure), and keep from changing inside closure what it depends on"
        )
    custom = graph_facts(result.loss, params).custom
    B = linearised(closure, result, params, curvature)
    if not all_finite([result.loss, *B.gradient]):
        return checks
    products, difference = _examined(closure, result.loss, B, params)
    checks += [*products, *difference]
    unconfirmed = bool(custom) and not all(check.passed for check in difference)
    if unconfirmed or any(check.passed is False for check in checks):
        lines = "\n  ".join(map(str, checks))
        raise DerivativeError(
            f"the products with the curvature of closure do not stand up to the checks:\n  {lines}\n"
            "closure may use an operation whose derivative is wrong or that is a custom autograd function; "
            "write it with differentiable torch operations"
        )
    return checks


def _same_value(closure: Closure, result: Result) -> Check:
    first, again = float(result.loss.detach()), closure.value()
    tolerance = 100 * torch.finfo(result.loss.dtype).eps
    both_nan = math.isnan(first) and math.isnan(again)
    error = 0.0 if first == again or both_nan else abs(first - again) / max(abs(first), abs(again))
    return Check("closure called twice", error, tolerance, error <= tolerance)


def _examined(
    closure: Closure, loss: Tensor, B: Curvature, params: Sequence[Tensor]
) -> tuple[list[Check], list[Check]]:
    """What products among themselves say, and what differences say."""
    v, w = probes(params, 2)
    precision = closure.precision(params)
    with _missing_derivatives_named():
        Bv, again, Bw = B.product(v), B.product(v), B.product(w)
        slopes = _slopes(B)
    noise = rounding(loss, B.gradient, params, v, precision)
    own = [symmetry(v, Bv, w, Bw, precision, noise), repeatability(Bv, again, precision, noise)]
    if isinstance(B, GaussNewton):
        own.append(_adjoint(B, v, precision))
    with _frozen(closure), _kept(params):
        points = [p.detach().clone() for p in params]
        try:
            found = [
                replace(
                    compare_value(_values_at(closure, params, of), points, v, slope, precision), name=name
                )
                for name, of, slope in slopes
            ]
            if isinstance(B, GraphEngine):
                found.append(compare(_gradients_at(closure, params), points, v, Bv, precision))
        except IndexError:
            found = [Check("differences", math.inf, 0.0, None, "closure takes another path nearby")]
    return own, found


def _adjoint(G: GaussNewton, v: Sequence[Tensor], precision: torch.dtype) -> Check:
    """⟨u, J v⟩ = ⟨Jᵀu, v⟩: the differences look at Jᵀ, this carries over to J."""
    (u,) = probes(G.outputs, 1, seed=1)
    return replace(symmetry(v, G.push(v), u, G.pull(u), precision), name="adjoint")


_Slope = tuple[str, Callable[[Result], Tensor], Sequence[Tensor]]


def _slopes(B: Curvature) -> list[_Slope]:
    """Functions of the parameters with their gradients as B has them: ∇loss, and Jᵀu and Jᵀ H_L u."""
    slopes: list[_Slope] = [("gradient against differences", lambda result: result.loss.detach(), B.gradient)]
    if isinstance(B, GaussNewton):
        (u,) = probes(B.outputs, 1, seed=1)
        slopes.append(("outputs against differences", lambda result: _dot(result.outputs, u), B.pull(u)))
        curved = B.pull(B.curve(u))
        slopes.append(
            ("curvature of the loss against differences", lambda result: _loss_slope(result, u), curved)
        )
    return slopes


def _loss_slope(result: Result, u: Sequence[Tensor]) -> Tensor:
    """⟨∂loss / ∂outputs, u⟩."""
    return _dot(
        torch.autograd.grad(result.loss, result.outputs, allow_unused=True, materialize_grads=True), u
    )


def _dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a.detach() * b).sum() for a, b in zip(left, right, strict=True)]).sum()


def _values_at(closure: Closure, params: Sequence[Tensor], of: Callable[[Result], Tensor]) -> Evaluate:
    def evaluate(points: Sequence[Tensor]) -> Tensor:
        put(params, points)
        closure.stops.replay()
        return of(closure.result("plain"))

    return evaluate


def _gradients_at(closure: Closure, params: Sequence[Tensor]) -> Evaluate:
    """x ↦ the loss at x, with its gradient there: linear in x, as the graph leads to the parameters."""

    def evaluate(points: Sequence[Tensor]) -> Tensor:
        put(params, points)
        closure.stops.replay()
        result = closure.result("plain")
        value = result.loss.detach()
        for x, g in zip(points, gradient(result, params), strict=True):
            value = value + ((x - x.detach()) * g).sum()
        return value

    return evaluate


@contextmanager
def _kept(params: Sequence[Tensor]) -> Iterator[None]:
    """The parameters are put back at the end."""
    values = [p.detach().clone() for p in params]
    try:
        yield
    finally:
        put(params, values)


@contextmanager
def _frozen(closure: Closure) -> Iterator[None]:
    """What closure detaches keeps its present value, as it does for autograd."""
    closure.stops.record()
    try:
        closure.result("plain")
        yield
    finally:
        closure.stops.forget()


@contextmanager
def _missing_derivatives_named() -> Iterator[None]:
    """What torch raises for want of a derivative becomes a DerivativeError that names the operation."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, DerivativeError) or not is_missing_derivative(error):
            raise
        op = failing_op(error)
        raise DerivativeError(
            "closure cannot be differentiated twice; the operation in the way is "
            f"{op or 'not named by torch'}: {str(error).strip().splitlines()[0]}\n"
            "Remedy: write it with differentiable torch operations, or give it a "
            "torch.autograd.Function with a twice differentiable backward",
            op=op,
        ) from error
