"""The command line, called in this process; what only a process shows is in `test_process.py`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hvplib import ConvergenceError, Status
from hvplib.cli import main
from hvplib.io import load

MODEL = """
import torch
from torch import nn
from hvplib import Diagonal, HessianOperator

def rosenbrock():
    f = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    return f, torch.zeros(2, dtype=torch.float64)

def network(hidden=4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2)).double()
    x = torch.randn(20, 3).double()
    y = (x[:, 0] > 0).long()
    return {"model": model, "loss": nn.CrossEntropyLoss(), "data": [(x[:12], y[:12]), (x[12:], y[12:])]}

def part():
    return {**network(), "params": "0.*"}

def pairs():
    f = lambda x, batch: (x * batch).square().mean()
    return {"func": f, "params": torch.ones(3), "data": [torch.ones(2, 3)]}

def summed():
    return {**pairs(), "reduction": "sum"}

def operator():
    return Diagonal(torch.cat([torch.linspace(-1, 1, 2100), torch.tensor([3.0, 4.0, 5.0])]).double())

given = operator()
number = 3
def needs(argument, *, other): pass
def fails(): raise KeyError("of my own")
def unknown(): return {"func": abs, "params": 1, "colour": 2}
def half(): return {"model": network()["model"]}
def nothing(): return None
def triple(): return 1, 2, 3

def broken():
    def f(x):
        raise ZeroDivisionError("inside f")
    return f, torch.ones(2)

class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 3 * ctx.saved_tensors[0] ** 2 * grad

def opaque():
    return lambda x: Cube.apply(x).sum(), torch.ones(3)

def flat():
    return lambda x: -(x**2).sum(), torch.ones(3).double()

def nan():
    return Diagonal(torch.tensor([1.0, float("nan"), 2.0]))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    before, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if name.startswith("_hvplib_target") or name in ("model", "beside"):
            del sys.modules[name]


def test_eigsh_prints_and_writes_all_kinds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [argument for name in ("a.json", "a.npz", "a.png") for argument in ("--output", name)]
    assert (
        main(["eigsh", "model.py:operator", "-k", "3", "--which", "LA", "--method", "lanczos", *files]) == 0
    )
    assert "3 eigenpairs by Lanczos" in capsys.readouterr().out
    told = json.loads((folder / "a.json").read_text())
    assert (told["command"], told["target"], told["exit_status"]) == ("eigsh", "model.py:operator", 0)
    np.testing.assert_allclose(told["result"]["eigenvalues"], [5, 4, 3])
    assert told["result"]["status"]["name"] == "CONVERGED" and told["result"]["eigenvectors"][0]
    whole = load("a.npz")
    assert whole.status is Status.CONVERGED and whole.eigenvectors.shape == (2103, 3)
    assert (folder / "a.png").read_bytes()[:4] == b"\x89PNG" and (folder / "a.png").stat().st_size > 10_000


def test_other_pictures(folder: Path) -> None:
    assert main(["trace", "model.py:operator", "--quiet", "--output", "t.svg"]) == 0
    assert main(["minimize", "model.py:rosenbrock", "--quiet", "--output", "m.pdf"]) == 0
    assert main(["density", "model.py:network", "--quiet", "--output", "d.png"]) == 0
    assert b"<svg" in (folder / "t.svg").read_bytes()
    assert (folder / "m.pdf").read_bytes()[:4] == b"%PDF"


def test_trace_of_a_network_by_another_tolerance(folder: Path) -> None:
    assert main(["trace", "model.py:network", "--quiet", "--output", "t.json"]) == 0
    exact = json.loads((folder / "t.json").read_text())["result"]
    assert main(["hessian", "model.py:network", "--quiet", "--output", "h.npz"]) == 0
    told = load("h.npz")
    assert exact["value"] == pytest.approx(float(told["matrix"].trace()), rel=1e-10)
    assert told["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"] and told["sizes"] == [12, 4, 8, 2]


def test_density_is_drawn_with_characters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--num-probes",
        "2",
        "--krylov-dim",
        "20",
        "--max-matvecs",
        "30",
        "--seed",
        "3",
        "--width",
        "0.1",
    ]
    assert main(["density", "model.py:operator", "--method", "slq", *arguments]) == 0
    out = capsys.readouterr().out
    assert "20: 20 iteration" in out, "the budget lets one probe be"
    assert out.count("|") == 8


def test_check_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "model.py:rosenbrock"]) == 0
    out = capsys.readouterr().out
    assert "operator: right" in out and "function: right" in out
    assert main(["check", "model.py:nan"]) == 1


