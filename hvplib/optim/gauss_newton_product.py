"""Products with the generalised Gauss-Newton matrix, through graphs that a closure has left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.guard import derivative
from hvplib.ad.pullback import Pullback

__all__ = ["GaussNewton"]


class GaussNewton:
    """G v = Jᵀ H_L J v at one point: J the Jacobian of the outputs, H_L the Hessian of the loss by them.

    J v by two backward passes through the graph of the outputs, H_L by one through the gradient of the loss,
    Jᵀ by one more: each about the cost of a gradient at most, and exact for any twice differentiable loss. G
    is positive semidefinite where the loss is convex in the outputs.

    Args:
        params: The unknowns, leaves of the graph.
        loss: 0-d, a function of the outputs alone.
        outputs: Tensors with graphs down to the parameters.
        precision: The coarsest dtype on the way.

    Attributes:
        gradient: ∇loss by the parameters, one tensor each.

    Raises:
        ValueError: The loss is not a function of the outputs alone.

    References:
        N. N. Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent,
        doi:10.1162/08997660260028683.

    Example:
        >>> import torch
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> z = w.prod().reshape(1)  # J = (2, 1)
        >>> G = GaussNewton([w], z.square().sum(), [z], torch.float32)  # H_L = 2
        >>> G.product([torch.tensor([1.0, 0.0])])
        [tensor([8., 4.])]
    """

    def __init__(
        self, params: Sequence[Tensor], loss: Tensor, outputs: Sequence[Tensor], precision: torch.dtype
    ) -> None:
        _check_through(loss, outputs)
        with derivative(), torch.enable_grad():
            loss_gradient = torch.autograd.grad(
                loss, outputs, create_graph=True, allow_unused=True, materialize_grads=True
            )
            seeds = [torch.ones_like(z, requires_grad=True) for z in outputs]
            pulled = torch.autograd.grad(
                outputs, params, seeds, create_graph=True, allow_unused=True, materialize_grads=True
            )
        self.outputs = [z.detach() for z in outputs]
        self.loss_gradient = [g.detach() for g in loss_gradient]
        self._pull = Pullback(outputs, params, precision)
        self._push = Pullback(pulled, seeds, precision)
        self._loss_curvature = Pullback(loss_gradient, outputs, precision)
        self.gradient = self.pull(self.loss_gradient)

    def pull(self, u: Sequence[Tensor]) -> list[Tensor]:
        """Jᵀ u."""
        return self._pull(u)

    def push(self, v: Sequence[Tensor]) -> list[Tensor]:
        """J v."""
        return self._push(v)

    def curve(self, w: Sequence[Tensor]) -> list[Tensor]:
        """H_L w."""
        return self._loss_curvature(w)

    def product(self, v: Sequence[Tensor]) -> list[Tensor]:
        """G v."""
        return self.pull(self.curve(self.push(v)))


_Edge = tuple[Any, int]  # a node of the graph, and which of its results


def _edge(tensor: Tensor) -> _Edge:
    return tensor.grad_fn, tensor.output_nr


def _check_through(loss: Tensor, outputs: Sequence[Tensor]) -> None:
    """Raise unless the parameters reach the loss through the outputs alone, and no output through another."""
    ends = {_edge(z) for z in outputs}
    met: set[_Edge] = set()
    leaves = [edge for edge in _walk([_edge(loss)], ends, met) if hasattr(edge[0], "variable")]
    if not met:
        raise ValueError(
            "the loss is not computed from the outputs that closure returned with it; return the very "
            "tensors that the loss is computed from, before any .detach() or conversion"
        )
    if leaves:
        shapes = ", ".join(sorted({str(tuple(node.variable.shape)) for node, _ in leaves}))
        raise ValueError(
            "the loss depends on parameters other than through the outputs that closure returned with it "
            f"(shapes {shapes}), and the Gauss-Newton matrix would miss that curvature. For an L2 penalty "
            "leave it out of the loss and set weight_decay of NewtonCG; for another penalty return what it "
            'is computed from as one more output, (loss, (outputs, ...)); or use curvature="hessian"'
        )
    for z in outputs:
        above: set[_Edge] = set()
        for _ in _walk(z.grad_fn.next_functions if z.grad_fn is not None else (), ends, above):
            pass
        if above:
            raise ValueError(
                "one of the outputs that closure returned is computed from another; return only the last "
                "tensors on the way to the loss"
            )


def _walk(starts: Sequence[_Edge], ends: set[_Edge], met: set[_Edge]) -> Iterator[_Edge]:
    """The edges of the graph from `starts` down; not beyond `ends`, which are put into `met`."""
    seen: set[_Edge] = set()
    stack = list(starts)
    while stack:
        edge = stack.pop()
        if edge[0] is None or edge in seen:
            continue
        seen.add(edge)
        if edge in ends:
            met.add(edge)
            continue
        yield edge
        stack.extend(edge[0].next_functions)
