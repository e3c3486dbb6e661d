"""From Gauss rules of random directions to densities, distributions and their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hvplib.estimate.axis import Axis
from hvplib.estimate.function_error import check_interval
from hvplib.estimate.measures import Bracket, gaussian
from hvplib.estimate.probed import Rule
from hvplib.krylov.lanczos_columns import Recurrence
from hvplib.results.density import SpectralDensity
from hvplib.results.status import Status

__all__ = ["Spectrum", "report"]

# Rounding moves eigenvalues, and sums of weights, by so many ε: constants that no one counts.
_ROUNDINGS = 32.0


@dataclass(frozen=True)
class Spectrum:
    """What is known of n eigenvalues.

    Attributes:
        size: n.
        rules: Of directions uniform on the sphere of the complement of the outliers.
        outliers: Eigenvalues (p,) that count by themselves.
        eps: Of the vectors' dtype.
        coupling: How far the outliers' residuals may move eigenvalues.
        interval: What is known of the spectrum's ends.
    """

    size: int
    rules: list[Rule]
    outliers: Tensor
    eps: float
    coupling: float = 0.0
    interval: tuple[float | None, float | None] = (None, None)

    @classmethod
    def whole(cls, values: Tensor, eps: float) -> Spectrum:
        """All eigenvalues (n,), as a rule that is the measure itself."""
        itself = Recurrence(1.0, exhausted=True)
        rule = Rule(values, torch.full_like(values, 1 / len(values)), itself)
        return cls(len(values), [rule], values[:0], eps)

    @property
    def left(self) -> int:
        """n − p, the eigenvalues that the rules speak for."""
        return self.size - len(self.outliers)

    @property
    def share(self) -> float:
        """The mass of these."""
        return self.left / self.size

    @property
    def nodes(self) -> Tensor:
        """Of all rules."""
        return torch.cat([rule.nodes for rule in self.rules])

    @property
    def weights(self) -> Tensor:
        """Of all rules, of sum one."""
        return torch.cat([rule.weights for rule in self.rules]) / len(self.rules)

    @property
    def shift(self) -> float:
        """How far eigenvalues and nodes may be off."""
        norm = float(torch.cat([self.nodes, self.outliers]).abs().max())
        return _ROUNDINGS * self.eps * norm + self.coupling

    def parts(self) -> list[tuple[Tensor, Tensor, bool]]:
        """The measures that the whole is the sum of, and whether each is known exactly."""
        each = self.share / len(self.rules)
        parts = [(rule.nodes, each * rule.weights, rule.recurrence.exhausted) for rule in self.rules]
        one = torch.full_like(self.outliers, 1 / self.size)
        return [*parts, (self.outliers, one, True)] if len(self.outliers) else parts

    def spread(self, means: Tensor, squares: Tensor) -> Tensor:
        """The standard error of share · mean of vᵀ g(A) v, from the means of g and of g².

        Of a uniform direction in N dimensions the variance is 2 (mean of g² − mean of g, squared) / (N + 2).
        """
        variance = 2 * (squares - means.square()).clamp(min=0) / (len(self.rules) * (self.left + 2))
        return self.share * variance.sqrt()


def report(
    spectrum: Spectrum,
    *,
    width: float | Literal["auto"],
    grid: int | Tensor,
    scale: Literal["linear", "log"],
    confidence: float,
    steps: int,
    status: Status,
    matvecs: Mapping[str, int],
    method: str,
) -> SpectralDensity:
    """All that `SpectralDensity` holds."""
    exact = status is Status.EXACT
    check_interval(torch.cat([spectrum.nodes, spectrum.outliers]), spectrum.interval, spectrum.shift)
    axis = Axis(scale, spectrum.shift)
    t_nodes = axis.of(spectrum.nodes)
    sigma = axis.width(t_nodes, steps) if width == "auto" else float(width)
    t = axis.grid(grid, t_nodes, axis.of(spectrum.outliers), sigma)
    bracket = _bracket(spectrum).mapped(axis.of)
    band = 0.0 if exact else _band(len(spectrum.rules), spectrum.left, confidence)
    rounding = _ROUNDINGS * spectrum.eps
    certain = bracket.cumulative(t) + torch.tensor([-rounding, rounding], dtype=torch.float64)
    chance = spectrum.share * band
    density, stderr = _density(spectrum, axis, t, sigma)
    moments, errors = _moments(spectrum)
    return SpectralDensity(
        grid=axis.back(t),
        density=density,
        density_stderr=torch.zeros_like(stderr) if exact else stderr,
        density_bounds=bracket.smoothed(t, sigma, chance + rounding),
        cdf=certain.mean(1).clamp(0, 1),
        cdf_bracket=certain.clamp(0, 1),
        cdf_bounds=(certain + torch.tensor([-chance, chance], dtype=torch.float64)).clamp(0, 1),
        band=chance,
        confidence=1.0 if exact else confidence,
        width=sigma,
        shift=spectrum.shift,
        nodes=_padded([rule.nodes for rule in spectrum.rules], math.nan),
        weights=_padded([rule.weights for rule in spectrum.rules], 0.0),
        outliers=spectrum.outliers,
        moments=moments,
        moment_stderrs=torch.zeros_like(errors) if exact else errors,
        size=spectrum.size,
        num_steps=torch.tensor([len(rule.nodes) for rule in spectrum.rules]),
        matvecs=matvecs,
        status=status,
        method=method,
        scale=scale,
        mass_left_out=axis.left_out([(nodes, weights) for nodes, weights, _ in spectrum.parts()]),
    )


def _bracket(spectrum: Spectrum) -> Bracket:
    low, high = spectrum.interval
    interval = -math.inf if low is None else low, math.inf if high is None else high
    return Bracket(spectrum.parts(), interval=interval, shift=spectrum.shift)


def _band(probes: int, size: int, confidence: float) -> float:
    """sup |mean of vᵀ 1[A ≤ t] v − F(t)|, but for the probability 1 − confidence.

    It is one of size − 1 numbers, as F has so many values beside 0 and 1, and each is a mean of Beta
    variables, sub-Gaussian with the proxy 1/(2 size + 4).
    """
    if size < 2:
        return 0.0
    return math.sqrt(math.log(2 * (size - 1) / (1 - confidence)) / (probes * (size + 2)))


def _density(spectrum: Spectrum, axis: Axis, t: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """φ at t (g,), and its standard error."""
    bumps = gaussian(t, axis.of(spectrum.nodes), sigma)
    means, squares = bumps @ spectrum.weights, bumps.square() @ spectrum.weights
    counted = gaussian(t, axis.of(spectrum.outliers), sigma).sum(1) / spectrum.size
    return spectrum.share * means + counted, spectrum.spread(means, squares)


def _moments(spectrum: Spectrum) -> tuple[Tensor, Tensor]:
    powers = torch.arange(1, 5, dtype=torch.float64)
    raised = spectrum.nodes.unsqueeze(1) ** powers
    means, squares = spectrum.weights @ raised, spectrum.weights @ raised.square()
    counted = (spectrum.outliers.unsqueeze(1) ** powers).sum(0) / spectrum.size
    return spectrum.share * means + counted, spectrum.spread(means, squares)


def _padded(rows: list[Tensor], value: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
