"""Long matrices times single vectors, which cost what reading the matrix costs: laid out for that."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Trait

__all__ = ["lay_out_for_vectors"]

aten: Any = torch.ops.aten

_LARGE = 2**16  # entries; what is smaller stays in the processor's own cache in any layout


def lay_out_for_vectors(
    graph: fx.Graph, traits: Mapping[fx.Node, Trait], constants: MutableMapping[str, Tensor]
) -> None:
    """A v and uᵀ A for large constants A on the CPU as matrix-vector products, A by its longer columns.

    Done by the routine for two matrices, from a matrix of short rows, these take up to twice as long. A
    constant that is needed otherwise too is there twice then. The results differ by rounding.
    """
    for node in list(graph.nodes):
        if node.target is not aten.mm.default:
            continue
        left, right = node.args
        if left.op == "get_attr" and traits[right].shape[1] == 1:
            matrix, vector, kept = left, right, 1
        elif right.op == "get_attr" and traits[left].shape[0] == 1:
            matrix, vector, kept = right, left, 0
        else:
            continue
        if traits[matrix].device.type != "cpu" or traits[matrix].shape.numel() < _LARGE:
            continue
        with graph.inserting_before(node):
            constant = _by_long_columns(graph, matrix, constants)
            if not kept:
                constant = graph.call_function(aten.t.default, (constant,))
            flat = graph.call_function(aten.view.default, (vector, [traits[vector].shape.numel()]))
            product = graph.call_function(aten.mv.default, (constant, flat))
            shaped = graph.call_function(aten.unsqueeze.default, (product, kept))
        node.replace_all_uses_with(shaped)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _by_long_columns(graph: fx.Graph, matrix: fx.Node, constants: MutableMapping[str, Tensor]) -> fx.Node:
    """A node for the same matrix with its longer dimension contiguous."""
    value = constants[str(matrix.target)]
    longer = 0 if value.shape[0] > value.shape[1] else 1
    if value.stride(longer) == 1:
        return matrix
    name = f"{matrix.target}_turned"
    if name not in constants:
        constants[name] = value.t().contiguous().t() if longer == 0 else value.contiguous()
    return graph.create_node("get_attr", name)
