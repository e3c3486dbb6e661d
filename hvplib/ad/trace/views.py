"""Views in a recorded graph: those that change nothing go, chains become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.fx as fx

from hvplib.ad.trace.recorder import Trait

__all__ = ["POINTWISE", "broadcasts", "simplify_views"]

aten: Any = torch.ops.aten
Traits = Mapping[fx.Node, Trait]

# Elementwise operations of tensors, which take any strides and broadcast. Each rounds once, or not at all:
# where they compute more, kernels for neighbouring entries and for scattered ones differ in the last bit.
POINTWISE = {
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
    aten.div.Tensor,
    aten.threshold_backward.default,
    aten.where.self,
}
_SWAPS = (aten.t.default, aten.transpose.int)
_RESHAPES = (aten.view.default, aten._unsafe_view.default)


def simplify_views(graph: fx.Graph, traits: Traits) -> None:
    """Replace views by their base where they show the same, and shorten chains."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        base = node.args[0] if node.args else None
        if not isinstance(base, fx.Node) or base not in traits or node not in traits:
            continue
        if (same := _same(node, base, traits)) is not None:
            node.replace_all_uses_with(same)
        elif node.target in _RESHAPES:
            _shorten(node, base, traits)


def broadcasts(graph: fx.Graph, traits: Traits) -> None:
    """Let elementwise operations broadcast by themselves, and read what is not contiguous as it lies."""
    for node in graph.nodes:
        if node.target not in POINTWISE or node.kwargs:  # a factor `alpha` is one more operation
            continue
        for argument in node.all_input_nodes:
            plain = argument
            while plain.target is aten.expand.default or _is_copy(plain):
                plain = plain.args[0]
            if plain is not argument and _shape(node, argument, plain, traits) == traits[node].shape:
                node.replace_input_with(argument, plain)


def _is_copy(node: fx.Node) -> bool:
    return node.target is aten.clone.default and set(node.kwargs) <= {"memory_format"}


def _shape(node: fx.Node, argument: fx.Node, plain: fx.Node, traits: Traits) -> torch.Size | None:
    """What the result's shape is with `plain` in the place of `argument`; None if its strides may differ.

    The first of the full-size arguments decides about the strides of the result, and tensors without
    dimensions have no say in its dtype.
    """
    own = traits[node]
    others = [other for other in node.all_input_nodes if other is not argument]
    full = [o for o in others if traits[o].shape == own.shape and traits[o].whole]
    if not full or any(traits[o].stride != own.stride for o in full):
        return None
    if {traits[a].dtype for a in node.all_input_nodes} - {torch.bool} != {own.dtype}:
        return None
    if node.all_input_nodes[0] is argument and not (_is_in_order(traits[plain]) and _is_in_order(own)):
        return None
    return _broadcast([traits[plain].shape, *(traits[o].shape for o in others)])


def _broadcast(shapes: Sequence[torch.Size]) -> torch.Size:
    """The shape that these have together; torch.broadcast_shapes would import SymPy first."""
    dims = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return torch.Size([next((size for size in sizes if size != 1), 1) for sizes in dims][::-1])


def _is_in_order(trait: Trait) -> bool:
    """Whether the entries follow one another as in a contiguous tensor, be it with gaps."""
    strides = [stride for stride, size in zip(trait.stride, trait.shape, strict=True) if size != 1]
    return strides == sorted(strides, reverse=True)


def _same(node: fx.Node, base: fx.Node, traits: Traits) -> fx.Node | None:
    """The node that this view shows as it is."""
    if node.target in _SWAPS and base.target in _SWAPS and traits[node].shape:
        if _swapped(node, traits) == _swapped(base, traits):
            return base.args[0]  # type: ignore[return-value]
        return None
    if node.target not in (*_RESHAPES, aten.expand.default):
        return None
    shown, own = traits[node], traits[base]
    return base if shown.shape == own.shape and shown.stride == own.stride else None


def _swapped(node: fx.Node, traits: Traits) -> set[int]:
    """The two dimensions that a transposition exchanges."""
    count = len(traits[node].shape)
    dims: Any = node.args[1:] or (0, count - 1)
    return {dim % count for dim in dims}


def _shorten(node: fx.Node, base: fx.Node, traits: Traits) -> None:
    """view(view(x)) is view(x); view(sum(x, dims, True)) without the dimensions kept is sum(x, dims)."""
    if base.target in _RESHAPES:
        node.args = (base.args[0], *node.args[1:])
    elif base.target is aten.sum.dim_IntList and base.args[2:] == (True,) and len(base.users) == 1:
        source: Any
        axes: Any
        source, axes, _ = base.args
        summed = traits[source]
        if not axes or not summed.shape or base.kwargs:
            return
        dims = {dim % len(summed.shape) for dim in axes}
        left = [size for dim, size in enumerate(summed.shape) if dim not in dims]
        if left == list(traits[node].shape):
            node.target, node.args = aten.sum.dim_IntList, (source, axes)
