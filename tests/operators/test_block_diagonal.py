"""BlockDiagonal: blocks in any order, the blocks of another operator, inverses as preconditioners."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib import (
    BlockDiagonal,
    Diagonal,
    GGNOperator,
    Kronecker,
    LowRankPlusDiagonal,
    Matrix,
    check_operator,
    solve,
)
from tests.architectures import perceptron
from tests.curvatures import assert_same, numbers

F64 = torch.float64


def spd(n: int, seed: int = 0) -> Tensor:
    a = numbers(n, n, seed=seed)
    return a @ a.mT + torch.eye(n, dtype=F64)


def ggn() -> GGNOperator:
    case = perceptron()
    return GGNOperator.from_module(case.model, case.loss, case.uneven, forward=case.forward)


def test_interleaved_blocks() -> None:
    a, b = numbers(2, 2), numbers(3, 3, seed=1)
    indices = [torch.tensor([4, 1]), torch.tensor([0, 3, 2])]
    A = BlockDiagonal([a, b], indices)
    dense = torch.zeros(5, 5, dtype=F64)
    for block, i in zip((a, b), indices, strict=True):
        dense[i.unsqueeze(1), i] = block
    assert_same(A.to_dense(), dense)
    assert_same(A.T.to_dense(), dense.mT)
    assert not A.symmetric and check_operator(A).ok


@pytest.mark.parametrize("by", ["parameter", "layer", ["0", "2.*", ["3.weight", "3.bias"]]])
def test_blocks_of_the_parameters(by: Any) -> None:
    G = ggn()
    A = BlockDiagonal.of(G, by)
    groups = {"parameter": [[n] for n in G.domain.names], "layer": [["0"], ["2"], ["3"]]}.get(str(by), by)
    dense, expected = G.to_dense(), torch.zeros(G.shape, dtype=F64)
    for names in groups:
        i = G.domain.indices(names)
        expected[i.unsqueeze(1), i] = dense[i.unsqueeze(1), i]
    assert_same(A.to_dense(), expected)
    assert A.positive_semidefinite and len(A.blocks) == len(groups)
    before = G.num_matvecs
    A @ numbers(G.shape[0], 2)
    assert G.num_matvecs - before == 2 * len(groups)
    materialized = A.materialized()
    before = G.num_matvecs
    assert_same(materialized.to_dense(), expected)
    assert G.num_matvecs == before and materialized.positive_semidefinite
    eye = torch.eye(G.shape[0], dtype=F64)
    assert_same(A.inverse(0.1).to_dense(), torch.linalg.inv(expected + 0.1 * eye))
    assert set((A @ G.primals).keys()) == set(G.primals)


def test_inverses_precondition() -> None:
    """Blocks of very different size: one step of CG with the exact inverse, many without."""
    scales = [1.0, 1e4, 1e8]
    A = BlockDiagonal([scale * spd(4, seed) for seed, scale in enumerate(scales)])
    A = BlockDiagonal(
        [Matrix(block.matrix, symmetric=True, positive_semidefinite=True) for block in A.blocks]
    )
    b = numbers(12)
    plain = solve(A, b, throw=False)
    solution = solve(A, b, preconditioner=A.inverse())
    assert solution.num_iter <= 2 < plain.num_iter
    assert_same(solution.x, torch.linalg.solve(A.to_dense(), b), 1e-6)


def test_a_preconditioner_of_a_gauss_newton_matrix() -> None:
    G = ggn()
    b = numbers(G.shape[0])
    P = BlockDiagonal.of(G, "layer").inverse(damping=1e-3)
    preconditioned = solve(G, b, damping=1e-3, preconditioner=P)
    assert_same(
        preconditioned.x, torch.linalg.solve(G.to_dense() + 1e-3 * torch.eye(len(b), dtype=F64), b), 1e-3
    )


def test_closed_inverses_of_blocks_are_used() -> None:
    kron = Kronecker(Matrix(spd(2)), Matrix(spd(3, 1)))
    low = LowRankPlusDiagonal(numbers(4).square() + 1, numbers(4, 2, seed=1))
    A = BlockDiagonal([kron, low, Diagonal(torch.ones(2, dtype=F64))])
    assert_same(A.inverse(0.3).to_dense(), torch.linalg.inv(A.to_dense() + 0.3 * torch.eye(12, dtype=F64)))
    assert isinstance(A.inverse().blocks[1], LowRankPlusDiagonal)


def test_refusals() -> None:
    eye = torch.eye(2, dtype=F64)
    with pytest.raises(ValueError, match="at least one square operator"):
        BlockDiagonal([])
    with pytest.raises(ValueError, match=r"blocks\[1\] must be square, got shape \(2, 3\)"):
        BlockDiagonal([eye, torch.ones(2, 3, dtype=F64)])
    with pytest.raises(TypeError, match=r"blocks\[0\] must be an operator or a matrix, got str"):
        BlockDiagonal(["a"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="must have one dtype and device"):
        BlockDiagonal([eye, eye.float()])
    with pytest.raises(ValueError, match="one entry for each row of each block"):
        BlockDiagonal([eye], [torch.tensor([0])])
    with pytest.raises(ValueError, match=r"each of 0, \.\.\., 1 exactly once"):
        BlockDiagonal([eye], [torch.tensor([0, 0])])
    with pytest.raises(
        ValueError, match=r"block 0 plus the damping 0 must be positive definite.*eigenvalue -1"
    ):
        BlockDiagonal([-eye]).inverse()
    with pytest.raises(ValueError, match="block 0 must be declared symmetric"):
        BlockDiagonal([torch.tensor([[1.0, 2.0], [0.0, 1.0]])]).inverse()
    with pytest.raises(TypeError, match="knows no parameters"):
        BlockDiagonal.of(Matrix(eye))
    with pytest.raises(TypeError, match="knows no names"):
        BlockDiagonal.of(Matrix(eye), ["a"])
    with pytest.raises(ValueError, match='by must be "parameter", "layer" or a list'):
        BlockDiagonal.of(ggn(), "module")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no leaf matches 'head'"):
        BlockDiagonal.of(ggn(), ["head"])
