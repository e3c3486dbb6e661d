"""Symmetric matrices with prescribed spectra: a seeded family for everything that makes eigenproblems hard.

A `Family` draws an `Instance`: a matrix known by its products and by all its eigenvalues, and the question
that is put to a solver. The eigenvalues come from dense algebra on the matrix itself, or, where the matrix is
large, from the prescription: its eigenvectors are a product of Householder reflections, so that products are
cheap and nothing has to be diagonalised.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from tests.eigen.spectra import (
    F64,
    Made,
    Product,
    Spectrum,
    any_of,
    cluster,
    diagonal,
    down_to_nothing,
    geometric,
    grid_laplacian,
    hessian_like,
    identity,
    in_first_block,
    indefinite,
    integer,
    ladder,
    laplacian,
    low_rank,
    negated,
    plus_minus,
    positive,
    reflected,
    repeated,
    rotated,
    several,
    signed_geometric,
    small_integers,
    spike,
    steps,
    tight_cluster,
    two_blocks,
    two_values,
    unit_vector,
    wigner,
    zero,
    zeros_30,
)

__all__ = ["FAMILIES", "Family", "Instance"]

ALL = ("LM", "LA", "SA", "BE")


@dataclass(frozen=True)
class Instance:
    """A question to a solver and what is needed to judge the answer.

    Attributes:
        name: Of the family, with what was drawn: enough to make the instance again.
        product: X (n, j) -> A X, in the dtype of the question.
        matrix: A (n, n) in float64; None where n is large.
        values: All eigenvalues of A, ascending, float64 (n,).
        k: How many are wanted.
        which: Which ones.
        dtype: Of the vectors.
        v0: A start vector that hides something, or None.
    """

    name: str
    product: Product
    matrix: Tensor | None
    values: Tensor
    k: int
    which: str
    dtype: torch.dtype
    v0: Tensor | None = None

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def norm(self) -> float:
        """‖A‖, the largest |λ|."""
        return float(self.values.abs().max())

    @property
    def rtol(self) -> float:
        """What is asked for by default: the root of the dtype's ε."""
        return torch.finfo(self.dtype).eps ** 0.5

    def exactly(self, X: Tensor) -> Tensor:
        """A X in float64, whatever the dtype of the question."""
        return self.product(X) if self.matrix is None else self.matrix @ X.to(F64)


@dataclass(frozen=True)
class Family:
    """Instances of one kind.

    Attributes:
        name: What is hard about it.
        spectrum: (generator, n) -> eigenvalues (n,), in any order.
        sizes: n is drawn between these, both included.
        ks: k is drawn from these, and cut at n.
        whichs: `which` is drawn from these.
        make: How the matrix gets its eigenvectors.
        dtype: Of the vectors.
        scale: The matrix is multiplied by it.
        count: Instances in the whole suite.
        refusals: Share of them that may end without success: Lanczos resolves an end of the spectrum that is
            dense beside ‖A‖ with very many products only.
        start: (generator, n) -> a start vector, where a particular one is what is hard.
    """

    name: str
    spectrum: Spectrum
    sizes: tuple[int, int] = (20, 200)
    ks: Sequence[int] = field(default=range(1, 21))
    whichs: Sequence[str] = ALL
    make: Callable[[Generator, Tensor, torch.dtype], Made] = rotated
    dtype: torch.dtype = F64
    scale: float = 1.0
    count: int = 30
    refusals: float = 0.0
    start: Callable[[Generator, int], Tensor] | None = None

    def __str__(self) -> str:
        return self.name

    def instance(self, seed: int) -> Instance:
        """Return the instance of this seed."""
        rng = Generator().manual_seed(zlib.crc32(f"{self.name} {seed}".encode()))
        n = integer(rng, *self.sizes)
        product, matrix, values = self.make(rng, self.scale * self.spectrum(rng, n), self.dtype)
        n = len(values)
        k = min(self.ks[integer(rng, 0, len(self.ks) - 1)], n)
        which = self.whichs[integer(rng, 0, len(self.whichs) - 1)]
        v0 = None if self.start is None else self.start(rng, n).to(self.dtype)
        name = f"{self.name}, seed {seed}: n={n}, k={k}, {which}"
        return Instance(name, product, matrix, values, k, which, self.dtype, v0)


