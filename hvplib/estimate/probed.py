"""Lanczos from random directions, in blocks that fit in memory: Gauss rules of the spectral measure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.ad.memory import free_bytes, readable
from hvplib.estimate.function_error import eigh_tridiagonal
from hvplib.estimate.probes import Probes
from hvplib.interrupt import Interrupt
from hvplib.krylov.lanczos_columns import LanczosColumns, Recurrence
from hvplib.operators.base import Operator
from hvplib.results.status import Progress, Status

__all__ = ["Plan", "Rule", "planned", "probed", "sphere"]

_SHARE = 0.5  # of the free memory, for all vectors
_VECTORS = 5  # that a column needs beside its basis: the process's, the product and its argument
# Probes that are multiplied at a time, if memory does not tell otherwise.
_AT_ONCE = 16


@dataclass(frozen=True)
class Plan:
    """How to make the rules.

    Attributes:
        steps: Of each probe, at most.
        keep: Vectors kept of each basis: `steps`, or 0.
        block_size: Probes at a time.
    """

    steps: int
    keep: int
    block_size: int


@dataclass(frozen=True)
class Rule:
    """‖z‖² Σ w_i f(θ_i) ≈ zᵀ f(A) z.

    Attributes:
        nodes: θ (m,), ascending.
        weights: w (m,), of sum one.
        recurrence: The T they come from.
    """

    nodes: Tensor
    weights: Tensor
    recurrence: Recurrence


def planned(
    operator: Operator, count: int, steps: int, *, reorthogonalize: bool | None, block_size: int | None
) -> Plan:
    """Decide what memory allows.

    Args:
        operator: A.
        count: Probes in all.
        steps: Of each.
        reorthogonalize: Whether to keep bases; None if they fit.
        block_size: Probes at a time; None for as many as fit, up to 16.
    """
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size must be at least 1, or None, got {block_size}")
    n = operator.shape[0]
    vector = n * torch.finfo(operator.torch_dtype).bits // 8
    budget = int(_SHARE * free_bytes(operator.device))
    kept, most = min(steps, n), min(count, block_size or _AT_ONCE)
    if reorthogonalize is None:
        reorthogonalize = (kept + _VECTORS) * vector * (block_size or 1) <= budget
    elif reorthogonalize and (kept + _VECTORS) * vector > budget:
        raise MemoryError(
            f"reorthogonalize=True keeps {kept} vectors, {readable(kept * vector)}; half of what is free on "
            f"{operator.device} is {readable(budget)}; lower krylov_dim, or use reorthogonalize=False"
        )
    keep = kept if reorthogonalize else 0
    affordable = max(1, budget // ((keep + _VECTORS) * vector))
    return Plan(kept if keep else steps, keep, min(most, affordable) if block_size is None else most)


def probed(
    operator: Operator,
    draw: Callable[[int], Tensor],
    count: int,
    plan: Plan,
    *,
    callback: Callable[[Progress], object] | None = None,
    deadline: float,
    interrupt: Interrupt,
) -> tuple[list[Rule], Status]:
    """Gauss rules of `count` probes; of fewer steps, or fewer, where it is ended from outside.

    Args:
        operator: A.
        draw: k ↦ the next k probes (n, k).
        count: How many.
        plan: Steps and blocks.
        callback: Is told a `Progress` after each step, `num_iter` counting those of all blocks.
        deadline: On the clock of `time.monotonic`.
        interrupt: Takes note of Ctrl-C.
    """
    rules: list[Rule] = []
    status, num_iter, spent = Status.ESTIMATED, 0, 0
    while len(rules) < count and status is Status.ESTIMATED:
        width = min(plan.block_size, count - len(rules))
        lanczos = LanczosColumns(operator._product, draw(width), keep=plan.keep, size=operator.shape[0])
        for _ in range(plan.steps):
            if not lanczos.open or status is not Status.ESTIMATED:
                break
            lanczos.step()
            num_iter += 1
            if interrupt.came:
                status = Status.INTERRUPTED
            elif time.monotonic() >= deadline:
                status = Status.TIME_LIMIT
            progress = Progress(num_iter, spent + lanczos.num_matvecs, torch.zeros(0, dtype=torch.float64))
            if callback is not None and callback(progress):
                status = Status.STOPPED
        spent += lanczos.num_matvecs
        if not all(column.finite for column in lanczos.columns):
            status = Status.NON_FINITE
        rules += [_rule(column) for column in lanczos.columns if column.finite and column.steps]
    return rules, status


def sphere(operator: Operator, generator: torch.Generator | int | None) -> Probes:
    """Directions that are uniform on the sphere."""
    return Probes.of(operator, generator=generator, distribution="sphere")


def _rule(column: Recurrence) -> Rule:
    nodes, vectors = eigh_tridiagonal(column)
    return Rule(nodes, vectors[0].square(), column)
