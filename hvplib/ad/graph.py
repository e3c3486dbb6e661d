"""What the graph behind a value tells about the function that made it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from hvplib.ad.leaves import MARK

__all__ = ["GraphFacts", "Survey", "contains", "graph_bytes", "graph_facts", "moving_bytes", "operations"]
__all__ += ["storage_bytes", "survey"]


@dataclass(frozen=True)
class GraphFacts:
    """What was found on the walk.

    Attributes:
        custom: Names of the `torch.autograd.Function`s in the graph: of unknown derivatives.
        reached: Whether the walk came to the primals at all.
        stale: Whether it came to the primals of an earlier derivative: func keeps results between calls.
        captured: Whether a tensor other than the primals requires grad, so that products have a graph.
    """

    custom: tuple[str, ...] = ()
    reached: bool = False
    stale: bool = False
    captured: bool = False


def graph_facts(value: Tensor, leaves: Sequence[Tensor]) -> GraphFacts:
    """Walk the graph of `value` down to `leaves`; about a microsecond a node."""
    own = {id(leaf) for leaf in leaves}
    # A leaf that is itself the result of something (the user's graph continues behind it) ends the walk.
    ends = {leaf.grad_fn for leaf in leaves if leaf.grad_fn is not None}
    custom: list[str] = []
    captured = reached = stale = False
    seen: set[Any] = set()
    stack: list[Any] = [value.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in ends:
            reached = True
            continue
        variable = getattr(node, "variable", None)
        if variable is not None:
            mine = id(variable) in own
            reached = reached or mine
            stale = stale or (not mine and hasattr(variable, MARK))
            captured = captured or not mine
        elif isinstance(node, BackwardCFunction):
            custom.append(type(node).__name__.removesuffix("Backward"))
        stack.extend(parent for parent, _ in node.next_functions)
    return GraphFacts(tuple(dict.fromkeys(custom)), reached, stale, captured)


@dataclass(frozen=True)
class Survey:
    """What the graph behind some tensors is made of.

    Attributes:
        operations: How many nodes it has.
        convolution: Whether there is a convolution among them.
        custom: Whether there is a custom `torch.autograd.Function` among them, in Python or in C++, which may
            do anything, or hooks that put away what is saved for the backward pass.
    """

    operations: int
    convolution: bool
    custom: bool


def survey(outputs: Sequence[Tensor]) -> Survey:
    """Walk the graph behind `outputs`; about a microsecond a node."""
    nodes = list(_nodes(outputs))
    convolution = any(node.name().startswith("ConvolutionBackward") for node in nodes)
    custom = any(isinstance(node, BackwardCFunction) or "CppNode" in node.name() for node in nodes)
    return Survey(len(nodes), convolution, custom or any(map(_has_saved_hooks, nodes)))


def _has_saved_hooks(node: Any) -> bool:
    names = _attributes(type(node), "_raw_saved_")  # type: ignore[arg-type]
    saved = (item for name in names for item in _items(getattr(node, name)))
    return any(getattr(item, "unpack_hook", None) is not None for item in saved)


@cache
def _attributes(kind: Hashable, prefix: str) -> list[str]:
    """The attributes of a type of node whose names begin so: what it saved, or that as it is put away."""
    return [name for name in dir(kind) if name.startswith(prefix)]


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def operations(outputs: Sequence[Tensor]) -> int:
    """A number for the graph behind `outputs`: the same for the same operations that lead to each other."""
    nodes = list(_nodes(outputs))
    number = {node: place for place, node in enumerate(nodes)}
    return hash(tuple((n.name(), *((number.get(p, -1), i) for p, i in n.next_functions)) for n in nodes))


def contains(outputs: Sequence[Tensor], operation: str) -> bool:
    """Whether a node of the graph behind `outputs` has a name that begins so."""
    return any(node.name().startswith(operation) for node in _nodes(outputs))


def moving_bytes(outputs: Sequence[Tensor], leaves: Sequence[Tensor]) -> int:
    """The part of `graph_bytes` that depends on the leaves: what is there again for each vector of a block.

    Data that the function captures are not.
    """
    saved = (tensor for node in _nodes(outputs) for tensor in _saved(node) if tensor.requires_grad)
    return storage_bytes(saved, apart_from=leaves)


def graph_bytes(outputs: Sequence[Tensor], leaves: Sequence[Tensor], also: Iterable[Tensor] = ()) -> int:
    """Bytes of the distinct storages that the graph behind `outputs` keeps for its backward pass.

    Args:
        outputs: Tensors with a graph.
        leaves: Their storages do not count: they are there anyway.
        also: Other tensors that are kept.
    """
    saved = (tensor for node in _nodes(outputs) for tensor in _saved(node))
    return storage_bytes(chain(saved, also), apart_from=leaves)


def storage_bytes(tensors: Iterable[Tensor], apart_from: Sequence[Tensor]) -> int:
    """Bytes of the distinct storages of some tensors, without those of others."""
    counted = {_storage(tensor)[0] for tensor in apart_from}
    total = 0
    for tensor in tensors:
        key, size = _storage(tensor)
        if key not in counted:
            counted.add(key)
            total += size
    return total


def _storage(tensor: Tensor) -> tuple[int, int]:
    """What identifies the storage, and its bytes."""
    try:
        storage = tensor.untyped_storage()
        return storage.data_ptr(), storage.nbytes()
    except RuntimeError:  # a tensor of a torch.func transform inside func shows no storage
        return id(tensor), tensor.numel() * tensor.element_size()


def _nodes(outputs: Sequence[Tensor]) -> Iterator[Any]:
    seen: set[Any] = set()
    stack: list[Any] = [output.grad_fn for output in outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)


def _saved(node: Any) -> Iterator[Tensor]:
    if isinstance(node, BackwardCFunction):
        yield from (tensor for tensor in node.saved_tensors if tensor is not None)
        return
    for name in _attributes(type(node), "_saved_"):  # type: ignore[arg-type]
        value = getattr(node, name, None)
        yield from (item for item in _items(value) if isinstance(item, Tensor))
