"""The tensors that derivatives are taken with respect to."""

from __future__ import annotations

from torch import Tensor

__all__ = ["MARK", "apart", "fresh", "marked", "ordinary"]

MARK = "_hvplib_primal"  # attribute of the leaves that are made here, to know them again in a graph


def apart(x: Tensor) -> Tensor:
    """x with its elements apart in memory; shared ones make forward mode fail or, worse, come out wrong."""
    return x if x.is_contiguous() else x.contiguous()


def ordinary(x: Tensor) -> Tensor:
    """x, or a clone that autograd may save if x was made in inference mode."""
    return x.clone() if x.is_inference() else x


def fresh(x: Tensor) -> Tensor:
    """A leaf with the numbers of x that requires grad and whose elements lie apart in memory."""
    return marked(apart(ordinary(x.detach())))


def marked(x: Tensor) -> Tensor:
    """x, as a leaf that requires grad and is known again."""
    x.requires_grad_()
    setattr(x, MARK, True)
    return x
