"""Bounds as users give them, and the function differentiated without ever being asked outside of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Number
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from hvplib.ad.inputs import STRATEGIES
from hvplib.operators.curvature import HessianOperator
from hvplib.optim.box import Box
from hvplib.optim.methods import Auto, Method, TrustNCG
from hvplib.space import Space

__all__ = ["bounded", "box_of", "method_within", "proven_inside"]

_FORM = "bounds must be a tuple (lower, upper), each None, a number, or like x0, or a scipy.optimize.Bounds"
# Room in which the way of differentiating is checked, relative to max(1, |x_i|).
_ROOM = 0.1


def box_of(bounds: Any, space: Space) -> Box:
    """The box of `(lower, upper)`, or of SciPy's `Bounds`, in the dtypes of x0.

    Each side is None or ±inf where there is no bound, a number for all unknowns, an array or a tensor that
    broadcasts to x0, or a pytree like x0 whose leaves are any of these.

    Raises:
        TypeError: They have another form.
        ValueError: A bound is NaN, has a shape that does not fit, or is such that no finite x is between.
    """
    lower, upper = _sides(bounds)
    box = Box(_side("lower", lower, -torch.inf, space), _side("upper", upper, torch.inf, space))
    _check(box)
    return box


def bounded(bounds: Any, primals: Any) -> tuple[Box | None, Any, bool]:
    """The box, P(x0) like x0, and whether that is another point; None, x0 and False without bounds."""
    if bounds is None:
        return None, primals, False
    space = Space.of(primals)
    box = box_of(bounds, space)
    x = space.flatten(primals).detach()
    nearest = box.project(x)
    outside = bool(((x < box.lower) | (x > box.upper)).any())
    return box, space.unflatten(nearest) if outside else primals, outside


def method_within(settings: Method) -> Method:
    """The settings, if the method knows bounds; `TrustNCG` for "auto".

    Raises:
        ValueError: It does not.
    """
    if isinstance(settings, Auto):
        return TrustNCG()
    if not isinstance(settings, TrustNCG):
        raise ValueError(
            f"bounds need method='trust-ncg' or 'auto', got {settings!r}; choose one of them, or "
            "leave bounds out"
        )
    if settings.recycle:
        raise ValueError(
            f"recycle must be None or 0 with bounds, got {settings.recycle}; what one step learns of the "
            "variables between their bounds says nothing of those that others leave free"
        )
    return settings


def proven_inside(
    func: Callable[..., Any], primals: Any, data: Iterable[Any] | None, options: dict[str, Any], box: Box
) -> HessianOperator:
    """∇²f(x0), the way of multiplying proven by points of the box alone.

    A proof takes differences of gradients at points around. Here these are points around z = 1 of the
    function z ↦ f(c + D (z − 1)), where D is the room that the box leaves around c, a point of it near x0.

    Raises:
        DerivativeError: As `HessianOperator`.
        ValueError: Differences are asked for, which leave the box.
    """
    strategy = options.get("strategy", "auto")
    if strategy == "finite-difference":
        raise ValueError(
            'strategy="finite-difference" evaluates func outside the bounds; leave it out, or the bounds'
        )
    if strategy != "auto" or not options.get("verify", True):
        return HessianOperator(func, primals, data, **{**options, "engine": "graph"})
    report = HessianOperator(_around(func, primals, box), _ones(primals), data, **options).report
    if report is not None and report.strategy in STRATEGIES:
        strategy = report.strategy
    # Records are made at points nearby, which may be outside.
    proven = {"strategy": strategy, "verify": False, "check_deterministic": False, "engine": "graph"}
    return HessianOperator(func, primals, data, **{**options, **proven})


def _ones(primals: Any) -> Any:
    return tree_map(lambda leaf: torch.ones_like(leaf, requires_grad=False), primals)


def _around(func: Callable[..., Any], primals: Any, box: Box) -> Callable[..., Any]:
    """z ↦ f(c + D (z − 1)), for z like x0."""
    space = Space.of(primals)
    x = space.flatten(primals).detach()
    room = torch.minimum(_ROOM * x.abs().clamp(min=1.0), box.upper / 2 - box.lower / 2)
    centre = torch.maximum(torch.minimum(x, box.upper - room), box.lower + room)
    parts = [tree_leaves(space.unflatten(part)) for part in (centre, room, box.lower, box.upper)]
    several = len(primals) if type(primals) is tuple else 1

    def around(*arguments: Any) -> Any:
        leaves, spec = tree_flatten(arguments[:several])
        inside = [
            torch.clamp(c + d * (z - 1), lower, upper)
            for z, c, d, lower, upper in zip(leaves, *parts, strict=True)
        ]
        return func(*tree_unflatten(inside, spec), *arguments[several:])

    return around


def _sides(bounds: Any) -> tuple[Any, Any]:
    if isinstance(bounds, scipy.optimize.Bounds):
        return bounds.lb, bounds.ub
    if not isinstance(bounds, tuple) or len(bounds) != 2:
        raise TypeError(f"{_FORM}; got {_described(bounds)}")
    return bounds


def _described(bounds: Any) -> str:
    if isinstance(bounds, list | tuple):
        remedy = "for pairs (l_i, u_i) give scipy.optimize.Bounds(*zip(*pairs))"
        return f"a {type(bounds).__name__} of {len(bounds)}; {remedy}"
    return type(bounds).__name__


def _side(name: str, side: Any, default: float, space: Space) -> Tensor:
    """One bound (n,), in numbers that x0 can hold."""
    leaves = _leaves(name, side, space)
    parts = [
        _leaf(name, leaf, default, shape).to(device=device, dtype=dtype)
        for leaf, shape, dtype, device in zip(leaves, space.shapes, space.dtypes, space.devices, strict=True)
    ]
    return space.flatten(tree_unflatten(parts, space.spec))


def _leaves(name: str, side: Any, space: Space) -> list[Any]:
    """What is given for each leaf of x0."""
    count = len(space.shapes)
    if side is None or isinstance(side, Number):
        return [side] * count
    leaves, spec = tree_flatten(side)
    if spec == space.spec:
        return leaves
    # x0 is one tensor or array, and this a list of numbers.
    if count == 1 and not any(isinstance(leaf, Tensor) for leaf in leaves):
        return [side]
    raise TypeError(f"{_FORM}; got a {name} bound of another structure than x0, {type(side).__name__}")


def _leaf(name: str, leaf: Any, default: float, shape: torch.Size) -> Tensor:
    """A bound of one leaf, in its shape; float64 unless it is a tensor."""
    if leaf is None:
        return torch.full(shape, default)
    if not isinstance(leaf, Tensor):
        leaf = torch.from_numpy(_numbers(name, leaf))
    try:
        return torch.broadcast_to(leaf.detach(), shape)
    except RuntimeError:
        raise ValueError(
            f"the {name} bound must be a number or have x0's shape {tuple(shape)}, got {tuple(leaf.shape)}"
        ) from None


def _numbers(name: str, leaf: Any) -> np.ndarray[Any, Any]:
    try:
        return np.array(leaf, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{_FORM}; the {name} bound cannot be read as numbers: {leaf!r}") from None


def _check(box: Box) -> None:
    lower, upper = box.lower, box.upper
    for name, bad, remedy in (
        ("not be NaN", lower.isnan() | upper.isnan(), "None or ±inf stands for no bound"),
        ("leave room for a finite x", (lower == torch.inf) | (upper == -torch.inf), "check their signs"),
        ("be such that lower ≤ upper", lower > upper, "swap them, or check their order"),
    ):
        if bool(bad.any()):
            i = int(bad.to(torch.int8).argmax())
            raise ValueError(
                f"bounds must {name}, got lower = {float(lower[i])} and upper = {float(upper[i])} for "
                f"unknown {i}; {remedy}"
            )
