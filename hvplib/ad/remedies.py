"""A function mode that runs while `func` runs and keeps its second derivatives right in torch 2.13.

It replaces operations that lack a second derivative (or have a wrong one) by equal compositions that have it,
enters contexts (math attention, no cuDNN or MKL-DNN recurrences) only around the calls that need them, keeps
what autograd calls constant constant for forward mode too, and undoes writes to tensors that outlive the
call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import _VF, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from hvplib.ad.decompositions import REPLACEMENTS, WRONG_BY_FORWARD, WRONG_BY_REVERSE
from hvplib.ad.singular import SINGULAR, SUBGRADIENT, is_singular
from hvplib.ad.tangents import ARITHMETIC, arithmetic
from hvplib.ad.transforms import in_transform, is_wrapped, outside_transforms
from hvplib.errors import DerivativeError

if TYPE_CHECKING:
    from hvplib.ad.objective import Objective

__all__ = ["Remedies", "Way"]

Way = Literal["forward", "reverse", "plain"]
Function = Callable[..., Any]
Handler = Callable[["Remedies", Function, tuple[Any, ...], dict[str, Any]], Any]


class Remedies(TorchFunctionMode):
    """Active around one evaluation of the function of an `Objective`.

    Args:
        objective: Told of what is seen: remedies used, writes, stop-gradients, singular points.
        way: "forward" or "reverse", the outer derivative that is taken; "plain" for a first derivative only.
    """

    def __init__(self, objective: Objective, way: Way) -> None:
        super().__init__()
        self.objective = objective
        self.way = way

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_dynamo_compiling():
            return func(*args, **kwargs)
        if kwargs:
            self._keep_arguments(args, kwargs)
        if self.objective.clones_inference:
            args, kwargs = tree_map(_ordinary, (args, kwargs))
        try:
            handler = _handlers[func]
        except KeyError:
            handler = _handlers[func] = _classify(func)
        if not torch.is_grad_enabled():
            result = self._without_grad(handler, func, args, kwargs)
        elif handler is None:
            result = func(*args, **kwargs)
        else:
            result = handler(self, func, args, kwargs)
        if isinstance(result, Tensor) and result.dtype in _COARSE and result.requires_grad:
            self.objective.coarse.add(result.dtype)
        return result

    def _without_grad(
        self, handler: Handler | None, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if handler is None or handler in (_write, _stop, _escape, _arithmetic):
            writes = handler is _write
            handler = _plain
        else:
            writes = False
        if not torch._C._is_fwd_grad_enabled():
            # Inside the forward of a custom autograd function, whose result has a derivative all the same.
            return (_write if writes else handler)(self, func, args, kwargs)
        return self._constant(handler, func, args, kwargs, writes=writes)

    def _constant(
        self, handler: Handler, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], *, writes: bool
    ) -> Any:
        """Run `func` where its result is a constant to autograd, and make it one to forward mode too."""
        self.objective.escaped = True
        target = args[0] if writes and args else kwargs.get("out")
        if isinstance(target, Tensor):
            self.objective.writes.note(target)
        if self.way == "forward":
            args, kwargs = tree_map(
                lambda value: value if value is target else _detached(value), (args, kwargs)
            )
        return self.objective.stops.value(lambda: handler(self, func, args, kwargs), target)

    def note_singular(
        self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """Tell the objective if this call was made at a point where torch's formulas break down."""
        if func in SINGULAR and not self.objective.functional and is_singular(func, args, kwargs, result):
            self.objective.singular = True
            self.objective.undefined = self.objective.undefined or func not in SUBGRADIENT

    def _keep_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        generator = kwargs.get("generator")
        if generator is not None:
            self.objective.keep_generator(generator)
        if kwargs.get("out") is not None:
            for tensor in tree_flatten(kwargs["out"])[0]:
                self.objective.writes.note(tensor)
        if kwargs.get("inplace") and isinstance(args[0], Tensor):
            self.objective.writes.note(args[0])


