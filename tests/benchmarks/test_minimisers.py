"""How contenders are counted, stopped and judged, with contenders of known behaviour."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from benchmarks import minimisers
from benchmarks.contest import Absent
from benchmarks.minimisers import CONTENDERS, Answer, OutOfTime, Watch, by_scipy, run, solves
from benchmarks.optim import contest, costs, per_problem, profiles, summary
from benchmarks.problems import CLASSICAL, Minimisation, indef
from benchmarks.problems.minimisation import vector


def bowl(minimum: float | None = 3.0) -> Minimisation:
    def func(x: Tensor) -> Tensor:
        return 3.0 + x.square().sum()

    return Minimisation("bowl", func, vector(1, 1), minimum, "here")


def claiming(x: Tensor, success: bool = True, message: str = "done; indeed") -> minimisers.Contender:
    def contender(problem: Minimisation, watch: Watch) -> Answer:
        watch.points, watch.products = 3, 4
        return Answer(x, success, message)

    return contender


def test_a_solved_problem() -> None:
    outcome = run(claiming(vector(1e-5, 0)), bowl(), 10)
    assert outcome.solved and outcome.success and outcome.verdict == "solved"
    assert outcome.value == pytest.approx(3 + 1e-10) and outcome.gradient == pytest.approx(2e-5)
    assert (outcome.points, outcome.products, outcome.cost) == (3, 4, 7)


def test_a_false_success() -> None:
    outcome = run(claiming(vector(1e-2, 0)), bowl(), 10)
    assert outcome.success and not outcome.solved and outcome.verdict == "**false success**"


def test_success_not_claimed() -> None:
    assert run(claiming(vector(0, 0), False), bowl(), 10).verdict == "solved, says: done"


def test_not_solved() -> None:
    assert run(claiming(vector(1, 0), False), bowl(), 10).verdict == "not solved, says: done"


@pytest.mark.parametrize(
    ("value", "gradient", "minimum", "expected"),
    [
        (0.5, 0.99e-6, None, True),
        (0.5, 1.01e-6, None, False),
        (50.0, 0.99e-4 / 2, None, True),
        (50.0, 1.01e-4 / 2, None, False),
        (-50.0, 0.99e-4 / 2, None, True),
        (0.99e-8, 1.0, 0.0, True),
        (1.01e-8, 1.0, 0.0, False),
        (100 + 0.99e-6, 1.0, 100.0, True),
        (100 + 1.01e-6, 1.0, 100.0, False),
        (math.nan, 0.0, 0.0, False),
        (-math.inf, 0.0, 0.0, False),
        (-1e300, 0.0, -math.inf, False),
    ],
)
def test_what_solves(value: float, gradient: float, minimum: float | None, expected: bool) -> None:
    assert solves(bowl(minimum), value, gradient) is expected


def test_an_exception_ends_at_the_best_point() -> None:
    def contender(problem: Minimisation, watch: Watch) -> Answer:
        watch.note(vector(0.5, 0), 3.25)
        watch.note(vector(4, 4), 35.0)
        raise ValueError("array must not contain infs or NaNs")

    outcome = run(contender, bowl(), 10)
    assert outcome.value == 3.25 and not outcome.success
    assert outcome.message == "ValueError: array must not contain infs or NaNs"


def test_the_clock_stops_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = CLASSICAL["GENROSE"]()
    # A clock that ticks when it is looked at: how far a contender gets must not depend on the machine.
    monkeypatch.setattr(Watch, "elapsed", property(lambda watch: 0.01 * (watch.points + watch.products)))
    outcome = run(CONTENDERS["SciPy trust-ncg"], problem, 0.3)
    assert outcome.message == "time limit" and not outcome.solved
    assert outcome.value < float(problem.func(problem.x0)) and outcome.points > 1 and outcome.products > 1
    assert 30 < outcome.points + outcome.products < 40


def test_the_clock_itself_runs() -> None:
    Watch(1e9).check()
    with pytest.raises(OutOfTime, match="time limit"):
        Watch(-1.0).check()


def test_the_alarm_stops_a_loop_without_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "grace", 0.1)

    def contender(problem: Minimisation, watch: Watch) -> Answer:
        while True:
            pass

    outcome = run(contender, bowl(), 0.1)
    assert outcome.message == "time limit, in a loop without evaluations"
    assert outcome.value == 5


def test_absence_is_told() -> None:
    def contender(problem: Minimisation, watch: Watch) -> Answer:
        raise Absent("not installed")

    with pytest.raises(Absent):
        run(contender, bowl(), 10)
    assert contest({"bowl": bowl}, {"gone": contender}, 10) == {"bowl": {"gone": "not installed"}}


def test_dense_methods_keep_to_small_problems() -> None:
    with pytest.raises(Absent, match="only to n = 600"):
        minimisers._only_small(indef(601))
    minimisers._only_small(indef(600))


@pytest.mark.parametrize(
    "who", ["**hvplib trust-ncg**", "SciPy trust-krylov", "SciPy Newton-CG", "SciPy L-BFGS-B"]
)
def test_contenders_solve_and_are_counted(who: str) -> None:
    outcome = run(CONTENDERS[who], CLASSICAL["BEALE"](), 60)
    assert outcome.solved and outcome.success and outcome.value < 1e-10
    assert 5 < outcome.points < 100
    assert outcome.products == 0 if "L-BFGS" in who else 5 < outcome.products < 100


def test_pytorch_minimize_is_counted() -> None:
    pytest.importorskip("torchmin")
    outcome = run(CONTENDERS["pytorch-minimize trust-ncg"], CLASSICAL["BEALE"](), 60)
    assert outcome.solved and 5 < outcome.points < 100 and 5 < outcome.products < 100


def test_products_are_counted_one_by_one() -> None:
    # A quadratic of three unknowns: Newton-CG needs at most three products for each of its few steps.
    weights = vector(1, 2, 3)
    problem = Minimisation("q", lambda x: (weights * x**2).sum(), vector(1, 1, 1), 0.0, "here")
    watch = Watch(60)
    by_scipy("Newton-CG", problem, watch)
    assert 1 <= watch.products <= 12 and 2 <= watch.points <= 12


def test_tables() -> None:
    good, bad = claiming(vector(0, 0)), claiming(vector(1, 1))

    def gone(problem: Minimisation, watch: Watch) -> Answer:
        raise Absent("not installed")

    slow = claiming(vector(1, 1), False, "time limit")
    contenders = {"good": good, "bad": bad, "slow": slow, "gone": gone}
    outcomes = contest({"one": bowl, "two": bowl}, contenders, 10)
    rows = {line.split("|")[1].strip(): line for line in summary(outcomes).splitlines()[2:]}
    assert rows["good"].startswith("| good | 2 of 2 | 0 | 0 | 0 | 6 | 8 |")
    assert rows["bad"].startswith("| bad | 0 of 2 | 2 | 0 | 0 | 6 | 8 |")
    assert rows["slow"].startswith("| slow | 0 of 2 | 0 | 0 | 2 | 6 | 8 |")
    assert rows["gone"].startswith("| gone | not installed |")
    table, lost = costs(outcomes, lambda o: o.cost), {"one": math.inf, "two": math.inf}
    assert table == {"good": {"one": 7, "two": 7}, "bad": lost, "slow": lost}
    assert "| good | 100 % | 100 %" in profiles(table) and "| bad | 0 % | 0 %" in profiles(table)
    text = per_problem(outcomes["one"])
    assert "**false success**" in text and "| good | 3 | 0.0e+00 | 3 | 4 |" in text


def test_signals_are_as_before() -> None:
    import signal

    before = signal.getsignal(signal.SIGALRM)
    run(claiming(vector(0, 0)), bowl(), 10)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert torch.is_grad_enabled()
