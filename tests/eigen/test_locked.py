from __future__ import annotations

import torch
from torch import Tensor

from hvplib.eigen.locked import Locked
from hvplib.eigen.products import Products
from hvplib.eigen.task import Task
from hvplib.krylov.lanczos import Factorization
from tests.eigen.matrices import residuals, with_spectrum
from tests.krylov.factorizations import run, seeded

F64 = torch.float64
# The two at 2 are nearer to each other than the tolerance: one Krylov space shows a mixture of them.
CLUSTER = torch.tensor([2.0, 2 + 1e-8, 2.5, 3.0], dtype=F64)
A = with_spectrum(torch.cat([torch.linspace(0, 1, 56, dtype=F64), CLUSTER]))


def wants(k: int) -> Task:
    return Task(k, "LA", rtol=1e-8, floor=1e-13, miss_probability=1e-3, max_matvecs=1000)


def locked(k: int = 3, tolerance: float = 1e-8) -> tuple[Locked, Factorization, Products]:
    """The first k pairs that a Krylov space shows, locked with residuals near the tolerance."""
    F = Factorization(seeded(60)(1), capacity=16, size=60, lockable=k + 2)
    products = Products(A.matmul)
    pairs = Locked(wants(k), F, products)
    while True:
        run(F, A)
        ritz = F.ritz()
        wanted = wants(k).wanted(ritz.values)
        if float(ritz.residual_norms[wanted].max()) <= tolerance:
            pairs.lock(ritz, wanted, pairs.examined(ritz, wanted), wanted[:0])
            return pairs, F, products
        F.restart(ritz.vectors[:, -10:])


def second_start(F: Factorization) -> None:
    """Another run beside what is locked, until its first pair is exact."""
    F.renew(seeded(60, seed=8)(1))
    for _ in range(8):
        run(F, A)
        F.restart(F.ritz().vectors[:, -8:])


def found(pairs: Locked, F: Factorization) -> Tensor:
    return pairs.vectors(torch.arange(F.locked))


def test_locked_is_what_was_examined() -> None:
    pairs, F, products = locked()
    assert (F.locked, F.active, pairs.confirmed) == (3, 0, True)
    assert products.by_purpose == {"confirmation": 3}
    X = found(pairs, F)
    torch.testing.assert_close(pairs.residual_norms, residuals(A, pairs.values, X), rtol=1e-6, atol=1e-14)
    assert pairs.wanted().tolist() == [0, 1, 2]
    torch.testing.assert_close(pairs.values, torch.tensor([3.0, 2.5, 2.0], dtype=F64), rtol=1e-7, atol=0)


def test_what_is_named_beside_them_stays_active() -> None:
    F = Factorization(seeded(60)(1), capacity=16, size=60, lockable=3)
    pairs = Locked(wants(2), F, Products(A.matmul))
    ritz = run(F, A).ritz()
    wanted, beside = torch.tensor([15, 14]), torch.tensor([13, 12, 0])
    expected = F.combine(ritz.vectors[:, beside])
    pairs.lock(ritz, wanted, pairs.examined(ritz, wanted), beside)
    assert (F.locked, F.active, pairs.values.numel()) == (2, 3, 2)
    torch.testing.assert_close(F.basis[2:5], expected, rtol=1e-12, atol=1e-14)
    F.lock(3)
    pairs.sort()
    assert F.locked == 2


def test_vectors_get_their_length_back() -> None:
    """Each restart rounds the lengths a little, always to the same side."""
    pairs, F, _ = locked()
    F.basis.rows[:3] *= 1 + 1e-9
    pairs.confirmed = False
    pairs.confirm()
    lengths = torch.linalg.vector_norm(found(pairs, F), dim=0)
    torch.testing.assert_close(lengths, torch.ones(3, dtype=F64), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        pairs.residual_norms, residuals(A, pairs.values, found(pairs, F)), rtol=1e-6, atol=1e-14
    )


def test_taken_in_by_rayleigh_ritz() -> None:
    pairs, F, _ = locked()
    before = pairs.residual_norms
    second_start(F)
    ritz = F.ritz()
    copy = torch.tensor([len(ritz.values) - 1])
    coupled = float(ritz.residual_norms[-1])
    assert float(ritz.deflated_norms[-1]) < 1e-12 < 1e-9 < coupled
    pairs.take_in(ritz, copy)
    assert F.locked == 4 and F.active == len(ritz.values) - 1 and not pairs.confirmed
    X = found(pairs, F)
    torch.testing.assert_close(X.mT @ X, torch.eye(4, dtype=F64), rtol=0, atol=1e-12)
    # No pair couples with another, and none is worse than what went in.
    T = X.mT @ A @ X
    assert float((T - T.diagonal().diag()).abs().max()) <= 0.1 * 2e-8
    true = residuals(A, pairs.values, X)
    assert bool((true <= pairs.residual_norms + 1e-12).all())
    assert float(true.max()) <= 1.01 * float(before.max()) and float(pairs.residual_norms.max()) <= 4e-8
    # The active columns go on beside the turned ones.
    assert (
        float((F.cross(torch.eye(F.active, dtype=F64)) - X.mT @ A @ F.basis[4 : F.count]).abs().max()) < 1e-12
    )


def test_what_is_pushed_out_stays_until_sorted() -> None:
    pairs, F, _ = locked()
    second_start(F)
    ritz = F.ritz()
    pairs.take_in(ritz, torch.tensor([len(ritz.values) - 1]))
    assert F.locked == 4 and len(pairs.wanted()) == 3
    best = pairs.values[pairs.wanted()]
    pairs.sort()
    assert F.locked == 3 and torch.equal(pairs.values, best)
    true = residuals(A, pairs.values, found(pairs, F))
    assert bool((true <= pairs.residual_norms + 1e-12).all())


def test_confirmed_only_once() -> None:
    pairs, F, products = locked()
    assert pairs.confirm() <= 1 and products.total == 3
    second_start(F)
    ritz = F.ritz()
    pairs.take_in(ritz, torch.tensor([len(ritz.values) - 1]))
    worst = pairs.confirm()
    assert F.locked == 3 and pairs.confirmed and products.total == 3 + 3
    assert worst == float((pairs.residual_norms / pairs.tolerances(pairs.values)).max()) <= 1
    X = found(pairs, F)
    torch.testing.assert_close(pairs.residual_norms, residuals(A, pairs.values, X), rtol=1e-6, atol=1e-13)


def test_state() -> None:
    pairs, F, products = locked()
    other = Locked(wants(3), F, products)
    other.load(pairs.state())
    assert torch.equal(other.values, pairs.values) and torch.equal(other.residual_norms, pairs.residual_norms)
    assert other.confirmed
