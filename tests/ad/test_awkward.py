"""Awkward functions, row by row: the product is right or refused, never wrong without a word."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map

import hvplib
from hvplib import DerivativeError
from tests.ad.awkward import (
    attention,
    caches,
    control,
    functions,
    inputs,
    layers,
    points,
    recurrent,
    wrappers,
)
from tests.ad.awkward.case import (
    Case,
    Row,
    directions,
    error_between,
    forward_over_reverse,
    reverse_over_reverse,
    seed_noise,
    truth_of,
)

TABLES = [layers, recurrent, attention, wrappers, control, functions, points, inputs, caches]
ROWS = [row for module in TABLES for row in module.table]
every_row = pytest.mark.parametrize(
    "row", [pytest.param(r, id=r.name, marks=[pytest.mark.slow] if r.slow else []) for r in ROWS]
)


@functools.cache
def truth(row: Row) -> Any:
    case = row.case()
    return truth_of(case, directions(case.primals))


def judge(row: Row, case: Case, compute: Any) -> None:
    """Assert that what `compute` gives, or raises, is what the row says."""
    if row.verdict == "refused":
        with pytest.raises(row.raises or DerivativeError, match=row.match):
            compute()
        return
    seed_noise()
    if row.verdict == "not finite":
        with contextlib.suppress(DerivativeError):
            assert not all(x.isfinite().all() for x in tree_flatten(compute())[0])
        return
    try:
        got = compute()
    except DerivativeError:
        assert row.verdict == "not wrong"
        return
    error = error_between(got, truth(row))
    assert error <= case.rtol, f"relative error {error:.1e}"
    for x, primal in zip(tree_flatten(got)[0], tree_flatten(case.primals)[0], strict=True):
        assert x.shape == primal.shape
        assert x.dtype == primal.dtype


@every_row
def test_hvp(row: Row) -> None:
    case = row.case()
    v = directions(case.primals)
    for _call in ("first", "second"):
        judge(row, case, lambda: hvplib.hvp(case.func, case.primals, v))


@every_row
def test_local_model(row: Row) -> None:
    case = row.case()
    v = directions(case.primals)
    seed_noise()
    try:
        model = hvplib.local_model(case.func, case.primals)
    except (DerivativeError, *_errors(row)):
        assert row.verdict in ("refused", "not wrong")
        return
    for _call in ("first", "second"):
        judge(row, case, lambda: model.hvp(v))
    if row.verdict == "right":
        block = model.hvp_block(tree_map(lambda x: torch.stack([x, -x]), v))
        judge(row, case, lambda: tree_map(lambda x: x[0], block))
        judge(row, case, lambda: tree_map(lambda x: -x[1], block))


def _errors(row: Row) -> tuple[type[Exception], ...]:
    raises = row.raises or ()
    return raises if isinstance(raises, tuple) else (raises,)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@every_row
@pytest.mark.parametrize("way", ["forward", "reverse"])
def test_bare_torch_falls_into_the_trap(row: Row, way: str) -> None:
    """What the table says of bare torch: proof that the row can fail, and news when torch has changed."""
    case = row.case()
    v = directions(case.primals)
    naive = forward_over_reverse if way == "forward" else reverse_over_reverse
    verdict = "right"
    expected = truth(row) if row.verdict in ("right", "not wrong") else None
    try:
        for _call in ("first", "second"):  # some are right on the first call only
            got = naive(case.func, case.primals, v)
            if expected is None or not error_between(got, expected) <= case.rtol:
                verdict = "wrong"
    except Exception:
        verdict = "raises"
    assert verdict == getattr(row, way)


VERIFIED = [
    "control.detached",
    "control.no_grad_block",
    "control.no_grad_block_with_writes",
    "layers.batch_norm_in_training",
    "layers.dropout_in_training",
    "wrappers.spectral_norm_in_training",
]


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in ROWS if r.name in VERIFIED])
def test_stop_gradients_do_not_hinder_the_verification(row: Row) -> None:
    """The difference of gradients holds constants constant, so that it can tell."""
    case = row.case()
    model = hvplib.local_model(case.func, case.primals)
    model.hvp(directions(case.primals))
    verdicts = {check.name: check.passed for check in model.report.checks}
    assert verdicts["difference of gradients"] is True, str(model.report)
    assert set(verdicts.values()) == {True}, str(model.report)
