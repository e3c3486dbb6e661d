from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.trace.measure import measured
from tests.ad.problems import normal
from tests.ad.trace.programs import made

X, W = normal(3, 4, seed=1), normal(3, 4, seed=3)


def test_what_is_measured_is_what_was_recorded() -> None:
    result = made(
        lambda x: [(x.t() * 2.0).split(2)[1][:, 0] + W.sum(0)[2:], x.sum(0).expand(3, 4), x.float()], X
    )
    traits = measured(result.graph, result.constants, [X])
    assert traits.keys() == result.traits.keys()
    for node, trait in traits.items():
        seen = result.traits[node]
        kind = (trait.shape, trait.stride, trait.dtype, trait.device, trait.whole)
        assert kind == (seen.shape, seen.stride, seen.dtype, seen.device, seen.whole)
    pairs = [(a, b) for a in traits for b in traits]
    assert all(
        (traits[a].place == traits[b].place) == (result.traits[a].place == result.traits[b].place)
        for a, b in pairs
    )


def test_traits_that_a_pass_left_wrong_are_put_right() -> None:
    result = made(lambda x: [(x * 2.0) * W], X)
    first = next(node for node in result.graph.nodes if node.op == "call_function")
    first.args = (first.args[0].graph.call_function(torch.ops.aten.t.default, (first.args[0],)), 2.0)
    first.prepend(first.args[0])
    second = first.next
    second.args = (first, next(n for n in result.graph.nodes if n.op == "get_attr"))
    traits = measured(result.graph, {name: c.t() for name, c in result.constants.items()}, [X])
    assert result.traits[first].stride == (4, 1)
    assert traits[first].stride == (1, 4)


def test_tensors_are_dropped_when_nothing_needs_them(monkeypatch: Any) -> None:
    alive: list[Any] = []

    class Notes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert sum(r() is not None for r in alive) <= 1
            out = func(*args, **(kwargs or {}))
            alive.append(weakref.ref(out))
            return out

    def chain(x: Tensor) -> list[Tensor]:
        for _ in range(6):
            x = x.sin()
        return [x]

    result = made(chain, X)
    with Notes():
        measured(result.graph, result.constants, [X])
    assert len(alive) == 6
