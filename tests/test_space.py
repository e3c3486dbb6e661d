"""Space: pytree <-> flat vector, inner products, random vectors."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_leaves

from hvplib.space import Space, Structure

TREE = {"a": torch.arange(6.0).reshape(2, 3), "b": [torch.tensor(6.0), torch.tensor([7.0, 8.0])]}


def test_flatten_and_unflatten_are_inverse() -> None:
    space = Space.of(TREE)
    vector = space.flatten(TREE)
    assert torch.equal(vector, torch.arange(9.0))
    back = space.unflatten(vector)
    assert torch.equal(back["a"], TREE["a"]) and torch.equal(back["b"][0], TREE["b"][0])
    assert back["a"].data_ptr() == vector.data_ptr(), "a leaf of the vector's own dtype is a view"


def test_flatten_never_aliases_its_input() -> None:
    x = torch.zeros(3)
    Space.of(x).flatten(x).add_(1)
    assert x.sum() == 0


def test_one_flat_vector_is_taken_as_it_is_and_given_as_a_copy() -> None:
    x = torch.ones(3)
    for tree in (x, (x,), {"x": x}):
        space = Space.of(tree)
        assert space.flat
        (leaf,) = tree_leaves(space.unflatten(x))
        assert leaf is x
        (rows,) = tree_leaves(space.unflatten_block(torch.eye(3)[:2].mT))
        assert torch.equal(rows, torch.eye(3)[:2])
        assert space.flatten(tree).data_ptr() != x.data_ptr()
    for other in (torch.ones(3, 1), torch.ones(3).half(), [x, x], torch.tensor(1.0)):
        assert not Space.of(other).flat


@pytest.mark.parametrize("count", [0, 1, 3])
def test_blocks_are_columns(count: int) -> None:
    space = Space.of(TREE)
    block = space.random(generator=0, columns=count)
    assert block.shape == (9, count) and block.mT.is_contiguous()
    tree = space.unflatten_block(block)
    assert tree["a"].shape == (count, 2, 3) and tree["b"][0].shape == (count,)
    assert torch.equal(space.flatten_block(tree), block)
    for column in range(count):
        assert torch.equal(space.unflatten(block[:, column])["a"], tree["a"][column])


def test_row_major_blocks_unflatten_too() -> None:
    space = Space.of(TREE)
    block = torch.randn(9, 4)
    assert torch.equal(space.flatten_block(space.unflatten_block(block)), block)


def test_vectors_take_the_widest_dtype_and_leaves_keep_theirs() -> None:
    tree = (torch.ones(2, dtype=torch.float32), torch.ones(1, dtype=torch.float64))
    space = Space.of(tree)
    assert space.dtype == torch.float64
    assert [leaf.dtype for leaf in space.unflatten(torch.ones(3, dtype=torch.float64))] == [
        torch.float32,
        torch.float64,
    ]


def test_half_precision_leaves_get_float32_vectors() -> None:
    space = Space.of(torch.ones(2, dtype=torch.bfloat16))
    assert space.dtype == torch.float32
    assert space.flatten(torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32


def test_inner_products() -> None:
    space = Space.of(TREE)
    x, y = space.random(generator=0, columns=2), space.random(generator=1, columns=3)
    torch.testing.assert_close(space.inner(x, y), x.mT @ y)
    torch.testing.assert_close(space.inner(x, y[:, 0]), x.mT @ y[:, 0])
    torch.testing.assert_close(space.inner(x[:, 0], y[:, 0]), (x[:, 0] * y[:, 0]).sum())


def test_kind_tells_a_vector_from_a_block() -> None:
    space = Space.of(TREE)
    assert space.kind(TREE) == "vector"
    assert space.kind(space.unflatten_block(torch.ones(9, 2))) == "block"
    assert space.kind({"a": TREE["a"]}) is None
    assert space.kind({"a": TREE["a"], "b": [torch.tensor(6.0), "two"]}) is None
    assert space.kind({"a": torch.ones(2, 2, 3), "b": [torch.ones(2), torch.ones(3, 2)]}) is None


def test_random_numbers_have_mean_zero_and_variance_one() -> None:
    space = Space.of(torch.zeros(20_000))
    normal = space.random(generator=3)
    assert abs(normal.mean()) < 0.03 and abs(normal.var() - 1) < 0.05
    signs = space.random(generator=3, distribution="rademacher")
    assert set(signs.tolist()) == {-1.0, 1.0} and abs(signs.mean()) < 0.03


def test_random_numbers_come_from_the_given_generator_alone() -> None:
    space = Space.of(torch.zeros(5))
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(7)
    first, second = space.random(generator=generator), space.random(generator=generator)
    assert torch.equal(first, space.random(generator=7)) and not torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"w": torch.ones(2, dtype=torch.int64)},
            r"leaf \['w'\] must be a real floating point tensor, got torch.int64",
        ),
        ([torch.ones(2), 1.0], r"leaf \[1\] must be a real floating point tensor, got float"),
        (torch.ones(2, dtype=torch.complex64), "leaf itself must be .* got torch.complex64"),
        (torch.eye(2).to_sparse(), "leaf itself must be .* got torch.sparse_coo"),
    ],
)
def test_other_leaves_are_refused_by_path(tree: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Space.of(tree)


def test_an_empty_pytree_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one tensor, got an empty one"):
        Space.of({})


def test_wrong_shapes_are_refused() -> None:
    space = Space.of(TREE)
    with pytest.raises(ValueError, match=r"vector must have shape \(9,\), got \(8,\)"):
        space.unflatten(torch.ones(8))
    with pytest.raises(ValueError, match=r"block must have shape \(9, k\), got \(8, 2\)"):
        space.unflatten_block(torch.ones(8, 2))
    with pytest.raises(ValueError, match=r"expected a pytree like \{'a': \(2, 3\).*got \{'a': \(3, 2\)\}"):
        space.flatten({"a": torch.ones(3, 2)})
    with pytest.raises(ValueError, match=r"expected a pytree like \{'a': \('k', 2, 3\)"):
        space.flatten_block(TREE)
    with pytest.raises(ValueError, match='distribution must be "normal" or "rademacher", got \'uniform\''):
        space.random(generator=0, distribution="uniform")  # type: ignore[arg-type]


def test_names_and_indices() -> None:
    space = Space.of(
        {"a": [torch.ones(2), {"w": torch.ones(1, 2)}], "b.c": torch.ones(3), "b.d": torch.ones(())}
    )
    assert space.names == ("a.0", "a.1.w", "b.c", "b.d")
    assert space.indices("a").tolist() == [0, 1, 2, 3]
    assert space.indices("b.*").tolist() == [4, 5, 6, 7]
    assert space.indices(["b.d", "a.0"]).tolist() == [0, 1, 7]
    assert Space.of(torch.ones(2)).names == ("",)
    with pytest.raises(ValueError, match=r"no leaf matches 'c'; there are a\.0, a\.1\.w, b\.c, b\.d"):
        space.indices("c")


class Pair(NamedTuple):
    left: object
    right: object


A, B = torch.ones(2), torch.nn.Parameter(torch.zeros(3))
TREES = [
    A,
    B,
    (A, B),
    [A, B],
    {"b": A, "a": B},
    (A,),
    Pair(A, B),
    (A, [B, {"c": A}]),
    {"x": {"y": A}},
    OrderedDict(a=A),
]
OTHERS = [
    None,
    1.0,
    "text",
    (),
    [A],
    (A, 1.0),
    (A, B, A),
    {"a": B, "b": A},
    {"b": A},
    Pair(A, (A, B)),
    (A, None),
]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_structure_takes_apart_and_puts_together_as_torch_does(tree: object) -> None:
    spec = tree_flatten(tree)[1]
    structure = Structure(spec)
    for other in (*TREES, *OTHERS):
        leaves, found = tree_flatten(other)
        taken = structure.leaves(other)
        if found != spec:
            assert taken is None
            continue
        assert taken is not None and [id(x) for x in taken] == [id(x) for x in leaves]
        again = structure.tree(taken)
        assert type(again) is type(other) and tree_flatten(again)[1] == spec
        assert [id(x) for x in tree_flatten(again)[0]] == [id(x) for x in leaves]


def test_structure_gives_another_list_than_it_was_given() -> None:
    tree = [A, B]
    assert Structure(tree_flatten(tree)[1]).leaves(tree) is not tree
