"""Lanczos factorisations of one operator from many starting vectors at once, each by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hvplib.krylov.basis import Basis
from hvplib.krylov.columns import column_norms, power_of_two
from hvplib.krylov.inner import EUCLIDEAN, Inner
from hvplib.krylov.lanczos_process import Block, LanczosProcess
from hvplib.krylov.orthogonal import project_out

__all__ = ["LanczosColumns", "Recurrence"]

# A new vector shorter than this many roundings of the longest product carries no digit.
_ROUNDINGS = 10.0
# The squares of numbers no further from 1 than this are far from the ends of float32.
_ORDINARY = 2.0**20


@dataclass
class Recurrence:
    """T of one column: A Q = Q T + β_{m+1} q_{m+1} e_mᵀ, q_1 = b / ‖b‖.

    Attributes:
        norm: ‖b‖.
        alphas: The diagonal of T, α_1 ... α_m.
        betas: β_2 ... β_{m+1}: what stands beside the diagonal, and the coupling to the next vector.
        size: The largest entry of these: ‖A‖ from below, up to a factor of three.
        exhausted: Q spans an invariant subspace, or b is zero: T is all there is, and β_{m+1} = 0.
        finite: No product and no start has shown NaN or infinity.
    """

    norm: float
    alphas: list[float] = field(default_factory=list)
    betas: list[float] = field(default_factory=list)
    size: float = 0.0
    exhausted: bool = False
    finite: bool = True

    @property
    def steps(self) -> int:
        """m."""
        return len(self.alphas)

    @property
    def coupling(self) -> float:
        """β_{m+1}, zero where there is no next vector."""
        return 0.0 if self.exhausted or not self.betas else self.betas[-1]

    def tridiagonal(self, steps: int | None = None) -> Tensor:
        """T (m, m), or its leading block of that many steps; float64, on the CPU."""
        m = self.steps if steps is None else steps
        diagonal, beside = (
            torch.tensor(numbers, dtype=torch.float64)
            for numbers in (self.alphas[:m], self.betas[: max(m - 1, 0)])
        )
        T = torch.diag(diagonal)
        return T + torch.diag(beside, 1) + torch.diag(beside, -1) if m > 1 else T


class LanczosColumns:
    """A Q_j = Q_j T_j + β q e_mᵀ for the columns b_j of a block, one product of blocks a step.

    Each column has a Krylov space of its own; they share nothing but the products. `advance` and `multiply`
    take turns. A column ends where its space is exhausted or a product is not finite: it takes part in no
    further product.

    With `keep` the basis is kept and each new vector made orthogonal to all before, twice: T is that of a
    matrix which differs from A by rounding, and an eigenvalue appears as often as it should. Without,
    three vectors are kept for each column; orthogonality is lost where Ritz values converge, and copies of
    them appear. In rules of quadrature the weights of the copies sum to the weight of the eigenvalue, as T is
    that of a larger matrix whose eigenvalues lie close to those of A (Greenbaum 1989).

    Args:
        matmat: X ↦ A X of blocks (n, j); must not keep X, whose place is used again.
        B: The starting vectors (n, k), float32 or float64.
        keep: How many vectors of each column's basis to keep, at most; 0 keeps none. A step that would need
            more room raises.
        size: The dimension of the whole space: n, or what the n's of all processes add up to.
        inner: Sums over the rows.

    Attributes:
        columns: A `Recurrence` for each column.
        open: The columns that go on.
        num_matvecs: Products made.

    References:
        A. Greenbaum (1989), Behavior of slightly perturbed Lanczos and conjugate-gradient recurrences,
        doi:10.1016/0024-3795(89)90285-1.

    Example:
        >>> import torch
        >>> A = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
        >>> lanczos = LanczosColumns(A.matmul, torch.ones(3, 1, dtype=torch.float64), keep=3, size=3)
        >>> while lanczos.open:
        ...     lanczos.step()
        >>> torch.linalg.eigvalsh(lanczos.columns[0].tridiagonal())
        tensor([1.0000, 2.0000, 4.0000], dtype=torch.float64)
    """

    def __init__(self, matmat: Block, B: Tensor, *, keep: int, size: int, inner: Inner = EUCLIDEAN) -> None:
        norms = column_norms(inner, B)
        self.columns = [Recurrence(norm, exhausted=norm == 0, finite=math.isfinite(norm)) for norm in norms]
        self.open = [j for j, column in enumerate(self.columns) if column.finite and not column.exhausted]
        self.num_matvecs = 0
        self._inner, self._size, self._eps = inner, size, torch.finfo(B.dtype).eps
        powers = [power_of_two(norm, B.dtype) for norm in norms]
        self._scales = [1.0 for _ in norms]  # of A, as the process sees it
        self._betas = [norm * power for norm, power in zip(norms, powers, strict=True)]
        self._bases = [Basis(min(keep, size), B[:, :1]) for _ in norms] if keep else []
        start = B * torch.tensor(powers, dtype=B.dtype, device=B.device)
        start = start.mT.contiguous().mT
        self._process = LanczosProcess(matmat, start, shift=0.0, precondition=None, inner=inner)
        if len(self.open) < len(self.columns):
            self._process = self._process.take(torch.tensor(self.open, dtype=torch.long))

    @property
    def vectors(self) -> Tensor:
        """q_m (n, j) of the open columns, as `advance` left them."""
        return self._process.v

    def step(self) -> None:
        """Advance and multiply."""
        self.advance()
        self.multiply()

    def advance(self) -> None:
        """Take in the next vector of each open column, and drop the columns that have ended."""
        self._process.normalise(torch.tensor([self._betas[j] for j in self.open], dtype=torch.float64))
        for i, j in enumerate(self.open):
            if self._bases:
                self._bases[j].put(self.columns[j].steps, self._process.v[:, i : i + 1])

    def multiply(self) -> None:
        """One product with the vectors: one more row of each T."""
        alpha = self._process.expand()
        self.num_matvecs += len(self.open)
        if not self.columns[self.open[0]].steps:
            alpha = self._rescaled(alpha)
        if self._bases:
            alpha = alpha + self._orthogonalised()
        sums = torch.stack([alpha, self._process.beta_squared()]).to("cpu", torch.float64)
        for j, a, b in zip(self.open, *sums.tolist(), strict=True):
            self._append(j, a, b)
        self.close([j for j in self.open if self.columns[j].exhausted or not self.columns[j].finite])

    def close(self, columns: Sequence[int]) -> None:
        """Go on without these of the open columns; after `multiply`."""
        if columns:
            left = [i for i, j in enumerate(self.open) if j not in columns]
            self._process = self._process.take(torch.tensor(left, dtype=torch.long))
            self.open = [self.open[i] for i in left]

    def combine(self, column: int, coordinates: Tensor) -> Tensor:
        """Q_j C (n, c) for C (m, c), where the basis is kept."""
        return self._bases[column].combine(coordinates)

    def _rescaled(self, alpha: Tensor) -> Tensor:
        """The squares of an A far from 1 in size would leave the range of the numbers: see it scaled."""
        norms = zip(column_norms(self._inner, self._process.y), alpha.tolist(), strict=True)
        powers = [power_of_two(max(norm, abs(a)), alpha.dtype) for norm, a in norms]
        if all(1 / _ORDINARY < power < _ORDINARY for power in powers):
            return alpha
        for j, power in zip(self.open, powers, strict=True):
            self._scales[j] = power
        scale = torch.tensor(powers, dtype=alpha.dtype, device=alpha.device)
        self._process.rescale(scale)
        return alpha * scale

    def _orthogonalised(self) -> Tensor:
        """Make the new vectors orthogonal to all before; what that adds to α (j,)."""
        corrections = []
        for i, j in enumerate(self.open):
            y, count = self._process.y[:, i : i + 1], self.columns[j].steps + 1
            corrections.append(project_out(y, self._bases[j], count, self._inner)[-1, 0])
        return torch.stack(corrections)

    def _append(self, j: int, alpha: float, beta_squared: float) -> None:
        column, scale = self.columns[j], self._scales[j]
        if not (math.isfinite(alpha) and math.isfinite(beta_squared)):
            column.finite = False
            return
        beta = self._betas[j] = math.sqrt(max(beta_squared, 0.0))
        column.alphas.append(alpha / scale)
        column.betas.append(beta / scale)
        column.size = max(column.size, abs(alpha) / scale, beta / scale)
        whole = bool(self._bases) and column.steps >= self._size
        column.exhausted = whole or beta <= _ROUNDINGS * self._eps * column.size * scale
