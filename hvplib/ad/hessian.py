"""`hessian`: the dense second derivative, assembled from products with blocks of unit vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib.ad.axes import axis
from hvplib.ad.dense import Dense
from hvplib.ad.guard import derivative
from hvplib.ad.inputs import check_strategy, flatten_primals
from hvplib.ad.known import Call, Memory

__all__ = ["hessian"]


def hessian(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    chunk_size: int | Literal["auto"] | None = "auto",
    strategy: str = "auto",
    has_aux: bool = False,
    rows: Any = None,
    columns: Any = None,
) -> Callable[..., Any]:
    """H[i][j] = ∂²f / ∂xᵢ∂xⱼ: the dense Hessian of `func`, as a function of its arguments.

    A superset of `torch.func.hessian`. Assembled by products with unit vectors, many at a time. In the
    containers and shapes of `torch.func.hessian`: the containers of func's output outside those of the
    arguments, twice; a leaf has shape `out.shape + x_i.shape + x_j.shape` and the dtype of x_i. Composes
    with vmap, grad, jvp and itself. It is right where `torch.func.hessian` is not (LayerNorm and training
    BatchNorm in torch 2.13, negative `argnums`, expanded inputs), works through dropout (the same noise
    everywhere), checkpointing and keyword arguments, and takes memory for the result and one chunk.

    Args:
        func: Function of tensors or pytrees of tensors; returns a tensor or a pytree of them, or with
            `has_aux` a pair (output, aux). Further positional and keyword arguments may be anything.
        argnums: The positional argument(s) to differentiate: an int (negative counts from the end) or a
            tuple.
        chunk_size: How many unit vectors to push at once; None: all; "auto": from a memory budget and one
            probe, halved when memory runs out.
        strategy: As for `hvp`.
        has_aux: Whether func returns a second value, which is passed through: the result is (H, aux).
        rows: A part of the Hessian only, at the cost of that part. A path into the differentiated
            arguments ("0.weight", "*.bias"; result: a dict keyed by path at this level), or indices into
            their flattened concatenation (result: one flat dimension at this level).
        columns: Likewise.

    Returns:
        A function with the arguments of `func` that returns the Hessian. It carries a graph where grad mode
        is on and an argument or a captured tensor requires grad.

    Raises (the returned function):
        DerivativeError: No way of differentiating func twice is right; the message names the operation.
        MemoryError: The result does not fit; the message has the numbers. Nothing has been allocated.
        RuntimeError: Bad `argnums`, complex tensors, an output that is not a real tensor (`OutputError`).
        ValueError, TypeError, IndexError: Integer or non-tensor arguments; bad rows or columns.

    Example:
        >>> import torch
        >>> from hvplib import hessian
        >>> hessian(lambda x, a: a * (x**3).sum())(torch.tensor([1.0, 2.0]), 2.0)
        tensor([[12.,  0.],
                [ 0., 24.]])
        >>> hessian(lambda x: x.prod(), rows=[0])(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[0., 3., 2.]])
    """
    check_strategy(strategy)
    if not (chunk_size in ("auto", None) or (isinstance(chunk_size, int) and chunk_size > 0)):
        raise ValueError(f'chunk_size must be "auto", None or a positive int, got {chunk_size!r}')

    memory = Memory()
    limit = chunk_size if isinstance(chunk_size, int) else None
    plain = rows is columns is None and strategy == "auto" and not has_aux

    @functools.wraps(func)
    def compute(*args: Any, **kwargs: Any) -> Any:
        _refuse_complex(args)
        numbers = _normalised(argnums, len(args))
        tree = args[numbers] if isinstance(numbers, int) else tuple(args[n] for n in numbers)
        leaves, spec = flatten_primals(tree)

        call = Call(func, numbers, spec, args, kwargs)
        with derivative():
            if plain and (recorded := memory.whole(call, leaves, limit)) is not None:
                return recorded
            down = axis("rows", rows, tree, leaves, spec)
            across = down if rows is columns is None else axis("columns", columns, tree, leaves, spec)
            return Dense(
                lambda *tensors: call.at(tensors),
                leaves,
                (down, across),
                strategy,
                chunk_size,
                has_aux=has_aux,
                call=call,
                memory=memory,
            ).compute()

    return compute


def _normalised(argnums: Any, count: int) -> int | tuple[int, ...]:
    """`argnums` counted from the start; errors are those of torch.func, by class and text."""
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    if not all(isinstance(n, int) for n in numbers):
        raise RuntimeError(f"argnums must be int or Tuple[int, ...], got {argnums!r}")
    if not numbers:
        raise RuntimeError("argnums must be non-empty, got ()")
    for number in numbers:
        if not -count <= number < count:
            raise RuntimeError(f"Got argnum={number}, but only {count} positional inputs")
    positive = tuple(int(n) % count for n in numbers)
    if len(set(positive)) != len(positive):
        raise RuntimeError(f"argnums elements must be unique, got {argnums!r}")
    return positive if isinstance(argnums, tuple) else positive[0]


def _refuse_complex(args: Any) -> None:
    if any(isinstance(leaf, Tensor) and leaf.dtype.is_complex for leaf in tree_flatten(args)[0]):
        raise RuntimeError(
            "hessian: all arguments must be real, got a complex tensor; "
            "differentiate with respect to torch.view_as_real(z)"
        )
