from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib import Checkpoint, CheckpointError, Diagonal, EigenResult, Lanczos, Status, eigsh
from tests.eigen.matrices import HARD, operator, with_spectrum

F32, F64 = torch.float32, torch.float64
A = with_spectrum(HARD)


def solve(path: Path, matrix: Tensor = A, *, stop: int | None = None, **options: Any) -> EigenResult:
    """Three pairs, kept in a file; the callback stops after so many steps."""
    callback = None if stop is None else lambda progress: progress.num_iter >= stop
    options = {"k": 3, "which": "LA", "throw": False, "method": Lanczos()} | options
    return eigsh(operator(matrix), checkpoint=path, callback=callback, **options)


def same_bits(one: EigenResult, other: EigenResult) -> bool:
    return torch.equal(one.eigenvectors, other.eigenvectors) and torch.equal(
        one.eigenvalues, other.eigenvalues
    )


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("stop", [1, 7, 30, 60])
def test_resumed_is_as_uninterrupted(tmp_path: Path, stop: int, block_size: int) -> None:
    method = Lanczos(block_size=block_size)
    whole = eigsh(operator(A), 3, which="LA", method=method)
    left = solve(tmp_path / "state", stop=stop, method=method)
    assert left.status is Status.STOPPED and left.num_matvecs < whole.num_matvecs
    resumed = solve(tmp_path / "state", method=method)
    assert resumed.status is Status.CONVERGED
    assert same_bits(whole, resumed)
    assert torch.equal(whole.residual_norms, resumed.residual_norms)
    assert whole.miss_probability == resumed.miss_probability
    # One product shows that the file is of this operator.
    assert resumed.matvecs == dict(whole.matvecs) | {"resume": 1}


def test_resumed_while_it_looks_for_missed_members(tmp_path: Path) -> None:
    values = torch.cat([HARD[:-3], torch.tensor([2.0, 2.0, 2.0, 3.0], dtype=F64)])
    matrix = with_spectrum(values)
    whole = eigsh(operator(matrix), 4, which="LA")
    phases = []
    for stop in range(15, whole.num_iter, 2):
        path = tmp_path / str(stop)
        left = solve(path, matrix, k=4, stop=stop)
        phases.append("missed members" in left.matvecs)
        assert same_bits(whole, solve(path, matrix, k=4))
    assert any(phases) and not all(phases)


def test_resumed_many_times(tmp_path: Path) -> None:
    whole = eigsh(operator(A), 3, which="LA")
    for stop in range(5, whole.num_iter, 9):
        assert solve(tmp_path / "state", stop=stop).status is Status.STOPPED
    assert same_bits(whole, solve(tmp_path / "state"))


def test_what_has_ended_is_only_looked_up(tmp_path: Path) -> None:
    first, again = solve(tmp_path / "state"), solve(tmp_path / "state")
    assert same_bits(first, again) and again.status is Status.CONVERGED
    assert again.num_matvecs == first.num_matvecs + 1 and again.converged.all()


def test_path_alone_saves_the_end(tmp_path: Path) -> None:
    for path in (tmp_path / "one", os.fspath(tmp_path / "other")):
        result = eigsh(operator(A), 3, which="LA", checkpoint=path)
        assert os.path.exists(path)
        assert same_bits(result, eigsh(operator(A), 3, which="LA", checkpoint=path))


@pytest.mark.parametrize("how", ["callback", "interrupt", "time limit"])
def test_what_is_asked_to_end_is_saved(tmp_path: Path, how: str) -> None:
    # Whatever the interval: the products made are not lost.
    calls = [0]

    def product(call: int, X: Tensor) -> Tensor:
        calls[0] = call
        if how == "interrupt" and call == 21:
            raise KeyboardInterrupt
        return A @ X

    options: dict[str, Any] = {"checkpoint": Checkpoint(tmp_path / "state", interval=3600.0), "which": "LA"}
    asked: dict[str, Any] = {"callback": lambda p: p.num_iter >= 20} if how == "callback" else {}
    asked = {"time_limit": 1e-9} if how == "time limit" else asked
    left = eigsh(operator(A, product), 3, throw=False, **options, **asked)
    assert left.status in (Status.STOPPED, Status.INTERRUPTED, Status.TIME_LIMIT)
    assert (tmp_path / "state").exists()
    resumed = eigsh(operator(A), 3, **options)
    assert resumed.matvecs["resume"] == 1
    assert same_bits(resumed, eigsh(operator(A), 3, which="LA"))


