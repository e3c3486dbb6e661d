"""Loss functions rebuilt from parts that torch differentiates correctly to second order.

Every function here has the signature and the value of the function of ``torch.nn.functional`` (``F``) that it
replaces.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "binary_cross_entropy",
    "huber_loss",
    "linear_cross_entropy",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "reduced",
    "soft_margin_loss",
]


def reduced(
    loss: Tensor,
    reduction: str,
    size_average: bool | None = None,
    reduce: bool | None = None,
) -> Tensor:
    """The reduction by name, or by torch's two legacy flags (which win where either is given)."""
    if size_average is not None or reduce is not None:
        averaged, reduced_at_all = (flag is None or flag for flag in (size_average, reduce))
        reduction = "none" if not reduced_at_all else "mean" if averaged else "sum"
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ValueError(f"{reduction} is not a valid value for reduction; expected 'none', 'mean' or 'sum'")


def _broadcast(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if target.size() != input.size():
        warnings.warn(
            f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            stacklevel=3,
        )
    first, second = torch.broadcast_tensors(input, target)  # type: ignore[no-untyped-call]
    return first, second


def _rows(scores: Tensor) -> Tensor:
    """``(N, C)`` of ``(N, C)``, ``(C,)`` or, as torch reads it, one score of one class."""
    return scores if scores.dim() == 2 else scores.reshape(1, -1)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""$(x - y)^2$, reduced (``torch.nn.functional.mse_loss``).

    With ``reduction="mean"`` and a constant target torch's forward over reverse raises (ZeroTensors are
    immutable): the mean is taken outside of the kernel.

    Args:
        input: ``x``, any shape.
        target: ``y``, broadcast with ``x``.
        size_average: Legacy flag.
        reduce: Legacy flag.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weights shaped like ``x``; the mean is then the weighted one.

    Returns:
        0-d, or the broadcast shape for ``"none"``.
    """
    if weight is not None:
        return F.mse_loss(input, target, size_average, reduce, reduction, weight)  # type: ignore[call-arg]
    first, second = _broadcast(input, target)
    return reduced(F.mse_loss(first, second, reduction="none"), reduction, size_average, reduce)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""$\tfrac12 d^2$ where $d = |x - y| < \delta$, else $\delta (d - \tfrac12 \delta)$, reduced.

    Replaces ``torch.nn.functional.huber_loss``, which has no forward formula for its backward.

    Args:
        input: ``x``, any shape.
        target: ``y``, broadcast with ``x``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        delta: Where the parabola ends, positive.
        weight: Weights shaped like ``x``.

    Returns:
        0-d, or the broadcast shape for ``"none"``.
    """
    if delta <= 0 or (weight is not None and weight.size() != input.size()):
        return F.huber_loss(input, target, reduction, delta, weight)  # type: ignore[call-arg]  # raises
    first, second = _broadcast(input, target)
    difference = first - second
    size = difference.abs()
    loss = torch.where(size < delta, 0.5 * difference * difference, delta * (size - 0.5 * delta))
    return reduced(loss if weight is None else loss * weight, reduction)


def _log(x: Tensor) -> Tensor:
    r"""$\max(\log x, -100)$: a constant where it is cut off, without the infinities of the other branch."""
    cut = (x >= 0) & (x <= math.exp(-100))
    return torch.where(cut, -100, torch.where(cut, 1, x).log())


