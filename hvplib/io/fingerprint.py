"""What tells one problem from another: its size, the names of its unknowns, and one product."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hvplib.operators.base import Operator
from hvplib.operators.coerce import as_operator
from hvplib.space import Space

__all__ = ["Fingerprint"]

_SEED = 20_060_401
# Names of more leaves are not kept one by one.
_NAMES = 10_000


@dataclass(frozen=True)
class Fingerprint:
    """The shape of A, the names of its unknowns, and ‖A u‖ and uᵀA u for one fixed random u of length one.

    Operators that agree in a random product are the same with probability one, and products of the same
    operator agree to rounding: √ε of the dtype is allowed, for other processors and other numbers of threads.

    Attributes:
        kind: The operator's class.
        shape: (m, n).
        dtype: Of its vectors.
        names: Of the leaves of the pytree that it acts on; empty for flat vectors.
        product: (‖A u‖, uᵀA u); the second is NaN where A is not square.
    """

    kind: str
    shape: tuple[int, int]
    dtype: str
    names: tuple[str, ...]
    product: tuple[float, float]

    @classmethod
    def of(cls, problem: Any) -> Fingerprint:
        """Take the fingerprint, for one product.

        Args:
            problem: An operator, or a matrix of any kind.

        Example:
            >>> import torch
            >>> from hvplib.io import Fingerprint
            >>> Fingerprint.of(torch.eye(3)).shape
            (3, 3)
        """
        A = as_operator(problem, "problem")
        u = _direction(A)
        Au = A._product(u.unsqueeze(1))[:, 0].to("cpu", torch.float64)
        form = float(u.to("cpu", torch.float64) @ Au) if A.shape[0] == A.shape[1] else math.nan
        names = A.domain.names[:_NAMES] if isinstance(A.domain, Space) else ()
        rows, columns = A.shape
        return cls(
            type(A).__name__, (int(rows), int(columns)), str(A.torch_dtype), names, (float(Au.norm()), form)
        )

    def differences(self, other: Fingerprint) -> list[str]:
        """In what the other differs, in words; empty if it is of the same problem."""
        told = [
            f"{name} is {_brief(mine)} here, {_brief(theirs)} there"
            for name in ("kind", "shape", "dtype", "names")
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        if told:
            return told
        eps = torch.finfo(torch.float64 if self.dtype == "torch.float64" else torch.float32).eps
        scale = max(self.product[0], other.product[0])
        apart = max(
            (abs(a - b) for a, b in zip(self.product, other.product, strict=True) if not math.isnan(a + b)),
            default=0.0,
        )
        if not apart <= math.sqrt(eps) * scale:
            told.append(f"a product differs by {apart / scale:.1e} of its norm")
        return told

    def as_json(self) -> dict[str, Any]:
        """Numbers and strings."""
        return {**asdict(self), "product": [repr(number) for number in self.product]}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Fingerprint:
        """The inverse of `as_json`."""
        rows, columns = told["shape"]
        first, second = map(float, told["product"])
        return cls(told["kind"], (rows, columns), told["dtype"], tuple(told["names"]), (first, second))


def _direction(A: Operator) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    u = torch.randn(A.shape[1], generator=generator, dtype=A.torch_dtype)
    return u.div(torch.linalg.vector_norm(u)).to(A.device)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
