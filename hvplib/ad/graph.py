"""What the graph behind a value tells about the function that made it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from hvplib.ad.leaves import MARK

__all__ = ["Graph", "GraphFacts", "Survey", "graph_facts", "storage_bytes"]


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


class Graph:
    """The graph behind some tensors, walked once: about a microsecond a node.

    Args:
        outputs: The tensors; those without a graph do not matter.
    """

    def __init__(self, outputs: Sequence[Tensor]) -> None:
        self._parents: dict[Any, tuple[tuple[Any, int], ...]] = {}
        self._names: list[str] = []
        stack: list[Any] = [output.grad_fn for output in outputs]
        while stack:
            node = stack.pop()
            if node is None or node in self._parents:
                continue
            self._parents[node] = parents = node.next_functions
            self._names.append(node.name())
            stack.extend([parent for parent, _ in parents])

    def survey(self) -> Survey:
        """What it is made of."""
        nodes = self._parents
        custom = any(isinstance(node, BackwardCFunction) for node in nodes)
        custom = custom or any("CppNode" in name for name in self._names)
        custom = custom or any(map(_has_saved_hooks, nodes))
        return Survey(len(nodes), self.contains("ConvolutionBackward"), custom)

    def operations(self) -> int:
        """A number that is the same for the same operations that lead to each other."""
        place = {node: number for number, node in enumerate(self._parents)}
        named = [
            (name, *[(place.get(parent, -1), output) for parent, output in parents])
            for name, parents in zip(self._names, self._parents.values(), strict=True)
        ]
        return hash(tuple(named))

    def contains(self, operation: str) -> bool:
        """Whether a node has a name that begins so."""
        return any(name.startswith(operation) for name in self._names)

    def users(self, node: Any, output: int = 0) -> list[Any]:
        """The nodes that take this output of a node, or this tensor that is a leaf of the graph."""
        if isinstance(node, Tensor):
            ends = [n for n in self._parents if getattr(n, "variable", None) is node]
            return [user for end in ends for user in self.users(end)]
        return self._users.get((node, output), [])

    @cached_property
    def _users(self) -> dict[tuple[Any, int], list[Any]]:
        found: dict[tuple[Any, int], list[Any]] = {}
        for node, parents in self._parents.items():
            for parent in parents:
                found.setdefault(parent, []).append(node)
        return found

    def moving_bytes(self, leaves: Sequence[Tensor]) -> int:
        """The part of `nbytes` that depends on the leaves: what is there again for each vector of a block.

        Data that the function captures are not.
        """
        return storage_bytes((saved for saved in self._saved() if saved.requires_grad), apart_from=leaves)

    def nbytes(self, leaves: Sequence[Tensor], also: Iterable[Tensor] = ()) -> int:
        """Bytes of the distinct storages that are kept for the backward pass.

        Args:
            leaves: Their storages do not count: they are there anyway.
            also: Other tensors that are kept.
        """
        return storage_bytes(chain(self._saved(), also), apart_from=leaves)

    def _saved(self) -> Iterator[Tensor]:
        return chain.from_iterable(map(_saved, self._parents))


def _has_saved_hooks(node: Any) -> bool:
    names = _attributes(type(node), "_raw_saved_")  # type: ignore[arg-type]
    saved = (item for name in names for item in _items(getattr(node, name)))
    return any(getattr(item, "unpack_hook", None) is not None for item in saved)


@cache
def _attributes(kind: Hashable, prefix: str) -> list[str]:
    """The attributes of a type of node that hold what it saved of tensors, or that as it is put away.

    Without those for numbers and shapes, which are not put away.
    """
    saved = [name.removeprefix("_raw_saved_") for name in dir(kind) if name.startswith("_raw_saved_")]
    return [prefix + name for name in saved]


def _items(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


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


def _saved(node: Any) -> Iterator[Tensor]:
    if isinstance(node, BackwardCFunction):
        yield from (tensor for tensor in node.saved_tensors if tensor is not None)
        return
    for name in _attributes(type(node), "_saved_"):  # type: ignore[arg-type]
        value = getattr(node, name, None)
        yield from (item for item in _items(value) if isinstance(item, Tensor))
