"""A checkpoint is one whole state, or an error that says so; whatever happens while it is written."""

from __future__ import annotations

import errno
import math
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.eigen import checkpoint
from hvplib.eigen.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from tests.eigen.killing import program

NAN_WITH_PAYLOAD = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_DEAD_BEEF))[0]

STATE: dict[str, Any] = {
    "rows": torch.randn(5, 40, generator=torch.Generator().manual_seed(0)),
    "block": torch.randn(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mT,
    "special": torch.tensor([0.0, -0.0, math.inf, -math.inf, NAN_WITH_PAYLOAD, 5e-324], dtype=torch.float64),
    "half": torch.arange(3).to(torch.bfloat16),
    "generator": torch.Generator().manual_seed(7).get_state(),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(2.5),
    "flags": torch.tensor([True, False]),
    "count": 12345678901234567890,
    "norm": 0.1 + 0.2,
    "nan": math.nan,
    "status": "CONVERGED",
    "done": False,
    "nothing": None,
    "nested": {"list": [1, {"deep": torch.eye(2)}], "tuple": (1, "a"), "dict": {}},
}


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else bits(tensor[None])


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, Tensor):
        assert (left.dtype, left.shape, left.stride()) == (right.dtype, right.shape, right.stride())
        assert bits(left) == bits(right) and left.requires_grad == right.requires_grad
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right or (left != left and right != right)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_state_comes_back_bit_for_bit(path: Path) -> None:
    save_checkpoint(path, STATE)
    assert_same(load_checkpoint(path), STATE)
    assert os.listdir(path.parent) == ["state"]


def test_without_a_file_there_is_no_state(path: Path) -> None:
    assert load_checkpoint(path) is None


def test_the_last_state_counts(path: Path) -> None:
    for step in range(3):
        save_checkpoint(str(path), {"step": step, "rows": torch.ones(1000 // (step + 1))})
    assert load_checkpoint(path)["step"] == 2  # type: ignore[index]


def test_of_a_view_only_what_it_shows_is_written(path: Path) -> None:
    rows = torch.arange(1_000_000.0)
    save_checkpoint(path, {"rows": rows[10:20], "every": rows[:20:2]})
    assert path.stat().st_size < 10_000
    assert_same(
        load_checkpoint(path), {"rows": torch.arange(10.0, 20.0), "every": torch.arange(0.0, 20.0, 2)}
    )


def test_gradient_history_and_parameters_are_left_behind(path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    save_checkpoint(path, {"weight": weight, "double": 2 * weight})
    assert_same(load_checkpoint(path), {"weight": torch.ones(3), "double": 2 * torch.ones(3)})


def test_a_link_stays_a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    target = path.parent / "elsewhere" / "real"
    path.symlink_to(target)
    save_checkpoint(path, {"step": 1})
    assert path.is_symlink() and load_checkpoint(target) == {"step": 1}


def test_a_relative_path_is_in_the_current_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    save_checkpoint("state", {"step": 1})
    assert load_checkpoint(path) == {"step": 1}


@pytest.mark.parametrize(
    ("state", "where", "got"),
    [
        ({"a": [1, object()]}, r"state\['a'\]\[1\]", "object"),
        ({"a": {"b": 1j}}, r"state\['a'\]\['b'\]", "complex"),
        ({"a": {1: 2}}, r"state\['a'\]", "dict"),
        ({"a": (1, {2})}, r"state\['a'\]\[1\]", "set"),
        ({"a": torch.eye(2).to_sparse()}, r"state\['a'\]", "Tensor"),
        ({2: 1}, "state", "dict"),
    ],
)
def test_what_no_file_should_hold_is_refused(path: Path, state: Any, where: str, got: str) -> None:
    with pytest.raises(TypeError, match=f"{where} must be a dense tensor, .* got {got}"):
        save_checkpoint(path, state)
    assert os.listdir(path.parent) == []


# ------------------------------------------------------------------------------------------------ bad files


def test_every_torn_file_is_seen(path: Path) -> None:
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    for length in [*range(80), *range(80, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="delete it to begin afresh"):
            load_checkpoint(path)


def test_every_flipped_bit_is_seen(path: Path) -> None:
    save_checkpoint(path, {"rows": torch.ones(4), "step": 3})
    whole = path.read_bytes()
    for place in [*range(80), *range(80, len(whole), 13), len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="delete it to begin afresh"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "ends too early"),
        (b"hvplib checkpoint\n", "ends too early"),
        (b"hvplib", "ends too early"),
        (b"PK\x03\x04 something else", "is no checkpoint of this library"),
        (b"short", "is no checkpoint of this library"),
    ],
)
def test_other_files_are_refused(path: Path, contents: bytes, message: str) -> None:
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_another_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_VERSION", 99)
    save_checkpoint(path, {"step": 1})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"has format 99, and this version of the library reads 1;"):
        load_checkpoint(path)


def test_appended_bytes_are_seen(path: Path) -> None:
    save_checkpoint(path, {"step": 1})
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="its contents are not those that were saved"):
        load_checkpoint(path)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)


