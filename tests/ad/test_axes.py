"""One side of a Hessian: entries by path, by pattern, by index; and the containers of the result."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib.ad.axes import Axis, Group, Piece, axis

Point = namedtuple("Point", ["p", "q"])
TREE = {
    "a": torch.arange(6.0, dtype=torch.float64).reshape(2, 3),
    "b": [torch.tensor(6.0), torch.arange(7.0, 11.0, dtype=torch.float64)],
}
LEAVES, SPEC = tree_flatten(TREE)
N = 11


def side(choice: Any, tree: Any = TREE) -> Axis:
    leaves, spec = tree_flatten(tree)
    return axis("rows", choice, tree, leaves, spec)


def taken(choice: Any) -> list[list[float]]:
    """The flat numbers that each group selects from the leaves themselves (one product of width 1)."""
    return [group.take([leaf[None] for leaf in LEAVES])[0].tolist() for group in side(choice).groups]


# ------------------------------------------------------------------------------------------- what is selected


def test_everything_in_the_containers_of_the_primals() -> None:
    whole = side(None)
    assert len(whole) == N
    assert [group.whole for group in whole.groups] == [0, 1, 2]
    assert [group.shape for group in whole.groups] == [(2, 3), (), (4,)]
    assert [group.dtype for group in whole.groups] == [torch.float64, torch.float32, torch.float64]
    assert taken(None) == [[0, 1, 2, 3, 4, 5], [6], [7, 8, 9, 10]]
    assert whole.assemble(["A", "B", "C"]) == {"a": "A", "b": ["B", "C"]}


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ([0], [0]),
        ([5, 6, 7], [5, 6, 7]),
        ([10, 0, 6, 0], [10, 0, 6, 0]),
        ([-1, -11], [10, 0]),
        (range(3, 9, 2), [3, 5, 7]),
        (slice(4, 8), [4, 5, 6, 7]),
        (slice(None, None, 5), [0, 5, 10]),
        (slice(-2, None), [9, 10]),
        (slice(3, 3), []),
        (torch.tensor([8, 2]), [8, 2]),
        (torch.tensor([8, 2], dtype=torch.int32), [8, 2]),
        ((1, 9), [1, 9]),
    ],
)
def test_indices_into_the_flattened_primals(choice: Any, numbers: list[int]) -> None:
    chosen = side(choice)
    assert taken(choice) == [numbers]
    assert len(chosen) == len(numbers)
    (group,) = chosen.groups
    assert group.shape == (len(numbers),) and group.whole is None
    assert group.dtype == torch.float64, "the widest of the primals"
    assert chosen.assemble(["X"]) == "X"


@pytest.mark.parametrize(
    ("choice", "keys"),
    [
        ("a", ["a"]),
        ("b.0", ["b.0"]),
        ("b.*", ["b.0", "b.1"]),
        ("*", ["a", "b.0", "b.1"]),
        ("b.?", ["b.0", "b.1"]),
        (["b.1", "a"], ["b.1", "a"]),
        (["b.1", "b.*"], ["b.1", "b.0"]),
        (("a",), ["a"]),
    ],
)
def test_paths_and_patterns(choice: Any, keys: list[str]) -> None:
    numbers = {"a": [0, 1, 2, 3, 4, 5], "b.0": [6], "b.1": [7, 8, 9, 10]}
    chosen = side(choice)
    assert list(chosen.assemble(keys)) == keys
    assert taken(choice) == [numbers[key] for key in keys]
    assert len(chosen) == sum(len(numbers[key]) for key in keys)


def test_paths_through_every_container() -> None:
    tree = (Point(p=torch.ones(1), q={"k": [torch.ones(2)]}), torch.ones(3))
    assert [len(side(path, tree)) for path in ("0.p", "0.q.k.0", "1")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("choice", "kind", "text"),
    [
        ("c", ValueError, "rows: no tensor of the primals is called 'c'; there are a, b.0, b.1"),
        (["a", "z.*"], ValueError, r"is called 'z\.\*'"),
        ([N], IndexError, r"rows must lie in \[-11, 11\), the range of the flattened primals; got \[11\]"),
        ([-N - 1], IndexError, r"got \[-12\]"),
        ([0.5], TypeError, "rows must be None, a path or pattern"),
        ([True], TypeError, "ints, or an integer tensor"),
        (4, TypeError, "got 4"),
        ([[1]], TypeError, "rows must be None"),
        (slice(5, None, -1), TypeError, "a slice with a positive step"),
    ],
)
def test_bad_choices(choice: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        side(choice)


# ----------------------------------------------------------------------------------- unit vectors and takes


@pytest.mark.parametrize("choice", [None, [0, 7, 5, 6, 10], slice(2, 9), ["b.1", "a"]])
def test_units_select_the_entries(choice: Any) -> None:
    """⟨unit, leaf⟩ over the units of all pieces gives the chosen numbers, at their positions."""
    for group, numbers in zip(side(choice).groups, taken(choice), strict=True):
        found = [None] * len(numbers)
        for piece in group.pieces:
            leaf = LEAVES[piece.leaf]
            units = piece.units(0, piece.offsets.numel(), leaf)
            assert units.shape == (piece.offsets.numel(), *leaf.shape) and units.dtype == leaf.dtype
            assert torch.equal(units.reshape(len(units), -1).sum(1), torch.ones(len(units), dtype=leaf.dtype))
            values = (units * leaf).reshape(len(units), -1).sum(1)
            for position, value in zip(piece.positions.tolist(), values.tolist(), strict=True):
                found[position] = value
        assert found == numbers


def test_units_of_a_part() -> None:
    piece = Piece(0, torch.tensor([4, 1, 3]), torch.arange(3))
    assert torch.equal(piece.units(1, 3, LEAVES[0]), piece.units(0, 3, LEAVES[0])[1:])
    assert piece.units(2, 2, LEAVES[0]).shape == (0, 2, 3)


def test_takes_of_blocks_keep_the_leading_dimension() -> None:
    products = [torch.stack([leaf, 10 * leaf]) for leaf in LEAVES]
    (group,) = side([10, 0, 6]).groups
    got = group.take(products)
    assert torch.equal(got, torch.tensor([[10.0, 0, 6], [100, 0, 60]], dtype=torch.float64))
    whole = side(None).groups[0].take(products)
    assert whole.shape == (2, 6) and torch.equal(whole[1], 10 * LEAVES[0].flatten())


def test_takes_under_vmap_and_autograd() -> None:
    (group,) = side([10, 0, 6]).groups
    leaves = [leaf.clone().requires_grad_() for leaf in LEAVES]
    group.take([leaf[None] for leaf in leaves]).sum().backward()
    assert leaves[0].grad is not None and leaves[0].grad.sum() == 1

    def inner(x: Tensor) -> Tensor:
        return group.take([x * leaf.to(x.dtype)[None] for leaf in LEAVES])

    got = torch.func.vmap(inner)(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert torch.equal(got[1, 0], torch.tensor([20.0, 0, 12], dtype=torch.float64))


def test_an_empty_group() -> None:
    group = Group((), (0,), torch.float64)
    assert len(group) == 0
    assert group.take([leaf[None] for leaf in LEAVES]).shape == (1, 0)
