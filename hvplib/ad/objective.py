"""The function to differentiate, called many times as if it were called once.

A derivative evaluates the function several times (another way, a difference, a check). Each evaluation sees
the same noise and the same captured state, and none leaves a trace in them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from hvplib.ad.captured import Writes
from hvplib.ad.inputs import call
from hvplib.ad.leaves import fresh
from hvplib.ad.randomness import RandomState
from hvplib.ad.remedies import Remedies, Way
from hvplib.ad.stops import Stops
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
        noise: The state of the random number generators that func is to see; the present one by default.

    Attributes:
        used: Names of the remedies that were met, over all evaluations.
        singular: Whether an evaluation met a point where torch's formulas break down (see `singular`).
        undefined: Whether it was one where torch has no subgradient convention either.
        decides: Whether func decides by the numbers in a tensor.
        coarse: Dtypes coarser than float64 that func computes in.
        detached: Whether func cut a graph by `.detach()`.
        escaped: Whether func turned a tensor into plain numbers, or computed under no_grad.
        clones_inference: Whether inference tensors that func captures are cloned before use.
        hooked: Whether func registers hooks on gradients, which are to be called at each backward pass.
        writes: What func writes to, to undo it.
        stops: What func takes for constants.
        aux: What func returned beside its value, at the last evaluation.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        spec: TreeSpec,
        *,
        has_aux: bool = False,
        functional: bool = False,
        noise: RandomState | None = None,
    ) -> None:
        self._func = func
        self._spec = spec
        self._has_aux = has_aux
        self.functional = functional
        self._noise = noise or RandomState()
        self._outside = self._noise
        self._evaluated = noise is not None
        self.writes = Writes()
        self.stops = Stops()
        self.used: set[str] = set()
        self.singular = False
        self.undefined = False
        self.decides = False
        self.coarse: set[torch.dtype] = set()
        self.clones_inference = False
        self.detached = False
        self.escaped = False
        self.hooked = False
        self.aux: Any = None

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
        if self._evaluated:
            self._undo_writes()
            self._noise.restore()
        self._evaluated = True
        with Remedies(self, way):
            return call(self._func, tree_unflatten(list(leaves), self._spec))

    @contextmanager
    def session(self) -> Iterator[None]:
        """Around evaluations: the user's generators and captured tensors are as before at its end.

        The noise that func sees is that of the first session in every later one.
        """
        outside = self._noise.again() if self._evaluated else self._noise
        previous, self._outside = self._outside, outside
        try:
            yield
        finally:
            self._outside = previous
            self._undo_writes()
            outside.restore()

    def _undo_writes(self) -> None:
        if not self.writes.noted:
            return
        self.writes.undo(keep={id(leaf) for leaf in tree_flatten(self.aux)[0]})

    def keep_generator(self, generator: torch.Generator) -> None:
        """Note that func draws from this generator of its own."""
        self._noise.keep(generator)
        self._outside.keep(generator)

    def frozen(self, leaves: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
        """The function whose stop-gradients keep the values they have at `leaves`.

        It is the function that autograd differentiates: a difference of its gradients may be held against a
        product. The original follows again when `stops.forget` is called.
        """
        self.stops.record()
        with torch.enable_grad():
            self([fresh(x) for x in leaves], "plain")

        def evaluate(at: Sequence[Tensor]) -> Tensor:
            self.stops.replay()
            return self(at, "plain")

        return evaluate


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
