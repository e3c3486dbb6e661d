"""One side of a Hessian: which entries of the primals its rows (or columns) are, and in what containers."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten_with_path, tree_unflatten

__all__ = ["Axis", "Group", "Piece", "axis"]


@dataclass(frozen=True)
class Piece:
    """Entries of one leaf: `offsets` into the flattened leaf, at `positions` of their group.

    Attributes:
        whole: Whether they are all of its entries, in order.
    """

    leaf: int
    offsets: Tensor
    positions: Tensor
    whole: bool = False

    def units(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Unit vectors of entries start ... stop - 1 in the shape of the leaf: (stop - start, *shape)."""
        block = like.new_zeros((stop - start, like.numel()))
        self.mark(block, start, stop)
        return block.reshape((stop - start, *like.shape))

    def mark(self, block: Tensor, start: int, stop: int) -> None:
        """Write a 1 for the entries start ... stop - 1 into the rows of zeros of a block."""
        if self.whole:
            block[:, start:stop].diagonal().fill_(1)
        else:
            rows = torch.arange(stop - start, device=block.device)
            block[rows, self.offsets[start:stop].to(block.device)] = 1


@dataclass(frozen=True)
class Group:
    """Entries of the flattened primals that make up one block of the result.

    Attributes:
        pieces: The entries, leaf by leaf.
        shape: Shape that the entries have in the result.
        dtype: Dtype of the blocks whose rows these entries are.
        whole: The leaf, if the group is all of one leaf in order.
    """

    pieces: tuple[Piece, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    whole: int | None = None

    def __len__(self) -> int:
        return sum(piece.offsets.numel() for piece in self.pieces)

    def take(self, products: Sequence[Tensor]) -> Tensor:
        """From products (k, *shape) per leaf, the entries of this group: (k, len(self))."""
        if self.whole is not None:
            return _as_matrix(products[self.whole])
        result = products[0].new_empty((products[0].shape[0], len(self)), dtype=self.dtype)
        for piece in self.pieces:
            product = _as_matrix(products[piece.leaf])
            taken = product[:, piece.offsets.to(product.device)]
            result[:, piece.positions.to(result.device)] = taken.to(result)
        return result


@dataclass(frozen=True)
class Axis:
    """The groups of one side, and how their blocks are put together."""

    groups: tuple[Group, ...]
    spec: TreeSpec | None = None
    keys: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    @property
    def everything(self) -> bool:
        """Whether these are all entries of the primals, in their containers."""
        return self.spec is not None

    def assemble(self, blocks: Sequence[Any]) -> Any:
        """The blocks of all groups in the container that the caller asked for."""
        if self.spec is not None:
            return tree_unflatten(list(blocks), self.spec)
        if self.keys is not None:
            return dict(zip(self.keys, blocks, strict=True))
        return blocks[0]


def axis(name: str, choice: Any, tree: Any, leaves: Sequence[Tensor], spec: TreeSpec) -> Axis:
    """The side chosen by `rows=` or `columns=`.

    Args:
        name: "rows" or "columns", for messages.
        choice: None (everything, in the containers of the primals); a path such as "encoder.0.weight", a
            pattern with `*` and `?`, or a sequence of them (a dict keyed by path); or indices into the
            flattened primals: a slice, a sequence of ints or an integer tensor (one flat dimension).
        tree: The primals.
        leaves: Their leaves.
        spec: Their structure.
    """
    if choice is None:
        return Axis(tuple(_whole(i, leaf) for i, leaf in enumerate(leaves)), spec=spec)
    if isinstance(choice, str) or (
        isinstance(choice, Sequence) and choice and all(isinstance(c, str) for c in choice)
    ):
        return _by_path(name, [choice] if isinstance(choice, str) else list(choice), tree, leaves)
    return Axis((_by_index(name, choice, leaves),))


def _as_matrix(product: Tensor) -> Tensor:
    return product.reshape(product.shape[0], product.shape[1:].numel())


def _whole(index: int, leaf: Tensor) -> Group:
    everything = torch.arange(leaf.numel())
    piece = Piece(index, everything, everything, whole=True)
    return Group((piece,), tuple(leaf.shape), leaf.dtype, whole=index)


def _by_path(name: str, patterns: list[str], tree: Any, leaves: Sequence[Tensor]) -> Axis:
    paths = [".".join(_key(entry) for entry in path) for path, _ in tree_flatten_with_path(tree)[0]]
    chosen: list[int] = []
    for pattern in patterns:
        found = [i for i, path in enumerate(paths) if path == pattern]
        found = found or [i for i, path in enumerate(paths) if fnmatch.fnmatchcase(path, pattern)]
        if not found:
            raise ValueError(
                f"{name}: no tensor of the primals is called {pattern!r}; there are {', '.join(paths)}"
            )
        chosen += [i for i in found if i not in chosen]
    groups = tuple(_whole(i, leaves[i]) for i in chosen)
    return Axis(groups, keys=tuple(paths[i] for i in chosen))


def _by_index(name: str, choice: Any, leaves: Sequence[Tensor]) -> Group:
    sizes = [leaf.numel() for leaf in leaves]
    total = sum(sizes)
    if isinstance(choice, slice):
        flat = torch.arange(total)[choice] if (choice.step or 1) > 0 else None
    else:
        flat = torch.as_tensor(choice)
    if flat is None or flat.dim() != 1 or flat.dtype.is_floating_point or flat.dtype == torch.bool:
        raise TypeError(
            f"{name} must be None, a path or pattern (or several), or indices into the {total} flattened "
            f"primals (a slice with a positive step, ints, or an integer tensor); got {choice!r}"
        )
    flat = flat.to("cpu", torch.int64)
    if flat.numel() and (int(flat.min()) < -total or int(flat.max()) >= total):
        raise IndexError(
            f"{name} must lie in [{-total}, {total}), the range of the flattened primals; got {choice!r}"
        )
    flat = torch.where(flat < 0, flat + total, flat)
    ends = torch.tensor(sizes).cumsum(0)
    owner = torch.searchsorted(ends, flat, right=True)
    dtype = leaves[0].dtype
    for leaf in leaves[1:]:
        dtype = torch.promote_types(dtype, leaf.dtype)
    starts = ends - torch.tensor(sizes)
    pieces = []
    for index in sorted(set(owner.tolist())):
        positions = (owner == index).nonzero().squeeze(1)
        pieces.append(Piece(index, flat[positions] - starts[index], positions))
    return Group(tuple(pieces), (flat.numel(),), dtype)


def _key(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
