"""Levenberg's and Marquardt's rule: how far to trust a quadratic model, from how well it foretold."""

from __future__ import annotations

import math

__all__ = ["FIRST", "REJECTED", "factor", "reduction_ratio"]

# J. Martens 2010, Deep learning via Hessian-free optimization, ICML, section 4.1.
_POOR, _GOOD = 0.25, 0.75
_RAISE, _LOWER = 3 / 2, 2 / 3
# After a step that was not taken; three of the steps above, and a little more.
REJECTED = 4.0
# Where the damping was zero and has to be raised: this share of the curvature along the step.
FIRST = 1e-2
# Roundings in a value of the loss, a sum of many terms.
_ROUNDINGS = 10.0


def reduction_ratio(before: float, after: float, predicted: float, eps: float) -> float | None:
    """ρ = (f(θ) − f(θ + d)) / (−q(d)), the decrease beside the one that the model foretold.

    Args:
        before: f(θ).
        after: f(θ + d), perhaps not finite: ρ is −∞ then.
        predicted: −q(d) = −gᵀd − ½ dᵀB d.
        eps: The unit of rounding of f.

    Returns:
        None where rounding hides the decrease: −q(d) ≤ 10 eps |f(θ)|. −∞ where the model foretold none.

    Example:
        >>> reduction_ratio(3.0, 2.5, 1.0, eps=1e-16)
        0.5
    """
    if not (math.isfinite(after) and predicted > 0):
        return -math.inf
    if predicted <= _ROUNDINGS * eps * abs(before):
        return None
    return (before - after) / predicted


def factor(ratio: float | None, accepted: bool) -> float:
    """What the damping is multiplied by after a step.

    3/2 for ρ < 1/4, 2/3 for ρ > 3/4, and 1 between them; 4 after a step that was not taken; 1 where rounding
    hides ρ.

    Source: J. Martens (2010), Deep learning via Hessian-free optimization, ICML; after J. J. Moré (1978), The
    Levenberg-Marquardt algorithm, doi:10.1007/BFb0067700.

    Example:
        >>> factor(0.1, True), factor(0.5, True), factor(-2.0, False)
        (1.5, 1.0, 4.0)
    """
    if ratio is None:
        return 1.0
    if not accepted:
        return REJECTED
    return _RAISE if ratio < _POOR else _LOWER if ratio > _GOOD else 1.0
