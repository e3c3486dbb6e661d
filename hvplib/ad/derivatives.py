"""The local models of one function at many points, which share what has been recorded of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from hvplib.ad.engines import Engine, GraphEngine
from hvplib.ad.graph import Graph
from hvplib.ad.guard import derivative
from hvplib.ad.inputs import Engines, flatten_primals
from hvplib.ad.leaves import fresh
from hvplib.ad.local_model import LocalModel, local_model
from hvplib.ad.objective import Objective
from hvplib.ad.randomness import NoRandomness, RandomState
from hvplib.ad.recorded import RecordedEngine
from hvplib.ad.strategies import reverse_over_reverse
from hvplib.ad.trace.replay import plain, same_bits, same_numbers
from hvplib.ad.trace.second_order import SecondOrder
from hvplib.ad.transforms import nothing_special, outside_transforms
from hvplib.ad.vectors import entry_size, moved
from hvplib.ad.verify import probes
from hvplib.errors import TraceError

__all__ = ["Derivatives", "looks", "signature", "tensors_of"]

# Points at which the graph is made before a program is recorded, and at which a program is held against it.
_FIRST = 4
_NEARBY = 1e-3
# Shapes of data that programs are kept for; others keep graphs.
_FAMILIES = 16


class Derivatives:
    """(x, data) ↦ the local model of f(·, data) at x, again and again.

    The first ones keep graphs, as those of `local_model` do. Then f is recorded, once for all points and data
    of the same shapes, and a further local model costs two runs of the program and one evaluation of f: the
    program is used only if its value beside the point is f's own, bit for bit. (Not at the point: λ ‖x‖² is 0
    at 0 for every λ, and what f reads beside its arguments may have changed.) The operations that autograd
    sees in f must be the same, too: a factor that is detached now leaves the value as it was. It is not made
    for a function that does more than arithmetic with its numbers (control flow that depends on them, noise).

    Args:
        function: From the data, a tuple, to a function of the primals that returns (value, aux).
        strategy, engine: As for `local_model`.
    """

    def __init__(
        self,
        function: Callable[[tuple[Any, ...]], Callable[..., Any]],
        strategy: str,
        engine: Engines = "auto",
    ) -> None:
        self._function = function
        self._strategy = strategy
        self._engine = engine
        self._families: dict[Hashable, _Family] = {}

    def local_model(
        self,
        primals: Any,
        data: tuple[Any, ...],
        *,
        verify: bool,
        value: Tensor | None = None,
        noise: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> LocalModel:
        """The local model at `primals`.

        Args:
            primals: The point.
            data: The data.
            verify: Whether its first product is preceded by checks.
            value: f there, if it is known from an earlier local model; without it f is evaluated. With it the
                gradient is computed only if it is asked for.
            noise: Sets the random number generators for a function that may draw.
        """
        shared = self._strategy == "auto" and self._engine != "graph" and not verify
        family = recorded = None
        if shared:
            leaves, spec = flatten_primals(primals)
            family = self._family(leaves, spec, data)
            recorded = None if family is None else family.at(leaves, spec, data, value)
        if recorded is not None:
            return recorded
        with noise():
            model = local_model(
                self._function(data),
                primals,
                strategy=self._strategy,
                verify=verify,
                has_aux=True,
                engine="record" if self._engine == "compile" and family is not None else self._engine,
            )
            if family is not None:
                family.learn(model, leaves, spec, data)
        return model

    @property
    def proven(self) -> tuple[SecondOrder, Hashable] | None:
        """The program for primals and data of the first kind that came, once it has proven right.

        With it what the function `looks` like.
        """
        first = next(iter(self._families.values()), None)
        return None if first is None else first.proven

    def _family(self, leaves: Sequence[Tensor], spec: TreeSpec, data: tuple[Any, ...]) -> _Family | None:
        given = signature(data) if data else ()
        if given is None:
            return None
        key = (str(spec), tuple(map(_trait, leaves)), given)
        family = self._families.get(key)
        if family is None and len(self._families) < _FAMILIES:
            family = self._families[key] = _Family(self._function, self._engine == "compile")
        return family


class _Family:
    """Local models whose tensors have the same shapes, and the program for them once there is one."""

    def __init__(self, function: Callable[[tuple[Any, ...]], Callable[..., Any]], compile: bool) -> None:
        self._function = function
        self._compile = compile
        self._same = same_numbers if compile else same_bits
        self._seen = 0
        self._proven = False
        self._reason = ""
        self.looks: Hashable = None
        self.program: SecondOrder | None = None

    @property
    def proven(self) -> tuple[SecondOrder, Hashable] | None:
        """The program, once it has proven right, and the looks of its function."""
        return (self.program, self.looks) if self._proven and self.program is not None else None

    def learn(
        self, model: LocalModel, leaves: Sequence[Tensor], spec: TreeSpec, data: tuple[Any, ...]
    ) -> None:
        """Take note of a local model that was made without a program: record, or hold the record to it."""
        self._seen += 1
        engine = model.engine
        if self._reason or self._seen < _FIRST or not isinstance(engine, GraphEngine) or engine.custom:
            return
        try:
            if self.program is None:
                self.program = self._recorded(leaves, spec, data)
                return
            (v,) = probes(leaves, 1)
            value, gradients, residuals = self.program.linearize(leaves, tensors_of(data))
            product = self.program.multiply(residuals, v)
        # func itself did not raise here.
        except (TraceError, RuntimeError, TypeError, ValueError, IndexError) as error:
            self._give_up(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")
            return
        expected = [engine.value, *engine.gradient, *engine.product(v)]
        self._proven = all(map(self._same, [value, *gradients, *product], expected))
        if not self._proven:
            self._give_up("the program gives other numbers elsewhere")
            return
        aux, drawn, self.looks = self._beside(leaves, spec, data)
        if drawn:
            self._give_up("func draws random numbers")
        elif not _equal(aux, model.aux):
            self._give_up("what func returns beside its value depends on the point")

    def at(
        self, leaves: list[Tensor], spec: TreeSpec, data: tuple[Any, ...], value: Tensor | None
    ) -> LocalModel | None:
        """The local model by the program; None where it is not to be used (yet).

        Args:
            leaves: The point.
            spec: Its structure.
            data: The data.
            value: f there, if it is known.
        """
        program = self.program
        if program is None or not self._proven or not nothing_special() or not program.holds:
            return None
        points, given = [plain(x) for x in leaves], tensors_of(data)
        objective = Objective(self._function(data), spec, has_aux=True, noise=NoRandomness())
        with derivative(), torch.enable_grad():
            gradients: Sequence[Tensor] | None = None
            if value is None:
                found, gradients, residuals = program.linearize(points, given)
                same = self._is_func(program, objective, points, given)
            else:
                found, residuals = program.again(points, given)
                same = self._same(found, value)
        if not same:
            self._give_up("func changes by more than its arguments")
            return None
        graph = partial(_graph_engine, objective, points)
        engine = RecordedEngine(program, found, gradients, residuals, points, given, graph)
        return LocalModel(objective, leaves, spec, engine, verify=False)

    def _is_func(
        self, program: SecondOrder, objective: Objective, points: Sequence[Tensor], data: Sequence[Tensor]
    ) -> bool:
        """Whether the program has func's value beside the point, or at it if there is no number beside it."""
        for place in (_near(points), points):
            try:
                with objective.session():
                    value = objective([fresh(x) for x in place], "plain")
                found = program.value(place, data)
            except Exception:  # beside the point, nobody asked for func
                if place is points:
                    raise
                continue
            if looks(objective, value) != self.looks:
                return False
            value = value.detach()
            if not self._same(found, value):
                return False
            if math.isfinite(value):
                break
        return True

    def _beside(
        self, leaves: Sequence[Tensor], spec: TreeSpec, data: tuple[Any, ...]
    ) -> tuple[Any, bool, Hashable]:
        """What func returns beside its value near the leaves, whether it draws random numbers, its looks."""
        before = RandomState()
        objective = Objective(self._function(data), spec, has_aux=True, noise=NoRandomness())
        with derivative(), torch.enable_grad(), objective.session():
            value = objective([fresh(x) for x in _near(leaves)], "plain")
        drawn = not before.is_current()
        before.restore()
        return objective.aux, drawn, looks(objective, value)

    def _give_up(self, reason: str) -> None:
        self.program, self._reason = None, reason

    def _recorded(self, leaves: Sequence[Tensor], spec: TreeSpec, data: tuple[Any, ...]) -> SecondOrder:
        items, structure = tree_flatten(data)
        count = len(leaves)

        def compute(*inputs: Tensor) -> Sequence[Tensor]:
            given = iter(inputs[count : len(inputs) - count])
            own = [next(given) if isinstance(item, Tensor) else item for item in items]
            objective = Objective(self._function(tree_unflatten(own, structure)), spec, has_aux=True)
            with objective.session():
                outcome = reverse_over_reverse(objective, inputs[:count], inputs[len(inputs) - count :])
            if objective.escaped or outcome.disconnected:
                raise TraceError("func turns tensors into numbers, or stops the gradient of its value")
            if objective.hooked:
                raise TraceError("func registers hooks, which are to be called at each backward pass")
            return [outcome.value, *outcome.gradient, *outcome.product]

        with derivative(), torch.no_grad():
            # Recorded nearby: a program that depends on the numbers gives itself away where it is proven.
            (v,) = probes(leaves, 1)
            return SecondOrder(compute, _near(leaves), tensors_of(data), v, compile=self._compile)


