"""Every method on every kind of system: no success above the tolerance, no residual but the true one.

A new method or system is one new row. What is expected is a status for each method; what is checked besides
holds for all: the reported residual norm is that of dense algebra, the products are those that the operator
counted, and x is the solution that dense algebra finds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hvplib import Matrix, Operator
from hvplib.linear import CG, MINRES, MINRESQLP, solve
from hvplib.operators.preconditioners import DiagonalPreconditioner
from hvplib.results import Solution, Status
from tests.contracts import numbers

F32, F64 = torch.float32, torch.float64
METHODS = {"cg": CG, "minres": MINRES, "minres-qlp": MINRESQLP}

CONVERGED = {name: {Status.CONVERGED} for name in METHODS}
INDEFINITE = CONVERGED | {"cg": {Status.NEGATIVE_CURVATURE}}
INCONSISTENT = {name: {Status.INCONSISTENT} for name in METHODS} | {
    "cg": {Status.NEGATIVE_CURVATURE}  # what conjugate gradients see of a singular A: a null vector
}
NON_FINITE = {name: {Status.NON_FINITE} for name in METHODS}


def orthogonal(n: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(numbers(n, n, dtype=F64, seed=seed)).Q


def with_spectrum(values: Tensor, seed: int = 0) -> Tensor:
    U = orthogonal(values.numel(), seed)
    dense = U @ torch.diag(values.double()) @ U.mT
    return (dense + dense.mT) / 2


def in_range(dense: Tensor, k: int = 1) -> Tensor:
    """A b that has a solution, whatever the rank."""
    return dense @ numbers(dense.shape[0], k, dtype=F64, seed=5)


@dataclass
class System:
    """A x = b, and how each method ends on it.

    Attributes:
        dense: A, float64.
        b: (n, k), float64.
        expected: Statuses that are right, for each method.
        damping: δ.
        dtype: In which it is solved.
        rtol: None for the default.
        preconditioned: By the diagonal of |A|.
        operator: Makes A from the dense one in its dtype.
        conditioned: Whether x can be compared with dense algebra's.
    """

    dense: Tensor
    b: Tensor
    expected: dict[str, set[Status]]
    damping: float = 0.0
    dtype: torch.dtype = F64
    rtol: float | None = None
    preconditioned: bool = False
    operator: Callable[..., Operator] = Matrix
    conditioned: bool = True


class Broken(Matrix):
    """Gives NaN from its third product on."""

    def _matmat_torch(self, X: Tensor) -> Tensor:
        product = super()._matmat_torch(X)
        return product * torch.nan if self.num_matvecs > 2 else product


POSITIVE = torch.linspace(1, 30, 40, dtype=F64)
SIGNED = torch.cat([torch.linspace(-5, -1, 15, dtype=F64), torch.linspace(1, 9, 25, dtype=F64)])
SINGULAR = torch.cat([torch.zeros(6, dtype=F64), torch.linspace(1, 8, 34, dtype=F64)])
SIGNED_SINGULAR = torch.cat([torch.zeros(6, dtype=F64), SIGNED[3:37]])
RANDOM = numbers(40, 3, dtype=F64, seed=9)
HARD = torch.logspace(-12, 0, 40, dtype=F64)

BETWEEN = torch.cat(
    [
        -torch.arange(1, 6, dtype=F64).repeat(2),
        torch.zeros(1, dtype=F64),
        torch.linspace(1, 100, 289, dtype=F64),
    ]
)
CENTRE = torch.eye(100, dtype=F64) - 0.01
MEANLESS = CENTRE @ torch.diag(torch.linspace(1, 100, 100, dtype=F64)) @ CENTRE
MEANLESS = (MEANLESS + MEANLESS.mT) / 2

SYSTEMS = {
    "definite": System(with_spectrum(POSITIVE), RANDOM[:, :1], CONVERGED),
    "definite, float32": System(with_spectrum(POSITIVE), RANDOM[:, :1], CONVERGED, dtype=F32),
    "definite, many": System(with_spectrum(POSITIVE), RANDOM, CONVERGED),
    "definite, tight": System(with_spectrum(POSITIVE), RANDOM, CONVERGED, rtol=1e-13),
    "definite, preconditioned": System(
        with_spectrum(POSITIVE) + torch.diag(10.0 * torch.arange(40)), RANDOM, CONVERGED, preconditioned=True
    ),
    "definite, float32, many, preconditioned": System(
        with_spectrum(POSITIVE), RANDOM, CONVERGED, dtype=F32, preconditioned=True
    ),
    "damped": System(with_spectrum(SIGNED), RANDOM, CONVERGED, damping=6.0),
    "shifted into indefiniteness": System(with_spectrum(POSITIVE), RANDOM, INDEFINITE, damping=-4.1),
    "one by one": System(torch.full((1, 1), 3.0, dtype=F64), torch.full((1, 1), 2.0, dtype=F64), CONVERGED),
    "minus one by one": System(torch.full((1, 1), -3.0, dtype=F64), torch.ones(1, 1, dtype=F64), INDEFINITE),
    "identity": System(torch.eye(7, dtype=F64), RANDOM[:7], CONVERGED),
    "indefinite": System(with_spectrum(SIGNED), RANDOM[:, :1], INDEFINITE),
    "indefinite, float32": System(with_spectrum(SIGNED), RANDOM[:, :1], INDEFINITE, dtype=F32),
    "indefinite, many, preconditioned": System(
        with_spectrum(SIGNED), RANDOM, INDEFINITE, preconditioned=True
    ),
    "negative curvature on step 1": System(-with_spectrum(POSITIVE), RANDOM[:, :1], INDEFINITE),
    "singular, consistent": System(with_spectrum(SINGULAR), in_range(with_spectrum(SINGULAR)), CONVERGED),
    "singular, consistent, float32": System(
        with_spectrum(SINGULAR), in_range(with_spectrum(SINGULAR)), CONVERGED, dtype=F32
    ),
    "singular, indefinite, consistent": System(
        with_spectrum(SIGNED_SINGULAR), in_range(with_spectrum(SIGNED_SINGULAR), 2), INDEFINITE
    ),
    "singular, inconsistent": System(with_spectrum(SINGULAR), RANDOM[:, :1], INCONSISTENT),
    "singular, inconsistent, float32": System(
        with_spectrum(SINGULAR), RANDOM[:, :1], INCONSISTENT, dtype=F32
    ),
    "singular, inconsistent, many": System(with_spectrum(SINGULAR), RANDOM, INCONSISTENT),
    "singular, indefinite, inconsistent": System(with_spectrum(SIGNED_SINGULAR), RANDOM, INCONSISTENT),
    "singular, inconsistent, preconditioned": System(
        with_spectrum(SINGULAR), RANDOM, INCONSISTENT, preconditioned=True, conditioned=False
    ),
    "one null vector between both signs": System(
        torch.diag(BETWEEN), torch.ones(300, 1, dtype=F64), INCONSISTENT, conditioned=False
    ),
    "one null vector known by symmetry": System(
        MEANLESS, torch.arange(100, dtype=F64).unsqueeze(1), INCONSISTENT, conditioned=False
    ),
    "zero matrix": System(torch.zeros(5, 5, dtype=F64), RANDOM[:5, :1], INCONSISTENT),
    "zero right-hand side": System(with_spectrum(SIGNED), torch.zeros(40, 2, dtype=F64), CONVERGED),
    "condition 1e12": System(
        with_spectrum(HARD), in_range(with_spectrum(HARD)), CONVERGED, rtol=1e-7, conditioned=False
    ),
    "condition 1e12, tight": System(
        with_spectrum(HARD),
        in_range(with_spectrum(HARD)),
        {name: {Status.CONVERGED, Status.STAGNATED, Status.MAX_ITER} for name in METHODS},
        rtol=1e-14,
        conditioned=False,
    ),
    "condition 1e6, float32": System(
        with_spectrum(HARD[20:]),
        in_range(with_spectrum(HARD[20:])),
        {name: {Status.CONVERGED, Status.STAGNATED} for name in METHODS},
        dtype=F32,
        rtol=1e-5,
        conditioned=False,
    ),
    "NaN in the third product": System(
        with_spectrum(POSITIVE), RANDOM[:, :1], NON_FINITE, operator=Broken, conditioned=False
    ),
}


def ran(system: System, name: str) -> tuple[Operator, Solution]:
    A = system.operator(system.dense.to(system.dtype))
    result = solve(
        A,
        system.b.to(system.dtype),
        method=METHODS[name](rtol=system.rtol),
        damping=system.damping,
        preconditioner=DiagonalPreconditioner(A.to_dense().diagonal().abs())
        if system.preconditioned
        else None,
        throw=False,
    )
    return A, result


def taken(system: System) -> tuple[Tensor, Tensor]:
    """A + δ I and b as the dtype holds them, in float64."""
    dense = system.dense.to(system.dtype).double()
    return dense + system.damping * torch.eye(len(dense), dtype=F64), system.b.to(system.dtype).double()


def check_residuals(system: System, dense: Tensor, b: Tensor, result: Solution) -> None:
    """What holds whatever the system and the method: no residual but the true one, no success above it."""
    assert result.num_matvecs == sum(result.matvecs.values())
    assert result.history.shape == (result.num_iter + 1, result.x.shape[1])
    x, eps = result.x.double(), torch.finfo(system.dtype).eps
    true = torch.linalg.vector_norm(b - dense @ x, dim=0)
    rounding = eps * 10 * (torch.linalg.matrix_norm(dense, 2) * torch.linalg.vector_norm(x, dim=0) + b.norm())
    if system.operator is not Broken:
        assert ((result.residual_norms - true).abs() <= rounding).all()
    for status, norm, tolerance in zip(result.statuses, true, result.tolerances, strict=True):
        assert not status.success or norm <= tolerance * (1 + 1e-6) + 10 * eps * b.norm()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("label", SYSTEMS)
def test_system(label: str, name: str) -> None:
    system = SYSTEMS[label]
    before = 40 if system.preconditioned else 0  # to_dense
    A, result = ran(system, name)

    assert set(result.statuses) <= system.expected[name], result
    assert result.num_matvecs == A.num_matvecs - before
    dense, b = taken(system)
    check_residuals(system, dense, b, result)
    eps = torch.finfo(system.dtype).eps
    rtol = eps**0.5 if system.rtol is None else system.rtol
    torch.testing.assert_close(result.tolerances, rtol * torch.linalg.vector_norm(b, dim=0))
    check_solution(system, name, dense, b, result)
    check_evidence(dense, b, result, eps, preconditioned=system.preconditioned)


@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("label", SYSTEMS)
def test_method_that_is_chosen(label: str, declared: bool) -> None:
    """Whether A is as it was declared or not."""
    system = SYSTEMS[label]
    A = system.operator(
        system.dense.to(system.dtype), **({"positive_semidefinite": True} if declared else {})
    )
    diagonal = A.to_dense().diagonal().abs()
    result = solve(
        A,
        system.b.to(system.dtype),
        damping=system.damping,
        preconditioner=DiagonalPreconditioner(diagonal) if system.preconditioned else None,
        throw=False,
    )
    name = "cg" if declared and system.damping >= 0 else "minres-qlp"
    assert type(result.method) is METHODS[name]
    assert system.rtol is not None or set(result.statuses) <= system.expected[name], result
    dense, b = taken(system)
    check_residuals(system, dense, b, result)
    if system.rtol is None:
        check_solution(system, name, dense, b, result)
    check_evidence(dense, b, result, torch.finfo(system.dtype).eps, preconditioned=system.preconditioned)


@pytest.mark.parametrize("label", [label for label in SYSTEMS if not SYSTEMS[label].preconditioned])
def test_path_of_dampings(label: str) -> None:
    """Those that leave A definite are solved, and of those that do not it is told."""
    system = SYSTEMS[label]
    dense, b = taken(system)
    values = torch.linalg.eigvalsh(dense)
    norm = float(values.abs().max()) or 1.0
    low = float(values[0])
    path = [system.damping + shift * norm - low for shift in (-0.5, -0.01, 0.01, 0.3, 2.0)]
    A = system.operator(system.dense.to(system.dtype))
    result = solve(A, system.b[:, 0].to(system.dtype), damping=path, throw=False)
    allowed = {Status.NON_FINITE} if system.operator is Broken else {Status.CONVERGED}
    if not bool(b[:, 0].any()):
        assert result.statuses == (Status.CONVERGED,) * 5 and not result.x.any()
        return
    assert set(result.statuses[2:]) <= allowed, result
    bent = result.statuses[:2]
    assert all(status in allowed | {Status.NEGATIVE_CURVATURE, Status.STAGNATED} for status in bent), result
    eps = torch.finfo(system.dtype).eps
    for j, damping in enumerate(path):
        shifted = dense + (damping - system.damping) * torch.eye(len(dense), dtype=F64)
        x, rhs = result.x[:, j].double(), b[:, 0]
        true, rounding = (rhs - shifted @ x).norm(), 10 * eps * (3 * norm * x.norm() + rhs.norm())
        if system.operator is Broken:
            continue
        assert (result.residual_norms[j] - true).abs() <= rounding
        assert result.statuses[j] is not Status.CONVERGED or true <= result.tolerances[j] + rounding
        if result.statuses[j] is Status.NEGATIVE_CURVATURE:
            assert result.direction is not None and result.curvature is not None
            p = result.direction[:, j].double()
            assert ((p @ shifted @ p) / (p @ p) - result.curvature[j]).abs() <= 100 * eps * 3 * norm
            assert result.curvature[j] <= 0


def check_solution(system: System, name: str, dense: Tensor, b: Tensor, result: Solution) -> None:
    """x is the pseudo-inverse's: of least length, but for MINRES where no x solves the system."""
    if not system.conditioned or result.status is Status.NEGATIVE_CURVATURE:
        return
    exact = torch.linalg.pinv(dense, rtol=1e-5) @ b
    if result.status is Status.INCONSISTENT and name == "minres":
        assert ((dense @ (result.x.double() - exact)).norm() <= 1e-2 * b.norm()).all()
        return
    values = torch.linalg.eigvalsh(dense).abs()
    smallest = float(values[values > 1e-5 * values.max()].min()) if bool(values.any()) else 1.0
    excess = float(result.tolerances.max()) + 100 * torch.finfo(system.dtype).eps * float(b.norm())
    assert (result.x.double() - exact).norm(dim=0).max() <= 2 * excess / smallest


