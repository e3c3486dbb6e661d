"""What residuals prove of eigenvalues: enclosures, bounds by gaps, and the odds that one was missed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hvplib.krylov.ends import Which

__all__ = [
    "cluster_enclosures",
    "eigenvector_bounds",
    "enclosures",
    "gap_bounds",
    "miss_probability",
    "remainder",
    "resolution_for",
    "steps_for",
]

# Kuczyński and Woźniakowski 1992, 10.1137/0613066.
_CONSTANT = 1.648


def enclosures(values: Tensor, residual_norms: Tensor, rounding: float = 0.0) -> Tensor:
    """|λ − θ| ≤ ‖A x − θ x‖ for some eigenvalue λ of a symmetric A, and any θ and unit vector x.

    It takes one pair by itself: two pairs may point to the same λ; `cluster_enclosures` tells them apart.

    Args:
        values: θ (k,), on the CPU, float64.
        residual_norms: ‖A x − θ x‖ / ‖x‖ (k,), likewise.
        rounding: A bound on the error of the residual norms, as the products and sums made it.

    Returns:
        Intervals (k, 2) that each hold an eigenvalue; (−∞, ∞) where a value or a residual is not finite.

    Source: Parlett, The Symmetric Eigenvalue Problem, 1998, Theorem 4.5.1, 10.1137/1.9781611971163.

    Example:
        >>> import torch
        >>> A = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
        >>> x = torch.tensor([0.0, 1.0], dtype=torch.float64)
        >>> theta = torch.tensor([2.9], dtype=torch.float64)
        >>> enclosures(theta, torch.linalg.vector_norm(A @ x - theta * x).reshape(1)).round(decimals=6)
        tensor([[2.8000, 3.0000]], dtype=torch.float64)
    """
    return _intervals(values, residual_norms + rounding)


def cluster_enclosures(
    values: Tensor, residual_gram: Tensor, rounding: float = 0.0, *, gram: Tensor | None = None
) -> Tensor:
    """|λ_i − θ_i| ≤ ‖R‖₂ for k different eigenvalues λ_i, counted with multiplicity: R = A X − X diag(θ).

    So a cluster of k pairs with orthonormal X stands for k eigenvalues, even where they are equal. Of an X
    that is not quite orthonormal, with G = XᵀX, the vectors X G^(−½) are, and
    ‖R‖₂ is replaced by (‖R‖₂ + ‖G^½ Θ − Θ G^½‖₂) / λ_min(G)^½.

    Args:
        values: θ (k,), on the CPU, float64.
        residual_gram: RᵀR (k, k), likewise.
        rounding: A bound on the error of ‖R‖₂, as the products and sums made it.
        gram: G (k, k); the identity if None.

    Returns:
        Intervals (k, 2), one for each eigenvalue; (−∞, ∞) where not all is finite or X not of full rank.

    Source: Kahan 1967; Parlett 1998, section 11.5, 10.1137/1.9781611971163. That it holds for any θ, not the
    eigenvalues of XᵀAX alone, is the dilation theorem of Davis, Kahan, Weinberger 1982, 10.1137/0719029.

    Example:
        >>> import torch
        >>> theta, R = torch.ones(2, dtype=torch.float64), torch.tensor([[0.0, 0.1]], dtype=torch.float64)
        >>> cluster_enclosures(theta, R.mT @ R)
        tensor([[0.9000, 1.1000],
                [0.9000, 1.1000]], dtype=torch.float64)
    """
    radius = _norm_of_factor(residual_gram) + rounding
    if gram is not None:
        radius = _despite_skewness(values, radius, gram)
    return _intervals(values, torch.full_like(values, radius))


def remainder(values: Tensor, which: Which) -> Tensor:
    """Where the eigenvalues lie that are not wanted, ON THE CONDITION that no wanted one was missed.

    If the wanted eigenvalues are the largest ("LA"), all others are at most the smallest wanted θ. Likewise
    for the smallest ("SA"), the largest in magnitude ("LM"), and those at both ends ("BE"; of an odd number,
    the one more is at the upper end). It is a condition and no proof: residuals say where eigenvalues are,
    never where none are.

    Args:
        values: The wanted θ (k,), on the CPU, float64.
        which: Which eigenvalues are wanted.

    Returns:
        Intervals (1, 2), as `gap_bounds` takes them.

    Example:
        >>> import torch
        >>> remainder(torch.tensor([9.0, 8.0], dtype=torch.float64), "LA")
        tensor([[-inf, 8.]], dtype=torch.float64)
    """
    low, high = _between(values, which)
    reach = max(-low, high)
    bounds = {"LA": (-math.inf, high), "SA": (low, math.inf), "BE": (low, high), "LM": (-reach, reach)}
    return torch.tensor([bounds[which]], dtype=torch.float64)


def gap_bounds(values: Tensor, residual_norms: Tensor, elsewhere: Tensor, rounding: float = 0.0) -> Tensor:
    """|λ − θ| ≤ ‖A x − θ x‖² / gap for θ = xᵀA x, if no other eigenvalue than λ is nearer to θ than the gap.

    ON THE CONDITION that the eigenvalues of YᵀA Y lie `elsewhere`, where the columns of Y complete those of X
    to an orthonormal basis: that no eigenvalue of A deflated by X is anywhere else. For then [X Y]ᵀA [X Y]
    differs from diag(θ) and YᵀA Y, side by side, by what couples X and Y and by XᵀA X − diag(θ), both parts
    of R = A X − X diag(θ); so by Weyl's theorem the eigenvalues of A are those of both, moved by 2 ‖R‖ at
    most. The gap is the distance from θ to the other values and to `elsewhere`, less 2 √(‖r_1‖² + ... +
    ‖r_k‖²). With a positive gap the bound is mostly far smaller than ‖A x − θ x‖, and never larger.

    Args:
        values: Rayleigh quotients θ (k,), on the CPU, float64.
        residual_norms: ‖A x − θ x‖ / ‖x‖ (k,), likewise.
        elsewhere: Intervals (m, 2) that hold the eigenvalues of A deflated by X, such as `remainder` gives;
            (0, 2) if there are no others. One with its upper end far below its lower one is empty.
        rounding: A bound on the errors of the residual norms and of the Rayleigh quotients.

    Returns:
        Bounds (k,); NaN where no positive gap is known: in clusters, next to pairs that have not converged,
        and for the last pair where nothing is known of the next eigenvalue.

    Source: Temple 1928; Kato 1949, 10.1143/JPSJ.4.334; Parlett 1998, section 11.7, 10.1137/1.9781611971163.

    Example:
        >>> import torch
        >>> theta, r = torch.tensor([[9.0, 8.0], [0.1, 0.2]], dtype=torch.float64)
        >>> gap_bounds(theta, r, torch.tensor([[-torch.inf, 3.5]], dtype=torch.float64))
        tensor([0.0181, 0.0724], dtype=torch.float64)
    """
    norms = residual_norms + rounding
    gaps = _gaps(values, norms, elsewhere, rounding)
    return torch.minimum(norms.square() / gaps + rounding, norms).where(gaps > 0, math.nan)


def eigenvector_bounds(
    values: Tensor, residual_norms: Tensor, elsewhere: Tensor, rounding: float = 0.0
) -> Tensor:
    """sin ∠(x, v) ≤ ‖A x − θ x‖ / gap, for the eigenvector v of the one eigenvalue within the gap of θ.

    Arguments, the condition, and where nothing is known (NaN) are those of `gap_bounds`.

    Returns:
        Bounds (k,), at most 1.

    Source: Davis and Kahan 1970, 10.1137/0707001; Parlett 1998, Theorem 11.7.1, 10.1137/1.9781611971163.

    Example:
        >>> import torch
        >>> theta, r = torch.tensor([[9.0, 8.0], [0.1, 0.2]], dtype=torch.float64)
        >>> eigenvector_bounds(theta, r, torch.tensor([[-torch.inf, 3.5]], dtype=torch.float64))
        tensor([0.1809, 0.3618], dtype=torch.float64)
    """
    norms = residual_norms + rounding
    gaps = _gaps(values, norms, elsewhere, rounding)
    return (norms / gaps).clamp(max=1.0).where(gaps > 0, math.nan)


def miss_probability(n: int, steps: int, resolution: float) -> float:
    """P(λ_max − θ_max > ε (λ_max − λ_min)) ≤ 1.648 √n exp(−√ε (2 m − 1)), for any symmetric A.

    θ_max is the largest Ritz value after m Lanczos steps from ONE random start, uniform on the sphere (normal
    numbers, scaled), in exact arithmetic. By −A the same holds at the other end. For what is left of A when
    eigenvectors are deflated, n is the dimension that is left.

    Args:
        n: Dimension.
        steps: m, the dimension of the Krylov space: one product for each.
        resolution: ε, between 0 and 1.

    Returns:
        The bound, at most 1.

    Source: Kuczyński and Woźniakowski 1992, section 4, 10.1137/0613066.

    Example:
        >>> f"{miss_probability(1_000_000, 100, resolution=0.01):.1e}"
        '3.8e-06'
    """
    _check_dimension(n)
    _check_resolution(resolution)
    _check_steps(steps)
    return min(1.0, _CONSTANT * math.sqrt(n) * math.exp(-math.sqrt(resolution) * (2 * steps - 1)))


def steps_for(n: int, probability: float, resolution: float) -> int:
    """The fewest Lanczos steps m with `miss_probability(n, m, resolution)` ≤ probability.

    Example:
        >>> steps_for(1_000_000, probability=1e-6, resolution=0.01)
        107
    """
    _check_dimension(n)
    _check_probability(probability)
    _check_resolution(resolution)
    return math.ceil((_exponent(n, probability) / math.sqrt(resolution) + 1) / 2)


def resolution_for(n: int, steps: int, probability: float) -> float:
    """The finest resolution ε with `miss_probability(n, steps, ε)` ≤ probability; 1 if there is none below.

    Example:
        >>> round(resolution_for(1_000_000, steps=100, probability=1e-6), 4)
        0.0114
    """
    _check_dimension(n)
    _check_probability(probability)
    _check_steps(steps)
    return min(1.0, (_exponent(n, probability) / (2 * steps - 1)) ** 2)


def _intervals(values: Tensor, radii: Tensor) -> Tensor:
    known = torch.isfinite(values) & torch.isfinite(radii)
    low = (values - radii).where(known, -math.inf)
    return torch.stack([low, (values + radii).where(known, math.inf)], dim=1)


def _norm_of_factor(gram: Tensor) -> float:
    """‖R‖₂ from RᵀR; infinite if that is not finite."""
    if not bool(torch.isfinite(gram).all()):
        return math.inf
    return math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[-1]))) if gram.numel() else 0.0


def _despite_skewness(values: Tensor, radius: float, gram: Tensor) -> float:
    # Q = X S⁻¹ with S = G^½ has orthonormal columns, and A Q − Q Θ = Q (S Θ − Θ S) S⁻¹ + R S⁻¹.
    if not bool(torch.isfinite(gram).all() and torch.isfinite(values).all()):
        return math.inf
    squares, V = torch.linalg.eigh(gram)
    if not float(squares[0]) > 0:
        return math.inf
    S = (V * squares.sqrt()) @ V.mT
    skewness = S * values - values.unsqueeze(1) * S
    return (radius + float(torch.linalg.matrix_norm(skewness, 2))) / math.sqrt(float(squares[0]))


def _between(values: Tensor, which: Which) -> tuple[float, float]:
    """Where unwanted eigenvalues are if the wanted ones are all that is known."""
    ordered = values.sort().values
    if which == "LA":
        return -math.inf, float(ordered[0])
    if which == "SA":
        return float(ordered[-1]), math.inf
    if which == "LM":
        least = float(values.abs().min())
        return -least, least
    half = len(values) // 2  # of an odd number, the one more is at the upper end
    return (float(ordered[half - 1]) if half else -math.inf), float(ordered[half])


def _gaps(values: Tensor, norms: Tensor, elsewhere: Tensor, rounding: float) -> Tensor:
    """Distance (k,) from each value to where other eigenvalues may be."""
    taken = torch.cat([_intervals(values, 0 * norms), elsewhere])
    theta = values.unsqueeze(1)
    distances = torch.maximum(taken[:, 0] - theta, theta - taken[:, 1])
    distances[:, : len(values)].fill_diagonal_(math.inf)
    # A single value that is all there is has an infinite gap.
    moved = 2 * torch.linalg.vector_norm(norms) + rounding
    return distances.min(dim=1).values - moved if len(values) else values


def _exponent(n: int, probability: float) -> float:
    """√ε (2 m − 1) at which the bound equals the probability."""
    return math.log(_CONSTANT * math.sqrt(n) / probability)


def _check_dimension(n: int) -> None:
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")


def _check_resolution(resolution: float) -> None:
    if not 0 < resolution <= 1:
        raise ValueError(f"resolution must lie above 0 and be at most 1, got {resolution}")


def _check_probability(probability: float) -> None:
    if not 0 < probability < 1:
        raise ValueError(f"probability must lie between 0 and 1, both excluded, got {probability}")


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}; a Krylov space takes one product at least")
