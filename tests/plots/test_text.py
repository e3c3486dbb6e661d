"""Densities of characters."""

from __future__ import annotations

import io
import sys

import pytest
import torch

from hvplib import Diagonal, spectral_density
from hvplib.plots import text_density

A = Diagonal(torch.cat([torch.zeros(900), torch.full((100,), 3.0)]).double())
FOUND = spectral_density(A, width=0.2, grid=torch.linspace(-1, 4, 401))


def columns(text: str, height: int) -> list[str]:
    rows = [line.partition("|")[2].ljust(50) for line in text.splitlines()[:height]]
    return ["".join(column) for column in zip(*rows, strict=True)]


def test_heights_are_those_of_the_density() -> None:
    text = text_density(FOUND, width=50, height=4, scale="linear", ascii=False)
    drawn = columns(text, 4)
    tallest = [i for i, column in enumerate(drawn) if column[0] == "█"]
    assert tallest and all(8 <= i <= 11 for i in tallest), "zero is at column 10 of 50 from −1 to 4"
    low = [i for i, column in enumerate(drawn) if column.strip() and i > 20]
    assert low and all(36 <= i <= 43 for i in low), "a ninth of the height, about 3"
    assert all(column[0] == " " for column in drawn[20:])
    assert text.splitlines()[-1].split() == ["-1", "1.5", "4"]
    assert text.startswith(f"{float(FOUND.density.max()):.2g} |")


def test_a_logarithmic_height_shows_what_is_rare() -> None:
    height = {
        scale: sum(
            character != " " for character in columns(text_density(FOUND, width=50, scale=scale), 8)[40]
        )
        for scale in ("linear", "log")
    }
    assert height["log"] >= 6 > 1 >= height["linear"]


def test_ascii_where_blocks_cannot_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert text_density(FOUND, ascii=True).isascii()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert text_density(FOUND).isascii()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert "█" in text_density(FOUND)


def test_of_a_logarithmic_density_the_middle_is_the_geometric_mean() -> None:
    found = spectral_density(
        Diagonal(torch.logspace(-2, 2, 500).double()), scale="log", grid=torch.tensor([0.01, 1, 100])
    )
    assert text_density(found, width=30).splitlines()[-1].split() == ["0.01", "1", "100"]


def test_errors() -> None:
    with pytest.raises(ValueError, match="width must be at least 10 and height at least 1, got 5 and 8"):
        text_density(FOUND, width=5)
    with pytest.raises(ValueError, match='scale must be "log" or "linear"'):
        text_density(FOUND, scale="sqrt")
