"""Which source the rows of a dense Hessian come from: the fastest that is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from hvplib.ad.axes import Piece
from hvplib.ad.engines import Engine, GraphEngine
from hvplib.ad.leaves import fresh
from hvplib.ad.memory import chunk_width, is_out_of_memory
from hvplib.ad.mirrored import mirrored
from hvplib.ad.objective import Objective
from hvplib.ad.parts import may_be_cut
from hvplib.ad.rows import KeptRows, PushedRows, Rows, SingleRows
from hvplib.ad.select import FORWARD, REVERSE, Selection, is_missing_derivative, select
from hvplib.ad.strategies import differentiate
from hvplib.ad.verify import agreement, probes, rounding
from hvplib.ad.whole_rows import WholeRows, units
from hvplib.errors import DerivativeError

__all__ = ["Judgement", "judge", "known_rows", "row_source", "whole_matrix"]

# So many rows are pushed together, whichever tensors they belong to; of more, each tensor's by themselves.
_FEW = 512
# Of a whole matrix with more rows than this, half is made, in as many passes as there are tensors.
_SMALL = 256
# They may leave the cache: each pass costs Python as much as a few hundred rows.
_ROOM = 4
# Recorded products with blocks of this width cost least a row, on networks of 1000 to 5000 parameters.
_RECORDED_WIDTH, _RECORDED_FEW = 64, 128


@dataclass(frozen=True)
class Judgement:
    """A product that rows are held against: of a random vector, as `hvp` gives it."""

    objective: Objective
    vector: list[Tensor]
    selection: Selection

    @property
    def product(self) -> Sequence[Tensor]:
        """∇²f v."""
        return self.selection.outcome.product

    @cached_property
    def engine(self) -> GraphEngine | None:
        """The kept graph of the gradient that was pushed forward, if that was the way."""
        if self.selection.strategy != FORWARD:
            return None
        return GraphEngine.of(self.objective, self.selection.outcome)


def judge(objective: Objective, leaves: Sequence[Tensor]) -> Judgement:
    """The product at these leaves.

    Raises:
        DerivativeError, OutputError: As `select` does.
    """
    points = [x.detach() for x in leaves]
    (v,) = probes(points, 1)
    return Judgement(objective, v, select(objective, points, v))


def whole_matrix(
    engine: GraphEngine,
    objective: Objective,
    leaves: Sequence[Tensor],
    judgement: Judgement | None,
    chunk_size: int | str | None,
) -> list[list[Tensor]] | None:
    """The Hessian as blocks (1, n_i, n_j) for the leaves i and j, from half of it; None where that fails.

    Args:
        engine: The kept graph of the gradient.
        objective: What it is the graph of.
        leaves: Primals.
        judgement: What the matrix is held against; without it, that is a product by the graph.
        chunk_size: As in `hessian`.
    """
    alike = len({(x.dtype, x.device) for x in leaves}) == 1
    few = not isinstance(chunk_size, int) and sum(x.numel() for x in leaves) <= _SMALL
    if few or not alike or engine.hooked or engine.loops:
        return None
    if judgement is not None:
        vector, product = judgement.vector, judgement.product
        blocks = mirrored(engine, judgement.selection.outcome.value, objective, chunk_size)
    else:
        (vector,) = probes(engine.leaves, 1)
        product = engine.product(vector)
        blocks = _mirrored_anew(objective, leaves, chunk_size) or mirrored(
            engine, None, objective, chunk_size
        )
    if blocks is None:
        return None
    found = [
        torch.stack([block[0] @ v.reshape(-1) for block, v in zip(row, vector, strict=True)]).sum(0)
        for row in blocks
    ]
    found = [f.view(x.shape) for f, x in zip(found, leaves, strict=True)]
    if not _agree(engine, objective, leaves, vector, found, product):
        return None
    engine.believe_batches()
    return blocks


def _mirrored_anew(
    objective: Objective, leaves: Sequence[Tensor], chunk_size: int | str | None
) -> list[list[Tensor]] | None:
    """With a flat vector taken apart, of which a graph that is kept for products does not tell."""
    if not any(map(may_be_cut, leaves)):
        return None
    own = [fresh(x) for x in leaves]
    value, gradients, _ = differentiate(objective, own)
    if gradients is None:
        return None
    engine = GraphEngine(own, value, gradients, objective.precision(leaves))
    return mirrored(engine, value, objective, chunk_size)


def row_source(
    objective: Objective,
    leaves: Sequence[Tensor],
    output: Tensor,
    strategy: str,
    pieces: Sequence[Piece],
    *,
    wants_graph: bool,
    at_once: bool,
    judgement: Judgement | None = None,
) -> Rows:
    """The fastest source that is right here.

    Args:
        objective: Its function returns the output tensor.
        leaves: Primals.
        output: What it returns at the leaves, for its shape.
        strategy: As in `hessian`.
        pieces: The rows that will be asked for, in their order.
        at_once: Whether they may be pushed at once, if they are few.
        wants_graph: Whether the rows must carry a graph for further derivatives.
        judgement: What rows are held against, if it is there.
    """
    if objective.functional or wants_graph:
        if strategy == "finite-difference":
            raise DerivativeError(
                'strategy="finite-difference" carries no graph and composes with no transform'
            )
        return PushedRows(objective, leaves, output, strategy, plain=False)
    if not output.numel() or not any(x.numel() for x in leaves):
        return PushedRows(objective, leaves, output, strategy, plain=True)
    if judgement is not None and (engine := judgement.engine) is not None:
        rows = _kept(engine, objective, leaves, pieces, judgement, at_once)
        if rows is not None:
            return rows
    if strategy in ("auto", REVERSE) and output.numel() == 1:
        built = GraphEngine.build(objective, leaves)
        if isinstance(built, GraphEngine):
            if strategy == REVERSE:
                return KeptRows(built, objective, leaves)
            if rows := _kept(
                built, objective, leaves, pieces, judgement or judge(objective, leaves), at_once
            ):
                return rows
        elif strategy == REVERSE and built.__cause__ is not None:
            raise built
    if strategy != "finite-difference":
        pushed = PushedRows(objective, leaves, output, strategy, plain=True)
        if strategy != "auto" or pushed.is_right():
            return pushed
    return SingleRows(objective, leaves, output, strategy)


def known_rows(
    engine: Engine, objective: Objective, leaves: Sequence[Tensor], pieces: Sequence[Piece], limit: int | None
) -> Rows:
    """Rows by an engine that needs no proof, in blocks of at most `limit`."""
    total = sum(piece.offsets.numel() for piece in pieces)
    per_vector = engine.nbytes() + 2 * sum(x.numel() * x.element_size() for x in leaves)
    if isinstance(engine, GraphEngine):
        few = engine.batches and limit is None and 0 < total <= _SMALL
        if few and chunk_width(per_vector // _ROOM, total, leaves[0].device) == total:
            return WholeRows(partial(_block, engine), leaves, pieces, total, engine=engine)
        return KeptRows(engine, objective, leaves)
    width = chunk_width(per_vector, total if total <= _RECORDED_FEW else _RECORDED_WIDTH, leaves[0].device)
    return WholeRows(engine.block, leaves, pieces, width if limit is None else min(width, limit))


def _kept(
    engine: GraphEngine,
    objective: Objective,
    leaves: Sequence[Tensor],
    pieces: Sequence[Piece],
    judgement: Judgement,
    at_once: bool,
) -> Rows | None:
    """Rows through a kept graph, if it stands up to the product by another way."""
    if at_once and (few := _at_once(engine, objective, leaves, pieces, judgement)) is not None:
        return few
    return KeptRows(engine, objective, leaves) if _right(engine, objective, leaves, judgement) else None


def _at_once(
    engine: GraphEngine,
    objective: Objective,
    leaves: Sequence[Tensor],
    pieces: Sequence[Piece],
    judgement: Judgement,
) -> Rows | None:
    """Few rows of all leaves together, by one batched pass or two; None where that fails.

    The first pass takes one more vector, whose product is judged.
    """
    total = sum(piece.offsets.numel() for piece in pieces)
    if not 0 < total <= _FEW:
        return None
    per_vector = engine.nbytes() + 2 * sum(x.numel() * x.element_size() for x in leaves)
    width = min(total, chunk_width(per_vector // _ROOM, total + 1, leaves[0].device))
    if 2 * width < total:
        return None
    rows = units(pieces, 0, width + 1, [x.detach() for x in leaves])
    for block, direction in zip(rows, judgement.vector, strict=True):
        block[width] = direction
    products = _batched(engine, rows)
    if products is None:
        return None
    judged = [p[width] for p in products]
    if not _agree(engine, objective, leaves, judgement.vector, judged, judgement.product):
        return None
    engine.believe_batches()
    return WholeRows(
        partial(_block, engine), leaves, pieces, width, first=[p[:width] for p in products], engine=engine
    )


def _block(engine: GraphEngine, tangents: Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """Products by a pass that is made once, which it does not pay to record."""
    return engine.batch(tangents) or engine.block(tangents, count)


def _batched(engine: GraphEngine, tangents: Sequence[Tensor]) -> Sequence[Tensor] | None:
    """Products by a batched pass; None where there is none, or memory runs out."""
    try:
        return engine.batch(tangents)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _right(engine: GraphEngine, objective: Objective, leaves: Sequence[Tensor], judgement: Judgement) -> bool:
    """Whether the kept graph gives the product that `hvp` gives, batched, or else singly."""
    v = judgement.vector
    agrees = partial(_agree, engine, objective, leaves, v, expected=judgement.product)
    products = _batched(engine, [torch.stack([-2 * t, t]) for t in v])
    if products is not None and agrees([p[1] for p in products]):
        engine.believe_batches()
        return True
    try:
        single = engine.product(v)
    except RuntimeError as error:
        if not is_missing_derivative(error):
            raise
        return False
    engine.block([t.unsqueeze(0).expand(2, *t.shape) for t in v], 2)  # settles whether batches are right
    return agrees(single)


def _agree(
    engine: GraphEngine,
    objective: Objective,
    leaves: Sequence[Tensor],
    vector: Sequence[Tensor],
    found: Sequence[Tensor],
    expected: Sequence[Tensor],
) -> bool:
    """Whether two products with this vector are the same, but for the rounding at the engine's point."""
    precision = objective.precision(leaves)
    noise = partial(rounding, engine.value, engine.gradient, leaves, vector, precision)
    return agreement(found, expected, "rows against a product", precision, noise).passed is True
