"""Right or refused on every operation of torch's own database; and the suite itself sees what is wrong."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence

import pytest

from hvplib.ad.trace import replay
from tests.ad.opdb.farm import run
from tests.ad.opdb.recording import RECORDED, judge_by_force, judge_record, tally
from tests.ad.opdb.summary import judged, listing, one_line, share_right
from tests.ad.opdb.units import LEFT_OUT, Unit, units
from tests.ad.opdb.verdicts import Verdict, judge

RIGHT_AT_LEAST = 0.992
RECORDED_AT_LEAST = 0.85
SAMPLES = 3


@pytest.fixture(scope="module")
def database() -> list[Unit]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [unit for unit in units() if unit.name not in LEFT_OUT]


def verdicts_on(
    chosen: Sequence[Unit], mode: str, strategy: str = "auto", *, timeout: float = 120.0
) -> list[Verdict]:
    jobs = min(2, os.cpu_count() or 1)
    return list(run(chosen, lambda unit: judge(unit, strategy, mode, SAMPLES), jobs=jobs, timeout=timeout))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "units_at_least"),
    [("all", 775), ("first", 245), ("batched", 770), ("dense", 500), ("known", 500)],
)
def test_right_or_refused(database, mode, units_at_least, capsys):
    """At least 99.2 % right, nothing wrong, and each refusal names the operation."""
    verdicts = verdicts_on(database, mode)
    with capsys.disabled():
        sys.stdout.write(f"\nmode {mode}: {one_line(verdicts)}\n{listing(judged(verdicts))}\n")
    assert len(judged(verdicts)) >= units_at_least
    assert share_right(verdicts) >= RIGHT_AT_LEAST
    assert {v.verdict for v in judged(verdicts)} <= {"right", "refused"}, listing(judged(verdicts))


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "units_at_least"), [("batched", 770), ("dense", 500)])
def test_recorded_products_are_right_or_refused(database, mode, units_at_least):
    """The same with every product recorded at its first call; the other modes keep no graph to record."""
    verdicts = list(
        run(database, lambda unit: judge_by_force(unit, "auto", mode, SAMPLES), jobs=2, timeout=240.0)
    )
    assert len(judged(verdicts)) >= units_at_least
    assert share_right(verdicts) >= RIGHT_AT_LEAST
    assert {v.verdict for v in judged(verdicts)} <= {"right", "refused"}, listing(judged(verdicts))


def hold_records_to_their_graphs(chosen: Sequence[Unit]) -> list[Verdict]:
    verdicts = list(run(chosen, lambda unit: judge_record(unit, SAMPLES), jobs=2, timeout=240.0))
    assert {v.verdict for v in verdicts} <= {"right", "unjudged"}, listing(verdicts)
    # What stands in the way of a record is told in the recorder's own words, or torch's.
    blunders = ("KeyError", "AttributeError", "IndexError", "AssertionError", "SyntaxError", "NameError")
    assert not [note for v in verdicts for note in v.notes if note.startswith(blunders)], tally(verdicts)
    return verdicts


@pytest.mark.slow
def test_every_record_gives_the_bits_of_its_graph(database, capsys):
    """With dense, large, small, sparse, zero and non-finite vectors, alone in blocks; and none crashes."""
    verdicts = hold_records_to_their_graphs(database)
    with capsys.disabled():
        sys.stdout.write(f"\n{tally(verdicts)}\n")
    counted = [v for v in verdicts if v.judged]
    assert len(counted) >= 774
    assert sum(all(note == RECORDED for note in v.notes) for v in counted) >= RECORDED_AT_LEAST * len(counted)


def test_some_records_give_the_bits_of_their_graphs(database):
    names = (
        *(
            "op:cumprod",
            "op:nn.functional.layer_norm",
            "op:index_put",
            "op:linalg.solve",
            "op:nn.functional.gelu",
        ),
        *(
            "op:softmax",
            "op:var",
            "op:fft.rfft",
            "op:nn.functional.conv2d",
            "module:nn.MultiheadAttention.train",
        ),
        *("op:sort", "op:prod", "inplace:mul", "module:nn.LSTM", "op:nn.functional.dropout", "op:cdist"),
    )
    chosen = [unit for unit in database if unit.name in names]
    assert len(chosen) == len(names), set(names) - {unit.name for unit in chosen}
    verdicts = hold_records_to_their_graphs(chosen)
    assert sum(RECORDED in v.notes for v in verdicts) >= len(names) - 2, tally(verdicts)


def test_a_record_that_differs_is_seen(database, monkeypatch):
    """Where it errs for some vectors only, and its own check looks away."""
    monkeypatch.setattr(replay, "_CALLS", replay._CALLS)
    monkeypatch.setattr(replay, "_PER_OPERATION", replay._PER_OPERATION)
    right = replay.emit
    monkeypatch.setattr(
        replay,
        "emit",
        lambda *a: (lambda run: lambda *x: tuple(r * (1 + (x[0].max() > 1e4)) for r in run(*x)))(right(*a)),
    )
    (unit,) = (unit for unit in database if unit.name == "op:sin")
    verdict = judge_record(unit, 1)
    assert verdict.verdict == "wrong" and "different" in verdict.detail


@pytest.mark.parametrize(
    ("strategy", "name", "verdict"),
    [
        ("jvp-of-grad", "op:scatter_reduce.prod", "wrong"),
        ("jvp-of-grad", "op:triangular_solve", "wrong"),
        ("jvp-of-grad", "module:nn.MSELoss", "raised"),
        ("double-backward", "op:nn.functional.linear_cross_entropy.chunked", "wrong"),
        ("double-backward", "op:as_strided_scatter", "wrong"),
        ("double-backward", "op:masked.logaddexp", "nan"),
        ("auto", "op:scatter_reduce.prod", "right"),
        ("auto", "op:sparse.sampled_addmm", "refused"),
        ("auto", "module:nn.BatchNorm1d.train", "right"),
    ],
)
def test_the_suite_tells_right_from_wrong(database, strategy, name, verdict):
    (unit,) = (unit for unit in database if unit.name == name)
    (found,) = verdicts_on([unit], "all", strategy)
    assert found.verdict == verdict, found


def test_a_crash_and_a_hang_cost_one_unit():
    def misbehave(unit: Unit) -> Verdict:
        if unit.name == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        while unit.name == "hang":
            pass
        return Verdict(unit.name, "right")

    three = [Unit(name, lambda: iter(())) for name in ("crash", "hang", "fine")]
    verdicts = {v.unit: v.verdict for v in run(three, misbehave, jobs=2, timeout=2.0)}
    assert verdicts == {"crash": "died", "hang": "died", "fine": "right"}


def test_every_name_that_is_left_out_exists():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {unit.name for unit in units()}
    assert set(LEFT_OUT) <= names
