"""JacobianOperator: rows by loops are the judge; batches are stacked; SciPy's and our solvers take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import lsmr
from torch import Tensor, nn

from hvplib import JacobianOperator, check_operator, solve, svds
from tests.architectures import CASES, Case, perceptron
from tests.curvatures import assert_same, flat_function, jacobian, numbers

F64 = torch.float64


@pytest.mark.parametrize("budget", ["auto", 0])
@pytest.mark.parametrize("make", CASES)
def test_rows_by_loops_are_the_judge(make: Callable[[], Case], budget: Any) -> None:
    case = make()
    function, at = flat_function(case.model, lambda m: case.forward(m, case.whole))
    expected = jacobian(function, at)
    for data in ([case.whole], case.uneven):
        J = JacobianOperator.from_module(case.model, data, forward=case.forward, memory_budget=budget)
        assert J.num_kept == (len(data) if budget == "auto" else 0) and J.num_batches == len(data)
        assert_same(J.value, function(at))
        assert_same(J.to_dense(), expected)
        assert_same(J.T.to_dense(), expected.mT)
        u, v = numbers(J.shape[0]), numbers(J.shape[1])
        assert_same(J @ v, expected @ v)
        assert_same(J.T @ u, expected.mT @ u)
        assert check_operator(J).ok


def test_pytrees_on_both_sides() -> None:
    def func(x: dict[str, Tensor], batch: Tensor) -> tuple[Tensor, Tensor]:
        return x["a"] * batch, x["a"].sum() * x["b"]

    point = {"a": torch.tensor([1.0, 2.0], dtype=F64), "b": torch.tensor(3.0, dtype=F64)}
    J = JacobianOperator(
        func, point, [torch.tensor([2.0, 5.0], dtype=F64), torch.tensor([1.0, 1.0], dtype=F64)]
    )
    (first, product), (second, _) = J @ {"a": torch.ones(2, dtype=F64), "b": torch.tensor(0.0, dtype=F64)}
    assert first.tolist() == [2, 5] and second.tolist() == [1, 1] and float(product) == 6
    zero = (torch.zeros(2, dtype=F64), torch.ones((), dtype=F64))
    pulled = J.T @ [zero, zero]
    assert pulled["a"].tolist() == [6, 6] and float(pulled["b"]) == 6
    single = JacobianOperator(lambda x: x["a"] * x["b"], point)
    assert (single @ point).tolist() == [6, 12]


def test_singular_values_and_least_squares() -> None:
    case = perceptron()
    J = JacobianOperator.from_module(case.model, case.uneven, forward=case.forward)
    dense = J.to_dense()
    found = svds(J, 3)
    np.testing.assert_allclose(
        np.sort(np.asarray(found.singular_values))[::-1], torch.linalg.svdvals(dense)[:3], rtol=1e-8
    )
    b = numbers(J.shape[0])
    damped = torch.linalg.solve(dense.mT @ dense + 0.25 * torch.eye(J.shape[1], dtype=F64), dense.mT @ b)
    np.testing.assert_allclose(
        lsmr(J, b.numpy(), damp=0.5, atol=1e-13, btol=1e-13, maxiter=900)[0], damped, rtol=1e-6, atol=1e-9
    )
    assert_same(solve(J.T @ J, J.T @ b, damping=0.25).x, damped, 1e-4)
    assert (J.T @ J).positive_semidefinite


def test_noise_is_replayed_and_nothing_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.5), nn.Linear(6, 2)).double()
    data = [(numbers(4, 3), None), (numbers(2, 3, seed=1), None)]
    before = torch.random.get_rng_state()
    kept, frugal = (JacobianOperator.from_module(model, data, memory_budget=b) for b in ("auto", 0))
    v = numbers(kept.shape[1])
    assert_same(kept @ v, frugal @ v)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"have dtype torch\.float64 and its argument torch\.float32"):
        JacobianOperator(lambda x: x.double(), torch.ones(2))
    with pytest.raises(TypeError, match="data must be an iterable of batches"):
        JacobianOperator(lambda x, b: x, torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="at least one tensor"):
        JacobianOperator(lambda x: x, [])
    calls: list[int] = []

    def changing(x: Tensor) -> Tensor:
        calls.append(1)
        return x * len(calls)

    with pytest.raises(RuntimeError, match="not deterministic"):
        JacobianOperator(changing, torch.ones(2), verify=False)
