"""What `eigsh` returns: eigenpairs, each with bounds, and how sure it is that none is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hvplib.results.status import Status
from hvplib.space import Space

__all__ = ["EigenResult"]


@dataclass(frozen=True)
class EigenResult:
    """A x_i ≈ θ_i M x_i for i = 1 ... k, with xᵢᵀ M x_j = δ_ij; M = I unless one was given.

    Norms of residuals are of vectors with xᵀ M x = 1. Evidence is on the CPU, in float64.

    Attributes:
        eigenvalues: θ (k,), in the order of `which`: "LM" the largest magnitude first, "LA" the largest
            first, "SA" the smallest first, "BE" ascending. A NumPy array if A or v0 was one, else a tensor.
            There are fewer than k if the iteration ended before it had so many.
        eigenvectors: x as columns (n, k), of the same kind.
        residual_norms: ‖A x − θ M x‖ (k,). Recomputed from products made for it, if `confirmed`.
        converged: Which of them are within their tolerance (k,).
        enclosures: Intervals (k, 2), each of which contains an eigenvalue for certain, up to an allowance for
            rounding that is included: |λ − θ| ≤ ‖A x − θ x‖.
        gap_bounds: Bounds (k,) on |λ − θ|, usually far smaller: ‖A x − θ x‖² / gap, where no eigenvalue but λ
            is nearer to θ than the gap (`bounds.gap_bounds`). Where the others are, only two methods know:
            "dense", which sees all, and "lanczos" once its second start has come to its end: inside of what
            that start has shown, except with the probability `Lanczos.miss_probability`. NaN elsewhere: in
            clusters, for k = 1 and where no second start was made, and for "lobpcg" and "arpack".
        status: How the iteration ended.
        miss_probability: A bound on the probability that an eigenvalue was missed which lies beyond the last
            one wanted by `miss_resolution` or more; 0 if the whole space was searched, NaN if unknown.
        miss_resolution: See there.
        confirmed: Whether the residual norms were recomputed; if interrupted, they are the iteration's own.
        num_matvecs: Products with A spent, one for each column.
        matvecs: The same by purpose: "iteration", "confirmation", "missed members", "measurement", "resume".
        num_mass_matvecs: Products with M.
        num_iter: Steps made.
        operator_norm: A lower bound of ‖A‖, the largest product with a unit vector met.
        asymmetry: Largest difference between xᵀA y and yᵀA x met, relative to `operator_norm`; NaN if
            unknown.
        history: Of "lanczos", rows (num_matvecs, converged pairs, largest residual norm of the wanted pairs /
            tolerance). Of "lobpcg", estimates (steps + 1, k) of the residual norms; of "arpack" and "dense",
            which show nothing on the way, one row of the residual norms at the end.
        method: The settings that were used.
        note: What the status alone does not say.
        space: The space of pytrees that the vectors belong to, or None.
    """

    eigenvalues: Any
    eigenvectors: Any
    residual_norms: Tensor
    converged: Tensor
    enclosures: Tensor
    gap_bounds: Tensor
    status: Status
    miss_probability: float
    miss_resolution: float
    confirmed: bool
    num_matvecs: int
    matvecs: Mapping[str, int]
    num_mass_matvecs: int
    num_iter: int
    operator_norm: float
    asymmetry: float
    history: Tensor
    method: Any
    note: str = ""
    space: Space | None = field(default=None, repr=False)

    def vectors_as(self, params: Any = None) -> Any:
        """The eigenvectors as a pytree like `params`, with a leading k on each leaf.

        Args:
            params: Pytree of tensors (named parameters, as in `dict(model.named_parameters())`) whose
                entries, in order, are the entries of a vector. None takes the structure that A's own point
                has.

        Raises:
            ValueError: A has no such structure, or `params` has not n entries.
        """
        space = self.space if params is None else Space.of(params)
        if space is None:
            raise ValueError("params must be given: the operator acts on flat vectors and knows no pytree")
        block = torch.as_tensor(self.eigenvectors)
        if space.size != block.shape[0]:
            raise ValueError(f"params must have {block.shape[0]} entries in all, got {space.size}")
        return space.unflatten_block(block)

    def __str__(self) -> str:
        lines = [f"{len(self.eigenvalues)} eigenpairs by {self.method}: {self.status}"]
        if self.note:
            lines.append(self.note)
        lines.append("      eigenvalue     residual  certain to ±   likely to ±")
        rows = zip(
            self.eigenvalues,
            self.residual_norms.tolist(),
            ((self.enclosures[:, 1] - self.enclosures[:, 0]) / 2).tolist(),
            self.gap_bounds.tolist(),
            self.converged.tolist(),
            strict=True,
        )
        for value, residual, radius, gap, done in rows:
            mark = "" if done else "  not converged"
            lines.append(f"{float(value):16.9g} {residual:12.1e} {radius:13.1e} {gap:13.1e}{mark}")
        spent = ", ".join(f"{count} {purpose}" for purpose, count in self.matvecs.items())
        lines.append(f"{self.num_matvecs} products ({spent})")
        if math.isnan(self.miss_probability):
            lines.append("whether an eigenvalue was missed is not known")
        else:
            lines.append(
                f"an eigenvalue more than {self.miss_resolution:.2g} beyond the last was missed with "
                f"probability at most {self.miss_probability:.1g}"
            )
        return "\n".join(lines)
