"""The loss of a model on pairs (x, y), with the weight that makes uneven batches count right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

__all__ = ["Supervised", "beside", "number_of_terms", "pair", "supervised"]


def supervised(criterion: Callable[[Any, Any], Tensor]) -> Supervised:
    """(model, (x, y)) ↦ criterion(model(x), y), a loss for `HessianOperator.from_module`.

    For the losses of torch.nn with reduction="mean", the weight of a batch is returned beside its loss: the
    number of terms that the mean is taken over. These are the targets other than `ignore_index` for
    `CrossEntropyLoss` and `NLLLoss` (the sum of their class weights, where there are any), and all numbers
    for elementwise losses such as `MSELoss`. For any other criterion the batch counts by its number of
    examples.

    Tensors x and y are moved to the device of the model's first parameter.

    Args:
        criterion: Function or loss module of (output, target), a mean over the batch; with reduction="sum",
            say so to the operator as well: `HessianOperator.from_module(..., reduction="sum")`.

    Example:
        >>> import torch
        >>> loss = supervised(torch.nn.CrossEntropyLoss(ignore_index=-1))
        >>> model = torch.nn.Linear(2, 3)
        >>> value, weight = loss(model, (torch.ones(4, 2), torch.tensor([0, 1, -1, 2])))
        >>> int(weight)
        3
    """
    return Supervised(criterion)


class Supervised:
    """The loss made by `supervised`; `reduction` is that of the criterion, where it has one."""

    def __init__(self, criterion: Callable[[Any, Any], Tensor]) -> None:
        if not callable(criterion):
            raise TypeError(f"criterion must be a function of (output, target), got {criterion!r}")
        self.criterion = criterion
        self.reduction: str | None = None
        reduction = getattr(criterion, "reduction", None)
        if reduction == "none":
            raise ValueError('criterion must return a scalar, but has reduction="none"; use "mean" or "sum"')
        if isinstance(reduction, str):
            self.reduction = "sum" if reduction == "sum" else "mean"

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """The value, or (value, weight) where the number of terms of the mean is known."""
        x, y = (beside(next(iter(model.parameters()), None), part) for part in pair(batch, _REMEDY))
        value = self.criterion(model(x), y)
        weight = number_of_terms(self.criterion, y) if self.reduction == "mean" else None
        return value if weight is None else (value, weight)


# Their mean is taken over every number of the target.
_ELEMENTWISE = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
    nn.SoftMarginLoss,
)


def number_of_terms(criterion: Any, target: Any) -> Tensor | float | None:
    """What the mean of `criterion` divides by; None where only the number of examples is known."""
    if isinstance(criterion, _ELEMENTWISE):
        return float(target.numel())
    if not isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss):
        return None
    if target.is_floating_point():  # class probabilities: a mean over examples and positions, weighted or not
        return float(target.numel() / target.shape[min(target.dim() - 1, 1)])
    counted = target != criterion.ignore_index
    terms: Tensor = counted if criterion.weight is None else criterion.weight[target * counted] * counted
    return terms.sum()


_REMEDY = "supervised expects batches (x, y), got {}; write a loss(model, batch) for other batches"


def pair(batch: Any, remedy: str) -> tuple[Any, Any]:
    """x and y of a batch (x, y); `remedy` is the message for any other, with a place for what it is."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"{len(batch)} items" if isinstance(batch, tuple | list) else type(batch).__name__
        raise TypeError(remedy.format(got))
    return batch[0], batch[1]


def beside(tensor: Tensor | None, part: Any) -> Any:
    """A part of a batch, on the device of a tensor if it is one too."""
    return part.to(tensor.device) if isinstance(part, Tensor) and tensor is not None else part
