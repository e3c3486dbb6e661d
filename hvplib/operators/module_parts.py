"""A module with its loss as two functions: outputs of parameters, and a loss of outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from hvplib.ad.modules import ModuleLoss, Selection, functional_loss
from hvplib.ad.supervised import beside, number_of_terms, pair, supervised

__all__ = ["OutputLoss", "is_criterion", "model_outputs", "outer_loss", "targets_beside"]

_NO_PAIR = "the model is called on x of batches (x, y), got {}; pass forward=, a function of (model, batch)"
_NO_TARGET = "a loss module takes y of batches (x, y), got {}; pass a function loss(outputs, batch)"


class OutputLoss:
    """(outputs, (x, y)) ↦ criterion(outputs, y), with the weight that makes uneven batches count right.

    For `nn.GaussianNLLLoss` the outputs are a pair (mean, variance).
    """

    def __init__(self, criterion: nn.Module) -> None:
        self.criterion = criterion
        self.reduction = supervised(criterion).reduction

    def __call__(self, outputs: Any, batch: Any) -> Any:
        """The value, or (value, weight) where the number of terms of the mean is known."""
        target = targets_beside(outputs, batch)
        if isinstance(self.criterion, nn.GaussianNLLLoss):
            mean, variance = outputs
            value = self.criterion(mean, target, variance)
        else:
            value = self.criterion(outputs, target)
        weight = number_of_terms(self.criterion, target) if self.reduction == "mean" else None
        return value if weight is None else (value, weight)


def is_criterion(loss: Any) -> bool:
    """Whether this is a loss module of torch.nn."""
    return isinstance(loss, nn.modules.loss._Loss)


def targets_beside(outputs: Any, batch: Any) -> Tensor:
    """y of a batch (x, y), on the device of the outputs."""
    y: Tensor = beside(next(iter(tree_leaves(outputs)), None), pair(batch, _NO_TARGET)[1])
    return y


def model_outputs(
    model: nn.Module, params: Selection, forward: Callable[..., Any] | None
) -> tuple[ModuleLoss, dict[str, Tensor]]:
    """(θ, batch) ↦ outputs of the model, and the present θ, in the model's own memory: operators copy it."""
    outputs = _on_inputs if forward is None else partial(_forward, forward)
    return functional_loss(model, outputs, params, copy=False)


def outer_loss(loss: Callable[..., Any], reduction: str) -> Callable[..., Any]:
    """loss(outputs, batch) of what the user gave, once the reductions agree."""
    outer: Any = OutputLoss(loss) if is_criterion(loss) else loss  # type: ignore[arg-type]
    if not callable(outer):
        raise TypeError(f"loss must be a function of (outputs, batch), got {type(loss).__name__}")
    if getattr(outer, "reduction", None) not in (None, reduction):
        raise ValueError(f'the loss has reduction="{outer.reduction}"; pass the operator the same')
    return outer  # type: ignore[no-any-return]


def _on_inputs(model: nn.Module, batch: Any) -> Any:
    return model(beside(next(iter(model.parameters()), None), pair(batch, _NO_PAIR)[0]))


def _forward(forward: Callable[..., Any], model: nn.Module, *batch: Any) -> Any:
    return forward(model, *batch)
