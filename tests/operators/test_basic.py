"""Constructors of the basic operators: what they accept, declare and refuse. Products: `test_base`."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import torch

from hvplib import Diagonal, FunctionOperator, Identity, LowRank, Matrix, SciPyOperator


def test_identity_takes_the_default_dtype() -> None:
    assert Identity(2).torch_dtype == torch.get_default_dtype()
    assert Identity(2, dtype=torch.float64).dtype == np.float64


def test_half_precision_numbers_are_widened() -> None:
    assert Diagonal(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert Matrix(torch.ones(2, 2, dtype=torch.float16)).dtype == np.float32


def test_a_matrix_is_recognised_as_symmetric_unless_told() -> None:
    assert Matrix(torch.eye(2)).symmetric
    assert not Matrix(torch.ones(2, 2).triu()).symmetric
    assert not Matrix(torch.ones(2, 3)).symmetric
    assert not Matrix(torch.eye(2), symmetric=False).symmetric
    assert Matrix(torch.eye(2), positive_semidefinite=True).positive_semidefinite


def test_signs_decide_what_is_semidefinite() -> None:
    assert Diagonal(torch.tensor([0.0, 1.0])).positive_semidefinite
    assert not Diagonal(torch.tensor([-1e-9, 1.0])).positive_semidefinite
    assert LowRank(torch.ones(3, 2)).positive_semidefinite
    assert not LowRank(torch.ones(3, 2), torch.tensor([1.0, -1.0])).positive_semidefinite


def test_a_matrix_may_be_an_array() -> None:
    assert Matrix(np.eye(2)).dtype == np.float64


def test_a_function_of_one_vector_by_vmap() -> None:
    operator = FunctionOperator(
        torch.vmap(lambda x: x.flip(0), in_dims=1, out_dims=1), (3, 3), symmetric=True
    )
    torch.testing.assert_close(operator.to_dense(), torch.eye(3).flip(0))


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"diagonal must be a vector \(n,\), got shape \(2, 2\)"):
        Diagonal(torch.eye(2))
    with pytest.raises(TypeError, match=r"diagonal must be real and floating point, got torch.int64"):
        Diagonal(torch.tensor([1, 2]))
    with pytest.raises(TypeError, match=r"matrix must be real and floating point, got torch.complex64"):
        Matrix(torch.ones(2, 2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"matrix must have two dimensions, got shape \(2,\)"):
        Matrix(torch.ones(2))
    with pytest.raises(ValueError, match=r"factor must have shape \(n, r\), got \(2,\)"):
        LowRank(torch.ones(2))
    with pytest.raises(
        ValueError, match=r"values must have shape \(2,\), one per column of factor, got \(3,\)"
    ):
        LowRank(torch.ones(4, 2), torch.ones(3))
    with pytest.raises(
        ValueError, match=r"return a tensor of shape \(2, 1\) and dtype torch.float32, got \(1, 1\)"
    ):
        FunctionOperator(lambda X: X[:1], (2, 2)) @ torch.ones(2)
    with pytest.raises(NotImplementedError, match="no product with its transpose; pass rmatmat="):
        FunctionOperator(lambda X: X, (2, 2)).T @ torch.ones(2)
    with pytest.raises(
        TypeError, match="operator must be a SciPy sparse matrix or LinearOperator, got ndarray"
    ):
        SciPyOperator(np.eye(2))
    with pytest.raises(TypeError, match="operator must have dtype float32 or float64, got int64"):
        SciPyOperator(scipy.sparse.csr_array(np.eye(2, dtype=np.int64)))
