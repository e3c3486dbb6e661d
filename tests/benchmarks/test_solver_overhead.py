"""What a minimiser adds to its products is measured on the products that it makes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import solver_overhead
from benchmarks.problems import CLASSICAL
from benchmarks.solver_overhead import COLUMNS, Beside, Calls, beside, compare, minimised, row, spent
from hvplib.optim.evaluation import Point


def test_what_is_watched_is_what_the_solver_tells() -> None:
    problem = CLASSICAL["BEALE"]()
    told, found = minimised(problem, "trust-ncg"), spent(problem, "trust-ncg")
    assert found.points == told.nfev - 1  # the start is differentiated by `minimize` itself
    assert 10 < found.calls <= told.nhev
    assert 0 < found.products < found.whole - found.evaluations and found.evaluations > 0


def test_bare_engines_are_called_with_the_same_vectors_at_some_of_the_points() -> None:
    problem = CLASSICAL["ROSENBR"]()
    every, some = beside(problem, "trust-ncg", 1), beside(problem, "trust-ncg", 72)
    assert len(every.solver) == len(every.own) == len(every.recorded) == spent(problem, "trust-ncg").calls
    assert 0 < len(some.solver) < len(every.solver) / 3
    assert min(every.solver + every.own + every.recorded) > 0


def test_the_solver_gets_its_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CLASSICAL["OSBORNEA"]()  # of up to four unknowns no block is multiplied
    seen: list[tuple[Tensor, Tensor]] = []

    class Noted(Beside):
        def __call__(self, call: object, point: Point, V: Tensor) -> Tensor:
            product = super().__call__(call, point, V)  # type: ignore[arg-type]
            seen.append((product, torch.autograd.functional.hessian(problem.func, point.x) @ V))
            return product

    monkeypatch.setattr(solver_overhead, "Beside", Noted)
    beside(problem, "auto", 1)
    assert {product.shape[1] for product, _ in seen} >= {1, 5}
    for product, right in seen:
        torch.testing.assert_close(product, right, rtol=1e-12, atol=1e-12)


def test_ratios_are_medians_of_quotients() -> None:
    calls = Calls([2.0, 9.0, 4.0], [1.0, 3.0, 1.0], [2.0, 3.0, 1.0])
    assert calls.ratio(calls.own) == 3.0 and calls.ratio(calls.recorded) == 3.0


def test_a_table() -> None:
    numbers = row(CLASSICAL["BEALE"](), "trust-ncg", 1)
    assert numbers[0] == 2 and len(numbers) == len(COLUMNS)
    assert numbers[6] < numbers[7] < numbers[8]  # inside products, all but points, whole
    lines = compare(["BEALE", "WOODS"], "trust-exact", 1).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| BEALE", "| median"]
