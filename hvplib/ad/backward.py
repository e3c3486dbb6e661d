"""One backward pass, handed to autograd's engine as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, _engine_run_backward

__all__ = ["materialized", "pulled_back"]


def pulled_back(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor | GradientEdge],
    cotangents: Sequence[Tensor],
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """(∂ outputs / ∂ inputs)ᵀ cotangents, None for an input that no output depends on.

    What `torch.autograd.grad` does with tensors. That function first imports torch's symbolic shapes, which
    takes as long as a thousand small products, and holds shapes against each other with them at each call;
    the engine itself does so too.
    """
    pulled: tuple[Tensor | None, ...] = _engine_run_backward(
        tuple(outputs),
        tuple(cotangents),
        retain_graph or create_graph,
        create_graph,
        tuple(inputs),
        allow_unreachable=True,
        accumulate_grad=False,
    )
    return pulled


def materialized(pulled: Sequence[Tensor | None], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Zeros in the place of None."""
    return tuple(torch.zeros_like(x) if p is None else p for p, x in zip(pulled, inputs, strict=True))
