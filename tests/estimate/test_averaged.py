"""When to stop drawing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvplib import Status
from hvplib.estimate.averaged import LEAST, Averaged, averaged, error_of
from hvplib.estimate.goal import Goal
from hvplib.estimate.samples import Samples, student
from hvplib.results.estimate import EstimateProgress

F64 = torch.float64


class Source:
    """Normal samples of mean 10 and variance 1, counted."""

    def __init__(self, seed: int = 0, shape: tuple[int, ...] = ()) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.shape = shape
        self.blocks: list[int] = []

    def __call__(self, k: int) -> Tensor:
        self.blocks.append(k)
        return torch.randn(k, *self.shape, generator=self.generator, dtype=F64) + 10

    def spent(self) -> int:
        return 2 * sum(self.blocks)


def run(source: Callable[[int], Tensor], goal: Goal, **options: object) -> Averaged:
    settings: dict[str, object] = {"max_samples": 1000, "block_size": 8, "spent": source.spent}  # type: ignore[attr-defined]
    return averaged(source, goal, **(settings | options))  # type: ignore[arg-type]


def test_without_a_tolerance_all_are_drawn() -> None:
    source = Source()
    found = run(source, Goal(), max_samples=30)
    assert source.blocks == [8, 8, 8, 6]
    assert found.status is Status.ESTIMATED and found.tolerance == math.inf
    assert found.samples.count == 30
    assert found.history[:, 0].tolist() == [16, 32, 48, 60]
    assert found.history[-1, 1] == found.samples.mean and found.history[-1, 2] == found.error


def test_the_error_stops_it() -> None:
    found = run(Source(), Goal(atol=0.2))
    assert found.status is Status.ESTIMATED
    assert found.error <= 0.2 == found.tolerance
    # 2 / √m = 0.2 for m = 100; chance and the steps between looks allow for less and for more.
    assert 50 < found.samples.count < 300
    relative = run(Source(), Goal(rtol=0.02))
    assert abs(relative.samples.count - found.samples.count) <= 2
    assert relative.tolerance == pytest.approx(0.02 * float(relative.samples.mean), rel=1e-15)


def test_not_before_the_least_number() -> None:
    assert run(Source(), Goal(atol=1e9)).samples.count == LEAST
    assert run(Source(), Goal(atol=1e9), max_samples=5).samples.count == 5


def test_looks_are_few() -> None:
    source = Source()
    found = run(source, Goal(atol=0.02), max_samples=10**6, block_size=10**6)
    counts = torch.tensor(source.blocks).cumsum(0).double()
    assert bool((counts[1:] >= 1.5 * counts[:-1]).all()) and bool((counts[1:] <= 4 * counts[:-1]).all())
    assert found.samples.count == int(counts[-1])


def test_the_limit_stops_it() -> None:
    found = run(Source(), Goal(atol=1e-3), max_samples=100)
    assert found.status is Status.MAX_MATVECS and found.samples.count == 100 and found.error > 1e-3


def test_no_more_samples_stop_it() -> None:
    for goal, status in ((Goal(atol=1e-3), Status.MAX_MATVECS), (Goal(), Status.ESTIMATED)):
        source = Source()

        class Poor(Source):
            def __call__(self, k: int) -> Tensor:
                return super().__call__(min(k, 20 - sum(self.blocks)))

        source = Poor()
        found = run(source, goal)
        assert found.status is status and found.samples.count == 20


def test_a_bound_counts_on_both_sides() -> None:
    without, beside = (
        run(Source(), Goal(), max_samples=30),
        run(Source(), Goal(), max_samples=30, bound=lambda: 5.0),
    )
    assert beside.error == without.error + 5.0 and beside.bound == 5.0
    assert [float(b - w) for b, w in zip(beside.interval, without.interval, strict=True)] == [-5.0, 5.0]
    found = run(Source(), Goal(atol=4.0), max_samples=90, bound=lambda: 5.0)
    assert found.status is Status.MAX_MATVECS and found.samples.count == 90, "no number of samples is enough"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_what_is_not_finite_stops_it(bad: float, shape: tuple[int, ...]) -> None:
    class Bad(Source):
        def __call__(self, k: int) -> Tensor:
            samples = super().__call__(k)
            if len(self.blocks) == 3:
                samples[-1] = bad
            return samples

    source = Bad(shape=shape)
    found = run(source, Goal(atol=1e-3))
    assert found.status is Status.NON_FINITE and sum(source.blocks) == found.samples.count <= 24


def test_the_callback_is_told_and_may_stop_it() -> None:
    seen: list[EstimateProgress] = []

    def callback(progress: EstimateProgress) -> bool:
        seen.append(progress)
        return progress.num_samples >= 24

    found = run(Source(), Goal(), callback=callback)
    assert found.status is Status.STOPPED and found.samples.count == 24
    assert [(p.num_samples, p.num_matvecs) for p in seen] == [(8, 16), (16, 32), (24, 48)]
    assert seen[-1].value == found.samples.mean and seen[-1].error == found.error


def test_interrupt_returns_what_there_is() -> None:
    import signal

    class Interrupted(Source):
        def __call__(self, k: int) -> Tensor:
            if len(self.blocks) == 1:
                signal.raise_signal(signal.SIGINT)
            return super().__call__(k)

    found = run(Interrupted(), Goal())
    assert found.status is Status.INTERRUPTED and found.samples.count == 16


def test_vectors_are_bounded_in_norm() -> None:
    found = run(Source(shape=(5,)), Goal(), max_samples=50)
    expected = student(0.95, 50) * float(found.samples.stderr.norm())
    assert found.error == pytest.approx(expected, rel=1e-14)
    assert found.history[-1, 1] == found.samples.mean.norm()
    assert found.error < error_of(found.samples, 0.99)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [1.0, 0.5, 0.1], [1.0] * 30])
def test_the_bound_on_the_norm_holds(weights: list[float]) -> None:
    held, generator = 0, torch.Generator().manual_seed(0)
    for _ in range(2000):
        samples = Samples()
        samples.add(torch.randn(20, len(weights), generator=generator, dtype=F64) * torch.tensor(weights))
        held += float(samples.mean.norm()) <= error_of(samples, 0.95)
    assert held >= 0.935 * 2000  # 3 standard deviations below 95 %


@pytest.mark.parametrize("part", [0.5, 0.25])
@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.5, 0.25, 0.125], [1.0] * 20])
def test_stopping_early_does_not_cost_the_confidence(weights: list[float], part: float) -> None:
    w = torch.tensor(weights, dtype=F64)
    generator = torch.Generator().manual_seed(0)
    goal, truth, held = Goal(atol=part * math.sqrt(2 * float(w.square().sum()))), float(w.sum()), 0
    for _ in range(1000):
        found = averaged(
            lambda k: torch.randn(k, len(w), generator=generator, dtype=F64).square() @ w,
            goal,
            max_samples=10**5,
            block_size=10**4,
            spent=lambda: 0,
        )
        low, high = found.interval
        held += low <= truth <= high
    assert 930 <= held <= 975


def test_a_second_look_is_paid_for() -> None:
    first, second = run(Source(), Goal(atol=1e9)), run(Source(), Goal(atol=0.3))
    low, high = first.samples.interval(0.95)
    assert first.samples.count == LEAST and first.interval == (low, high)
    assert second.samples.count > LEAST
    assert second.interval == second.samples.interval(1 - 0.7 * 0.05)
    assert second.error == error_of(second.samples, 1 - 0.7 * 0.05)
