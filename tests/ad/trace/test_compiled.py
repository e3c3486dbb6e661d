"""Programs through torch's compiler: held against the graph, given up where the compiler fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator, local_model
from hvplib.ad.derivatives import _FIRST

F64 = torch.float64
A = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def func(x: Tensor) -> Tensor:
    return (A @ x).tanh().square().sum() + (x**4).sum()


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def broken(*_args: Any, **_options: Any) -> Any:
    raise RuntimeError("no C++ compiler here")


def test_without_a_compiler_the_graph_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor

    monkeypatch.setattr(torch._inductor, "compile", broken)
    x, v = normal(4, seed=1), normal(4, seed=2)
    model = local_model(func, x, engine="compile")
    expected = local_model(func, x, engine="graph").hvp(v)
    for _ in range(3):
        assert torch.equal(model.hvp(v), expected)
    assert not model.report.recorded


def test_a_compiled_program_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor

    def slightly_wrong(module: Any, _inputs: Any, **_options: Any) -> Any:
        return lambda *v: [1.0001 * result for result in module(*v)]

    monkeypatch.setattr(torch._inductor, "compile", slightly_wrong)
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
