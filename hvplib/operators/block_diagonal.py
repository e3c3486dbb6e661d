"""Block diagonal operators: of given blocks, or of the parameters or layers of another operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hvplib.operators.base import Operator
from hvplib.operators.basic import Matrix
from hvplib.operators.kronecker import Kronecker
from hvplib.operators.low_rank_plus_diagonal import LowRankPlusDiagonal
from hvplib.operators.parts import DenseInverse, Factor, check_alike, square, symmetrized
from hvplib.space import Space

__all__ = ["BlockDiagonal"]


class BlockDiagonal(Operator):
    """x ↦ y with y[i_b] = A_b x[i_b] for each block b.

    Args:
        blocks: A_b, square operators or matrices of one dtype.
        indices: i_b for each block: vectors of integers that together hold each of 0, ..., n − 1 once. One
            block after the other if None.
        domain: Space of the vectors, if pytrees are to be taken too.

    Attributes:
        blocks, indices: As given, as operators and tensors.

    Example:
        >>> import torch
        >>> A = BlockDiagonal([torch.tensor([[2.0, 1.0], [1.0, 2.0]]), torch.tensor([[4.0]])])
        >>> A @ torch.ones(3)
        tensor([3., 3., 4.])
        >>> A.inverse(damping=1.0) @ torch.tensor([4.0, 4.0, 5.0])
        tensor([1.0000, 1.0000, 1.0000])
    """

    def __init__(
        self,
        blocks: Sequence[Factor],
        indices: Sequence[Tensor] | None = None,
        *,
        domain: Space | None = None,
    ) -> None:
        if not blocks:
            raise ValueError("blocks must hold at least one square operator or matrix")
        self.blocks = [square(f"blocks[{b}]", block) for b, block in enumerate(blocks)]
        first = self.blocks[0]
        sizes = [block.shape[0] for block in self.blocks]
        size = sum(sizes)
        every = torch.arange(size, device=first.device)
        self.indices = (
            list(every.split_with_sizes(sizes)) if indices is None else _indices(indices, sizes, every)
        )
        check_alike(self.blocks)
        super().__init__(
            (size, size),
            first.torch_dtype,
            first.device,
            symmetric=all(block.symmetric for block in self.blocks),
            positive_semidefinite=all(block.positive_semidefinite for block in self.blocks),
            domain=domain,
        )
        self._whole: Operator | None = None

    @classmethod
    def of(
        cls, operator: Operator, by: Literal["parameter", "layer"] | Sequence[Any] = "parameter"
    ) -> BlockDiagonal:
        """The blocks of a square operator on its diagonal, one for each parameter or layer.

        A product costs one of A for each block, made together. `materialized` turns the blocks into matrices.

        Args:
            operator: A, on pytrees.
            by: "parameter", a block for each leaf; "layer", one for the leaves whose names agree up to the
                last dot; or a list, one entry a block: what `Space.indices` takes, or a vector of indices.

        Example:
            >>> import torch
            >>> from hvplib import HessianOperator
            >>> H = HessianOperator(lambda a, b: (a.sum() * b).sum() ** 2, (torch.ones(2), torch.ones(1)))
            >>> BlockDiagonal.of(H).to_dense()
            tensor([[2., 2., 0.],
                    [2., 2., 0.],
                    [0., 0., 8.]])
        """
        indices = _groups(operator, by)
        made = cls([operator.submatrix(i, i) for i in indices], indices, domain=operator.domain)
        made._whole = operator
        return made

    def materialized(self) -> BlockDiagonal:
        """The same with each block as a matrix, by n products."""
        dense = [
            Matrix(
                symmetrized(block),
                symmetric=block.symmetric,
                positive_semidefinite=block.positive_semidefinite,
            )
            for block in self.blocks
        ]
        return BlockDiagonal(dense, self.indices, domain=self.domain)

    def inverse(self, damping: float = 0.0) -> BlockDiagonal:
        """(A + δ I)⁻¹, block by block: a preconditioner for `solve`.

        By the inverse of a block in closed form where it has one, otherwise by the Cholesky factor of the
        block as a matrix, which costs as many products as it has rows.

        Args:
            damping: δ.

        Raises:
            ValueError: A block is not symmetric, or A + δ I not positive definite.
        """
        made = [_inverted(block, damping, f"block {b}") for b, block in enumerate(self.blocks)]
        return BlockDiagonal(made, self.indices, domain=self.domain)

    def _matmat_torch(self, X: Tensor) -> Tensor:
        if self._whole is not None:
            return self._by_whole(self._whole, X)
        return self._by_blocks(X, Operator._product)

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        if self._whole is not None:
            return self._by_whole(self._whole.T, X)
        return self._by_blocks(X, Operator._rproduct)

    def _by_blocks(self, X: Tensor, product: Any) -> Tensor:
        result = torch.empty_like(X.mT).mT
        for block, i in zip(self.blocks, self.indices, strict=True):
            result[i] = product(block, X[i])
        return result

    def _by_whole(self, A: Operator, X: Tensor) -> Tensor:
        """All blocks in one product of A with the parts of X apart."""
        count = X.shape[1]
        apart = X.new_zeros(count * len(self.indices), X.shape[0]).mT
        for b, i in enumerate(self.indices):
            apart[i, b * count : (b + 1) * count] = X[i]
        products = A._product(apart)
        result = torch.empty_like(X.mT).mT
        for b, i in enumerate(self.indices):
            result[i] = products[i, b * count : (b + 1) * count]
        return result


def _inverted(block: Operator, damping: float, name: str) -> Operator:
    own = getattr(block, "inverse", None)
    if callable(own) and isinstance(block, BlockDiagonal | Kronecker | LowRankPlusDiagonal):
        made: Operator = own(damping)
        return made
    if not block.symmetric:
        raise ValueError(f"{name} must be declared symmetric to be inverted")
    return DenseInverse(block.to_dense(), damping, name=name)


def _indices(given: Sequence[Tensor], sizes: Sequence[int], every: Tensor) -> list[Tensor]:
    indices = [torch.as_tensor(i, device=every.device) for i in given]
    if [i.numel() for i in indices] != list(sizes):
        raise ValueError(
            f"indices must have one entry for each row of each block, {list(sizes)}, got "
            f"{[i.numel() for i in indices]}"
        )
    if not torch.equal(torch.cat(indices).sort().values, every):
        raise ValueError(f"indices must hold each of 0, ..., {every.numel() - 1} exactly once")
    return indices


def _groups(operator: Operator, by: Any) -> list[Tensor]:
    space = operator.domain
    if isinstance(by, str):
        if space is None:
            raise TypeError(
                f"{operator!r} acts on flat vectors and knows no parameters; pass lists of indices"
            )
        if by not in ("parameter", "layer"):
            raise ValueError(f'by must be "parameter", "layer" or a list with one entry a block, got {by!r}')
        names = space.names
        keys = names if by == "parameter" else [name.rpartition(".")[0] for name in names]
        return [
            space.indices([n for n, k in zip(names, keys, strict=True) if k == key])
            for key in dict.fromkeys(keys)
        ]
    groups = [entry if isinstance(entry, Tensor) else _named(operator, entry) for entry in by]
    return [group.to(operator.device) for group in groups]


def _named(operator: Operator, entry: Any) -> Tensor:
    if operator.domain is None:
        raise TypeError(f"{operator!r} acts on flat vectors and knows no names; pass tensors of indices")
    return operator.domain.indices(entry)
