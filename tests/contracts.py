"""One table of operators, each with the dense matrix that it must equal: a new operator is a new row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.linalg import aslinearoperator
from torch import Tensor
from torch.distributions import Normal

from hvplib import (
    BlockDiagonal,
    Diagonal,
    FisherOperator,
    FunctionOperator,
    GGNOperator,
    HessianOperator,
    Identity,
    JacobianOperator,
    Kronecker,
    LowRank,
    LowRankPlusDiagonal,
    Matrix,
    Operator,
    SciPyOperator,
)
from hvplib.operators.algebra import Power, Product, Scaled, Shifted, Submatrix, Sum, Transposed
from hvplib.operators.projection import Deflated, Projection
from tests.problems import rosenbrock

Row = Callable[[torch.dtype], tuple[Operator, Tensor]]


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Reproducible normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def symmetric(n: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A symmetric matrix with eigenvalues of both signs."""
    a = numbers(n, n, dtype=dtype, seed=seed)
    return a + a.mT


def _identity(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    return Identity(3, dtype=dtype), torch.eye(3, dtype=dtype)


def _diagonal(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    d = numbers(4, dtype=dtype)
    return Diagonal(d), torch.diag(d)


def _matrix(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    m = numbers(3, 5, dtype=dtype)
    return Matrix(m), m


def _symmetric_matrix(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    m = symmetric(4, dtype)
    return Matrix(m), m


def _one_by_one(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    m = torch.full((1, 1), -2.0, dtype=dtype)
    return Matrix(m), m


def _low_rank(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    u, s = numbers(5, 2, dtype=dtype), torch.tensor([2.0, 0.5], dtype=dtype)
    return LowRank(u, s), u @ torch.diag(s) @ u.mT


def _function(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    lower = torch.ones(4, 4, dtype=dtype).tril()
    operator = FunctionOperator(
        lambda X: X.cumsum(0), (4, 4), dtype=dtype, rmatmat=lambda X: X.flip(0).cumsum(0).flip(0)
    )
    return operator, lower


def _sparse(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    dense = numbers(3, 4, dtype=dtype)
    return SciPyOperator(scipy.sparse.csr_array(dense.numpy())), dense


def _scipy_operator(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    dense = symmetric(3, dtype)
    return SciPyOperator(aslinearoperator(dense.numpy()), symmetric=True), dense


def _sum(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, b = numbers(2, 3, 3, dtype=dtype)
    return Sum(Matrix(a), Matrix(b)), a + b


def _scaled(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = numbers(3, 2, dtype=dtype)
    return Scaled(Matrix(a), -0.5), -0.5 * a


def _shifted(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = numbers(3, 3, dtype=dtype)
    return Shifted(Matrix(a), 2.0), a + 2 * torch.eye(3, dtype=dtype)


def _product(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, b = numbers(2, 3, dtype=dtype), numbers(3, 4, dtype=dtype, seed=1)
    return Product(Matrix(a), Matrix(b)), a @ b


def _gram(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = Matrix(numbers(3, 5, dtype=dtype))
    return Product(a.T, a), a.matrix.mT @ a.matrix


def _power(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = numbers(3, 3, dtype=dtype)
    return Power(Matrix(a), 3), a @ a @ a


def _square(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = symmetric(3, dtype)
    return Power(Matrix(a), 2), a @ a


def _submatrix(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = numbers(5, 4, dtype=dtype)
    return Submatrix(Matrix(a), [3, 0, 0], slice(1, None)), a[[3, 0, 0], 1:]


def _principal(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = symmetric(5, dtype)
    return Submatrix(Matrix(a), [3, -5], [3, 0]), a[[3, 0]][:, [3, 0]]


def _transposed(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a = numbers(2, 4, dtype=dtype)
    return Transposed(Matrix(a)), a.mT


def _projection(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    v = numbers(5, 2, dtype=dtype)
    return Projection(v), v @ torch.linalg.pinv(v)


def _complement(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    v = numbers(5, 2, dtype=dtype)
    return Projection(v, complement=True), torch.eye(5, dtype=dtype) - v @ torch.linalg.pinv(v)


def _oblique(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    v, m = numbers(4, 2, dtype=dtype), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=dtype)
    weighed = m.unsqueeze(1) * v
    return Projection(v, metric=Diagonal(m)), v @ torch.linalg.solve(v.mT @ weighed, weighed.mT)


def _deflated(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, v = symmetric(5, dtype), numbers(5, 2, dtype=dtype, seed=1)
    inside = v @ torch.linalg.pinv(v)
    outside = torch.eye(5, dtype=dtype) - inside
    return Deflated(Matrix(a), v, shift=0.5), outside @ a @ outside + 0.5 * inside


def _hotelling(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, q = symmetric(5, dtype), torch.linalg.qr(numbers(5, 2, dtype=dtype, seed=1)).Q
    values = torch.tensor([3.0, -1.0], dtype=dtype)
    return Deflated(Matrix(a), q, values, shift=0.5), a - (q * (values - 0.5)) @ q.mT


def _hessian(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    problem = rosenbrock()
    return HessianOperator(problem.func, problem.point.to(dtype)), problem.hessian.to(dtype)


def regression(dtype: torch.dtype, **options: object) -> tuple[HessianOperator, Tensor]:
    """Least squares over uneven batches on a pytree: H = AᵀA / m."""
    a, y = numbers(7, 3, dtype=dtype), numbers(7, dtype=dtype, seed=1)
    data = [{"a": a[:4], "y": y[:4]}, {"a": a[4:6], "y": y[4:6]}, {"a": a[6:], "y": y[6:]}]

    def loss(x: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return 0.5 * (batch["a"] @ torch.cat([x["u"].flatten(), x["v"][None]]) - batch["y"]).square().mean()

    point = {"u": numbers(1, 2, dtype=dtype), "v": numbers(1, dtype=dtype)[0]}
    return HessianOperator(loss, point, data, **options), a.mT @ a / 7  # type: ignore[arg-type]


def _kept(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    return regression(dtype)


def _recomputed(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    return regression(dtype, memory_budget=0)


def _models(dtype: torch.dtype) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
    """Rows a (7, 3), the same in uneven batches, and a point."""
    a = numbers(7, 3, dtype=dtype)
    return a, [a[:4], a[4:6], a[6:]], {"u": numbers(1, 2, dtype=dtype), "v": numbers(1, dtype=dtype)[0]}


def _outputs(x: dict[str, Tensor], rows: Tensor) -> Tensor:
    return rows @ torch.cat([x["u"].flatten(), x["v"][None]])


def _ggn(dtype: torch.dtype, **options: object) -> tuple[Operator, Tensor]:
    a, data, point = _models(dtype)
    operator = GGNOperator(_outputs, lambda z, _: 0.5 * z.square().mean(), point, data, **options)  # type: ignore[arg-type]
    return operator, a.mT @ a / 7


def _fisher(dtype: torch.dtype, **options: object) -> tuple[Operator, Tensor]:
    a, data, point = _models(dtype)
    operator = FisherOperator(_outputs, lambda z, _: Normal(z, 1.0), point, data, **options)  # type: ignore[arg-type]
    return operator, a.mT @ a / 7


def _scores(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, _, point = _models(dtype)
    residual = a @ torch.cat([point["u"].flatten(), point["v"][None]])
    operator = FisherOperator(
        _outputs,
        lambda z, _: Normal(z, 1.0),
        point,
        [a[:4], a[4:]],
        kind="empirical",
        targets=lambda rows: torch.zeros(len(rows), dtype=dtype),
    )
    return operator, a.mT @ (residual.square().unsqueeze(1) * a) / 7


def _jacobian(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, data, point = _models(dtype)
    return JacobianOperator(_outputs, point, data), a


def _block_diagonal(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, b = numbers(2, 2, dtype=dtype), numbers(3, 3, dtype=dtype, seed=1)
    return BlockDiagonal([a, b]), torch.block_diag(a, b)


def _kronecker(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    a, b = numbers(2, 3, dtype=dtype), numbers(3, 2, dtype=dtype, seed=1)
    return Kronecker(a, b), torch.kron(a, b)


def _low_rank_plus_diagonal(dtype: torch.dtype) -> tuple[Operator, Tensor]:
    d, u = numbers(5, dtype=dtype).square(), numbers(5, 2, dtype=dtype, seed=1)
    return LowRankPlusDiagonal(d, u), torch.diag(d) + u @ u.mT


OPERATORS: dict[str, Row] = {
    "Identity": _identity,
    "Diagonal": _diagonal,
    "Matrix": _matrix,
    "Matrix, symmetric": _symmetric_matrix,
    "Matrix, 1 x 1": _one_by_one,
    "LowRank": _low_rank,
    "FunctionOperator": _function,
    "SciPyOperator, sparse": _sparse,
    "SciPyOperator, operator": _scipy_operator,
    "Sum": _sum,
    "Scaled": _scaled,
    "Shifted": _shifted,
    "Product": _product,
    "Product, Gram": _gram,
    "Power": _power,
    "Power, square": _square,
    "Submatrix": _submatrix,
    "Submatrix, principal": _principal,
    "Transposed": _transposed,
    "Projection": _projection,
    "Projection, complement": _complement,
    "Projection, metric": _oblique,
    "Deflated": _deflated,
    "Deflated, Hotelling": _hotelling,
    "HessianOperator": _hessian,
    "HessianOperator, batches kept": _kept,
    "HessianOperator, batches recomputed": _recomputed,
    "GGNOperator, kept": _ggn,
    "GGNOperator, frugal": lambda dtype: _ggn(dtype, memory_budget=0),
    "FisherOperator, kept": _fisher,
    "FisherOperator, frugal": lambda dtype: _fisher(dtype, memory_budget=0),
    "FisherOperator, empirical": _scores,
    "JacobianOperator": _jacobian,
    "BlockDiagonal": _block_diagonal,
    "Kronecker": _kronecker,
    "LowRankPlusDiagonal": _low_rank_plus_diagonal,
}


def as_numpy(x: Tensor) -> np.ndarray:
    """The numbers of a tensor."""
    return x.detach().cpu().numpy()
