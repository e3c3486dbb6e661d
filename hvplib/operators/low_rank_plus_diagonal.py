"""Low rank plus diagonal, which its inverse is as well."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib.operators.base import Operator
from hvplib.operators.basic import _vector_dtype
from hvplib.operators.parts import check_regular

__all__ = ["LowRankPlusDiagonal"]


class LowRankPlusDiagonal(Operator):
    """x ↦ (diag(d) + U diag(s) Uᵀ) x.

    Args:
        diagonal: d (n,).
        factor: U (n, r).
        values: s (r,), of any sign; ones by default.

    Attributes:
        diagonal, factor, values: As given.

    Example:
        >>> import torch
        >>> A = LowRankPlusDiagonal(torch.tensor([1.0, 2.0]), torch.tensor([[1.0], [1.0]]))
        >>> A.to_dense()
        tensor([[2., 1.],
                [1., 3.]])
        >>> (A.inverse() @ torch.tensor([3.0, 4.0])).round(decimals=5)
        tensor([1., 1.])
    """

    def __init__(self, diagonal: Tensor, factor: Tensor, values: Tensor | None = None) -> None:
        diagonal, factor = (
            _vector_dtype(n, t.detach()) for n, t in (("diagonal", diagonal), ("factor", factor))
        )
        values = factor.new_ones(factor.shape[-1]) if values is None else values.detach().to(factor)
        if diagonal.dim() != 1 or factor.dim() != 2 or factor.shape != (diagonal.numel(), values.numel()):
            raise ValueError(
                "diagonal, factor and values must have shapes (n,), (n, r) and (r,), got "
                f"{tuple(diagonal.shape)}, {tuple(factor.shape)} and {tuple(values.shape)}"
            )
        if diagonal.dtype != factor.dtype:
            raise TypeError(
                f"diagonal and factor must have one dtype, got {diagonal.dtype} and {factor.dtype}"
            )
        size = diagonal.numel()
        self.diagonal, self.factor, self.values = diagonal, factor, values
        definite = bool((diagonal >= 0).all() and (values >= 0).all())
        super().__init__(
            (size, size), factor.dtype, factor.device, symmetric=True, positive_semidefinite=definite
        )

    def inverse(self, damping: float = 0.0) -> LowRankPlusDiagonal:
        """(diag(d) + δ I + U diag(s) Uᵀ)⁻¹, exactly: low rank plus diagonal again.

        With D = diag(d) + δ I, D^(−½) U = Q R and R diag(s) Rᵀ = Z diag(λ) Zᵀ, it is
        D⁻¹ − D^(−½) Q Z diag(λ / (1 + λ)) Zᵀ Qᵀ D^(−½).

        Args:
            damping: δ.

        Raises:
            ValueError: An entry of d + δ is not positive, or the sum is singular within rounding.

        Source: J. Sherman, W. J. Morrison (1950), 10.1214/aoms/1177729893; M. A. Woodbury (1950).
        """
        d = self.diagonal.double() + damping
        if not bool((d > 0).all()):
            raise ValueError(
                f"diagonal + damping must be positive, got {float(d.min()):.4g}; use a larger damping"
            )
        root = d.rsqrt().unsqueeze(1)
        Q, R = torch.linalg.qr(root * self.factor.double())
        core = (R * self.values.double()) @ R.mT
        eigenvalues, Z = torch.linalg.eigh((core + core.mT) / 2)
        check_regular(1 + eigenvalues, self.torch_dtype, damping)
        made = LowRankPlusDiagonal(
            (1 / d).to(self.diagonal),
            (root * (Q @ Z)).to(self.factor),
            (-eigenvalues / (1 + eigenvalues)).to(self.values),
        )
        made.positive_semidefinite = bool((1 + eigenvalues > 0).all())
        return made

    def _matmat_torch(self, X: Tensor) -> Tensor:
        low = self.factor @ (self.values.unsqueeze(1) * (self.factor.mT @ X))
        return torch.addcmul(low, self.diagonal.unsqueeze(1), X)
