"""The derivatives of slices in a recorded graph: one for a sum of several, and by one operation."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import torch
import torch.fx as fx

from hvplib.ad.trace.recorder import Trait

__all__ = ["simplify_slices"]

aten: Any = torch.ops.aten
Traits = MutableMapping[fx.Node, Trait]

_BACK = aten.slice_backward.default


def simplify_slices(graph: fx.Graph, traits: Traits) -> None:
    """Let P x + P y be P (x + y), and P a padding, where P puts a slice in its place among zeros."""
    for node in list(graph.nodes):
        if node.target is aten.add.Tensor and not node.kwargs:
            _add_before(graph, node, traits)
    for node in list(graph.nodes):
        if node.target is _BACK:
            _as_padding(node, traits)


def _add_before(graph: fx.Graph, node: fx.Node, traits: Traits) -> None:
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or left is right:
        return
    if not left.target == right.target == _BACK or left.args[1:] != right.args[1:]:
        return
    if len(left.users) > 1 or len(right.users) > 1:
        return
    x: Any = left.args[0]
    y: Any = right.args[0]
    same = (traits[x].shape, traits[x].stride, traits[x].dtype)
    if not traits[x].whole or not traits[y].whole:
        return
    if same != (traits[y].shape, traits[y].stride, traits[y].dtype):
        return
    with graph.inserting_before(node):
        total = graph.call_function(aten.add.Tensor, (x, y))
    traits[total] = traits[x]
    node.target, node.args = _BACK, (total, *left.args[1:])


def _as_padding(node: fx.Node, traits: Traits) -> None:
    """constant_pad_nd(x, ...) takes half the time; of steps it knows nothing."""
    arguments: Any = node.args
    x, sizes, dim, start, end, step = arguments
    if step != 1 or not _is_contiguous(traits[x]) or not sizes or not all(traits[x].shape):
        return  # a padding keeps the order of dimensions in memory, and P does not
    dim %= len(sizes)
    first, _, _ = slice(start, end).indices(sizes[dim])
    after = sizes[dim] - first - traits[x].shape[dim]
    node.target = aten.constant_pad_nd.default
    node.args = (x, [0, 0] * (len(sizes) - 1 - dim) + [first, after])


def _is_contiguous(trait: Trait) -> bool:
    expected = 1
    for size, stride in zip(reversed(trait.shape), reversed(trait.stride), strict=True):
        if stride != expected:
            return False
        expected *= size
    return trait.whole
