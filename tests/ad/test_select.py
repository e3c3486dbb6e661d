"""The ladder: which way is taken, what must be confirmed, what is refused and in which words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib import DerivativeError, OutputError, hvp
from hvplib.ad import select as ladder
from hvplib.ad.graph import GraphFacts
from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt
from hvplib.ad.select import FORWARD, REVERSE, Selection, failing_op, is_missing_derivative, refusal, select
from hvplib.ad.strategies import Outcome, forward_over_reverse
from tests.ad.problems import F64, Cube, CutCube, NewCube, normal, relative

X, V = normal(3, seed=80), normal(3, seed=81)
TORCH_FUNC = FORWARD + " (torch.func)"


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum()


TRUTH = 6 * X * V


def run(func: Any, x: Tensor = X, v: Tensor = V) -> tuple[Selection, Objective]:
    objective = Objective(func, tree_flatten(x)[1])
    with derivative(), objective.session():
        return select(objective, [x], [v]), objective


# ------------------------------------------------------------------------------------------- real functions


def test_the_definition_first_and_nothing_else() -> None:
    calls = []
    got, objective = run(lambda x: calls.append(1) or cubic(x))
    assert (got.strategy, got.attempts, got.checks) == (FORWARD, [], [])
    assert relative(got.outcome.product, TRUTH) < 1e-14
    assert len(calls) == 1, "no proof is asked of what needs none"
    assert not objective.used


def test_a_custom_function_is_confirmed() -> None:
    got, _ = run(lambda x: NewCube.apply(x).sum())
    assert got.strategy == FORWARD
    assert [(c.name, c.passed) for c in got.checks] == [("difference of gradients", True)]


def test_a_fall_back_is_confirmed() -> None:
    got, _ = run(lambda x: Cube.apply(x).sum())
    assert got.strategy == REVERSE
    assert relative(got.outcome.product, TRUTH) < 1e-14
    assert [a.strategy for a in got.attempts] == [FORWARD]
    assert got.attempts[0].reason.startswith("NotImplementedError: You must implement the jvp function")
    assert [c.passed for c in got.checks] == [True]
    assert str(got.attempts[0]).startswith("forward-over-reverse: NotImplementedError")


def test_a_product_that_vanishes_is_confirmed() -> None:
    got, _ = run(lambda x: (3 * x).sum())
    assert got.outcome.vanishes and [c.passed for c in got.checks] == [True]
    constant, _ = run(lambda x: torch.ones((), dtype=F64))
    assert [(c.name, c.passed) for c in constant.checks] == [("func is constant", True)]


def test_a_singular_point_is_confirmed() -> None:
    zero = torch.zeros(3, dtype=F64)
    try:
        got, objective = run(lambda x: x.norm() ** 2 + cubic(x), zero)
    except DerivativeError:
        return
    assert objective.singular and got.checks
    assert relative(got.outcome.product, 2 * V) < 1e-12


def test_a_lost_derivative_is_refused_by_name() -> None:
    with pytest.raises(DerivativeError) as info:
        run(lambda x: CutCube.apply(x).sum())
    assert info.value.op == "a custom torch.autograd.Function"
    assert isinstance(info.value.__cause__, NotImplementedError)


def test_a_value_through_plain_numbers_is_refused_and_a_declared_one_is_zero() -> None:
    with pytest.raises(DerivativeError, match=r"carries no derivative: it is computed under no_grad"):
        run(lambda x: torch.tensor(cubic(x).item()))

    def quietly(x: Tensor) -> Tensor:
        with torch.no_grad():
            return cubic(x)

    with pytest.raises(DerivativeError, match="no_grad"):
        run(quietly)
    declared, _ = run(lambda x: cubic(x.detach()))
    assert torch.equal(declared.outcome.product[0], torch.zeros(3, dtype=F64))


def test_an_error_of_func_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="size of tensor") as info:
        run(lambda x: (x + torch.ones(4)).sum())
    assert not isinstance(info.value, DerivativeError)
    with pytest.raises(KeyError):
        run(lambda x: {}["missing"])


# ----------------------------------------------------------------------------- the logic, with ways made up

Way = Callable[..., Outcome]


def says(factor: float, *, custom: bool = False, vanishes: bool = False) -> Way:
    """A way whose product is `factor` times the truth."""

    def way(objective: Objective, primals: Any, tangents: Any) -> Outcome:
        facts = GraphFacts(("Custom",) if custom else ())
        product = [factor * 6 * x * v for x, v in zip(primals, tangents, strict=True)]
        return Outcome(cubic(primals[0]), [3 * primals[0] ** 2], product, vanishes=vanishes, facts=facts)

    return way


def cannot(
    text: str = "derivative for 'aten::frobnicate' is not implemented", kind: Any = RuntimeError
) -> Way:
    def way(*args: Any) -> Outcome:
        raise kind(text)

    return way


def with_ways(monkeypatch: pytest.MonkeyPatch, *ways: Way, func: Any = cubic) -> Selection:
    names = [FORWARD, REVERSE, TORCH_FUNC][: len(ways)]
    monkeypatch.setattr(ladder, "_LADDER", tuple(zip(names, ways, strict=True)))
    return run(func)[0]


def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no difference of gradients tell."""
    check = ladder.Check("difference of gradients", 1.0, 0.1, None, "the steps disagree")
    monkeypatch.setattr(ladder, "against_difference", lambda *args, **_kwargs: check)


