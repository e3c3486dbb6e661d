"""The second moment of scores: Σ_i w_i ∇r_i(x) ∇r_i(x)ᵀ for the terms r_i of a log-likelihood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.cross_entropy import OWN, RowByRow
from hvplib.ad.curvature_term import CurvatureTerm, Look, Slope
from hvplib.ad.guard import derivative
from hvplib.ad.jacobian import LocalJacobian
from hvplib.ad.objective import Objective
from hvplib.ad.report import Check, Report

__all__ = ["ScoreModel"]


class ScoreModel(CurvatureTerm):
    """v ↦ Bᵀ diag(w) B v, with B the Jacobian of a vector r of terms and weights w ≥ 0.

    Args:
        func: r, a function of the primals that returns a vector (m,).
        weights: w (m,).
        primals: x.
        aux: What `aux` is to be: the weight of the batch.
        verify, may_keep, proven: As for `CurvatureTerm`.
    """

    def __init__(
        self,
        func: Callable[..., Tensor],
        weights: Tensor,
        primals: Any,
        *,
        aux: Any,
        verify: bool,
        may_keep: Callable[[int], bool],
        proven: set[str],
    ) -> None:
        def by_rows(*at: Any) -> Tensor:
            with RowByRow():
                return func(*at)

        super().__init__(by_rows, primals, verify=verify, may_keep=may_keep, proven=proven)
        self._terms, self._weights, self._batch_weight = func, weights, aux
        self._built: LocalJacobian | None = None

    def _look(self) -> Look:
        with self._frugal.pulled() as pull:
            return Look(torch.dot(self._weights, pull.output.to(self._weights)), self._batch_weight)

    def _slope(self) -> list[Tensor]:
        with self._frugal.pulled() as pull:
            return pull.last([self._weights.to(pull.output)])

    def _frugal_products(self, columns: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        pushed = [self._frugal.push(v) for v in columns]
        seeds = [u * self._weights.to(u) for u in pushed]
        with self._frugal.pulled() as pull:
            before = [pull(u) for u in seeds[:-1]]
            return [*before, pull.last(seeds[-1:])]

    def _more_checks(self, v: list[Tensor], slope: Slope, curvature: float) -> list[Check]:
        return [self._against_values(self._value_at, v, slope)]

    def _value_at(self, leaves: Sequence[Tensor]) -> Tensor:
        with derivative(), torch.enable_grad(), self._func.session():
            terms = self._func.evaluate(leaves, "plain").detach()
        return torch.dot(self._weights.double(), terms.to(self._weights.device).double())

    def _build(self, verify: bool) -> None:
        # Kept graphs take vectors in blocks, which the operation by rows does not; memory is no matter here.
        objective = Objective(self._terms, self._spec, noise=self._noise)
        self._built = LocalJacobian(objective, self._leaves, self._spec, strategy="auto", verify=verify)

    def _kept_product(self, X: Tensor) -> Tensor:
        assert self._built is not None
        pushed = self._built.matmat(X)
        return self._built.rmatmat(pushed * self._weights.to(pushed).unsqueeze(1))

    def _kept_reports(self) -> dict[str, Report]:
        assert self._built is not None
        return {"J v": self._built.report}

    def _forget(self) -> None:
        self._built = None

    @property
    def transferable(self) -> bool:
        return not self._custom() if self._built is None else self._built.transferable

    def _custom(self) -> bool:
        return bool(set(self._frugal.facts.custom) - OWN)

    def _kept_bytes(self) -> int:
        return 3 * self._frugal.graph_nbytes
