"""The result mirrors the vector: NumPy, tensor or pytree in; the same kind out.

Every product of an operator is computed on a block X (n, k) of tensors. What lies between that and the user
is here: recognising what was given, checking it, and turning the result back.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from hvplib.operators.base import Operator
    from hvplib.space import Space

__all__ = ["NUMPY_DTYPES", "apply", "apply_numpy", "is_scalar", "is_tree", "taken"]

Product = Callable[[Tensor], Tensor]

NUMPY_DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def apply(operator: Operator, x: Any) -> Any:
    """`A x` for a NumPy array, a tensor or a pytree of tensors: one vector or a block.

    * Tensor (n,) or (n, k), of the operator's dtype and device: the result is such a tensor.
    * Pytree like the operator's point, or with a leading k on each leaf: the result is such a pytree.
    * Anything else is an array (n,) or (n, k), as for SciPy: the result is a NumPy array.
    """
    if is_tree(operator, x):
        return _apply_tree(operator, x)
    if isinstance(x, Tensor):
        return _apply_tensor(operator, x)
    if issparse(x):
        raise TypeError(
            "cannot multiply an operator with a sparse matrix: it may stand for a block of vectors or for an "
            "operator; use A @ S.toarray() for a block, A @ SciPyOperator(S) to compose"
        )
    return apply_numpy(operator, np.asarray(x))


def apply_numpy(operator: Operator, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`A x` for an array (n,) or (n, k), computed in the operator's dtype.

    The result has the dtype that NumPy promotes both to, as SciPy's solvers expect: a float32 operator given
    a float64 vector computes in float32 and returns a float64 array that holds float32 accuracy.
    """
    _check_shape(operator, x.shape)
    rows = _rows(operator, x)
    result = operator._product(rows.mT) if x.ndim == 2 else operator._vector_product(rows)
    array: np.ndarray[Any, Any] = result.cpu().numpy()
    if x.dtype == operator.dtype:
        return array
    return array.astype(np.result_type(x.dtype, operator.dtype), copy=False)


def _rows(operator: Operator, x: np.ndarray[Any, Any]) -> Tensor:
    """A copy of x laid out as a contiguous (k, n): torch refuses read-only memory and negative strides."""
    if x.dtype.kind == "c":
        raise TypeError(f"expected a real vector, got dtype {x.dtype}; multiply its real and imaginary part")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"expected an array of numbers, got dtype {x.dtype}")
    return torch.from_numpy(np.array(x.T, dtype=operator.dtype, order="C")).to(operator.device)


def _apply_tensor(operator: Operator, x: Tensor) -> Tensor:
    _check_shape(operator, x.shape)
    _check_tensor(operator, x)
    return operator._product(x) if x.dim() == 2 else operator._vector_product(x)


def _apply_tree(operator: Operator, x: Any) -> Any:
    domain, codomain = operator.domain, operator.codomain
    if domain is None or codomain is None:
        raise TypeError(
            f"{operator!r} acts on flat vectors and knows no pytree structure; give a vector "
            f"({operator.shape[1]},) or a block ({operator.shape[1]}, k)"
        )
    _check_dtypes(domain, x)
    kind = domain.kind(x)
    if kind == "block":
        return codomain.unflatten_block(operator._product(domain.flatten_block(x)))
    if kind is None:
        domain.flatten(x)  # says in what it is no such pytree
    return operator._tree_product(x)


def _check_dtypes(space: Space, tree: Any) -> None:
    leaves = space.structure.leaves(tree)
    for leaf, dtype in zip(tree_leaves(tree) if leaves is None else leaves, space.dtypes, strict=False):
        if isinstance(leaf, Tensor) and leaf.dtype != dtype:
            raise TypeError(
                f"each tensor of a direction must have its primal's dtype {dtype}, got {leaf.dtype}; "
                f"convert it with .to({dtype}) (tensors are never converted silently)"
            )


