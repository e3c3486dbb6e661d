"""What does not depend on numbers, computed when it is recorded; and what multiplies by one, left out."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Places, Trait

__all__ = ["fold_constants"]

aten: Any = torch.ops.aten
Traits = MutableMapping[fx.Node, Trait]

# What looks at the shape of its first argument only.
_BLIND = {aten.zeros_like.default, aten.ones_like.default, aten.full_like.default}
_BLIND |= {aten.new_zeros.default, aten.new_ones.default, aten.new_full.default}
_POWER = aten.pow.Tensor_Scalar
_TANH = aten.tanh_backward.default
_ROUNDS_AT_ONCE = (torch.float32, torch.float64)  # what is narrower is rounded after the whole operation
# Constants are kept: not where they are large.
_NUMBERS = 2**16


def fold_constants(graph: fx.Graph, traits: Traits, constants: MutableMapping[str, Tensor]) -> None:
    """x⁰ = 1, x¹ = x, 1 x = x, tanh′ is a factor, and what is made of constants alone is a constant.

    The numbers are those that the operations give: they are asked, once.
    """
    for node in list(graph.nodes):
        if node.op != "call_function" or node not in traits:
            continue
        if (same := _unchanged(node, traits, constants)) is not None:
            node.replace_all_uses_with(same)
        elif node.target is _TANH:
            _take_out_factor(graph, node, traits, constants)
        elif traits[node].shape.numel() > _NUMBERS:
            continue
        elif (arguments := _known(node, traits, constants)) is not None:
            _replace(graph, node, node.target(*arguments[0], **arguments[1]), traits, constants)


def _known(node: fx.Node, traits: Traits, constants: Mapping[str, Tensor]) -> tuple[Any, Any] | None:
    """The arguments of an operation whose result is known; None for any other."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    if node.target in _BLIND or (node.target is _POWER and node.args[1] == 0):
        (first, *rest), trait = node.args, traits.get(node.args[0])  # type: ignore[arg-type]
        if trait is None or not isinstance(first, fx.Node) or len(node.all_input_nodes) > 1:
            return None
        like = torch.empty_strided(trait.shape, trait.stride, dtype=trait.dtype, device=trait.device)
        return (like, *rest), node.kwargs
    inputs = node.all_input_nodes
    if not inputs or any(argument.op != "get_attr" for argument in inputs):
        return None
    found: tuple[Any, Any] = fx.map_arg((node.args, node.kwargs), lambda a: constants[str(a.target)])
    return found


def _unchanged(node: fx.Node, traits: Traits, constants: Mapping[str, Tensor]) -> fx.Node | None:
    """The argument that the operation gives back as it is."""
    candidates: list[tuple[Any, bool]]
    if node.target is _POWER and node.args[1] == 1:
        candidates = [(node.args[0], True)]
    elif node.target is aten.mul.Scalar:
        candidates = [(node.args[0], bool(node.args[1] == 1))]
    elif node.target is aten.mul.Tensor and not node.kwargs:
        left, right = node.args
        candidates = [(left, _is_one(right, constants)), (right, _is_one(left, constants))]
    else:
        return None
    own = traits[node]
    for argument, unchanged in candidates:
        if unchanged and isinstance(argument, fx.Node) and argument in traits:
            other = traits[argument]
            if (own.shape, own.stride, own.dtype) == (other.shape, other.stride, other.dtype):
                return argument
    return None


def _take_out_factor(
    graph: fx.Graph, node: fx.Node, traits: Traits, constants: MutableMapping[str, Tensor]
) -> None:
    """tanh_backward(x, c) = x (1 − c²), with the second factor as the kernel computes it."""
    moving: Any
    constant: Any
    moving, constant = node.args
    if constant.op != "get_attr" or moving.op == "get_attr":
        return
    own, other, value = traits[node], traits[moving], constants[str(constant.target)]
    if own.dtype not in _ROUNDS_AT_ONCE or own.device.type != "cpu" or value.dtype != own.dtype:
        return
    if (own.shape, own.stride, own.dtype) != (other.shape, other.stride, other.dtype):
        return
    factor = _constant(graph, node, aten.tanh_backward(torch.ones_like(value), value), traits, constants)
    node.target, node.args = aten.mul.Tensor, (moving, factor)


def _is_one(value: Any, constants: Mapping[str, Tensor]) -> bool:
    if not isinstance(value, fx.Node) or value.op != "get_attr":
        return False
    tensor = constants[str(value.target)]
    return tensor.numel() <= _NUMBERS and bool((tensor == 1).all())


def _replace(
    graph: fx.Graph, node: fx.Node, value: Any, traits: Traits, constants: MutableMapping[str, Tensor]
) -> None:
    """Let `value` stand in the place of what a node computes."""
    if not isinstance(value, Tensor):
        return
    node.replace_all_uses_with(_constant(graph, node, value, traits, constants))


def _constant(
    graph: fx.Graph, node: fx.Node, value: Tensor, traits: Traits, constants: MutableMapping[str, Tensor]
) -> fx.Node:
    """A node for a constant in front of another node."""
    name = f"{node.name}_known_{len(constants)}"
    constants[name] = value
    with graph.inserting_before(node):
        constant = graph.create_node("get_attr", name)
    trait = Places().trait(value)
    traits[constant] = Trait(
        trait.shape, trait.stride, trait.dtype, trait.device, -len(constants), trait.whole
    )
    return constant
