"""The generalised Gauss-Newton matrix of a loss of a model's outputs, at one point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from hvplib.ad.curvature_term import CurvatureTerm, Look, Slope
from hvplib.ad.guard import derivative
from hvplib.ad.jacobian import LocalJacobian
from hvplib.ad.line import compare_curvature
from hvplib.ad.local_model import LocalModel, local_model
from hvplib.ad.outer_loss import OuterLoss
from hvplib.ad.report import Check, Report

__all__ = ["GaussNewtonModel"]

# Arrays like the outputs that the kept graphs hold, about: seeds, softmax, gradients, copies.
_KEPT_OUTPUTS = 6


class GaussNewtonModel(CurvatureTerm):
    """G v = Jᵀ ∇²ℓ(z) J v with z = r(x), J the Jacobian of r, exact for any twice differentiable ℓ.

    Args:
        func: r, a function of the primals that returns a pytree of tensors.
        loss: ℓ(z, anchor), which returns (scalar, aux). The anchor is z again, as a constant.
        primals: x.
        convex: Whether ℓ is taken to be convex: a negative curvature that differences of ℓ bear out is then
            an error.
        anchored: Whether ℓ is a distance to the anchor, whose gradient vanishes: `gradient` is then Jᵀu for a
            fixed u, to tell functions apart.
        verify, may_keep, proven: As for `CurvatureTerm`.

    Source: N. N. Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent,
    10.1162/08997660260028683.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        loss: Callable[[Any, Any], tuple[Any, Any]],
        primals: Any,
        *,
        convex: bool,
        anchored: bool,
        verify: bool,
        may_keep: Callable[[int], bool],
        proven: set[str],
    ) -> None:
        super().__init__(func, primals, verify=verify, may_keep=may_keep, proven=proven)
        self._loss, self._convex, self._anchored = loss, convex, anchored
        self._built: tuple[LocalJacobian, LocalModel] | None = None
        self._loss_custom: tuple[str, ...] = ()
        self._coarse: torch.dtype | None = None

    def _look(self) -> Look:
        with self._frugal.pulled() as pull:
            loss = self._outer(pull.output)
            look = Look(*loss.look())
            self._loss_custom, self._coarse = loss.custom, loss.precision
            return look

    def _slope(self) -> list[Tensor]:
        with self._frugal.pulled() as pull:
            seeds = self._outer(pull.output).gradient()
            return pull.last(_fixed_directions(seeds) if self._anchored else seeds)

    # Frugal.

    def _frugal_products(self, columns: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        if len(columns) > 1:
            with self._frugal.pulled() as pull:
                return [pull(self._curved(pull.output, [self._frugal.push(v)])) for v in columns]
        # Forward first: its arrays are gone when the graph is made.
        pushed = [self._frugal.push(columns[0])]
        with self._frugal.pulled() as pull:
            return [pull.last(self._curved(pull.output, pushed))]

    def _curved(self, z: Any, pushed: list[Any]) -> list[Tensor]:
        """∇²ℓ(z) applied to a pytree like z, which is taken out of its list: the last reference to it."""
        loss = self._outer(z)
        along = tree_leaves(pushed.pop())
        curved = loss.product(along)
        if self._convex:
            numbers = _curvature(along, curved)
            loss.refuse_if_not_convex(along, *numbers.tolist())
        return curved

    def _more_checks(self, v: list[Tensor], slope: Slope, curvature: float) -> list[Check]:
        second = self._against_second_differences(v, curvature)
        return [second] if self._anchored else [self._against_values(self._value_at, v, slope), second]

    def _against_second_differences(self, v: list[Tensor], expected: float) -> Check:
        along = tree_leaves(self._frugal.push(v))
        loss = self._outer(self._frugal.value())
        unit, precision = loss.unit(along), self._precision()
        return compare_curvature(lambda t: loss.value_along(along, t), expected, unit, precision)

    def _value_at(self, leaves: Sequence[Tensor]) -> Tensor:
        with derivative(), torch.enable_grad(), self._func.session():
            z = tree_map(Tensor.detach, self._func.evaluate(leaves, "plain"))
        return torch.tensor(self._outer(z).value(), dtype=torch.float64)

    # Kept.

    def _build(self, verify: bool) -> None:
        jacobian = LocalJacobian(self._func, self._leaves, self._spec, strategy="auto", verify=verify)
        z = jacobian.value
        with self._noise.replayed():
            curvature = local_model(lambda at: self._loss(at, z), (z,), verify=verify, has_aux=True)
        self._built = jacobian, curvature

    def _kept_product(self, X: Tensor) -> Tensor:
        assert self._built is not None
        jacobian, curvature = self._built
        space = jacobian.codomain
        pushed = jacobian.matmat(X)
        if X.shape[1] == 1:
            (curved,) = curvature.hvp((space.unflatten(pushed[:, 0]),))
            flat = space.flatten(curved).unsqueeze(1)
        else:
            (curved,) = curvature.hvp_block((space.unflatten_block(pushed),))
            flat = space.flatten_block(curved)
        if self._convex:
            self._check_columns(jacobian, pushed, flat)
        return jacobian.rmatmat(flat)

    def _check_columns(self, jacobian: LocalJacobian, pushed: Tensor, curved: Tensor) -> None:
        numbers = torch.stack([_curvature([v], [w]) for v, w in zip(pushed.mT, curved.mT, strict=True)])
        for v, (curvature, size) in zip(pushed.mT, numbers.tolist(), strict=True):
            if curvature < 0:
                along = tree_leaves(jacobian.codomain.unflatten(v))
                self._outer(jacobian.value).refuse_if_not_convex(along, curvature, size)

    def _kept_reports(self) -> dict[str, Report]:
        assert self._built is not None
        jacobian, curvature = self._built
        return {"J v": jacobian.report, "the loss": curvature.report}

    def _forget(self) -> None:
        self._built = None

    @property
    def transferable(self) -> bool:
        if self._built is None:
            return not (self._frugal.facts.custom or self._loss_custom)
        jacobian, curvature = self._built
        return jacobian.transferable and curvature.transferable

    def _custom(self) -> bool:
        return bool(self._frugal.facts.custom or self._loss_custom)

    def _kept_bytes(self) -> int:
        space = self._frugal.space
        assert space is not None
        outputs = _KEPT_OUTPUTS * space.size * torch.finfo(space.dtype).bits // 8
        return 2 * self._frugal.graph_nbytes + outputs

    def _precision(self) -> torch.dtype:
        """The coarsest dtype that the model or the loss computes in."""
        ours = super()._precision()
        return ours if self._coarse is None else max(ours, self._coarse, key=lambda t: torch.finfo(t).eps)

    def _outer(self, z: Any) -> OuterLoss:
        return OuterLoss(self._loss, z, self._noise)


def _curvature(along: Sequence[Tensor], curved: Sequence[Tensor]) -> Tensor:
    """⟨v, w⟩ and ‖v‖ ‖w‖ in one tensor (2,), without an array of their size."""
    inner = torch.stack(
        [torch.dot(v.reshape(-1), w.reshape(-1)).double() for v, w in zip(along, curved, strict=True)]
    )
    lengths = [
        torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(x).double() for x in part]))
        for part in (along, curved)
    ]
    return torch.stack([inner.sum(), lengths[0] * lengths[1]])


def _fixed_directions(like: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(z.shape, generator=generator).to(z) for z in like]
