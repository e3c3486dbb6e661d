"""Track the time of the library's products: `pytest benchmarks/bench_*.py --benchmark-enable`.

The group of a problem holds its gradient as the unit, so that two runs can be compared on different machines.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.contenders import FIXED_POINT, ONE_OFF, Builder, flat, gradient
from benchmarks.problems import PROBLEMS

OWN: dict[str, Builder] = {
    name.strip("*"): builder for name, builder in (FIXED_POINT | ONE_OFF).items() if "hvplib" in name
}
pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize("name", PROBLEMS)
def test_gradient(benchmark: BenchmarkFixture, name: str) -> None:
    benchmark.group = name
    grads = benchmark(gradient(PROBLEMS[name]()))
    assert flat(grads).isfinite().all()


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("way", OWN)
def test_product(benchmark: BenchmarkFixture, way: str, name: str) -> None:
    benchmark.group = name
    problem = PROBLEMS[name]()
    product = OWN[way](problem)
    v = problem.tangents()
    product(v)  # the first one is verified
    assert flat(benchmark(product, v)).isfinite().all()
