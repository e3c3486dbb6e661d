"""A graph as a Python function: one line an operation, as plain torch calls where there are such."""

from __future__ import annotations

import cmath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Trait, part_of

__all__ = ["emit"]

aten: Any = torch.ops.aten

# A call through torch's own bindings takes half the time of one through an operator overload.
_PLAIN: dict[Any, Callable[..., Any]] = {
    aten.mm.default: torch.mm,
    aten.bmm.default: torch.bmm,
    aten.addmm.default: torch.addmm,
    aten.mul.Tensor: torch.mul,
    aten.mul.Scalar: torch.mul,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.div.Tensor: torch.div,
    aten.div.Scalar: torch.div,
    aten.neg.default: torch.neg,
    aten.exp.default: torch.exp,
    aten.log.default: torch.log,
    aten.tanh.default: torch.tanh,
    aten.where.self: torch.where,
    aten.cat.default: torch.cat,
    aten.t.default: Tensor.t,
    aten.transpose.int: Tensor.transpose,
    aten.view.default: Tensor.view,
    aten._unsafe_view.default: Tensor.view,
    aten.expand.default: Tensor.expand,
    aten.permute.default: Tensor.permute,
    aten.unsqueeze.default: Tensor.unsqueeze,
    aten.squeeze.dim: Tensor.squeeze,
    aten.sum.dim_IntList: Tensor.sum,
    aten.select.int: Tensor.select,
    aten.constant_pad_nd.default: torch.constant_pad_nd,
}
# Those of them that take the numbers of their list one by one.
_SHAPED = {aten.view.default, aten._unsafe_view.default, aten.expand.default, aten.permute.default}
# Elementwise operations that may write their result over an argument, and how they do over the first.
_ELEMENTWISE: dict[Any, Callable[..., Any]] = {
    aten.mul.Tensor: Tensor.mul_,
    aten.mul.Scalar: Tensor.mul_,
    aten.add.Tensor: Tensor.add_,
    aten.sub.Tensor: Tensor.sub_,
    aten.div.Tensor: Tensor.div_,
    aten.neg.default: Tensor.neg_,
}
_COMMUTE = (aten.mul.Tensor, aten.add.Tensor)
# What the text of an argument may refer to.
_WORDS: dict[str, Any] = {"torch": torch, "device": torch.device}


def emit(
    graph: fx.Graph,
    constants: Mapping[str, Tensor],
    traits: Mapping[fx.Node, Trait],
    apart: int | None = None,
) -> Callable[..., tuple[Tensor, ...]]:
    """A function of the graph's inputs that returns its outputs.

    What it returns (or the first `apart` of it) shares no memory with its inputs and constants, nor with
    other results.

    Args:
        graph: Pure.
        constants: What its `get_attr` nodes stand for.
        traits: What the tensor of each node looks like, see `measured`.
        apart: See above; None for all.
    """
    memory = Memory(graph, traits)
    names = {node: f"x{position}" for position, node in enumerate(graph.nodes)}
    namespace = dict(_WORDS)
    parameters = [names[node] for node in graph.nodes if node.op == "placeholder"]
    lines: list[str] = []
    for node in graph.nodes:
        if node.op == "get_attr":
            namespace[names[node]] = constants[str(node.target)]
        elif node.op == "call_function":
            lines.append(f"{names[node]} = {_call(node, names, namespace, memory.overwritten(node))}")
            if dead := memory.dead_after(node):
                lines.append("del " + ", ".join(names[other] for other in dead))
        elif node.op == "output":
            shared = memory.shared(node.args[0])
            results = [
                names[item] + (".clone()" if item in shared and (apart is None or index < apart) else "")
                for index, item in enumerate(node.args[0])
            ]
            lines.append(f"return ({''.join(result + ', ' for result in results)})")
    body = "\n".join("    " + line for line in lines)
    source = f"def run({', '.join(parameters)}):\n{body}\n"
    exec(compile(source, "<recorded derivative>", "exec"), namespace)
    # Popped: a function that is one of its own globals would wait for the cycle collector.
    run: Callable[..., tuple[Tensor, ...]] = namespace.pop("run")
    return run


