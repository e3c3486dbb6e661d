"""The closure of a `torch.optim` step, called many times as if it were called once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from hvplib.ad.captured import Writes
from hvplib.ad.guard import derivative
from hvplib.ad.objective import Objective
from hvplib.ad.randomness import RandomState
from hvplib.ad.remedies import Way
from hvplib.errors import DerivativeError

__all__ = ["Closure", "Result"]


@dataclass(frozen=True)
class Result:
    """What a closure returned.

    Attributes:
        loss: 0-d, with its graph.
        outputs: The tensors that the loss is computed from, with their graphs; none if it returned a loss
            alone.
    """

    loss: Tensor
    outputs: tuple[Tensor, ...]


class Closure(Objective):
    """A closure as a function of the parameters' present values, the same at each call.

    Each call sees the noise and the captured tensors (running statistics, counters) of the first, under the
    remedies that make second derivatives right. Calls belong inside a `session()`, at whose end generators
    and tensors are as before the first call; `settle` then leaves them as one call would have.

    Args:
        closure: The user's function of no arguments.
        name: What messages call it.
        updates_statistics: Whether the first call updates the running statistics of normalisations.
    """

    def __init__(
        self,
        closure: Callable[[], Any],
        *,
        name: str = "closure",
        updates_statistics: bool = True,
    ) -> None:
        super().__init__(self._called, tree_flatten(())[1])
        self.writes = self._record = _Writes()
        self._closure = closure
        self._name = name
        self._updates_statistics = updates_statistics
        self._noise_after: RandomState | None = None
        self._written: list[tuple[weakref.ref[Tensor], Tensor]] = []

    def result(self, way: Way = "reverse") -> Result:
        """Call the closure, with graphs.

        Raises:
            TypeError, ValueError: It does not return what it must return.
            RuntimeError: It calls `backward()`.
        """
        with derivative(), torch.enable_grad():
            return self._checked(self.evaluate([], way))

    def value(self) -> float:
        """The loss alone."""
        return float(self.result("plain").loss.detach())

    def advance(self) -> None:
        """Set the generators to where the first call left them."""
        assert self._noise_after is not None
        self._noise_after.restore()

    def settle(self) -> None:
        """Leave generators and captured tensors as the first call did."""
        self.advance()
        with torch.no_grad():
            for reference, after in self._written:
                if (tensor := reference()) is not None:
                    tensor.copy_(after)

    def evaluate(self, leaves: Sequence[Tensor], way: Way) -> Any:
        try:
            output = super().evaluate(leaves, way)
        except DerivativeError as error:
            if error.op == "backward":
                self._refuse_backward(error)
            raise
        if self._noise_after is None:
            self._noise_after = self._noise.again()
            self._written += self._record.after() if self._updates_statistics else []
        return output

    def _called(self) -> Any:
        if self._noise_after is not None or not self._updates_statistics:
            return self._closure()
        with _RunningStatistics() as statistics:
            output = self._closure()
        self._written = [(weakref.ref(buffer), after) for buffer, after in statistics.updated.values()]
        return output

    def _refuse_backward(self, error: Exception) -> NoReturn:
        raise RuntimeError(
            f"{self._name} must return the loss without calling backward() or touching .grad (zero_grad() is "
            "not needed either): NewtonCG differentiates the loss itself; remove these calls"
        ) from error

    def _checked(self, returned: Any) -> Result:
        loss: Any = returned
        outputs: list[Any] = []
        if isinstance(returned, tuple | list):
            if len(returned) != 2:
                raise TypeError(
                    f"{self._name} must return the loss or a pair (loss, outputs), got {len(returned)} values"
                )
            loss, outputs = returned[0], tree_flatten(returned[1])[0]
        self._check_loss(loss)
        for output in outputs:
            self._check_output(output)
        return Result(loss.reshape(()), tuple(z for z in outputs if z.requires_grad))

    def _check_loss(self, loss: Any) -> None:
        if not isinstance(loss, Tensor):
            raise TypeError(
                f"{self._name} must return the loss as a tensor, got {type(loss).__name__}; "
                "return it without .item() or float()"
            )
        if loss.numel() != 1 or not loss.dtype.is_floating_point:
            raise ValueError(
                f"{self._name} must return a real scalar loss, got {tuple(loss.shape)} of {loss.dtype}; "
                "reduce it with .mean() or .sum()"
            )
        if not loss.requires_grad:
            raise ValueError(
                f"{self._name} returned a loss without a graph; compute it from the parameters, without "
                "torch.no_grad(), .detach() or .item(), and set requires_grad on them"
            )

    def _check_output(self, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.dtype.is_floating_point:
            got = output.dtype if isinstance(output, Tensor) else type(output).__name__
            raise TypeError(
                f"{self._name} must return (loss, outputs) with real floating point tensors as outputs, got "
                f"{got}; return the tensors that the loss is computed from"
            )
        if isinstance(output, nn.Parameter) or (output.is_leaf and output.requires_grad):
            raise ValueError(
                f"{self._name} returned a parameter as an output; outputs are computed from the parameters: "
                "return parameter.clone(), and compute the loss from that clone"
            )


class _Writes(Writes):
    """The record of writes, with what the tensors hold now."""

    def after(self) -> list[tuple[weakref.ref[Tensor], Tensor]]:
        """Each tensor written to and what it holds; it is not kept alive, as `undo` counts references."""
        return [(weakref.ref(tensor), tensor.detach().clone()) for tensor, *_ in self._before.values()]


class _RunningStatistics(TorchFunctionMode):
    """Works out what normalisations make of their running statistics, without writing to them.

    The remedies keep them from being written, as the graph refers to them.

    Attributes:
        updated: The statistics, by identity, and what they would be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.updated: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.batch_norm, F.instance_norm):
            with torch._C.DisableTorchFunction(), torch.no_grad():
                self._update(func, args, kwargs)
        return func(*args, **kwargs)

    def _update(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        flag = "training" if func is F.batch_norm else "use_input_stats"
        names = ("input", "running_mean", "running_var", "weight", "bias", flag, "momentum", "eps")
        bound = dict(zip(names, args, strict=False)) | kwargs
        for name in ("running_mean", "running_var"):
            if (buffer := bound.get(name)) is not None:
                bound[name] = self.updated.setdefault(id(buffer), (buffer, buffer.clone()))[1]
        func(**bound)
