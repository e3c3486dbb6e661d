"""The assembly of a dense Hessian: unit vectors pushed in chunks, rows put where they belong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from hvplib.ad.axes import Axis, Group, Piece
from hvplib.ad.engines import Engine, GraphEngine
from hvplib.ad.known import Call, Known, Memory
from hvplib.ad.memory import chunk_width, require, with_backoff
from hvplib.ad.objective import Objective
from hvplib.ad.row_source import Judgement, judge, known_rows, row_source, whole_matrix
from hvplib.ad.rows import PushedRows, Rows
from hvplib.ad.transforms import in_transform
from hvplib.errors import DerivativeError, OutputError

__all__ = ["Dense"]

_SMALL_LEAF = 64  # rows


class Dense:
    """One computation of a (partial) Hessian of `func`, a function of flat leaves.

    Args:
        func: Returns a tensor or a pytree of tensors, or with `has_aux` a pair (output, aux).
        leaves: The tensors to differentiate with respect to.
        sides: What the rows and the columns are.
        strategy, chunk_size, has_aux: As in `hessian`.
        call, memory: What is called, and what is known of such calls.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        leaves: Sequence[Tensor],
        sides: tuple[Axis, Axis],
        strategy: str,
        chunk_size: int | str | None,
        *,
        has_aux: bool,
        call: Call | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._func = func
        self._leaves = list(leaves)
        self._rows, self._columns = sides
        # H is symmetric: the shorter side is pushed.
        self._sides = sides[::-1] if len(sides[1]) < len(sides[0]) else sides
        self._strategy = strategy
        self._chunk_size = chunk_size
        self._has_aux = has_aux
        self._call = call
        self._memory = memory
        self._limit = chunk_size if isinstance(chunk_size, int) else None
        self._functional = in_transform() or fwAD._current_level >= 0
        self._known: Known | None = None  # of calls like this one, for plain numbers by a scalar function

    def compute(self) -> Any:
        """The Hessian in its containers, with aux beside it if asked for."""
        carries = torch.is_grad_enabled() and any(x.requires_grad for x in self._leaves)
        special = self._functional or carries or self._strategy != "auto" or self._has_aux
        if self._memory is not None and self._call is not None and not special:
            self._known = self._memory.of(self._call, self._leaves)
        if not special and (self._known is None or not self._known.proven):
            hessian = self._of_a_scalar()
            if hessian is not None:
                return hessian
        if (self._functional or carries) and self._strategy != "finite-difference" and not self._has_aux:
            hessian = self._of_a_scalar_with_graph()
            if hessian is not None:
                return hessian
        return self._of_any()

    def _of_a_scalar(self) -> Any:
        """The Hessian of a function that returns one number, by one evaluation; None where this is not all.

        The evaluation is that of the product that judges: the graph of its gradient serves for the rows.
        """
        objective, shapes = self._watched()
        with objective.session():
            try:
                judgement = judge(objective, self._leaves)
            except (OutputError, DerivativeError):
                return None  # what it is, or why it is refused, is told there
            outcome = judgement.selection.outcome
            if outcome.facts.captured and torch.is_grad_enabled():
                return None
            value = outcome.value.detach().reshape(shapes[0])
            self._check_memory([value])
            blocks = self._blocks(objective, value, wants_graph=False, judgement=judgement)
        return self._assembled(blocks, value)

    def _of_a_scalar_with_graph(self) -> Any:
        """The Hessian of a function that returns one number, in a transform or with a graph of its own.

        None where it returns something else, as the first rows tell.
        """
        objective, shapes = self._watched()
        with objective.session():
            one = self._leaves[0].new_zeros(())
            rows = PushedRows(objective, self._leaves, one, self._strategy, plain=False)
            try:
                blocks = self._pushed(rows, one)
            except OutputError:
                return None
        return self._assembled(blocks, one.reshape(shapes[0])) if shapes else None

    def _watched(self) -> tuple[Objective, list[torch.Size]]:
        """The function, and a list in which it leaves the shape of the tensor that it returned last."""
        shapes: list[torch.Size] = []

        def func(*leaves: Tensor) -> Any:
            found = self._func(*leaves)
            if isinstance(found, Tensor):
                shapes[:] = [found.shape]
            return found

        spec = tree_flatten(tuple(self._leaves))[1]
        return Objective(func, spec, functional=self._functional), shapes

    def _of_any(self) -> Any:
        """The Hessian of whatever func returns."""
        outputs, spec, aux = self._outputs()
        wants_graph = torch.is_grad_enabled() and any(t.requires_grad for t in (*self._leaves, *outputs))
        if not self._functional and not wants_graph:
            self._check_memory(outputs)
        if wants_graph or self._outputs_count != 1 or outputs[0].numel() != 1:
            self._known = None
        results = []
        for index, output in enumerate(outputs):
            objective = Objective(
                partial(self._component, index),
                tree_flatten(tuple(self._leaves))[1],
                functional=self._functional,
            )
            with objective.session():
                blocks = self._blocks(objective, output, wants_graph=wants_graph)
            results.append(self._assembled(blocks, output))
        hessian = tree_unflatten(results, spec)
        return (hessian, aux) if self._has_aux else hessian

    def _assembled(self, blocks: list[list[Tensor]], output: Tensor) -> Any:
        """Blocks (M, n_i, n_j) in the shapes and containers of the caller."""
        return self._rows.assemble(
            [
                self._columns.assemble(
                    [
                        block.to(row.dtype).reshape((*output.shape, *row.shape, *column.shape))
                        for block, column in zip(line, self._columns.groups, strict=True)
                    ]
                )
                for line, row in zip(blocks, self._rows.groups, strict=True)
            ]
        )

    def _blocks(
        self, objective: Objective, output: Tensor, *, wants_graph: bool, judgement: Judgement | None = None
    ) -> list[list[Tensor]]:
        """The blocks (M, n_i, n_j) of one output, for the groups i of rows and j of columns."""
        engine = self._known_engine(output) if judgement is None else judgement.engine
        blocks = self._mirrored(objective, engine, judgement)
        if blocks is not None:
            return blocks
        pieces = [piece for group in self._sides[0].groups for piece in group.pieces]
        if judgement is None and engine is not None:
            return self._pushed(known_rows(engine, objective, self._leaves, pieces, self._limit), output)
        rows = row_source(
            objective,
            self._leaves,
            output,
            self._strategy,
            pieces,
            wants_graph=wants_graph,
            at_once=self._limit is None,
            judgement=judgement,
        )
        if self._known is not None and rows.engine is not None:
            self._known.learn(rows.engine, objective)
        return self._pushed(rows, output)

    def _known_engine(self, output: Tensor) -> Engine | None:
        """What needs no proof; None where one is needed."""
        if self._known is None or self._call is None:
            return None
        return self._known.engine(self._call, self._leaves, output, self._probe)

    def _mirrored(
        self, objective: Objective, engine: Engine | None, judgement: Judgement | None
    ) -> list[list[Tensor]] | None:
        """All blocks, from half of them, held to a product; None where they must be made one by one."""
        everything = self._rows.everything and self._columns.everything
        if not everything or not isinstance(engine, GraphEngine):
            return None
        blocks = whole_matrix(engine, objective, self._leaves, judgement, self._chunk_size)
        if blocks is not None and judgement is not None and self._known is not None:
            self._known.learn(engine, objective)
        return blocks

    def _pushed(self, rows: Rows, output: Tensor) -> list[list[Tensor]]:
        """The blocks from their rows."""
        down, across = self._sides
        if rows.given and all(group.whole is not None for group in down.groups):
            blocks = _cut(rows.given, down, across)
        else:
            self._bundle_small(rows, output, down)
            blocks = [
                _block_row(rows, group, across, self._width(rows, output, len(group)))
                for group in down.groups
            ]
        if down is not self._rows:
            blocks = [[row[j].mT for row in blocks] for j in range(len(across.groups))]
        return blocks

    def _bundle_small(self, rows: Rows, output: Tensor, down: Axis) -> None:
        """Push the rows of small leaves (biases) together: each push alone costs as much as a chunk."""
        small = [g for g in down.groups if g.whole is not None and 0 < len(g) <= _SMALL_LEAF]
        total = sum(len(group) for group in small)
        if len(small) > 1 and total <= self._width(rows, output, total):
            rows.bundle([group.pieces[0] for group in small])

    def _component(self, index: int, *leaves: Tensor) -> Tensor:
        output = self._func(*leaves)
        component: Tensor = tree_flatten(output[0] if self._has_aux else output)[0][index]
        return component

    def _outputs(self) -> tuple[list[Tensor], TreeSpec, Any]:
        """One evaluation, for the shapes of what func returns."""
        evaluated = Objective(self._func, tree_flatten(tuple(self._leaves))[1], functional=self._functional)
        # What the caller's grad mode is does not matter to func, but to what it returns beside its value.
        own_mode = self._functional or self._has_aux
        with evaluated.session(), nullcontext() if own_mode else torch.enable_grad():
            output = evaluated.evaluate(self._leaves, "plain")
        aux = None
        if self._has_aux:
            if type(output) is not tuple or len(output) != 2:
                raise OutputError(
                    f"func must return (output, aux) with has_aux=True, got {type(output).__name__}"
                )
            output, aux = output
        outputs, spec = tree_flatten(output)
        self._probe, self._outputs_count = evaluated, len(outputs)
        for leaf in outputs:
            if not isinstance(leaf, Tensor) or not leaf.dtype.is_floating_point:
                got = leaf.dtype if isinstance(leaf, Tensor) else type(leaf).__name__
                raise OutputError(
                    f"func must return only tensors of real floating point numbers, got {got} "
                    "(expected f(*primals) to return only tensors)"
                )
        return outputs, spec, aux

    def _check_memory(self, outputs: Sequence[Tensor]) -> None:
        entries = len(self._rows) * len(self._columns) * sum(o.numel() for o in outputs)
        size = max((x.element_size() for x in self._leaves), default=4)
        require(
            entries * size,
            self._leaves[0].device,
            f"the dense Hessian ({len(self._rows)} x {len(self._columns)}) of {len(outputs)} output(s)",
            "use hvplib.HessianOperator, which never forms it, or ask for a part with rows= or columns=",
        )

    def _width(self, rows: Rows, output: Tensor, count: int) -> int:
        count = max(1, count * output.numel())
        if rows.width is not None:
            return rows.width
        if self._chunk_size is None:
            return count
        if isinstance(self._chunk_size, int):
            return self._chunk_size
        if self._functional:
            return min(count, 128)  # values of the caller's transform: nothing can be measured
        return chunk_width(rows.bytes_per_vector(), count, self._leaves[0].device)


