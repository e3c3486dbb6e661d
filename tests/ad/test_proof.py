"""Proof: a right engine stays, a wrong one gives way or is refused."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib.ad.engines import Engine, GraphEngine, RecomputeEngine
from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from hvplib.ad.proof import proven
from hvplib.errors import DerivativeError
from tests.ad.problems import normal, relative

X, V = normal(3, seed=240), normal(3, seed=241)
SKEW = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 3.0], [-2.0, -3.0, 0.0]], dtype=torch.float64)


def cubic() -> Objective:
    return Objective(lambda x: (x**3).sum(), tree_flatten(X)[1])


def kept(objective: Objective) -> GraphEngine:
    engine = GraphEngine.build(objective, [X])
    assert isinstance(engine, GraphEngine)
    return engine


def prove(engine: Engine, objective: Objective) -> Engine:
    with derivative(), objective.session():
        return proven(engine, objective, [X])


def test_a_right_engine_is_kept() -> None:
    objective = cubic()
    engine = kept(objective)
    assert prove(engine, objective) is engine
    assert len(engine.checks) == 4 and all(check.passed for check in engine.checks)


@pytest.mark.parametrize("fault", ["scaled", "not symmetric", "not repeatable", "fails"])
def test_a_wrong_engine_gives_way_to_a_right_one(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = cubic()
    engine = kept(objective)
    right, calls = engine.product, []

    def product(tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        calls.append(fault)
        (hv,) = right(tangents)
        if fault == "fails":
            raise RuntimeError("no second derivative")
        if fault == "scaled":
            return [1.5 * hv]
        return [hv + SKEW @ tangents[0]] if fault == "not symmetric" else [hv * len(calls)]

    monkeypatch.setattr(engine, "product", product)
    other = prove(engine, objective)
    assert isinstance(other, RecomputeEngine)
    assert relative(other.product([V]), [6 * X * V]) < 1e-13
    assert other.attempts[0].strategy == "reverse-over-reverse (graph kept)"
    assert all(check.passed for check in other.checks) and other.checks


def test_where_every_way_is_wrong_the_point_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = cubic()
    engine = kept(objective)

    def wrong(self: Engine, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        return [SKEW @ tangents[0]]

    monkeypatch.setattr(GraphEngine, "product", wrong)
    monkeypatch.setattr(RecomputeEngine, "product", wrong)
    with pytest.raises(DerivativeError, match="no way of multiplying"):
        prove(engine, objective)


def test_an_engine_that_works_afresh_proves_itself() -> None:
    objective = cubic()
    engine = RecomputeEngine(objective, [X], "auto")
    assert prove(engine, objective) is engine
    assert engine.strategy.startswith("forward-over-reverse")
