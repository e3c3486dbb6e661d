"""The minimisers of a quadratic model over a Krylov space: against the whole matrix, at every scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from hvplib.krylov import quadratic_model
from hvplib.krylov.inner import Inner
from hvplib.krylov.quadratic_model import QuadraticSpace
from hvplib.krylov.quadratic_step import QuadraticStep
from hvplib.krylov.secular import Minimiser, ball_step, cubic_step
from hvplib.results.status import Status
from tests.krylov.systems import normal, orthogonal
from tests.krylov.watched import Watched

F64 = torch.float64
Block = Callable[[Tensor], Tensor]


def random(n: int, seed: int = 7, dtype: torch.dtype = F64) -> Callable[[int], Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return lambda j: torch.randn(n, j, generator=rng, dtype=F64).to(dtype)


def model(values: Tensor, c: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """H = Q diag(values) Qᵀ and g = Q c."""
    Q = orthogonal(len(values), seed)
    H = (Q * values) @ Q.mT
    return (H + H.mT) / 2, (Q @ c).unsqueeze(1)


def fall(H: Tensor, g: Tensor, s: Tensor, sigma: float = 0.0, M: Tensor | None = None) -> float:
    """q(0) − q(s)."""
    length = s.norm() if M is None else (s.mT @ M @ s).sqrt()
    return -float(g.mT @ s + s.mT @ H @ s / 2) - float(sigma / 3 * length * length * length)


def exact(H: Tensor, g: Tensor, small: Callable[..., Minimiser], size: float) -> Minimiser:
    values, V = torch.linalg.eigh(H)
    return small(values, (V.mT @ g)[:, 0], size)


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    n = 40
    spread, c = normal(n, seed=1), normal(n, seed=2)
    hard, saddle, nearly = c.clone(), c.clone(), c.clone()
    hard[spread.argmin()] = 0.0
    nearly[spread.argmin()] = 1e-9
    saddle[spread < 0] = 0.0
    few = torch.arange(n, dtype=F64) % 4 - 1
    singular = spread.abs()
    singular[0] = 0.0
    return {
        "definite": model(spread.abs() + 0.1, c),
        "indefinite": model(spread, c),
        "negative definite": model(-spread.abs() - 0.1, c),
        "singular": model(singular, c),
        "hard": model(spread, hard),
        "nearly hard": model(spread, nearly),
        "stable manifold of a saddle": model(spread, saddle),
        "few eigenvalues": model(few, c),
        "few eigenvalues, stable manifold": model(few, torch.where(few < 0, 0.0, c)),
        "no gradient": model(spread, 0 * c),
        "no gradient, definite": model(spread.abs(), 0 * c),
        "no curvature": model(0 * spread, c),
        "nothing": model(0 * spread, 0 * c),
        "one eigenvector": model(spread, torch.eye(n, dtype=F64)[3]),
        "n = 1": (torch.tensor([[-2.0]], dtype=F64), torch.tensor([[3.0]], dtype=F64)),
        "n = 1, no gradient": (torch.tensor([[-2.0]], dtype=F64), torch.zeros(1, 1, dtype=F64)),
        "n = 2": model(torch.tensor([-1.0, 3.0], dtype=F64), torch.tensor([1.0, 1.0], dtype=F64)),
    }


CASES = cases()
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def whole_space(H: Tensor, g: Tensor, **options: object) -> QuadraticSpace:
    n = len(g)
    return QuadraticSpace(H.matmul, g, krylov_dim=2 * n, random=random(n), search_dim=2 * n, **options)


@every_case
@pytest.mark.parametrize("size", [1e-3, 0.5, 3.0, 1e4])
def test_the_step_is_the_global_minimiser(case: tuple[Tensor, Tensor], size: float) -> None:
    """Of the space brought to its end: what the whole matrix gives, and the conditions of optimality."""
    H, g = case
    space = whole_space(H, g)
    for call, small in ((space.ball, ball_step), (space.cubic, cubic_step)):
        step, expected = call(size, rtol=0.0), exact(H, g, small, size)
        sigma = size if small is cubic_step else 0.0
        assert step.status is Status.CONVERGED
        assert step.predicted == pytest.approx(expected.predicted, rel=1e-10, abs=1e-14)
        terms = float(g.norm()) * step.norm + float(H.abs().max()) * step.norm**2
        assert fall(H, g, step.s, sigma) == pytest.approx(step.predicted, abs=1e-12 * terms)
        assert float(step.s.norm()) == pytest.approx(step.norm, rel=1e-12)
        assert step.multiplier == pytest.approx(expected.multiplier, rel=1e-9, abs=1e-10)
        optimality = H @ step.s + step.multiplier * step.s + g
        scale = max(float(g.norm()), float(torch.linalg.eigvalsh(H).abs().max()) * step.norm)
        assert float(optimality.norm()) <= 1e-11 * scale
        assert float(torch.linalg.eigvalsh(H)[0]) + step.multiplier >= -1e-11
        if small is ball_step:
            assert step.multiplier * (size - step.norm) == pytest.approx(0.0, abs=1e-12 * scale)
            assert step.on_boundary == expected.on_boundary


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("method", ["trust-exact", "trust-krylov"])
def test_a_ball_step_is_at_least_scipys(seed: int, method: str) -> None:
    """One iteration of SciPy's from zero is a step in the ball."""
    rng = torch.Generator().manual_seed(seed)
    n, radius = 12, 0.5
    H, g = model(torch.randn(n, generator=rng, dtype=F64), torch.randn(n, generator=rng, dtype=F64))
    Hn, gn = H.numpy(), g[:, 0].numpy()
    found = minimize(
        lambda x: gn @ x + x @ Hn @ x / 2,
        0 * gn,
        jac=lambda x: gn + Hn @ x,
        hess=lambda x: Hn,
        method=method,
        options={"initial_trust_radius": radius, "maxiter": 1},
    )
    # SciPy is content with a tenth more or less than the radius, and with less than the optimum.
    step = whole_space(H, g).ball(float(torch.as_tensor(found.x).norm()))
    assert step.predicted >= -found.fun - 1e-10
    assert step.predicted == pytest.approx(-found.fun, rel=0.05)


