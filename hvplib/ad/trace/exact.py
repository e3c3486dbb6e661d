"""Arithmetic that rounding has no part in: signs and powers of two go into constants."""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Trait

__all__ = ["fold_signs_and_powers_of_two"]

aten: Any = torch.ops.aten
Traits = MutableMapping[fx.Node, Trait]

_MUL = aten.mul.Tensor


def fold_signs_and_powers_of_two(
    graph: fx.Graph, traits: Traits, constants: MutableMapping[str, Tensor]
) -> None:
    """a + (−b) = a − b, and for a constant c and a factor s = ±2ᵏ, s (x c) = (s x) c = x (s c).

    Exact in floating point, as long as nothing overflows or gets lost below the smallest normal number: a
    constant takes in a factor only if it is far from both.
    """
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.add.Tensor and not node.kwargs:
            _as_difference(node)
        elif node.target is _MUL:
            _take_in_inner(graph, node, traits, constants)
        elif _factor(node) is not None:
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
    if constant is None or moving is None or factor is None or traits[moving].dtype != traits[constant].dtype:
        return
    scaled = _scaled(graph, constant, factor, traits, constants)
    if scaled is not None:
        node.args = (moving.args[0], scaled)


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
    moving = product.args[0] if product.args[1] is constant else product.args[1]
    scaled = _scaled(graph, constant, factor, traits, constants)
    if scaled is not None:
        node.target, node.args, node.kwargs = _MUL, (moving, scaled), {}


def _scaled(
    graph: fx.Graph,
    constant: fx.Node,
    factor: float,
    traits: Traits,
    constants: MutableMapping[str, Tensor],
) -> fx.Node | None:
    """A node for s c; None where c comes near the ends of the range of its numbers."""
    name = f"{constant.target}_times_{len(constants)}"
    value = constants[str(constant.target)]
    if not _is_far_from_limits(value, factor):
        return None
    constants[name] = value * factor
    with graph.inserting_before(constant):
        node = graph.create_node("get_attr", name)
    shape = traits[constant]
    traits[node] = Trait(shape.shape, constants[name].stride(), shape.dtype, -len(constants), True)
    return node


def _is_far_from_limits(value: Tensor, factor: float) -> bool:
    if factor == -1.0:
        return True
    limits = torch.finfo(value.dtype)
    sizes = value.abs()
    sizes = sizes[sizes > 0]
    least, most = math.sqrt(limits.tiny), math.sqrt(limits.max)
    return not sizes.numel() or bool((sizes.min() * factor > least) & (sizes.max() * factor < most))
