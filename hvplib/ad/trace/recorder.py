"""What torch does, written down: the operations of a computation as a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import TensorWeakRef

from hvplib.errors import TraceError

__all__ = ["Places", "Record", "Trait", "part_of", "record", "writes"]

aten: Any = torch.ops.aten

# Operations that give back their first argument: the node of the argument stands for the result.
_SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
# Operations whose second argument, a mask, decides about the shape of the result.
_SHAPED_BY_SECOND = {aten.index.Tensor, aten.masked_select.default}


@dataclass(frozen=True)
class Trait:
    """What a recorded tensor looked like.

    Attributes:
        shape, stride, dtype, device: Of the tensor.
        place: A number for its storage: equal for tensors that share memory.
        whole: Whether its entries lie apart, as they are, and fill the storage.
    """

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    place: int
    whole: bool


class Places:
    """Numbers for storages, each for one alone, be it long gone."""

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}  # a storage that is referred to keeps its address to itself

    def of(self, tensor: Tensor) -> int:
        """The number of the storage that the tensor lies in."""
        storage = tensor.untyped_storage()
        place: int = storage._cdata
        if place not in self._storages:
            self._storages[place] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        return place

    def trait(self, tensor: Tensor) -> Trait:
        """What the tensor looks like."""
        fills = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        whole = fills and _lie_apart(tensor) and not (tensor.is_conj() or tensor.is_neg())
        place = self.of(tensor)
        return Trait(tensor.shape, tensor.stride(), tensor.dtype, tensor.device, place, whole)


@dataclass(frozen=True)
class Record:
    """A computation as a graph.

    Attributes:
        graph: Placeholders for the inputs, in order, then calls of operator overloads, then an output.
        constants: By the name of a `get_attr` node, the tensor that it stands for.
        traits: What the tensor of each node looked like.
        results: What was computed.
        restriction: Why it holds for the values of these inputs only; empty if it holds for others.
        versions: What the constants come from, with the number of writes into each: it holds as long as
            there are no more.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    traits: dict[fx.Node, Trait]
    results: list[Tensor]
    restriction: str
    versions: list[tuple[Tensor, int]]

    @property
    def holds(self) -> bool:
        """Whether nothing that the constants come from has been written to since."""
        return all(tensor._version == version for tensor, version in self.versions)


