"""Performance profiles: what share of the problems a solver solves at no more than τ times the least cost.

E. D. Dolan, J. J. Moré, Benchmarking optimization software with performance profiles, Math. Program. 91
(2002) 201-213, doi:10.1007/s101070100263.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from benchmarks.drawing import pyplot, save

__all__ = ["Costs", "draw", "profile", "ratios"]

_WIDEST = 128  # where the figure ends

# costs[solver][problem], math.inf where the solver does not solve the problem.
Costs = Mapping[str, Mapping[str, float]]


def ratios(costs: Costs) -> dict[str, list[float]]:
    """r(p, s) = cost(p, s) / min over s of cost(p, s), for every solver over all problems.

    Args:
        costs: By solver and problem; infinite, or left out, where the solver does not solve the problem.

    Returns:
        For each solver one ratio ≥ 1 per problem, infinite where it does not solve it. A problem that nobody
        solves counts against everybody.
    """
    problems = list(dict.fromkeys(problem for own in costs.values() for problem in own))
    least = {p: min(own.get(p, math.inf) for own in costs.values()) for p in problems}
    return {
        solver: [_ratio(own.get(p, math.inf), least[p]) for p in problems] for solver, own in costs.items()
    }


def _ratio(cost: float, least: float) -> float:
    if math.isinf(cost):
        return math.inf
    return 1.0 if cost == least else cost / least if least > 0 else math.inf


def profile(costs: Costs, tau: float) -> dict[str, float]:
    """ρ(τ) = the share of problems with r(p, s) ≤ τ, for every solver."""
    return {solver: sum(r <= tau for r in own) / max(1, len(own)) for solver, own in ratios(costs).items()}


def draw(sections: Mapping[str, Costs], path: Path) -> None:
    """Draw the profiles beside each other, over τ in powers of two, and save the figure.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    size = (6.5 * len(sections), 5)
    figure, axes = pyplot().subplots(1, len(sections), figsize=size, squeeze=False, sharey=True)
    for ax, (title, costs) in zip(axes[0], sections.items(), strict=True):
        for solver, own in ratios(costs).items():
            steps = sorted(r for r in own if math.isfinite(r))
            shares = [k / len(own) for k in range(len(steps) + 1)]
            ours = "hvplib" in solver
            ax.step(
                [1, *steps, _WIDEST],
                [*shares, shares[-1]],
                where="post",
                label=solver.strip("*"),
                linewidth=2.2 if ours else 1.1,
                linestyle="-" if ours else "--",
            )
        ax.set(xscale="log", xlim=(1, _WIDEST), ylim=(0, 1.02), title=title)
        ax.set_xlabel("τ: at most this many times the least")
        ticks = [2**k for k in range(8)]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel("share of problems solved")
    axes[0][-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    save(figure, path)
