"""The code in the README and in docs/: every block runs and prints what it says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
# Sessions run; what stands in other fences is for a shell, a drawing or a file's text.
FENCE = re.compile(r"^([ ]*)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
NOT_RUN = {"", "bash", "text"}


def session(text: str) -> str:
    """The page with all but its sessions blanked: an error names the page's own line."""
    lines = [""] * (text.count("\n") + 1)
    for fence in FENCE.finditer(text):
        if fence[2] == "pycon":
            first = text.count("\n", 0, fence.start(3))
            body = fence[3].splitlines()
            lines[first : first + len(body)] = body
    return "\n".join(lines)


def failures(text: str, name: str) -> str:
    """Run a page's sessions in one namespace; what went wrong, in doctest's words."""
    report: list[str] = []
    test = doctest.DocTestParser().get_doctest(session(text), {}, name, name, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append)
    return "".join(report)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path) -> None:
    if report := failures(page.read_text(), page.name):
        pytest.fail(report, pytrace=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_a_page_is_a_session(page: Path) -> None:
    """Code in any other fence would not be run."""
    languages = {fence[2] for fence in FENCE.finditer(page.read_text())}
    assert languages <= NOT_RUN | {"pycon"}


def test_readme_has_the_five_examples() -> None:
    examples = [fence for fence in FENCE.finditer((ROOT / "README.md").read_text()) if fence[2] == "pycon"]
    assert len(examples) == 5


def test_wrong_output_is_caught_at_its_line() -> None:
    page = "# Title\n\n```pycon\n>>> a = 1\n```\n\nText.\n\n```pycon\n>>> a + 1\n3\n```\n"
    assert "line 10, in page.md" in failures(page, "page.md")
    assert failures(page.replace("3\n", "2\n"), "page.md") == ""
