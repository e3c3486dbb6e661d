"""Primals and tangents as flat lists of tensors, with one clear error for each kind of bad input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

__all__ = ["ENGINES", "STRATEGIES", "Alike", "Engines", "call", "check_engine", "check_strategy"]
__all__ += ["flatten_like", "flatten_primals", "unflatten"]

Engines = Literal["auto", "graph", "record", "compile"]
ENGINES: tuple[Engines, ...] = get_args(Engines)
STRATEGIES = ("auto", "forward-over-reverse", "reverse-over-reverse", "finite-difference")


def check_strategy(strategy: str) -> None:
    """Raise ValueError unless `strategy` is one of `STRATEGIES`."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(map(repr, STRATEGIES))}; got {strategy!r}")


def check_engine(engine: str) -> None:
    """Raise ValueError unless `engine` is one of `ENGINES`."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}; got {engine!r}")


def call(func: Callable[..., Any], primals: Any) -> Any:
    """`func(*primals)` for a tuple of arguments, `func(primals)` for any other pytree."""
    return func(*primals) if type(primals) is tuple else func(primals)


def flatten_primals(primals: Any) -> tuple[list[Tensor], TreeSpec]:
    """The leaves of `primals`, each a dense real floating tensor with data, and their structure."""
    leaves, spec = tree_flatten(primals)
    if not leaves:
        raise ValueError(
            "primals must hold at least one tensor, got an empty pytree; pass what func differentiates"
        )
    for index, leaf in enumerate(leaves):
        if (fault := _fault(leaf)) is not None:
            kind, problem = fault
            raise kind(f"{_place('primals', primals, index)} {problem}")
    return leaves, spec


def flatten_like(
    name: str, tree: Any, primals: Any, leaves: Sequence[Tensor], spec: TreeSpec
) -> list[Tensor]:
    """The leaves of `tree`, which must match those of `primals` in structure, shape, dtype and device."""
    found, found_spec = tree_flatten(tree)
    if found_spec != spec:
        raise ValueError(
            f"{name} must have the structure of primals, {_structure(spec)}, got {_structure(found_spec)}; "
            f"give one tensor per tensor of primals"
        )
    for index, (given, primal) in enumerate(zip(found, leaves, strict=True)):
        if not isinstance(given, Tensor):
            raise TypeError(
                f"{_place(name, tree, index)} must be a tensor, got {type(given).__name__}; "
                "use torch.as_tensor"
            )
        if given.shape != primal.shape or given.dtype != primal.dtype or given.device != primal.device:
            raise ValueError(f"{_place(name, tree, index)} {_mismatch(primal, given)}")
    return found


class Alike:
    """Whether tensors are like these in shape, dtype and device; `flatten_like` says in what they are not."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._traits = [(x.shape, x.dtype, x.device) for x in leaves]

    def __call__(self, tensors: Sequence[Any]) -> bool:
        """Whether each is a tensor like its counterpart; there are as many."""
        for x, (shape, dtype, device) in zip(tensors, self._traits, strict=True):
            if not isinstance(x, Tensor) or x.shape != shape or x.dtype != dtype or x.device != device:
                return False
        return True

    def width(self, tensors: Sequence[Any]) -> int | None:
        """k, if each is k tensors like its counterpart along a leading dimension; otherwise None."""
        widths = set()
        for x, (shape, dtype, device) in zip(tensors, self._traits, strict=True):
            if not isinstance(x, Tensor) or not x.dim() or x.dtype != dtype or x.device != device:
                return None
            if (stacked := x.shape)[1:] != shape:
                return None
            widths.add(stacked[0])
        return widths.pop() if len(widths) == 1 else None


def unflatten(leaves: Sequence[Any], spec: TreeSpec) -> Any:
    """The pytree of `spec` with these leaves."""
    return tree_unflatten(list(leaves), spec)


def _mismatch(primal: Tensor, given: Tensor) -> str:
    aspects = ("shape", "dtype", "device")
    aspect = next(a for a in aspects if getattr(primal, a) != getattr(given, a))
    return (
        f"must have the {aspect} of its primal, {_show(getattr(primal, aspect))}, "
        f"got {_show(getattr(given, aspect))}; convert it first (dtypes are never mixed silently)"
    )


def _fault(leaf: Any) -> tuple[type[Exception], str] | None:
    if not isinstance(leaf, Tensor):
        return TypeError, (
            f"must be a tensor, got {type(leaf).__name__}; wrap it with torch.tensor, "
            "or close over it if it is a constant"
        )
    if torch.nn.parameter.is_lazy(leaf):
        return (
            ValueError,
            "is an uninitialised lazy parameter; run the module once on data to give it a shape",
        )
    if leaf.dtype.is_complex:
        return RuntimeError, (
            f"must be real, got {leaf.dtype}; complex numbers are not supported, "
            "differentiate with respect to torch.view_as_real(z)"
        )
    if not leaf.dtype.is_floating_point:
        return (
            ValueError,
            f"must be floating point, got {leaf.dtype}; convert it, or close over it if constant",
        )
    if leaf.layout != torch.strided:
        return ValueError, f"must be dense, got layout {leaf.layout}; call .to_dense() first"
    if leaf.device.type == "meta":
        return (
            ValueError,
            "is on the meta device and holds no numbers; materialise it (to_empty and load) first",
        )
    return None


def _place(name: str, tree: Any, index: int) -> str:
    path = tree_flatten_with_path(tree)[0][index][0]
    return f"{name}{keystr(path)}"


def _structure(spec: TreeSpec) -> str:
    return str(tree_unflatten(["*"] * spec.num_leaves, spec)).replace("'*'", "*")


def _show(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value)