def test_more_products_may_be_allowed_later(tmp_path: Path) -> None:
    left = solve(tmp_path / "state", method=Lanczos(max_matvecs=40))
    assert left.status is Status.MAX_ITER and (tmp_path / "state").exists()
    resumed = solve(tmp_path / "state", method=Lanczos(max_matvecs=4000, basis_budget=10**9))
    assert resumed.status is Status.CONVERGED and resumed.converged.all()
    whole = eigsh(operator(A), 3, which="LA", method=Lanczos(max_matvecs=4000))
    assert resumed.matvecs["resume"] == 1 and same_bits(resumed, whole)
    assert (resumed.eigenvalues - HARD.flip(0)[:3]).abs().max() <= 1e-12


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"k": 4}, "k is 4 here, 3 there"),
        ({"which": "SA"}, "which is SA here, LA there"),
        ({"rtol": 1e-3}, "rtol is 0.001 here, "),
        ({"method": Lanczos(krylov_dim=31)}, "krylov_dim is 31 here, 20 there"),
        ({"method": Lanczos(block_size=2)}, "block_size is 2 here, 1 there"),
        ({"method": Lanczos(basis_dtype=F32)}, "basis_dtype is torch.float32 here, None there"),
        ({"method": Lanczos(miss_probability=1e-6)}, "miss_probability is 1e-06 here, 0.001 there"),
        ({"v0": torch.ones(200, dtype=F64)}, "v0 is "),
        ({"matrix": A.float()}, "dtype is torch.float32 here, torch.float64 there"),
        ({"matrix": A[:150, :150]}, "n is 150 here, 200 there"),
    ],
)
def test_another_problem_is_refused(tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    path = tmp_path / "state"
    solve(path, stop=20)
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        solve(path, **changed)
    message = str(caught.value)
    assert (
        message.startswith(f"checkpoint {os.fspath(path)!r} belongs to another problem: ")
        and named in message
    )
    assert message.endswith("; give another path, or delete the file to begin afresh")
    assert path.read_bytes() == before


@pytest.mark.parametrize("stop", [5, 20, 60, None])
@pytest.mark.parametrize("factor", [1.01, -1.0, 1e-30])
def test_another_operator_is_refused(tmp_path: Path, stop: int | None, factor: float) -> None:
    path = tmp_path / "state"
    solve(path, stop=stop)
    before = path.read_bytes()
    with pytest.raises(CheckpointError) as caught:
        solve(path, factor * A)
    message = str(caught.value)
    assert "belongs to another operator: a product with a vector of its basis differs by " in message
    assert message.endswith("; give another path, or delete the file to begin afresh")
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", [F32, F64])
def test_the_same_operator_is_not_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    matrix = A.to(dtype)
    for stop in (1, 10, 40, None):
        solve(tmp_path / "state", matrix, stop=stop)
    assert solve(tmp_path / "state", matrix).status is Status.CONVERGED


def test_before_the_first_product_there_is_nothing_to_compare(tmp_path: Path) -> None:
    def broken(call: int, X: Tensor) -> Tensor:
        raise KeyboardInterrupt

    path = tmp_path / "state"
    left = eigsh(operator(A, broken), 3, which="LA", checkpoint=path)
    assert left.status is Status.INTERRUPTED and left.eigenvalues.shape == (0,)
    assert solve(path).status is Status.CONVERGED


def test_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    # Repeated eigenvalues: each start for missed members draws.
    matrix = with_spectrum(torch.cat([HARD, torch.tensor([2.0, 2.0, 2.0, 3.0], dtype=F64)]))
    whole = eigsh(operator(matrix), 4, which="LA", generator=9, method="lanczos")
    left = solve(tmp_path / "state", matrix, k=4, generator=9, stop=10)
    assert left.matvecs.keys() == {"iteration"} and whole.matvecs["missed members"] > 0
    # Another seed, where the first one's state is in the file.
    assert same_bits(whole, solve(tmp_path / "state", matrix, k=4, generator=5))


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="is no checkpoint of this library"):
        solve(tmp_path / "state")


def test_checkpoint_of_an_operator_with_scale(tmp_path: Path) -> None:
    A = Diagonal(1e-200 * torch.cat([HARD, HARD[-1:] + 0.1]))
    options: dict[str, Any] = {
        "which": "LA",
        "checkpoint": Checkpoint(tmp_path / "state", 0.0),
        "throw": False,
    }
    eigsh(A, 3, callback=lambda progress: progress.num_iter >= 20, **options)
    resumed, whole = eigsh(A, 3, **options), eigsh(A, 3, which="LA")
    assert same_bits(resumed, whole)
    assert resumed.operator_norm == whole.operator_norm


@pytest.mark.parametrize(("interval", "every_step"), [(0.0, True), (3600.0, False)])
def test_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: float, every_step: bool) -> None:
    saves: list[int] = []
    monkeypatch.setattr("hvplib.eigen.saved.save_checkpoint", lambda path, state: saves.append(1))
    checkpoint = Checkpoint(tmp_path / "state", interval=interval)
    result = eigsh(operator(A), 3, which="LA", checkpoint=checkpoint)
    assert len(saves) == (result.num_iter + 1 if every_step else 1)