def test_the_order_of_the_ladder() -> None:
    assert [name for name, _ in ladder._LADDER] == [FORWARD, REVERSE, TORCH_FUNC]
    assert ladder._LADDER[0][1] is forward_over_reverse


def test_the_first_way_is_believed_a_later_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_ways(monkeypatch, says(2)).checks == []
    assert with_ways(monkeypatch, cannot(), says(1)).strategy == REVERSE
    with pytest.raises(DerivativeError, match="reverse-over-reverse: difference of gradients: FAILED"):
        with_ways(monkeypatch, cannot(), says(1.001))
    third = with_ways(monkeypatch, cannot(), says(2), says(1))
    assert third.strategy == TORCH_FUNC
    assert [a.strategy for a in third.attempts] == [FORWARD, REVERSE]


@pytest.mark.parametrize("doubt", [{"custom": True}, {"vanishes": True}])
def test_the_first_way_is_not_believed_in_doubt(
    monkeypatch: pytest.MonkeyPatch, doubt: dict[str, bool]
) -> None:
    assert with_ways(monkeypatch, says(1, **doubt)).checks[0].passed
    with pytest.raises(DerivativeError):
        with_ways(monkeypatch, says(2, **doubt))
    assert with_ways(monkeypatch, says(2, **doubt), says(1)).strategy == REVERSE


def test_a_product_that_is_not_finite_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DerivativeError, match="the product is not finite, the difference is"):
        with_ways(monkeypatch, says(float("nan")))
    assert with_ways(monkeypatch, says(float("inf")), says(1)).strategy == REVERSE