def _log_of_complement(x: Tensor) -> Tensor:
    r"""$\max(\log(1 - x), -100)$. Of what is below 1, the complement is far above $e^{-100}$."""
    cut = x == 1
    return torch.where(cut, -100, torch.where(cut, 0, -x).log1p())


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""$-y \log p - (1 - y) \log(1 - p)$, reduced (``F.binary_cross_entropy``).

    Logarithms below -100 are -100, as in torch's kernel. That adds 1e-12 to $p (1 - p)$ in its second
    derivative, and bounds it by 1e-12 in the first: relative to the value's derivatives they are off by
    1e-12 / p (1 - p), and both are 0 at $p = y = 1$ where they are -1 and 1.

    Args:
        input: ``p``, probabilities, any shape.
        target: ``y``, shaped like ``p``, between 0 and 1.
        weight: Weights of the losses, broadcast to the shape of ``p``.
        size_average: Legacy flag.
        reduce: Legacy flag.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or shaped like ``p`` for ``"none"``.
    """
    # Raises torch's own errors, of the shapes and of what is no probability.
    F.binary_cross_entropy(input.detach(), target.detach(), None if weight is None else weight.detach())
    loss = (target - 1) * _log_of_complement(input) - target * _log(input)
    return reduced(loss if weight is None else loss * weight, reduction, size_average, reduce)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""$\log(1 + e^{-y x})$, reduced (``F.soft_margin_loss``, whose backward has no forward formula).

    Written as $\max(z, 0) + \log(1 + e^{-|z|})$ with $z = -y x$: it keeps its relative accuracy where the
    loss is tiny, and does not overflow where torch's kernel returns infinity.

    Args:
        input: ``x``, any shape.
        target: ``y``, of 1 and -1, broadcast to ``x``.
        size_average: Legacy flag.
        reduce: Legacy flag.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or shaped like ``x`` for ``"none"``.
    """
    if torch.broadcast_shapes(input.shape, target.shape) != input.shape:  # type: ignore[no-untyped-call]
        return F.soft_margin_loss(input, target)  # raises torch's own error
    exponent = -target * input
    positive = exponent > 0
    # -|z| by a choice of sign, not by abs, whose derivative is 0 at 0.
    tail = torch.where(positive, -exponent, exponent).exp().log1p()
    return reduced(torch.where(positive, exponent, 0) + tail, reduction, size_average, reduce)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""$\frac1C \sum_{c \ne y} w_y \max(0, m - x_y + x_c)^p$, reduced (``F.multi_margin_loss``).

    Torch has neither a forward formula nor a double backward for it.

    Args:
        input: ``x``, ``(N, C)`` or ``(C,)``.
        target: ``y``, ``(N,)``; 0-d or ``(1,)`` for an unbatched input.
        p: 1 or 2.
        margin: ``m``.
        weight: ``w``, ``(C,)``.
        size_average: Legacy flag.
        reduce: Legacy flag.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or shaped like ``target`` for ``"none"``.
    """
    if p not in (1, 2) or (weight is not None and weight.dim() != 1) or input.dim() > 2:
        return F.multi_margin_loss(
            input, target, p, margin, weight, size_average, reduce, reduction
        )  # raises
    rows, labels = _rows(input), target.reshape(-1)
    if labels.shape[0] != rows.shape[0]:
        return F.multi_margin_loss(input, target)  # raises torch's own error
    column = labels.unsqueeze(1)
    excess = (margin - rows.gather(1, column) + rows).clamp_min(0)
    if p == 2:
        excess = excess * excess
    if weight is not None:
        excess = excess * weight[labels].unsqueeze(1)
    others = torch.ones_like(rows, dtype=torch.bool).scatter(1, column, False)
    loss = torch.where(others, excess, 0).sum(1) / rows.shape[1]
    return reduced(loss.reshape(target.shape), reduction, size_average, reduce)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""$\frac1C \sum_{y \in Y} \sum_{c \notin Y} \max(0, 1 - x_y + x_c)$ (``F.multilabel_margin_loss``).

    Torch has neither a forward formula nor a double backward for it. Needs memory for ``N * C * C`` numbers.

    Args:
        input: ``x``, ``(N, C)`` or ``(C,)``.
        target: The classes ``Y`` of each row, shaped like ``input``; the first -1 ends the list.
        size_average: Legacy flag.
        reduce: Legacy flag.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        0-d, or ``(N,)`` for ``"none"``.
    """
    if input.shape != target.shape or input.dim() > 2:
        return F.multilabel_margin_loss(input, target, size_average, reduce, reduction)  # raises or reshapes
    rows, labels = _rows(input), _rows(target)
    listed = (labels >= 0).to(torch.int64).cumprod(1)
    labels = labels.clamp_min(0)
    wanted = torch.zeros_like(labels).scatter_add(1, labels, listed) > 0
    excess = (1 - rows.gather(1, labels).unsqueeze(2) + rows.unsqueeze(1)).clamp_min(0)
    counted = listed.bool().unsqueeze(2) & ~wanted.unsqueeze(1)
    loss = torch.where(counted, excess, 0).sum((1, 2)) / rows.shape[1]
    return reduced(loss.reshape(input.shape[:-1]), reduction, size_average, reduce)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Tensor:
    r"""Cross entropy of $x W^T + b$ (``torch.nn.functional.linear_cross_entropy``), never chunked.

    The chunked form of torch has no forward formula, and its double backward is wrong without an error.

    Args:
        input: ``x``, ``(N, D)`` or ``(D,)``.
        linear_weight: ``W``, ``(C, ..., D)``.
        target: Classes, or probabilities shaped like the logits.
        linear_bias: ``b``, ``(C, ...)``.
        weight: Weights of the classes, ``(C,)``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        ignore_index: A target that does not count.
        label_smoothing: Between 0 and 1.
        options: How torch splits the work; it does not change the value.

    Returns:
        0-d, or one loss for each target for ``"none"``.
    """
    return F.linear_cross_entropy(
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        reduction=reduction,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
