"""Arithmetic that rounding has no part in: signs and powers of two go into constants."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Trait

__all__ = ["fold_signs_and_powers_of_two"]

aten: Any = torch.ops.aten
Traits = MutableMapping[fx.Node, Trait]

_MUL = aten.mul.Tensor
_SMALL = 2.0**10  # factors up to this and its inverse are joined
_WIDE = 1e30  # the largest number of float16 is met by chance, that of these dtypes is not


def fold_signs_and_powers_of_two(
    graph: fx.Graph, traits: Traits, constants: MutableMapping[str, Tensor]
) -> None:
    """a + (−b) = a − b, s (t x) = (s t) x, s (x c) = (s x) c = x (s c); c constant, s and t ±2ᵏ.

    Signs are always exact. Powers of two are as long as nothing overflows or gets lost below the smallest
    normal number: a constant takes one in only if it is far from both, and in no dtype with a narrow range.
    (What is left are vectors whose own entries are at the ends of the range.)
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.add.Tensor and not node.kwargs:
            _as_difference(node)
        elif node.target is _MUL:
            _take_in_inner(graph, node, traits, constants)
        elif _factor(node) is not None:
            _join_factors(node, traits)
            _take_in_outer(graph, node, traits, constants)


def _as_difference(node: fx.Node) -> None:
    left, right = node.args
    if isinstance(right, fx.Node) and isinstance(left, fx.Node) and right.target is aten.neg.default:
        node.target, node.args = aten.sub.Tensor, (left, right.args[0])


def _factor(node: Any) -> float | None:
    """s, if the node is s times its first argument for s = −1 or a power of two."""
    if not isinstance(node, fx.Node):
        return None
    if node.target is aten.neg.default:
        return -1.0
    if node.target is aten.mul.Scalar and isinstance(node.args[1], int | float):
        return float(node.args[1]) if abs(math.frexp(node.args[1])[0]) == 0.5 else None
    return None


def _join_factors(node: fx.Node, traits: Traits) -> None:
    """s (t x) becomes (s t) x."""
    inner: Any = node.args[0]
    outer, factor = _factor(node), _factor(inner)
    if outer is None or factor is None or traits[inner].dtype not in (torch.float32, torch.float64):
        return
    x = inner.args[0]
    if traits[x].dtype != traits[inner].dtype or not all(
        1 / _SMALL <= abs(f) <= _SMALL for f in (outer, factor)
    ):
        return
    if outer * factor == -1.0:
        node.target, node.args = aten.neg.default, (x,)
    else:
        node.target, node.args = aten.mul.Scalar, (x, outer * factor)


def _constant(node: fx.Node) -> fx.Node | None:
    """The constant factor of a product."""
    return next((a for a in reversed(node.args) if isinstance(a, fx.Node) and a.op == "get_attr"), None)


def _take_in_inner(
    graph: fx.Graph, node: fx.Node, traits: Traits, constants: MutableMapping[str, Tensor]
) -> None:
    """(s x) c becomes x (s c)."""
    constant = _constant(node)
    moving = next((a for a in node.args if isinstance(a, fx.Node) and a is not constant), None)
    factor = _factor(moving)
    if constant is None or moving is None or factor is None:
        return
    inner: Any = moving.args[0]
    if not traits[inner].dtype == traits[moving].dtype == traits[constant].dtype:
        return
    if traits[inner].stride != traits[moving].stride:
        return
    scaled = _scaled(graph, constant, factor, traits, constants)
    if scaled is not None:
        node.args = tuple(scaled if a is constant else inner for a in node.args)


def _take_in_outer(
    graph: fx.Graph, node: fx.Node, traits: Traits, constants: MutableMapping[str, Tensor]
) -> None:
    """s (x c) becomes x (s c), if x c is needed for nothing else."""
    product, factor = node.args[0], _factor(node)
    if not isinstance(product, fx.Node) or product.target is not _MUL or len(product.users) != 1:
        return
    constant = _constant(product)
    assert factor is not None
    if constant is None or traits[constant].dtype != traits[product].dtype:
        return
    scaled = _scaled(graph, constant, factor, traits, constants)
    if scaled is not None:
        node.target, node.args = _MUL, tuple(scaled if a is constant else a for a in product.args)


def _scaled(
    graph: fx.Graph,
    constant: fx.Node,
    factor: float,
    traits: Traits,
    constants: MutableMapping[str, Tensor],
) -> fx.Node | None:
    """A node for s c; None where c comes near the ends of its dtype's range, or is an expanded view."""
    name = f"{constant.target}_times_{len(constants)}"
    value = constants[str(constant.target)]
    if not traits[constant].whole or not _is_far_from_limits(value, factor):
        return None
    constants[name] = value * factor
    with graph.inserting_before(constant):
        node = graph.create_node("get_attr", name)
    traits[node] = replace(traits[constant], place=-len(constants))
    return node


def _is_far_from_limits(value: Tensor, factor: float) -> bool:
    if not value.dtype.is_floating_point:
        return False
    factor = abs(factor)
    if factor == 1.0:
        return True
    limits = torch.finfo(value.dtype)
    if limits.max < _WIDE:
        return False
    sizes = value.abs()
    sizes = sizes[sizes > 0]
    least, most = math.sqrt(limits.tiny), math.sqrt(limits.max)
    return not sizes.numel() or bool((sizes.min() * factor > least) & (sizes.max() * factor < most))
