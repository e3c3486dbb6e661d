"""Diagonals: their entries, their errors, their forms, and sparse ones by colours."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch

from hvplib import ConvergenceError, Diagonal, FunctionOperator, HessianOperator, Status
from hvplib.estimate import Exact, Hutchinson, XDiag, XTrace
from hvplib.estimate.coloring import colors, neighbours
from hvplib.estimate.diagonal import diagonal
from hvplib.estimate.methods import DIAGONAL
from tests.estimate.spectra import with_spectrum

F64 = torch.float64
RANDOM = ["hutchinson", "xdiag"]


def nonsymmetric(n: int = 40) -> torch.Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("method", DIAGONAL)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", ["flat", "power 1", "exponential", "indefinite", "low rank"])
def test_the_truth_is_within_the_error(method: str, name: str, dtype: torch.dtype) -> None:
    A = with_spectrum(name, 60, dtype)
    result = diagonal(A, method=method, max_matvecs=60, generator=3)
    truth = A.matrix.double().diagonal()
    assert float((result.value - truth).norm()) <= result.error
    assert result.value.dtype == result.stderr.dtype == dtype
    low, high = result.interval
    held = float(((low <= truth) & (truth <= high)).double().mean())
    assert held >= 0.85 and result.success


@pytest.mark.parametrize("method", DIAGONAL)
def test_an_operator_that_is_not_symmetric(method: str) -> None:
    A = nonsymmetric()
    result = diagonal(A, method=method, max_matvecs=60)
    assert float((result.value - A.diagonal()).norm()) <= result.error


@pytest.mark.parametrize("method", RANDOM)
def test_the_time_limit(method: str) -> None:
    A = with_spectrum("power 1", 60)
    result = diagonal(A, method=method, max_matvecs=50, time_limit=1e-9)  # raises nothing
    assert result.status is Status.TIME_LIMIT and result.num_samples == 8
    assert float((result.value - A.matrix.diagonal()).norm()) <= 2 * result.error


@pytest.mark.parametrize("method", RANDOM)
def test_intervals_hold_what_they_say_entry_by_entry(method: str) -> None:
    # Each interval of all entries of 200 seeds; entries of one seed are not independent.
    for name in ("power 1", "indefinite", "slow exponential"):
        A = with_spectrum(name, 40)
        truth, held, errors, stated = A.matrix.diagonal(), 0.0, 0.0, 0.0
        for seed in range(200):
            result = diagonal(A, method=method, max_matvecs=32, generator=seed)
            low, high = result.interval
            held += float(((low <= truth) & (truth <= high)).double().mean()) / 200
            errors += float((result.value - truth).square().sum())
            stated += float(result.stderr.square().sum())
        assert 0.93 <= held <= 0.975, name
        assert 0.9 < stated / errors < 1.15, name


def test_xdiag_is_unbiased_and_falls_faster_than_hutchinson() -> None:
    A = with_spectrum("exponential", 60)
    truth, total, squares = A.matrix.diagonal(), torch.zeros(60, dtype=F64), 0.0
    for seed in range(300):
        off = diagonal(A, method="xdiag", max_matvecs=16, generator=seed).value - truth
        total += off
        squares += float(off.square().sum())
    # The norm of the mean of 300 errors, beside √(mean square / 300).
    assert float((total / 300).norm()) < 2 * math.sqrt(squares / 300 / 300)
    errors = [
        np.median([diagonal(A, method=m, max_matvecs=32, generator=s).error for s in range(9)])
        for m in RANDOM
    ]
    assert errors[1] < errors[0] / 20


def test_forms() -> None:
    dense = with_spectrum("power 1", 40).matrix
    for A in (dense.numpy(), scipy.sparse.csr_array(dense.numpy())):
        result = diagonal(A)
        assert isinstance(result.value, np.ndarray) and isinstance(result.interval[0], np.ndarray)
        np.testing.assert_allclose(result.value, dense.diagonal().numpy(), rtol=1e-14)
    assert isinstance(diagonal(dense).value, torch.Tensor)
    point = {"w": torch.ones(2, 3, dtype=F64), "b": torch.full((), 2.0, dtype=F64)}
    H = HessianOperator(lambda p: (p["w"] ** 3).sum() + p["b"] ** 4, point)
    result = diagonal(H)
    tree = result.as_tree()
    torch.testing.assert_close(tree["w"], torch.full((2, 3), 6.0, dtype=F64))
    torch.testing.assert_close(tree["b"], torch.full((), 48.0, dtype=F64))
    torch.testing.assert_close(H.domain.flatten(tree), result.value)  # type: ignore[union-attr]
    assert result.as_tree(result.stderr)["w"].shape == (2, 3)
    assert diagonal(dense).as_tree(params=[torch.zeros(40)])[0].shape == (40,)
    with pytest.raises(ValueError, match="params must be given: the operator acts on flat vectors"):
        diagonal(dense).as_tree()


@pytest.mark.parametrize("method", RANDOM)
def test_a_tolerance_ends_it(method: str) -> None:
    A = with_spectrum("power 1", 100)
    result = diagonal(A, method=method, rtol=0.3, max_matvecs=20_000)
    assert result.status is Status.ESTIMATED
    assert result.error <= result.tolerance == pytest.approx(0.3 * float(result.value.norm()))
    assert float((result.value - A.matrix.diagonal()).norm()) <= result.error
    with pytest.raises(ConvergenceError, match="the products allowed were spent"):
        diagonal(A, method=method, rtol=1e-6, max_matvecs=40)


def test_a_low_rank_is_seen_exactly() -> None:
    A = with_spectrum("low rank", 200)
    result = diagonal(A, method="xdiag")
    assert result.status is Status.EXACT and result.num_matvecs == 13
    assert float((result.value - A.matrix.diagonal()).norm()) < 1e-13


@pytest.mark.parametrize("method", DIAGONAL)
@pytest.mark.parametrize("n", [1, 2])
def test_tiny_operators(method: str, n: int) -> None:
    result = diagonal(torch.full((n, n), 2.0, dtype=F64), method=method, max_matvecs=20)
    assert float((result.value - 2).abs().max()) <= max(result.error, 1e-12)


@pytest.mark.parametrize("method", DIAGONAL)
def test_products_that_are_not_finite(method: str) -> None:
    A = FunctionOperator(lambda X: X * math.nan, (70, 70), dtype=F64, symmetric=True)
    with pytest.raises(ConvergenceError, match="gave NaN or infinity"):
        diagonal(A, method=method, max_matvecs=70)


def test_the_choice() -> None:
    assert isinstance(diagonal(Diagonal(torch.ones(100))).method, Exact)
    assert isinstance(diagonal(Diagonal(torch.ones(101))).method, XDiag)
    assert isinstance(diagonal(Diagonal(torch.ones(101)), max_matvecs=20).method, Hutchinson)
    assert isinstance(diagonal(nonsymmetric(101)).method, Hutchinson)


def banded(n: int) -> scipy.sparse.csr_array:
    rng = np.random.default_rng(0)
    return scipy.sparse.diags_array(
        [rng.standard_normal(n - abs(k)) for k in (-2, -1, 0, 1)], offsets=(-2, -1, 0, 1)
    ).tocsr()


@pytest.mark.parametrize(
    "form",
    [
        lambda P: P,
        lambda P: P.toarray(),
        lambda P: P.toarray() != 0,
        lambda P: torch.from_numpy(P.toarray()),
        lambda P: torch.from_numpy(P.toarray()).to_sparse_csr(),
        lambda P: torch.from_numpy(P.toarray()).to_sparse(),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_a_pattern_makes_it_exact_and_cheap(form: Callable[[object], object]) -> None:
    A = banded(300)
    result = diagonal(A, pattern=form(A))
    np.testing.assert_allclose(result.value, A.diagonal(), rtol=0, atol=1e-14)
    assert result.status is Status.EXACT and result.matvecs == {"colours": 3, "verification": 3}


def test_colours_part_neighbours() -> None:
    rng = np.random.default_rng(1)
    P = scipy.sparse.random_array((80, 80), density=0.05, rng=rng)
    graph = neighbours(P, 80)
    colour = colors(graph)
    rows, columns = scipy.sparse.coo_array(graph).coords
    assert not graph.diagonal().any() and (abs(graph - graph.T) if graph.nnz else graph).nnz == 0
    assert bool((colour[rows] != colour[columns]).all())
    assert int(colour.max()) <= int(np.diff(graph.indptr).max())
    wanted = (P.toarray() != 0) | (P.toarray() != 0).T
    np.fill_diagonal(wanted, False)
    np.testing.assert_array_equal(graph.toarray(), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_pattern_that_is_too_small_is_refused(dtype: torch.dtype) -> None:
    A = torch.from_numpy(banded(100).toarray()).to(dtype)
    with pytest.raises(
        ValueError, match="pattern is too small: A has entries beside the diagonal that it lacks"
    ):
        diagonal(A, pattern=torch.eye(100))
    # One entry that is missing among two of one colour is enough.
    missing = torch.eye(100, dtype=dtype)
    missing[3, 40] = 1e-3
    with pytest.raises(ValueError, match="pattern is too small"):
        diagonal(missing, pattern=torch.eye(100))
    assert diagonal(torch.eye(100, dtype=dtype), pattern=torch.eye(100)).num_matvecs == 2


def test_what_is_refused() -> None:
    A = banded(50)
    with pytest.raises(ValueError, match=r"pattern must have A's shape, \(50, 50\), got \(49, 49\)"):
        diagonal(A, pattern=banded(49))
    with pytest.raises(TypeError, match="pattern must be a SciPy sparse matrix, a torch sparse tensor"):
        diagonal(A, pattern="banded")
    with pytest.raises(ValueError, match=r"pattern is for method 'exact', got XDiag\(block_size=8\)"):
        diagonal(A, pattern=A, method="xdiag")
    with pytest.raises(ValueError, match="max_matvecs must be at least 6 for this pattern, got 5"):
        diagonal(A, pattern=A, max_matvecs=5)
    with pytest.raises(ValueError, match="method must be one of 'hutchinson', 'xdiag', 'exact', got 'x"):
        diagonal(A, method="xtrace")
    with pytest.raises(TypeError, match="method must be a name or an instance of Hutchinson, XDiag, Exact"):
        diagonal(A, method=XTrace())
    with pytest.raises(ValueError, match=r"A must be square, got shape \(3, 2\)"):
        diagonal(torch.ones(3, 2))
    only = FunctionOperator(lambda X: X, (70, 70), dtype=F64)
    with pytest.raises(NotImplementedError, match="transpose"):
        diagonal(only, method="xdiag")
