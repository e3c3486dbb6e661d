"""Matrix and distance functions rebuilt from parts that torch differentiates correctly to second order.

Every function here has the signature and the value of the torch function that it replaces. What torch 2.13
lacks is told at each: no forward-mode formula, no double backward, or a second derivative that is wrong
without an error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "cdist",
    "cholesky",
    "cholesky_inverse",
    "ormqr",
    "pdist",
    "triangular_solve",
    "weight_norm",
]


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    r"""$w = g\, v / \|v\|$, with the norm over every dimension but ``dim`` (``torch._weight_norm``).

    The fused kernel has no forward-mode formula, and its double backward returns a wrong block in ``v``.

    Args:
        v: Direction, any shape.
        g: Magnitude, shape of ``v`` with every dimension but ``dim`` set to 1.
        dim: The dimension kept by the norm; -1 takes the norm of the whole tensor.

    Returns:
        The weight, shaped like ``v``.
    """
    if dim == -1:
        norm: Tensor = torch.linalg.vector_norm(v)
    else:
        others = [other for other in range(v.dim()) if other != dim % v.dim()]
        norm = torch.linalg.vector_norm(v, dim=others, keepdim=True)
    return v * (g / norm)


def _p_norm(difference: Tensor, p: float) -> Tensor:
    """The p-norm of the last dimension; its derivatives are 0, not NaN, where torch's kernels say 0."""
    if difference.shape[-1] == 0:
        return difference.sum(-1)
    if p == 0:
        # sign() keeps the result attached to the graph, with derivative zero.
        return difference.sign().square().sum(-1)
    if p == 1:
        return difference.abs().sum(-1)
    if math.isinf(p):
        return difference.abs().amax(-1)
    if p == 2:
        total = difference.square().sum(-1)
    else:
        nonzero = difference != 0
        # A power of 0 has an infinite derivative for p < 1 and an infinite second one for p < 2.
        powers = torch.where(nonzero, difference, 1).abs().pow(p)
        total = torch.where(nonzero, powers, 0).sum(-1)
    positive = total != 0
    root = torch.where(positive, total, 1).pow(1 / p) if p != 2 else torch.where(positive, total, 1).sqrt()
    return torch.where(positive, root, 0)


_COMPUTE_MODES = (
    "use_mm_for_euclid_dist_if_necessary",
    "use_mm_for_euclid_dist",
    "donot_use_mm_for_euclid_dist",
)


def cdist(
    x1: Tensor,
    x2: Tensor,
    p: float = 2.0,
    compute_mode: str = "use_mm_for_euclid_dist_if_necessary",
) -> Tensor:
    r"""$d_{ij} = \|x_i - y_j\|_p$ (``torch.cdist``: no forward formula, no double backward).

    The differences are formed entry by entry, whatever ``compute_mode`` says: the product form cancels in the
    second derivative of near points. This needs memory for ``P * R * M`` numbers.

    Args:
        x1: ``(..., P, M)``.
        x2: ``(..., R, M)``.
        p: Order of the norm, from 0 to infinity.
        compute_mode: As in torch; it names a way to compute, not another value.

    Returns:
        ``(..., P, R)``.
    """
    fits = min(x1.dim(), x2.dim()) >= 2 and x1.shape[-1] == x2.shape[-1]
    if not fits or p < 0 or compute_mode not in _COMPUTE_MODES:
        return torch.cdist(x1, x2, p, compute_mode)  # raises torch's own error
    return _p_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    r"""$\|x_i - x_j\|_p$ for $i < j$, row by row (``torch.pdist``, which has no double backward).

    Args:
        input: ``(N, M)``.
        p: Order of the norm, from 0 to infinity.

    Returns:
        ``(N (N - 1) / 2,)``.
    """
    if p < 0 or input.dim() != 2:
        return torch.pdist(input, p)  # raises torch's own error
    first, second = torch.triu_indices(input.shape[0], input.shape[0], 1, device=input.device)
    return _p_norm(input[first] - input[second], p)


def cholesky(input: Tensor, upper: bool = False) -> Tensor:
    r"""$A = L L^T$ (``torch.cholesky``, superseded in torch, which never got a forward formula).

    Args:
        input: ``(..., n, n)``, symmetric positive definite; one triangle is read.
        upper: Return $L^T$, read from the upper triangle.

    Returns:
        ``(..., n, n)``.
    """
    factor: Tensor = torch.linalg.cholesky(input, upper=upper)
    return factor


def cholesky_inverse(input: Tensor, upper: bool = False) -> Tensor:
    r"""$(L L^T)^{-1}$ (``torch.cholesky_inverse``, whose forward over reverse is wrong).

    Args:
        input: ``(..., n, n)``, a Cholesky factor.
        upper: Whether the factor is upper triangular, $A = U^T U$.

    Returns:
        ``(..., n, n)``.
    """
    factor = input.triu() if upper else input.tril()
    identity = torch.eye(input.shape[-1], dtype=input.dtype, device=input.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=upper)
    return inverse @ inverse.mH if upper else inverse.mH @ inverse


def triangular_solve(
    input: Tensor,
    A: Tensor,
    upper: bool = True,
    transpose: bool = False,
    unitriangular: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""$A X = B$ for triangular $A$ (``torch.triangular_solve``, whose forward over reverse is wrong).

    Args:
        input: ``B``, ``(..., m, k)``.
        A: ``(..., m, m)``.
        upper: Which triangle of ``A`` is read.
        transpose: Solve with $A^T$ in place of $A$.
        unitriangular: Take the diagonal of ``A`` as ones.

    Returns:
        The named pair ``(solution, cloned_coefficient)`` of torch.
    """
    matrix = A.mT if transpose else A
    solution = torch.linalg.solve_triangular(
        matrix, input, upper=upper != transpose, unitriangular=unitriangular
    )
    coefficient = A.expand(*solution.shape[:-2], *A.shape[-2:]).clone()
    pair: tuple[Tensor, Tensor] = torch.return_types.triangular_solve((solution, coefficient))
    return pair


def ormqr(
    input: Tensor,
    input2: Tensor,
    input3: Tensor,
    left: bool = True,
    transpose: bool = False,
) -> Tensor:
    r"""$Q C$, $Q^H C$, $C Q$ or $C Q^H$ with $Q = \prod_i (I - \tau_i v_i v_i^H)$ (``torch.ormqr``).

    The reflections are applied one by one; torch has no forward formula for the fused routine.

    Args:
        input: ``(..., m, n)``, the vectors $v_i$ below the diagonal, as ``torch.geqrf`` gives them.
        input2: ``(..., k)``, the factors $\tau_i$.
        input3: ``C``, the matrix to multiply.
        left: Multiply from the left.
        transpose: Multiply with $Q^H$.

    Returns:
        A matrix shaped like ``input3``.
    """
    rows, count = input.shape[-2], input2.shape[-1]
    unit = torch.eye(rows, count, dtype=input.dtype, device=input.device)
    vectors = input[..., :count].tril(-1) + unit
    scales = input2.conj() if transpose else input2
    # Q C and C Q^H meet the last reflection first; the other two the first.
    order = range(count) if left == transpose else reversed(range(count))
    result = input3
    for i in order:
        v = vectors[..., i : i + 1]
        scaled = scales[..., i, None, None] * v
        result = result - scaled @ (v.mH @ result) if left else result - (result @ scaled) @ v.mH
    return result
