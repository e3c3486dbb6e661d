from __future__ import annotations

import math

import pytest
import torch

from hvplib.eigen.task import Mark, Task
from hvplib.krylov.ends import Which

F64 = torch.float64


def task(which: Which, k: int, rtol: float = 1e-6) -> Task:
    return Task(k, which, rtol, floor=1e-12, miss_probability=1e-3, max_matvecs=100)


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=F64)


def test_tolerances_are_relative_down_to_the_floor() -> None:
    found = task("LA", 3).tolerances(values(-2.0, 0.5, 0.0), norm=10.0)
    assert found.tolist() == pytest.approx([2e-6, 5e-7, 1e-11], rel=1e-14)
    assert float(task("LA", 1).tolerances(values(0.0), norm=0.0)) > 0


@pytest.mark.parametrize(
    ("which", "k", "signs", "counts"),
    [
        ("LA", 3, [1], (3, 0)),
        ("SA", 3, [-1], (0, 3)),
        ("BE", 3, [1, -1], (2, 1)),
        ("BE", 4, [1, -1], (2, 2)),
        ("BE", 1, [1], (1, 0)),
        ("LM", 3, [1, -1], (2, 1)),
    ],
)
def test_ends_and_counts(which: Which, k: int, signs: list[int], counts: tuple[int, int]) -> None:
    one = task(which, k)
    assert one.signs == signs
    assert one.counts(values(-5.0, 4.0, 3.0)[-k:] if which == "LM" else values(*range(k))) == counts


@pytest.mark.parametrize(
    ("which", "wanted", "expected"),
    [
        ("LA", (5.0, 4.0, 3.0), [Mark(1, 3.0, 4.0)]),
        ("LA", (5.0, 3.0 + 1e-7, 3.0), [Mark(1, 3.0, 5.0)]),
        ("LA", (3.0, 3.0, 3.0), [Mark(1, 3.0, math.inf)]),
        ("SA", (-5.0, 1e-9, 2e-9), [Mark(-1, -2e-9, -1e-9)]),  # -5 has a tolerance of 5e-6, these of 1e-11
        ("LA", (3.0,), [Mark(1, 3.0, math.inf)]),
        ("SA", (-5.0, -4.0, -3.0), [Mark(-1, 3.0, 4.0)]),
        ("BE", (-5.0, -4.0, 1.0, 7.0, 8.0), [Mark(1, 1.0, 7.0), Mark(-1, 4.0, 5.0)]),
        ("BE", (2.0,), [Mark(1, 2.0, math.inf)]),
        ("LM", (-5.0, 4.0, -3.0), [Mark(1, 3.0, 4.0), Mark(-1, 3.0, 4.0)]),
    ],
)
def test_marks(which: Which, wanted: tuple[float, ...], expected: list[Mark]) -> None:
    assert task(which, len(wanted)).marks(values(*wanted), norm=10.0) == expected


def test_beyond_a_mark_by_more_than_its_tolerance() -> None:
    one = task("LM", 2)
    marks = one.marks(values(-5.0, 4.0), norm=10.0)
    near = 4e-6
    found = one.beyond(
        values(4 + 2 * near, 4 + near / 2, 3.0, -4 - near / 2, -4 - 2 * near), marks, norm=10.0
    )
    assert found.tolist() == [True, False, False, False, True]
    large = task("LA", 1)  # beyond the range of float32
    assert large.beyond(values(2e60), large.marks(values(1e60), 1e60), 1e60).tolist() == [True]
    upper = task("LA", 1)
    found = upper.beyond(values(-9.0, 5.0), upper.marks(values(4.0), 10.0), 10.0)
    assert found.tolist() == [False, True]


def test_rivals_by_end() -> None:
    found, norms = values(5.0, 1.0, -4.0), values(0.0, 9.0, 0.2)
    one = task("LM", 1)
    assert one.rivals(found, norms, norms == 0, one.wanted(found)) == (0, 1)
    assert one.rivals(-found, norms, norms == 0, one.wanted(-found)) == (1, 0)
    assert task("LA", 1).rivals(found, norms, norms == 0, one.wanted(found)) == (0, 0)


def test_wanted_come_in_the_order_of_the_result() -> None:
    assert task("SA", 2).wanted(values(3.0, 1.0, 2.0)).tolist() == [1, 2]
    assert task("BE", 3).wanted(values(3.0, 1.0, 2.0, 9.0)).tolist() == [1, 0, 3]
