"""Which source the rows of a dense Hessian come from: the fastest that is right."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from hvplib.ad.axes import Piece
from hvplib.ad.engines import Engine, GraphEngine
from hvplib.ad.memory import chunk_width, is_out_of_memory
from hvplib.ad.objective import Objective
from hvplib.ad.rows import KeptRows, PushedRows, Rows, SingleRows
from hvplib.ad.select import FORWARD, REVERSE, Selection, is_missing_derivative, select
from hvplib.ad.strategies import Outcome
from hvplib.ad.verify import agreement, probes, rounding
from hvplib.ad.whole_rows import WholeRows, units
from hvplib.errors import DerivativeError

__all__ = ["known_rows", "probe", "row_source"]

# So many rows are pushed at once, where memory allows.
_FEW = 128
# Recorded products with blocks of this width cost least a row, on networks of 1000 to 5000 parameters.
_RECORDED_WIDTH = 64


def row_source(
    objective: Objective,
    leaves: Sequence[Tensor],
    output: Tensor,
    strategy: str,
    pieces: Sequence[Piece],
    *,
    wants_graph: bool,
    at_once: bool,
    selection: Selection | None = None,
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
        selection: The product with `probe(leaves)` that `select` gives, if it is there.
    """
    if objective.functional or wants_graph:
        if strategy == "finite-difference":
            raise DerivativeError(
                'strategy="finite-difference" carries no graph and composes with no transform'
            )
        return PushedRows(objective, leaves, output, strategy, plain=False)
    if not output.numel() or not any(x.numel() for x in leaves):
        return PushedRows(objective, leaves, output, strategy, plain=True)
    if selection is not None and selection.strategy == FORWARD:
        engine = GraphEngine.of(objective, selection.outcome)
        if engine is not None and (rows := _kept(engine, objective, leaves, pieces, selection, at_once)):
            return rows
    if strategy in ("auto", REVERSE) and output.numel() == 1:
        built = GraphEngine.build(objective, leaves)
        if isinstance(built, GraphEngine):
            if strategy == REVERSE:
                return KeptRows(built, objective, leaves)
            chosen = selection or select(objective, [x.detach() for x in leaves], probe(leaves))
            if rows := _kept(built, objective, leaves, pieces, chosen, at_once):
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
    if isinstance(engine, GraphEngine):
        return KeptRows(engine, objective, leaves)
    total = sum(piece.offsets.numel() for piece in pieces)
    per_vector = engine.nbytes() + 2 * sum(x.numel() * x.element_size() for x in leaves)
    width = chunk_width(per_vector, total if total <= _FEW else _RECORDED_WIDTH, leaves[0].device)
    return WholeRows(engine.block, leaves, pieces, width if limit is None else min(width, limit))


def probe(leaves: Sequence[Tensor]) -> list[Tensor]:
    """The vector that products are proven with."""
    return probes(leaves, 1)[0]


def _kept(
    engine: GraphEngine,
    objective: Objective,
    leaves: Sequence[Tensor],
    pieces: Sequence[Piece],
    selection: Selection,
    at_once: bool,
) -> Rows | None:
    """Rows through a kept graph, if it stands up to the product by another way."""
    outcome = selection.outcome
    if at_once and (few := _at_once(engine, objective, leaves, pieces, outcome)) is not None:
        return few
    return KeptRows(engine, objective, leaves) if _right(engine, objective, leaves, outcome) else None


def _at_once(
    engine: GraphEngine,
    objective: Objective,
    leaves: Sequence[Tensor],
    pieces: Sequence[Piece],
    outcome: Outcome,
) -> Rows | None:
    """All rows and the probe by one batched pass, the probe held against `outcome`; None where that fails."""
    total = sum(piece.offsets.numel() for piece in pieces)
    per_vector = engine.nbytes() + 2 * sum(x.numel() * x.element_size() for x in leaves)
    if not 0 < total <= _FEW or chunk_width(per_vector, total + 1, leaves[0].device) <= total:
        return None
    v = probe(leaves)
    rows = units(pieces, 0, total + 1, [x.detach() for x in leaves])
    for block, direction in zip(rows, v, strict=True):
        block[total] = direction
    try:
        products = engine.batch(rows)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    if products is None or not _agrees([p[total] for p in products], v, objective, leaves, outcome):
        return None
    engine.believe_batches()
    return WholeRows(engine.block, leaves, pieces, total, given=[p[:total] for p in products], engine=engine)


def _right(engine: GraphEngine, objective: Objective, leaves: Sequence[Tensor], outcome: Outcome) -> bool:
    """Whether the kept graph gives the product that `hvp` gives for the probe, singly and batched."""
    v = probe(leaves)
    try:
        single = engine.product(v)
    except RuntimeError as error:
        if not is_missing_derivative(error):
            raise
        return False
    engine.block([t.unsqueeze(0).expand(2, *t.shape) for t in v], 2)  # settles whether batches are right
    return _agrees(single, v, objective, leaves, outcome)


def _agrees(
    product: Sequence[Tensor],
    v: Sequence[Tensor],
    objective: Objective,
    leaves: Sequence[Tensor],
    outcome: Outcome,
) -> bool:
    precision = objective.precision(leaves)
    noise = partial(rounding, outcome.value, outcome.gradient, leaves, v, precision)
    return agreement(product, outcome.product, "kept graph against hvp", precision, noise).passed is True
