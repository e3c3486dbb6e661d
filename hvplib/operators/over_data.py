"""What operators over data have in common: the point, the sum over batches, the weights, the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hvplib.ad.inputs import flatten_primals
from hvplib.ad.report import Report
from hvplib.operators.base import Operator
from hvplib.operators.batches import BatchSum, Budget, MayKeep, Term
from hvplib.operators.data import check_data, example_count
from hvplib.space import Space

__all__ = ["DataOperator", "DataOptions", "LossOperator", "OverBatches", "copied", "loss_and_weight"]
__all__ += ["no_bar", "progress_bar"]

Linearize = Callable[[Any, tuple[Any, ...], int, bool, Tensor | None, MayKeep], Term]


@dataclass(frozen=True)
class DataOptions:
    """The options that every operator over data has, checked; see `hvplib.HessianOperator`."""

    data: Iterable[Any] | None
    weight: Callable[[Any], Any] | None
    reduction: Literal["mean", "sum"]
    verify: bool
    check_deterministic: bool
    memory_budget: Budget
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        check_data(self.data)
        _check_options(self.data, self.weight, self.reduction, self.memory_budget, self.seed)


class OverBatches(Operator):
    """An operator made of the terms of a `BatchSum`."""

    _sum: BatchSum

    @property
    def report(self) -> Report | None:
        """How products are computed, and the checks that the way has passed."""
        return self._sum.report

    @property
    def num_batches(self) -> int:
        """How many batches there are."""
        return self._sum.num_batches

    @property
    def num_kept(self) -> int:
        """How many batches stay differentiated from product to product."""
        return self._sum.num_kept


class DataOperator(OverBatches):
    """x ↦ Σ_b w_b A_b x / Σ_b w_b over mini-batches b, or Σ_b A_b x.

    Args:
        linearize: From (primals, arguments (batch,) or (), index, whether to verify, the value if it is
            known, whether so many more bytes may be kept) to the batch's `Term`.
        primals: The point; it is copied.
        options: Of the data.
        noisy_modules: Names of what is noisy in the function.
        positive_semidefinite: Whether each term is.
        with_gradient: As for `BatchSum`.

    Attributes:
        primals: The copy of the point.
        notes: What a user may want to know of a module: which of its parts are noisy in their present mode.
        total_weight: Σ_b w_b.
    """

    def __init__(
        self,
        linearize: Linearize,
        primals: Any,
        options: DataOptions,
        *,
        noisy_modules: list[str],
        positive_semidefinite: bool = False,
        with_gradient: bool = True,
    ) -> None:
        leaves, spec = flatten_primals(primals)
        leaves = [copied(leaf) for leaf in leaves]
        space = Space.like(spec, leaves)
        self.primals = space.structure.tree(leaves)
        super().__init__(
            (space.size, space.size),
            space.dtype,
            space.device,
            symmetric=True,
            positive_semidefinite=positive_semidefinite,
            domain=space,
        )
        self._options = options
        point = self.primals
        self._sum = BatchSum(
            lambda *term: linearize(point, *term),
            options.data,
            space=space,
            memory_budget=options.memory_budget,
            verify=options.verify,
            check_deterministic=options.check_deterministic,
            seed=options.seed,
            suspect=f"the loss, perhaps through {', '.join(noisy_modules)},"
            if noisy_modules
            else "the function itself",
            bar=progress_bar if options.progress else no_bar,
            with_gradient=with_gradient,
        )
        self.notes = tuple(
            f"{name} keeps one noise, or the statistics of each batch" for name in noisy_modules
        )
        self.total_weight = self._sum.total_weight
        self._divisor = self.total_weight if options.reduction == "mean" else 1.0

    def _matmat_torch(self, X: Tensor) -> Tensor:
        return self._divided(self._sum.product(X))

    def _matvec_torch(self, x: Tensor) -> Tensor:
        return self._divided(self._sum.vector(x))

    def _tree_matvec_torch(self, x: Any) -> Any:
        assert self.domain is not None
        only = self._sum.only if self.domain.uniform and self._divisor == 1.0 else None
        return super()._tree_matvec_torch(x) if only is None else only.hvp(x)

    def _divided(self, total: Tensor) -> Tensor:
        return total if self._divisor == 1.0 else total.div_(self._divisor)

    def _options_elsewhere(self) -> dict[str, Any]:
        """The options for the same function at another point: what was proven is not proven again."""
        return {**vars(self._options), "verify": self._sum.verify_again, "check_deterministic": False}


class LossOperator(DataOperator):
    """An operator that belongs to a loss, whose value and gradient it has."""

    @property
    def value(self) -> Tensor:
        """f(x), 0-d."""
        return self._sum.value / self._divisor

    @property
    def flat_gradient(self) -> Tensor:
        """∇f(x) as a vector (n,)."""
        return self._sum.gradient / self._divisor

    @property
    def gradient(self) -> Any:
        """∇f(x), a pytree like x."""
        assert self.domain is not None
        return self.domain.unflatten(self.flat_gradient)


def loss_and_weight(
    func: Callable[..., Any],
    weight: Callable[[Any], Any] | None,
    reduction: str,
    arguments: tuple[Any, ...],
    *primals: Any,
) -> tuple[Any, Any]:
    """The value of one batch and its weight, from whichever of the three sources there is."""
    output = func(*primals, *arguments)
    returned = None
    if type(output) is tuple and len(output) == 2:
        output, returned = output
    if returned is not None and (weight is not None or reduction == "sum"):
        raise ValueError(
            'the loss returns a weight, which a sum (reduction="sum") has no use for; return the loss alone'
            if reduction == "sum"
            else "the loss returns a weight and weight= gives another; keep one of them"
        )
    if reduction == "sum" or not arguments:
        return output, 1.0
    if returned is None:
        returned = example_count(arguments[0]) if weight is None else weight(arguments[0])
    return output, returned


def _check_options(data: Any, weight: Any, reduction: Any, memory_budget: Any, seed: Any) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {reduction!r}')
    if weight is not None and not callable(weight):
        raise TypeError(f"weight must be a function of a batch, got {type(weight).__name__}")
    if weight is not None and (data is None or reduction == "sum"):
        raise ValueError('weight is for means over data; leave it out without data or with reduction="sum"')
    counted = isinstance(memory_budget, int) and memory_budget >= 0
    shared = isinstance(memory_budget, float) and 0 <= memory_budget <= 1
    if memory_budget != "auto" and not (counted or shared):
        raise ValueError(
            'memory_budget must be "auto", a number of bytes (an int) or a share of the free memory (a float '
            f"up to 1), got {memory_budget!r}"
        )
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be a non-negative integer, got {seed!r}")


def copied(leaf: Tensor) -> Tensor:
    """A tensor of its own with the same numbers."""
    with torch.no_grad():
        return leaf.detach().clone(memory_format=torch.contiguous_format)


def progress_bar(items: Iterable[Any], description: str, total: int | None) -> Iterable[Any]:
    """The items, with a bar that shows how far they are."""
    from hvplib.progress import bar

    return bar(items, description, total)


def no_bar(items: Iterable[Any], _description: str, _total: int | None) -> Iterable[Any]:
    """The items as they are."""
    return items
