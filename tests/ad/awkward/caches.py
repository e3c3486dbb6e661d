"""Functions that keep something between calls, as scientific codes do, and must survive failed attempts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.ad.awkward.case import F64, Case, Table

table = Table("caches")

X = torch.tensor([0.3, -0.8, 1.2], dtype=F64)


def plain(x: Tensor) -> Tensor:
    return (torch.tensor([1.0, 2.0, 3.0], dtype=F64) * x.sin() * x).sum() + x.prod()


def _case(func: Callable[[Tensor], Tensor], truth: Callable[[Tensor], Tensor] = plain) -> Case:
    return Case(func, (X.clone(),), truth)


@table.right(forward="raises")
def constant_table_built_at_the_first_call() -> Case:
    store: dict[str, Tensor] = {}

    def func(x: Tensor) -> Tensor:
        if "table" not in store:
            store["table"] = torch.arange(1, 4, dtype=F64)
        return (store["table"] * x.sin() * x).sum() + x.prod()

    return _case(func)


@table.right(forward="raises")
def table_built_like_the_argument() -> Case:
    """`zeros_like(x)` of a wrapped argument is a wrapped tensor, which outlives the transform."""
    store: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        if not store:
            store.append(torch.ones_like(x).cumsum(0))
        return (store[0] * x.sin() * x).sum() + x.prod()

    return _case(func)


@table.right(forward="raises")
def table_built_by_lru_cache() -> Case:
    @functools.lru_cache
    def build(n: int, dtype: torch.dtype) -> Tensor:
        return torch.arange(1, n + 1, dtype=dtype)

    return _case(lambda x: (build(len(x), x.dtype) * x.sin() * x).sum() + x.prod())


def _mse(x: Tensor) -> Tensor:
    return torch.nn.functional.mse_loss(x.sin() * x, torch.ones(3, dtype=F64))


@table.right(forward="raises")
def table_like_the_argument_and_a_failed_attempt() -> Case:
    """Forward mode fails in the middle; what it left in the cache must not poison reverse mode."""
    store: list[Tensor] = []

    def func(x: Tensor) -> Tensor:
        if not store:
            store.append(torch.ones_like(x).cumsum(0))
        return (store[0] * x.sin() * x).sum() + x.prod() + _mse(x)

    return _case(func, lambda x: plain(x) + ((x.sin() * x - 1) ** 2).mean())


@table.right(forward="raises")
def intermediate_kept_and_a_failed_attempt() -> Case:
    """A workspace that is overwritten at each call and only read within it."""
    workspace: dict[str, Tensor] = {}

    def func(x: Tensor) -> Tensor:
        workspace["s"] = x.sin()
        return (torch.tensor([1.0, 2.0, 3.0], dtype=F64) * workspace["s"] * x).sum() + x.prod() + _mse(x)

    return _case(func, lambda x: plain(x) + ((x.sin() * x - 1) ** 2).mean())


@table.not_wrong(forward="raises")
def memo_of_the_last_argument_by_value() -> Case:
    """Returns what it computed for an equal argument: the second derivative meets the first one's graph."""
    memo: list[tuple[Tensor, Tensor]] = []

    def func(x: Tensor) -> Tensor:
        if not memo or not torch.equal(memo[0][0], x):
            memo[:] = [(x.detach().clone(), plain(x))]
        return memo[0][1]

    return _case(func)


@table.not_wrong(forward="raises")
def memo_of_an_intermediate_by_value() -> Case:
    memo: list[tuple[Tensor, Tensor]] = []

    def func(x: Tensor) -> Tensor:
        if not memo or not torch.equal(memo[0][0], x):
            memo[:] = [(x.detach().clone(), x.sin())]
        return (torch.tensor([1.0, 2.0, 3.0], dtype=F64) * memo[0][1] * x).sum() + x.prod()

    return _case(func)


@table.right()
def memo_by_identity() -> Case:
    memo: dict[int, Tensor] = {}

    def func(x: Tensor) -> Tensor:
        memo.clear()
        memo[id(x)] = x.sin()
        return (torch.tensor([1.0, 2.0, 3.0], dtype=F64) * memo[id(x)] * x).sum() + x.prod()

    return _case(func)


@table.right(forward="raises")
def preallocated_workspace() -> Case:
    """Writes into a tensor of its own that lives between calls."""
    workspace = torch.zeros(3, dtype=F64)

    def func(x: Tensor) -> Tensor:
        workspace.copy_(x.detach())
        scale = workspace.round().detach().clone()
        return (x.sin() * x).sum() + (scale * x**3).sum()

    return _case(func, lambda x: (x.sin() * x).sum() + (X.round() * x**3).sum())


@table.right(forward="raises")
def workspace_written_with_derivatives() -> Case:
    """A preallocated buffer that carries the graph within one call (detached at its start)."""
    workspace = torch.zeros(3, dtype=F64)

    def func(x: Tensor) -> Tensor:
        workspace.detach_().zero_()
        workspace.add_(x.sin())
        return (torch.tensor([1.0, 2.0, 3.0], dtype=F64) * workspace * x).sum() + x.prod()

    return _case(func)


@table.right(forward="raises")
def running_mean_that_is_not_read() -> Case:
    mean = torch.zeros(3, dtype=F64)

    def func(x: Tensor) -> Tensor:
        mean.mul_(0.9).add_(x.detach(), alpha=0.1)
        return plain(x)

    return _case(func)


@table.right(forward="raises", reverse="wrong")
def running_mean_that_is_read() -> Case:
    """State that enters the value: each evaluation must start from the state before the first."""
    mean = torch.zeros(3, dtype=F64)

    def func(x: Tensor) -> Tensor:
        mean.mul_(0.5).add_(x.detach(), alpha=0.5)
        return plain(x) + (mean * x**3).sum()

    return _case(func, lambda x: plain(x) + (0.5 * X * x**3).sum())


@table.right()
def history_that_grows() -> Case:
    history: list[float] = []

    def func(x: Tensor) -> Tensor:
        value = plain(x)
        history.append(float(value.detach()))
        return value

    return _case(func)


@table.right()
def object_with_properties() -> Case:
    """A model that computes its geometry lazily and drops it when its input changes."""

    class Molecule:
        def __init__(self) -> None:
            self._distances: Any = None
            self._at: Any = None

        def energy(self, x: Tensor) -> Tensor:
            if self._at is not x:
                self._at, self._distances = x, (x[:, None] - x[None, :]).square() + 0.1
            return (1 / self._distances).sum()

    return _case(Molecule().energy, lambda x: (1 / ((x[:, None] - x[None, :]) ** 2 + 0.1)).sum())
