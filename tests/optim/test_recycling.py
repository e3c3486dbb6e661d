"""Directions that one step leaves to the next, against dense algebra."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import hvplib.optim.build as build
from hvplib import Diagonal, HessianOperator
from hvplib.interrupt import Interrupt
from hvplib.krylov.cg import cg
from hvplib.optim import ARC, LineSearchNewtonCG, NewtonMR, TrustKrylov, TrustNCG, minimize
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Limits, Objective
from hvplib.optim.krylov_model import KrylovModel
from hvplib.optim.methods import Method
from hvplib.optim.recycling import NONE, LimitedMemory, Pairs, Recycling, Sample, paired
from hvplib.optim.steihaug import Steihaug
from tests.optim.points import quadratic

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def symmetric(eigenvalues: Tensor, seed: int = 1) -> Tensor:
    Q = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed)).Q
    return Q @ torch.diag(eigenvalues) @ Q.mT


def outlying(n: int = 60, count: int = 6) -> Tensor:
    """Eigenvalues in [1, 2], and some up to 1e5."""
    return torch.cat([torch.linspace(1, 2, n - count, dtype=F64), torch.logspace(3, 5, count, dtype=F64)])


def dense(P: object, n: int) -> Tensor:
    return P(torch.eye(n, dtype=F64))  # type: ignore[operator, no-any-return]


def run(H: Tensor, g: Tensor, recycling: Recycling, rtol: float = 1e-8) -> int:
    """The products of conjugate gradients for H x = g."""
    P = recycling.preconditioner(None, g)
    outcome = cg(recycling.watched(H.matmul), g, precondition=P, rtol=rtol, max_iter=200)
    torch.testing.assert_close(
        outcome.x, torch.linalg.solve(H, g), rtol=0, atol=1e-5 * float(outcome.x.norm())
    )
    return outcome.num_matvecs


# ------------------------------------------------------------------------------------------------- samples


def pairs_of(sample: Sample) -> Pairs:
    return paired(*(sample.conjugate_directions() or pytest.fail("nothing was kept")))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("length", [1, 4, 5, 20, 39, 64])
def test_a_sample_is_spread_over_the_run(count: int, length: int) -> None:
    sample = Sample(count)
    for column in torch.eye(64, dtype=F64)[:length]:
        sample.add(column.unsqueeze(1), 3 * column.unsqueeze(1))
    S, Y, y = pairs_of(sample)
    assert S.shape == (64, min(count, length))
    torch.testing.assert_close(Y, 3 * S, rtol=1e-15, atol=0)
    torch.testing.assert_close(y.square().sum(), torch.tensor(3.0, dtype=F64))
    numbers = sorted(int(row) for row in S.abs().argmax(dim=0))
    assert len(set(numbers)) == len(numbers)
    gaps = [b - a for a, b in itertools.pairwise(numbers)]
    if gaps:
        assert max(gaps) <= 2 * min(gaps) and numbers[-1] >= length - 1 - max(gaps)


def test_the_directions_of_conjugate_gradients_are_taken_as_they_are() -> None:
    H, g = symmetric(torch.linspace(1, 9, 12, dtype=F64)), normal(12, 1)
    sample, directions = Sample(20), []

    def product(V: Tensor) -> Tensor:
        directions.append(V.clone())
        HV = H @ V
        sample.add(V, HV)
        return HV

    cg(product, g, rtol=0.0, max_iter=7)
    P = torch.cat(directions, dim=1)
    S, Y, y = pairs_of(sample)
    last = P[:, -1:]
    torch.testing.assert_close(y, H @ last / (last.mT @ H @ last).sqrt(), rtol=0, atol=1e-12)
    torch.testing.assert_close(S, P / (P * (H @ P)).sum(0).sqrt(), rtol=0, atol=1e-12)
    torch.testing.assert_close(S.mT @ H @ S, torch.eye(7, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(Y, H @ S, rtol=0, atol=1e-12)


@pytest.mark.parametrize("curvature", [-1.0, 0.0, math.nan])
def test_nothing_is_taken_from_the_first_direction_on_that_is_not_convex(curvature: float) -> None:
    sample, E = Sample(5), torch.eye(4, dtype=F64)
    for j, value in enumerate((2.0, 3.0, curvature, 4.0)):
        sample.add(E[:, j : j + 1], value * E[:, j : j + 1])
    S, _, _ = pairs_of(sample)
    torch.testing.assert_close(S @ S.mT, torch.diag(torch.tensor([1 / 2, 1 / 3, 0, 0], dtype=F64)))


@pytest.mark.parametrize("curvature", [-1.0, 0.0, math.nan, 1e-200])
def test_a_sample_may_be_empty(curvature: float) -> None:
    sample, e = Sample(5), torch.ones(3, 1, dtype=F64)
    assert sample.conjugate_directions() is None
    # The last has curvature, but of a direction that is as good as orthogonal to its product.
    sample.add(e, curvature * e if curvature != 1e-200 else curvature * e + torch.tensor([[1.0], [-1], [0]]))
    assert sample.conjugate_directions() is None


def test_a_direction_met_twice_counts_once() -> None:
    """As conjugate gradients make them where rounding has taken the conjugacy."""
    H, sample = torch.diag(torch.tensor([1.0, 2, 3], dtype=F64)), Sample(5)
    e = torch.eye(3, dtype=F64)
    for j in (0, 1, 0):
        sample.add(e[:, j : j + 1], H @ e[:, j : j + 1])
    S, _, _ = pairs_of(sample)
    torch.testing.assert_close(S @ S.mT, torch.diag(torch.tensor([1, 0.5, 0], dtype=F64)))


@pytest.mark.parametrize("spoilt", [0.0, 1e-12, 1e-3])
def test_pairs_are_conjugate_however_the_directions_are(spoilt: float) -> None:
    H = symmetric(torch.logspace(0, 3, 12, dtype=F64))
    S = torch.linalg.solve(torch.linalg.cholesky(H).mT, torch.linalg.qr(normal(12, 4)).Q)
    S = S + spoilt * normal(12, 4, seed=3)
    found = paired(S, H @ S)
    torch.testing.assert_close(found.S.mT @ found.Y, torch.eye(4, dtype=F64), rtol=0, atol=1e-8)
    torch.testing.assert_close(found.Y, H @ found.S, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.y, (H @ S)[:, -1:])
    # S Sᵀ is S (SᵀHS)⁻¹ Sᵀ, whatever the basis.
    expected = S @ torch.linalg.solve(S.mT @ H @ S, S.mT)
    torch.testing.assert_close(found.S @ found.S.mT, expected, rtol=0, atol=1e-8)


def test_a_model_that_is_left_hands_on_its_directions() -> None:
    H, g = symmetric(outlying()), normal(60)
    problem, recycling = quadratic(H, g), Recycling(20)

    def model() -> KrylovModel:
        random = torch.Generator().manual_seed(0)
        return KrylovModel(
            problem.start,
            1e-8,
            boundary_rtol=0.0,
            krylov_dim=60,
            precondition=None,
            random=lambda k: torch.randn(60, k, generator=random, dtype=F64),
            recycling=recycling,
        )

    first = model()
    spent = first.ball(1e9).num_matvecs
    assert recycling.preconditioner(None, problem.start.gradient) is None
    first.leave()
    P = recycling.preconditioner(None, problem.start.gradient)
    assert isinstance(P, LimitedMemory)
    L = torch.linalg.cholesky(H)
    found = torch.linalg.eigvalsh(L.mT @ dense(P, 60) @ L)
    assert 15 <= int(((found / float(P.level) - 1).abs() < 1e-6).sum()) <= 20  # some are met twice
    assert bool((found < 2.001).all())
    assert model().ball(1e9).num_matvecs < spent


# ---------------------------------------------------------------------------------------- preconditioners


@pytest.mark.parametrize("base", [None, torch.linspace(0.5, 3, 12, dtype=F64)])
def test_against_bfgs_updates_one_by_one(base: Tensor | None) -> None:
    H = symmetric(torch.logspace(0, 3, 12, dtype=F64))
    # Conjugate: S = L⁻ᵀ Q.
    S = torch.linalg.solve(torch.linalg.cholesky(H).mT, torch.linalg.qr(normal(12, 4)).Q)
    Y = H @ S
    P = LimitedMemory(Pairs(S, Y, Y[:, -1:]), None if base is None else lambda X: base[:, None] * X)
    c = float(P.level)
    expected = (torch.eye(12, dtype=F64) if base is None else torch.diag(base)) / c
    for s, y in zip(S.mT[:, :, None], Y.mT[:, :, None], strict=True):
        K = torch.eye(12, dtype=F64) - y @ s.mT / (s.mT @ y)
        expected = K.mT @ expected @ K + s @ s.mT / (s.mT @ y)
    torch.testing.assert_close(dense(P, 12), c * expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(P(Y), c * S, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 3, 11])
def test_eigenvalues_as_theory_has_them(length: int) -> None:
    """j of P H are c, the others interlace those of H; and P is positive definite."""
    eigenvalues = torch.logspace(0, 4, 12, dtype=F64)
    H, g = symmetric(eigenvalues), normal(12, 1)
    recycling = Recycling(20)
    cg(recycling.watched(H.matmul), g, rtol=0.0, max_iter=length)
    P = recycling.preconditioner(None, g)
    assert isinstance(P, LimitedMemory)
    matrix = dense(P, 12)
    torch.testing.assert_close(matrix, matrix.mT, rtol=0, atol=1e-10)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0
    L = torch.linalg.cholesky(H)
    found = torch.linalg.eigvalsh(L.mT @ matrix @ L)
    c = float(P.level)
    assert eigenvalues[0] <= c <= eigenvalues[-1]
    at_level = (found - c).abs() < 1e-6 * c
    assert int(at_level.sum()) == length
    others = found[~at_level]
    assert bool((others >= eigenvalues[: 12 - length] * (1 - 1e-8)).all())
    assert bool((others <= eigenvalues[length:] * (1 + 1e-8)).all())


def test_outlying_eigenvalues_are_gone() -> None:
    H, g = symmetric(outlying()), normal(60, 1)
    recycling = Recycling(20)
    run(H, g, recycling)
    P = recycling.preconditioner(None, g)
    assert isinstance(P, LimitedMemory)
    L = torch.linalg.cholesky(H)
    found = torch.linalg.eigvalsh(L.mT @ dense(P, 60) @ L)
    # What is left are twenty at the level, and the others among the inner ones.
    at_level = (found / float(P.level) - 1).abs() < 1e-6
    assert 15 <= int(at_level.sum()) <= 20  # some of long runs are met twice
    assert bool(((found[~at_level] > 0.999) & (found[~at_level] < 2.001)).all())


def test_the_next_run_is_shorter_and_costs_nothing_else() -> None:
    H = symmetric(outlying())
    plain = [run(H, normal(60, 1, seed=seed), NONE) for seed in range(4)]
    recycling, calls = Recycling(20), 0

    def product(V: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return H @ V

    helped = []
    for seed in range(4):
        g = normal(60, 1, seed=seed)
        P = recycling.preconditioner(None, g)
        outcome = cg(recycling.watched(product), g, precondition=P, rtol=1e-8, max_iter=200)
        helped.append(outcome.num_matvecs)
    assert calls == sum(helped)
    assert helped[0] == plain[0] and sum(helped[1:]) < 0.7 * sum(plain[1:])


def test_nothing_to_recycle() -> None:
    g, base = torch.ones(3, 1, dtype=F64), lambda X: 2 * X
    for recycling in (NONE, Recycling(4)):
        assert recycling.preconditioner(None, g) is None
        assert recycling.preconditioner(base, g) is base
    hvp = torch.eye(3, dtype=F64).matmul
    assert NONE.watched(hvp) is hvp


@pytest.mark.parametrize("factor", [-1.0, math.nan, 0.0])
def test_a_base_that_is_no_preconditioner_is_left_for_the_solver_to_tell(factor: float) -> None:
    recycling, g = Recycling(4), normal(12, 1)
    H = symmetric(torch.linspace(1, 9, 12, dtype=F64))
    cg(recycling.watched(H.matmul), g, rtol=0.0, max_iter=3)

    def base(X: Tensor) -> Tensor:
        return factor * X

    assert recycling.preconditioner(base, g) is base


def test_the_pairs_stay_where_a_run_teaches_nothing() -> None:
    """P of one point serves all runs there, and an exception in a product costs no more than its run."""
    H, g = symmetric(outlying()), normal(60, 1)
    recycling = Recycling(20)
    run(H, g, recycling)
    first = dense(recycling.preconditioner(None, g), 60)
    torch.testing.assert_close(dense(recycling.preconditioner(None, g), 60), first, rtol=0, atol=0)

    def broken(V: Tensor) -> Tensor:
        raise RuntimeError("own")

    with pytest.raises(RuntimeError, match="own"):
        recycling.watched(broken)(g)
    assert recycling.preconditioner(None, g) is None
    run(H, g, recycling)
    assert recycling.preconditioner(None, g) is not None


def test_single_precision() -> None:
    H, g = symmetric(outlying()).float(), normal(60, 1).float()
    recycling = Recycling(20)
    cg(recycling.watched(H.matmul), g, rtol=1e-4, max_iter=60)
    P = recycling.preconditioner(None, g)
    assert P is not None and P(g).dtype == torch.float32
    plain = cg(H.matmul, normal(60, 1, seed=5).float(), rtol=1e-3, max_iter=60).num_matvecs
    helped = cg(H.matmul, normal(60, 1, seed=5).float(), precondition=P, rtol=1e-3, max_iter=60).num_matvecs
    assert helped < plain


# --------------------------------------------------------------------------------------- in the minimisers


def test_the_ball_is_that_of_the_preconditioners_norm() -> None:
    H, g = symmetric(outlying()), normal(60)
    problem, recycling = quadratic(H, g), Recycling(20)
    Steihaug(problem.start, 1e-8, max_iter=60, precondition=None, recycling=recycling).ball(1e9)
    model = Steihaug(problem.start, 1e-8, max_iter=60, precondition=None, recycling=recycling)
    P = recycling.preconditioner(None, problem.start.gradient)
    assert P is not None
    inside = model.ball(1e9)
    for radius in (inside.norm / 2, inside.norm / 7, inside.norm * 2):
        step = model.ball(radius)
        s = step.s[:, 0]
        norm = float(s @ torch.linalg.solve(dense(P, 60), s)) ** 0.5
        assert step.norm == pytest.approx(norm, rel=1e-6) and norm <= radius * (1 + 1e-8)
        assert step.on_boundary == (radius < inside.norm)
        assert step.predicted == pytest.approx(-float(g @ s + s @ H @ s / 2), rel=1e-8)
    torch.testing.assert_close(inside.s[:, 0], -torch.linalg.solve(H, g), rtol=0, atol=1e-5)


METHODS = [TrustNCG, TrustKrylov, ARC, LineSearchNewtonCG]
methods = pytest.mark.parametrize("method", METHODS)


@methods
def test_fewer_products_for_the_same_minimum(method: type[TrustNCG]) -> None:
    H = symmetric(outlying(100, 8), seed=51)
    b = normal(100)

    def func(x: Tensor) -> Tensor:
        return x @ H @ x / 2 - b @ x + (torch.cosh(x) - 1).sum()

    x0 = torch.full((100,), 2.0, dtype=F64)
    plain, helped = (minimize(func, x0, method=method(recycle=count)) for count in (0, 20))
    for result in (plain, helped):
        assert result.success and result.certificate == "minimum"
    torch.testing.assert_close(helped.x, plain.x, rtol=0, atol=1e-6)
    assert helped.min_eigenvalue == pytest.approx(plain.min_eigenvalue, rel=0.1)
    # The certificate's aside.
    assert helped.history[-1].nhev < 0.95 * plain.history[-1].nhev


@methods
@pytest.mark.parametrize("count", [1, 3, None])
def test_saddles_are_left_all_the_same(method: type[TrustNCG], count: int | None) -> None:
    start = torch.tensor([1.0, 1e-9, 0.5], dtype=F64)
    result = minimize(
        lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 + 100 * (x[2] - x[0]) ** 2,
        start,
        method=method(recycle=count),
    )
    assert result.success and result.certificate == "minimum"
    assert result.fun == pytest.approx(-0.25, abs=1e-10)


@methods
def test_a_preconditioner_of_the_users_is_built_on(method: type[TrustNCG]) -> None:
    d = torch.logspace(0, 5, 80, dtype=F64)
    H = torch.diag(d) + symmetric(outlying(80))

    def func(x: Tensor) -> Tensor:
        return x @ H @ x / 2 + (torch.cosh(x) - x).sum()

    x0 = torch.ones(80, dtype=F64)
    plain, helped = (
        minimize(func, x0, method=method(recycle=count), preconditioner=Diagonal(1 / d)) for count in (0, 20)
    )
    assert plain.success and helped.success
    assert helped.fun == pytest.approx(plain.fun, abs=1e-9)
    assert helped.history[-1].nhev < 1.3 * plain.history[-1].nhev  # the norm changes from step to step


def test_a_broken_product_ends_as_ever() -> None:
    operator = HessianOperator(
        lambda x: x.abs().pow(1.5).sum() + x.sum(), torch.zeros(1, dtype=F64), verify=False
    )
    problem = Objective(operator, Limits(), Interrupt())
    with pytest.raises(Ended) as caught:
        Steihaug(problem.start, 0.1, max_iter=9, precondition=None, recycling=Recycling(4)).ball(1.0)
    assert caught.value.ending is Ending.NON_FINITE


def test_the_default_is_none_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, vector = quadratic(torch.eye(300, dtype=F64), torch.ones(300, dtype=F64)), 300 * 8

    def vectors(method: Method, affordable: int, preconditioned: bool = False) -> int:
        monkeypatch.setattr(build, "free_bytes", lambda device: 8 * affordable * vector)
        return build._recycling(method, problem, preconditioned=preconditioned).num_vectors

    for method in (TrustNCG, LineSearchNewtonCG):
        assert [vectors(method(), affordable) for affordable in (79, 80, 1000)] == [0, 80, 80]
    for method in (TrustKrylov, ARC):
        assert [vectors(method(), affordable) for affordable in (479, 480)] == [0, 80]
    for method in METHODS:
        assert [vectors(method(recycle=count), 0) for count in (0, 3, 1000)] == [0, 12, 1200]
        assert vectors(method(), 1000, preconditioned=True) == 0
        assert vectors(method(recycle=3), 1000, preconditioned=True) == 12
    assert vectors(LineSearchNewtonCG(capped=True), 1000) == vectors(NewtonMR(), 1000) == 0


@methods
@pytest.mark.parametrize("recycle", [-1, True, 2.0])
def test_errors_of_settings(method: type[TrustNCG], recycle: object) -> None:
    with pytest.raises(ValueError, match="recycle must be an integer, at least 0, or None, got"):
        method(recycle=recycle)  # type: ignore[arg-type]


def test_errors_where_it_does_not_apply() -> None:
    with pytest.raises(ValueError, match="recycle must be None or 0 with capped=True, whose bounds hold"):
        LineSearchNewtonCG(capped=True, recycle=3)
    assert LineSearchNewtonCG(capped=True, recycle=0).recycle == 0
    with pytest.raises(ValueError, match="recycle must be None or 0 with bounds, got 3"):
        minimize(lambda x: (x**2).sum(), torch.ones(2), bounds=(0, 1), method=TrustNCG(recycle=3))
