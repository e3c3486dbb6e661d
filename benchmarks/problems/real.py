"""Problems of statistics and machine learning, on data that come with scikit-learn or out of a generator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.problems.minimisation import Minimisation
from benchmarks.problems.physics import PHYSICS

__all__ = ["REAL", "digits", "digits_net", "factorisation", "logistic"]


def digits() -> tuple[Tensor, Tensor]:
    """Return the 1797 images (1797, 64), scaled to [0, 1], and their labels (1797,)."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the digits come with scikit-learn: pip install scikit-learn") from error
    data = load_digits()
    return torch.tensor(data.data / 16.0), torch.tensor(data.target)


def logistic(regularisation: float = 1.0) -> Minimisation:
    """f = Σ cross-entropy(W x + b, y) + ½ λ |W|² over the digits: convex, flat where all of b shift alike."""
    x, y = digits()

    def func(theta: Tensor) -> Tensor:
        weight, bias = theta[:640].view(10, 64), theta[640:]
        penalty = 0.5 * regularisation * weight.square().sum()
        return cross_entropy(x @ weight.T + bias, y, reduction="sum") + penalty

    start = torch.zeros(650, dtype=torch.float64)
    minimum = 358.548947734 if regularisation == 1 else None
    return Minimisation("logistic regression", func, start, minimum, "digits of scikit-learn")


def digits_net(hidden: int = 10, regularisation: float = 1e-3) -> Minimisation:
    """f = mean cross-entropy(W₂ tanh(W₁ x + b₁) + b₂, y) + ½ λ |θ|² over the digits, from small weights."""
    x, y = digits()
    shapes = ((hidden, 64), (hidden,), (10, hidden), (10,))
    sizes = [torch.Size(shape).numel() for shape in shapes]

    def func(theta: Tensor) -> Tensor:
        parts = theta.split(sizes)
        w1, b1, w2, b2 = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        logits = torch.tanh(x @ w1.T + b1) @ w2.T + b2
        return cross_entropy(logits, y) + 0.5 * regularisation * theta.square().sum()

    generator = torch.Generator().manual_seed(0)
    start = 0.1 * torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    return Minimisation("digits net", func, start, None, "digits of scikit-learn")


def factorisation(
    rows: int = 30, columns: int = 20, rank: int = 3, displacement: float = 1e-3, seed: int = 0
) -> Minimisation:
    """f = ½ ‖U Vᵀ − M‖², U (rows, rank), V (columns, rank), from beside the saddle at zero, or on it.

    M is a matrix of that rank with noise. Every stationary point that is not a minimum is a strict saddle,
    and all minima have the value ½ Σ σᵢ² over the singular values that are left out (Eckart, Young 1936,
    doi:10.1007/BF02288367). U A⁻ᵀ and V A give the same: the Hessian at a minimum has rank² zero eigenvalues.
    With displacement=0 the start is the saddle itself, where the gradient is exactly zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    matrix = normal(rows, rank) @ normal(columns, rank).T + 0.1 * normal(rows, columns)
    left_out = torch.linalg.svdvals(matrix)[rank:]

    def func(theta: Tensor) -> Tensor:
        u, v = theta[: rows * rank].view(rows, rank), theta[rows * rank :].view(columns, rank)
        return 0.5 * (u @ v.T - matrix).square().sum()

    start = displacement * normal((rows + columns) * rank)
    minimum = 0.5 * float(left_out.square().sum())
    return Minimisation("matrix factorisation", func, start, minimum, "Eckart, Young (1936)")


REAL: dict[str, Callable[[], Minimisation]] = {
    "logistic regression": logistic,
    "digits net": digits_net,
    "matrix factorisation": factorisation,
    **PHYSICS,
}
