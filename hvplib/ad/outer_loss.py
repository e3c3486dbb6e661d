"""A loss as a function of a model's outputs: gradient, curvature and values along a line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import tree_flatten, tree_map

from hvplib.ad.cross_entropy import OWN, RowByRow
from hvplib.ad.graph import graph_facts
from hvplib.ad.guard import derivative
from hvplib.ad.leaves import fresh
from hvplib.ad.line import midpoint_violated
from hvplib.ad.objective import Objective
from hvplib.ad.randomness import RandomState

__all__ = ["NotConvexError", "OuterLoss"]

# A curvature below −_SUSPICIOUS · eps times the size of its terms is looked into.
_SUSPICIOUS = 1e3


class NotConvexError(ValueError):
    """A loss was seen to curve downwards, so that its Gauss-Newton matrix is not positive semidefinite."""


class OuterLoss:
    """ℓ at a fixed z, differentiated afresh each time, with as few arrays like z as possible.

    Args:
        loss: From (z, anchor) to (scalar, aux); the anchor is z again, as a constant.
        z: Pytree of tensors without graph.
        noise: What the loss draws from, if it does.

    Attributes:
        custom: Custom autograd functions that `look` met.
    """

    def __init__(self, loss: Callable[[Any, Any], tuple[Any, Any]], z: Any, noise: RandomState) -> None:
        self._leaves, self._spec = tree_flatten(z)
        _, spec = tree_flatten((z,))
        self._objective = Objective(lambda at: loss(at, z), spec, has_aux=True, noise=noise)
        self.custom: tuple[str, ...] = ()

    @property
    def precision(self) -> torch.dtype:
        """The coarsest dtype that was computed in."""
        return self._objective.precision(self._leaves)

    def look(self) -> tuple[Tensor, Any]:
        """ℓ(z) and what came beside it."""
        leaves = [fresh(x) for x in self._leaves]
        with self._session():
            value = self._objective(leaves, "reverse")
            if value.requires_grad:
                facts = graph_facts(value, leaves)
                self.custom = tuple(name for name in facts.custom if name not in OWN)
        return value.detach(), self._aux()

    def gradient(self) -> list[Tensor]:
        """∇ℓ(z)."""
        leaves = [fresh(x) for x in self._leaves]
        with self._session():
            value = self._objective(leaves, "reverse")
            if not value.requires_grad:
                return [torch.zeros_like(x) for x in leaves]
            return list(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))

    def product(self, along: Sequence[Tensor]) -> list[Tensor]:
        """∇²ℓ(z) applied to a direction."""
        leaves = [fresh(x) for x in self._leaves]
        with self._session():
            value = self._objective(leaves, "reverse")
            if not value.requires_grad:
                return [torch.zeros_like(x) for x in leaves]
            gradient = torch.autograd.grad(
                value, leaves, create_graph=True, allow_unused=True, materialize_grads=True
            )
            del value
            # From here on only the graph of the gradient is needed, not its numbers.
            live = [
                (get_gradient_edge(g), v) for g, v in zip(gradient, along, strict=True) if g.requires_grad
            ]
            del gradient
            if not live:
                return [torch.zeros_like(x) for x in leaves]
            product = torch.autograd.grad(
                [edge for edge, _ in live],
                leaves,
                [v for _, v in live],
                allow_unused=True,
                materialize_grads=True,
            )
        return list(product)

    def value_along(self, along: Sequence[Tensor], t: float) -> float:
        """ℓ(z + t v)."""
        with self._session():
            moved = [torch.add(x, v, alpha=t) for x, v in zip(self._leaves, along, strict=True)]
            return float(self._objective(moved, "plain").detach())

    def value(self) -> float:
        """ℓ(z) by torch's own operations, however much memory they take."""
        with derivative(), torch.enable_grad(), self._objective.session():
            return float(self._objective(self._leaves, "plain").detach())

    def unit(self, along: Sequence[Tensor]) -> float:
        """The t for which t v is as large as z, entry by entry."""
        size, length = (_root_mean_square(part) for part in (self._leaves, along))
        return max(size, 1e-2) / length if length > 0 else 1.0

    def refuse_if_not_convex(self, along: Sequence[Tensor], curvature: float, size: float) -> None:
        """Raise if ⟨v, ∇²ℓ(z) v⟩ = `curvature` is negative beyond rounding, and differences of ℓ agree.

        Args:
            along: v.
            curvature: ⟨v, ∇²ℓ(z) v⟩.
            size: ‖v‖ ‖∇²ℓ(z) v‖.

        Raises:
            NotConvexError: The loss is not convex.
        """
        if not curvature < -_SUSPICIOUS * torch.finfo(self.precision).eps * size:
            return
        if midpoint_violated(
            lambda t: self.value_along(along, t), curvature, self.unit(along), self.precision
        ):
            raise NotConvexError(
                "the loss is not convex in the outputs of the model: its curvature along a direction that "
                f"the parameters can move them in is {curvature:.2g}, so the Gauss-Newton matrix is not "
                "positive semidefinite. Use HessianOperator, which claims nothing of the kind; or pass "
                "positive_semidefinite=False to have this matrix all the same, as a symmetric one"
            )

    @contextmanager
    def _session(self) -> Iterator[None]:
        with derivative(), torch.enable_grad(), self._objective.session(), RowByRow():
            yield

    def _aux(self) -> Any:
        return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, self._objective.aux)


def _root_mean_square(tensors: Sequence[Tensor]) -> float:
    """As `vectors.entry_size`, without a copy in double precision."""
    squares = sum(float(torch.linalg.vector_norm(x)) ** 2 for x in tensors)
    return math.sqrt(squares / max(1, sum(x.numel() for x in tensors)))
