"""Discrete measures that bracket a spectral measure, and what follows for smoothed densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Bracket", "Masses", "gaussian"]


class Masses(NamedTuple):
    """Σ_i w_i δ(x − x_i), ascending; float64, on the CPU.

    Attributes:
        nodes: x (m,), −∞ and ∞ among them.
        weights: w (m,), not negative.
    """

    nodes: Tensor
    weights: Tensor

    @classmethod
    def of(cls, parts: list[tuple[Tensor, Tensor]]) -> Masses:
        """The sum of several."""
        nodes, weights = (torch.cat([part[i] for part in parts]) for i in range(2))
        order = nodes.argsort()
        return cls(nodes[order], weights[order])

    def mapped(self, rising: Callable[[Tensor], Tensor]) -> Masses:
        """Each mass moved by a function that does not fall."""
        return Masses(rising(self.nodes), self.weights)

    def cumulative(self, x: Tensor) -> Tensor:
        """The mass at or below each x (g,)."""
        sums = torch.nn.functional.pad(self.weights.cumsum(0), (1, 0))
        return sums[torch.searchsorted(self.nodes, x, right=True)]


class Bracket:
    """L(x) ≤ μ((−∞, x]) ≤ U(x) for all x, of a measure μ of mass one known by Gauss rules.

    By the inequalities of Chebyshev, Markov and Stieltjes, for the nodes θ_1 < ... < θ_m of a Gauss rule and
    its weights w,

        w_1 + ... + w_{i−1} ≤ μ((−∞, θ_i)) ≤ μ((−∞, θ_i]) ≤ w_1 + ... + w_i.

    So L has the mass w_i at θ_{i+1}, and U at θ_{i−1}; what has no neighbour is moved to the end of an
    interval that holds the support, or to infinity. A rule that is μ itself moves nothing.

    Args:
        rules: (nodes (m,), weights (m,), whether the rule is the measure itself) of each of the measures that
            μ is the sum of.
        interval: The ends of the support as far as they are known, else −∞ and ∞.
        shift: How far each node may be from where it should be: for rounding, and for what else moves
            eigenvalues.

    Attributes:
        lower, upper: L and U as masses.

    Source: Szegő (1939), Orthogonal polynomials, section 3.41, 10.1090/coll/023; Chen, Trogdon, Ubaru (2021),
    arXiv 2105.06595, for their use with Lanczos.

    Example:
        >>> import torch
        >>> nodes, weights = torch.tensor([[0.0, 1.0, 2.0], [0.25, 0.5, 0.25]], dtype=torch.float64)
        >>> Bracket([(nodes, weights, False)]).cumulative(torch.tensor([1.5], dtype=torch.float64))
        tensor([[0.2500, 1.0000]], dtype=torch.float64)
    """

    def __init__(
        self,
        rules: list[tuple[Tensor, Tensor, bool]],
        *,
        interval: tuple[float, float] = (-math.inf, math.inf),
        shift: float = 0.0,
    ) -> None:
        low, high = interval
        lower, upper = [], []
        for nodes, weights, exact in rules:
            left = nodes if exact else torch.cat([nodes.new_tensor([low]), nodes[:-1]])
            right = nodes if exact else torch.cat([nodes[1:], nodes.new_tensor([high])])
            lower.append((right + shift, weights))
            upper.append((left - shift, weights))
        self.lower, self.upper = Masses.of(lower), Masses.of(upper)

    def mapped(self, rising: Callable[[Tensor], Tensor]) -> Bracket:
        """The bracket of the measure whose masses this function of x, which does not fall, has moved."""
        moved = copy(self)
        moved.lower, moved.upper = self.lower.mapped(rising), self.upper.mapped(rising)
        return moved

    def cumulative(self, x: Tensor) -> Tensor:
        """L and U at each x: (g, 2)."""
        return torch.stack([self.lower.cumulative(x), self.upper.cumulative(x)], dim=1)

    def smoothed(self, t: Tensor, width: float, more: float = 0.0) -> Tensor:
        """Bounds (g, 2) on ∫ N(t − x; width) dμ(x) at each t, for μ((−∞, x]) in [L − more, U + more].

        Integrated by parts it is −∫ μ((−∞, x]) N'(x) dx, and N' changes its sign at t only.
        """
        below, above = self.lower, self.upper
        at, peak = self.cumulative(t), 1 / (math.sqrt(2 * math.pi) * width)
        slack = (at[:, 1] - at[:, 0] + 2 * more) * peak
        most = _part(below, t, width, left=True) + _part(above, t, width, left=False) + slack
        least = _part(above, t, width, left=True) + _part(below, t, width, left=False) - slack
        return torch.stack([least.clamp(min=0.0), most.clamp(max=peak)], dim=1)


def gaussian(t: Tensor, nodes: Tensor, width: float) -> Tensor:
    """N(t − x; width): (g, m), zero where x is infinite."""
    apart = (t.unsqueeze(1) - nodes.unsqueeze(0)) / width
    return torch.exp(-apart.square() / 2) / (math.sqrt(2 * math.pi) * width)


def _part(masses: Masses, t: Tensor, width: float, *, left: bool) -> Tensor:
    """Σ w N(t − x) over the masses at or left of t, or right of it: (g,)."""
    on_left = masses.nodes.unsqueeze(0) <= t.unsqueeze(1)
    return (gaussian(t, masses.nodes, width) * (on_left == left)) @ masses.weights