@every_case
def test_a_preconditioner_is_a_metric(case: tuple[Tensor, Tensor]) -> None:
    """With P = LLᵀ, s = L y and y the step of LᵀHL."""
    H, g = case
    n = len(g)
    root = normal(n, n, seed=3) / math.sqrt(n)
    P = root @ root.mT + 0.5 * torch.eye(n, dtype=F64)
    L = torch.linalg.cholesky(P)
    inside, slope = L.mT @ H @ L, L.mT @ g
    space = whole_space(H, g, precondition=P.matmul)
    for call, small in ((space.ball, ball_step), (space.cubic, cubic_step)):
        step, expected = call(0.7, rtol=0.0), exact((inside + inside.mT) / 2, slope, small, 0.7)
        assert step.predicted == pytest.approx(expected.predicted, rel=1e-9, abs=1e-13)
        y = torch.linalg.solve_triangular(L, step.s, upper=False)
        assert float(y.norm()) == pytest.approx(step.norm, rel=1e-10)
        assert fall(inside, slope, y, 0.7 if small is cubic_step else 0.0) == pytest.approx(
            step.predicted, rel=1e-9, abs=1e-12
        )


@pytest.mark.parametrize("curvature", [1e-150, 1e-40, 1.0, 1e40, 1e150])
@pytest.mark.parametrize("slope", [1e-150, 1.0, 1e150])
@pytest.mark.parametrize("radius", [1e-12, 1.0, 1e12])
def test_any_scale(curvature: float, slope: float, radius: float) -> None:
    H, g = CASES["indefinite"]
    step = whole_space(H * curvature, g * slope).ball(radius, rtol=1e-10)
    expected = exact(H * curvature, g * slope, ball_step, radius)
    assert step.status is Status.CONVERGED
    assert step.norm == radius
    assert step.predicted == pytest.approx(expected.predicted, rel=1e-9, abs=0)
    assert step.multiplier == pytest.approx(expected.multiplier, rel=1e-9, abs=0)
    assert float((step.s / radius).norm()) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("curvature", [1e-25, 1e-3, 1.0, 1e25])
