"""A recorded derivative in two: what belongs to the point, and what is done for each vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.fx as fx

from hvplib.ad.trace.recorder import Trait

__all__ = ["Split", "only", "split"]


@dataclass(frozen=True)
class Split:
    """Two programs that together compute what one did.

    Attributes:
        primal: Inputs ↦ (results, residuals): what does not depend on the tangents.
        tangent: (residuals, tangents) ↦ products.
        residuals: The nodes of the recorded graph that lead from the one into the other.
        origin: For each node of the two programs, the recorded one.
    """

    primal: fx.Graph
    tangent: fx.Graph
    residuals: list[fx.Node]
    origin: dict[fx.Node, fx.Node]

    def traits(self, recorded: Mapping[fx.Node, Trait], graph: fx.Graph) -> dict[fx.Node, Trait]:
        """What is known of the recorded nodes, by the nodes of one of the programs."""
        return {n: recorded[self.origin[n]] for n in graph.nodes if self.origin.get(n) in recorded}


def split(
    graph: fx.Graph, tangents: Sequence[fx.Node], results: Sequence[fx.Node], products: Sequence[fx.Node]
) -> Split:
    """Cut a recorded graph where the tangents come in.

    Args:
        graph: Pure and tidy.
        tangents: Its placeholders for the tangents.
        results: What is wanted that does not depend on them.
        products: What does.
    """
    moving = set(tangents)
    for node in graph.nodes:
        if any(argument in moving for argument in node.all_input_nodes):
            moving.add(node)
    needed = _ancestors(products, within=moving)
    kept = [node for node in graph.nodes if node in needed and node not in moving]
    residuals = [node for node in kept if node.op != "get_attr"]
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node not in moving]
    behind = _ancestors([*results, *residuals])
    primal, copies = _copied(graph, inputs, list(behind), [*results, *residuals])
    body = [node for node in needed if node in moving or node.op == "get_attr"]
    tangent, more = _copied(graph, [*residuals, *tangents], body, products)
    origin = {copy: node for node, copy in (*copies.items(), *more.items())}
    return Split(primal, tangent, residuals, origin)


def only(
    graph: fx.Graph, traits: Mapping[fx.Node, Trait], *outputs: slice
) -> tuple[fx.Graph, dict[fx.Node, Trait]]:
    """The part of a graph that computes some of its outputs, with the same inputs."""
    every = list(next(iter(reversed(graph.nodes))).args[0])
    ends = [end for part in outputs for end in every[part]]
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    part, copies = _copied(graph, inputs, list(_ancestors(ends)), ends)
    return part, {copy: traits[node] for node, copy in copies.items() if node in traits}


def _ancestors(ends: Sequence[fx.Node], within: set[fx.Node] | None = None) -> set[fx.Node]:
    """The nodes that these depend on, themselves included; beyond `within` only the first ones met."""
    found: set[fx.Node] = set()
    stack = list(ends)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        if within is None or node in within:
            stack += node.all_input_nodes
    return found


def _copied(
    graph: fx.Graph, inputs: Sequence[fx.Node], body: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
    """A graph of its own with these placeholders and nodes, in the order of the old one."""
    new = fx.Graph()
    copies = {node: new.placeholder(f"input_{number}") for number, node in enumerate(inputs)}
    wanted = {node for node in body if node.op != "placeholder"} - copies.keys()
    for node in graph.nodes:
        if node in wanted:
            copies[node] = new.node_copy(node, lambda argument: copies[argument])
    new.output(tuple(copies[node] for node in outputs))
    return new, copies
