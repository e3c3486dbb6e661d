"""A Ω = Q B: an orthonormal basis of what random vectors have been made by A, that grows with them."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.estimate.probes import Probes
from hvplib.estimate.products import Products, lengths
from hvplib.krylov.inner import EUCLIDEAN
from hvplib.krylov.orthogonal import orthonormalize

__all__ = ["Range", "RangeSketch"]

# Products are right to so many eps of the longest: what is shorter beside the basis is rounding.
_ROUNDING = 8.0


class Range:
    """Ω and Y = A Ω (n, k), and Y = Q B with orthonormal Q (n, r).

    Args:
        products: X ↦ A X.
        probes: Draws Ω.
        transpose: Whether Z is AᵀQ instead of A Q.

    Attributes:
        Omega, Y, Q: See above.
        Z: A Q (n, r).
        B: (r, k), float64, on the CPU.
        exhausted: Whether r < k: A has no more directions than Q, up to rounding.
        tiny: The length below which a direction counts as rounding.
    """

    def __init__(self, products: Products, probes: Probes, *, transpose: bool = False) -> None:
        self._products, self._probes, self._transpose = products, probes, transpose
        operator = products.operator
        empty = torch.zeros(0, operator.shape[0], dtype=operator.torch_dtype, device=operator.device).mT
        self.Omega = self.Y = self.Q = self.Z = empty
        self.B = torch.zeros(0, 0, dtype=torch.float64)
        self.exhausted = False
        self.tiny = 0.0

    @property
    def size(self) -> int:
        """k."""
        return self.Omega.shape[1]

    @property
    def rest(self) -> float:
        """What may be left of a trace or of the norm of a diagonal beside Q, where the range is exhausted."""
        return self.tiny * self.Omega.shape[0] ** 0.5 if self.exhausted else 0.0

    def grow(self, columns: int) -> None:
        """Take in so many more random vectors; at most two products for each."""
        Omega = self._probes.block(columns)
        Y = self._products.of_random(Omega, "sketch")
        self.tiny = max([self.tiny, *(_ROUNDING * torch.finfo(Y.dtype).eps * y for y in lengths(Y))])
        W, C = Y.clone(), torch.zeros(self.Q.shape[1], columns, dtype=torch.float64)
        for _ in range(2):  # twice is enough
            part = self.Q.mT @ W
            W = W - self.Q @ part
            C += part.cpu().double()
        fresh = orthonormalize(W, EUCLIDEAN, self.tiny)
        if fresh.Q.shape[1]:
            multiply = self._products.transposed if self._transpose else self._products
            self.Z = _beside(self.Z, multiply(fresh.Q, "projection"))
        had, more = self.Q.shape[1], fresh.Q.shape[1]
        B = torch.zeros(had + more, self.B.shape[1] + columns, dtype=torch.float64)
        B[:had, : self.B.shape[1]] = self.B
        B[:had, self.B.shape[1] :] = C
        B[had:, self.B.shape[1] :] = fresh.B
        self.B = B
        self.Omega, self.Y, self.Q = _beside(self.Omega, Omega), _beside(self.Y, Y), _beside(self.Q, fresh.Q)
        self.exhausted = self.Q.shape[1] < self.Omega.shape[1]


class RangeSketch:
    """A `Sketch` (see `exchangeable`) that is made of a range.

    Args:
        range_: Empty yet.
    """

    def __init__(self, range_: Range) -> None:
        self._range = range_

    @property
    def exhausted(self) -> bool:
        """Whether more vectors would tell nothing."""
        return self._range.exhausted

    @property
    def rest(self) -> float:
        """What may be left of the trace, or of the norm of the diagonal, where the range is exhausted."""
        return self._range.rest

    def grow(self, columns: int) -> None:
        """Take in so many more vectors."""
        self._range.grow(columns)


def _beside(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left.mT, right.mT]).mT
