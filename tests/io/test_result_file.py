"""`save` and `load`: the same bits, or a refusal that says why."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hvplib import (
    Diagonal,
    HessianOperator,
    Status,
    diagonal,
    eigsh,
    least_squares,
    minimize,
    solve,
    svds,
    trace,
)
from hvplib.io import ResultFileError, describe, load, save
from hvplib.space import Space

VALUES = torch.cat([torch.linspace(0, 1, 300), torch.tensor([3.0, 4.0])]).double()
A = Diagonal(VALUES)
POINT = {"w": torch.ones(3).double(), "b": (torch.zeros(2).double(),)}


def quartic(p: Any) -> torch.Tensor:
    return (p["w"] ** 4).sum() + (p["b"][0] ** 2).sum()


RESULTS: dict[str, Callable[[], Any]] = {
    "eigsh": lambda: eigsh(A, 2, which="LA", method="lanczos"),
    "eigsh, unfinished": lambda: eigsh(A, 2, method="lanczos", callback=lambda p: p.num_matvecs > 20),
    "eigsh of a pytree": lambda: eigsh(HessianOperator(quartic, POINT), 2),
    "eigsh of an array": lambda: eigsh(np.diag([1.0, 2.0, 3.0]), 1),
    "svds": lambda: svds(A, 2),
    "solve": lambda: solve(A.shifted(1.0), torch.ones(302, 2).double()),
    "solve of a singular system": lambda: solve(A, torch.ones(302).double(), throw=False),
    "trace": lambda: trace(A),
    "diagonal": lambda: diagonal(HessianOperator(quartic, POINT)),
    "minimize": lambda: minimize(lambda x: ((x - 1) ** 4).sum(), np.zeros(3)),
    "minimize bfloat16": lambda: minimize(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(4).bfloat16()}),
    "least_squares": lambda: least_squares(lambda x: torch.stack([x[0] - 1, x[1] * x[0], x[1]]), [1.0, 2.0]),
}


def same(left: Any, right: Any) -> None:
    """Equal to the last bit, and of the same types, all the way down."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape
        bits = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}[left.element_size()]
        assert torch.equal(left.contiguous().view(bits), right.contiguous().view(bits))
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, Space):
        assert (left.spec, left.shapes, left.dtypes) == (right.spec, right.shapes, right.dtypes)
    elif is_dataclass(left):
        for field in fields(left):
            same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for mine, theirs in zip(left, right, strict=True):
            same(mine, theirs)
    else:
        assert left == right or (math.isnan(left) and math.isnan(right))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", RESULTS)
