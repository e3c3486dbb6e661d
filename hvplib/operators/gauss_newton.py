"""The generalised Gauss-Newton matrix of a function of outputs, over data, as an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast

from torch import Tensor, nn

from hvplib.ad.gauss_newton import GaussNewtonModel
from hvplib.ad.modules import Selection
from hvplib.operators.batches import Budget, MayKeep, Term
from hvplib.operators.module_parts import model_outputs, outer_loss
from hvplib.operators.noise import seeded
from hvplib.operators.over_data import DataOptions, LossOperator, loss_and_weight

__all__ = ["GGNOperator"]


class GGNOperator(LossOperator):
    """v ↦ Jᵀ ∇²ℓ(z) J v: the generalised Gauss-Newton matrix of ℓ(z(x)), J the Jacobian of the outputs z.

    Of the Hessian Jᵀ ∇²ℓ(z) J + Σ_i ∂ℓ/∂z_i ∇²z_i it is the first part: the curvature of the loss with the
    model taken as linear. It is positive semidefinite where ℓ is convex in z, whatever the model. ∇²ℓ is
    multiplied with exactly, for any twice differentiable ℓ. Over data it is the weighted mean of the batches'
    matrices, as for `HessianOperator`, whose treatment of weights, noise, copies and memory this shares.

    ℓ must depend on x through z alone: what else it depends on counts as a constant (leave an L2 penalty out
    and pass the damping to the solver).

    What does not fit into `memory_budget` is computed with the memory of one gradient and no array larger
    than z: a forward pass in forward mode, then a gradient. `F.cross_entropy` is then evaluated some rows at
    a time, so that vocabularies of 50 000 fit. `memory_budget=0` always does so.

    Args:
        model_func: z(x), or z(x, batch) with data; for a tuple x, z(*x) or z(*x, batch). Returns a pytree of
            tensors.
        loss_func: ℓ(z), or ℓ(z, batch) with data. Returns a real scalar, a mean over what is weighted, or
            with data (scalar, weight of the batch).
        primals: x, a pytree of floating point tensors or a tuple of them.
        data: As for `HessianOperator`.
        positive_semidefinite: Whether to declare the operator so, as is right for a loss that is convex in z.
            A curvature of ℓ along a direction J v that is negative beyond rounding, and that differences of ℓ
            bear out, then raises an error. False declares a symmetric operator and checks nothing.
        weight, reduction, verify, check_deterministic, memory_budget, seed, progress: As for
            `HessianOperator`.

    Attributes:
        value, gradient, flat_gradient: Of the loss at x. The gradient takes a pass over the data when it is
            first read.
        primals, report, notes, num_batches, num_kept, total_weight: As for `HessianOperator`.

    Raises:
        NotConvexError: (a ValueError, from a product) ℓ was seen not to be convex.
        DerivativeError: No way of multiplying stands up to the checks.
        RuntimeError, TypeError, ValueError: As for `HessianOperator`.

    Source: N. N. Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent,
    10.1162/08997660260028683.

    Example:
        >>> import torch
        >>> def model(x):
        ...     return torch.stack([x[0] * x[1], x[1] ** 2])
        >>> G = GGNOperator(model, lambda z: (z**2).sum(), torch.tensor([1.0, 2.0], dtype=torch.float64))
        >>> G.to_dense()  # 2 JᵀJ with J = [[2, 1], [0, 4]]
        tensor([[ 8.,  4.],
                [ 4., 34.]], dtype=torch.float64)
    """

    def __init__(
        self,
        model_func: Callable[..., Any],
        loss_func: Callable[..., Any],
        primals: Any,
        data: Iterable[Any] | None = None,
        *,
        positive_semidefinite: bool = True,
        weight: Callable[[Any], Any] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        verify: bool = True,
        check_deterministic: bool = True,
        memory_budget: Budget = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        options = DataOptions(
            data, weight, reduction, verify, check_deterministic, memory_budget, seed, progress
        )
        super().__init__(
            partial(_linearize, model_func, loss_func, positive_semidefinite, options, set()),
            primals,
            options,
            noisy_modules=getattr(model_func, "noisy_modules", list)(),
            positive_semidefinite=positive_semidefinite,
            with_gradient=False,
        )
        self._elsewhere: Callable[..., GGNOperator] = partial(
            cast(Any, type(self)),
            model_func,
            loss_func,
            positive_semidefinite=positive_semidefinite,
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
        forward: Callable[..., Any] | None = None,
        **options: Any,
    ) -> GGNOperator:
        """The Gauss-Newton matrix of a module's loss with respect to its parameters, as they are now.

        The module is left as it is: parameters, buffers, `.grad`, hooks, mode and random numbers. Pytrees are
        dicts from the parameters' names.

        Args:
            model: The module, in the mode (train or eval) that is wanted.
            loss: loss(outputs, batch), which returns a scalar or (scalar, weight); or a loss module of
                torch.nn, for batches (x, y). Without data, loss(outputs).
            data: As for `HessianOperator`.
            params: As for `HessianOperator.from_module`.
            forward: forward(model, batch), which returns the outputs; model(x) for batches (x, y) if None.
                Without data, forward(model).
            options: As for `GGNOperator`.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(3, 2)
            >>> x, y = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
            >>> batches = [(x[:4], y[:4]), (x[4:], y[4:])]
            >>> GGNOperator.from_module(model, torch.nn.CrossEntropyLoss(), batches)
            <8x8 positive semidefinite GGNOperator with dtype=float32>
        """
        outer = outer_loss(loss, options.get("reduction", "mean"))
        func, theta = model_outputs(model, params, forward)
        return cls(func, outer, theta, data, **options)

    def at(self, primals: Any, **changes: Any) -> GGNOperator:
        """The Gauss-Newton matrix of the same function at another point.

        What was proven of the function is not proven again.

        Args:
            primals: The point, like the present one.
            changes: Options that are to differ, as for `GGNOperator`.
        """
        return self._elsewhere(primals, **changes)


def _linearize(
    model_func: Callable[..., Any],
    loss_func: Callable[..., Any],
    convex: bool,
    options: DataOptions,
    proven: set[str],
    primals: Any,
    arguments: tuple[Any, ...],
    index: int,
    _verify: bool,
    _value: Tensor | None,
    may_keep: MayKeep,
) -> Term:
    def loss(z: Any, _anchor: Any) -> Any:
        return loss_and_weight(loss_func, options.weight, options.reduction, arguments, z)

    with seeded(options.seed, index):
        return GaussNewtonModel(
            lambda *at: model_func(*at, *arguments),
            loss,
            primals,
            convex=convex,
            anchored=False,
            verify=options.verify,
            may_keep=may_keep,
            proven=proven,
        )
