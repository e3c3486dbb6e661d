"""What a `hessian(f)` remembers: proven once, recorded once, and never believed where that says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import hvplib.ad.row_source as sources
from hvplib import DerivativeError, hessian
from hvplib.ad.known import Memory
from hvplib.ad.recorded import RecordedEngine
from hvplib.ad.recorded_hessian import RecordedHessian
from hvplib.ad.trace.unit_rows import UnitRows
from tests.ad.problems import normal, relative

CALLS = 9  # the record is made and proven within six


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a Hessian was proven by another way."""
    made: list[int] = []
    select = sources.select

    def counted(*args: Any) -> Any:
        made.append(1)
        return select(*args)

    monkeypatch.setattr(sources, "select", counted)
    return made


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often rows came from a record: all of them at once, or the product."""
    made: list[int] = []
    known, whole = sources.known_rows, RecordedHessian.__call__

    def counted(engine: Any, *args: Any) -> Any:
        if isinstance(engine, RecordedEngine):
            made.append(1)
        return known(engine, *args)

    def counted_whole(self: RecordedHessian, *args: Any) -> Any:
        made.append(1)
        return whole(self, *args)

    monkeypatch.setattr("hvplib.ad.dense.known_rows", counted)
    monkeypatch.setattr(RecordedHessian, "__call__", counted_whole)
    return made


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum() + x.sum() ** 3


def quartic_hessian(x: Tensor) -> Tensor:
    return torch.diag(12 * x**2) + 6 * x.sum()


@pytest.mark.parametrize("size", [5, 140, 300])
def test_proven_once_recorded_once_right_everywhere(
    size: int, proofs: list[int], recorded: list[int]
) -> None:
    of = hessian(quartic)
    for call in range(CALLS):
        x = normal(size, seed=call)
        assert relative([of(x)], [quartic_hessian(x)]) < 1e-13
    assert len(proofs) == 1 and len(recorded) >= 2


def test_several_leaves_and_parts_of_them(recorded: list[int]) -> None:
    def func(x: Tensor, y: dict[str, Tensor]) -> Tensor:
        return (x**3).sum() * y["a"].exp().sum() + (y["b"] ** 4).sum()

    whole, part = hessian(func, (0, 1)), hessian(func, (0, 1), rows=[7, 1], columns="*.b")
    for call in range(CALLS):
        x, y = normal(3, 2, seed=call), {"a": normal(70, seed=90 + call), "b": normal(2, seed=50 + call)}
        expected = tree_leaves(torch.func.hessian(func, (0, 1))(x, y))
        assert relative(tree_leaves(whole(x, y)), expected) < 1e-12
        assert relative([part(x, y)["1.b"]], [torch.zeros(2, 2, dtype=torch.float64)]) < 1e-12
    assert len(recorded) >= 4


def test_other_shapes_arguments_and_structures_are_proven_anew(proofs: list[int]) -> None:
    of = hessian(lambda x, flag=True, **_: quartic(x) if flag else (x**2).sum())
    for _ in range(2):
        of(normal(3, seed=1))
        assert len(proofs) == 1
    of(normal(4, seed=1))
    of(normal(3, seed=1), False)
    of(normal(3, seed=1), flag=False)
    assert len(proofs) == 4
    assert relative([of(normal(3, seed=2), False)], [2 * torch.eye(3, dtype=torch.float64)]) < 1e-14


def test_arguments_that_cannot_be_told_apart_are_not_remembered(proofs: list[int]) -> None:
    of = hessian(lambda x, power: (x**power.n).sum())

    class Power:
        n = 2

    for power, value in [(2, 2.0), (3, 6.0)]:
        Power.n = power
        assert of(torch.ones(1, dtype=torch.float64), Power()).item() == value
    assert len(proofs) == 2


def test_data_are_arguments_of_the_record(recorded: list[int]) -> None:
    of = hessian(lambda x, a: (a * x**3).sum())
    for call in range(CALLS):
        x, a = normal(3, seed=call), normal(3, seed=100 + call)
        assert relative([of(x, a)], [torch.diag(6 * a * x)]) < 1e-14
    assert recorded


@pytest.mark.parametrize("make", [float, lambda number: torch.tensor(number, dtype=torch.float64)])
def test_what_is_captured_may_change_unseen_by_the_value(make: Callable[[float], Any]) -> None:
    """At 0 the value is 0 and the gradient vanishes whatever λ is."""
    state = {"lambda": make(1.0)}
    of = hessian(lambda x: state["lambda"] * (x**2).sum() + 0.1 * (x**4).sum())
    for call in range(CALLS):
        of(normal(3, seed=call))
    state["lambda"] = make(5.0)
    zero = torch.zeros(3, dtype=torch.float64)
    assert relative([of(zero)], [10 * torch.eye(3, dtype=torch.float64)]) < 1e-14
    if isinstance(state["lambda"], Tensor):
        state["lambda"].fill_(7.0)
        assert relative([of(zero)], [14 * torch.eye(3, dtype=torch.float64)]) < 1e-14


def test_another_branch_is_proven_anew(proofs: list[int]) -> None:
    of = hessian(lambda x: quartic(x) if x[0] > 0 else (x.sin() ** 2).sum())
    x = normal(4, seed=3).abs()
    for _ in range(CALLS):
        assert relative([of(x)], [quartic_hessian(x)]) < 1e-13
    assert relative([of(-x)], [torch.diag(2 * (2 * x).cos())]) < 1e-13
    assert len(proofs) == 2


def test_a_singular_point_is_proven_there(proofs: list[int]) -> None:
    of = hessian(lambda x: x.norm() ** 2)
    identity = 2 * torch.eye(3, dtype=torch.float64)
    for call in range(CALLS):
        assert relative([of(normal(3, seed=call))], [identity]) < 1e-13
    assert len(proofs) == 1
    with pytest.raises(DerivativeError, match="difference of gradients"):
        of(torch.zeros(3, dtype=torch.float64))


class Half(torch.autograd.Function):
    """x³ whose backward forgets part of its derivative, by a factor that vanishes below 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.where(x.detach() > 1, 3 * x.detach() ** 2, 3 * x**2)


