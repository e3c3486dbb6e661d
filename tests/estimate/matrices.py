"""Symmetric matrices with known eigenvalues, and functions of them by their eigenvectors."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from tests.krylov.systems import normal, orthogonal

__all__ = ["FUNCTIONS", "Known", "known", "python_handles_ctrl_c", "spectra"]

F64 = torch.float64

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "inv_sqrt": torch.rsqrt,
    "inverse": torch.reciprocal,
}


@contextmanager
def python_handles_ctrl_c() -> Iterator[None]:
    """As in a terminal: a process in a shell's background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Known(NamedTuple):
    """A = V diag(λ) Vᵀ."""

    A: Tensor
    spectrum: Tensor
    vectors: Tensor

    def apply(self, f: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        """f(A) b."""
        return self.vectors @ (f(self.spectrum).unsqueeze(1) * (self.vectors.mT @ b))

    def form(self, f: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
        """b_jᵀ f(A) b_j (k,)."""
        return (f(self.spectrum).unsqueeze(1) * (self.vectors.mT @ b).square()).sum(0)


def known(spectrum: Tensor, seed: int = 0) -> Known:
    spectrum = spectrum.to(F64).sort().values
    V = orthogonal(len(spectrum), seed)
    A = (V * spectrum) @ V.mT
    return Known((A + A.mT) / 2, spectrum, V)


def spectra(n: int = 60) -> dict[str, Tensor]:
    """Positive spectra of many shapes."""
    t = torch.linspace(0, 1, n, dtype=F64)
    draws = normal(n, seed=11).abs()
    return {
        "even": 0.5 + t,
        "spread": 10 ** (-3 * t),
        "clustered at the lower end": 0.01 + t**4,
        "clustered at the upper end": 2 - t**4,
        "one far above": torch.cat([0.5 + t[1:], torch.tensor([50.0], dtype=F64)]),
        "one near zero": torch.cat([0.5 + t[1:], torch.tensor([1e-4], dtype=F64)]),
        "repeated": torch.tensor([1.0, 2.0, 5.0], dtype=F64).repeat(n // 3),
        "random": 0.05 + draws,
    }
