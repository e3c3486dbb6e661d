"""check_hvp: flags what is wrong, stays silent on what is right, says so where it cannot tell."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from hvplib import CheckReport, DerivativeError, check_hvp
from hvplib.ad import remedies
from hvplib.ad.inputs import STRATEGIES
from hvplib.ad.report import Attempt, Check
from tests.ad.problems import F64, PROBLEMS, Cube, CutCube, NewCube, Problem, normal

X = normal(4, seed=60)
M = normal(3, 3, seed=61)


def failures(report: CheckReport) -> list[str]:
    return [check.name for check in report.checks if check.passed is False]


# --------------------------------------------------------------------------- what is wrong without a remedy


def weight_norm(p: tuple[Tensor, Tensor]) -> Tensor:
    return torch._weight_norm(p[0], p[1], 0).pow(3).sum()


def scatter_product(x: Tensor) -> Tensor:
    index = torch.tensor([0, 0, 1, 1])
    return torch.ones(2, dtype=x.dtype).scatter_reduce(0, index, x, "prod").pow(2).sum()


def triangular(x: Tensor) -> Tensor:
    lower = torch.tril(x.outer(x)[:3, :3]) + 3 * torch.eye(3, dtype=x.dtype)
    return torch.triangular_solve(x[:3, None], lower, upper=False)[0].pow(3).sum()


def cholesky_inverse(x: Tensor) -> Tensor:
    return (
        torch.cholesky_inverse(torch.tril(x.outer(x)[:3, :3]) + 2 * torch.eye(3, dtype=x.dtype)).pow(2).sum()
    )


def strided_scatter(x: Tensor) -> Tensor:
    return torch.as_strided_scatter(x**2, x[:2] ** 3, (2,), (1,)).pow(2).sum()


TRAPS = [
    ([torch._weight_norm], weight_norm, (normal(2, 3), normal(2, 1, seed=1)), "reverse-over-reverse"),
    ([Tensor.scatter_reduce], scatter_product, X, "forward-over-reverse"),
    ([torch.triangular_solve], triangular, X, "forward-over-reverse"),
    ([torch.cholesky_inverse], cholesky_inverse, X, "forward-over-reverse"),
    ([torch.as_strided_scatter], strided_scatter, X, "reverse-over-reverse"),
]
every_trap = pytest.mark.parametrize(
    ("names", "func", "primals", "strategy"), TRAPS, ids=[func.__name__ for _, func, _, _ in TRAPS]
)


def _one_argument(primals: Any) -> Any:
    return [*primals] if isinstance(primals, tuple) else primals


@pytest.mark.filterwarnings("ignore:torch.triangular_solve is deprecated")
@every_trap
def test_flags_a_wrong_derivative_of_torch(
    monkeypatch: pytest.MonkeyPatch, names: Any, func: Any, primals: Any, strategy: str
) -> None:
    for name in names:
        monkeypatch.setitem(remedies._handlers, name, None)
    report = check_hvp(func, _one_argument(primals), strategy=strategy)
    assert report.ok is False
    assert "difference of gradients" in failures(report)


@every_trap
@pytest.mark.parametrize("way", ["auto", "forward-over-reverse", "reverse-over-reverse"])
def test_the_remedies_pass(names: Any, func: Any, primals: Any, strategy: str, way: str) -> None:
    report = check_hvp(func, _one_argument(primals), strategy=way)
    assert report.ok is True and report.attempts == ()
    assert report.remedies


# --------------------------------------------------------------------------------- functions that are wrong


class Once(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class PartCut(Cube):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x.detach() ** 2 * g


class ByNumPy(Cube):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.from_numpy(3 * x.detach().numpy() ** 2 * g.detach().numpy())


class WrongJvp(NewCube):
    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x**2 * t


class WrongGradient(Cube):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x**2 * g


REVERSE = "reverse-over-reverse"


@pytest.mark.parametrize(
    ("function", "strategy"),
    [
        (Once, REVERSE),
        (CutCube, REVERSE),
        (PartCut, REVERSE),
        (ByNumPy, REVERSE),
        (WrongJvp, "forward-over-reverse"),
    ],
)
# in the second the gradient depends on the value of the cube, which is where a wrong jvp shows
@pytest.mark.parametrize(
    "use", [lambda cube, x: (cube(x) + x.sin() * cube(x)).sum(), lambda cube, x: (cube(x.exp()) * x).sum()]
)
def test_flags_custom_functions_that_lose_a_derivative(function: Any, strategy: str, use: Any) -> None:
    report = check_hvp(lambda x: use(function.apply, x), X, strategy=strategy)
    assert report.ok is False
    assert "difference of gradients" in failures(report)


@pytest.mark.parametrize("strategy", ["auto", REVERSE])
def test_flags_a_gradient_that_is_wrong_from_the_first(strategy: str) -> None:
    """Its derivative agrees with differences of it, and is symmetric: only the value tells."""
    report = check_hvp(lambda x: WrongGradient.apply(x).sum(), X, strategy=strategy)
    assert report.ok is False
    assert failures(report) == ["gradient against differences of the value"]


def test_flags_what_is_not_symmetric(monkeypatch: pytest.MonkeyPatch) -> None:
    """The padding row of an embedding, masked in the gradient only: differences agree, symmetry fails."""
    monkeypatch.setitem(remedies._handlers, F.embedding, None)
    monkeypatch.setitem(remedies._handlers, torch.embedding, None)
    words = torch.tensor([0, 1, 2, 0])

    def func(table: Tensor) -> Tensor:
        return F.embedding(words, table, padding_idx=0).sum(0).pow(3).sum()

    report = check_hvp(func, normal(3, 2), strategy="forward-over-reverse")
    assert report.ok is False
    assert "symmetry" in failures(report) and "difference of gradients" not in failures(report)


def test_flags_noise_that_no_generator_explains() -> None:
    source = random.Random(3)
    report = check_hvp(lambda x: (x**3).sum() * (1 + 0.1 * source.random()), X)
    assert report.ok is False
    assert "called twice" in failures(report)


def test_flags_a_function_that_changes_with_its_calls() -> None:
    calls = []

    def func(x: Tensor) -> Tensor:
        calls.append(1)
        return len(calls) * (x**3).sum()

    assert "called twice" in failures(check_hvp(func, X))


def test_a_function_that_no_way_gets_right_is_refused() -> None:
    with pytest.raises(DerivativeError, match=r"custom torch\.autograd\.Function"):
        check_hvp(lambda x: CutCube.apply(x).sum(), X)


# ------------------------------------------------------------------------------------------ no false alarms


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_no_false_alarm_on_closed_forms(problem: Problem, strategy: str) -> None:
    report = check_hvp(problem.func, problem.primals, strategy=strategy)
    assert report.ok is not False
    assert report.ok or strategy == "finite-difference"
    assert [c.passed for c in report.checks if c.name == "difference of gradients"] == [True]


def _loss(net: nn.Module, data: Tensor, target: Tensor) -> tuple[Any, dict[str, Tensor]]:
    p = {k: q.detach() for k, q in net.named_parameters()}
    return (lambda p: F.cross_entropy(functional_call(net, p, (data,)), target)), p


NETWORKS = {
    "tanh": lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)),
    "layer norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)),
    "batch norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 2)),
    "dropout": lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Softplus(), nn.Linear(8, 2)),
    "relu": lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NETWORKS)
def test_no_false_alarm_on_networks(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    func, p = _loss(NETWORKS[name]().double(), normal(8, 3, seed=seed), torch.arange(8) % 2)
    assert check_hvp(func, p, seed=seed).ok is True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_no_false_alarm_in_low_precision(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    func, p = _loss(NETWORKS[name]().to(dtype), normal(8, 3).to(dtype), torch.arange(8) % 2)
    assert check_hvp(func, p).ok is not False


def test_a_linear_function_is_right() -> None:
    report = check_hvp(lambda x: (3 * x).sum(), X)
    assert report.ok is True


# --------------------------------------------------------------------------------------------- inconclusive


def _wide_relu() -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
    return _loss(net, normal(64, 8, dtype=torch.float32), torch.arange(64) % 2)


def test_inconclusive_across_the_kinks_of_many_relus_in_float32() -> None:
    func, p = _wide_relu()
    report = check_hvp(func, p)
    assert report.ok is None
    assert str(report).startswith("inconclusive\n")
    unsure = [check for check in report.checks if check.passed is None]
    assert [check.name for check in unsure] == ["difference of gradients"]
    assert "the steps disagree with one another" in str(unsure[0])
    assert failures(report) == []


# ------------------------------------------------------------------------------------------------- the report


def test_what_is_compared() -> None:
    report = check_hvp(lambda x: (x**3).sum(), X)
    assert [check.name for check in report.checks] == [
        "symmetry",
        "called twice",
        "auto against forward-over-reverse",
        "auto against reverse-over-reverse",
        "difference of gradients",
        "gradient against differences of the value",
    ]
    named = check_hvp(lambda x: (x**3).sum(), X, strategy=REVERSE)
    assert [c.name for c in named.checks if "against f" in c.name] == [
        f"{REVERSE} against forward-over-reverse"
    ]


def test_ways_that_are_not_available_are_listed() -> None:
    report = check_hvp(lambda x: Cube.apply(x).sum(), X)
    assert report.ok is True
    assert [attempt.strategy for attempt in report.attempts] == ["forward-over-reverse"]
    assert "\n  not available: forward-over-reverse: " in str(report)


def test_the_report_reads_well() -> None:
    report = check_hvp(lambda x: F.huber_loss(x, torch.zeros(4, dtype=F64)), X)
    lines = str(report).splitlines()
    assert lines[0] == "right: every check passed"
    assert lines[-1] == "  remedies: huber_loss decomposed"
    wrong = check_hvp(lambda x: WrongGradient.apply(x).sum(), X)
    assert str(wrong).startswith("WRONG: a check failed\n")
    assert "gradient against differences of the value: FAILED (relative error 3." in str(wrong)


@pytest.mark.parametrize(
    ("verdicts", "ok"),
    [([True, True], True), ([True, None], None), ([None, False, True], False), ([], False), ([None], None)],
)
def test_ok_is_false_before_none_before_true(verdicts: list[bool | None], ok: bool | None) -> None:
    report = CheckReport(tuple(Check("c", 0.0, 1.0, v) for v in verdicts))
    assert report.ok is ok


def test_a_report_by_hand() -> None:
    report = CheckReport((Check("c", 2.0, 1.0, False, "why"),), (Attempt("way", "reason"),), ("one", "two"))
    assert str(report) == (
        "WRONG: a check failed\n  c: FAILED (relative error 2.0e+00, tolerance 1e+00); why\n"
        "  not available: way: reason\n  remedies: one, two"
    )


def test_the_seed_gives_the_directions_and_the_global_generator_stays() -> None:
    state = torch.get_rng_state()
    first, again, other = (check_hvp(lambda x: x.exp().prod(), X, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert [c.error for c in first.checks] != [c.error for c in other.checks]


def test_works_on_parameters_and_leaves_them() -> None:
    p = nn.Parameter(X.clone())
    assert check_hvp(lambda x: (x**4).sum(), p).ok is True
    assert p.grad is None and p.requires_grad and torch.equal(p, X)
