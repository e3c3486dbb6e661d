"""The page of benchmarks shows the newest results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import page as module
from benchmarks.page import PAGE, page


def test_the_page_is_that_of_the_results() -> None:
    assert PAGE.read_text() == page(), "run python -m benchmarks.page"


def test_every_result_has_a_place() -> None:
    named = {
        entry if isinstance(entry, str) else entry.name for c in module._CHAPTERS.values() for entry in c
    }
    for path in module._RESULTS.glob("*.md"):
        match = re.fullmatch(r"\d{4}-\d\d-\d\d-(.+)-(cpu|gpu)\.md", path.name)
        assert match is not None, f"{path.name} is not DATE-claim-device.md"
        assert match[1] in named, f"{match[1]} is on no chapter of the page"


def test_newest_and_first_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RESULTS", tmp_path)
    monkeypatch.setattr(module, "_CHAPTERS", {"Chapter": ["a", module._Claim("b", 1)]})
    (tmp_path / "2026-01-01-a-cpu.md").write_text("# Old\n\ntext\n")
    (tmp_path / "2026-01-02-a-cpu.md").write_text("# New\n\ntext\n\n## One\n\n1\n")
    (tmp_path / "2026-01-01-a-gpu.md").write_text("# Other device\n")
    (tmp_path / "2026-01-03-b-cpu.md").write_text("# B, 2026-01-03\n\n## One\n\n1\n\n## Two\n\n2\n")
    text = page()
    assert "Old" not in text
    assert "### New, 2026-01-02\n\ntext\n\n#### One\n\n1\n" in text
    assert "### Other device, 2026-01-01" in text
    assert "### B, 2026-01-03\n" in text and "Two" not in text
    assert "1 more tables are in `benchmarks/results/2026-01-03-b-cpu.md`" in text


def test_a_picture_stands_before_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = module._Claim("a", picture="a.png", shows="a curve")
    monkeypatch.setattr(module, "_RESULTS", tmp_path)
    monkeypatch.setattr(module, "_CHAPTERS", {"Chapter": [claim]})
    (tmp_path / "2026-01-02-a-cpu.md").write_text("# New\n\ntext\n\n## One\n\n1\n")
    assert "text\n\n![a curve](images/a.png)\n\n#### One\n" in page()


def test_pictures_are_there() -> None:
    entries = [entry for chapter in module._CHAPTERS.values() for entry in chapter]
    pictures = [entry.picture for entry in entries if isinstance(entry, module._Claim) and entry.picture]
    assert pictures
    for picture in pictures:
        assert (PAGE.parent / "images" / picture).is_file(), f"docs/images/{picture} is missing"
