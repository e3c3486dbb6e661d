"""Zeros in a recorded graph that something is added to: a single one does for all, and takes no memory."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Trait

__all__ = ["simplify_zeros"]

aten: Any = torch.ops.aten
Traits = MutableMapping[fx.Node, Trait]
Constants = MutableMapping[str, Tensor]


def simplify_zeros(graph: fx.Graph, traits: Traits, constants: Constants) -> None:
    """0 + 0 = 0, and x + 0 with a single 0; the sum stays, since −0 + 0 is not −0."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node not in traits:
            continue
        if node.target is aten.zeros_like.default and set(node.kwargs) <= {"pin_memory", "memory_format"}:
            node.replace_all_uses_with(_zeros(graph, node, traits[node].shape, traits, constants))
        elif node.target is aten.add.Tensor and not node.kwargs:
            _simplify_sum(graph, node, traits, constants)


def _simplify_sum(graph: fx.Graph, node: fx.Node, traits: Traits, constants: Constants) -> None:
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return
    zero_left, zero_right = _is_zero(left, constants), _is_zero(right, constants)
    if zero_left and zero_right:
        node.replace_all_uses_with(_zeros(graph, node, traits[node].shape, traits, constants))
    elif zero_left or zero_right:
        zero, other = (left, right) if zero_left else (right, left)
        own, kept = traits[node], traits[other]
        alike = (own.shape, own.stride, own.dtype) == (kept.shape, kept.stride, kept.dtype)
        if alike and traits[zero].shape and traits[zero].dtype == own.dtype:
            node.replace_input_with(zero, _zeros(graph, node, (), traits, constants))


def _is_zero(node: fx.Node, constants: Constants) -> bool:
    """Whether it is a constant of zeros, without signs."""
    if node.op != "get_attr":
        return False
    value = constants[str(node.target)]
    if not value.dtype.is_floating_point or not value.numel():
        return False
    return bool(((value == 0) & ~value.signbit()).all())


def _zeros(
    graph: fx.Graph, node: fx.Node, shape: tuple[int, ...], traits: Traits, constants: Constants
) -> fx.Node:
    """A node in front of another, for a zero of its dtype that is shown everywhere."""
    own = traits[node]
    value = torch.zeros((), dtype=own.dtype, device=own.device).expand(shape)
    name = f"constant_{len(constants)}_zero"
    constants[name] = value
    with graph.inserting_before(node):
        made = graph.create_node("get_attr", name)
    traits[made] = Trait(value.shape, value.stride(), own.dtype, own.device, -len(constants), not shape)
    return made
