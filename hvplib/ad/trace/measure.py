"""What the tensors of a graph look like, found by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Places, Trait

__all__ = ["measured"]


def measured(
    graph: fx.Graph, constants: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> dict[fx.Node, Trait]:
    """The traits of all tensors at these inputs.

    What passes over a graph carry along of strides and of shared memory is good for them; what decides about
    memory is looked at.
    """
    places, given = Places(), iter(inputs)
    traits: dict[fx.Node, Trait] = {}
    values: dict[fx.Node, Any] = {}
    last = {used: node for node in graph.nodes for used in node.all_input_nodes}
    dead: dict[fx.Node, list[fx.Node]] = {}
    for used, node in last.items():
        dead.setdefault(node, []).append(used)
    for node in graph.nodes:
        if node.op == "output":
            break
        if node.op == "placeholder":
            value = next(given)
        elif node.op == "get_attr":
            value = constants[str(node.target)]
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            value = node.target(*args, **kwargs)
        if isinstance(value, Tensor):
            traits[node] = places.trait(value)
        values[node] = value
        for used in dead.get(node, ()):
            del values[used]
    return traits