@pytest.mark.parametrize("slope", [1e-25, 1.0, 1e25])
def test_single_precision_at_any_scale(curvature: float, slope: float) -> None:
    H, g = (x.float() for x in CASES["indefinite"])
    H, g = H * curvature, g * slope
    space = QuadraticSpace(H.matmul, g, krylov_dim=80, random=random(40, dtype=torch.float32))
    step = space.ball(0.5, rtol=1e-5)
    expected = exact(H.double(), g.double(), ball_step, 0.5)
    assert step.s.dtype == torch.float32
    assert step.status is Status.CONVERGED
    assert step.predicted == pytest.approx(expected.predicted, rel=1e-5, abs=0)
    assert float(step.s.norm()) == pytest.approx(0.5, rel=1e-6)


@every_case
def test_the_residual_is_the_true_one(case: tuple[Tensor, Tensor]) -> None:
    H, g = case
    n = len(g)
    P = torch.diag(torch.linspace(0.5, 2.0, n, dtype=F64))
    for dim in (1, 2, 5, 11):
        space = QuadraticSpace(H.matmul, g, precondition=P.matmul, krylov_dim=dim)
        for step in (space.ball(0.4, rtol=0.0), space.cubic(2.0, rtol=0.0)):
            r = H @ step.s + step.multiplier * torch.linalg.solve(P, step.s) + g
            true = float((r.mT @ P @ r).sqrt())
            assert step.residual_norm == pytest.approx(true, abs=1e-12)
            assert step.krylov_dim <= dim


@every_case
def test_the_stopping_rule(case: tuple[Tensor, Tensor]) -> None:
    """‖(H + μ) s + g‖ ≤ rtol max(‖g‖, μ ‖s‖), and not before."""
    H, g = case
    for rtol in (1e-2, 1e-6):
        step = QuadraticSpace(H.matmul, g, krylov_dim=80).ball(1.0, rtol=rtol)
        r = H @ step.s + step.multiplier * step.s + g
        tolerance = rtol * max(float(g.norm()), step.multiplier * step.norm)
        assert float(r.norm()) <= tolerance + 1e-13
        if step.num_matvecs > 1:
            before = QuadraticSpace(H.matmul, g, krylov_dim=step.num_matvecs - 1).ball(1.0, rtol=rtol)
            assert before.status is Status.MAX_ITER
            rule = rtol * max(float(g.norm()), before.multiplier * before.norm)
            assert before.residual_norm > rule


def test_a_small_gradient_beside_negative_curvature_asks_for_no_more_digits() -> None:
    H, g = CASES["indefinite"]
    step = QuadraticSpace(H.matmul, 1e-9 * g, krylov_dim=40).ball(1.0, rtol=1e-3)
    assert 1e-3 * 1e-9 * float(g.norm()) < step.residual_norm <= 1e-3 * step.multiplier
    assert step.predicted == pytest.approx(exact(H, 1e-9 * g, ball_step, 1.0).predicted, rel=1e-4)