def record(compute: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> Record:
    """What `compute(*inputs)` does with its inputs.

    What does not depend on them is a constant, and enters by its value. Inputs that are not used are there
    too. Memory is not held longer than the computation itself would, but for constants.

    Raises:
        TraceError: It cannot be run again: it writes into tensors that outlive it.
    """
    own = [x.detach() for x in inputs]  # an input that is given twice is two inputs
    recorder = _Recorder(own)
    with recorder:
        results = list(compute(*own))
    recorder.graph.output(tuple(recorder.node(x) for x in results))
    return Record(
        recorder.graph,
        recorder.constants,
        recorder.traits,
        results,
        recorder.restriction,
        recorder.versions(),
    )


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records, below autograd, every operation that has to do with one of its inputs."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, a second and 100 MB, to tell it to stay out

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self.constants: dict[str, Tensor] = {}
        self.traits: dict[fx.Node, Trait] = {}
        self.restriction = ""
        # By the id of a tensor, with a reference to it: what the inputs have a part in, and what not.
        self._nodes: dict[int, tuple[Any, fx.Node]] = {}
        self._constants: dict[int, tuple[Any, fx.Node]] = {}
        self._places = Places()
        self._given = {self._places.of(tensor) for tensor in inputs}  # storages of the inputs
        self._made: set[int] = set()  # storages made on the way that the inputs have no part in
        # What was there before and has been read, by its id, with its version then. (A storage is not enough:
        # `tensor.data` counts its versions by itself.)
        self._read: dict[int, tuple[Tensor, int]] = {}
        for number, tensor in enumerate(inputs):
            self._is(self.graph.placeholder(f"input_{number}"), tensor)

    def node(self, tensor: Tensor) -> fx.Node:
        """The node of a tensor; a constant one for a tensor that the inputs have no part in."""
        known = self._known(tensor) or _found(tensor, self._constants)
        if known is not None:
            return known
        name = f"constant_{len(self.constants)}"
        self.constants[name] = tensor.detach()
        self._note_read(tensor)
        node = self.graph.create_node("get_attr", name)
        self._constants[id(tensor)] = TensorWeakRef(tensor), node
        self.traits[node] = self._places.trait(tensor)
        return node

    def versions(self) -> list[tuple[Tensor, int]]:
        """What was read that the inputs have no part in, and how often it has been written to."""
        if any(tensor._version != version for tensor, version in self._read.values()):
            raise TraceError("a tensor is written to after it was read")
        return [read for read in self._read.values() if self._places.of(read[0]) not in self._made]

    def _note_read(self, tensor: Tensor) -> None:
        if tensor.is_inference():
            raise TraceError("an inference tensor is read, which does not tell when it is written to")
        self._read.setdefault(id(tensor), (tensor, tensor._version))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            raise TraceError(f"{func} is no plain operation")
        result = func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.restriction = self.restriction or f"{func} draws random numbers"
        if not self._concerns((*args, *kwargs.values())):
            self._note_outside(func, args, kwargs, result)
        elif func in _SAME:
            known = self._known(args[0])
            assert known is not None
            self._nodes[id(result)] = TensorWeakRef(result), known
        else:
            self.restriction = self.restriction or self._restriction(func, args, result)
            self._append(func, args, kwargs, result)
        return result

    def _restriction(self, func: Any, args: tuple[Any, ...], result: Any) -> str:
        """Why a record that holds this operation is good for its own inputs only, or nothing."""
        deciding = args[1:] if func in _SHAPED_BY_SECOND else args
        by_values = (
            torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags
        )
        if by_values and self._concerns(deciding):
            return f"what {func} returns, or its shape, depends on values"
        if not _tensors(result) and not writes(func) and func is not aten._linalg_check_errors.default:
            return f"{func} reads a value"  # or checks one; that of a factorisation is the constant's
        if func is aten.as_strided.default and self._places.of(args[0]) in self._given:
            return f"{func} counts from the beginning of an input's memory"
        return ""

    def _append(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if writes(func):
            for tensor in _written(func, args, kwargs):
                known = self._known(tensor)
                if known is None or known.op != "call_function":
                    raise TraceError(f"{func} writes into a tensor that is not of its own making")
        node = self.graph.create_node("call_function", func, self._named(args), self._named(kwargs))
        if isinstance(result, Tensor):
            self._is(node, result)
        elif isinstance(result, list | tuple) and _tensors(result):
            for index, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._is(self.graph.call_function(part_of, (node, index)), part)

    def _concerns(self, arguments: Sequence[Any]) -> bool:
        return any(self._known(tensor) is not None for tensor in _tensors_in(arguments))

    def _known(self, tensor: Tensor) -> fx.Node | None:
        return _found(tensor, self._nodes)

    def _is(self, node: fx.Node, tensor: Tensor) -> None:
        self._nodes[id(tensor)] = TensorWeakRef(tensor), node
        self.traits[node] = self._places.trait(tensor)

    def _named(self, value: Any) -> Any:
        """The same arguments with nodes in the place of tensors."""
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, list):
            return [self._named(item) for item in value]
        if isinstance(value, tuple):
            return tuple(self._named(item) for item in value)
        if isinstance(value, dict):
            return {name: self._named(item) for name, item in value.items()}
        return value

    def _note_outside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Keep account of the storages that the inputs have no part in."""
        there = set()
        for tensor in _tensors_in((*args, *kwargs.values())):
            there.add(place := self._places.of(tensor))
            if place not in self._made:
                self._note_read(tensor)
        if writes(func) and any(self._places.of(t) not in self._made for t in _written(func, args, kwargs)):
            raise TraceError(f"{func} writes into a tensor that was there before")
        self._made |= {self._places.of(tensor) for tensor in _tensors(result)} - there


def _found(tensor: Tensor, nodes: dict[int, tuple[Any, fx.Node]]) -> fx.Node | None:
    entry = nodes.get(id(tensor))
    return entry[1] if entry is not None and entry[0]() is tensor else None


def _lie_apart(tensor: Tensor) -> bool:
    """Whether no two entries share memory and there are no gaps."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def writes(target: Any) -> bool:
    """Whether an operation writes into one of its arguments."""
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def part_of(parts: Any, index: int) -> Any:
    """One of several results."""
    return parts[index]


def _tensors(result: Any) -> list[Tensor]:
    parts = result if isinstance(result, list | tuple) else [result]
    return [part for part in parts if isinstance(part, Tensor)]


def _tensors_in(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors_in(argument)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among the arguments that `func` writes to."""
    written = []
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += _tensors(kwargs.get(argument.name, args[position] if position < len(args) else None))
    return written
