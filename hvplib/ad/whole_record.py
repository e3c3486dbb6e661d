"""The whole Hessian of a function by a record of it, wherever the record is the function."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec

from hvplib.ad.beside import Beside
from hvplib.ad.memory import is_out_of_memory, require
from hvplib.ad.recorded_hessian import RecordedHessian
from hvplib.ad.trace.replay import plain
from hvplib.ad.trace.second_order import SecondOrder
from hvplib.ad.vectors import all_finite
from hvplib.ad.verify import probes, rounding
from hvplib.errors import TraceError
from hvplib.space import Structure

__all__ = ["WholeRecord"]


class WholeRecord:
    """(leaves, data) ↦ H in its containers.

    The first one is held to a product of a random vector with the program, which has proven right.

    Args:
        program: The record of the function.
        looks: What the function looks like.
        leaves: Primals of the kind that it is for.
        spec: Their structure.
        limit: The most rows at a time, if there is a limit.
    """

    def __init__(
        self,
        program: SecondOrder,
        looks: Hashable,
        leaves: Sequence[Tensor],
        spec: TreeSpec,
        limit: int | None,
    ) -> None:
        self._program = program
        self._limit = limit
        self._beside = Beside(program, looks, leaves)
        self._structure = Structure(spec)
        self._shapes = [x.shape for x in leaves]
        size = sum(x.numel() for x in leaves)
        self._nbytes = size * size * max(x.element_size() for x in leaves)
        self._rows: RecordedHessian | None = None
        self._reason = ""

    def hessian(
        self, func: Callable[..., Any], leaves: Sequence[Tensor], data: Sequence[Tensor]
    ) -> Any | None:
        """H at these leaves; None where the record does not serve, or is not known to be func.

        Args:
            func: The function of the leaves.
            leaves: Primals.
            data: What else it is given.
        """
        if self._reason or (torch.is_grad_enabled() and any(x.requires_grad for x in leaves)):
            return None
        points = [plain(x) for x in leaves]
        shape = self._beside.shape(func, points, data)
        if shape is None:
            return None
        require(self._nbytes, points[0].device, "the dense Hessian", "ask for a part with rows= or columns=")
        residuals = self._program.residuals(points, data)
        try:
            if self._rows is not None:
                return self._in_containers(self._rows(residuals), shape)
            if not all_finite([x for x in residuals if x.dtype.is_floating_point]):
                return None
            return self._in_containers(self._first(points, data, residuals), shape)
        except (TraceError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                self._reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            return None

    def _in_containers(self, blocks: list[list[Tensor]], shape: torch.Size) -> Any:
        tree = self._structure.tree
        return tree(
            [
                tree([b.reshape(shape + down + across) for b, across in zip(row, self._shapes, strict=True)])
                for row, down in zip(blocks, self._shapes, strict=True)
            ]
        )

    def _first(
        self, points: Sequence[Tensor], data: Sequence[Tensor], residuals: Sequence[Tensor]
    ) -> list[list[Tensor]]:
        """Record the rows, and hold the matrix that comes of them to a product."""
        rows = RecordedHessian(self._program, residuals, points, self._limit)
        blocks = rows(residuals)
        (v,) = probes(points, 1, seed=3)
        value, gradient, _ = self._program.linearize(points, data)
        noise = rounding(value, gradient, points, v, points[0].dtype)
        for row, product in zip(blocks, self._program.multiply(residuals, v), strict=True):
            found = torch.stack([b @ t.reshape(-1) for b, t in zip(row, v, strict=True)]).sum(0)
            sizes = torch.stack([b.norm(dim=1) * t.norm() for b, t in zip(row, v, strict=True)]).sum(0)
            bound = torch.finfo(product.dtype).eps ** 0.75 * sizes + noise
            if not bool(((found - product.reshape(-1)).abs() <= bound).all()):
                raise TraceError("the recorded rows are not those of the recorded products")
        self._rows = rows
        return blocks