def test_the_boundary_may_have_a_tolerance_of_its_own() -> None:
    H, g = CASES["indefinite"]
    for radius, rtol, boundary_rtol in ((1.0, 1e-10, 1e-2), (1.0, 1e-2, 1e-10)):
        step = QuadraticSpace(H.matmul, g, krylov_dim=40).ball(radius, rtol=rtol, boundary_rtol=boundary_rtol)
        alone = QuadraticSpace(H.matmul, g, krylov_dim=40).ball(radius, rtol=boundary_rtol)
        assert step.on_boundary
        assert step.num_matvecs == alone.num_matvecs
    H, g = CASES["definite"]
    step = QuadraticSpace(H.matmul, g, krylov_dim=40).ball(1e3, rtol=1e-8, boundary_rtol=0.5)
    assert not step.on_boundary
    assert step.residual_norm <= 1e-8 * float(g.norm())


def test_a_rejected_step_costs_nothing() -> None:
    H, g = CASES["indefinite"]
    product = Watched(H)
    space = QuadraticSpace(product, g, krylov_dim=40)
    space.ball(1.0, rtol=1e-6)
    spent = len(product.widths)
    assert space.num_matvecs == spent
    for radius in (0.5, 0.1, 0.01):
        step = space.ball(radius, rtol=1e-6)
        assert step.predicted == pytest.approx(exact(H, g, ball_step, radius).predicted, rel=1e-9)
    assert len(product.widths) == spent
    for sigma in (1.0, 4.0, 100.0):
        step = space.cubic(sigma, rtol=1e-6)
        assert step.predicted == pytest.approx(exact(H, g, cubic_step, sigma).predicted, rel=1e-9)
        spent = spent if sigma > 1 else step.num_matvecs
    assert len(product.widths) == spent
    assert space.ball(100.0, rtol=1e-12).num_matvecs > spent  # what is harder is paid for
    assert space.num_matvecs == len(product.widths)


def test_what_is_hidden_is_found_with_random_vectors_only() -> None:
    """g lies in the span of eigenvectors with positive eigenvalues: its space ends after three products."""
    values = torch.tensor([-1.0, *[1.0, 2.0, 3.0] * 10], dtype=F64)
    c = torch.cat([torch.zeros(1, dtype=F64), normal(30, seed=5)])
    H, g = model(values, c)
    blind = QuadraticSpace(H.matmul, g, krylov_dim=31).ball(100.0, rtol=0.0)
    assert (blind.status, blind.num_matvecs) == (Status.CONVERGED, 3)
    assert blind.direction is None
    assert not blind.on_boundary
    step = QuadraticSpace(H.matmul, g, krylov_dim=31, random=random(31)).ball(100.0, rtol=0.0)
    assert (step.status, step.num_matvecs) == (Status.CONVERGED, 7)
    assert step.on_boundary
    assert step.least_ritz == pytest.approx(-1.0)
    assert step.predicted == pytest.approx(exact(H, g, ball_step, 100.0).predicted, rel=1e-12)


def test_a_search_for_what_is_hidden_is_bounded() -> None:
    H, g = model(torch.linspace(1, 2, 200, dtype=F64), torch.zeros(200, dtype=F64))
    space = QuadraticSpace(H.matmul, g, krylov_dim=100, random=random(200), search_dim=9)
    step = space.ball(1.0)
    assert (step.status, step.num_matvecs) == (Status.CONVERGED, 9)
    assert (step.predicted, step.norm) == (0.0, 0.0)
    assert space.ball(0.5).num_matvecs == 9
    short = QuadraticSpace(H.matmul, g, krylov_dim=4, random=random(200), search_dim=9).ball(1.0)
    assert (short.status, short.num_matvecs) == (Status.MAX_ITER, 4)
    never = QuadraticSpace(H.matmul, g, krylov_dim=4, random=random(200), search_dim=0).ball(1.0)
    assert (never.status, never.num_matvecs) == (Status.CONVERGED, 0)


