"""Brackets of a measure by its Gauss rules, and bounds on smoothed densities."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from hvplib.estimate.measures import Bracket, Masses, gaussian
from hvplib.krylov.quadrature import gauss

F64 = torch.float64


def lanczos(nodes: Tensor, weights: Tensor, steps: int) -> Tensor:
    """The Jacobi matrix of a discrete measure, with full reorthogonalisation."""
    Q, alphas, betas = [weights.sqrt() / weights.sum().sqrt()], [], []
    for _ in range(steps):
        w = nodes * Q[-1]
        alphas.append(float(w @ Q[-1]))
        for _ in range(2):
            for q in Q:
                w = w - (q @ w) * q
        betas.append(float(w.norm()))
        Q.append(w / w.norm())
    T = torch.diag(torch.tensor(alphas, dtype=F64))
    beside = torch.tensor(betas[:-1], dtype=F64)
    return T + torch.diag(beside, 1) + torch.diag(beside, -1)


def measure(seed: int, n: int = 40) -> Masses:
    """A random discrete measure of mass one, with gaps, clusters or repeated points."""
    rng = torch.Generator().manual_seed(seed)
    nodes = torch.rand(n, generator=rng, dtype=F64) ** (1 + seed % 4)
    if seed % 3 == 0:
        nodes[n // 2 :] += 3.0
    if seed % 5 == 0:
        nodes[: n // 4] = nodes[0]
    weights = torch.rand(n, generator=rng, dtype=F64) ** (1 + seed % 7)
    return Masses.of([(nodes, weights / weights.sum())])


def everywhere(*groups: Tensor) -> Tensor:
    """At, just before, just after and between all nodes, and beyond them."""
    nodes = torch.cat(groups).sort().values
    between = (nodes[1:] + nodes[:-1]) / 2
    return (
        torch.cat([nodes, nodes - 1e-9, nodes + 1e-9, between, nodes[:1] - 1, nodes[-1:] + 1]).sort().values
    )


@pytest.mark.parametrize("seed", range(100))
def test_the_bracket_holds_everywhere(seed: int) -> None:
    mu = measure(seed)
    rule = gauss(lanczos(mu.nodes, mu.weights, 2 + seed % 9))
    for interval in ((-math.inf, math.inf), (float(mu.nodes[0]), float(mu.nodes[-1]))):
        bracket = Bracket([(*rule, False)], interval=interval, shift=1e-12)
        x = everywhere(mu.nodes, rule[0])
        low, high = bracket.cumulative(x).unbind(1)
        exact = mu.cumulative(x)
        assert bool((low <= exact + 1e-12).all()) and bool((exact <= high + 1e-12).all())


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("width", [0.01, 0.3])
def test_bounds_on_the_density_hold(seed: int, width: float) -> None:
    mu = measure(seed)
    rule = gauss(lanczos(mu.nodes, mu.weights, 3 + seed % 12))
    bracket = Bracket([(*rule, False)], shift=1e-12)
    t = torch.linspace(-1, 5, 300, dtype=F64)
    low, high = bracket.smoothed(t, width).unbind(1)
    exact = gaussian(t, mu.nodes, width) @ mu.weights
    assert bool((low <= exact + 1e-11).all()) and bool((exact <= high + 1e-11).all())
    wider = bracket.smoothed(t, width, 0.1)
    assert bool((wider[:, 0] <= low).all()) and bool((wider[:, 1] >= high).all())


def test_bounds_on_the_density_allow_for_what_is_said_to_be_uncertain() -> None:
    """A measure moved by at most 0.05 in its cumulative, at worst."""
    nodes = torch.linspace(0, 1, 21, dtype=F64)
    weights = torch.full((21,), 1 / 21, dtype=F64)
    bracket = Bracket([(nodes, weights, True)])
    t = torch.linspace(-0.5, 1.5, 101, dtype=F64)
    low, high = bracket.smoothed(t, 0.1, 0.05).unbind(1)
    for i in range(20):
        moved = weights.clone()
        moved[i] += 0.0475
        moved[i + 1] -= 0.0475
        density = gaussian(t, nodes, 0.1) @ moved
        assert bool((low <= density).all()) and bool((density <= high).all())


def test_an_exact_rule_is_itself() -> None:
    mu = measure(1)
    bracket = Bracket([(mu.nodes, mu.weights, True)])
    x = everywhere(mu.nodes)
    torch.testing.assert_close(bracket.cumulative(x), mu.cumulative(x).unsqueeze(1).expand(-1, 2))
    t = torch.linspace(-1, 2, 50, dtype=F64)
    exact = (gaussian(t, mu.nodes, 0.1) @ mu.weights).unsqueeze(1).expand(-1, 2)
    torch.testing.assert_close(bracket.smoothed(t, 0.1), exact)


def test_widths_of_the_bracket_are_two_weights() -> None:
    nodes, weights = torch.tensor([0.0, 1.0, 2.0], dtype=F64), torch.tensor([0.25, 0.5, 0.25], dtype=F64)
    x = torch.tensor([-1.0, 0.5, 1.5, 3.0], dtype=F64)
    expected = torch.tensor([[0.0, 0.25], [0.0, 0.75], [0.25, 1.0], [0.75, 1.0]], dtype=F64)
    torch.testing.assert_close(Bracket([(nodes, weights, False)]).cumulative(x), expected)
    bounded = Bracket([(nodes, weights, False)], interval=(-0.5, 2.5)).cumulative(x)
    assert bounded[0].tolist() == [0.0, 0.0] and bounded[3].tolist() == [1.0, 1.0]


def test_gaussian() -> None:
    t = torch.tensor([0.0, 1.0], dtype=F64)
    nodes = torch.tensor([0.3, -math.inf], dtype=F64)
    found = gaussian(t, nodes, 0.5)
    torch.testing.assert_close(found[:, 0], torch.from_numpy(norm.pdf(t.numpy(), 0.3, 0.5)))
    assert found[:, 1].tolist() == [0.0, 0.0]


def test_mapped() -> None:
    nodes, weights = torch.tensor([1.0, 10.0, 100.0], dtype=F64), torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    plain = Bracket([(nodes, weights, False)])
    x = torch.tensor([5.0, 50.0], dtype=F64)
    torch.testing.assert_close(plain.mapped(torch.log10).cumulative(x.log10()), plain.cumulative(x))
