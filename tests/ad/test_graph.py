"""What the graph behind a value tells: custom functions, captured tensors, bytes kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.ad.graph import Graph, graph_facts
from hvplib.ad.leaves import fresh
from tests.ad.problems import F64, Cube, CutCube, normal

N = 100
BYTES = 8 * N


def leaf(seed: int = 0, size: int = N) -> Tensor:
    return normal(size, seed=seed).requires_grad_()


# ---------------------------------------------------------------------------------------------------- facts


def test_nothing_to_tell() -> None:
    x, y = leaf(), leaf(1)
    facts = graph_facts((x.sin() * y).sum(), [x, y])
    assert (facts.custom, facts.captured, facts.reached) == ((), False, True)
    facts = graph_facts(torch.ones(()), [x])
    assert (facts.custom, facts.captured, facts.reached) == ((), False, False)


def test_whether_the_walk_came_to_the_primals() -> None:
    x, other = leaf(), leaf(1)
    assert graph_facts((x * other).sum(), [x]).reached
    assert not graph_facts((x.detach() * other).sum(), [x]).reached
    z = x.exp()
    assert graph_facts(z.sum(), [z]).reached


def test_custom_functions_by_name_and_once() -> None:
    x = leaf()
    value = (Cube.apply(x) + Cube.apply(x.sin()) * CutCube.apply(x)).sum()
    facts = graph_facts(value, [x])
    assert set(facts.custom) == {"Cube", "CutCube"} and len(facts.custom) == 2
    assert not facts.captured


def test_captured_tensors_that_require_grad() -> None:
    x, other = leaf(), leaf(1)
    assert graph_facts((x * other).sum(), [x]).captured
    assert graph_facts(other.sin().sum(), [x]).captured
    assert not graph_facts((x * other.detach()).sum(), [x]).captured


def test_the_walk_ends_at_leaves_that_have_a_graph_of_their_own() -> None:
    z = leaf()
    x = Cube.apply(z)
    facts = graph_facts((x**2).sum(), [x])
    assert (facts.custom, facts.captured) == ((), False)
    assert graph_facts((x**2).sum() + z.sum(), [x]).captured
    assert graph_facts((x**2).sum(), [z]).custom == ("Cube",)


def test_the_primals_of_an_earlier_derivative_are_known_again() -> None:
    """A function that keeps a result with its graph brings in the leaves of the call before."""
    now, before = fresh(normal(3)), fresh(normal(3, seed=1))
    facts = graph_facts((now * before).sum(), [now])
    assert facts.stale and facts.captured and facts.reached
    other = leaf(2, size=3)
    assert not graph_facts((now * other).sum(), [now]).stale


def test_nodes_by_name() -> None:
    x, kernel = normal(1, 1, 5).requires_grad_(), normal(1, 1, 3, seed=1)
    assert Graph([x.sum(), torch.conv1d(x, kernel).sum()]).contains("ConvolutionBackward")
    assert not Graph([x.sin().sum()]).contains("ConvolutionBackward")
    assert not Graph([torch.ones(1)]).contains("ConvolutionBackward")


def test_deep_graphs_are_no_problem() -> None:
    x = leaf(size=1)
    y = x
    for _ in range(5000):
        y = y + 1
    assert graph_facts(y.sum(), [x]).reached


# ---------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize(
    ("func", "kept"),
    [
        (lambda x: x.sum(), 0),
        (lambda x: (x + 3).sum(), 0),
        (lambda x: x.sin().sum(), 0),  # saves the leaf, which is there anyway
        (lambda x: x.exp().sum(), 1),  # saves its result
        (lambda x: x.sin().sin().sum(), 1),
        (lambda x: x.exp().exp().sum(), 2),
        (lambda x: (lambda y: (y * y).sum())(x + 1), 1),  # both factors are one storage
        (lambda x: (lambda y: (y[:50] * y[50:]).sum())(x + 1), 1),  # views of one storage
        (lambda x: (x * x.detach()).sum(), 0),
    ],
)
def test_bytes_in_closed_form(func: object, kept: int) -> None:
    x = leaf()
    assert Graph([func(x)]).nbytes([x]) == kept * BYTES  # type: ignore[operator]


def test_data_do_not_move_with_the_vectors() -> None:
    x, data = leaf(), leaf().detach().exp()
    func = (x.exp() * data).sum() + (data * x).sum()
    assert Graph([func]).nbytes([x]) == 2 * BYTES  # exp(x), and the data
    assert Graph([func]).moving_bytes([x]) == BYTES
    assert Graph([torch.ones(3)]).moving_bytes([]) == 0


def test_two_outputs_share_what_they_share() -> None:
    x = leaf()
    y = x.exp()
    assert Graph([y.sum(), y.exp().sum()]).nbytes([x]) == 2 * BYTES
    assert Graph([y.sum(), y.mean()]).nbytes([x]) == BYTES


def test_residuals_of_custom_functions_count() -> None:
    x = leaf()
    assert Graph([Cube.apply(x + 1).sum()]).nbytes([x]) == BYTES
    assert Graph([Cube.apply(x).sum()]).nbytes([x]) == 0


def test_a_tensor_without_graph_keeps_nothing() -> None:
    assert Graph([torch.ones(3)]).nbytes([]) == 0


def test_low_precision_counts_its_own_bytes() -> None:
    x = leaf().detach().bfloat16().requires_grad_()
    assert Graph([x.exp().sum()]).nbytes([x]) == 2 * N


def test_equals_what_the_saved_tensor_hooks_see() -> None:
    """An independent count: torch reports each tensor that it packs."""
    x, w = leaf(size=12), normal(12, 7, seed=3).requires_grad_()
    storages = {}

    def pack(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(), t
        return t

    def func() -> Tensor:
        return torch.nn.functional.gelu((x @ w).tanh()).softmax(0).square().sum()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        func()
    own = {x.untyped_storage().data_ptr(), w.untyped_storage().data_ptr()}
    expected = sum(size for key, (size, _) in storages.items() if key not in own)
    assert Graph([func()]).nbytes([x, w]) == expected > 0
    assert x.dtype == F64


# ----------------------------------------------------------------------------------------------- operations


def operations(output: Tensor) -> int:
    return Graph([output]).operations()


def test_operations_tell_what_leads_to_what() -> None:
    def number(held: bool, seed: int = 0) -> int:
        x = leaf(seed)
        y = x.tanh()
        return operations((y * (y.detach() if held else y)).sum() + y.sum())

    assert number(False) == number(False, 1)
    assert number(False) != number(True), "the same names of nodes, but one edge less"
    x, y = leaf(), leaf(1)
    assert operations(x.sin().sum()) != operations(x.cos().sum())
    assert operations(x.sin() * x.cos() * y) != operations(x.sin() * x.cos() * x)
    parts = x[:4].reshape(2, 2).unbind()
    assert operations(parts[0].exp()) != operations(parts[1].exp()), "another output of the same node"


def test_who_takes_a_leaf() -> None:
    x, y = leaf(), leaf(1)
    graph = Graph([(x.sin() * y.cos()).sum() + x.exp().sum()])
    assert sorted(node.name() for node in graph.users(x)) == ["ExpBackward0", "SinBackward0"]
    assert [node.name() for node in graph.users(y)] == ["CosBackward0"]
    assert graph.users(leaf(2)) == []