def test_the_direction_of_negative_curvature() -> None:
    H, g = CASES["indefinite"]
    step = whole_space(H, g).ball(1.0, rtol=0.0)
    values, V = torch.linalg.eigh(H)
    assert step.direction is not None
    assert step.least_ritz == pytest.approx(float(values[0]), rel=1e-12)
    assert float((step.direction.mT @ V[:, :1]).abs()) == pytest.approx(1.0, rel=1e-12)
    early = QuadraticSpace(H.matmul, g, krylov_dim=6).ball(1.0, rtol=0.0)
    assert early.direction is not None
    u = early.direction
    assert float(u.mT @ H @ u) == pytest.approx(early.least_ritz, rel=1e-12)
    residual = float((H @ u - early.least_ritz * u).norm())
    assert early.least_ritz_residual == pytest.approx(residual, rel=1e-10)
    assert whole_space(*CASES["definite"]).ball(1.0, rtol=0.0).direction is None


def test_t_and_its_ritz_vectors() -> None:
    H, g = CASES["indefinite"]
    space = QuadraticSpace(H.matmul, g, krylov_dim=10)
    space.ball(1.0, rtol=0.0)
    V = space.combine(torch.eye(10, dtype=F64))
    torch.testing.assert_close(V.mT @ V, torch.eye(10, dtype=F64))
    torch.testing.assert_close(V.mT @ H @ V, space.T)
    values, coordinates, residuals = space.ritz()
    X = space.combine(coordinates)
    torch.testing.assert_close((H @ X - X * values).norm(dim=0), residuals)
    assert space.gradient_norm == pytest.approx(float(g.norm()), rel=1e-14)


@every_case
@pytest.mark.parametrize("products", [1, 2, 3])
def test_an_early_end_is_at_least_the_cauchy_point(case: tuple[Tensor, Tensor], products: int) -> None:
    H, g = case
    step = QuadraticSpace(H.matmul, g, krylov_dim=50).ball(0.8, rtol=0.0, max_matvecs=products)
    assert step.num_matvecs <= products
    norm = float(g.norm())
    if norm == 0:
        assert (step.num_matvecs, step.predicted) == (0, 0.0)
        return
    curvature = float(g.mT @ H @ g) / norm**2
    length = min(0.8, norm / curvature) if curvature > 0 else 0.8
    cauchy = length * norm - length**2 * curvature / 2
    assert step.predicted >= cauchy * (1 - 1e-12)
    assert fall(H, g, step.s) == pytest.approx(step.predicted, rel=1e-10)


def test_many_products_are_looked_at_now_and_then() -> None:
    """Beyond 32 dimensions the tolerance is met at most a sixteenth too late."""
    H, g = model(torch.linspace(1, 400, 150, dtype=F64), normal(150, seed=4))
    step = QuadraticSpace(H.matmul, g, krylov_dim=150).ball(1e6, rtol=1e-6)
    least = 1
    while QuadraticSpace(H.matmul, g, krylov_dim=least).ball(1e6, rtol=1e-6).status is Status.MAX_ITER:
        least += 1
    assert 32 < least <= step.num_matvecs <= least * (1 + 1 / 15) + 1


class Failing(Watched):
    """Products that are NaN, or raise, from a call on."""

    def __init__(self, A: Tensor, good: int, error: type[BaseException] | None = None) -> None:
        super().__init__(A)
        self.good, self.error = good, error

    def __call__(self, X: Tensor) -> Tensor:
        if len(self.widths) < self.good:
            return super().__call__(X)
        if self.error is not None:
            raise self.error
        return super().__call__(X) * math.nan


@pytest.mark.parametrize("good", [0, 1, 5])
def test_a_product_that_is_not_finite(good: int) -> None:
    H, g = CASES["indefinite"]
    product = Failing(H, good)
    space = QuadraticSpace(product, g, krylov_dim=40)
    step = space.ball(1.0, rtol=1e-12)
    assert step.status is Status.NON_FINITE
    assert (step.krylov_dim, step.num_matvecs) == (good, good + 1)
    assert bool(step.s.isfinite().all())
    assert (step.predicted > 0) == (good > 0)
    assert fall(H, g, step.s) == pytest.approx(step.predicted, rel=1e-10)
    assert space.ball(0.5, rtol=1e-12).num_matvecs == good + 1  # it is not asked again


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite(bad: float) -> None:
    H, g = CASES["indefinite"]
    g = g.clone()
    g[3] = bad
    step = QuadraticSpace(H.matmul, g, krylov_dim=40, random=random(40)).ball(1.0)
    assert (step.status, step.num_matvecs, step.predicted) == (Status.NON_FINITE, 0, 0.0)
    assert float(step.s.abs().max()) == 0


