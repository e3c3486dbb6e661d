"""What every operator of the table must do, and the refusals of the base class."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from hvplib import (
    Diagonal,
    FunctionOperator,
    HessianOperator,
    Identity,
    Matrix,
    Operator,
    Space,
    check_operator,
)
from tests.contracts import OPERATORS, numbers, regression

DTYPES = [torch.float64, torch.float32]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=list(OPERATORS))
def case(request: pytest.FixtureRequest, dtype: torch.dtype) -> tuple[Operator, Tensor]:
    return OPERATORS[request.param](dtype)


def assert_near(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


def test_it_is_a_scipy_operator_that_states_shape_and_dtype(case: tuple[Operator, Tensor]) -> None:
    operator, dense = case
    assert isinstance(operator, LinearOperator)
    assert operator.shape == tuple(dense.shape)
    assert operator.dtype == dense.numpy().dtype
    assert operator.num_matvecs == 0 or isinstance(operator, HessianOperator)


def test_tensors_give_tensors(case: tuple[Operator, Tensor]) -> None:
    operator, dense = case
    x = numbers(dense.shape[1], dtype=dense.dtype, seed=5)
    assert_near(operator @ x, dense @ x)
    for count in (0, 1, 3):
        block = numbers(dense.shape[1], count, dtype=dense.dtype, seed=6)
        assert_near(operator @ block, dense @ block)
    assert torch.equal(operator @ torch.zeros_like(x), torch.zeros_like(dense[:, 0]))


def test_arrays_give_arrays(case: tuple[Operator, Tensor]) -> None:
    operator, dense = case
    x = numbers(dense.shape[1], dtype=dense.dtype, seed=5)
    for vectors in (
        x,
        numbers(dense.shape[1], 0, dtype=dense.dtype),
        numbers(dense.shape[1], 2, dtype=dense.dtype),
    ):
        result = operator @ vectors.numpy()
        assert isinstance(result, np.ndarray) and result.dtype == operator.dtype
        assert_near(torch.from_numpy(result.copy()), dense @ vectors)
    assert_near(torch.from_numpy(operator.matvec(x.numpy()[:, None])[:, 0]), dense @ x)
    assert isinstance(operator.matvec(x), Tensor) and isinstance(operator.matmat(x[:, None]), Tensor)


def test_transpose(case: tuple[Operator, Tensor]) -> None:
    operator, dense = case
    y = numbers(dense.shape[0], dtype=dense.dtype, seed=7)
    block = numbers(dense.shape[0], 2, dtype=dense.dtype, seed=8)
    assert_near(operator.T @ y, dense.mT @ y)
    assert_near(operator.H @ block, dense.mT @ block)
    assert_near(operator.T.T.to_dense(), dense)
    assert_near(torch.from_numpy(operator.rmatvec(y.numpy())), dense.mT @ y)
    assert_near(torch.from_numpy(np.array(operator.rmatmat(block.numpy()))), dense.mT @ block)


def test_vectors_on_the_left(case: tuple[Operator, Tensor]) -> None:
    operator, dense = case
    y = numbers(dense.shape[0], dtype=dense.dtype, seed=7)
    rows = numbers(2, dense.shape[0], dtype=dense.dtype, seed=8)
    assert_near(y @ operator, y @ dense)
    assert_near(rows @ operator, rows @ dense)
    assert_near(torch.from_numpy(np.array(rows.numpy() @ operator)), rows @ dense)
    assert_near(torch.from_numpy(y.numpy() @ operator), y @ dense)


@pytest.mark.parametrize("chunk_size", [1, 2, 64])
def test_to_dense(case: tuple[Operator, Tensor], chunk_size: int) -> None:
    operator, dense = case
    before = operator.num_matvecs
    assert_near(operator.to_dense(chunk_size=chunk_size), dense)
    assert operator.num_matvecs - before == dense.shape[1]


def test_what_is_declared_holds(case: tuple[Operator, Tensor]) -> None:
    operator, dense = case
    if operator.symmetric:
        assert_near(dense, dense.mT)
        assert operator.T is operator
    if operator.positive_semidefinite:
        assert operator.symmetric
        assert torch.linalg.eigvalsh(dense).min() > -TOLERANCE[dense.dtype] * 10


def test_the_self_check_passes(case: tuple[Operator, Tensor]) -> None:
    assert check_operator(case[0]).ok is not False


def test_results_carry_no_history(case: tuple[Operator, Tensor]) -> None:
    operator, dense = case
    x = numbers(dense.shape[1], dtype=dense.dtype).requires_grad_()
    assert not (operator @ x).requires_grad


def test_not_even_those_of_a_function_with_parameters() -> None:
    scale = torch.ones(2, 1, requires_grad=True)
    operator = FunctionOperator(lambda X: scale * X, (2, 2), symmetric=True)
    assert not (operator @ torch.ones(2)).requires_grad


@pytest.mark.parametrize("name", list(OPERATORS))
def test_it_is_freed_by_reference_count(name: str) -> None:
    operator, dense = OPERATORS[name](torch.float64)
    operator @ torch.ones(dense.shape[1], dtype=torch.float64)
    operator.T @ torch.ones(dense.shape[0], dtype=torch.float64)
    reference = weakref.ref(operator)
    gc.disable()
    try:
        del operator
        assert reference() is None
    finally:
        gc.enable()


def test_a_float32_operator_computes_in_float32_whatever_numpy_gives() -> None:
    seen = []
    operator = FunctionOperator(lambda X: (seen.append(X.dtype), X / 3)[1], (2, 2), dtype=torch.float32)
    result = operator @ np.ones(2)
    assert seen == [torch.float32] and result.dtype == np.float64
    assert result[0] == np.float64(np.float32(1) / np.float32(3))
    assert (operator @ np.ones(2, dtype=np.float32)).dtype == np.float32
    assert (operator @ [1, 2]).dtype == np.float64
    assert (operator @ np.ones(2, dtype=np.float16)).dtype == np.float32


def test_read_only_and_reversed_arrays_are_taken() -> None:
    x = np.arange(3.0)
    x.flags.writeable = False
    operator = Diagonal(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    np.testing.assert_array_equal(operator @ x[::-1], [2, 2, 0])


def test_a_product_never_returns_its_own_argument() -> None:
    x = torch.ones(3)
    for operator in (Identity(3), Identity(3) ** 0):
        (operator @ x).zero_()
    assert x.sum() == 3


def test_pytrees_give_pytrees() -> None:
    operator, dense = regression(torch.float64)
    tree = {
        "u": torch.tensor([[1.0, -2.0]], dtype=torch.float64),
        "v": torch.tensor(0.5, dtype=torch.float64),
    }
    flat = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for a, matrix in [
        (operator, dense),
        (operator.shifted(2.0), dense + 2 * torch.eye(3)),
        (Diagonal(flat) @ operator, torch.diag(flat) @ dense),
        (operator @ Diagonal(flat), dense @ torch.diag(flat)),
        ((operator @ Diagonal(flat)).T, torch.diag(flat) @ dense),
        (Identity(3, dtype=torch.float64) + operator / 2, dense / 2 + torch.eye(3)),
    ]:
        result = a @ tree
        assert result["u"].shape == (1, 2) and result["v"].shape == ()
        assert_near(torch.cat([result["u"].flatten(), result["v"][None]]), matrix @ flat)
    left = tree @ operator
    assert_near(left["u"].flatten(), (dense @ flat)[:2])


def test_blocks_of_pytrees_have_a_leading_count() -> None:
    operator, dense = regression(torch.float64)
    block = numbers(3, 4, dtype=torch.float64)
    tree = {"u": block[:2].mT.reshape(4, 1, 2), "v": block[2]}
    result = operator @ tree
    assert result["u"].shape == (4, 1, 2) and result["v"].shape == (4,)
    assert_near(result["v"], (dense @ block)[2])


def test_a_point_of_several_dimensions_takes_directions_of_its_shape() -> None:
    operator = HessianOperator(lambda x: (x**3).sum(), torch.ones(2, 3))
    direction = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(operator @ direction, 6 * direction)
    assert torch.equal(direction @ operator, 6 * direction)
    assert torch.equal(operator @ direction.expand(4, 2, 3), (6 * direction).expand(4, 2, 3))
    assert torch.equal(operator @ direction.flatten(), 6 * direction.flatten())
    scalar = HessianOperator(lambda x: x**3, torch.tensor(2.0))
    assert scalar @ torch.tensor(1.0) == 12


def test_products_are_counted_by_column() -> None:
    a = Matrix(torch.randn(3, 3))
    shifted = a.shifted(1.0)
    shifted @ torch.ones(3)
    shifted.T @ torch.ones(3, 4)
    shifted @ np.ones((3, 2))
    assert (shifted.num_matvecs, a.num_matvecs) == (7, 7)


class OnlyForward(Operator):
    def _matmat_torch(self, X: Tensor) -> Tensor:
        return X * 2


class Nothing(Operator):
    pass


def test_refusals() -> None:
    a = Diagonal(torch.ones(3))
    with pytest.raises(ValueError, match=r"expected a vector \(3,\) or a block \(3, k\), got shape \(4,\)"):
        a @ torch.ones(4)
    with pytest.raises(ValueError, match=r"expected a vector \(3,\) or a block \(3, k\), got shape \(4,\)"):
        a @ np.ones(4)
    with pytest.raises(ValueError, match=r"got shape \(3, 1, 1\)"):
        a @ torch.ones(3, 1, 1)
    with pytest.raises(
        TypeError, match=r"operator's dtype torch.float32, got torch.float64; convert it with .to"
    ):
        a @ torch.ones(3, dtype=torch.float64)
    with pytest.raises(TypeError, match=r"operator's dtype torch.float32, got torch.complex64"):
        a @ torch.ones(3, dtype=torch.complex64)
    with pytest.raises(ValueError, match="on the operator's device cpu, got one on meta"):
        a @ torch.ones(3, device="meta")
    with pytest.raises(TypeError, match="expected a real vector, got dtype complex128"):
        a @ np.ones(3, dtype=complex)
    with pytest.raises(TypeError, match="expected an array of numbers, got dtype object"):
        a @ np.array([None] * 3)
    with pytest.raises(TypeError, match="knows no pytree structure"):
        a @ {"x": torch.ones(3)}
    with pytest.raises(
        TypeError, match=r"cannot multiply an operator with a sparse matrix.*SciPyOperator\(S\)"
    ):
        a @ scipy.sparse.eye_array(3)
    with pytest.raises(TypeError, match="index an operator by rows and columns"):
        a[0]
    with pytest.raises(TypeError):
        iter(a)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        a.to_dense(chunk_size=0)
    with pytest.raises(
        NotImplementedError, match=r"OnlyForward defines no product with its transpose; write _rm"
    ):
        OnlyForward((3, 3), torch.float32).T @ torch.ones(3)
    with pytest.raises(NotImplementedError, match="Nothing must define _matmat_torch"):
        Nothing((3, 3), torch.float32) @ torch.ones(3)
    with pytest.raises(TypeError, match=r"dtype must be torch.float32 or torch.float64, got torch.float16"):
        Identity(3, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"a symmetric operator must be square, got shape \(2, 3\)"):
        OnlyForward((2, 3), torch.float32, symmetric=True)


def test_pytrees_of_another_dtype_or_shape_are_refused() -> None:
    operator, _ = regression(torch.float64)
    with pytest.raises(TypeError, match=r"must have its primal's dtype torch.float64, got torch.float32"):
        operator @ {"u": torch.ones(1, 2), "v": torch.ones(())}
    with pytest.raises(
        ValueError, match=r"expected a pytree like \{'u': \(1, 2\), 'v': \(\)\}, got \{'u': \(2,\)"
    ):
        operator @ {"u": torch.ones(2, dtype=torch.float64), "v": torch.ones((), dtype=torch.float64)}


def test_the_name_says_what_is_known() -> None:
    assert repr(Diagonal(torch.ones(2))) == "<2x2 positive semidefinite Diagonal with dtype=float32>"
    assert repr(Diagonal(-torch.ones(2))) == "<2x2 symmetric Diagonal with dtype=float32>"
    assert repr(Matrix(torch.ones(2, 3))) == "<2x3 Matrix with dtype=float32>"


class Doubled(Operator):
    """2 x, with shortcuts that say which of them was taken."""

    def __init__(self) -> None:
        super().__init__((3, 3), torch.float64, symmetric=True, domain=Space.of((V[:2], V[2:])))

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return 2 * X

    def _matvec_torch(self, x: Tensor) -> Tensor:
        return 2 * x + 1

    def _tree_matvec_torch(self, x: Any) -> Any:
        return tuple(2 * t + 2 for t in x)


class Tripled(Doubled):
    def _matmat_torch(self, X: Tensor) -> Tensor:
        return 3 * X


V = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)


def test_one_vector_takes_the_shortcut_and_counts_as_one() -> None:
    A = Doubled()
    assert torch.equal(A @ V, 2 * V + 1)
    assert (A.matvec(V.numpy()) == 2 * V.numpy() + 1).all()
    assert torch.equal(torch.cat(A @ (V[:2], V[2:])), 2 * V + 2)
    assert torch.equal(A @ V.unsqueeze(1), 2 * V.unsqueeze(1))
    assert A.num_matvecs == 4


def test_a_new_block_product_is_not_passed_by() -> None:
    A = Tripled()
    assert torch.equal(A @ V, 3 * V)
    assert torch.equal(torch.cat(A @ (V[:2], V[2:])), 3 * V)


def test_without_shortcuts_a_vector_is_a_block_of_one() -> None:
    A = Diagonal(V)
    assert torch.equal(A @ V, V * V) and torch.equal(A._vector_product(V), V * V)
