"""Spectra that make eigenproblems hard, and ways from a spectrum to a matrix with cheap products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

F64 = torch.float64

Spectrum = Callable[[Generator, int], Tensor]
Product = Callable[[Tensor], Tensor]
# X -> A X in the dtype of the question; A in float64, or None where it is large; its eigenvalues, ascending.
Made = tuple[Product, Tensor | None, Tensor]

# ------------------------------------------------------------------------------------------- random numbers


def integer(rng: Generator, low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (), generator=rng))


def normal(rng: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, dtype=F64)


def uniform(rng: Generator, n: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng, dtype=F64)


# ------------------------------------------------------------------ from a spectrum to a matrix with products


def rotated(rng: Generator, spectrum: Tensor, dtype: torch.dtype) -> Made:
    """Q diag(λ) Qᵀ for a random orthogonal Q, formed, rounded to the dtype, and diagonalised as it is."""
    n = len(spectrum)
    Q = torch.linalg.qr(normal(rng, n, n)).Q
    return explicit((Q * spectrum) @ Q.mT, dtype)


def explicit(A: Tensor, dtype: torch.dtype) -> Made:
    """A formed matrix; its eigenvalues are those of what the dtype holds of it."""
    rounded = ((A + A.mT) / 2).to(dtype)
    matrix = rounded.to(F64)
    return rounded.__matmul__, matrix, _eigenvalues(matrix)


def _eigenvalues(matrix: Tensor) -> Tensor:
    # Scaled first: LAPACK squares entries, and 1e-200 squared is zero.
    scale = float(matrix.abs().max()) or 1.0
    return scale * torch.linalg.eigvalsh(matrix / scale)


def reflected(rng: Generator, spectrum: Tensor, dtype: torch.dtype) -> Made:
    """Q diag(λ) Qᵀ for Q a product of three Householder reflections: products in O(n), spectrum known."""
    spectrum = spectrum[torch.randperm(len(spectrum), generator=rng)]
    U = torch.nn.functional.normalize(normal(rng, 3, len(spectrum)), dim=1).to(dtype)
    diagonal = spectrum.to(dtype).unsqueeze(1)

    def reflect(X: Tensor, order: Sequence[int]) -> Tensor:
        for i in order:
            X = X - 2 * torch.outer(U[i], U[i] @ X)
        return X

    def product(X: Tensor) -> Tensor:
        return reflect(diagonal * reflect(X, (0, 1, 2)), (2, 1, 0))

    return product, None, spectrum.sort().values


def diagonal(rng: Generator, spectrum: Tensor, dtype: torch.dtype) -> Made:
    """diag(λ): the eigenvectors are unit vectors, and a product makes no rounding errors between entries."""
    return explicit(torch.diag(spectrum[torch.randperm(len(spectrum), generator=rng)]), dtype)


def two_blocks(rng: Generator, spectrum: Tensor, dtype: torch.dtype) -> Made:
    """Two blocks that know nothing of each other: the first n // 2 coordinates, and the rest."""
    spectrum = spectrum[torch.randperm(len(spectrum), generator=rng)]
    half = len(spectrum) // 2
    parts = []
    for part in (spectrum[:half], spectrum[half:]):
        Q = torch.linalg.qr(normal(rng, len(part), len(part))).Q
        parts.append((Q * part) @ Q.mT)
    return explicit(torch.block_diag(*parts), dtype)


def laplacian(rng: Generator, spectrum: Tensor, dtype: torch.dtype) -> Made:
    """The tridiagonal (-1, 2, -1) of the size of the spectrum, which it does not use."""
    return explicit(second_differences(len(spectrum)), dtype)


def grid_laplacian(rng: Generator, spectrum: Tensor, dtype: torch.dtype) -> Made:
    """The five-point Laplacian of a square grid: λ_i + λ_j, so all but the diagonal ones are double."""
    side = math.isqrt(len(spectrum))
    T, eye = second_differences(side), torch.eye(side, dtype=F64)
    return explicit(torch.kron(T, eye) + torch.kron(eye, T), dtype)


def second_differences(n: int) -> Tensor:
    off = torch.ones(n - 1, dtype=F64)
    return 2 * torch.eye(n, dtype=F64) - torch.diag(off, 1) - torch.diag(off, -1)


# ------------------------------------------------------------------------------------------------- spectra


def indefinite(rng: Generator, n: int) -> Tensor:
    return uniform(rng, n, -1, 1)


def positive(rng: Generator, n: int) -> Tensor:
    return uniform(rng, n, 0.1, 10)


def cluster(rng: Generator, n: int) -> Tensor:
    """Up to eight eigenvalues within 1e-6 of the largest."""
    return torch.cat([1 - 1e-6 * uniform(rng, min(n, integer(rng, 2, 8))), indefinite(rng, n) / 2])[:n]


def tight_cluster(rng: Generator, n: int) -> Tensor:
    """Up to eight eigenvalues that differ by less than a solver's tolerance, down to rounding."""
    width = 10.0 ** -integer(rng, 8, 15)
    return torch.cat([1 - width * uniform(rng, min(n, integer(rng, 2, 8))), indefinite(rng, n) / 2])[:n]


