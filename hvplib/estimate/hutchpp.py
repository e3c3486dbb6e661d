"""Hutch++: what a sketch knows of the trace, and random vectors for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.estimate.averaged import LEAST, Callback
from hvplib.estimate.found import Found
from hvplib.estimate.goal import Goal
from hvplib.estimate.hutchinson import forms, sampled
from hvplib.estimate.probes import Probes
from hvplib.estimate.products import Products
from hvplib.estimate.ranges import Range
from hvplib.estimate.samples import student
from hvplib.krylov.host import NonFiniteError, to_host
from hvplib.results.status import Status

__all__ = ["hutchpp"]


def hutchpp(
    products: Products,
    sketch: Range,
    probes: Probes,
    goal: Goal,
    *,
    block_size: int,
    callback: Callback | None,
) -> Found:
    """tr(QᵀA Q) + mean of gᵀA g, g = (I − Q Qᵀ) z.

    Given Q the samples are independent, and what they say of the rest holds as for any mean.

    Args:
        products: X ↦ A X, for a symmetric A.
        sketch: Of A, empty yet.
        probes: Draws z.
        goal: The error wanted.
        block_size: Vectors multiplied at a time.
        callback: As in `averaged`.
    """
    try:
        known = _sketched(sketch, goal, products, block_size)
    except NonFiniteError:
        return Found.failed(Status.NON_FINITE, goal)
    if sketch.exhausted:
        value = torch.tensor(known, dtype=torch.float64)
        return Found.exact(value, products.rounding() + sketch.rest, goal, products.total)
    Q = sketch.Q

    def beside(Z: Tensor) -> Tensor:
        for _ in range(2):  # twice is enough
            Z = Z - Q @ (Q.mT @ Z)
        return Z

    return sampled(
        products,
        probes,
        goal,
        lambda Z, Y: known + forms(Z, Y),
        block_size=block_size,
        callback=callback,
        prepare=beside,
    )


def _sketched(sketch: Range, goal: Goal, products: Products, block_size: int) -> float:
    """Grow the sketch; tr(QᵀA Q).

    A third of the products are for it, and a third for A Q. With a tolerance, the samples that will be needed
    are as many as 2 t² ‖(I − Q Qᵀ) A (I − Q Qᵀ)‖_F² / tolerance² where that is more than the least: the
    sketch grows until a block saves fewer of them than it costs.
    """
    most, known, before = products.left // 3, 0.0, float("inf")
    while sketch.size < most and not sketch.exhausted:
        sketch.grow(min(block_size, most - sketch.size))
        H, column = to_host(sketch.Q.mT @ sketch.Z, sketch.Z.double().square().sum(0))
        known = float(H.trace())
        if goal.asks:
            left = max(products.frobenius() ** 2 - 2 * float(column.sum()) + float(H.square().sum()), 0.0)
            allowed = goal.tolerance(known)
            wanted = (
                2 * student(goal.confidence, LEAST) ** 2 * left / allowed**2 if allowed > 0 else float("inf")
            )
            cost = 2 * sketch.size + max(wanted, LEAST)
            if cost >= before:
                break
            before = cost
    return known
