"""What the tests of records share: recording a function, and running a graph as it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.fx as fx
from torch import Tensor

from hvplib.ad.trace.recorder import Record, record
from hvplib.ad.trace.replay import same_bits

__all__ = ["agree", "calls", "made", "run"]


def made(compute: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> Record:
    """A record that holds for other inputs."""
    result = record(compute, inputs)
    assert result.restriction == ""
    return result


def run(result: Record, *inputs: Tensor) -> list[Tensor]:
    """Its graph, run by torch.fx."""
    result.graph.lint()
    return list(fx.GraphModule(result.constants, result.graph)(*inputs))


def calls(result: Record) -> list[Any]:
    """The operations of its graph, in order."""
    return [node.target for node in result.graph.nodes if node.op == "call_function"]


def agree(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Whether these are the same tensors, bit for bit."""
    return all(same_bits(a, b) for a, b in zip(left, right, strict=True))
