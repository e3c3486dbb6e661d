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
        value, gradients, residuals: What it gave at the point; no gradients, if they are to be computed when
            they are asked for.
        leaves: The point.
        data: What else the function was given there.
        graph: Makes an engine that needs no program, for when it cannot be run.
    """

    def __init__(
        self,
        program: SecondOrder,
        value: Tensor,
        gradients: Sequence[Tensor] | None,
        residuals: Sequence[Tensor],
        leaves: Sequence[Tensor],
        data: Sequence[Tensor],
        graph: Callable[[], Engine],
    ) -> None:
        super().__init__(value, gradients or [])
        self.has_gradient = gradients is not None
        self._program = program
        self._residuals = residuals
        self._leaves = leaves
        # Residuals may be the user's own tensors, and the graph is made of these.
        self._residual_versions = _versions(residuals)
        self._data = data
        self._given = [*leaves, *data]
        self._given_versions = _versions(self._given)
        self._graph = graph
        self._other: Engine | None = None

    @property
    def strategy(self) -> str:
        return REVERSE

    def differentiated(self) -> list[Tensor]:
        if self.has_gradient:
            return self.gradient
        if _versions(self._given) != self._given_versions:
            raise _written_to()
        return self._program.linearize(self._leaves, self._data)[1]

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

    def bytes_per_vector(self) -> int:
        return storage_bytes(self._residuals, apart_from=self._given)

    def _runs(self) -> bool:
        if self._other is not None or not nothing_special() or not self._program.holds:
            return False
        if _versions(self._residuals) != self._residual_versions:
            raise _written_to()
        return True

    def _instead(self) -> Engine:
        if self._other is None:
            if _versions(self._given) != self._given_versions:
                raise _written_to()
            self._other = self._graph()
        return self._other


def _versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each has been written to, where it tells."""
    try:
        return [x._version for x in tensors]
    except RuntimeError:  # tensors of inference mode do not
        return [0 if x.is_inference() else x._version for x in tensors]


def _written_to() -> RuntimeError:
    return RuntimeError(
        "a tensor that this local model was made from has been modified by an in-place operation since; "
        "make a new local model, or give it copies (.clone())"
    )
