"""Writes in a recorded graph turned into new values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.fx as fx

from hvplib.ad.trace.recorder import Trait, writes

__all__ = ["purify"]


def purify(graph: fx.Graph, traits: Mapping[fx.Node, Trait]) -> bool:
    """Let operations that write into their first argument return a new tensor, if all can.

    What comes after a write refers to its result. So it can be a new tensor if nothing that shared the
    memory before is looked at afterwards. Where one cannot, the graph stays as it is.

    Returns:
        Whether the graph is free of writes.
    """
    position = {node: number for number, node in enumerate(graph.nodes)}
    sharing: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if node in traits:
            sharing.setdefault(traits[node].place, []).append(node)
    plain = {}
    for node in graph.nodes:
        if node.op != "call_function" or not writes(node.target):
            continue
        function = _without_write(node, traits)
        here = position[node]
        if function is None:
            return False
        before = [other for other in sharing[traits[node].place] if position[other] < here]
        if any(position[user] > here for other in before for user in other.users):
            return False
        plain[node] = function
    for node, function in plain.items():
        node.target = function
    return True


def _without_write(node: fx.Node, traits: Mapping[fx.Node, Trait]) -> Any:
    """The operation that computes what this one writes, if it gives a tensor of the same kind."""
    name = str(node.target).removeprefix("aten.").partition(".")[0]
    first = node.args[0] if node.args else None
    written = traits.get(first) if isinstance(first, fx.Node) else None
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    if not name.endswith("_") or written is None or not written.whole:
        return None
    alike = all(traits[other].dtype == written.dtype for other in node.all_input_nodes if other in traits)
    return _of_the_same_arguments(packet, node.target) if alike and packet is not None else None


def _of_the_same_arguments(packet: Any, writing: Any) -> Any:
    """The overload that takes what this one takes: names do not tell (`pow_.Scalar`, `pow.Tensor_Scalar`)."""
    wanted = _arguments(writing)
    overloads = (getattr(packet, name) for name in packet.overloads())
    return next((o for o in overloads if _arguments(o) == wanted and not writes(o)), None)


def _arguments(target: Any) -> list[tuple[str, str]]:
    return [(argument.name, str(argument.type)) for argument in target._schema.arguments]
