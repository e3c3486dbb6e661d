"""Progress bars: shown where asked for, and a clear word where tqdm is missing."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator
from hvplib.progress import bar

DATA = [torch.ones(2, 2), torch.ones(1, 2)]


def square(p: Tensor, batch: Tensor) -> Tensor:
    return ((batch @ p) ** 2).mean()


def test_without_tqdm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(
        ImportError, match=r"needs tqdm: `pip install hvplib\[progress\]`, or pass progress=False"
    ):
        HessianOperator(square, torch.ones(2), DATA, progress=True)


def test_a_bar_passes_the_items_on(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    assert list(bar([1, 2, 3], "counting", 3)) == [1, 2, 3]
    assert "counting" in capsys.readouterr().err


def test_an_operator_shows_its_passes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    operator = HessianOperator(square, torch.ones(2), DATA, progress=True, memory_budget=0)
    assert "linearising" in capsys.readouterr().err
    operator @ torch.ones(2)
    assert "product" in capsys.readouterr().err


def test_no_bar_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    HessianOperator(square, torch.ones(2), DATA) @ torch.ones(2)
    assert capsys.readouterr().err == ""
