"""Every kernel finds the same in any space that offers `inner`: one row for each kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.krylov.lanczos import Factorization
from hvplib.krylov.lobpcg import lobpcg, lobpcg_both_ends
from hvplib.krylov.minres import minres
from hvplib.krylov.minres_qlp import minres_qlp
from hvplib.krylov.quadratic_model import QuadraticSpace
from tests.krylov.spaces import Guarded, Plain, Slanted, in_parts

F64 = torch.float64
# No tensor of coefficients has this length.
N = 211


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def with_spectrum(spectrum: Tensor, seed: int = 0) -> Tensor:
    Q = torch.linalg.qr(normal(N, N, seed=seed)).Q
    A = (Q * spectrum) @ Q.mT
    return (A + A.mT) / 2


POSITIVE = with_spectrum(torch.linspace(1, 20, N, dtype=F64))
INDEFINITE = with_spectrum(torch.cat([torch.linspace(-3, -1, 20), torch.linspace(1, 5, N - 20)]).double())
# Few different eigenvalues, so that an iteration ends before rounding can change when.
SINGULAR = with_spectrum(torch.arange(N, dtype=F64) % 5)
OUTLIERS = with_spectrum(torch.cat([torch.linspace(0, 1, N - 4), torch.tensor([2.0, 3, 5, 8])]).double())
MASS = with_spectrum(torch.linspace(1, 3, N, dtype=F64), seed=1)
B = normal(N, 3, seed=2)


@dataclass(frozen=True)
class Answer:
    """What a kernel found.

    Attributes:
        vectors: (n, k), brought back to ℝⁿ.
        numbers: Floating point, equal up to rounding in every space.
        marks: Whatever must be equal.
    """

    vectors: Tensor
    numbers: list[Tensor]
    marks: list[object]


Run = Callable[[Plain], Answer]


def of(outcome: object, space: Plain) -> Answer:
    """All that a dataclass of results holds."""
    found = {field.name: getattr(outcome, field.name) for field in fields(outcome)}  # type: ignore[arg-type]
    vectors = [found.pop(name) for name in ("x", "vectors", "direction") if found.get(name) is not None]
    numbers = [value for value in found.values() if isinstance(value, Tensor) and value.is_floating_point()]
    marks = [value.tolist() if isinstance(value, Tensor) else value for value in found.values()]
    marks = [mark for mark in marks if isinstance(mark, bool | int | tuple | str)]
    return Answer(torch.cat([space.back(X) for X in vectors], dim=1), numbers, marks)


def signed(X: Tensor) -> Tensor:
    """Eigenvectors with the sign that makes their first entry positive."""
    return X * X[0].sign()


def linear(kernel: Callable[..., object], matrix: Tensor, P: Tensor | None = None, **options: object) -> Run:
    def run(space: Plain) -> Answer:
        b = space.vectors(B)
        precondition = None if P is None else space.product(P)
        A = space.product(matrix)
        with space.watched():
            outcome = kernel(A, b, precondition=precondition, inner=space.inner, **options)
        return of(outcome, space)

    return run


def eigen(
    kernel: Callable[..., object], *, mass: bool = False, P: Tensor | None = None, **options: object
) -> Run:
    def run(space: Plain) -> Answer:
        X = space.vectors(normal(N, 6, seed=3))
        A, M = space.product(OUTLIERS), space.product(MASS) if mass else None
        precondition = None if P is None else space.product(P)
        with space.watched():
            outcome = kernel(A, X, mass=M, precondition=precondition, inner=space.inner, **options)
        answer = of(outcome, space)
        return replace(answer, vectors=signed(answer.vectors))

    return run


def lanczos(block_size: int) -> Run:
    """Start, expand, restart, lock, renew: all that the factorisation can do."""

    def run(space: Plain) -> Answer:
        rng = torch.Generator().manual_seed(5)
        start, again = space.vectors(normal(N, block_size, seed=3)), space.vectors(normal(N, 2, seed=4))
        A = space.product(OUTLIERS)

        def random(columns: int) -> Tensor:
            return space.vectors(torch.randn(N, columns, generator=rng, dtype=F64))

        with space.watched():
            F = Factorization(start, capacity=24, size=N, inner=space.inner)
            for _ in range(3):
                while not F.full:
                    F.expand(A, random)
                F.restart(F.ritz().vectors[:, -6:])
            F.lock(2)
            F.renew(again)
            while not F.full:
                F.expand(A, random)
            ritz = F.ritz()
            vectors = F.combine(ritz.vectors[:, -2:])
            numbers = [ritz.values, ritz.residual_norms, torch.tensor([F.norm, F.defect(A)], dtype=F64)]
        marks: list[object] = [F.count, F.width, F.num_matvecs, F.num_steps]
        return Answer(signed(space.back(vectors)), numbers, marks)

    return run


def quadratic(matrix: Tensor, P: Tensor | None = None) -> Run:
    """A ball, a smaller one, a cubic term; with a search for what is hidden where the space ends."""

    def run(space: Plain) -> Answer:
        g, H = space.vectors(B[:, :1]), space.product(matrix)
        start = space.vectors(B[:, 1:2])
        precondition = None if P is None else space.product(P)
        with space.watched():
            model = QuadraticSpace(
                H, g, precondition=precondition, inner=space.inner, krylov_dim=40, random=lambda j: start
            )
            steps = [model.ball(2.0, rtol=1e-5), model.ball(0.5, rtol=1e-5), model.cubic(3.0, rtol=1e-5)]
        vectors = [space.back(step.s) for step in steps]
        vectors += [signed(space.back(step.direction)) for step in steps if step.direction is not None]
        numbers = [
            torch.tensor([step.predicted, step.norm, step.multiplier, step.least_ritz], dtype=F64)
            for step in steps
        ]
        marks: list[object] = [(step.status, step.num_matvecs, step.on_boundary) for step in steps]
        return Answer(torch.cat(vectors, dim=1), numbers, marks)

    return run


PRECONDITIONER = torch.linalg.inv(POSITIVE + 0.1 * with_spectrum(torch.linspace(0, 1, N).double(), seed=6))
KERNELS: dict[str, Run] = {
    "cg": linear(cg, POSITIVE, rtol=1e-4, max_iter=200),
    "cg, preconditioned": linear(cg, POSITIVE, PRECONDITIONER, rtol=1e-4, max_iter=200),
    "cg, started": lambda space: linear(cg, POSITIVE, x0=space.vectors(normal(N, 3)), rtol=1e-4, max_iter=99)(
        space
    ),
    "cg, indefinite": linear(cg, INDEFINITE, rtol=1e-4, max_iter=200),
    "cg, trust region": linear(cg, INDEFINITE, rtol=1e-4, max_iter=200, radius=2.0),
    "minres": linear(minres, INDEFINITE, rtol=1e-4, max_iter=200),
    "minres, preconditioned": linear(minres, INDEFINITE, PRECONDITIONER, rtol=1e-4, max_iter=200),
    "minres, inconsistent": linear(minres, SINGULAR, rtol=1e-4, max_iter=200),
    "minres-qlp": linear(minres_qlp, INDEFINITE, rtol=1e-4, max_iter=200),
    "minres-qlp, inconsistent": linear(minres_qlp, SINGULAR, rtol=1e-4, max_iter=200),
    "lobpcg": eigen(lobpcg, k=3, largest=True, rtol=1e-6, max_iter=100),
    "lobpcg, mass": eigen(lobpcg, k=3, mass=True, largest=True, rtol=1e-6, max_iter=100),
    "lobpcg, preconditioned": eigen(lobpcg, k=3, P=MASS, largest=True, rtol=1e-6, max_iter=100),
    "lobpcg, both ends": eigen(lobpcg_both_ends, k=3, magnitude=True, rtol=1e-6, max_iter=100),
    "quadratic model": quadratic(INDEFINITE),
    "quadratic model, preconditioned": quadratic(INDEFINITE, PRECONDITIONER),
    "quadratic model, space ends": quadratic(SINGULAR + torch.eye(N, dtype=F64)),
    "lanczos": lanczos(1),
    "lanczos, block": lanczos(3),
}
every_kernel = pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())


def assert_alike(found: Answer, expected: Answer, rtol: float) -> None:
    assert found.marks == expected.marks
    scale = float(expected.vectors.abs().max())
    torch.testing.assert_close(found.vectors, expected.vectors, rtol=0, atol=rtol * scale)
    for a, b in zip(found.numbers, expected.numbers, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, equal_nan=True)


@every_kernel
def test_kernel_uses_nothing_but_inner_and_combinations(kernel: Run) -> None:
    found, expected = kernel(Guarded(N)), kernel(Plain())
    assert_alike(found, expected, 0.0)


@every_kernel
@pytest.mark.parametrize("sizes", [[100, 111], [1, 150, 60]], ids=str)
def test_kernel_runs_with_shared_rows(kernel: Run, sizes: list[int]) -> None:
    expected = kernel(Plain())
    (first, space), *others = in_parts(sizes, kernel)
    assert_alike(first, expected, 1e-8)
    assert space.reductions
    for answer, other in others:
        assert other.reductions == space.reductions
        assert_alike(answer, first, 0.0)


@every_kernel
def test_kernel_runs_in_another_inner_product(kernel: Run) -> None:
    S = torch.linalg.cholesky(MASS).mT
    assert_alike(kernel(Slanted(S)), kernel(Plain()), 1e-7)
