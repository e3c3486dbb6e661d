"""Block Gram–Schmidt by inner products alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from hvplib.krylov.basis import Basis
from hvplib.krylov.inner import Inner

__all__ = [
    "ROUNDINGS",
    "Orthonormal",
    "elsewhere",
    "factored",
    "orthonormalize",
    "orthonormalize_beside",
    "project_out",
    "take_out",
]

# What is shorter than this many roundings of the largest vector around carries no digit.
ROUNDINGS = 10.0

# Each sets columns apart that are √eps nearer to each other than before; the last leaves them orthonormal.
_PASSES = 6
# The least sine of the angle between a column and those before it at which Gram matrices serve.
_APART = 0.01


def take_out(W: Tensor, basis: Basis, count: int, inner: Inner) -> Tensor:
    """One pass of `project_out`: W ← W − Q (QᵀW), in place; returns QᵀW (count, k).

    It is enough where QᵀW is not long beside what is left, as is to be expected where what was known of QᵀW
    has been taken out before.
    """
    coefficients = basis.coefficients(W, 0, count, inner)
    basis.subtract(W, coefficients)
    return coefficients


def project_out(W: Tensor, basis: Basis, count: int, inner: Inner) -> Tensor:
    """W ← (I − Q Qᵀ) W, in place, for the first `count` columns Q of the basis; returns Qᵀ W (count, k).

    Two passes, always: the first takes out what there is, and leaves the rounding of it; the second takes
    out that, and W is orthogonal to the precision of the numbers, "twice is enough" (Giraud, Langou,
    Rozložník, van den Eshof 2005, 10.1007/s00211-005-0615-4). To test whether the second is needed costs
    about what it saves.

    Args:
        W: (n, k).
        basis: Orthonormal columns.
        count: How many of them.
        inner: Inner product.
    """
    return take_out(W, basis, count, inner) + take_out(W, basis, count, inner)


class Orthonormal(NamedTuple):
    """W = Q B with QᵀQ = I.

    Attributes:
        Q: (n, r).
        B: (r, k), on the CPU, float64.
    """

    Q: Tensor
    B: Tensor


def orthonormalize(W: Tensor, inner: Inner, tiny: float) -> Orthonormal:
    """W = Q B, with as many columns in Q as W has independent ones, up to the length `tiny`.

    By the eigenvectors of the Gram matrix (Stathopoulos, Wu 2002, 10.1137/S1064827500370883), until its
    columns are well apart: what is shorter than `tiny` in every combination is dropped, and B says nothing of
    it.

    Args:
        W: (n, k).
        inner: The inner product.
        tiny: Length below which a combination of columns counts as zero.
    """
    k = W.shape[1]
    if k == 1:
        return _normalized(W, inner, tiny)
    B = torch.eye(k, dtype=torch.float64)
    # A Gram matrix squares the lengths: it can tell independent columns only down to √eps of the longest.
    # What seems shorter is taken to be so long, and goes through once more on its own scale.
    least = 10 * torch.finfo(W.dtype).eps
    for _ in range(_PASSES):
        gram = inner(W, W).to("cpu", torch.float64)
        lengths = gram.diagonal().clamp(min=0).sqrt()
        some = lengths > 0
        W, B, gram, scale = W[:, some], B[some], gram[some][:, some], lengths[some]
        if W.shape[1] == 0:
            break
        squares, V = torch.linalg.eigh(gram / scale / scale.unsqueeze(1))
        sizes = squares.clamp(min=least).sqrt()
        W = W @ (V / scale.unsqueeze(1) / sizes).to(W)
        B = (sizes.unsqueeze(1) * V.mT * scale) @ B
        W, B = _without_short(W, B, tiny)
        if float(squares[0]) > 0.5:  # well apart: so this pass left them orthonormal
            break
    return Orthonormal(W, B)


def orthonormalize_beside(
    W: Tensor, basis: Basis, count: int, inner: Inner, *, tiny: float, eps: float
) -> Orthonormal:
    """W = N B with NᵀN = I, for a W that is orthogonal to the first `count` columns; and so is N.

    Args:
        W: (n, k); overwritten.
        basis: Orthonormal columns.
        count: How many of them.
        inner: Inner product.
        tiny: As for `orthonormalize`.
        eps: The unit of rounding of W and of the basis.
    """
    N, B = orthonormalize(W, inner, tiny)
    if W.shape[1] == 1:
        return Orthonormal(N, B)
    # What sets nearly dependent columns apart is short, and rounding is long beside it.
    project_out(N, basis, count, inner)
    N, correction = orthonormalize(N, inner, ROUNDINGS * eps)
    return Orthonormal(N, correction @ B)


def elsewhere(W: Tensor, basis: Basis, count: int, inner: Inner) -> Tensor:
    """A unit vector (n, 1) orthogonal to the first `count` columns, from a random one, which is spent."""
    for _ in range(2):
        before = inner.columns(W, W)
        project_out(W, basis, count, inner)
        left = inner.columns(W, W)
        W = W / left.sqrt()
        # Where they span almost all there is, a random vector may lie close to their span.
        if float(left / before) > 0.5:
            break
    return W


def _normalized(W: Tensor, inner: Inner, tiny: float) -> Orthonormal:
    """W = Q B of a single column, which is dropped where it is not longer than `tiny`."""
    square = float(inner(W, W))
    if not square > 0 or not math.sqrt(square) > tiny:
        return Orthonormal(W[:, :0], torch.zeros(0, 1, dtype=torch.float64))
    length = math.sqrt(square)
    return Orthonormal(W / length, torch.tensor([[length]], dtype=torch.float64))


def _without_short(W: Tensor, B: Tensor, tiny: float) -> tuple[Tensor, Tensor]:
    """Turn Q B so that B has orthogonal rows, longest last, and drop those shorter than `tiny`."""
    left, sizes, right = torch.linalg.svd(B, full_matrices=False)
    kept = sizes > tiny
    return W @ left[:, kept].to(W), sizes[kept].unsqueeze(1) * right[kept]


def factored(W: Tensor, parts: list[Tensor], inner: Inner) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    """W = N B with NᵀN = I, without orthonormalising anew; of a single column only B = ‖W‖, and W for N.

    Everything is computed where the vectors lie and comes to the host in one transfer, with parts that
    were computed before. N is None where the columns are too dependent for it.

    Args:
        W: (n, k).
        parts: Small tensors (m, k).
        inner: Inner product.

    Returns:
        N (n, k) or None, B (k, k), and the parts, these on the CPU, in float64.
    """
    return _measured(W, parts, inner) if W.shape[1] == 1 else _by_cholesky(W, parts, inner)


def _measured(W: Tensor, parts: list[Tensor], inner: Inner) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    sums = torch.cat([*parts, inner.columns(W, W).unsqueeze(1)]).to("cpu", torch.float64)
    *small, square = torch.split(sums, [*map(len, parts), 1])
    return W, square.sqrt(), small


def _by_cholesky(W: Tensor, parts: list[Tensor], inner: Inner) -> tuple[Tensor | None, Tensor, list[Tensor]]:
    k = W.shape[1]
    factors, infos, gram, N = [], [], inner(W, W), W
    for again in (False, True):
        L, info = torch.linalg.cholesky_ex(inner(N, N) if again else gram)
        N = torch.linalg.solve_triangular(L, N.mT, upper=False).mT
        factors.append(L.mT)
        infos.append(info.to(gram))
    rows = [*parts, gram, *factors, torch.stack(infos).expand(k, -1).mT]
    small = torch.split(torch.cat(rows).to("cpu", torch.float64), [len(part) for part in rows])
    *small_parts, square, first, second, info = small
    lengths = square.diagonal().clamp(min=0).sqrt()
    # What a column has that the ones before it have not: rounding, long beside the rest, goes with it.
    safe = bool((first.diagonal() > _APART * lengths).all())
    if bool(info.any()) or not safe:
        return None, lengths.diag(), small_parts
    return N, second @ first, small_parts