def _call(
    node: fx.Node, names: Mapping[fx.Node, str], namespace: dict[str, Any], over: fx.Node | None
) -> str:
    arguments = [_text(argument, names) for argument in node.args]
    arguments += [f"{name}={_text(value, names)}" for name, value in node.kwargs.items()]
    target: Any = node.target
    if over is not None:
        if over is not node.args[0] and target in _COMMUTE:
            arguments.reverse()
        if arguments[0] == names[over]:
            called = str(target).replace(".", "_") + "_"
            namespace[called] = _ELEMENTWISE[target]
            return f"{called}({', '.join(arguments)})"
        arguments.append(f"out={names[over]}")
    if target in _SHAPED and isinstance(node.args[1], list) and len(node.args[1]):
        arguments[1:2] = map(str, node.args[1])  # one by one: a list takes torch longer to read
    if target is part_of:
        return f"{arguments[0]}[{arguments[1]}]"
    if target is aten.slice.Tensor and node.args[1:2] == (0,) and not node.kwargs:
        bounds = arguments[2:]
        return f"{arguments[0]}[{':'.join(bounds + [''] * (2 - len(bounds)))}]"
    called = str(target).replace(".", "_")
    namespace[called] = _PLAIN.get(target, target._op)
    return f"{called}({', '.join(arguments)})"


def _text(value: Any, names: Mapping[fx.Node, str]) -> str:
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, list | tuple):
        inner = "".join(_text(item, names) + ", " for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, float | complex) and not cmath.isfinite(value):
        return f"{type(value).__name__}({str(value)!r})"  # infinities and NaN have no literals
    return repr(value)


class Memory:
    """Which results live where, and for how long.

    Args:
        graph: Pure.
        traits: What the tensor of each node looks like.
    """

    def __init__(self, graph: fx.Graph, traits: Mapping[fx.Node, Trait]) -> None:
        self._traits = traits
        self._place = {node: traits[node].place for node in graph.nodes if node in traits}
        self._position = {node: position for position, node in enumerate(graph.nodes)}
        self._own = set(self._place.values())  # storages that belong to the program alone
        self._end: dict[int, int] = {}  # of a storage, the position of its last use
        self._last: dict[fx.Node, list[fx.Node]] = {}
        ends: dict[fx.Node, fx.Node] = {}
        for node in graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self._own.discard(self._place.get(node, 0))
            for used in node.all_input_nodes:
                ends[used] = node
                if used in self._place:
                    self._end[self._place[used]] = self._position[node]
        for used, node in ends.items():
            if used.op == "call_function" and node.op != "output":
                self._last.setdefault(node, []).append(used)

    def dead_after(self, node: fx.Node) -> list[fx.Node]:
        """Names that are not used after this node."""
        return self._last.get(node, [])

    def overwritten(self, node: fx.Node) -> fx.Node | None:
        """An argument of this elementwise operation whose memory can take the result."""
        own = self._traits.get(node)
        if own is None or node.target not in _ELEMENTWISE or node.kwargs:
            return None
        for argument in node.all_input_nodes:
            trait = self._traits.get(argument)
            if trait is None or argument.op != "call_function":
                continue
            alike = (trait.shape, trait.stride) == (own.shape, own.stride)
            alike = alike and (trait.dtype, trait.device) == (own.dtype, own.device)
            last = self._end[trait.place] == self._position[node]
            alone = all(self._place.get(a) != trait.place or a is argument for a in node.all_input_nodes)
            if alike and trait.whole and last and alone and trait.place in self._own:
                return argument
        return None

    def shared(self, results: Sequence[fx.Node]) -> set[fx.Node]:
        """The results whose memory is not theirs alone."""
        places = [self._place.get(node) for node in results]
        return {
            node
            for node, place in zip(results, places, strict=True)
            if place not in self._own or places.count(place) > 1
        }
