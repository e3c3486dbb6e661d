"""The methods of `eigsh`, and their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from hvplib.eigen.arpack import ARPACK
from hvplib.eigen.lobpcg import LOBPCG

__all__ = ["NAMES", "Dense", "Lanczos", "Method", "method_of"]


@dataclass(frozen=True)
class Lanczos:
    """Thick-restart Lanczos with full reorthogonalisation, and a second start that looks for missed pairs.

    Attributes:
        krylov_dim: Columns of the basis, more than k + 1; the larger of 2k + 1 and 20 by default, and fewer
            if `basis_budget` asks for it. Memory is krylov_dim + k + block_size vectors. More need fewer
            products.
        block_size: Vectors that are multiplied at a time. 1 needs the fewest products. "auto" measures what a
            product with four costs beside one, and takes four where one of four costs less than a third of a
            single one, as on a GPU that is not filled; that costs up to seven products, and the result may
            differ in the last bits from call to call with the load of the machine.
        max_matvecs: Bound on the products; 20 n, but at least 2000 and at most 200 000 by default.
        basis_dtype: torch.float32 stores the basis of float64 vectors in half the memory, orthogonal to
            float32's precision only; residuals then count as zero from 10 ε ‖A‖ of float32 on.
        basis_device: "cpu" stores the basis of vectors on a GPU in (pinned) memory of the CPU.
        basis_budget: Bytes that the basis may take; half of what is free on its device by default.
        miss_probability: The second start goes on until the probability that it overlooks a missed
            eigenvalue is below this. None makes no second start: repeated eigenvalues may be missed.
    """

    krylov_dim: int | None = None
    block_size: int | Literal["auto"] = 1
    max_matvecs: int | None = None
    basis_dtype: torch.dtype | None = None
    basis_device: torch.device | str | None = None
    basis_budget: int | None = None
    miss_probability: float | None = 1e-3

    def __post_init__(self) -> None:
        for name in ("krylov_dim", "max_matvecs", "basis_budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or None, got {value}")
        if self.block_size != "auto" and (not isinstance(self.block_size, int) or self.block_size < 1):
            raise ValueError(f'block_size must be a positive integer or "auto", got {self.block_size!r}')
        if self.basis_dtype not in (None, torch.float32, torch.float64):
            raise ValueError(
                f"basis_dtype must be torch.float32 or torch.float64, or None, got {self.basis_dtype}"
            )
        if self.miss_probability is not None and not 0 < self.miss_probability < 1:
            raise ValueError(
                f"miss_probability must lie between 0 and 1, or be None, got {self.miss_probability}"
            )


@dataclass(frozen=True)
class Dense:
    """The dense matrix by n products, and LAPACK: all of the spectrum is seen, and nothing can be missed.

    The callback and `time_limit` are not looked at, and Ctrl-C raises: no result comes before the end.
    """


Method = Lanczos | LOBPCG | ARPACK | Dense

NAMES: dict[str, Method] = {
    "lanczos": Lanczos(),
    "lobpcg": LOBPCG(),
    "arpack": ARPACK(),
    "dense": Dense(),
}


def method_of(method: Method | str) -> Method:
    """The settings that a name stands for."""
    if isinstance(method, str):
        if method.lower() not in NAMES:
            raise ValueError(f"method must be one of {', '.join(map(repr, NAMES))}, got {method!r}")
        return NAMES[method.lower()]
    if not isinstance(method, Lanczos | LOBPCG | ARPACK | Dense):
        raise TypeError(
            f"method must be a name or settings such as Lanczos(krylov_dim=40), got {type(method).__name__}"
        )
    return method
