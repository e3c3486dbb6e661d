"""A recorded graph through torch's compiler (inductor): fused loops in machine code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor

from hvplib.errors import TraceError

__all__ = ["compiled"]


def compiled(
    graph: fx.Graph, constants: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """A function of the graph's inputs that returns its outputs, to rounding.

    Takes seconds to minutes, and on the CPU a C++ compiler. On CUDA the kernels are captured as one graph,
    and replayed with a single launch.

    Args:
        graph: Pure.
        constants: What its `get_attr` nodes stand for.
        inputs: Examples, of the shapes and strides that will come.

    Raises:
        TraceError: The compiler is not there, or fails.
    """
    captured = any(x.device.type == "cuda" for x in inputs)
    options: dict[str, Any] = {"triton.cudagraphs": True} if captured else {}
    try:
        import torch._inductor as inductor  # a second to import, and seldom needed

        with torch.no_grad():
            run: Callable[..., Sequence[Tensor]] = inductor.compile(
                fx.GraphModule(dict(constants), graph), list(inputs), options=options
            )
            run(*inputs)
    except Exception as error:  # whatever stops a compiler, there is the program that is not compiled
        raise TraceError(
            f"inductor: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        ) from error
    if not captured:
        return run
    # What a captured graph returns lies in its own memory, and is overwritten by the next run.
    return lambda *now: [result.clone() for result in run(*now)]