tiny = any_of(small_integers, plus_minus, indefinite, down_to_nothing)
mixed = any_of(indefinite, positive, cluster, repeated, plus_minus, hessian_like, low_rank, steps)

_BASE = [
    Family("tiny", indefinite, sizes=(1, 3), ks=(1, 2, 3), count=60),
    Family("tiny, ties and zeros", tiny, sizes=(1, 9), ks=range(1, 10), count=80),
    Family("tiny, start of several columns", tiny, sizes=(1, 9), ks=range(1, 10), start=several, count=40),
    # As a block, which restarts from polynomials of a low degree.
    Family("start of several columns", mixed, start=several, count=30, refusals=0.1),
    Family("all but a few", mixed, sizes=(4, 60), ks=range(20, 58), count=40),
    Family("odd k at both ends", mixed, ks=range(1, 16, 2), whichs=("BE",), count=40),
    Family("one or two of the largest magnitude", indefinite, ks=(1, 2), whichs=("LM",), count=40),
    Family("small, every k", mixed, sizes=(8, 20), count=60),
    Family("all of them", mixed, sizes=(8, 30), ks=(30,), count=30),
    Family("cluster at the top", cluster, count=40),
    Family("cluster at the bottom", negated(cluster), count=40),
    Family("cluster below the tolerance", any_of(tight_cluster, negated(tight_cluster)), count=40),
    Family("repeated at the top", repeated, count=60),
    Family("repeated at the bottom", negated(repeated), whichs=("SA", "BE"), count=30),
    Family("zero 30 times", zeros_30, sizes=(60, 200), ks=(10, 30, 35), whichs=("SA",), count=40),
    Family("zero 30 times, other end", zeros_30, sizes=(60, 200), ks=(10, 30, 35), whichs=("LM", "LA")),
    Family("100, 99, 50, 1, ..., 0", ladder, sizes=(100, 300), whichs=("LM", "LA")),
    Family("identity", identity, sizes=(1, 120), count=40),
    Family("zero matrix", zero, sizes=(1, 120), count=40),
    Family("rank below k", low_rank, ks=range(5, 21), count=60),
    Family("indefinite", indefinite),
    Family("± pairs", plus_minus, count=40),
    Family("16 orders", any_of(geometric, signed_geometric), count=40, refusals=0.3),
    Family("uniform", positive),
    Family("Wigner", wigner),
    Family("outliers on a bulk", hessian_like, sizes=(40, 300), count=40, refusals=0.4),
    Family("identity plus rank one", spike, sizes=(2, 120), count=40),
    Family("two values", two_values, sizes=(2, 120), count=40),
    Family("integers", steps, count=40),
    Family("Laplacian", zero, make=laplacian, sizes=(20, 120), count=20),
    Family("grid Laplacian", lambda rng, n: zero(rng, n * n), make=grid_laplacian, sizes=(5, 13), count=30),
    Family("diagonal", mixed, make=diagonal),
    Family("start in one of two blocks", mixed, make=two_blocks, start=in_first_block, count=40),
    Family("start at an eigenvector", mixed, make=diagonal, start=unit_vector, count=40),
    Family("times 1e-30", mixed, scale=1e-30),
    Family("times 1e30", mixed, scale=1e30),
    Family("times 1e-200", mixed, scale=1e-200),
    Family("times 1e200", mixed, scale=1e200),
    Family("large", mixed, make=reflected, sizes=(400, 1000), whichs=("LM", "LA", "BE"), count=20),
    Family(
        "2000",
        any_of(ladder, cluster, repeated),
        make=reflected,
        sizes=(2000, 2000),
        whichs=("LM", "LA"),
        count=6,
    ),
]
_ALSO_IN_FLOAT32 = {
    "tiny, ties and zeros",
    "one or two of the largest magnitude",
    "odd k at both ends",
    "cluster at the top",
    "repeated at the top",
    "zero 30 times",
    "100, 99, 50, 1, ..., 0",
    "identity",
    "zero matrix",
    "rank below k",
    "indefinite",
    "± pairs",
    "16 orders",
    "outliers on a bulk",
}

FAMILIES = _BASE + [
    replace(family, name=f"{family.name}, float32", dtype=torch.float32, count=20)
    for family in _BASE
    if family.name in _ALSO_IN_FLOAT32
]
