"""What `spectral_density` returns: densities and cumulative distributions with their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from hvplib.results.common import Printed, by_purpose
from hvplib.results.status import Status

__all__ = ["SpectralDensity"]


@dataclass(frozen=True, repr=False, eq=False)
class SpectralDensity(Printed):
    """φ(t) ≈ (1/n) Σ_i N(t − λ_i; width), and F(t) ≈ #{λ_i ≤ t} / n, of the eigenvalues λ_i of A.

    With scale "log" the same of log10 λ_i: t and `width` are in decades there, and `grid` holds 10^t.

    All tensors are float64, on the CPU. What is certain holds in exact arithmetic, and `shift` allows for the
    rest.

    Attributes:
        grid: Where the functions are given (g,), ascending.
        density: φ (g,), of integral one; with scale "log" per decade, and of integral 1 − `mass_left_out`.
        density_stderr: The standard error of φ (g,), from the known variance of random directions.
        density_bounds: (g, 2) that φ lies between, all t at once, with the probability `confidence`.
        cdf: F (g,), the middle of its bracket.
        cdf_bracket: (g, 2) that the mean of vᵀ 1[A ≤ t] v over the probes v lies between, for certain.
        cdf_bounds: (g, 2) that F lies between, all t at once, with the probability `confidence`: the bracket,
            and `band` on both sides.
        band: What chance may add to either side of the bracket.
        confidence: Of the bounds; 1 where chance had no part.
        width: Standard deviation of the Gaussian that φ is smoothed with.
        shift: How far nodes may be off, by rounding and by what the outliers' residuals leave.
        nodes: Ritz values (k, m) of each probe, padded with NaN.
        weights: Their weights (k, m), of sum one for each probe, padded with zeros.
        outliers: Eigenvalues (p,) that were taken out and count one each; the probes speak for the others.
        moments: (1/n) Σ λ^j for j = 1 ... 4 (4,).
        moment_stderrs: Their standard errors (4,).
        size: n.
        num_steps: Lanczos steps of each probe (k,).
        matvecs: Products made, by purpose.
        status: ESTIMATED, EXACT, or what ended it early.
        method: How it was computed.
        scale: "linear" or "log".
        mass_left_out: With scale "log", the share of eigenvalues that are not positive, as far as Ritz values
            tell: m steps do not part those at zero from much smaller ones than their resolution.
        note: What the status does not say.
    """

    grid: Tensor
    density: Tensor
    density_stderr: Tensor
    density_bounds: Tensor
    cdf: Tensor
    cdf_bracket: Tensor
    cdf_bounds: Tensor
    band: float
    confidence: float
    width: float
    shift: float
    nodes: Tensor
    weights: Tensor
    outliers: Tensor
    moments: Tensor
    moment_stderrs: Tensor
    size: int
    num_steps: Tensor
    matvecs: Mapping[str, int]
    status: Status
    method: str
    scale: Literal["linear", "log"]
    mass_left_out: float = 0.0
    note: str = ""

    @property
    def num_probes(self) -> int:
        """k."""
        return self.nodes.shape[0]

    @property
    def success(self) -> bool:
        """Whether all that was asked for was done."""
        return self.status.success

    def _rows(self) -> list[tuple[str, str]]:
        spread = float((self.cdf_bracket[:, 1] - self.cdf_bracket[:, 0]).max())
        return [
            ("method", self.method),
            (
                "size",
                f"{self.size} eigenvalues" + f", {len(self.outliers)} taken out" * bool(len(self.outliers)),
            ),
            ("mean", f"{float(self.moments[0]):.6g} ± {float(self.moment_stderrs[0]):.2g} (standard error)"),
            ("grid", f"{len(self.grid)} points from {float(self.grid[0]):.6g} to {float(self.grid[-1]):.6g}"),
            ("width", f"{self.width:.3g}" + " decades" * (self.scale == "log")),
            (
                "cdf",
                f"certain to {spread:.2g} at worst, and ± {self.band:.2g} at {100 * self.confidence:g} %",
            ),
            ("left out", f"{self.mass_left_out:.3g} not positive" if self.scale == "log" else ""),
            ("products", by_purpose(self.matvecs)),
            ("note", self.note),
        ]
