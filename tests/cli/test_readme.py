"""What the README says of the command line: its file and its commands, as they stand there."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from hvplib.cli import main

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTION = README.partition("## The command line\n")[2].partition("\n## ")[0]
(FILE,) = re.findall(r"```text\n(.*?)```", SECTION, re.DOTALL)
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS.strip().splitlines())
def test_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(command)
    assert program == "hvplib" and main(arguments) == 0
    outputs = [name for flag, name in pairwise(arguments) if flag == "--output"]
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"model.py", *outputs}


def test_the_console_script_is_this_function() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'hvplib = "hvplib.cli:main"' in pyproject