@pytest.mark.parametrize(
    "kind", [RuntimeError, NotImplementedError, AssertionError, ValueError, TypeError, IndexError]
)
def test_what_counts_as_not_available(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    got = with_ways(monkeypatch, cannot(kind=kind), says(1))
    assert got.strategy == REVERSE
    assert got.attempts[0].reason.startswith(f"{kind.__name__}: derivative for")


@pytest.mark.parametrize(
    "error",
    [KeyError("k"), MemoryError(), torch.OutOfMemoryError("m"), RuntimeError("can't allocate memory")],
)
def test_what_passes_through(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def way(*args: Any) -> Outcome:
        raise error

    with pytest.raises(type(error)) as info:
        with_ways(monkeypatch, way, says(1))
    assert info.value is error


def test_undecided_ways_that_agree_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    undecided(monkeypatch)
    got = with_ways(monkeypatch, cannot(), says(2), says(2))
    assert got.strategy == REVERSE
    assert [a.strategy for a in got.attempts] == [FORWARD], "only what came before it was given up for it"
    assert [c.passed for c in got.checks] == [None]


def test_undecided_ways_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    undecided(monkeypatch)
    with pytest.raises(DerivativeError, match="inconclusive"):
        with_ways(monkeypatch, cannot(), says(2), says(2.1))


def test_an_undecided_custom_function_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    undecided(monkeypatch)
    with pytest.raises(DerivativeError):
        with_ways(monkeypatch, says(1, custom=True))


def test_of_undecided_ways_a_finite_one(monkeypatch: pytest.MonkeyPatch) -> None:
    undecided(monkeypatch)
    got = with_ways(monkeypatch, says(float("nan")), says(3))
    assert got.strategy == REVERSE


# ------------------------------------------------------------------------------------------------- the words


def test_the_refusal_names_the_operation_what_was_tried_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(DerivativeError) as info:
        with_ways(monkeypatch, cannot(), cannot("no double backward"))
    error, text = info.value, str(info.value)
    assert error.op == "frobnicate"
    assert "the operation in the way is frobnicate. Tried:\n" in text
    assert "\n  forward-over-reverse: RuntimeError: derivative for 'aten::frobnicate' is not" in text
    assert "\n  reverse-over-reverse: RuntimeError: no double backward\n" in text
    assert "Remedies: write that operation with differentiable torch operations" in text


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("Trying to use forward AD with aten::foo_backward that does not support it", "foo_backward"),
        (
            "Trying to use forward AD with mkldnn_rnn_layer that does not support it because",
            "mkldnn_rnn_layer",
        ),
        ("derivative for aten::_flash_backward is not implemented", "_flash_backward"),
        ("the derivative for '_cdist_backward' is not implemented", "_cdist_backward"),
        ("CsrThing does not support automatic differentiation for outputs", "CsrThing"),
        (
            "In order to use an autograd.Function with functorch transforms",
            "a custom torch.autograd.Function",
        ),
        ("something else", None),
    ],
)
def test_the_operation_in_the_words_of_torch(text: str, op: str | None) -> None:
    assert failing_op(RuntimeError(text)) == op


def test_the_operation_of_an_error_of_ours() -> None:
    assert failing_op(DerivativeError("words", op="thing")) == "thing"
    assert failing_op(DerivativeError("words")) is None


def test_a_refusal_by_hand() -> None:
    cause = ValueError("inner")
    error = refusal([Attempt("a", "b"), Attempt("c", "d")], cause)
    assert error.__cause__ is cause and error.op is None
    assert "the operation in the way is not named by torch. Tried:\n  a: b\n  c: d\nRemedies:" in str(error)
    assert refusal([], None).__cause__ is None


def test_missing_derivatives_and_other_errors() -> None:
    assert is_missing_derivative(RuntimeError("x")) and is_missing_derivative(DerivativeError("x"))
    assert not is_missing_derivative(OutputError("x"))
    assert not is_missing_derivative(torch.OutOfMemoryError("x"))
    assert not is_missing_derivative(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))


class LastByDetachedValue:
    """Keeps its last value, with its graph, under a detached copy of the argument."""

    def __init__(self) -> None:
        self.key = self.value = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.key is None or not torch.equal(self.key, x.detach()):
            self.key, self.value = x.detach().clone(), cubic(x)
        return self.value


def test_a_value_kept_under_a_detached_key_is_differentiated_again() -> None:
    func = LastByDetachedValue()
    for _ in range(3):
        assert relative(hvp(func, X, V), TRUTH) < 1e-14


@pytest.mark.parametrize("strategy", [FORWARD, REVERSE])
def test_a_named_way_refuses_the_graph_of_another_call(strategy: str) -> None:
    func = LastByDetachedValue()
    assert relative(hvp(func, X, V, strategy=strategy), TRUTH) < 1e-14
    with pytest.raises(DerivativeError, match="comes from a cache"):
        hvp(func, X, V, strategy=strategy)
