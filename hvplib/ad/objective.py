"""The function to differentiate, called many times as if it were called once.

A derivative evaluates the function several times (another way, a difference, a check). Each evaluation sees
the same noise and the same captured state, and none leaves a trace in them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from hvplib.ad.inputs import call
from hvplib.ad.leaves import fresh
from hvplib.ad.randomness import RandomState
from hvplib.ad.remedies import Remedies, Way
from hvplib.ad.transforms import is_wrapped, outside_transforms
from hvplib.ad.vectors import coarsest
from hvplib.errors import OutputError

__all__ = ["Objective"]


class Objective:
    """`func` of a flat list of tensors, evaluated under the remedies.

    Args:
        func: The user's function of a pytree (or of a tuple of arguments).
        spec: Structure that the flat leaves are put into.
        has_aux: Whether func returns (scalar, aux).
        functional: Whether a torch.func transform is in force, so that values must not be looked at.

    Attributes:
        used: Names of the remedies that were met, over all evaluations.
        singular: Whether an evaluation met a point where torch's formulas break down (see `singular`).
        undefined: Whether it was one where torch has no subgradient convention either.
        coarse: Dtypes coarser than float64 that func computes in.
        detached: Whether func cut a graph by `.detach()`.
        escaped: Whether func turned a tensor into plain numbers, or computed under no_grad.
        clones_inference: Whether inference tensors that func captures are cloned before use.
        aux: What func returned beside its value, at the last evaluation.
    """

    def __init__(
        self, func: Callable[..., Any], spec: TreeSpec, *, has_aux: bool = False, functional: bool = False
    ) -> None:
        self._func = func
        self._spec = spec
        self._has_aux = has_aux
        self.functional = functional
        self.random_state = RandomState()
        self.used: set[str] = set()
        self.singular = False
        self.undefined = False
        self.coarse: set[torch.dtype] = set()
        self.clones_inference = False
        self.detached = False
        self.escaped = False
        self.aux: Any = None
        self._written: dict[int, tuple[Tensor, Tensor]] = {}
        self._stops: list[Any] | None = None
        self._replay: int | None = None
        self._within = False

    def __call__(self, leaves: Sequence[Tensor], way: Way) -> Tensor:
        """The scalar value at these leaves (0-d), with the graph that the caller's mode records."""
        output = self.evaluate(leaves, way)
        if self._has_aux:
            if type(output) is not tuple or len(output) != 2:
                raise OutputError(
                    f"func must return (scalar, aux) with has_aux=True, got {_describe(output)}"
                )
            output, self.aux = output
        return scalar(output)

    def precision(self, leaves: Sequence[Tensor]) -> torch.dtype:
        """The coarsest dtype that func was seen to compute in, which limits how well products can agree."""
        return coarsest(leaves, self.coarse)

    def then(self, reduce: Callable[[Any], Tensor]) -> Objective:
        """The objective of `reduce` after this function, with the same noise and captured state."""
        other = copy.copy(self)
        other._func = lambda *leaves: reduce(call(self._func, leaves))
        return other

    def evaluate(self, leaves: Sequence[Tensor], way: Way) -> Any:
        """What func returns at these leaves, whatever it is."""
        try:
            return self._evaluate(leaves, way)
        except RuntimeError as error:
            if "Inference tensors cannot be saved" not in str(error) or self.clones_inference:
                raise
            self.clones_inference = True
            self.used.add("inference tensors cloned")
            return self._evaluate(leaves, way)

    def _evaluate(self, leaves: Sequence[Tensor], way: Way) -> Any:
        self.reset()
        with Remedies(self, way):
            return call(self._func, tree_unflatten(list(leaves), self._spec))

    def reset(self) -> None:
        """Put generators and captured tensors back to what they were before the first evaluation."""
        self.random_state.restore()
        if not self._written:
            return
        kept = {id(leaf) for leaf in tree_flatten(self.aux)[0]}
        with torch.no_grad(), outside_transforms():
            while self._written:
                key, (tensor, before) = self._written.popitem()
                # A tensor that func made itself is held by nothing but this frame by now, and must keep its
                # value: the graph may refer to it.
                if sys.getrefcount(tensor) > _REFERENCES_OF_OWN and key not in kept:
                    tensor.copy_(before)

    def will_write(self, tensor: Tensor) -> None:
        """Note that func is about to write into this tensor, which may be the user's."""
        while tensor._is_view() and isinstance(tensor._base, Tensor):
            tensor = tensor._base
        if tensor.grad_fn is not None or id(tensor) in self._written or is_wrapped(tensor):
            return
        with outside_transforms():
            self._written[id(tensor)] = tensor, tensor.detach().clone()

    def stop(self, compute: Callable[[], Any], target: Tensor | None = None) -> Any:
        """What autograd takes for a constant: computed, or repeated from the evaluation that was frozen."""
        if self._stops is None or self._within:
            return compute()
        if self._replay is None:
            self._within = True
            try:
                result = compute()
            finally:
                self._within = False
            self._stops.append(tree_map(_copied, result if target is None else target))
            return result
        if self._replay >= len(self._stops):
            raise IndexError("func took another path at a neighbouring point")
        result = self._stops[self._replay]
        self._replay += 1
        return result if target is None else target.copy_(result)

    def frozen(self, leaves: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
        """The function whose stop-gradients keep the values they have at `leaves`.

        It is the function that autograd differentiates: a difference of its gradients may be held against a
        product. The original follows again when `thaw` is called.
        """
        self._stops, self._replay = [], None
        with torch.enable_grad():
            self([fresh(x) for x in leaves], "plain")

        def evaluate(at: Sequence[Tensor]) -> Tensor:
            self._replay = 0
            return self(at, "plain")

        return evaluate

    def thaw(self) -> None:
        """Forget the frozen stop-gradients."""
        self._stops = self._replay = None


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def scalar(output: Any) -> Tensor:
    """`output` as a 0-d real tensor, or a clear error."""
    if not isinstance(output, Tensor):
        raise OutputError(
            f"func must return a scalar tensor, got {_describe(output)}; return a 0-d torch.Tensor"
        )
    if output.dtype.is_complex:
        raise OutputError(f"func must return a real scalar, got {output.dtype}; return its real part")
    if not output.dtype.is_floating_point:
        raise OutputError(
            f"func must return a floating point scalar, got {output.dtype}; integers have no derivative"
        )
    if output.numel() != 1:
        raise OutputError(
            f"func must return a scalar, got shape {tuple(output.shape)}; reduce it (.sum() or .mean()), "
            "or use hvplib.hessian for tensor-valued functions"
        )
    return output if output.dim() == 0 else output.reshape(())


def _describe(output: Any) -> str:
    return "None" if output is None else type(output).__name__


def _probe_references() -> int:
    """The reference count, as `reset` sees it, of a tensor that only the record of writes holds."""
    written = {0: (torch.empty(0), torch.empty(0))}
    _key, (tensor, _before) = written.popitem()
    return sys.getrefcount(tensor)


_REFERENCES_OF_OWN = _probe_references()
