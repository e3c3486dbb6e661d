from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hvplib.krylov.ends import Ends, Which


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("which", "k", "expected"),
    [
        ("LA", 2, [3.0, 2.0]),
        ("SA", 2, [-4.0, -1.0]),
        ("LM", 3, [-4.0, 3.0, 2.0]),
        ("BE", 2, [-4.0, 3.0]),
        ("BE", 3, [-4.0, 2.0, 3.0]),
        ("BE", 1, [3.0]),
        ("BE", 4, [-4.0, -1.0, 2.0, 3.0]),
    ],
)
def test_wanted_come_in_the_promised_order(which: Which, k: int, expected: list[float]) -> None:
    values = numbers(2.0, -4.0, 3.0, -1.0)
    assert values[Ends(which, k, 0, 0).wanted(values)].tolist() == expected


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_wanted_of_fewer_values_are_all_of_them(which: Which) -> None:
    values = numbers(1.0, 2.0)
    assert sorted(Ends(which, 3, 0, 0).wanted(values).tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("which", "m", "expected"),
    [
        ("LA", 9, [8, 7, 6, 5, 4]),
        ("SA", 9, [0, 1, 2, 3, 4]),
        ("LM", 9, [8, 7, 6, 0, 1]),
        ("BE", 9, [8, 7, 6, 0, 1]),
        ("LM", 4, [3, 2, 1, 0]),
        ("BE", 2, [1, 0]),
        ("LA", 2, [1, 0]),
        ("SA", 0, []),
    ],
)
def test_kept_are_from_the_ends_and_none_twice(which: Which, m: int, expected: list[int]) -> None:
    assert Ends.of(which, 2, 5).kept(torch.arange(m), torch.zeros(m)).tolist() == expected


@pytest.mark.parametrize(("which", "expected"), [("LA", [3, 5]), ("SA", [1, 4]), ("BE", [3, 1])])
def test_kept_of_equal_values_are_those_of_least_error(which: Which, expected: list[int]) -> None:
    values, errors = numbers(1, 1, 9, 9, 1, 9), numbers(3, 1, 3, 1, 2, 2)
    assert Ends.of(which, 2, 2).kept(values, errors).tolist() == expected


@pytest.mark.parametrize(
    ("which", "expected"), [("LA", [1, 2]), ("SA", [0, 3]), ("BE", [0, 1]), ("LM", [1, 2])]
)
def test_wanted_of_equal_values_are_the_first(which: Which, expected: list[int]) -> None:
    assert Ends(which, 2, 0, 0).wanted(numbers(1, 9, 9, 1, 1, 9)).tolist() == expected


@pytest.mark.parametrize(
    ("which", "k", "block_size", "message"),
    [
        ("LA", 3, 2, "at least 3 columns for k=3 and which='LA', got 2"),
        ("BE", 3, 2, "at least 3 columns"),
        ("LM", 3, 5, "at least 6 columns"),
        ("SA", 0, 4, "k must be at least 1, got 0"),
    ],
)
def test_block_that_cannot_hold_them(which: Which, k: int, block_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ends.of(which, k, block_size)


def settled(which: Which, k: int, values: Tensor, errors: Tensor, converged: list[bool]) -> bool:
    ends = Ends(which, k, 0, 0)
    return ends.settled(values, errors, torch.tensor(converged), ends.wanted(values))


@pytest.mark.parametrize("which", ["LA", "SA", "BE", "LM"])
def test_not_settled_before_the_wanted_have_converged(which: Which) -> None:
    values, errors = numbers(5.0, 4.0, -6.0, -4.5), numbers(0, 0, 0, 0)
    wanted = Ends(which, 2, 0, 0).wanted(values).tolist()
    converged = [i in wanted for i in range(4)]
    assert settled(which, 2, values, errors, converged)
    for i in wanted:
        assert not settled(which, 2, values, errors, [c and j != i for j, c in enumerate(converged)])


def test_guards_need_not_converge() -> None:
    values, errors = numbers(5.0, 4.0, 3.0), numbers(0, 0, 9)
    assert settled("LA", 2, values, errors, [True, True, False])
    assert settled("SA", 2, -values, errors, [True, True, False])


@pytest.mark.parametrize(
    ("rival", "error", "converged", "expected"),
    [
        (-4.0, 0.05, False, True),  # ten times the error still leaves it below 5
        (-4.0, 0.2, False, False),
        (-4.0, 0.2, True, True),
        (1.0, 0.5, False, True),  # it can only lose magnitude on its way down to −4
        (1.0, 0.7, False, False),
    ],
)
def test_rival_at_the_other_end(rival: float, error: float, converged: bool, expected: bool) -> None:
    # Both ends hold two candidates; the wanted one is at the upper end.
    values, errors = numbers(5.0, 4.9, rival, rival + 0.1), numbers(0, 9, error, 9)
    assert settled("LM", 1, values, errors, [True, False, converged, False]) is expected


def test_rivals_are_told_with_their_end() -> None:
    ends, values = Ends("LM", 2, 0, 0), numbers(5.0, 4.0, 1.0, 2.0)
    wanted, converged = ends.wanted(values), torch.tensor([True, True, False, False])
    # The lower end of a positive spectrum may still go far down; the next at the upper end lies inside.
    assert ends.rivals(values, numbers(0, 0, 0.6, 9), converged, wanted) == [(2, -1)]
    assert ends.rivals(values, numbers(0, 0, 0.4, 9), converged, wanted) == []
    assert Ends("BE", 2, 0, 0).rivals(values, numbers(0, 0, 0.6, 9), converged, wanted) == []


def test_wanted_at_both_ends_have_rivals_at_both() -> None:
    values = numbers(5.0, 3.0, -6.0, -2.0)
    for errors, expected in (
        (numbers(0, 0.1, 0, 0.2), True),
        (numbers(0, 0.3, 0, 0.2), False),  # 3 may become more than 5
        (numbers(0, 0.1, 0, 0.4), False),  # −2 may become less than −5
    ):
        assert settled("LM", 2, values, errors, [True, False, True, False]) is expected