def check_evidence(dense: Tensor, b: Tensor, result: Solution, eps: float, *, preconditioned: bool) -> None:
    """Directions have the curvature that is claimed; an inconsistent residual is a null vector."""
    assert (result.curvature is None) == (result.direction is None)
    norm = torch.linalg.matrix_norm(dense, 2)
    if result.status is Status.NEGATIVE_CURVATURE:
        assert result.direction is not None and result.curvature is not None
        P = result.direction.double()
        true = (P * (dense @ P)).sum(0) / (P * P).sum(0)
        assert ((result.curvature - true).abs() <= 100 * eps * norm).all()
        assert (result.curvature <= 0).all() and (true <= 100 * eps * norm).all()
    if result.status is Status.INCONSISTENT:
        assert result.normal_residuals is not None
        assert (result.normal_residuals.nan_to_num(0.0) <= 100 * eps**0.5).all()
        null = torch.linalg.eigh(dense).eigenvectors[:, torch.linalg.eigvalsh(dense).abs() <= 1e-5 * norm]
        least = torch.linalg.vector_norm(null.mT @ b, dim=0)
        if not preconditioned:
            torch.testing.assert_close(result.residual_norms, least, rtol=eps**0.5, atol=0)
        assert (result.residual_norms >= least * (1 - eps**0.5)).all()


def test_the_table_has_what_it_promises() -> None:
    """Every system solves something: none is left out for each method."""
    assert all(set(system.expected) == set(METHODS) for system in SYSTEMS.values())