def _cut(rows: Sequence[Tensor], down: Axis, across: Axis) -> list[list[Tensor]]:
    """The blocks (1, n_i, n_j) of rows that are all there, in the order of the groups."""
    sizes = [len(group) for group in down.groups]
    columns = [other.take(rows).unsqueeze(0).split_with_sizes(sizes, 1) for other in across.groups]
    return [list(row) for row in zip(*columns, strict=True)]


def _block_row(rows: Rows, group: Group, across: Axis, width: int) -> list[Tensor]:
    """The blocks of one group of rows against all groups of columns: (M, n_i, n_j) each."""
    if not rows.components * len(group) * len(across):
        size = rows.components, len(group)
        return [
            torch.zeros((*size, len(other)), dtype=group.dtype, device=rows.device) for other in across.groups
        ]
    if rows.plain and rows.components == 1:
        return _filled(rows, group, across, width)
    return _joined(rows, group, across, width)


def _filled(rows: Rows, group: Group, across: Axis, width: int) -> list[Tensor]:
    """Into tensors made beforehand: memory for the result and one chunk."""
    results = [
        torch.empty((1, len(group), len(other)), dtype=group.dtype, device=rows.device)
        for other in across.groups
    ]
    for piece in group.pieces:

        def run(start: int, stop: int, piece: Piece = piece) -> None:
            products = rows.push(piece, start, stop)
            at = (
                slice(start, stop) if group.whole is not None else piece.positions[start:stop].to(rows.device)
            )
            for result, other in zip(results, across.groups, strict=True):
                result[0, at] = other.take(products).to(result)

        with_backoff(run, piece.offsets.numel(), width)
    return results


def _joined(rows: Rows, group: Group, across: Axis, width: int) -> list[Tensor]:
    """By concatenation: for several components, inside transforms, and where the result carries a graph."""
    per_piece: list[list[Tensor]] = [[] for _ in across.groups]
    for piece in group.pieces:
        chunks: list[list[Tensor]] = []

        def run(start: int, stop: int, piece: Piece = piece, chunks: list[list[Tensor]] = chunks) -> None:
            products = rows.push(piece, start, stop)
            chunks.append([other.take(products) for other in across.groups])

        with_backoff(run, rows.components * piece.offsets.numel(), width)
        for joined, parts in zip(per_piece, zip(*chunks, strict=True), strict=True):
            part = parts[0] if len(parts) == 1 else torch.cat(parts)
            joined.append(part.reshape(rows.components, piece.offsets.numel(), -1))
    if group.whole is not None:
        return [parts[0] for parts in per_piece]
    order = torch.cat([piece.positions for piece in group.pieces]).argsort().to(rows.device)
    return [torch.cat(parts, dim=1).index_select(1, order) for parts in per_piece]