def _ordinary(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


# ---------------------------------------------------------------------------------------------- handlers


def _plain(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _write(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if args and isinstance(args[0], Tensor):
        mode.objective.writes.note(args[0])
    if in_transform() and not any(
        isinstance(t, Tensor) and is_wrapped(t) for t in tree_flatten((args, kwargs))[0]
    ):
        with outside_transforms():  # transforms forbid writes to captured tensors, a module's counter say
            return func(*args, **kwargs)
    return func(*args, **kwargs)


def _stop(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.objective.detached = True
    if func == _DATA:  # `.data` does not stop forward mode, `.detach()` does
        func = Tensor.detach
    return mode.objective.stops.value(lambda: func(*args, **kwargs))


def _escape(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.objective.escaped = True
    if func not in _NEEDS_NO_GRAD:
        args = tree_map(_detached, args)  # a number is a constant anyhow; spares torch's warning about it
    return mode.objective.stops.value(lambda: func(*args, **kwargs), numbers=True)


def _arithmetic(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if mode.way == "forward" and len(args) == 2 and not kwargs:
        return arithmetic(func, args)
    return func(*args, **kwargs)


def _decide(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.objective.decides = True
    return func(*args, **kwargs)


def _math_attention(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.objective.used.add("math attention")
    with sdpa_kernel(SDPBackend.MATH):
        return func(*args, **kwargs)


def _native_recurrence(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.objective.used.add("recurrence without cuDNN and MKL-DNN")
    cudnn, mkldnn = torch._C._get_cudnn_enabled(), torch._C._get_mkldnn_enabled()
    try:
        torch._C._set_cudnn_enabled(False)
        torch._C._set_mkldnn_enabled(False)
        return func(*args, **kwargs)
    finally:
        torch._C._set_cudnn_enabled(cudnn)
        torch._C._set_mkldnn_enabled(mkldnn)


def _batch_statistics(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Batch and instance norm in training do not read their running statistics: leave those unwritten."""
    names = ("input", "running_mean", "running_var", "weight", "bias")
    flag, default = ("use_input_stats", True) if func is F.instance_norm else ("training", False)
    bound = dict(zip((*names, flag, "momentum", "eps"), args, strict=False)) | kwargs
    if bound.get(flag, default):
        bound["running_mean"] = bound["running_var"] = None
    return func(**bound)


def _refuse_backward(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise DerivativeError(
        "func calls .backward() inside, which writes into .grad and cannot be differentiated again; "
        "use torch.autograd.grad(..., create_graph=True) inside func",
        op="backward",
    )


def _singular_point(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    mode.note_singular(func, args, kwargs, result)
    return result


def _refuse_way(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    wrong = {"forward": WRONG_BY_FORWARD, "reverse": WRONG_BY_REVERSE, "plain": frozenset()}[mode.way]
    if func in wrong:
        name = getattr(func, "__name__", str(func))
        raise DerivativeError(f"{name} has a wrong second derivative by {mode.way} mode in torch", op=name)
    return func(*args, **kwargs)


def _refuse_grad(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return None if func(*args, **kwargs) is None else _refuse_backward(mode, func, args, kwargs)


def _watched_hook(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Let a hook on a gradient look; one that changes it makes it the gradient of no function."""
    tensor, hook = args
    mode.objective.hooked = True

    def watched(grad: Tensor) -> Tensor:
        changed = hook(grad)
        if changed is not None and changed is not grad:
            raise DerivativeError(
                "a hook that func registers with Tensor.register_hook changes the gradient, which is then "
                "the gradient of no function; remove the hook, or scale the tensor itself",
                op="register_hook",
            )
        return grad

    return func(tensor, watched, **kwargs)


def _replaced(function: Function, replacement: Function) -> Handler:
    def handler(mode: Remedies, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if function in _WITH_CONSTANTS:
            kwargs = {**kwargs, "constant": lambda tensor: mode.objective.stops.value(tensor.detach)}
        mode.objective.used.add(f"{getattr(func, '__name__', func)} decomposed")
        result = replacement(*args, **kwargs)
        mode.note_singular(function, args, kwargs, result)
        return result

    return handler


def _classify(func: Any) -> Handler | None:
    """The handler of a function that the table does not name: it may write to its first argument."""
    name = getattr(func, "__name__", "")
    if func in SINGULAR:
        return _singular_point
    dunder = name.startswith("__") and name.endswith("__")
    if name in _WRITING_DUNDERS or (name.endswith("_") and not dunder):
        return _write
    return None


_WRITING_DUNDERS = frozenset(
    f"__{name}__" for name in ("setitem", "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow")
) | frozenset(f"__{name}__" for name in ("iand", "ior", "ixor", "ilshift", "irshift"))
_WITH_CONSTANTS = (F.embedding, torch.embedding)  # padding rows
_NEEDS_NO_GRAD = (Tensor.numpy, Tensor.__array__)  # torch's own error stands
_COARSE = (torch.float32, torch.bfloat16, torch.float16)
_GRAD: Any = cast(Any, Tensor.grad).__get__
_DATA: Any = Tensor.data.__get__  # type: ignore[attr-defined]

_handlers: dict[Any, Handler | None] = {
    **{function: _replaced(function, replacement) for function, replacement in REPLACEMENTS.items()},
    **dict.fromkeys(WRONG_BY_FORWARD | WRONG_BY_REVERSE, _refuse_way),
    **dict.fromkeys(ARITHMETIC, _arithmetic),
    F.scaled_dot_product_attention: _math_attention,
    F.multi_head_attention_forward: _math_attention,
    **dict.fromkeys([_VF.lstm, _VF.gru, _VF.rnn_tanh, _VF.rnn_relu], _native_recurrence),
    **dict.fromkeys([torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu], _native_recurrence),
    F.batch_norm: _batch_statistics,
    F.instance_norm: _batch_statistics,
    Tensor.backward: _refuse_backward,
    _GRAD: _refuse_grad,
    Tensor.register_hook: _watched_hook,
    **dict.fromkeys([Tensor.detach, torch.detach, _DATA], _stop),
    **dict.fromkeys(
        [Tensor.__bool__, Tensor.__int__, Tensor.__index__, torch.is_nonzero, torch.equal], _decide
    ),
    **dict.fromkeys([Tensor.is_nonzero, Tensor.equal, torch.allclose, Tensor.allclose], _decide),
    **dict.fromkeys([Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.numpy, Tensor.__array__], _escape),
}