def test_a_random_vector_that_is_not_finite() -> None:
    H, g = CASES["no gradient"]
    space = QuadraticSpace(H.matmul, g, krylov_dim=40, random=lambda j: g + math.nan)
    assert space.ball(1.0).status is Status.NON_FINITE


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_leaves_the_space_as_it_was(error: type[BaseException]) -> None:
    H, g = CASES["indefinite"]
    product = Failing(H, 4, error)
    space = QuadraticSpace(product, g, krylov_dim=40)
    with pytest.raises(error):
        space.ball(1.0, rtol=1e-10)
    product.good = 100
    step = space.ball(1.0, rtol=1e-10)
    expected = QuadraticSpace(H.matmul, g, krylov_dim=40).ball(1.0, rtol=1e-10)
    torch.testing.assert_close(step.s, expected.s, rtol=0, atol=0)
    assert step.num_matvecs == expected.num_matvecs


def test_an_exception_in_the_preconditioner_leaves_the_space_as_it_was() -> None:
    H, g = CASES["indefinite"]
    P = Failing(torch.eye(40, dtype=F64), 4, ZeroDivisionError)
    space = QuadraticSpace(H.matmul, g, precondition=P, krylov_dim=40)
    with pytest.raises(ZeroDivisionError):
        space.ball(1.0, rtol=1e-10)
    P.good = 100
    expected = QuadraticSpace(H.matmul, g, krylov_dim=40).ball(1.0, rtol=1e-10)
    torch.testing.assert_close(space.ball(1.0, rtol=1e-10).s, expected.s)


@pytest.mark.parametrize("P", [-1.0, 0.0])
def test_an_indefinite_preconditioner(P: float) -> None:
    H, g = CASES["indefinite"]
    step = QuadraticSpace(H.matmul, g, precondition=lambda w: P * w, krylov_dim=40).ball(1.0)
    assert (step.status, step.predicted) == (Status.INDEFINITE_PRECONDITIONER, 0.0)
    signs = torch.ones(40, 1, dtype=F64)
    signs[7:] = -1.0
    g = torch.where(signs > 0, g, 1e-3 * g)  # not seen at the start
    step = QuadraticSpace(H.matmul, g, precondition=lambda w: signs * w, krylov_dim=40).ball(1.0)
    assert step.status is Status.INDEFINITE_PRECONDITIONER


def test_the_preconditioner_may_return_its_argument() -> None:
    H, g = CASES["indefinite"]
    plain = QuadraticSpace(H.matmul, g, krylov_dim=40).ball(1.0)
    step = QuadraticSpace(H.matmul, g, precondition=lambda w: w, krylov_dim=40).ball(1.0)
    torch.testing.assert_close(step.s, plain.s)


def test_nothing_of_the_callers_is_changed() -> None:
    start = normal(40, 1)
    for H, g in CASES["hard"], CASES["few eigenvalues"], CASES["no gradient"]:
        kept = g.clone()
        for precondition in (None, torch.clone):
            space = QuadraticSpace(
                H.matmul, g, precondition=precondition, krylov_dim=60, random=lambda j: start
            )
            space.ball(1.0, rtol=0.0)
        assert torch.equal(g, kept)
    assert torch.equal(start, normal(40, 1))


class Counting(Inner):
    """The Euclidean inner product.

    Attributes:
        count: How often it was asked.
    """

    def __init__(self) -> None:
        self.count = 0
        super().__init__(self._counted)

    def _counted(self, sums: Tensor) -> Tensor:
        self.count += 1
        return sums


