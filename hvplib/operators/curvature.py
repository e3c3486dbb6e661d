"""Curvature of a function or of a loss over data, as operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from hvplib.ad.derivatives import Derivatives
from hvplib.ad.inputs import Engines, check_engine, check_strategy, flatten_primals
from hvplib.ad.modules import Selection, functional_loss
from hvplib.ad.objective import Objective
from hvplib.operators.batches import Budget, MayKeep, Term
from hvplib.operators.noise import seeded
from hvplib.operators.over_data import DataOptions, LossOperator, loss_and_weight

__all__ = ["HessianOperator"]


class HessianOperator(LossOperator):
    """v ↦ ∇²f(x) v, where f is a function, or the mean of a loss over mini-batches.

    With data, f = Σ_b w_b f_b / Σ_b w_b over the batches b, whose losses f_b are means. The weight w_b is
    what the loss returns beside its value (say the number of valid tokens), or `weight(batch)`, or the number
    of examples (the leading dimension of the batch's first tensor). So uneven batches give the same Hessian
    as one batch.

    The point is copied: what happens to x later does not change the operator. The gradient of each batch is
    computed once, with its graph, and a product is one backward pass through it, as long as the graphs fit
    into `memory_budget`; the remaining batches are differentiated anew at each pass over the data.

    Random numbers that the loss or the loader draws from the global generators (dropout, shuffling,
    augmentation) are fixed by `seed`, a different noise for each batch and the same at each pass: the
    operator is symmetric and the same at each product, and the user's generators do not move.

    Args:
        func: func(x), or func(x, batch) with data; for a tuple x, func(*x) or func(*x, batch). Returns a real
            scalar tensor, or with data (scalar, weight of the batch).
        primals: x, a pytree of floating point tensors or a tuple of them.
        data: Batches of any structure: a list, a DataLoader, or anything else that can be iterated again and
            again. None for a function without data.
        weight: Function of a batch that gives its weight, if the loss returns none.
        reduction: "mean" as above; "sum" for f = Σ_b f_b, without weights.
        strategy: How products are computed; see `hvplib.hvp`.
        verify: Whether to check the first products, at the cost of about ten gradients of the first batch.
        check_deterministic: Whether to make sure that the function and the data are the same at each call:
            costs one gradient of the first batch, and reading the first two batches again.
        memory_budget: Bytes for the batches that stay differentiated, or a share of the free memory as a
            float; "auto" is 0.5.
        seed: Seed of all noise.
        progress: Whether to show a bar for passes over the data (needs tqdm).
        engine: What multiplies; see `hvplib.local_model`. What is recorded serves all batches of the same
            shapes, and the operators at other points made by `at`.

    Attributes:
        value: f(x), 0-d tensor.
        gradient: ∇f(x), a pytree like x.
        flat_gradient: The same as a vector (n,).
        primals: The copy of x.
        report: How products are computed, and the checks that the way has passed.
        notes: What a user may want to know of a module: which of its parts are noisy in their present mode.
        num_batches, num_kept: How many batches there are, and how many stay differentiated.
        total_weight: Σ_b w_b.

    Raises:
        DerivativeError: No way of multiplying stands up to the checks.
        RuntimeError: The function or the data are not the same when asked again.
        TypeError, ValueError: An argument is not as described; the message says what to do.

    Example:
        >>> import torch
        >>> rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> H = HessianOperator(rosenbrock, torch.ones(2, dtype=torch.float64))
        >>> H @ torch.tensor([1.0, 0.0], dtype=torch.float64)
        tensor([ 802., -400.], dtype=torch.float64)
        >>> from scipy.sparse.linalg import eigsh
        >>> eigsh(H, k=1, return_eigenvectors=False).round(2)
        array([1001.6])
    """

    def __init__(
        self,
        func: Callable[..., Any],
        primals: Any,
        data: Iterable[Any] | None = None,
        *,
        weight: Callable[[Any], Any] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        strategy: str = "auto",
        verify: bool = True,
        check_deterministic: bool = True,
        memory_budget: Budget = "auto",
        seed: int = 0,
        progress: bool = False,
        engine: Engines = "auto",
        _derivatives: Derivatives | None = None,
    ) -> None:
        check_strategy(strategy)
        check_engine(engine)
        self._function = partial(_of_batch, func, weight, reduction)
        # Shared with the operators at other points, so that what is recorded of func serves there too.
        self._derivatives = _derivatives or Derivatives(self._function, strategy, engine)
        options = DataOptions(
            data, weight, reduction, verify, check_deterministic, memory_budget, seed, progress
        )
        super().__init__(
            partial(_linearize, self._derivatives, seed),
            primals,
            options,
            noisy_modules=getattr(func, "noisy_modules", list)(),
        )
        # The operator of the same function at another point; holds nothing of this one.
        self._elsewhere: Callable[..., HessianOperator] = partial(
            cast(Any, type(self)),
            func,
            _derivatives=self._derivatives,
            strategy=strategy,
            engine=engine,
            **self._options_elsewhere(),
        )

    @classmethod
    def from_module(
        cls,
        model: nn.Module,
        loss: Callable[..., Any],
        data: Iterable[Any] | None = None,
        *,
        params: Selection = None,
        **options: Any,
    ) -> HessianOperator:
        """The Hessian of a module's loss with respect to its parameters, as they are now.

        The module is left as it is: parameters, buffers, `.grad`, hooks, mode and random numbers. Pytrees are
        dicts from the parameters' names.

        Args:
            model: The module, in the mode (train or eval) that is wanted.
            loss: loss(model, batch), or loss(model) without data, which returns a scalar or (scalar, weight);
                or a loss module of torch.nn, for batches (x, y).
            data: As for `HessianOperator`.
            params: Which parameters: None (those that require grad), names, glob patterns, compiled regular
                expressions, layers, a list of these, or a predicate (name, parameter) → bool; see
                `functional_loss`.
            options: As for `HessianOperator`.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(3, 2)
            >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
            >>> batches = [(x[:4], y[:4]), (x[4:], y[4:])]
            >>> H = HessianOperator.from_module(model, torch.nn.CrossEntropyLoss(), batches, params="bias")
            >>> H.shape, (H @ {"bias": torch.ones(2)})["bias"].abs().max() < 1e-6
            ((2, 2), tensor(True))
        """
        func, theta = functional_loss(model, loss, params, copy=False)
        reduction = options.get("reduction", "mean")
        if func.reduction not in (None, reduction):
            raise ValueError(f'the loss has reduction="{func.reduction}"; pass the operator the same')
        return cls(func, theta, data, **options)

    def value_at(self, primals: Any) -> Tensor:
        """f at another point, 0-d, by a pass over the data without derivatives, with the products' own noise.

        Args:
            primals: The point, like the present one.
        """
        leaves, spec = flatten_primals(primals)
        assert self.domain is not None
        if self.domain.kind(primals) != "vector":
            raise ValueError("primals must be like the operator's own point: the same structure and shapes")
        total, weights = torch.zeros((), dtype=torch.float64), 0.0
        for index, arguments in enumerate(self._sum.batches()):
            with seeded(self._options.seed, index), torch.no_grad():
                objective = Objective(self._function(arguments), spec, has_aux=True)
                with objective.session():
                    value = objective([leaf.detach() for leaf in leaves], "plain")
            weight = float(objective.aux)
            if weight:  # a batch of weight 0 counts for nothing, even where its loss is not a number
                total += weight * value.to(total)
                weights += weight
        return (total / (weights if self._options.reduction == "mean" else 1.0)).to(self.value)

    def at(self, primals: Any, **changes: Any) -> HessianOperator:
        """The Hessian of the same function at another point.

        What was proven of the function is not proven again.

        Args:
            primals: The point, like the present one.
            changes: Options that are to differ, as for `HessianOperator`.
        """
        return self._elsewhere(primals, **changes)


def _linearize(
    derivatives: Derivatives,
    seed: int,
    primals: Any,
    arguments: tuple[Any, ...],
    index: int,
    verify: bool,
    value: Tensor | None,
    _may_keep: MayKeep,
) -> Term:
    return derivatives.local_model(
        primals, arguments, verify=verify, value=value, noise=partial(seeded, seed, index)
    )


def _of_batch(
    func: Callable[..., Any],
    weight: Callable[[Any], Any] | None,
    reduction: str,
    arguments: tuple[Any, ...],
) -> Callable[..., Any]:
    return partial(loss_and_weight, func, weight, reduction, arguments)
