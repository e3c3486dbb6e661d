"""Passes over a recorded graph that leave its results as they are, to the last bit."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import torch
import torch.fx as fx

from hvplib.ad.trace.constants import fold_constants
from hvplib.ad.trace.exact import fold_signs_and_powers_of_two
from hvplib.ad.trace.recorder import Trait
from hvplib.ad.trace.slices import simplify_slices
from hvplib.ad.trace.views import broadcasts, simplify_views
from hvplib.ad.trace.zeros import simplify_zeros

__all__ = ["tidy"]

Traits = MutableMapping[fx.Node, Trait]


def tidy(graph: fx.Graph, traits: Traits, constants: MutableMapping[str, torch.Tensor]) -> None:
    """Drop what is not needed, does nothing, or is computed twice.

    Args:
        graph: Pure: no operation in it writes.
        traits: What the tensor of each node looked like.
        constants: What its `get_attr` nodes stand for; more are added.
    """
    passes: list[Callable[[], None]] = [
        lambda: simplify_views(graph, traits),
        lambda: merge_equal(graph),
        lambda: simplify_slices(graph, traits),
        lambda: simplify_zeros(graph, traits, constants),
        lambda: fold_constants(graph, traits, constants),
        lambda: fold_signs_and_powers_of_two(graph, traits, constants),
        lambda: broadcasts(graph, traits),
        lambda: merge_equal(graph),
    ]
    drop_unused(graph)
    for change in passes:
        change()
        drop_unused(graph)


def drop_unused(graph: fx.Graph) -> None:
    """Drop what no result needs; torch's own pass also reads the whole graph for faults, each time."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def merge_equal(graph: fx.Graph) -> None:
    """Let nodes that compute the same from the same be one."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr") or _is_random(node.target):
            continue
        key = (node.op, node.target, _key(node.args), _key(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _key(value: Any) -> Any:
    """Something hashable that is equal for equal arguments, and tells 1, 1.0 and True apart."""
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((name, _key(item)) for name, item in value.items())
    return type(value), repr(value) if isinstance(value, float) else value


def _is_random(target: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
