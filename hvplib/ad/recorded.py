"""Products at a point of a function that has been recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hvplib.ad.engines import Engine
from hvplib.ad.graph import storage_bytes
from hvplib.ad.leaves import ordinary
from hvplib.ad.select import REVERSE
from hvplib.ad.trace.replay import plain
from hvplib.ad.trace.second_order import SecondOrder
from hvplib.ad.transforms import nothing_special

__all__ = ["RecordedEngine"]


class RecordedEngine(Engine):
    """What a program left at a point, and the products that it makes of it.

    Args:
        program: Of the function.
        value, gradients, residuals: What it gave at the point.
        leaves: The point.
        graph: Makes an engine that needs no program, for when it cannot be run.
    """

    def __init__(
        self,
        program: SecondOrder,
        value: Tensor,
        gradients: Sequence[Tensor],
        residuals: Sequence[Tensor],
        leaves: Sequence[Tensor],
        graph: Callable[[], Engine],
    ) -> None:
        super().__init__(value, gradients)
        self._program = program
        self._residuals = residuals
        self._leaves = leaves
        self._graph = graph
        self._other: Engine | None = None

    @property
    def strategy(self) -> str:
        return REVERSE

    @property
    def recorded(self) -> bool:
        return self._other is None

    def product(self, tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.product([ordinary(v) for v in tangents])
        if not self._runs():
            return self._instead().product(tangents)
        return self._program.multiply(self._residuals, [plain(v) for v in tangents])

    def block(self, tangents: Sequence[Tensor], width: int) -> Sequence[Tensor]:
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self.block([ordinary(v) for v in tangents], width)
        if not self._runs():
            return self._instead().block(tangents, width)
        result = self._program.multiply_block(self._residuals, [plain(v) for v in tangents], width)
        return super().block(tangents, width) if result is None else result

    def nbytes(self) -> int:
        return storage_bytes(self._residuals, apart_from=self._leaves)

    def _runs(self) -> bool:
        return self._other is None and nothing_special() and self._program.holds

    def _instead(self) -> Engine:
        self._other = self._other or self._graph()
        return self._other