def test_minimize_finds_the_minimum(folder: Path) -> None:
    assert (
        main(["minimize", "model.py:rosenbrock", "--quiet", "--output", "m.json", "--output", "m.npz"]) == 0
    )
    np.testing.assert_allclose(json.loads((folder / "m.json").read_text())["result"]["x"], [1, 1], atol=1e-6)
    assert load("m.npz").certificate == "minimum"
    assert main(["minimize", "model.py:flat", "--quiet"]) == 1  # unbounded
    assert main(["minimize", "model.py:rosenbrock", "--quiet", "--max-iter", "2"]) == 1


def test_limits_are_told_by_the_exit_status(folder: Path) -> None:
    few = ["eigsh", "model.py:operator", "-k", "2", "--method", "lanczos", "--max-matvecs", "12", "--quiet"]
    assert main([*few, "--output", "p.json"]) == 1
    assert json.loads((folder / "p.json").read_text())["result"]["status"]["name"] == "MAX_ITER"
    trace = ["trace", "model.py:operator", "--method", "hutchinson", "--quiet", "--output", "p.json"]
    assert main([*trace, "--time-limit", "1e-9"]) == 1
    assert json.loads((folder / "p.json").read_text())["result"]["status"]["name"] == "TIME_LIMIT"


def test_a_checkpoint_is_taken_up(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = ["eigsh", "model.py:operator", "-k", "2", "--krylov-dim", "8", "--checkpoint", "s.ckpt"]
    assert main([*search, "--max-matvecs", "12"]) == 1
    capsys.readouterr()
    assert main(search) == 0
    assert "1 resume" in capsys.readouterr().out
    assert main([*search, "-k", "3"]) == 2
    assert "belongs to another problem" in capsys.readouterr().err


def test_device_and_dtype_move_the_problem(folder: Path) -> None:
    for target in ("network", "part", "pairs", "rosenbrock"):
        arguments = ["--device", "cpu", "--dtype", "float32", "--quiet", "--output", "x.npz"]
        assert main(["hessian", f"model.py:{target}", *arguments]) == 0
        assert load("x.npz")["matrix"].dtype == torch.float32
    assert main(["hessian", "model.py:pairs", "--dtype", "float64", "--quiet", "--output", "x.npz"]) == 0
    torch.testing.assert_close(load("x.npz")["matrix"], torch.eye(3).double() * 2 / 3)


def test_options_of_a_dict_count(folder: Path) -> None:
    assert main(["hessian", "model.py:part", "--quiet", "--output", "x.npz"]) == 0
    assert load("x.npz")["names"] == ["0.weight", "0.bias"]
    assert main(["trace", "model.py:summed", "--quiet", "--output", "x.json"]) == 0
    assert json.loads((folder / "x.json").read_text())["result"]["value"] == pytest.approx(2.0)


def test_a_module_by_its_name_and_modules_beside_a_file(folder: Path) -> None:
    (folder / "beside.py").write_text("from hvplib import Identity\nimport torch\nA = Identity(3)\n")
    (folder / "user.py").write_text("from beside import A\ndef problem(): return A\n")
    assert main(["trace", "model:given", "--quiet"]) == 0
    (folder / "deep").mkdir()
    (folder / "deep" / "json.py").write_text(
        "import torch\ndef f(): return lambda x: (x**2).sum(), torch.ones(2)\n"
    )
    assert main(["trace", "user.py:problem", "--quiet"]) == 0
    assert main(["trace", "deep/json.py:f", "--quiet"]) == 0
    assert sys.modules["json"] is json, "a file's name takes the place of no module"


def test_nothing_but_the_target_is_run(folder: Path) -> None:
    (folder / "other.py").write_text("open('ran', 'w').close()\n")
    (folder / "guarded.py").write_text(
        "from model import operator\nif __name__ == '__main__': open('ran', 'w').close()\n"
    )
    assert main(["trace", "guarded.py:operator", "--quiet"]) == 0
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("eigsh model.py", "target must be FILE.py:NAME or package.module:NAME, got 'model.py'"),
        ("eigsh model.py:a.b", "target must be FILE.py:NAME"),
        ("eigsh none.py:operator", "there is no file 'none.py'"),
        ("eigsh no_such_module_here:operator", "there is no module 'no_such_module_here'"),
        ("eigsh text.txt:operator", "'text.txt' is no Python file"),
        ("eigsh torn.py:operator", "torn.py cannot be read"),
        ("eigsh model.py:operater", "model.py has no 'operater'; did you mean operator?"),
        ("eigsh model.py:zzz", "model.py has no 'zzz'; its functions are rosenbrock, network"),
        ("eigsh model.py:needs", "it takes argument, other"),
        ("eigsh model.py:number", "number must return an hvplib operator; (func, params)"),
        ("eigsh model.py:nothing", "got NoneType"),
        ("eigsh model.py:triple", "got a tuple of int, int, int"),
        ("eigsh model.py:unknown", "got a dict with an unknown colour"),
        ("eigsh model.py:half", "got a dict with only model"),
        ("eigsh model.py:fails", "model.py:fails failed: KeyError"),
        ("eigsh model.py:operator --dtype float32", "returns an operator, which has its device and dtype"),
        ("minimize model.py:operator", "minimize needs a function"),
        ("eigsh model.py:operator -k 9999", "k must be an integer between 1 and n = 2103, got 9999"),
        ("eigsh model.py:operator -k 0", "must be a positive integer, got 0"),
        ("eigsh model.py:operator --method lobpcg --krylov-dim 9", "--krylov-dim is not for --method lobpcg"),
        ("eigsh model.py:operator --output x.txt", "--output must end in .json"),
        ("eigsh model.py:operator --output no/x.json", "there is no folder 'no' to write to"),
        ("check model.py:operator --output x.png", "check has no picture"),
        ("eigsh model.py:operator --device nowhere", "nowhere cannot be used"),
        ("eigsh model.py:operator --dtype int8", "must be float32 or float64, got int8"),
        ("eigsh model.py:operator --rtol -1", "must be a number, at least 0"),
        ("trace model.py:operator --seed -1", "must be an integer, at least 0"),
        ("paint model.py:operator", "invalid choice: 'paint'"),
    ],
)
def test_wrong_usage_is_named(
    arguments: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "text.txt").write_text("")
    (folder / "torn.py").write_text("def operator(:\n")
    assert main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


