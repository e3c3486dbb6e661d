"""Means over independent random vectors: of zᵀA z, of z ∘ A z, and of ‖A z‖²."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hvplib.estimate.averaged import Callback, averaged
from hvplib.estimate.found import Found, of_mean
from hvplib.estimate.goal import Goal
from hvplib.estimate.probes import Probes
from hvplib.estimate.products import Products

__all__ = ["forms", "hadamard", "sampled", "squares"]

Sample = Callable[[Tensor, Tensor], Tensor]


def forms(Z: Tensor, Y: Tensor) -> Tensor:
    """zᵀy (k,), summed in float64."""
    found: Tensor = torch.linalg.vecdot(Z.double(), Y.double(), dim=0)
    return found.cpu()


def hadamard(Z: Tensor, Y: Tensor) -> Tensor:
    """z ∘ y (k, n)."""
    return (Z * Y).mT


def squares(Z: Tensor, Y: Tensor) -> Tensor:
    """yᵀy (k,), summed in float64."""
    return forms(Y, Y)


def sampled(
    products: Products,
    probes: Probes,
    goal: Goal,
    sample: Sample,
    *,
    block_size: int,
    callback: Callback | None,
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Found:
    """The mean of sample(z, A z), one product each; of prepare(z) in place of z, if given."""

    def draw(count: int) -> Tensor:
        Z = probes.block(count)
        if prepare is not None:
            Z = prepare(Z)
            return sample(Z, products(Z, "samples"))
        return sample(Z, products.of_random(Z, "samples"))

    return of_mean(
        averaged(
            draw,
            goal,
            max_samples=products.left,
            block_size=block_size,
            spent=lambda: products.total,
            bound=products.rounding,
            callback=callback,
        )
    )
