"""A computation that is made again and again: recorded, and run from the record."""

from __future__ import annotations

import math
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
from hvplib.ad.trace.long_matrices import lay_out_for_vectors
from hvplib.ad.trace.measure import measured
from hvplib.ad.trace.purify import purify
from hvplib.ad.trace.recorder import Record, record
from hvplib.ad.trace.tidy import tidy
from hvplib.ad.transforms import in_transform, nothing_special, unseen
from hvplib.errors import TraceError

__all__ = ["Program", "Replay", "plain", "pure_record", "same_bits", "same_numbers"]

Compute = Callable[..., Sequence[Tensor]]

# Recording takes about as long as this many calls, and about so many seconds for each operation.
_CALLS = 4
_PER_OPERATION = 150e-6
# A program is held to the computation until about so many numbers have been compared.
_NUMBERS = 100


class Program:
    """`compute` as straight-line code, recorded at these inputs, for others of the same kind.

    Args:
        compute: Of tensors.
        inputs: Contiguous, with numbers that are like no others: the program is checked to give with them
            what `compute` gave.
        compile: Whether the code goes through torch's compiler, which rounds otherwise.

    Raises:
        TraceError: What it does depends on the numbers in its inputs, or cannot be run again.
    """

    def __init__(self, compute: Compute, inputs: Sequence[Tensor], *, compile: bool = False) -> None:
        made = pure_record(compute, inputs)
        tidy(made.graph, made.traits, made.constants)
        if compile:
            lay_out_for_vectors(made.graph, made.traits, made.constants)
            self.run = compiled(made.graph, made.constants, inputs, alike=True)
        else:
            self.run = emit(made.graph, made.constants, measured(made.graph, made.constants, inputs))
        self._same = same_numbers if compile else same_bits
        self._kinds = [(x.shape, x.dtype, x.device) for x in inputs]
        used = {str(node.target) for node in made.graph.nodes if node.op == "get_attr"}
        self.constants = [tensor for name, tensor in made.constants.items() if name in used]
        self._sources = [tensor for tensor, _ in made.versions]
        self._versions = [version for _, version in made.versions]
        if not all(bool(x.isfinite().all()) for x in made.results):
            raise TraceError("what it computes is not finite, so that it cannot be checked")
        self.check(inputs, made.results)

    def check(self, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Raise TraceError unless it gives these results of the computation."""
        again = unseen(self.run, inputs)
        if not self.takes(inputs) or not all(map(self._same, again, results)):
            raise TraceError("the recorded program gives other numbers")

    @property
    def holds(self) -> bool:
        """Whether nothing that it was made from has been written to since."""
        return [tensor._version for tensor in self._sources] == self._versions

    def takes(self, inputs: Sequence[Tensor]) -> bool:
        """Whether the inputs are of the kind that it was made for."""
        kinds = [(x.shape, x.dtype, x.device) for x in inputs if type(x) is Tensor]
        return kinds == self._kinds


def pure_record(compute: Compute, inputs: Sequence[Tensor]) -> Record:
    """What `compute(*inputs)` does, without writes, as long as it holds for other numbers.

    Raises:
        TraceError: It does not, or cannot be run again.
    """
    made = _unrestricted(compute, inputs)
    if purify(made.graph, made.traits):
        return made
    module = fx.GraphModule(made.constants, made.graph)
    again = _unrestricted(torch.func.functionalize(module, remove="mutations"), inputs)
    if not purify(again.graph, again.traits):
        raise TraceError("there are writes that cannot be turned into values")
    return replace(again, versions=made.versions, results=made.results)


def _unrestricted(compute: Compute, inputs: Sequence[Tensor]) -> Record:
    made = record(compute, inputs)
    if made.restriction:
        raise TraceError(made.restriction)
    return made


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
        self.reason = "" if operations is not None else "custom autograd functions and hooks are not recorded"
        if engine == "graph":
            self.reason = "it was asked for the graph"

    def __call__(self, compute: Compute, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        inputs = [plain(x) for x in inputs]
        program = self.program
        if program is None and not self.reason:
            return self._timed(compute, inputs)
        if program is not None and nothing_special() and program.takes(inputs) and program.holds:
            return unseen(program.run, inputs)
        return _apart(compute(*inputs), inputs)

    def _timed(self, compute: Compute, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """What `compute` gives; a record is made when that has taken long enough."""
        begun = time.perf_counter()
        results = _apart(compute(*inputs), inputs)
        self._calls += 1
        self._seconds += time.perf_counter() - begun
        if self._pays() and nothing_special():
            self.record(compute, inputs, results)
        return results

    def _pays(self) -> bool:
        return self._engine != "auto" or (self._seconds > _CALLS * self._seconds / self._calls + self._price)

    def record(self, compute: Compute, inputs: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        """Make the program, and use it from now on if it gives these `results` of compute(*inputs)."""
        try:
            with derivative():
                # Recorded at other numbers: a program that depends on them gives itself away.
                program = Program(compute, _others(inputs, 0), compile=self._engine == "compile")
                program.check(inputs, results)
                # And while it is recorded, torch takes other formulas for some derivatives than else (it goes
                # around shortcuts that look at values): they may differ in the last bit, for some vectors.
                size = sum(x.numel() for x in inputs)
                for draw in range(1, 2 + _NUMBERS // max(size, 8)):
                    others = _others(inputs, draw)
                    program.check(others, compute(*others))
        except Exception as error:  # whatever stands in the way: there is another way
            self.reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        else:
            self.program = program


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


def _others(inputs: Sequence[Tensor], seed: int) -> list[Tensor]:
    """Other numbers in tensors of the same kinds, none like another."""
    generators = {x.device: torch.Generator(x.device).manual_seed(seed) for x in inputs}
    return [
        torch.randn(x.shape, generator=generators[x.device], dtype=x.dtype, device=x.device) for x in inputs
    ]


def same_numbers(left: Tensor, right: Tensor) -> bool:
    """Whether two results of the same arithmetic in another order agree."""
    tolerance = torch.finfo(left.dtype).eps ** 0.75
    return left.shape == right.shape and bool((left - right).norm() <= tolerance * right.norm())


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are the same but for their places in memory; NaN is equal to NaN here.

    Left may be a copy of what is an expanded view on the right.
    """
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    if not left.shape and left.is_floating_point():  # as numbers: a value is compared at each point
        a, b = float(left), float(right)
        return (a == b and math.copysign(1.0, a) == math.copysign(1.0, b)) or (a != a and b != b)
    if left.stride() not in (right.stride(), torch.empty_like(right).stride()):
        return False
    numbers = (left == right) & (left.signbit() == right.signbit())  # -0 is not 0
    return bool((numbers | (left.isnan() & right.isnan())).all())
