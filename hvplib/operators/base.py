"""The operator: a SciPy LinearOperator that also speaks torch and pytrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from hvplib.operators.mirror import NUMPY_DTYPES, apply, apply_numpy, is_scalar, is_tree
from hvplib.space import Space

__all__ = ["Indices", "Operator"]

Indices = Union[slice, Sequence[int], Tensor, "np.ndarray[Any, Any]", None]


class Operator(LinearOperator):  # type: ignore[misc]  # SciPy carries no types
    """x ↦ A x, a linear map known by its products.

    It is a `scipy.sparse.linalg.LinearOperator`, so SciPy's solvers take it as it is, and its `@` mirrors
    what it is given: a NumPy array, a tensor on the operator's device, or a pytree like the point that it
    belongs to; one vector, or a block (columns of an (n, k) array or tensor, a leading k on each leaf of a
    pytree). The result carries no gradient history.

    A float32 operator says float32. Tensors must have exactly its dtype. NumPy vectors follow NumPy, as
    SciPy's solvers need: a float64 array is rounded to float32, multiplied, and returned as float64; ask such
    solvers for a tolerance of float32, not of float64.

    To write one, subclass it and write `_matmat_torch`, the product with a block, and `_rmatmat_torch`, that
    of the transpose, unless the operator is symmetric.

    Args:
        shape: (m, n).
        dtype: torch.float32 or torch.float64.
        device: Where vectors lie; the CPU by default.
        symmetric: Declares A = Aᵀ.
        positive_semidefinite: Declares xᵀ A x ≥ 0 for all x, and symmetry with it.
        domain: Space of what A multiplies, if it is one of pytrees.
        codomain: Space of the results; the domain's by default where A is square.

    Attributes:
        num_matvecs: Products made so far, by this operator itself or within a larger one; a block of k
            columns counts as k.

    Example:
        >>> import torch
        >>> class Reverse(Operator):
        ...     def _matmat_torch(self, X):
        ...         return X.flip(0)
        >>> A = Reverse((3, 3), torch.float64, symmetric=True)
        >>> A @ torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        tensor([3., 2., 1.], dtype=torch.float64)
        >>> (2 * A).shifted(10.0) @ [1.0, 2.0, 3.0]
        array([16., 24., 32.])
    """

    # A class that has __getitem__ is taken for a sequence unless it says otherwise.
    __iter__ = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Where the block product is written anew, a parent's shortcuts around it count no more."""
        super().__init_subclass__(**options)
        if "_matmat_torch" in vars(cls):
            for shortcut in ("_matvec_torch", "_tree_matvec_torch"):
                if shortcut not in vars(cls):
                    setattr(cls, shortcut, getattr(Operator, shortcut))

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str | None = None,
        *,
        symmetric: bool = False,
        positive_semidefinite: bool = False,
        domain: Space | None = None,
        codomain: Space | None = None,
    ) -> None:
        if dtype not in NUMPY_DTYPES:
            raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
        if (symmetric or positive_semidefinite) and shape[0] != shape[1]:
            raise ValueError(f"a symmetric operator must be square, got shape {tuple(shape)}")
        super().__init__(NUMPY_DTYPES[dtype], shape)
        self.torch_dtype = dtype
        self.device = torch.empty(0, device=device or "cpu").device
        self.symmetric = symmetric or positive_semidefinite
        self.positive_semidefinite = positive_semidefinite
        self.domain = domain
        self.codomain = codomain if codomain is not None or shape[0] != shape[1] else domain
        self.num_matvecs = 0

    def __repr__(self) -> str:
        facts = " positive semidefinite" if self.positive_semidefinite else " symmetric" * self.symmetric
        rows, columns = self.shape
        return f"<{rows}x{columns}{facts} {type(self).__name__} with dtype={self.dtype}>"

    # What a subclass writes.

    def _matmat_torch(self, X: Tensor) -> Tensor:
        """`A X` for X (n, k) of the operator's dtype on its device; a new tensor (m, k)."""
        raise NotImplementedError(f"{type(self).__name__} must define _matmat_torch(X)")

    def _rmatmat_torch(self, X: Tensor) -> Tensor:
        """`Aᵀ X` for X (m, k); a new tensor (n, k)."""
        if self.symmetric:
            return self._matmat_torch(X)
        raise NotImplementedError(
            f"{type(self).__name__} defines no product with its transpose; write _rmatmat_torch(X), "
            "or declare symmetric=True if it is symmetric"
        )

    def _matvec_torch(self, x: Tensor) -> Tensor:
        """`A x` for one vector (n,); a new tensor (m,). Written only where it saves something."""
        return self._matmat_torch(x.unsqueeze(1)).squeeze(1)

    def _tree_matvec_torch(self, x: Any) -> Any:
        """`A x` for a pytree like the domain's; likewise."""
        assert self.domain is not None and self.codomain is not None
        return self.codomain.unflatten(self._matvec_torch(self.domain.flatten(x).detach()))

    # Products.

    def _vector_product(self, x: Tensor) -> Tensor:
        self.num_matvecs += 1
        return _detached(self._matvec_torch(_detached(x)))

    def _tree_product(self, x: Any) -> Any:
        self.num_matvecs += 1
        return self._tree_matvec_torch(x)

    def _product(self, X: Tensor) -> Tensor:
        self.num_matvecs += X.shape[1]
        return _detached(self._matmat_torch(_detached(X)))

    def _rproduct(self, X: Tensor) -> Tensor:
        self.num_matvecs += X.shape[1]
        return _detached(self._rmatmat_torch(_detached(X)))

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, Tensor | np.ndarray) and other.ndim:
            return apply(self, other)
        if is_scalar(other) and not is_tree(self, other):
            raise ValueError(
                "A @ scalar is not defined; use A * scalar, or A.shifted(scalar) for A + scalar·I"
            )
        if isinstance(other, LinearOperator):
            return algebra.Product(self, self._coerced(other))
        return apply(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        if is_scalar(other) and not is_tree(self.T, other):
            raise ValueError("scalar @ A is not defined; use scalar * A")
        if isinstance(other, LinearOperator):
            return algebra.Product(self._coerced(other), self)
        transposed = self.T
        if is_tree(transposed, other) or issparse(other):
            return apply(transposed, other)
        rows = other if isinstance(other, Tensor) else np.asarray(other)
        return apply(transposed, rows) if rows.ndim == 1 else apply(transposed, rows.T).T

    def dot(self, x: Any) -> Any:
        """`A x`, or the product of two operators, or `x A` for a scalar x: what SciPy's `dot` does."""
        return self * x

    def __call__(self, x: Any) -> Any:
        """`A x`, as `A @ x`."""
        return self @ x

    # SciPy's entry points. Its own classes hold NumPy arrays only; a tensor never reaches them.

    def matvec(self, x: Any) -> Any:
        """`A x` for one vector (n,) or (n, 1)."""
        if isinstance(x, Tensor):
            return self @ x
        plain = type(x) is np.ndarray and x.shape == self.shape[1:]
        return apply_numpy(self, x) if plain else super().matvec(x)

    def matmat(self, X: Any) -> Any:
        """`A X` for a block (n, k)."""
        return self @ X if isinstance(X, Tensor) else super().matmat(X)

    def rmatvec(self, x: Any) -> Any:
        """`Aᵀ x` for one vector (m,) or (m, 1)."""
        return self.T.matvec(x)

    def rmatmat(self, X: Any) -> Any:
        """`Aᵀ X` for a block (m, k)."""
        return self.T.matmat(X)

    def _matvec(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return apply_numpy(self, np.asarray(x))

    def _matmat(self, X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return apply_numpy(self, np.asarray(X))

    def _rmatvec(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return apply_numpy(self._transpose(), np.asarray(x))

    def _rmatmat(self, X: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return apply_numpy(self._transpose(), np.asarray(X))

    def _transpose(self) -> Operator:
        return self if self.symmetric else algebra.Transposed(self)

    def _adjoint(self) -> Operator:
        return self._transpose()

    # Algebra: lazy, and what is declared of the parts is carried over where it follows.

    def __add__(self, other: Any) -> Operator:
        return algebra.Sum(self, self._coerced(other))

    def __radd__(self, other: Any) -> Operator:
        return algebra.Sum(self._coerced(other), self)

    def __sub__(self, other: Any) -> Operator:
        return algebra.Sum(self, -self._coerced(other))

    def __rsub__(self, other: Any) -> Operator:
        return algebra.Sum(self._coerced(other), -self)

    def __neg__(self) -> Operator:
        return algebra.Scaled(self, -1.0)

    def __mul__(self, other: Any) -> Any:
        return algebra.Scaled(self, _real(other)) if is_scalar(other) else self @ other

    def __rmul__(self, other: Any) -> Any:
        return algebra.Scaled(self, _real(other)) if is_scalar(other) else other @ self

    def __truediv__(self, other: Any) -> Operator:
        if not is_scalar(other):
            raise TypeError(f"an operator can be divided by a scalar only, got {type(other).__name__}")
        return algebra.Scaled(self, 1.0 / _real(other))

    def __pow__(self, exponent: int) -> Operator:
        return algebra.Power(self, exponent)

    def shifted(self, damping: float) -> Operator:
        """A + δ I.

        Args:
            damping: δ. A positive semidefinite A stays so for δ ≥ 0.

        Example:
            >>> import torch
            >>> from hvplib.operators import Diagonal
            >>> Diagonal(torch.tensor([1.0, 2.0])).shifted(0.5).to_dense()
            tensor([[1.5000, 0.0000],
                    [0.0000, 2.5000]])
        """
        return algebra.Shifted(self, _real(damping))

    def submatrix(self, rows: Indices = None, columns: Indices = None) -> Operator:
        """A[rows, columns], for index sequences or slices; None takes all.

        A principal submatrix (the same rows and columns) of a symmetric operator is symmetric. A product
        costs one of A.

        Example:
            >>> import torch
            >>> from hvplib.operators import Diagonal
            >>> Diagonal(torch.tensor([1.0, 2.0, 3.0])).submatrix([2, 0], slice(1, None)).to_dense()
            tensor([[0., 3.],
                    [0., 0.]])
        """
        return algebra.Submatrix(self, rows, columns)

    def __getitem__(self, key: Any) -> Operator:
        if not isinstance(key, tuple) or len(key) != 2:
            raise TypeError(
                "index an operator by rows and columns, A[rows, columns], each a slice or indices"
            )
        return self.submatrix(*key)

    def to_dense(self, *, chunk_size: int = 64) -> Tensor:
        """A as a tensor (m, n), by products with `chunk_size` columns of the identity at a time."""
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        rows, columns = self.shape
        dense = torch.empty(rows, columns, dtype=self.torch_dtype, device=self.device)
        for start in range(0, columns, chunk_size):
            stop = min(start + chunk_size, columns)
            basis = torch.zeros(stop - start, columns, dtype=self.torch_dtype, device=self.device)
            basis.diagonal(start).fill_(1)
            dense[:, start:stop] = self._product(basis.mT)
        return dense

    def _coerced(self, other: Any) -> Operator:
        """`other` as an operator beside this one."""
        if isinstance(other, Operator):
            return other
        if is_scalar(other):
            raise TypeError("A + scalar is not defined; use A.shifted(scalar) for A + scalar·I")
        if isinstance(other, LinearOperator) or issparse(other):
            return basic.SciPyOperator(other, device=self.device)
        if isinstance(other, Tensor | np.ndarray):
            return basic.Matrix(other, device=self.device)
        raise TypeError(f"expected an operator or a matrix, got {type(other).__name__}")


def _detached(x: Tensor) -> Tensor:
    """x without history; itself where it has none, which saves a call."""
    return x.detach() if x.requires_grad else x


def _real(x: Any) -> float:
    if isinstance(x, complex | np.complexfloating) or (isinstance(x, Tensor) and x.is_complex()):
        raise TypeError(f"expected a real scalar, got {x!r}; complex operators are not supported")
    return float(x)


# The classes below are operators, and operators make them: they can only be imported once Operator exists.
from hvplib.operators import algebra, basic  # noqa: E402
