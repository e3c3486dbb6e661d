"""The command line as a process: its console script, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from hvplib import Status
from hvplib.io import load

SLOW = """
import sys
import time
import torch
from hvplib import FunctionOperator

d = torch.linspace(-1, 1, 3000).double()

def problem():
    def product(X):
        sys.stderr.write("product\\n")
        sys.stderr.flush()
        time.sleep(0.05)
        return X * d[:, None]
    return FunctionOperator(product, (3000, 3000), dtype=torch.float64, symmetric=True)
"""


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "slow.py").write_text(SLOW)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, "-m", "hvplib", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_ctrl_c_keeps_what_is_there(tmp_path: Path) -> None:
    arguments = ["-k", "2", "--method", "lanczos", "--krylov-dim", "6", "--checkpoint", "s.ckpt"]
    outputs = ["--output", "p.json", "--output", "p.npz"]
    process = started(tmp_path, "eigsh", "slow.py:problem", *arguments, *outputs)
    assert process.stderr is not None
    for _ in range(12):
        assert process.stderr.readline() == "product\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert (
        "interrupted: the result is partial; it is in p.json, p.npz; the same command goes on from s.ckpt"
        in err
    )
    assert "2 eigenpairs by Lanczos" in out and "Traceback" not in err
    told = json.loads((tmp_path / "p.json").read_text())
    assert told["exit_status"] == 130 and told["result"]["status"]["name"] == "INTERRUPTED"
    assert len(told["result"]["eigenvalues"]) == 2
    partial = load(tmp_path / "p.npz")
    assert partial.status is Status.INTERRUPTED and partial.eigenvectors.shape == (3000, 2)
    assert (tmp_path / "s.ckpt").stat().st_size > 3000 * 8


def test_usage_ends_with_two_before_anything_is_loaded_or_run(tmp_path: Path) -> None:
    process = started(tmp_path, "eigsh", "slow.py:problem", "--method", "none")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "invalid choice: 'none'" in err
