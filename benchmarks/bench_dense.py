"""Track the time of the dense Hessian: `pytest benchmarks/bench_*.py --benchmark-enable`."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.dense import FORMS, hvplib_hessian, matrix, task, torch_hessian
from benchmarks.problems import DENSE

pytestmark = pytest.mark.filterwarnings("default")
CONTENDERS = {"hvplib.hessian": hvplib_hessian, "torch.func.hessian": torch_hessian}


@pytest.mark.parametrize("label", DENSE)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("contender", CONTENDERS)
def test_dense(benchmark: BenchmarkFixture, contender: str, form: str, label: str) -> None:
    problem = DENSE[label]()
    benchmark.group = f"{label}, {form}"
    found = matrix(benchmark(CONTENDERS[contender], task(problem, form)), problem.size)
    torch.testing.assert_close(found, found.T, rtol=0, atol=1e-5)