def _near(leaves: Sequence[Tensor]) -> list[Tensor]:
    """A point beside this one."""
    (direction,) = probes(leaves, 1, seed=1)
    return moved([plain(x) for x in leaves], direction, _NEARBY * entry_size(leaves))


def looks(objective: Objective, value: Tensor) -> Hashable:
    """What there is to a function beside its value, as far as it decides about its derivatives."""
    return Graph([value]).operations(), objective.detached, objective.escaped, objective.hooked


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return same_bits(left.detach(), right.detach())
    return type(left) is type(right) and left == right


def _graph_engine(objective: Objective, leaves: Sequence[Tensor]) -> Engine:
    with outside_transforms(), derivative(), torch.enable_grad(), objective.session():
        engine = GraphEngine.build(objective, leaves)
    if isinstance(engine, GraphEngine):
        return engine
    raise engine


def tensors_of(data: Any) -> list[Tensor]:
    """The tensors in some data, in the order in which a program takes them."""
    if type(data) is tuple and not data:
        return []
    return [leaf for leaf in tree_flatten(data)[0] if isinstance(leaf, Tensor)]


def signature(tree: Any) -> Hashable | None:
    """What a program depends on beside the numbers in the tensors; None if that cannot be told."""
    leaves, spec = tree_flatten(tree)
    described: list[Hashable] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            described.append(_trait(leaf))
        elif leaf is None or isinstance(leaf, bool | int | float | str):
            described.append((type(leaf), leaf))
        else:
            return None
    return str(spec), tuple(described)


def _trait(tensor: Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
