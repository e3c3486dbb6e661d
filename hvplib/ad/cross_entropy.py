"""Cross entropy by rows, some at a time: second derivatives with one array like the logits, not eight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["OWN", "RowByRow", "row_losses"]

# Bytes of the logits that are worked on at once.
_CHUNK = 8 * 2**20
_DTYPES = (torch.float32, torch.float64)


class RowByRow(TorchFunctionMode):
    """While it is active, `F.cross_entropy` on class indices computes the same, with little memory.

    torch's own keeps the logarithms of the softmax, and its second derivative takes several arrays of their
    size; with a vocabulary of 50 000 they are what does not fit. What this does not cover (probabilities as
    targets, label smoothing, half precision) goes to torch.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.cross_entropy:
            names = ("input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction")
            given = dict(zip((*names, "label_smoothing"), args, strict=False)) | kwargs
            if _covered(given):
                return _cross_entropy(given)
        return func(*args, **kwargs)


def _covered(given: dict[str, Any]) -> bool:
    z, target = given["input"], given["target"]
    return (
        z.dtype in _DTYPES
        and z.dim() >= 2
        and target.dim() == z.dim() - 1
        and not target.is_floating_point()
        and not given.get("label_smoothing")
        and given.get("size_average") is None
        and given.get("reduce") is None
    )


def _cross_entropy(given: dict[str, Any]) -> Tensor:
    z, target = given["input"], given["target"]
    classes = z.shape[1]
    counted = target != given.get("ignore_index", -100)
    target = target * counted
    losses: Tensor = row_losses(z.movedim(1, -1).reshape(-1, classes), target.reshape(-1)).view(target.shape)
    weight = given.get("weight")
    terms = counted.to(z.dtype) if weight is None else weight[target] * counted
    losses = losses * terms
    reduction = given.get("reduction", "mean")
    if reduction == "none":
        return losses
    total = losses.sum()
    return total / terms.sum() if reduction == "mean" else total


def row_losses(z: Tensor, target: Tensor) -> Tensor:
    """log Σ_j exp z_ij − z_{i, target_i} for each row i of z (m, n)."""
    losses: Tensor = _Losses.apply(z, target)  # type: ignore[no-untyped-call]
    return losses


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor, target: Tensor) -> Tensor:
        losses = z.new_empty(z.shape[0])
        for rows in _chunks(z):
            chosen = z[rows].gather(1, target[rows].unsqueeze(1)).squeeze(1)
            losses[rows] = z[rows].logsumexp(1) - chosen
        return losses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return _Gradients.apply(*ctx.saved_tensors, cotangent), None  # type: ignore[no-untyped-call]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        z, target = ctx.saved_tensors
        pushed: Tensor = z.new_empty(z.shape[0])
        for rows in _chunks(z):
            pushed[rows] = _sloped(z[rows], target[rows], tangent[rows])[1]
        return pushed


class _Gradients(torch.autograd.Function):
    """c_i (p_i − e_{target_i}), with p_i the softmax of row i."""

    @staticmethod
    def forward(z: Tensor, target: Tensor, cotangent: Tensor) -> Tensor:
        gradients = torch.empty_like(z)
        for rows in _chunks(z):
            part = torch.softmax(z[rows], 1, out=gradients[rows])
            part.scatter_add_(1, target[rows].unsqueeze(1), part.new_full((part.shape[0], 1), -1.0))
            part.mul_(cotangent[rows].unsqueeze(1))
        return gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor, None, Tensor]:
        z, target, cotangent = ctx.saved_tensors
        products, slopes = torch.empty_like(z), torch.empty_like(cotangent)
        for rows in _chunks(z):
            p, slopes[rows] = _sloped(z[rows], target[rows], tangent[rows])
            centred = tangent[rows] - (p * tangent[rows]).sum(1, keepdim=True)
            torch.mul(p.mul_(cotangent[rows].unsqueeze(1)), centred, out=products[rows])
        return products, None, slopes


def _sloped(z: Tensor, target: Tensor, tangent: Tensor) -> tuple[Tensor, Tensor]:
    """p, and ⟨p_i − e_{target_i}, tangent_i⟩ for each row."""
    p = torch.softmax(z, 1)
    chosen = tangent.gather(1, target.unsqueeze(1)).squeeze(1)
    return p, (p * tangent).sum(1) - chosen


def _chunks(z: Tensor) -> Iterator[slice]:
    count = max(1, _CHUNK // max(1, z.shape[1] * z.element_size()))
    for start in range(0, z.shape[0], count):
        yield slice(start, min(start + count, z.shape[0]))


# Names that these functions have in a graph: of these the derivatives are known.
OWN = frozenset({_Losses.__name__, _Gradients.__name__})
