"""The eigensolvers that the benchmarks compare, all multiplying by the same products, counted and timed.

Each takes a problem, products with it and a seed, and returns eigenvalues (k,) and eigenvectors (n, k).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh, lobpcg
from torch import Tensor

from benchmarks.contest import Absent
from benchmarks.eigenproblems import EigenProblem, residuals, start
from benchmarks.peers import Product, eigenthings_of, in_float64, pyhessian_of
from benchmarks.timing import clock

__all__ = [
    "PEERS",
    "TOLERANCE",
    "Answer",
    "Products",
    "Solver",
    "arpack",
    "eigenthings",
    "hvplib_eigsh",
    "power_iteration",
    "pyhessian",
    "run",
]

F64 = torch.float64
TOLERANCE = 1e-6

Pairs = tuple[Tensor, Tensor]
Solver = Callable[[EigenProblem, "Products", int], Pairs]


class Exhausted(Exception):
    """Raised by a product when a solver has had as many as it is given."""


@dataclass
class Products:
    """X (n, j) -> A X, counted by columns, timed, and limited in number.

    Attributes:
        matmat: The product.
        limit: How many a solver may have.
        count: Made so far.
        seconds: Spent in them.
    """

    matmat: Callable[[Tensor], Tensor]
    limit: int = 100_000
    count: int = 0
    seconds: float = 0.0

    def __call__(self, X: Tensor) -> Tensor:
        self.count += X.shape[1]
        if self.count > self.limit:
            raise Exhausted(f"> {self.limit}")
        begun = clock()
        result = self.matmat(X)
        self.seconds += clock() - begun
        return result

    def vector(self, x: Tensor) -> Tensor:
        """A x for a vector (n,)."""
        return self(x.unsqueeze(1)).squeeze(1)

    def scipy(self, n: int) -> LinearOperator:
        """Return the same for SciPy's solvers."""

        def matmat(X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return self(torch.from_numpy(np.ascontiguousarray(X)).reshape(n, -1)).numpy().reshape(X.shape)

        return LinearOperator((n, n), matvec=matmat, matmat=matmat, dtype=np.float64)


@dataclass(frozen=True)
class Answer:
    """What a solver found and spent.

    Attributes:
        products: Products made, or why there is no answer.
        seconds: In all.
        outside: Seconds outside the products.
        residual: Largest true relative residual of the pairs.
        found: How many of the wanted eigenvalues are among them, each counted once.
        purposes: Products by purpose, where the solver tells.
    """

    products: int | str
    seconds: float
    outside: float = 0.0
    residual: float = 0.0
    found: int = 0
    purposes: dict[str, int] = field(default_factory=dict)


def run(
    solver: Solver,
    problem: EigenProblem,
    seed: int = 0,
    *,
    limit: int = 100_000,
    product: Product | None = None,
) -> Answer:
    """Solve once, by the problem's product or another, and judge what came of it by the problem's."""
    products = Products(product or problem.operator._product, limit)
    torch.manual_seed(seed)  # PyHessian draws from the global generator
    begun = clock()
    try:
        values, vectors = solver(problem, products, seed)
    except Exhausted as reason:
        return Answer(str(reason), clock() - begun)
    except Absent as reason:
        return Answer(str(reason), 0.0)
    except ModuleNotFoundError as reason:
        return Answer(f"not installed ({reason.name})", 0.0)
    except Exception as reason:  # a peer may fail in any way, and the table says so
        return Answer(f"fails ({type(reason).__name__})", clock() - begun)
    seconds = clock() - begun
    worst = float(residuals(problem.operator, values, vectors).max())
    purposes = getattr(products, "purposes", {})
    outside = seconds - products.seconds
    return Answer(products.count, seconds, outside, worst, found(problem, values), purposes)


def found(problem: EigenProblem, values: Tensor) -> int:
    """How many wanted eigenvalues are matched to 1e-4 by a value of their own."""
    free = values.tolist()
    hits = 0
    for wanted in problem.values.tolist():
        near = [value for value in free if abs(value - wanted) <= 1e-4 * abs(wanted)]
        if near:
            free.remove(min(near, key=lambda value: abs(value - wanted)))
            hits += 1
    return hits


# --------------------------------------------------------------------------------------------- the library


def hvplib_eigsh(
    problem: EigenProblem,
    products: Products,
    seed: int,
    *,
    tolerance: float = TOLERANCE,
    krylov_dim: int | None = None,
    **settings: Any,
) -> Pairs:
    from hvplib import FunctionOperator
    from hvplib import eigsh as solver
    from hvplib.eigen.methods import Lanczos

    A = FunctionOperator(products, (problem.n, problem.n), dtype=F64, symmetric=True)
    method = Lanczos(krylov_dim=krylov_dim or problem.krylov_dim, block_size=1, **settings)
    result = solver(
        A, problem.k, which=problem.which, method=method, rtol=tolerance, generator=seed, throw=False
    )
    products.purposes = dict(result.matvecs)  # type: ignore[attr-defined]
    return result.eigenvalues, result.eigenvectors


# ------------------------------------------------------------------------------------------------- SciPy's


def arpack(
    problem: EigenProblem,
    products: Products,
    seed: int,
    *,
    tolerance: float = TOLERANCE,
    krylov_dim: int | None = None,
) -> Pairs:
    values, vectors = eigsh(
        products.scipy(problem.n),
        problem.k,
        which=problem.which,
        ncv=krylov_dim or problem.krylov_dim,
        tol=tolerance,
        v0=start(problem.n, seed).numpy(),
        maxiter=10_000,
    )
    return torch.from_numpy(values), torch.from_numpy(vectors)


def scipy_lobpcg(problem: EigenProblem, products: Products, seed: int) -> Pairs:
    parts = []
    for largest, count in ends(problem, "LOBPCG"):
        generator = torch.Generator().manual_seed(seed + largest)
        X = torch.randn(problem.n, count, generator=generator, dtype=F64).numpy()
        # Its tolerance is absolute: it is told what a relative one means here.
        tolerance = TOLERANCE * float(problem.values.abs().min())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parts.append(
                lobpcg(products.scipy(problem.n), X, tol=tolerance, maxiter=2000, largest=bool(largest))
            )
    return (
        torch.cat([torch.from_numpy(values) for values, _ in parts]),
        torch.cat([torch.from_numpy(vectors) for _, vectors in parts], dim=1),
    )


# -------------------------------------------------------------------------------------------- PyTorch peers


def eigenthings(
    problem: EigenProblem,
    products: Products,
    seed: int,
    *,
    reorthogonalize: bool | None = None,
    steps: int | None = None,
    doubling: bool = True,
) -> Pairs:
    """Its Lanczos with `steps`; by default 2k of them, and twice as many until it says converged."""
    from hessian_eigenthings.algorithms import lanczos

    A = eigenthings_of(products, problem.n)
    if problem.which == "LM":
        asked = [("LM", problem.k)]
    else:
        asked = [("LA" if largest else "SA", count) for largest, count in ends(problem, "this Lanczos")]
    values, vectors = [], []
    for which, count in asked:
        own = steps or 2 * count
        while True:
            result = lanczos(
                A,
                k=count,
                max_iter=min(own, problem.n),
                tol=TOLERANCE,
                reorthogonalize=reorthogonalize,
                which=which,
                seed=seed,
            )
            if steps or not doubling or bool(result.converged.all()) or own >= problem.n:
                break
            own *= 2
        values.append(result.eigenvalues)
        vectors.append(result.eigenvectors.mT)
    return torch.cat(values), torch.cat(vectors, dim=1)


def power_iteration(
    problem: EigenProblem, products: Products, seed: int, *, tolerance: float = TOLERANCE
) -> Pairs:
    """Its deflated power iteration, which knows the largest magnitudes only."""
    from hessian_eigenthings.algorithms import deflated_power_iteration

    A = eigenthings_of(products, problem.n)
    result = deflated_power_iteration(A, k=problem.k, max_iter=1000, tol=tolerance, seed=seed)
    return result.eigenvalues, result.eigenvectors.mT


def pyhessian(
    problem: EigenProblem, products: Products, seed: int, *, tolerance: float = 1e-3, limit: int = 100
) -> Pairs:
    """Its power iteration, which knows the largest magnitudes only."""
    if problem.which in ("BE", "SA"):
        raise Absent("cannot")
    solver = pyhessian_of(products, problem.n)
    with in_float64():
        values, vectors = solver.eigenvalues(maxIter=limit, tol=tolerance, top_n=problem.k)
    return torch.tensor(values, dtype=F64), torch.stack([v[0] for v in vectors]).mT


def ends(problem: EigenProblem, name: str) -> list[tuple[bool, int]]:
    """Which ends to ask for one after the other, where a solver knows one at a time, and how many at each."""
    if problem.which == "LM":
        raise Absent(f"{name} knows no magnitudes")
    if problem.which == "BE":
        return [(False, problem.k // 2), (True, (problem.k + 1) // 2)]
    return [(problem.which == "LA", problem.k)]


PEERS: dict[str, Solver] = {
    "**hvplib.eigsh**": hvplib_eigsh,
    "**hvplib.eigsh**, no search for missed members": partial(hvplib_eigsh, miss_probability=None),
    "SciPy eigsh (ARPACK)": arpack,
    "SciPy lobpcg": scipy_lobpcg,
    "hessian-eigenthings Lanczos": eigenthings,
    "hessian-eigenthings Lanczos, reorthogonalize=True": partial(eigenthings, reorthogonalize=True),
    "PyHessian": pyhessian,
    "PyHessian, tol=1e-13, maxIter=1000": partial(pyhessian, tolerance=1e-13, limit=1000),
}
