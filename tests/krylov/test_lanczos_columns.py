"""A Q = Q T + β q eᵀ for each column of a block by itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.krylov.lanczos_columns import LanczosColumns
from tests.krylov.spaces import Guarded, Plain, Slanted, in_parts
from tests.krylov.systems import normal, with_spectrum

F64 = torch.float64
N = 40
A = with_spectrum(torch.linspace(-2, 3, N, dtype=F64))
B = normal(N, 3, seed=4)


def run(
    steps: int, keep: int, matrix: Tensor = A, block: Tensor = B, space: Plain | None = None
) -> tuple[LanczosColumns, list[Tensor]]:
    """The columns after some steps, and their vectors q_1 ... q_m where none has ended."""
    space = space or Plain()
    size = block.shape[0]
    lanczos = LanczosColumns(
        space.product(matrix), space.vectors(block), keep=keep, size=size, inner=space.inner
    )
    vectors = []
    for _ in range(steps):
        if not lanczos.open:
            break
        lanczos.advance()
        vectors.append(space.back(lanczos.vectors).clone())
        lanczos.multiply()
    return lanczos, vectors


@pytest.mark.parametrize("keep", [0, 12])
def test_identity(keep: int) -> None:
    lanczos, vectors = run(12, keep)
    for j, column in enumerate(lanczos.columns):
        Q = torch.stack([V[:, j] for V in vectors], dim=1)
        residual = A @ Q - Q @ column.tridiagonal()
        torch.testing.assert_close(Q.mT @ Q, torch.eye(12, dtype=F64), rtol=0, atol=1e-12)
        torch.testing.assert_close(Q[:, 0], B[:, j] / B[:, j].norm())
        assert residual[:, :-1].abs().max() < 1e-13
        assert float(residual[:, -1].norm()) == pytest.approx(column.coupling, rel=1e-12)
    assert lanczos.num_matvecs == 36


@pytest.mark.parametrize("keep", [0, 12])
def test_columns_do_not_know_of_each_other(keep: int) -> None:
    together, _ = run(12, keep)
    for j in range(3):
        alone, _ = run(12, keep, block=B[:, j : j + 1])
        torch.testing.assert_close(together.columns[j].tridiagonal(), alone.columns[0].tridiagonal())


def test_a_kept_basis_makes_combinations() -> None:
    lanczos, vectors = run(12, 12)
    coordinates = normal(12, 2)
    for j in range(3):
        Q = torch.stack([V[:, j] for V in vectors], dim=1)
        torch.testing.assert_close(lanczos.combine(j, coordinates), Q @ coordinates)


def test_with_a_basis_no_eigenvalue_appears_twice_and_without_one_copies_do() -> None:
    spectrum = torch.cat([torch.linspace(0, 1, N - 1, dtype=F64) ** 3, torch.tensor([100.0], dtype=F64)])
    matrix = with_spectrum(spectrum)
    kept, _ = run(N, N, matrix)
    plain, _ = run(N, 0, matrix)
    for j in range(3):
        assert kept.columns[j].exhausted
        torch.testing.assert_close(torch.linalg.eigvalsh(kept.columns[j].tridiagonal()), spectrum)
        found = torch.linalg.eigvalsh(plain.columns[j].tridiagonal())
        assert int((found > 99).sum()) > 1


def test_an_invariant_subspace_ends_its_column_alone() -> None:
    spectrum, unit = torch.linspace(-2, 3, N, dtype=F64), torch.eye(N, dtype=F64)
    block = torch.stack([unit[3] + unit[7], B[:, 0], torch.zeros(N, dtype=F64)], dim=1)
    for keep in (0, 12):
        lanczos, _ = run(12, keep, torch.diag(spectrum), block)
        first, second, zero = lanczos.columns
        assert (first.steps, second.steps, zero.steps) == (2, 12, 0)
        assert first.exhausted and zero.exhausted and not second.exhausted
        assert first.coupling == 0 and zero.norm == 0
        torch.testing.assert_close(torch.linalg.eigvalsh(first.tridiagonal()), spectrum[[3, 7]])
        assert lanczos.num_matvecs == 14 and lanczos.open == [1]


@pytest.mark.parametrize("keep", [0, 5])
def test_repeated_eigenvalues_and_n_of_one(keep: int) -> None:
    lanczos, _ = run(5, keep, 3 * torch.eye(4, dtype=F64), normal(4, 2))
    assert [column.tridiagonal().tolist() for column in lanczos.columns] == [[[pytest.approx(3.0)]]] * 2
    single, _ = run(5, keep, torch.tensor([[-7.0]], dtype=F64), torch.tensor([[2.0]], dtype=F64))
    assert single.columns[0].tridiagonal().tolist() == [[-7.0]] and single.columns[0].exhausted


@pytest.mark.parametrize("where", ["start", "product"])
def test_what_is_not_finite_ends_its_column_alone(where: str) -> None:
    block, matrix = B.clone(), A.clone()
    if where == "start":
        block[0, 1] = torch.nan
        lanczos, _ = run(4, 0, block=block)
        assert [column.steps for column in lanczos.columns] == [4, 0, 4]
        assert [column.finite for column in lanczos.columns] == [True, False, True]
        return
    calls = []

    def product(X: Tensor) -> Tensor:
        calls.append(X.shape[1])
        Y = matrix @ X
        if len(calls) == 3:
            Y[5, 2] = torch.inf
        return Y

    lanczos = LanczosColumns(product, block, keep=0, size=N)
    for _ in range(5):
        lanczos.step()
    assert calls == [3, 3, 3, 2, 2]
    assert [column.steps for column in lanczos.columns] == [5, 5, 2]
    assert not lanczos.columns[2].finite


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("keep", [0, 8])
def test_float32_far_from_one_in_size(scale: float, keep: int) -> None:
    matrix, block = (A * scale).float(), (B / scale).float()
    lanczos, _ = run(8, keep, matrix, block)
    exact, _ = run(8, keep, matrix.double() / scale, block.double() * scale)
    for column, reference in zip(lanczos.columns, exact.columns, strict=True):
        assert column.norm * scale == pytest.approx(reference.norm, rel=1e-6)
        torch.testing.assert_close(
            column.tridiagonal() / scale, reference.tridiagonal(), rtol=1e-4, atol=1e-5
        )


def test_a_product_that_returns_its_argument() -> None:
    lanczos = LanczosColumns(lambda X: X, B.clone(), keep=3, size=N)
    lanczos.step()
    assert [column.tridiagonal().tolist() for column in lanczos.columns] == [[[pytest.approx(1.0)]]] * 3


def _shared(space: Plain, keep: int) -> LanczosColumns:
    lanczos = LanczosColumns(space.product(A), space.vectors(B), keep=keep, size=N, inner=space.inner)
    for _ in range(8):
        lanczos.step()
    return lanczos


@pytest.mark.parametrize("keep", [0, 8])
def test_spaces(keep: int) -> None:
    exact, _ = run(8, keep)
    expected = [column.tridiagonal() for column in exact.columns]
    S = torch.eye(N, dtype=F64) + 0.1 * normal(N, N, seed=9)
    slanted, _ = run(8, keep, space=Slanted(S))
    guarded = Guarded(N)
    with guarded.watched():
        watched, _ = run(8, keep, space=guarded)
    shared = in_parts([N - 13, 13], lambda space: _shared(space, keep))
    for lanczos in (slanted, watched, *(found for found, _ in shared)):
        for column, T in zip(lanczos.columns, expected, strict=True):
            torch.testing.assert_close(column.tridiagonal(), T, rtol=0, atol=1e-9)