def test_what_is_loaded_is_what_was_saved(name: str, suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    result, path = RESULTS[name](), tmp_path / f"result{suffix}"
    save(result, path, note="mine")
    again = load(path)
    same(result, again)
    assert str(again) == str(result)
    told = describe(path)
    assert told["kind"] == type(result).__name__ and told["note"] == "mine" and told["problem"] is None
    assert told["versions"]["torch"] == torch.__version__ and told["versions"]["numpy"] == np.__version__


def test_methods_of_a_loaded_result_work(tmp_path: Path) -> None:
    H = HessianOperator(quartic, POINT)
    save(eigsh(H, 2), tmp_path / "pairs.npz")
    again = load(tmp_path / "pairs.npz").vectors_as()
    assert again["w"].shape == (2, 3) and again["b"][0].shape == (2, 2)
    save(RESULTS["least_squares"](), tmp_path / "fit.npz")
    np.testing.assert_array_equal(load(tmp_path / "fit.npz").stderr, RESULTS["least_squares"]().stderr)


def test_an_archive_opens_with_numpy_alone(tmp_path: Path) -> None:
    save({"T": VALUES, "n": 3}, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["a0"], VALUES.numpy())


def test_the_state_of_a_factorisation_is_kept(tmp_path: Path) -> None:
    state = {
        "T": torch.eye(3),
        "Q": torch.randn(3, 7).mT,
        "count": 3,
        "none": None,
        "nan": math.nan,
        "p": (1, [2.5]),
    }
    save(state, tmp_path / "state.npz")
    again = load(tmp_path / "state.npz")
    same(state, again)
    assert again["Q"].mT.is_contiguous(), "columns stay columns"


def test_nothing_but_results_and_numbers_is_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"result\.a\[1\] cannot be saved: it is of type function"):
        save({"a": [1, quartic]}, tmp_path / "x.npz")
    with pytest.raises(TypeError, match="dense, real tensor"):
        save(torch.ones(2, dtype=torch.complex64), tmp_path / "x.npz")
    with pytest.raises(TypeError, match="array of real numbers"):
        save(np.array(["text"]), tmp_path / "x.npz")
    with pytest.raises(TypeError, match="type dict"):  # its keys are no strings
        save({1: 2}, tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r'must end in "\.npz" or "\.safetensors", got .*x\.pkl'):
        save(1, tmp_path / "x.pkl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_every_truncation_is_refused(suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    save({"T": VALUES}, path)
    whole = path.read_bytes()
    for length in [0, 1, 10, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ResultFileError, match="is damaged, or no file of hvplib"):
            load(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_changed_number_is_refused(suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"x{suffix}"
    save({"T": VALUES}, path)
    whole = bytearray(path.read_bytes())
    where = whole.index(VALUES.numpy().tobytes()[800:816])
    whole[where] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ResultFileError, match="damaged"):
        load(path)


def with_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The file with another header."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(entries["header.json"])
    change(header)
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in {**entries, "header.json": json.dumps(header).encode()}.items():
            archive.writestr(name, entry)


def test_other_versions_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(Status.CONVERGED, path)
    with_header(path, lambda header: header.update(version=7, versions={"hvplib": "9.1"}))
    with pytest.raises(
        ResultFileError, match=r"has format 7, and this version of hvplib reads 1; .* hvplib 9\.1"
    ):
        load(path)
    with_header(path, lambda header: header.update(format="another"))
    with pytest.raises(ResultFileError, match="is no file of hvplib"):
        load(path)
    np.savez(path, a=np.ones(2))
    with pytest.raises(ResultFileError, match="it has no header"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    "content",
    [
        {"enum": ["Status", "SOMETHING_NEW"]},
        {"enum": ["system", "x"]},
        {"record": "Popen", "fields": {}},
        {"record": "Lanczos", "fields": {"unknown": 1}},
        {"array": "a9", "kind": "numpy"},
        {"code": "print()"},
    ],
)
def test_what_no_version_here_writes_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(Status.CONVERGED, path)
    with_header(path, lambda header: header.update(content=content))
    with pytest.raises(ResultFileError, match="holds what this version of hvplib cannot read"):
        load(path)


def test_pickles_are_never_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save({"a": VALUES}, path)
    with zipfile.ZipFile(path, "a") as archive, archive.open("a7.npy", "w") as entry:
        np.lib.format.write_array(entry, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(ResultFileError, match="is damaged, or no file of hvplib"):
        load(path)


def test_another_problem_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(eigsh(A, 2, which="LA"), path, problem=A)
    spent = A.num_matvecs
    assert load(path, problem=A).status is Status.CONVERGED
    assert A.num_matvecs == spent + 1, "one product"
    with pytest.raises(
        ResultFileError, match=r"belongs to another problem: a product differs by .* of its norm"
    ):
        load(path, problem=Diagonal(VALUES * 1.001))
    with pytest.raises(ResultFileError, match=r"shape is \(3, 3\) here, \(302, 302\) there"):
        load(path, problem=Diagonal(torch.ones(3).double()))
    save(1, path)
    with pytest.raises(ResultFileError, match="it was saved without problem="):
        load(path, problem=A)


def test_names_of_unknowns_tell_problems_apart(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(1, path, problem=HessianOperator(lambda p: (p["a"] ** 2).sum(), {"a": torch.ones(3)}))
    with pytest.raises(ResultFileError, match=r"names is \('b',\) here, \('a',\) there"):
        load(path, problem=HessianOperator(lambda p: (p["b"] ** 2).sum(), {"b": torch.ones(3)}))


def test_rounding_of_another_machine_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(1, path, problem=A)
    assert load(path, problem=Diagonal(VALUES * (1 + 1e-12))) == 1


def test_a_failed_save_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    save(1, path)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"result could not be saved \(No space left.*an earlier file there is as it was"
    ):
        save(2, path)
    monkeypatch.undo()
    assert load(path) == 1 and [p.name for p in tmp_path.iterdir()] == ["x.npz"]
    with pytest.raises(OSError, match="could not be saved"):
        save(2, tmp_path / "no folder" / "x.npz")
