from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.emit import Memory, emit
from hvplib.ad.trace.measure import measured
from hvplib.ad.trace.recorder import Record
from tests.ad.problems import normal
from tests.ad.trace.programs import agree, made

aten: Any = torch.ops.aten
X, Y, W = normal(3, 4, seed=1), normal(3, 4, seed=2), normal(3, 4, seed=3)


def emitted(result: Record, *inputs: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    return emit(result.graph, result.constants, measured(result.graph, result.constants, inputs))


def overwritten(result: Record, *inputs: Tensor) -> list[Any]:
    """The operations that write over an argument."""
    memory = Memory(result.graph, measured(result.graph, result.constants, inputs))
    return [node.target for node in result.graph.nodes if memory.overwritten(node) is not None]


def right(compute: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> list[Any]:
    """Check it on two kinds of inputs, and that it spares them and its constants; what it writes over."""
    result = made(compute, *inputs)
    run = emitted(result, *inputs)
    kept = [c.clone() for c in result.constants.values()]
    others = [normal(*x.shape, seed=40 + i).to(x.dtype) for i, x in enumerate(inputs)]
    for given in (inputs, others):
        before = [x.clone() for x in given]
        first = run(*given)
        assert agree(first, compute(*given))
        again = run(*given)  # what the first run returned is not written to
        assert agree(first, again)
        storages = [t.untyped_storage().data_ptr() for t in first]
        assert len({*storages, *(t.untyped_storage().data_ptr() for t in again)}) == 2 * len(storages)
        assert not {*storages} & {
            t.untyped_storage().data_ptr() for t in (*given, *result.constants.values())
        }
        assert all(torch.equal(x, b) for x, b in zip(given, before, strict=True))
    assert all(torch.equal(c, k) for c, k in zip(result.constants.values(), kept, strict=True))
    return overwritten(result, *inputs)


def test_a_dead_argument_is_written_over() -> None:
    assert right(lambda x: [(x.sin() * W + W) / x], X) == [aten.mul.Tensor, aten.add.Tensor, aten.div.Tensor]
    assert right(lambda x: [-((x.sin() - x) * 2.0)], X) == [
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.neg.default,
    ]
    assert right(lambda x: [W * x.sin()], X) == [aten.mul.Tensor]


MUL, ADD, DIV = aten.mul.Tensor, aten.add.Tensor, aten.div.Tensor
# What is computed, and which of its operations may write over an argument.
SPARED: dict[str, tuple[Callable[[Tensor], Sequence[Tensor]], list[Any]]] = {
    "an input": (lambda x: [x * W], []),
    "a view of an input": (lambda x: [x.view(12).view(3, 4) * W], []),
    "a constant": (lambda x: [W * x], []),
    "used later": (lambda x: (lambda y: [(y * W) / y.cos()])(x.sin()), [DIV]),
    "returned": (lambda x: (lambda y: [y, y * W])(x.sin()), []),
    "returned as a view": (lambda x: (lambda y: [y.view(12), y * W])(x.sin()), []),
    "seen by a view used later": (
        lambda x: (lambda y, v: [(y * W).cos() + v])(*(lambda y: (y, y[0]))(x.sin())),
        [ADD],
    ),
    "seen by a view beside it": (lambda x: (lambda y: [y.view(3, 4) * y.view(12).view(3, 4)])(x.sin()), []),
    "turned beside it": (lambda x: (lambda y: [y * y.t()])(x.mm(W.t())), []),
    "in other order": (lambda x: [x.t().sin().t().contiguous().sin() * x.t().sin().t()], [MUL]),
    "smaller": (lambda x: [x.sum(0) * W], []),
    "expanded": (lambda x: [x.sum(0).expand(3, 4) * W], []),
    "of another dtype": (lambda x: [x.float() * W], []),
    "with a keyword": (lambda x: [torch.add(x.sin(), W, alpha=0.3)], []),
    "a part": (lambda x: [x.sin()[1:] * W[1:]], []),
    "of a sum": (lambda x: [x.sin()[:1] * W], []),
}


@pytest.mark.parametrize("name", SPARED)
def test_what_others_see_is_not_written_over(name: str) -> None:
    compute, over = SPARED[name]
    assert right(compute, X) == over


def test_results_have_memory_of_their_own() -> None:
    for alone in (lambda x: [x], lambda x: [x.view(12)], lambda x: [W], lambda x: [x.expand(2, 3, 4)]):
        right(alone, X)
    right(lambda x: [x, x.view(12), W, W[0], x.sin(), x * 2, x.expand(2, 3, 4)], X)
    right(lambda x: (lambda y: [y, y, y[0], y.t(), *y.split(1)])(x.sin()), X)


def test_several_results_of_one_operation_that_share_memory() -> None:
    right(lambda x: (lambda a, b: [a * W[:2], b * W[:1], a])(*x.sin().split(2)), X)
    right(lambda x: (lambda s: [s.values * W, s.values, s.indices * 1.0])(x.sin().sort()), X)


def test_arguments_of_all_kinds() -> None:
    numbers = [math.inf, -math.inf, 0.0, -0.0, 0.1, 1e-310, 2, True]
    right(lambda x: [x * n for n in numbers] + [x.clamp(-math.inf, 0.5)], X)
    right(lambda x: [torch.full_like(x, math.nan, dtype=torch.float32, device="cpu")], X)
    right(lambda x: [x.to(torch.float32, memory_format=torch.preserve_format)], X)
    right(lambda x: [torch.cat([x, W], 1), torch.stack([x, W]).sum([0, 2]), x.std(0, correction=2)], X)
    right(lambda x: [x.norm(dim=1), aten.index.Tensor(x, [None, torch.tensor([2, 0])])], X)
    right(
        lambda x: [torch.view_as_real(torch.complex(x, W) * (1 + 2j)), x.softmax(1), torch.var_mean(x, 1)[0]],
        X,
    )


@pytest.mark.parametrize(
    "bounds", [(), (0,), (0, 1), (0, 1, 3), (0, -2, 9), (0, None, 2), (0, 0, 3, 2), (1, 1, 3)]
)
def test_slices_with_and_without_bounds(bounds: tuple[Any, ...]) -> None:
    right(lambda x: [aten.slice.Tensor(x, *bounds).sin() * 2], X)


@pytest.mark.parametrize("number", [complex(math.nan, -0.0), complex(-0.0, math.inf), complex(1, -2)])
def test_complex_numbers(number: complex) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(aten.add.Tensor, (x, number)),))
    (got,) = emit(graph, {}, measured(graph, {}, [X]))(X)
    torch.testing.assert_close(got, X + number, rtol=0, atol=0, equal_nan=True)


def test_a_function_frees_its_constants_without_the_collector() -> None:
    constant = W.clone()
    result = made(lambda x: [x * constant], X)
    run = emitted(result, X)
    assert torch.equal(run(X)[0], X * W)
    gone = weakref.ref(result.constants.popitem()[1])
    gc.disable()
    try:
        del run
        assert gone() is None
    finally:
        gc.enable()


def test_memory_is_not_held_longer_than_needed() -> None:
    """Of a chain of ten only two tensors are alive at once."""
    large = torch.zeros(1 << 16, dtype=torch.float64)

    def chain(x: Tensor) -> list[Tensor]:
        for _ in range(10):
            x = x.sin()
        return [x.sum()]

    result = made(chain, large)
    body = emitted(result, large).__code__
    assert body.co_nlocals == 12
    peak = alive = 0

    class Counts(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal peak, alive
            out = func(*args, **(kwargs or {}))
            alive += 1
            weakref.finalize(out, dropped)
            peak = max(peak, alive)
            return out

    def dropped() -> None:
        nonlocal alive
        alive -= 1

    run = emitted(result, large)
    with Counts():
        run(large)
    assert peak == 2
