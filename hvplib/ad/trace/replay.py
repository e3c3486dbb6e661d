"""A computation that is made again and again: recorded, and run from the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.ad.guard import derivative
from hvplib.ad.inputs import Engines
from hvplib.ad.trace.compiled import compiled
from hvplib.ad.trace.emit import emit
from hvplib.ad.trace.purify import purify
from hvplib.ad.trace.recorder import Record, record
from hvplib.ad.trace.tidy import tidy
from hvplib.ad.transforms import in_transform
from hvplib.errors import TraceError

__all__ = ["Program", "Replay", "plain", "pure_record", "same_bits", "same_numbers"]

Compute = Callable[..., Sequence[Tensor]]

# Recording takes about as long as this many calls, and about so many seconds for each operation.
_CALLS = 3
_PER_OPERATION = 100e-6


class Program:
    """`compute` as straight-line code, recorded at these inputs, for others of the same shapes.

    Args:
        compute: Of tensors.
        inputs: Examples.
        compile: Whether the code goes through torch's compiler, which rounds otherwise.

    Raises:
        TraceError: What it does depends on the numbers in its inputs, or cannot be run again.
    """

    def __init__(self, compute: Compute, inputs: Sequence[Tensor], *, compile: bool = False) -> None:
        made = pure_record(compute, inputs)
        tidy(made.graph, made.traits, made.constants)
        if compile:
            self.run = compiled(made.graph, made.constants, inputs)
        else:
            self.run = emit(made.graph, made.constants, made.traits)
        used = {str(node.target) for node in made.graph.nodes if node.op == "get_attr"}
        self.constants = [tensor for name, tensor in made.constants.items() if name in used]
        self._sources = [tensor for tensor, _ in made.versions]
        self._versions = [version for _, version in made.versions]

    @property
    def holds(self) -> bool:
        """Whether nothing that it was made from has been written to since."""
        return [tensor._version for tensor in self._sources] == self._versions


def pure_record(compute: Compute, inputs: Sequence[Tensor]) -> Record:
    """What `compute(*inputs)` does, without writes, as long as it holds for other numbers.

    Raises:
        TraceError: It does not, or cannot be run again.
    """
    made = record(compute, inputs)
    if made.restriction:
        raise TraceError(made.restriction)
    if purify(made.graph, made.traits):
        return made
    module = fx.GraphModule(made.constants, made.graph)
    again = record(torch.func.functionalize(module, remove="mutations"), inputs)
    if not purify(again.graph, again.traits):
        raise TraceError("there are writes that cannot be turned into values")
    return replace(again, versions=made.versions)


class Replay:
    """(inputs) ↦ compute(inputs), with the same bits, by a recorded program as soon as that pays.

    It holds no reference to `compute`, which is given anew at each call, so that its owner may hold both.

    The program makes the operations of `compute` in its order, without what leads to them: autograd's
    engine, dispatch through its layers, views that show what is there, results that are computed twice.
    The price of recording is known roughly, and a record is made when as much has been spent without one:
    so a few calls pay for none, and many never cost twice what they need. (Since the bits are the same, a
    clock may decide.)

    Args:
        operations: About how many `compute` makes, the same at each call; None if they must not be recorded.
        engine: "auto" as above; "graph" records nothing, "record" records at the first call, "compile" sends
            the program through torch's compiler as well, and then bits are those of rounding.

    Attributes:
        program: What is run, once there is one.
        reason: Why there is none, after an attempt that failed.
    """

    def __init__(self, operations: int | None, engine: Engines = "auto") -> None:
        self._engine = engine
        self._price = _PER_OPERATION * (operations or 0)
        self._calls = 0
        self._seconds = 0.0
        self.program: Program | None = None
        self.reason = "" if operations is not None else "custom autograd functions are not recorded"
        if engine == "graph":
            self.reason = "it was asked for the graph"

    def __call__(self, compute: Compute, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.program is not None and not in_transform() and self.program.holds:
            return self.program.run(*map(plain, inputs))
        if self.reason or self.program is not None:
            return _apart(compute(*map(plain, inputs)), inputs)
        begun = time.perf_counter()
        results = _apart(compute(*map(plain, inputs)), inputs)
        self._calls += 1
        self._seconds += time.perf_counter() - begun
        if self._pays() and not in_transform():
            self.record(compute, inputs, results)
        return results

    def _pays(self) -> bool:
        return self._engine != "auto" or (self._seconds > _CALLS * self._seconds / self._calls + self._price)

    def record(self, compute: Compute, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Make the program, and use it from now on if it gives these `results` of compute(*inputs)."""
        try:
            with derivative():
                # Recorded at other numbers: a program that depends on them gives itself away.
                compile = self._engine == "compile"
                program = Program(compute, [_other(x) for x in inputs], compile=compile)
                again = program.run(*map(plain, inputs))
        except (TraceError, RuntimeError, TypeError, ValueError) as error:
            self.reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            return
        same = same_numbers if compile else same_bits
        if all(same(a, b) for a, b in zip(results, again, strict=True)):
            self.program = program
        else:
            self.reason = "the recorded program gives other numbers"


def plain(x: Tensor) -> Tensor:
    """x without history, its entries in order: what a program is made for."""
    if x.requires_grad:
        x = x.detach()
    return x if x.is_contiguous() else x.contiguous()


def _apart(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """The results in memory of their own, as a program gives them: one may be an input as it came."""
    if in_transform():
        return results
    places = {x.data_ptr() for x in inputs}
    return [x.clone() if x.data_ptr() in places else x for x in results]


def _other(x: Tensor) -> Tensor:
    """Other numbers of the same kind and size."""
    return x.detach().flip(list(range(x.dim()))).mul(0.75)


def same_numbers(left: Tensor, right: Tensor) -> bool:
    """Whether two results of the same arithmetic in another order agree."""
    tolerance = torch.finfo(left.dtype).eps ** 0.75
    return left.shape == right.shape and bool((left - right).norm() <= tolerance * right.norm())


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN is equal to NaN here."""
    return left.shape == right.shape and bool(((left == right) | ((left != left) & (right != right))).all())
