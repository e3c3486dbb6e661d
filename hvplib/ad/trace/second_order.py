"""Value, gradient and Hessian products of a function as two programs, for any point and any data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.batched_products import BatchedProducts
from hvplib.ad.guard import derivative
from hvplib.ad.trace.compiled import compiled
from hvplib.ad.trace.emit import emit
from hvplib.ad.trace.linear import LinearMap
from hvplib.ad.trace.replay import Program, pure_record, same_numbers
from hvplib.ad.trace.split import only, split
from hvplib.ad.trace.tidy import tidy
from hvplib.ad.trace.total import is_total
from hvplib.ad.transforms import mapped, unseen
from hvplib.errors import TraceError

__all__ = ["SecondOrder"]

_CONVOLUTION = torch.ops.aten.convolution.default
_WIDTHS = 4  # of blocks, that programs are kept for


class SecondOrder:
    """(x, data) ↦ (f, ∇f, residuals) and (residuals, v) ↦ ∇²f v, recorded at one point.

    Args:
        compute: From the tensors of x, of the data and of v to f, then ∇f, then ∇²f v.
        leaves: x.
        data: Other tensors that f depends on; what it captures beside them is taken as it is.
        tangents: v.
        compile: Whether the programs go through torch's compiler.

    Raises:
        TraceError: What is computed depends on the numbers by more than arithmetic (value-dependent control
            flow, random numbers), or cannot be run again.
    """

    def __init__(
        self,
        compute: Callable[..., Sequence[Tensor]],
        leaves: Sequence[Tensor],
        data: Sequence[Tensor],
        tangents: Sequence[Tensor],
        *,
        compile: bool = False,
    ) -> None:
        made = pure_record(compute, [*leaves, *data, *tangents])
        tidy(made.graph, made.traits, made.constants)
        inputs = [node for node in made.graph.nodes if node.op == "placeholder"]
        outputs = list(next(iter(reversed(made.graph.nodes))).args[0])
        first = 1 + len(leaves)
        parts = split(made.graph, inputs[len(leaves) + len(data) :], outputs[:first], outputs[first:])
        self._first = first
        self._parts = parts
        self._primal_traits = parts.traits(made.traits, parts.primal)
        self._linearize: Callable[..., Sequence[Tensor]] = emit(
            parts.primal, made.constants, self._primal_traits, apart=first
        )
        self._tangent_traits = parts.traits(made.traits, parts.tangent)
        self._multiply: Callable[..., Sequence[Tensor]] = emit(
            parts.tangent, made.constants, self._tangent_traits
        )
        self._compiled = compile
        if compile:
            point = [*leaves, *data]
            residuals = self._linearize(*point)[first:]
            self._linearize = compiled(parts.primal, made.constants, point)
            self._multiply = compiled(parts.tangent, made.constants, [*residuals, *tangents])
        self._loops = any(node.target is _CONVOLUTION for node in parts.tangent.nodes)
        self._blocks: dict[int, Program] = {}
        self._record = made

    def linearize(
        self, leaves: Sequence[Tensor], data: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """f, ∇f, and what `multiply` needs of the point."""
        results = self._linearize(*leaves, *data)
        return results[0], list(results[1 : self._first]), list(results[self._first :])

    def value(self, leaves: Sequence[Tensor], data: Sequence[Tensor]) -> Tensor:
        """f alone."""
        return self._value(*leaves, *data)[0]

    def residuals(self, leaves: Sequence[Tensor], data: Sequence[Tensor]) -> list[Tensor]:
        """What `multiply` needs of the point, alone."""
        return list(self._residuals(*leaves, *data))

    def again(self, leaves: Sequence[Tensor], data: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """f, and what `multiply` needs: of a point where ∇f is known, which takes a third of a gradient."""
        if self._compiled:
            value, _, residuals = self.linearize(leaves, data)
            return value, residuals
        value, *residuals = self._again(*leaves, *data)
        return value, residuals

    @cached_property
    def _tangent(self) -> fx.GraphModule:
        return fx.GraphModule(self._record.constants, self._parts.tangent)

    @cached_property
    def _value(self) -> Callable[..., Sequence[Tensor]]:
        graph, traits = only(self._parts.primal, self._primal_traits, slice(0, 1))
        return emit(graph, self._record.constants, traits)

    @cached_property
    def _residuals(self) -> Callable[..., Sequence[Tensor]]:
        graph, traits = only(self._parts.primal, self._primal_traits, slice(self._first, None))
        return emit(graph, self._record.constants, traits, apart=0)

    @cached_property
    def _again(self) -> Callable[..., Sequence[Tensor]]:
        parts = slice(0, 1), slice(self._first, None)
        graph, traits = only(self._parts.primal, self._primal_traits, *parts)
        return emit(graph, self._record.constants, traits, apart=1)

    @property
    def is_total(self) -> bool:
        """Whether computing f raises nothing, whatever the numbers in x are."""
        return is_total(self._parts.primal)

    @property
    def products(self) -> LinearMap:
        """`multiply` as a map that can be looked into."""
        return LinearMap(self._parts.tangent, self._record.constants, self._tangent_traits, self._first - 1)

    def multiply(self, residuals: Sequence[Tensor], tangents: Sequence[Tensor]) -> Sequence[Tensor]:
        """∇²f v."""
        return unseen(self._multiply, [*residuals, *tangents])

    def multiply_block(
        self, residuals: Sequence[Tensor], tangents: Sequence[Tensor], width: int
    ) -> Sequence[Tensor] | None:
        """∇²f V for `width` vectors along a leading dimension; None where a loop is better, or all there is.

        vmap turns convolutions into grouped ones, two to three times slower a vector than the loop.
        """
        if self._loops or width == 1:
            return None
        program = self._blocks.get(width)
        if program is None:
            try:
                with derivative():
                    program = Program(self._pushed(len(residuals)), [*residuals, *tangents])
            except (TraceError, RuntimeError):
                self._loops = True
                return None
            results = program.run(*residuals, *tangents)
            singly = self.multiply(residuals, [v[0] for v in tangents])
            if not all(same_numbers(r[0], s) for r, s in zip(results, singly, strict=True)):
                self._loops = True
                return None
            if len(self._blocks) < _WIDTHS:
                self._blocks[width] = program
            return results
        return program.run(*residuals, *tangents)

    def _pushed(self, count: int) -> Callable[..., Sequence[Tensor]]:
        """The tangent program for many vectors, the first `count` inputs being the same for all."""

        def push(*inputs: Tensor) -> Sequence[Tensor]:
            residuals, tangents = inputs[:count], inputs[count:]
            with BatchedProducts():
                return mapped(lambda *v: self._tangent(*residuals, *v), tangents)

        return push

    @property
    def holds(self) -> bool:
        """Whether nothing that it captured has been written to since."""
        return self._record.holds