def _check_shape(operator: Operator, shape: tuple[int, ...], name: str = "") -> None:
    size = operator.shape[1]
    if len(shape) not in (1, 2) or shape[0] != size:
        expected = f"{name} must be" if name else "expected"
        raise ValueError(f"{expected} a vector ({size},) or a block ({size}, k), got shape {tuple(shape)}")


def _check_tensor(operator: Operator, x: Tensor, name: str = "") -> None:
    expected = f"{name} must be" if name else "expected"
    if x.dtype != operator.torch_dtype:
        raise TypeError(
            f"{expected} a tensor of the operator's dtype {operator.torch_dtype}, got {x.dtype}; "
            f"convert it with .to({operator.torch_dtype}) (tensors are never converted silently)"
        )
    if x.device != operator.device:
        raise ValueError(
            f"{expected} a tensor on the operator's device {operator.device}, got one on {x.device}"
        )


def taken(operator: Operator, x: Any, name: str) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """What a solver computes with, and the way back: x as a block, and what makes a block like x.

    Args:
        operator: Square.
        x: One vector or a block: a NumPy array, a tensor of the operator's dtype and device, or a pytree.
        name: Of the argument, for errors.

    Returns:
        A block (n, k) that shares no memory with x, and a function of blocks (n, k) that returns an array, a
        tensor or a pytree, as x is one: a vector if x is one vector and k = 1.
    """
    if is_tree(operator, x):
        return _taken_tree(operator, x, name)
    if not isinstance(x, Tensor):
        return _taken_numpy(operator, np.asarray(x), name)
    _check_shape(operator, tuple(x.shape), name)
    _check_tensor(operator, x, name)
    rows = (x if x.dim() == 2 else x.unsqueeze(1)).detach().mT.clone(memory_format=torch.contiguous_format)
    return rows.mT, _squeezing(x.dim(), lambda block: block)


def _taken_tree(operator: Operator, x: Any, name: str) -> tuple[Tensor, Callable[[Tensor], Any]]:
    space = operator.domain
    if space is None:
        raise TypeError(
            f"{name} is a pytree, but {operator!r} acts on flat vectors; give a vector "
            f"({operator.shape[1]},) or a block ({operator.shape[1]}, k)"
        )
    _check_dtypes(space, x)
    if space.kind(x) == "block":
        return space.flatten_block(x), space.unflatten_block
    return (
        space.flatten(x).unsqueeze(1),
        lambda block: (
            space.unflatten(block.squeeze(1)) if block.shape[1] == 1 else space.unflatten_block(block)
        ),
    )


def _taken_numpy(
    operator: Operator, x: np.ndarray[Any, Any], name: str
) -> tuple[Tensor, Callable[[Tensor], Any]]:
    _check_shape(operator, x.shape, name)
    rows = _rows(operator, x)
    dtype = np.result_type(x.dtype, operator.dtype)
    return (rows.mT if x.ndim == 2 else rows.unsqueeze(1)), _squeezing(
        x.ndim, lambda block: block.cpu().numpy().astype(dtype, copy=False)
    )


def _squeezing(ndim: int, back: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    return lambda block: back(block.squeeze(1) if ndim == 1 and block.shape[1] == 1 else block)


def is_tree(operator: Operator, x: Any) -> bool:
    """Whether x is a pytree of tensors, beside a flat vector or block.

    Where the operator's point is one tensor of another shape than (n,), so may its directions be. A leaf of
    shape (n,), and what looks like a block (n, k), is a flat vector or block: the numbers are the same.
    """
    if not isinstance(x, Tensor):
        if isinstance(x, np.ndarray):
            return False
        if type(x) in (tuple, list) and any(isinstance(leaf, Tensor) for leaf in x):
            return True
        return any(isinstance(leaf, Tensor) for leaf in tree_leaves(x))
    if x.dim() in (1, 2) and x.shape[0] == operator.shape[1]:
        return False
    return operator.domain is not None and operator.domain.kind(x) is not None


def is_scalar(x: Any) -> bool:
    """Whether x is one number: Python's, NumPy's, or a 0-d tensor or array."""
    return isinstance(x, numbers.Number | np.generic) or (isinstance(x, Tensor | np.ndarray) and x.ndim == 0)
