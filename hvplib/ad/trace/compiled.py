"""A recorded graph through torch's compiler (inductor): fused loops in machine code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.errors import TraceError

__all__ = ["compiled"]

aten: Any = torch.ops.aten
Run = Callable[..., Sequence[Tensor]]

_PRODUCTS = (aten.mm.default, aten.bmm.default)
# With so many calls of matrix products, a caller in C++ is faster than one in Python. (It takes five
# microseconds itself, and longer to compile.)
_MANY, _TOO_MANY = 4, 50


def compiled(
    graph: fx.Graph, constants: Mapping[str, Tensor], inputs: Sequence[Tensor], *, alike: bool = False
) -> Run:
    """A function of the graph's inputs that returns its outputs, to rounding.

    Takes seconds to minutes, and on the CPU a C++ compiler. On CUDA the kernels are captured as one graph,
    and replayed with a single launch.

    Args:
        graph: Pure.
        constants: What its `get_attr` nodes stand for.
        inputs: Examples, of the shapes and strides that will come.
        alike: Whether the caller sees to it that they do; otherwise each call looks.

    Raises:
        TraceError: The compiler is not there, or fails.
    """
    failure: Exception | None = None
    for options in _options(graph, inputs, alike):
        try:
            return _compiled(fx.GraphModule(dict(constants), graph), inputs, options)
        except Exception as error:  # whatever stops a compiler, there is the program that is not compiled
            failure = error
    reason = (str(failure).splitlines() or [""])[0]
    raise TraceError(f"inductor: {type(failure).__name__}: {reason}") from failure


def _options(graph: fx.Graph, inputs: Sequence[Tensor], alike: bool) -> Iterator[dict[str, Any]]:
    """What to ask of the compiler, the best first."""
    options: dict[str, Any] = {"size_asserts": not alike}
    if any(x.device.type == "cuda" for x in inputs):
        yield options | {"triton.cudagraphs": True}
        return
    products = sum(node.target in _PRODUCTS for node in graph.nodes)
    if _MANY <= products <= _TOO_MANY:
        yield options | {"cpp_wrapper": True}
    yield options


def _compiled(module: fx.GraphModule, inputs: Sequence[Tensor], options: dict[str, Any]) -> Run:
    from torch._inductor import compile_fx, config, decomposition  # a second to import, and seldom needed

    codes: list[Any] = []

    def inner(*args: Any, **kwargs: Any) -> Any:
        codes.append(compile_fx.compile_fx_inner(*args, **kwargs))
        return codes[-1]

    # Sums of products in loops, in the place of a matrix-vector product, are slower than it.
    ways = {op: way for op, way in decomposition.select_decomp_table().items() if op is not aten.mv.default}
    with torch.no_grad(), config.patch(options):
        run: Any = compile_fx.compile_fx(module, list(inputs), inner_compile=inner, decompositions=ways)
        run(*inputs)
        if "triton.cudagraphs" in options:
            # What a captured graph returns lies in its own memory, and is overwritten by the next run.
            return lambda *now: [result.clone() for result in run(*now)]
        return _apart(_direct(run, codes, inputs) or run, inputs)


def _direct(run: Run, codes: Sequence[Any], inputs: Sequence[Tensor]) -> Run | None:
    """What `run` calls in the end, after layers that have nothing to do here, and take as long as a kernel.

    None if it turns out that they do something: it is watched in one call what comes through.
    """
    if len(codes) != 1 or not callable(getattr(codes[0], "current_callable", None)):
        return None
    (code,) = codes
    call = code.current_callable
    seen: list[list[Any]] = []

    def watched(arguments: list[Any]) -> Any:
        given = list(arguments)
        results = call(arguments)
        seen.append([given, list(results)])
        return results

    code.current_callable = watched
    try:
        outer = list(run(*inputs))
    finally:
        code.current_callable = call
    if len(seen) != 1:
        return None
    (given, results) = seen[0]
    front = given[: len(given) - len(inputs)]
    same = _identical(given[len(front) :], inputs) and _identical(results, outer)
    if not same or any(x is y for x in front for y in inputs):
        return None

    def direct(*now: Tensor, _kept: Any = code) -> Sequence[Tensor]:
        results: Sequence[Tensor] = call([*front, *now])
        return results

    return direct


def _identical(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _apart(run: Run, inputs: Sequence[Tensor]) -> Run:
    """`run`, with copies of those results that share memory with its inputs, its constants or each other."""
    first, second = run(*inputs), run(*inputs)
    places = [x.untyped_storage().data_ptr() for x in (*inputs, *first)]
    shared = [
        index
        for index, (a, b) in enumerate(zip(first, second, strict=True))
        if a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
        or places.count(a.untyped_storage().data_ptr()) > 1
    ]
    if not shared:
        return run

    def separate(*now: Tensor) -> Sequence[Tensor]:
        results = list(run(*now))
        for index in shared:
            results[index] = results[index].clone()
        return results

    return separate