def repeated(rng: Generator, n: int) -> Tensor:
    """The largest, exactly two to ten times."""
    return torch.cat([torch.ones(min(n, integer(rng, 2, 10)), dtype=F64), indefinite(rng, n) / 2])[:n]


def zeros_30(rng: Generator, n: int) -> Tensor:
    """The smallest is zero, exactly 30 times."""
    return torch.cat([torch.zeros(30, dtype=F64), positive(rng, n - 30)])


def ladder(rng: Generator, n: int) -> Tensor:
    """100, 99, 50, and the rest from 1 down to 0."""
    return torch.cat([torch.tensor([100.0, 99.0, 50.0], dtype=F64), torch.linspace(1, 0, n - 3, dtype=F64)])


def low_rank(rng: Generator, n: int) -> Tensor:
    """Of rank one to six, of either sign."""
    rank = integer(rng, 1, min(6, n))
    return torch.cat([normal(rng, rank), torch.zeros(n - rank, dtype=F64)])


def plus_minus(rng: Generator, n: int) -> Tensor:
    """σ and -σ in pairs: the largest magnitudes are ties."""
    half = uniform(rng, (n + 1) // 2, 0.1, 1)
    return torch.cat([half, -half])[:n]


def geometric(rng: Generator, n: int) -> Tensor:
    """From 1 down over 16 orders of magnitude."""
    return 10.0 ** torch.linspace(0, -16, n, dtype=F64)


def signed_geometric(rng: Generator, n: int) -> Tensor:
    return geometric(rng, n) * (2 * torch.randint(2, (n,), generator=rng) - 1)


def wigner(rng: Generator, n: int) -> Tensor:
    G = normal(rng, n, n) / math.sqrt(2 * n)
    return torch.linalg.eigvalsh(G + G.mT)


def hessian_like(rng: Generator, n: int) -> Tensor:
    """Outliers far above a Marchenko–Pastur bulk, with a small negative tail: what Hessians look like."""
    outliers = min(n // 4, integer(rng, 2, 12))
    J = normal(rng, n - outliers, max(1, n // 2)) / math.sqrt(n)
    bulk = torch.linalg.eigvalsh(J @ J.mT) - 0.05 * uniform(rng, n - outliers)
    return torch.cat([bulk, 10.0 ** uniform(rng, outliers, 0.6, 2)])


def spike(rng: Generator, n: int) -> Tensor:
    """The identity plus a rank-one matrix: two eigenvalues, one of them n - 1 times."""
    return torch.cat([torch.ones(n - 1, dtype=F64), 1 + uniform(rng, 1, 0.5, 5)])


def two_values(rng: Generator, n: int) -> Tensor:
    """A projection, shifted: half the eigenvalues are 1, half are 2."""
    return torch.cat([torch.ones(n // 2, dtype=F64), torch.full((n - n // 2,), 2.0, dtype=F64)])


def steps(rng: Generator, n: int) -> Tensor:
    """Every eigenvalue an integer, each several times."""
    return torch.randint(-5, 6, (n,), generator=rng).to(F64)


def identity(rng: Generator, n: int) -> Tensor:
    return torch.ones(n, dtype=F64) * (1 + uniform(rng, 1))


def small_integers(rng: Generator, n: int) -> Tensor:
    """-1, 0 and 1, or up to ±2: ties in value and in magnitude."""
    most = integer(rng, 1, 2)
    return torch.randint(-most, most + 1, (n,), generator=rng).to(F64)


def down_to_nothing(rng: Generator, n: int) -> Tensor:
    """One normal number, and 1e-3, 1e-6, ... beside it: their tolerances have nothing to do with its own."""
    return torch.cat([normal(rng, 1), 10.0 ** (-3.0 * torch.arange(1, n, dtype=F64))])


def zero(rng: Generator, n: int) -> Tensor:
    return torch.zeros(n, dtype=F64)


def any_of(*spectra: Spectrum) -> Spectrum:
    def drawn(rng: Generator, n: int) -> Tensor:
        return spectra[integer(rng, 0, len(spectra) - 1)](rng, n)

    return drawn


def negated(spectrum: Spectrum) -> Spectrum:
    return lambda rng, n: -spectrum(rng, n)


# -------------------------------------------------------------------------------------------- start vectors


def in_first_block(rng: Generator, n: int) -> Tensor:
    """A vector that is blind to the second of two blocks."""
    return torch.cat([normal(rng, n // 2), torch.zeros(n - n // 2, dtype=F64)])


def several(rng: Generator, n: int) -> Tensor:
    """One to six columns, of which some may be equal, or zero, or more than there are dimensions."""
    columns = torch.randint(-1, 2, (n, integer(rng, 1, 6)), generator=rng).to(F64)
    columns[0, 0] = 1.0
    columns[:, -1] = columns[:, 0]
    return columns


def unit_vector(rng: Generator, n: int) -> Tensor:
    """An eigenvector of a diagonal matrix: its Krylov space ends after one product."""
    return torch.nn.functional.one_hot(torch.tensor(integer(rng, 0, n - 1)), n).to(F64)