def test_inner_products_of_a_step_do_not_grow_in_number() -> None:
    """Three sums over the rows for each product, whatever the dimension: two passes and a length."""
    H, g = CASES["indefinite"]
    inner = Counting()
    space = QuadraticSpace(H.matmul, g, inner=inner, krylov_dim=40)
    counts = []
    for _ in range(10):
        before = inner.count
        space.ball(1.0, rtol=0.0, max_matvecs=1)
        counts.append(inner.count - before)
    assert counts == [3] * 10


@pytest.mark.parametrize("g", [torch.ones(3), torch.ones(3, 2), torch.ones(3, 1, dtype=torch.int64)])
def test_g_must_be_a_column(g: Tensor) -> None:
    with pytest.raises(ValueError, match=r"g must be \(n, 1\) of float32 or float64, got"):
        QuadraticSpace(lambda X: X, g, krylov_dim=3)


def test_numbers_must_make_sense() -> None:
    g = torch.ones(3, 1)
    with pytest.raises(ValueError, match="krylov_dim must be at least 1 and search_dim not negative, got 0"):
        QuadraticSpace(lambda X: X, g, krylov_dim=0)
    with pytest.raises(ValueError, match="search_dim not negative, got 3 and -1"):
        QuadraticSpace(lambda X: X, g, krylov_dim=3, search_dim=-1)
    space = QuadraticSpace(lambda X: X, g, krylov_dim=3)
    calls: list[tuple[str, Callable[[float], QuadraticStep]]] = [
        ("radius", space.ball),
        ("sigma", space.cubic),
    ]
    for name, call in calls:
        for bad in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {bad}"):
                call(bad)
    with pytest.raises(ValueError, match="rtol and max_matvecs must not be negative, got -1"):
        space.ball(1.0, rtol=-1.0)
    with pytest.raises(ValueError, match="rtol and max_matvecs must not be negative, got -1"):
        space.ball(1.0, boundary_rtol=-1.0)
    with pytest.raises(ValueError, match="rtol and max_matvecs must not be negative, got"):
        space.cubic(1.0, max_matvecs=-1)


def test_callables_must_return_blocks_like_their_arguments() -> None:
    g = torch.ones(3, 1)
    with pytest.raises(ValueError, match="matmat must return a block like its argument"):
        QuadraticSpace(lambda X: X[:2], g, krylov_dim=3).ball(1.0)
    with pytest.raises(ValueError, match="precondition must return a block like its argument"):
        QuadraticSpace(lambda X: X, g, precondition=lambda W: W.double(), krylov_dim=3)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("radius", [0.1, 3.0, 1e6])
def test_the_small_problem_is_solved_only_where_it_may_be_the_last(
    name: str, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same products and steps as where it is solved more often; and once where all is inside the ball."""
    H, g = CASES[name]
    solved = 0

    def counted(values: Tensor, c: Tensor, radius: float) -> Minimiser:
        nonlocal solved
        solved += 1
        return ball_step(values, c, radius)

    def found(rtol: float) -> QuadraticStep:
        nonlocal solved
        solved = 0
        space = QuadraticSpace(H.matmul, g, krylov_dim=len(H), random=random(len(H)))
        return space.ball(radius, rtol=rtol)

    monkeypatch.setattr(quadratic_model, "ball_step", counted)
    for rtol in (0.5, 1e-3, 1e-8):
        step = found(rtol)
        few = solved
        with monkeypatch.context() as always:
            always.setattr(
                QuadraticSpace,
                "_is_due",
                lambda self, radius, rtol: quadratic_model._due(self._process.count),
            )
            expected = found(rtol)
        assert (step.status, step.num_matvecs) == (expected.status, expected.num_matvecs)
        assert torch.equal(step.s, expected.s)
        assert few <= solved
        if name == "definite" and radius == 1e6:
            assert few == 1
