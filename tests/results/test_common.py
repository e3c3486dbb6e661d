"""What results share: products by purpose, columns' statuses, and the lines of a report."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from hvplib.results import Status
from hvplib.results.common import OfColumns, Printed, by_purpose, worst


class Told(OfColumns, Printed):
    def __init__(self, statuses: tuple[Status, ...], matvecs: Mapping[str, int], note: str = "") -> None:
        self.statuses, self.matvecs, self.note = statuses, matvecs, note

    def _rows(self) -> list[tuple[str, str]]:
        return [("products", by_purpose(self.matvecs)), ("note", self.note)]


def test_products_by_purpose() -> None:
    assert by_purpose({"iteration": 10, "confirmation": 1}) == "11: 10 iteration, 1 confirmation"
    assert by_purpose({}) == "0"
    assert Told((), {"sketch": 3, "samples": 4}).num_matvecs == 7


def test_a_report_leaves_out_what_has_no_text() -> None:
    head = str(Status.ESTIMATED)
    assert str(Told((Status.ESTIMATED,), {"sketch": 3})) == f"{head}\n  products   3: 3 sketch"
    told = Told((Status.ESTIMATED,), {}, note="by hand")
    assert repr(told) == str(told) == f"{head}\n  products   0\n  note       by hand"


def test_a_report_without_rows_is_no_class_to_use() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Printed()  # type: ignore[abstract]


def test_the_worst_does_not_depend_on_the_order() -> None:
    for pair in itertools.permutations(Status, 2):
        assert worst(pair) is worst(pair[::-1]) and worst(pair) in pair
    result = Told((Status.CONVERGED, Status.MAX_ITER, Status.BOUNDARY), {})
    assert result.status is Status.MAX_ITER and not result.success
