"""Pytrees of tensors as flat vectors: the space in which an operator acts."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

__all__ = ["Space", "Structure"]

_TENSORS = (Tensor, torch.nn.Parameter)


class Structure:
    """The containers of a pytree: leaves out of them, and into them.

    What `tree_flatten` and `tree_unflatten` do, without a walk for one tensor and for a flat tuple, list or
    dict of tensors: those take as long as a small product.

    Attributes:
        spec: As torch describes it.
    """

    def __init__(self, spec: TreeSpec) -> None:
        self.spec = spec
        flat = spec.type in (tuple, list, dict) and all(child.is_leaf() for child in spec.children())
        self._container = spec.type if flat else None
        self._keys = list(spec.context) if self._container is dict else []

    def leaves(self, tree: Any) -> list[Any] | None:
        """The leaves of a tree of this structure; None for any other."""
        if type(tree) in _TENSORS:
            return [tree] if self.spec.is_leaf() else None
        if type(tree) is self._container:
            found = list(tree.values() if type(tree) is dict else tree)
            if len(found) == self.spec.num_leaves and (type(tree) is not dict or list(tree) == self._keys):
                for leaf in found:
                    if type(leaf) not in _TENSORS:
                        break
                else:
                    return found
        found, spec = tree_flatten(tree)
        return found if spec == self.spec else None

    def tree(self, leaves: Sequence[Any]) -> Any:
        """The tree with these leaves."""
        if self._container is None:
            return leaves[0] if self.spec.is_leaf() else tree_unflatten(list(leaves), self.spec)
        if self._container is dict:
            return dict(zip(self._keys, leaves, strict=True))
        return self._container(leaves)


class Space:
    """x ↦ (x_1, ..., x_n): the isometry between a pytree of tensors and a flat vector of its n numbers.

    Vectors have one dtype, the widest of the leaves' and at least float32, and lie on the first leaf's
    device. Several vectors are the columns of an (n, k) tensor, or a pytree whose leaves have a leading k.

    Attributes:
        spec: Structure of the pytree.
        structure: The same, to take pytrees apart and put them together.
        shapes, dtypes, devices: Of each leaf.
        sizes: Number of entries of each leaf.
        size: n, their sum.
        dtype, device: Of a flat vector.
        uniform: Whether they are those of every leaf.
        flat: Whether the only leaf is a flat vector itself.

    Example:
        >>> import torch
        >>> space = Space.of({"weight": torch.ones(2, 2), "bias": torch.zeros(2)})
        >>> space.size, space.dtype
        (6, torch.float32)
        >>> space.flatten({"weight": torch.eye(2), "bias": torch.tensor([2.0, 3.0])})
        tensor([1., 0., 0., 1., 2., 3.])
    """

    def __init__(
        self,
        spec: TreeSpec,
        shapes: Sequence[torch.Size],
        dtypes: Sequence[torch.dtype],
        devices: Sequence[torch.device],
    ) -> None:
        self.spec = spec
        self.structure = Structure(spec)
        self.shapes = tuple(shapes)
        self.dtypes = tuple(dtypes)
        self.devices = tuple(devices)
        self.sizes = tuple(shape.numel() for shape in shapes)
        self.size = sum(self.sizes)
        self.dtype = reduce(torch.promote_types, dtypes, torch.float32)
        self.device = self.devices[0]
        self.uniform = set(self.dtypes) == {self.dtype} and set(self.devices) == {self.device}
        self.flat = self.uniform and self.shapes == ((self.size,),)

    def __repr__(self) -> str:
        return f"Space(size={self.size}, dtype={self.dtype}, device={str(self.device)!r})"

    @classmethod
    def of(cls, tree: Any) -> Space:
        """The space that `tree` is a point of.

        Args:
            tree: Pytree of dense, real, floating point tensors.

        Raises:
            TypeError: A leaf is no such tensor; the message gives its path.
            ValueError: The pytree holds no tensor.
        """
        leaves, spec = tree_flatten(tree)
        if not leaves:
            raise ValueError("expected a pytree with at least one tensor, got an empty one")
        for index, leaf in enumerate(leaves):
            if (problem := _problem(leaf)) is not None:
                path = keystr(tree_flatten_with_path(tree)[0][index][0])
                raise TypeError(
                    f"leaf {path or 'itself'} must be a real floating point tensor, got {problem}"
                )
        return cls.like(spec, leaves)

    @classmethod
    def like(cls, spec: TreeSpec, leaves: Sequence[Tensor]) -> Space:
        """The space of a pytree of this structure with these leaves, which are as `of` wants them."""
        return cls(
            spec,
            [leaf.shape for leaf in leaves],
            [leaf.dtype for leaf in leaves],
            [leaf.device for leaf in leaves],
        )

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each leaf: the keys, indices and attributes on the way to it, with dots between them."""
        numbered = tree_unflatten(list(range(len(self.shapes))), self.spec)
        return tuple(".".join(map(_key, path)) for path, _ in tree_flatten_with_path(numbered)[0])

    def indices(self, names: str | Sequence[str]) -> Tensor:
        """Where leaves lie in a flat vector: integers, ascending.

        Args:
            names: Names of leaves, glob patterns ("layers.*.weight"), or names that stand before a dot (a
                layer); one or several.

        Raises:
            ValueError: A name matches no leaf.

        Example:
            >>> import torch
            >>> space = Space.of({"0.weight": torch.ones(2, 1), "0.bias": torch.ones(2)})
            >>> space.indices("0.bias"), space.indices("0")
            (tensor([2, 3]), tensor([0, 1, 2, 3]))
        """
        chosen = set().union(*(self._matched(n) for n in ([names] if isinstance(names, str) else names)))
        parts = torch.arange(self.size, device=self.device).split_with_sizes(list(self.sizes))
        return torch.cat([part for leaf, part in enumerate(parts) if leaf in chosen])

    def _matched(self, name: str) -> set[int]:
        every = list(enumerate(self.names))
        for matches in (
            lambda n: n == name,
            lambda n: fnmatchcase(n, name),
            lambda n: n.startswith(f"{name}."),
        ):
            if found := {leaf for leaf, n in every if matches(n)}:
                return found
        raise ValueError(
            f"no leaf matches {name!r}; there are {', '.join(n or 'one without a name' for _, n in every)}"
        )

    def flatten(self, tree: Any) -> Tensor:
        """The vector (n,) of a pytree with this space's structure and shapes; always a copy."""
        leaves = self._leaves(tree, block=False)
        return torch.cat([self._converted(leaf).reshape(-1) for leaf in leaves])

    def unflatten(self, vector: Tensor) -> Any:
        """The pytree of a vector (n,): each leaf in its own shape, dtype and device; views where possible."""
        if vector.shape != (self.size,):
            raise ValueError(f"vector must have shape ({self.size},), got {tuple(vector.shape)}")
        if self.flat:
            return self.structure.tree([vector])
        parts = vector.split_with_sizes(self.sizes) if len(self.sizes) > 1 else [vector]
        # Numbers one by one: torch takes as long to read a torch.Size as to make the view.
        return self._tree(
            [
                part.view(*shape) if shape else part.view(())
                for part, shape in zip(parts, self.shapes, strict=True)
            ]
        )

    def flatten_block(self, tree: Any) -> Tensor:
        """The block (n, k) of a pytree whose leaves have a leading k; `.mT` of a contiguous (k, n)."""
        leaves = self._leaves(tree, block=True)
        return torch.cat([self._converted(leaf).flatten(1) for leaf in _at_least_2d(leaves)], dim=1).mT

    def unflatten_block(self, block: Tensor) -> Any:
        """The pytree of a block (n, k): each leaf with a leading k, a view where it can be."""
        if block.dim() != 2 or block.shape[0] != self.size:
            raise ValueError(f"block must have shape ({self.size}, k), got {tuple(block.shape)}")
        if self.flat:
            return self.structure.tree([block.mT])
        count = block.shape[1]
        parts = block.mT.split_with_sizes(self.sizes, dim=1)
        return self._tree(
            [part.view((count, *shape)) for part, shape in zip(parts, self.shapes, strict=True)]
        )

    def kind(self, tree: Any) -> Literal["vector", "block"] | None:
        """Whether `tree` is one vector of this space, a block of k (leading k on each leaf), or neither."""
        leaves = self.structure.leaves(tree)
        return None if leaves is None else self._kind(leaves)

    def _kind(self, leaves: Sequence[Any]) -> Literal["vector", "block"] | None:
        for leaf in leaves:
            if not isinstance(leaf, Tensor):
                return None
        shapes = tuple([leaf.shape for leaf in leaves])
        if shapes == self.shapes:
            return "vector"
        one_count = len({shape[:1] for shape in shapes}) == 1
        return "block" if one_count and tuple(shape[1:] for shape in shapes) == self.shapes else None

    def inner(self, left: Tensor, right: Tensor) -> Tensor:
        """Xᵀ Y of vectors (n,) or blocks (n, k): 0-d, (k,), or (k, l).

        All that an iteration needs to know about where its vectors are stored.
        """
        return (left.mT if left.dim() == 2 else left) @ right

    def random(
        self,
        *,
        generator: torch.Generator | int,
        columns: int | None = None,
        distribution: Literal["normal", "rademacher"] = "normal",
    ) -> Tensor:
        """Independent entries of mean 0 and variance 1.

        Args:
            generator: A torch generator, which advances, or a seed. The same seed gives the same numbers on
                every device that the generator is not tied to.
            columns: k for a block (n, k); None for one vector (n,).
            distribution: "normal", or "rademacher" (±1 with equal odds).

        Returns:
            Tensor (n,) or (n, k) of the space's dtype, on its device.
        """
        if distribution not in ("normal", "rademacher"):
            raise ValueError(f'distribution must be "normal" or "rademacher", got {distribution!r}')
        if isinstance(generator, int):
            generator = torch.Generator().manual_seed(generator)
        shape = (self.size,) if columns is None else (columns, self.size)
        if distribution == "normal":
            numbers = torch.randn(shape, generator=generator, dtype=self.dtype, device=generator.device)
        else:
            coins = torch.randint(2, shape, generator=generator, device=generator.device)
            numbers = coins.to(self.dtype).mul_(2).sub_(1)
        numbers = numbers.to(self.device)
        return numbers if columns is None else numbers.mT

    def _tree(self, parts: Sequence[Tensor]) -> Any:
        if self.uniform:
            return self.structure.tree(parts)
        leaves = [
            part.to(device=device, dtype=dtype)
            for part, device, dtype in zip(parts, self.devices, self.dtypes, strict=True)
        ]
        return self.structure.tree(leaves)

    def _leaves(self, tree: Any, *, block: bool) -> list[Tensor]:
        leaves = self.structure.leaves(tree)
        if leaves is None or self._kind(leaves) != ("block" if block else "vector"):
            self._refuse(tree, block=block)
        return leaves

    def _refuse(self, tree: Any, *, block: bool) -> NoReturn:
        leaves, spec = tree_flatten(tree)
        shapes = [("k", *shape) if block else tuple(shape) for shape in self.shapes]
        got = [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
        raise ValueError(
            f"expected a pytree like {tree_unflatten(shapes, self.spec)}, got {tree_unflatten(got, spec)}"
        )

    def _converted(self, leaf: Tensor) -> Tensor:
        alike = leaf.dtype == self.dtype and leaf.device == self.device
        return leaf if alike else leaf.to(device=self.device, dtype=self.dtype)


def _key(entry: Any) -> str:
    """A step on the way to a leaf: a key, an index, or the name of an attribute."""
    return str(next(getattr(entry, name) for name in ("key", "idx", "name") if hasattr(entry, name)))


def _at_least_2d(leaves: Sequence[Tensor]) -> list[Tensor]:
    """A block of 0-d leaves has shape (k,): give it the axis that `flatten(1)` needs."""
    return [leaf.unsqueeze(1) if leaf.dim() == 1 else leaf for leaf in leaves]


def _problem(leaf: Any) -> str | None:
    if not isinstance(leaf, Tensor):
        return type(leaf).__name__
    if not leaf.dtype.is_floating_point:
        return str(leaf.dtype)
    return None if leaf.layout == torch.strided else str(leaf.layout)