def test_a_missing_import_in_the_users_file_is_shown_with_its_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "wants.py").write_text("import math\nimport no_such_module_here\n")
    assert main(["trace", "wants.py:f"]) == 2
    err = capsys.readouterr().err
    assert 'wants.py", line 2' in err and "wants.py:f failed: ModuleNotFoundError" in err


def test_what_the_library_refuses_and_what_fails_inside(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eigsh", "model.py:opaque"]) == 3
    err = capsys.readouterr().err
    assert "custom torch.autograd.Function" in err and "Traceback" not in err
    assert main(["trace", "model.py:broken"]) == 3
    err = capsys.readouterr().err
    assert "inside f" in err and "in f" in err, "the line of the user's code"


def test_a_matrix_that_does_not_fit_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hvplib.cli.commands.free_bytes", lambda device: 1000)
    assert main(["hessian", "model.py:operator"]) == 3
    assert "the matrix is 2103 x 2103 and takes" in capsys.readouterr().err


def interrupted(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raises(*args: Any) -> None:
        raise error

    monkeypatch.setitem(sys.modules["hvplib.cli.main"].COMMANDS, "trace", raises)  # type: ignore[attr-defined]


def test_interrupts_before_there_is_a_result(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, KeyboardInterrupt())
    assert main(["trace", "model.py:operator"]) == 130
    assert "interrupted before there was a result" in capsys.readouterr().err

    class Nothing:
        status = Status.INTERRUPTED

    interrupted(monkeypatch, ConvergenceError("nothing is known", Nothing()))
    assert main(["trace", "model.py:operator"]) == 130


def test_a_full_disk_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert main(["trace", "model.py:operator", "--output", "x.json"]) == 2
    captured = capsys.readouterr()
    assert "No space left" in captured.err and "value" in captured.out, "the result itself was printed"


def test_json_has_no_numbers_that_json_does_not_know(folder: Path) -> None:
    assert (
        main(["eigsh", "model.py:operator", "-k", "1", "--method", "arpack", "--quiet", "--output", "x.json"])
        == 0
    )

    def refuse(name: str) -> None:
        raise AssertionError(name)

    result = json.loads((folder / "x.json").read_text(), parse_constant=refuse)["result"]
    assert result["miss_probability"] is None and math.isclose(result["eigenvalues"][0], 5)


def test_long_arrays_are_left_to_other_files(folder: Path) -> None:
    arguments = ["-k", "5", "--method", "arpack", "--quiet", "--output", "x.json"]
    assert main(["eigsh", "model.py:operator", *arguments]) == 0
    result = json.loads((folder / "x.json").read_text())["result"]
    assert result["eigenvectors"] == {"shape": [2103, 5], "left out": True}


@pytest.mark.parametrize("arguments", [["--help"], ["eigsh", "--help"], ["minimize", "--help"]])
def test_help_has_examples(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "examples:" in out and "exit status:" in out and "FILE.py:NAME" in out
