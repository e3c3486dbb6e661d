"""What a `hessian(f)` remembers of f from call to call."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_unflatten

from hvplib.ad.beside import is_plain
from hvplib.ad.derivatives import Derivatives, signature, tensors_of
from hvplib.ad.engines import Engine, GraphEngine
from hvplib.ad.objective import Objective
from hvplib.ad.recorded import RecordedEngine
from hvplib.ad.trace.replay import same_bits
from hvplib.ad.transforms import in_transform, nothing_special
from hvplib.ad.whole_record import WholeRecord

__all__ = ["Call", "Known", "Memory"]

# Kinds of arguments that are remembered.
_KINDS = 16


class Call:
    """One call of a function: which of its arguments are differentiated, and the rest.

    Args:
        func: The function.
        numbers: Of the arguments that are differentiated: one, or a tuple of them.
        spec: Their structure.
        args, kwargs: All arguments.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        numbers: int | tuple[int, ...],
        spec: TreeSpec,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        chosen = (numbers,) if isinstance(numbers, int) else numbers
        self._func = func
        self._numbers = numbers
        self.spec = spec
        self.rest = tuple(None if n in chosen else arg for n, arg in enumerate(args)), dict(kwargs)

    def at(self, leaves: Sequence[Tensor], rest: tuple[Any, ...] | None = None) -> Any:
        """func with these leaves in the place of its own, and perhaps another rest."""
        args, kwargs = self.rest if rest is None else rest
        part = tree_unflatten(list(leaves), self.spec)
        numbers = self._numbers
        inserted = {numbers: part} if isinstance(numbers, int) else dict(zip(numbers, part, strict=True))
        return self._func(*(inserted.get(n, arg) for n, arg in enumerate(args)), **kwargs)

    def bare(self) -> Call:
        """The same without the rest of the arguments."""
        return Call(self._func, self._numbers, self.spec, (), {})

    def kind(self, leaves: Sequence[Tensor]) -> Hashable | None:
        """What is equal for calls that may share what is known; None for one that shares nothing."""
        numbers = signature((list(leaves), *self.rest))
        return None if numbers is None else (numbers, self._numbers, str(self.spec))


class Known:
    """What has been proven and recorded of calls of one kind.

    A kept graph that has proven right is taken at its word at other points, as long as it has the same
    operations and nothing is met of which a proof elsewhere says nothing: custom autograd functions,
    stop-gradients, singular points, results kept between calls.
    """

    def __init__(self, call: Call) -> None:
        bare = call.bare()  # holds nothing of the arguments
        self._derivatives = Derivatives(lambda rest: lambda *leaves: (bare.at(leaves, rest), None), "auto")
        self._operations: int | None = None
        self._batches = False
        self._record: WholeRecord | None = None

    @property
    def proven(self) -> bool:
        """Whether a graph has proven right."""
        return self._operations is not None

    def whole(self, call: Call, leaves: Sequence[Tensor], limit: int | None) -> Any:
        """The whole Hessian in its containers, by a record of func; None where that cannot serve (yet).

        Args:
            call: The call.
            leaves: Its primals.
            limit: The most rows at a time, if there is a limit.
        """
        proven = self._derivatives.proven
        if proven is None or not proven[0].holds or not nothing_special():
            return None
        if self._record is None:
            self._record = WholeRecord(*proven, leaves, call.spec, limit)
        return self._record.hessian(lambda *xs: call.at(xs), leaves, tensors_of(call.rest))

    def engine(self, call: Call, leaves: Sequence[Tensor], value: Tensor, probe: Objective) -> Engine | None:
        """What multiplies at these leaves without another proof; None where one is needed.

        Args:
            call: The call.
            leaves: Its primals.
            value: What it returns.
            probe: The objective that the value was computed by.
        """
        if self._operations is None or not is_plain(probe):
            return None
        model = self._derivatives.local_model(tuple(leaves), call.rest, verify=False)
        engine = model.engine
        if isinstance(engine, RecordedEngine) and not same_bits(engine.value, value.detach().reshape(())):
            return None
        if isinstance(engine, GraphEngine):
            if engine.custom or engine.operations != self._operations:
                return None
            if self._batches:
                engine.believe_batches()
        return engine if engine is not None and engine.nbytes() > 0 else None

    def learn(self, engine: GraphEngine, objective: Objective) -> None:
        """This engine has proven right."""
        if is_plain(objective) and not engine.custom:
            self._operations = engine.operations
            self._batches = engine.batches


class Memory:
    """What is known of the calls of one function, by their kind."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Known] = {}

    def whole(self, call: Call, leaves: Sequence[Tensor], limit: int | None) -> Any:
        """See `Known.whole`."""
        if not self._known or in_transform():
            return None
        known = self.of(call, leaves)
        return None if known is None else known.whole(call, leaves, limit)

    def of(self, call: Call, leaves: Sequence[Tensor]) -> Known | None:
        """What is known of calls like this one; None where nothing is kept."""
        kind = call.kind(leaves)
        if kind is None or (kind not in self._known and len(self._known) >= _KINDS):
            return None
        if kind not in self._known:
            self._known[kind] = Known(call)
        return self._known[kind]
