"""`local_model`: a function at one point, differentiated once and multiplied with many vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map

from hvplib.ad.engines import Engine, GraphEngine, RecomputeEngine
from hvplib.ad.guard import derivative
from hvplib.ad.inputs import (
    Alike,
    Engines,
    check_engine,
    check_strategy,
    flatten_like,
    flatten_primals,
    unflatten,
)
from hvplib.ad.objective import Objective
from hvplib.ad.proof import proven
from hvplib.ad.report import Report
from hvplib.space import Structure

__all__ = ["LocalModel", "local_model"]


class LocalModel:
    """The quadratic model f(x) + ⟨∇f(x), s⟩ + ½⟨s, H s⟩ at a fixed x; made by `local_model`.

    Attributes:
        value: f(x), 0-d tensor.
        aux: What func returned beside its value, with `has_aux=True`; detached.
    """

    def __init__(
        self, objective: Objective, leaves: list[Tensor], spec: TreeSpec, engine: Engine, verify: bool
    ):
        self._objective = objective
        self._leaves = [x.detach() for x in leaves]
        self._spec = spec
        self._structure = Structure(spec)
        self._like = Alike(self._leaves)
        self._engine: Engine | None = engine
        self._verify = verify
        self.value: Tensor = engine.value.detach()
        self._gradient: Any = self._tree(engine.gradient) if engine.has_gradient else None
        self.aux: Any = objective.aux
        if not isinstance(self.aux, float):
            self.aux = tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, self.aux)

    @property
    def gradient(self) -> Any:
        """∇f(x), a pytree like the primals."""
        if self._gradient is None:
            self._gradient = self._tree(self._ready().differentiated())
        return self._gradient

    def _tree(self, leaves: Sequence[Tensor]) -> Any:
        return self._structure.tree([leaf.detach() for leaf in leaves])

    @property
    def report(self) -> Report:
        """The way in use, what was given up for it, the remedies, and the checks of the first product."""
        return self._ready().report(self._objective)

    @property
    def nbytes(self) -> int:
        """Bytes that the kept linearisation holds beyond the primals (0 where nothing is kept)."""
        return 0 if self._engine is None else self._engine.nbytes()

    @property
    def bytes_per_vector(self) -> int:
        """About what `hvp_block` takes for each vector, beside the vectors and the results."""
        return 0 if self._engine is None else self._engine.bytes_per_vector()

    @property
    def transferable(self) -> bool:
        """Whether what is proven of products here holds at other points too.

        It does for a graph that is kept, unless custom autograd functions are in it.
        """
        engine = self._ready()
        return not engine.custom and engine.nbytes() > 0

    def hvp(self, v: Any) -> Any:
        """H v for a pytree `v` like the primals (shapes, dtypes and devices must match exactly).

        The first call also verifies the way of multiplying (unless `verify=False` was given): two independent
        ways, symmetry, a second call, and a difference of gradients where the function is smooth enough.

        Raises:
            DerivativeError: No way of multiplying stands up to the checks.
        """
        tangents = self._structure.leaves(v)
        if tangents is None or not self._like(tangents):
            tangents = flatten_like("v", v, None, self._leaves, self._spec)
        return self._structure.tree(self._ready().product(tangents))

    def hvp_block(self, V: Any) -> Any:
        """H applied to k vectors at once: each leaf of `V` has a leading dimension k, and so has the result.

        Batched through the kept linearisation; a loop where an operation has no batching rule.
        """
        leaves = self._structure.leaves(V)
        width = None if leaves is None else self._like.width(leaves)
        if leaves is None or width is None:
            leaves, width = self._stacked(V)
        return self._structure.tree(self._ready().block(leaves, width)) if width else V

    def _stacked(self, V: Any) -> tuple[list[Tensor], int]:
        """The leaves of V and k, or an error that tells what is wrong with V."""
        leaves, spec = tree_flatten(V)
        if spec != self._spec or not all(isinstance(leaf, Tensor) and leaf.dim() > 0 for leaf in leaves):
            raise ValueError(
                "V must have the structure of the primals and a leading dimension k on every leaf; "
                "stack the vectors with torch.stack"
            )
        widths = {leaf.shape[0] for leaf in leaves}
        if len(widths) != 1:
            raise ValueError(f"V must have one leading dimension k on all leaves, got {sorted(widths)}")
        if width := widths.pop():
            first = unflatten([leaf[0] for leaf in leaves], spec)
            flatten_like("V[0]", first, None, self._leaves, self._spec)
        return leaves, width

    def release(self) -> None:
        """Free the kept linearisation; value, gradient and aux stay."""
        self._engine = None

    @property
    def engine(self) -> Engine | None:
        """What multiplies; None after `release`."""
        return self._engine

    def _ready(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("this local model was released; make a new one with hvplib.local_model")
        if self._verify:
            with derivative(), self._objective.session():
                self._engine = proven(self._engine, self._objective, self._leaves)
            self._verify = False
        return self._engine


def local_model(
    func: Callable[..., Any],
    primals: Any,
    *,
    strategy: str = "auto",
    verify: bool = True,
    has_aux: bool = False,
    engine: Engines = "auto",
) -> LocalModel:
    """f(x), ∇f(x) and v ↦ ∇²f(x) v at one point x, with the differentiation done once.

    The gradient is computed once with its graph; each product is then one more backward pass through it,
    about the cost of a gradient. All results are detached.

    Args:
        func: Function of the primals that returns a real scalar tensor, or (scalar, aux) with `has_aux`.
        primals: Pytree of real floating tensors, or a tuple of arguments.
        strategy: "auto" keeps the graph (reverse-over-reverse) if it proves right, and multiplies afresh
            otherwise; the other names are those of `hvp`.
        verify: Whether the first product is preceded by checks, which cost about ten gradients, once.
        has_aux: Whether func returns a second value, kept in `.aux`.
        engine: What multiplies, where the graph is kept. "auto" records the products as soon as so many have
            been made that it pays, and runs the record, with the same bits; "graph" records nothing, "record"
            records at the first product; "compile" sends the record through torch's compiler, which takes
            seconds to minutes once, and is held against the graph: a product of a small function then costs a
            tenth, and rounds otherwise. What cannot be recorded or compiled, or comes out otherwise, is run
            from the graph, as `.report.recorded` tells.

    Returns:
        A `LocalModel`. It holds memory for the graph until it is released or dropped.

    Raises:
        DerivativeError, OutputError, TypeError, ValueError: As `hvp`.

    Example:
        >>> import torch
        >>> from hvplib import local_model
        >>> model = local_model(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0], dtype=torch.float64))
        >>> model.value, model.gradient
        (tensor(9., dtype=torch.float64), tensor([ 3., 12.], dtype=torch.float64))
        >>> model.hvp(torch.tensor([1.0, 1.0], dtype=torch.float64))
        tensor([ 6., 12.], dtype=torch.float64)
        >>> print(model.report.strategy)
        reverse-over-reverse (graph kept)
    """
    check_strategy(strategy)
    check_engine(engine)
    leaves, spec = flatten_primals(primals)
    with derivative(), torch.enable_grad():
        objective = Objective(func, spec, has_aux=has_aux)
        with objective.session():
            multiplier = _engine(objective, leaves, strategy, engine)
    return LocalModel(objective, leaves, spec, multiplier, verify and strategy == "auto")


def _engine(objective: Objective, leaves: list[Tensor], strategy: str, engine: Engines) -> Engine:
    if strategy in ("auto", "reverse-over-reverse"):
        graph = GraphEngine.build(objective, leaves, engine)
        if isinstance(graph, GraphEngine):
            return graph
        if strategy != "auto" and graph.__cause__ is not None:
            raise graph
        return RecomputeEngine(objective, leaves, strategy, given_up=graph)
    return RecomputeEngine(objective, leaves, strategy)
