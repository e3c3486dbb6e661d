"""What one Newton step leaves to the next: directions and their products, as a preconditioner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.krylov.inner import EUCLIDEAN

__all__ = ["NONE", "Block", "LimitedMemory", "Pairs", "Recycling", "Sample"]

Block = Callable[[Tensor], Tensor]


class _Pair(NamedTuple):
    """p and H p as a block (n, 2), and what their products with each other are (2, 2)."""

    number: int
    block: Tensor
    gram: Tensor


class Pairs(NamedTuple):
    """S and Y = H S (n, j) with SᵀY = I, and y (n, 1): H p / √(pᵀH p) for the last direction p."""

    S: Tensor
    Y: Tensor
    y: Tensor


class Sample:
    """Up to k conjugate directions of one run of conjugate gradients or Lanczos, spread evenly over the run.

    What a run multiplies is made conjugate to the direction before: so the vectors of Lanczos become the
    directions of conjugate gradients, which stay as they are. When k are there, each second one gives way to
    later ones, then each second of those left, and so on. No synchronisation with the device.

    Args:
        count: k.

    Source: of the spread, J. L. Morales, J. Nocedal 2000, 10.1137/S1052623497327854.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._stride = 1
        self._kept: list[_Pair] = []
        self._grams: list[Tensor] = []  # of all directions of the run
        self._last: _Pair | None = None

    def add(self, v: Tensor, Hv: Tensor) -> None:
        """The next vector of the run (n, 1), and its product. Both may be overwritten afterwards."""
        # Few calls, since one takes as long as a product of a small function has for all of its own.
        block = torch.cat([v.mT, Hv.mT]).mT
        if (last := self._last) is not None:
            share = EUCLIDEAN(last.block[:, 1:], block[:, :1]) / last.gram[:1, 1:]
            block.addcmul_(last.block, share, value=-1)
        gram = EUCLIDEAN(block, block)
        self._grams.append(gram)
        self._last = _Pair(len(self._grams), block, gram)
        self._keep(self._last)

    def _keep(self, pair: _Pair) -> None:
        if pair.number % self._stride:
            return
        if len(self._kept) == self._count:
            while all(kept.number % self._stride == 0 for kept in self._kept):
                self._stride *= 2
            if pair.number % self._stride:
                return
            leaving = next(i for i, kept in enumerate(self._kept) if kept.number % self._stride)
            del self._kept[leaving]
        self._kept.append(pair)

    def pairs(self) -> Pairs | None:
        """From the directions before the first without positive curvature; S spans them.

        None if there is none. The sample is empty afterwards. Costs two synchronisations.
        """
        kept, grams = self._kept, self._grams
        self._kept, self._grams, self._last = [], [], None
        sound = _convex(grams)
        kept = [pair for pair in kept if pair.number <= sound]
        if not kept:
            return None
        blocks = torch.stack([pair.block.mT for pair in kept])
        P, HP = blocks[:, 0].mT, blocks[:, 1].mT
        kept.clear()  # the copies are enough
        root = torch.linalg.vecdot(P, HP, dim=0).sqrt()
        P, HP = P.div_(root), HP.div_(root)
        # Rounding spoils the conjugacy in long runs, and a preconditioner needs SᵀY = I.
        curvature = (P.mT @ HP).to("cpu", torch.float64)
        values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
        whole = values > torch.finfo(P.dtype).eps ** 0.5 * values[-1]
        mixing = (vectors[:, whole] / values[whole].sqrt()).to(P)
        return Pairs(P @ mixing, HP @ mixing, HP[:, -1:].clone())


class LimitedMemory:
    """P = (I − S Yᵀ) P₀ (I − Y Sᵀ) + c S Sᵀ, Y = H S, SᵀY = I: the BFGS update of P₀ by all columns at once.

    P Y = c S: of P H, j eigenvalues are c, and the others interlace those of P₀ H: the i-th is at least the
    i-th and at most the (i + j)-th of them. P is positive definite if P₀ is. c = yᵀP₀ y lies
    between the eigenvalues of P₀ H.

    Args:
        pairs: S, Y and y.
        base: X ↦ P₀ X; the identity if None.

    Attributes:
        level: c.

    Sources: J. L. Morales, J. Nocedal 2000, 10.1137/S1052623497327854, of c; S. Gratton, A. Sartenaer,
    J. Tshimanga 2011, 10.1137/08074008, of the eigenvalues.
    """

    def __init__(self, pairs: Pairs, base: Block | None) -> None:
        self._S, self._Y, y = pairs
        self._base = base
        self.level = _dot(y, y if base is None else base(y))

    def __call__(self, X: Tensor) -> Tensor:
        """P X of a block (n, k)."""
        inside = self._S.mT @ X
        Z = torch.addmm(X, self._Y, inside, alpha=-1)
        if self._base is not None:
            Z = self._base(Z)
        return torch.addmm(Z, self._S, torch.addmm(self.level * inside, self._Y.mT, Z, alpha=-1))


class Recycling:
    """From the products of a step to a preconditioner for the next.

    Args:
        count: Directions that are kept, each with its product; 0 for none: then nothing is changed.

    Attributes:
        num_vectors: That are stored at most.
    """

    def __init__(self, count: int = 0) -> None:
        self._count = count
        # Those in use, and those of the run that goes on.
        self.num_vectors = 4 * count
        self._sample: Sample | None = None
        self._pairs: Pairs | None = None

    def watched(self, hvp: Block) -> Block:
        """The same products, of a run that begins here, with an eye kept on them."""
        if not self._count:
            return hvp
        sample = self._sample = Sample(self._count)

        def seen(V: Tensor) -> Tensor:
            product = hvp(V)
            sample.add(V, product)
            return product

        return seen

    def preconditioner(self, base: Block | None, gradient: Tensor) -> Block | None:
        """P for the point with this gradient, from the last run; `base` where there is nothing to add to it.

        Also where P proves useless at the gradient g by gᵀP g ≤ 0 or NaN, as rounding may make it.
        """
        if self._sample is not None:
            # One after the other, so that no more than four vectors are stored for each direction.
            self._pairs = None
            self._pairs, self._sample = self._sample.pairs(), None
        if self._pairs is None:
            return base
        P = LimitedMemory(self._pairs, base)
        return P if bool(_dot(gradient, P(gradient)) > 0) and bool(P.level > 0) else base


NONE = Recycling()


def _convex(grams: Sequence[Tensor]) -> int:
    """How many directions p come before the first without positive curvature. One synchronisation.

    Curvature that is very small beside ‖H p‖ counts as none: it would make a preconditioner that rounding
    spoils.
    """
    if not grams:
        return 0
    squares = torch.stack(tuple(grams)).to("cpu", torch.float64)
    least = torch.finfo(grams[0].dtype).eps ** 0.75
    curvature = squares[:, 0, 1]
    positive = curvature > least * squares[:, 0, 0].sqrt() * squares[:, 1, 1].sqrt()
    return int(positive.cumprod(0).sum())


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """xᵀy (1,) of blocks (n, 1)."""
    product: Tensor = torch.linalg.vecdot(x, y, dim=0)
    return product
