"""Programs through torch's compiler: held against the graph, given up where the compiler fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator, local_model
from hvplib.ad.derivatives import _FIRST
from hvplib.ad.trace.compiled import _apart, _direct, _options, compiled
from hvplib.ad.trace.replay import pure_record

F64 = torch.float64
A = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def func(x: Tensor) -> Tensor:
    return (A @ x).tanh().square().sum() + (x**4).sum()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def broken(*_args: Any, **_options: Any) -> Any:
    raise RuntimeError("no C++ compiler here")


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_without_a_compiler_the_graph_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import compile_fx

    monkeypatch.setattr(compile_fx, "compile_fx", broken)
    x, v = normal(4, seed=1), normal(4, seed=2)
    model = local_model(func, x, engine="compile")
    expected = local_model(func, x, engine="graph").hvp(v)
    for _ in range(3):
        assert torch.equal(model.hvp(v), expected)
    assert not model.report.recorded


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_program_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import compile_fx

    def slightly_wrong(module: Any, _inputs: Any, **_options: Any) -> Any:
        return lambda *v: [1.0001 * result for result in module(*v)]

    monkeypatch.setattr(compile_fx, "compile_fx", slightly_wrong)
    x, v = normal(4, seed=1), normal(4, seed=2)
    model = local_model(func, x, engine="compile")
    expected = local_model(func, x, engine="graph").hvp(v)
    for _ in range(3):
        assert torch.equal(model.hvp(v), expected)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(ValueError, match=r"engine must be one of 'auto', 'graph', 'record', 'compile'"):
        local_model(func, normal(4, seed=1), engine="jit")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_products_agree_with_the_graph_here_and_at_other_points() -> None:
    x, v = normal(4, seed=1), normal(4, seed=2)
    model = local_model(func, x, engine="compile")
    graph = local_model(func, x, engine="graph")
    for _ in range(2):
        torch.testing.assert_close(model.hvp(v), graph.hvp(v), rtol=1e-13, atol=1e-14)
    assert model.report.recorded
    H = HessianOperator(func, x, engine="compile")
    for seed in range(_FIRST + 3):
        H = H.at(normal(4, seed=10 + seed))
        expected = local_model(func, H.primals, engine="graph").hvp(v)
        torch.testing.assert_close(H @ v, expected, rtol=1e-12, atol=1e-13)
    (family,) = H._derivatives._families.values()
    assert family.program is not None and not family._reason


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_results_are_nobody_elses_memory() -> None:
    v = normal(4, seed=2)
    model = local_model(lambda x: 0.5 * x.square().sum(), normal(4, seed=1), engine="compile")
    for _ in range(2):
        product = model.hvp(v)
        assert torch.equal(product, v) and product.data_ptr() != v.data_ptr()
    assert model.report.recorded


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_products_called_from_cpp_agree_with_the_graph() -> None:
    x, v = normal(4, 4, seed=1), normal(4, 4, seed=2)

    def chain(x: Tensor) -> Tensor:
        return (A @ x @ x).tanh().square().sum()

    model = local_model(chain, x, engine="compile")
    torch.testing.assert_close(model.hvp(v), local_model(chain, x).hvp(v), rtol=1e-12, atol=1e-13)
    assert model.report.recorded


class Code:
    """Stands in for what inductor makes: a callable that takes a list, constants first."""

    def __init__(self, constant: Tensor) -> None:
        self.constant = constant
        self.current_callable = lambda given: [given[1] * given[0]]

    def run(self, x: Tensor) -> list[Tensor]:
        return self.current_callable([self.constant, x])


def test_layers_that_do_nothing_are_left_out() -> None:
    code, x, y = Code(normal(3, seed=0)), normal(3, seed=1), normal(3, seed=2)
    call = code.current_callable
    direct = _direct(code.run, [code], [x])
    assert direct is not None and code.current_callable is call
    code.current_callable = lambda _given: [torch.zeros(3)]  # not looked up any more
    assert torch.equal(direct(y)[0], y * code.constant)


def test_layers_that_do_something_stay() -> None:
    code, x = Code(normal(3, seed=0)), normal(3, seed=1)
    assert _direct(lambda x: [r + 1 for r in code.run(x)], [code], [x]) is None  # with the results
    assert _direct(lambda x: code.run(x.clone()), [code], [x]) is None  # with the arguments
    assert _direct(lambda x: code.run(code.run(x)[0]), [code], [x]) is None  # twice
    assert _direct(code.run, [], [x]) is None
    assert torch.equal(code.run(x)[0], x * code.constant)


def test_results_in_shared_memory_are_copied() -> None:
    constant = normal(3, seed=0)

    def run(x: Tensor) -> list[Tensor]:
        y = x + 1
        return [x[1:], constant, y, y[:2], x * 2]

    x = normal(3, seed=1)
    results = _apart(run, [x])(x)
    assert all(torch.equal(a, b) for a, b in zip(results, run(x), strict=True))
    places = [r.untyped_storage().data_ptr() for r in (x, constant, *results)]
    assert len(set(places)) == len(places)


def test_callers_in_cpp_are_for_some_matrix_products() -> None:
    def wrappers(count: int) -> list[bool]:
        def chain(x: Tensor) -> list[Tensor]:
            for _ in range(count):
                x = A.T @ A @ x
            return [x]

        x = normal(4, 2, seed=1)
        return ["cpp_wrapper" in o for o in _options(pure_record(chain, [x]).graph, [x], True)]

    assert wrappers(1) == wrappers(3) == wrappers(51) == [False]
    assert wrappers(4) == wrappers(50) == [True, False]


@pytest.mark.filterwarnings("ignore")
def test_without_a_cpp_caller_there_is_one_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import compile_fx, config

    def chain(x: Tensor) -> list[Tensor]:
        for _ in range(4):
            x = A.T @ A @ x
        return [x]

    def without(module: Any, *_args: Any, **_options: Any) -> Any:
        if config.cpp_wrapper:
            raise RuntimeError("no headers here")
        return lambda *now: list(module(*now))

    monkeypatch.setattr(compile_fx, "compile_fx", without)
    x = normal(4, 2, seed=1)
    made = pure_record(chain, [x])
    assert torch.equal(compiled(made.graph, made.constants, [x])(x)[0], chain(x)[0])
