"""What one Newton step leaves to the next: directions and their products, as a preconditioner."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.krylov.quadratic_model import QuadraticSpace

__all__ = ["NONE", "Block", "LimitedMemory", "Pairs", "Recycling", "Sample", "paired"]

Block = Callable[[Tensor], Tensor]
# S and H S (n, j), or None where there are none; asked for once, after the run that made them.
Directions = Callable[[], "tuple[Tensor, Tensor] | None"]


class Pairs(NamedTuple):
    """S and Y = H S (n, j) with SᵀY = I, and y (n, 1): H p / √(pᵀH p) for the last direction p."""

    S: Tensor
    Y: Tensor
    y: Tensor


class Sample:
    """Up to k directions of one run of conjugate gradients, spread evenly over the run.

    When k are there, each second one gives way to later ones, then each second of those left, and so on. No
    synchronisation with the device.

    Args:
        count: k.

    Source: of the spread, J. L. Morales, J. Nocedal 2000, 10.1137/S1052623497327854.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._stride = 1
        self._seen = 0
        self._kept: list[tuple[int, Tensor]] = []  # number, and p and H p as the rows of (2, n)

    def add(self, p: Tensor, Hp: Tensor) -> None:
        """The next direction of the run (n, 1), and its product. Both may be overwritten afterwards."""
        self._seen += 1
        if self._seen % self._stride:
            return
        if len(self._kept) == self._count:
            while all(number % self._stride == 0 for number, _ in self._kept):
                self._stride *= 2
            if self._seen % self._stride:
                return
            leaving = next(i for i, (number, _) in enumerate(self._kept) if number % self._stride)
            del self._kept[leaving]
        self._kept.append((self._seen, torch.cat([p.mT, Hp.mT])))

    def conjugate_directions(self) -> tuple[Tensor, Tensor] | None:
        """S and H S (n, j), each sᵀH s = 1: from those before the first without positive curvature.

        Curvature that is very small beside ‖p‖ ‖H p‖ counts as none: it would make a preconditioner that
        rounding spoils. None if there is no such direction. The sample is empty afterwards.
        """
        if not self._kept:
            return None
        blocks = torch.stack([block for _, block in self._kept])
        self._kept.clear()  # the copies are enough
        P, HP = blocks[:, 0].mT, blocks[:, 1].mT
        curvature = torch.linalg.vecdot(P, HP, dim=0)
        least = torch.finfo(P.dtype).eps ** 0.75
        norms = torch.linalg.vector_norm(P, dim=0) * torch.linalg.vector_norm(HP, dim=0)
        sound = int((curvature > least * norms).cumprod(0).sum())
        root = curvature[:sound].sqrt()
        return (P[:, :sound].div_(root), HP[:, :sound].div_(root)) if sound else None


def paired(S: Tensor, Y: Tensor) -> Pairs:
    """S and Y = H S (n, j) made such that SᵀY = I, where rounding has spoilt it."""
    curvature = (S.mT @ Y).to("cpu", torch.float64)
    y = Y[:, -1:].clone()
    tolerance = torch.finfo(S.dtype).eps ** 0.75
    if bool((curvature - torch.eye(len(curvature), dtype=torch.float64)).abs().max() <= tolerance):
        return Pairs(S, Y, y)
    values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
    whole = values > torch.finfo(S.dtype).eps ** 0.5 * values[-1]
    mixing = (vectors[:, whole] / values[whole].sqrt()).to(S)
    return Pairs(S @ mixing, Y @ mixing, y)


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
        self._run: Directions | None = None
        self._pairs: Pairs | None = None

    def watched(self, hvp: Block) -> Block:
        """The same products, of conjugate gradients that begin here, with an eye kept on them."""
        if not self._count:
            return hvp
        sample = Sample(self._count)
        self._run = sample.conjugate_directions

        def seen(V: Tensor) -> Tensor:
            product = hvp(V)
            sample.add(V, product)
            return product

        return seen

    def take(self, space: QuadraticSpace) -> None:
        """Learn from a space that is left: Lanczos keeps its vectors, and need not be watched."""
        if self._count:
            directions = space.conjugate_directions(self._count)
            self._run = lambda: directions

    def preconditioner(self, base: Block | None, gradient: Tensor) -> Block | None:
        """P for the point with this gradient, from the last run; `base` where there is nothing to add to it.

        Also where P proves useless at the gradient g by gᵀP g ≤ 0 or NaN, as rounding may make it.
        """
        if self._run is not None:
            # One after the other, so that no more than four vectors are stored for each direction.
            self._pairs = None
            directions, self._run = self._run(), None
            self._pairs = None if directions is None else paired(*directions)
        if self._pairs is None:
            return base
        P = LimitedMemory(self._pairs, base)
        return P if bool(_dot(gradient, P(gradient)) > 0) and bool(P.level > 0) else base


NONE = Recycling()


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """xᵀy (1,) of blocks (n, 1)."""
    product: Tensor = torch.linalg.vecdot(x, y, dim=0)
    return product