def test_nothing_in_a_file_is_executed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = path.parent / "executed"
    monkeypatch.setattr(checkpoint, "_plain", lambda value, where: {"evil": Malicious(mark)})
    save_checkpoint(path, {})
    with pytest.raises(CheckpointError, match="holds what no version of this library writes"):
        load_checkpoint(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists()  # it would have been


# ------------------------------------------------------------------------------------------ failures to write


def rows(size: int) -> dict[str, Any]:
    return {"rows": torch.ones(size)}


@pytest.mark.parametrize("size", [1, 10_000_000], ids=["at the flush", "at a write"])
def test_a_full_disk_leaves_the_previous_state(path: Path, size: int) -> None:
    save_checkpoint(path, {"step": 1})
    (path.parent / "state.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"checkpoint could not be saved .*; free some space") as caught:
        save_checkpoint(path, rows(size))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert load_checkpoint(path) == {"step": 1}
    assert os.listdir(path.parent) == ["state"]


def test_a_missing_folder_is_named(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"checkpoint could not be saved .*missing/state"):
        save_checkpoint(path.parent / "missing" / "state", {"step": 1})


def test_a_folder_is_not_replaced(path: Path) -> None:
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="checkpoint could not be saved"):
        save_checkpoint(path, {"step": 1})
    assert os.listdir(path.parent) == ["state"]


def test_a_read_only_folder_keeps_the_previous_state(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Played by the system call, for root may write everywhere."""
    save_checkpoint(path, {"step": 1})

    def replace(source: str, target: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", source)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(PermissionError, match="checkpoint could not be saved"):
            save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert os.listdir(path.parent) == ["state"]


@pytest.mark.parametrize("call", range(4))
def test_an_interrupt_leaves_the_previous_state(
    path: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(path, {"step": 1})

    class Interrupted:
        def __init__(self) -> None:
            self.left = call

        def update(self, data: Any) -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.hashlib, "sha256", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, rows(100_000))
    assert load_checkpoint(path) == {"step": 1}
    assert os.listdir(path.parent) == ["state"]


def test_what_a_killed_process_left_is_overwritten(path: Path) -> None:
    save_checkpoint(path, {"step": 1})
    (path.parent / "state.partial").write_bytes(b"half a state" * 1000)
    assert load_checkpoint(path) == {"step": 1}
    save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 2}
    assert os.listdir(path.parent) == ["state"]


# ---------------------------------------------------------------------------------------------------- kill -9


def test_killed_at_each_call_a_save_leaves_one_whole_state(path: Path) -> None:
    lines = program("tests.eigen.killing", "at_each_call", path.parent).split("\n")
    kills = {name: int(count) for name, count in (line.split() for line in lines if line)}
    assert kills["write"] > 5
    assert kills == {"write": kills["write"], "fsync": 2, "replace": 1, "open": 1}


@pytest.mark.parametrize("kills", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_killed_at_any_time_a_save_leaves_one_whole_state(path: Path, kills: int) -> None:
    arguments = "at_random", path.parent, kills
    inside, last = map(int, program("tests.eigen.killing", *arguments, timeout=120 + kills).split())
    assert inside > kills / 10 and last >= kills