def test_custom_functions_are_proven_at_every_point(proofs: list[int]) -> None:
    of = hessian(lambda x: Half.apply(x).sum())
    small = torch.tensor([0.5, 0.25], dtype=torch.float64)
    for _ in range(3):
        assert relative([of(small)], [torch.diag(6 * small)]) < 1e-6
    assert len(proofs) == 3
    with pytest.raises(DerivativeError, match="difference of gradients: FAILED"):
        of(small + 2)


def test_stop_gradients_are_proven_at_every_point(proofs: list[int]) -> None:
    of = hessian(lambda x: (x**2 * x.detach()).sum())
    for call in range(3):
        x = normal(3, seed=call)
        assert relative([of(x)], [torch.diag(2 * x)]) < 1e-13
    assert len(proofs) == 3


def test_noise_is_that_of_each_call() -> None:
    of = hessian(lambda x: (torch.nn.functional.dropout(x, 0.5) ** 2).sum())
    seen = set()
    for call in range(CALLS):
        torch.manual_seed(call)
        kept = torch.nn.functional.dropout(torch.ones(6, dtype=torch.float64), 0.5)
        torch.manual_seed(call)
        assert relative([of(torch.ones(6, dtype=torch.float64))], [torch.diag(2 * kept**2)]) < 1e-14
        seen.add(tuple(kept.tolist()))
    assert len(seen) > 2


def test_graphs_and_transforms_are_as_ever() -> None:
    of = hessian(quartic)
    x = normal(3, seed=5)
    for _ in range(CALLS):
        of(x)
    assert not of(x).requires_grad
    carried = of(x.clone().requires_grad_())
    assert carried.requires_grad and relative([carried.detach()], [quartic_hessian(x)]) < 1e-13
    mapped = torch.func.vmap(of)(torch.stack([x, 2 * x]))
    assert relative([mapped[1]], [quartic_hessian(2 * x)]) < 1e-13


def test_chunk_sizes_are_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    rows, block = UnitRows.__call__, RecordedEngine.block

    def watched(self: UnitRows, *args: Any) -> Any:
        chunk = rows(self, *args)
        widths.append(len(chunk[0]))
        return chunk

    def watched_block(self: RecordedEngine, tangents: Any, width: int) -> Any:
        widths.append(width)
        return block(self, tangents, width)

    monkeypatch.setattr(UnitRows, "__call__", watched)
    monkeypatch.setattr(RecordedEngine, "block", watched_block)
    of, part = hessian(quartic, chunk_size=4), hessian(quartic, chunk_size=4, rows=range(10))
    for call in range(CALLS):
        x = normal(10, seed=call)
        assert relative([of(x)], [quartic_hessian(x)]) < 1e-13
        assert relative([part(x)], [quartic_hessian(x)]) < 1e-13
    assert set(widths) == {4} and len(widths) % 3 == 0


def test_a_record_backs_off_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    block = RecordedEngine.block

    def starved(self: RecordedEngine, tangents: Any, width: int) -> Any:
        if width > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return block(self, tangents, width)

    def starved_rows(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(RecordedEngine, "block", starved)
    monkeypatch.setattr(UnitRows, "__call__", starved_rows)
    of = hessian(quartic)
    for call in range(CALLS):
        x = normal(10, seed=call)
        assert relative([of(x)], [quartic_hessian(x)]) < 1e-13


def test_kinds_are_few() -> None:
    of = hessian(quartic)
    memory = next(c.cell_contents for c in of.__closure__ if isinstance(c.cell_contents, Memory))
    for size in range(1, 25):
        of(normal(size, seed=size))
    assert len(memory._known) == 16
