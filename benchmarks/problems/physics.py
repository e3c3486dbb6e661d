"""Problems of physics: networks that solve a differential equation, and clusters of atoms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad

from benchmarks.problems.minimisation import Minimisation

__all__ = ["PHYSICS", "burgers", "icosahedron", "lennard_jones", "poisson", "truncated_octahedron"]


# ------------------------------------------------------------------------------- physics-informed networks


def poisson(width: int = 16, points: int = 64) -> Minimisation:
    """f = mean (u'' + π² sin πx)² + u(0)² + u(1)² for a network u, which is to become sin πx.

    Raissi, Perdikaris, Karniadakis (2019), doi:10.1016/j.jcp.2018.10.045. The residual takes two derivatives
    with respect to the input; the gradient of f is a third one, a product with the Hessian a fourth.
    """
    sizes = (1, width, width, 1)
    x = (torch.arange(points, dtype=torch.float64) + 0.5)[:, None] / points
    ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    force = math.pi**2 * torch.sin(math.pi * x)

    def func(theta: Tensor) -> Tensor:
        u = _network(theta, sizes)
        second = _each(_each(u))(x)
        return (second + force).square().mean() + u(ends).square().sum()

    return Minimisation("PINN, Poisson", func, _initial(sizes), None, "Raissi et al. (2019)")


def burgers(width: int = 16, points: int = 256, viscosity: float = 0.05) -> Minimisation:
    """f = mean (u_t + u u_x − ν u_xx)² + mean (u(0, x) + sin πx)² + mean u(t, ±1)², u(t, x) a network.

    The viscous Burgers equation of Raissi, Perdikaris, Karniadakis (2019), doi:10.1016/j.jcp.2018.10.045, on
    0 ≤ t ≤ 1, −1 ≤ x ≤ 1, at scattered points.
    """
    sizes = (2, width, width, 1)
    scattered = torch.rand(points, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = torch.stack([scattered[:, 0], 2 * scattered[:, 1] - 1], 1)
    line = torch.linspace(-1, 1, 41, dtype=torch.float64)
    start = torch.stack([torch.zeros_like(line), line], 1)
    times = torch.linspace(0, 1, 21, dtype=torch.float64)
    walls = torch.cat([torch.stack([times, torch.full_like(times, end)], 1) for end in (-1, 1)])

    def func(theta: Tensor) -> Tensor:
        u = _network(theta, sizes)
        u_t, u_x = _each(u)(inside).unbind(1)
        u_xx = _each(lambda z: _each(u)(z)[:, 1])(inside)[:, 1]
        equation = u_t + u(inside)[:, 0] * u_x - viscosity * u_xx
        initial = u(start)[:, 0] + torch.sin(math.pi * line)
        return equation.square().mean() + initial.square().mean() + u(walls).square().mean()

    return Minimisation("PINN, Burgers", func, _initial(sizes), None, "Raissi et al. (2019)")


Map = Callable[[Tensor], Tensor]


def _network(theta: Tensor, sizes: Sequence[int]) -> Map:
    """Return z (points, in) -> (points, out), linear layers of these sizes with tanh between them.

    theta holds, layer by layer, the weights (out, in) and the biases (out,).
    """
    layers, used = [], 0
    for fan_in, fan_out in itertools.pairwise(sizes):
        weight = theta[used : used + fan_in * fan_out].view(fan_out, fan_in)
        used += fan_in * fan_out
        layers.append((weight, theta[used : used + fan_out]))
        used += fan_out

    def u(z: Tensor) -> Tensor:
        for weight, bias in layers[:-1]:
            z = torch.tanh(z @ weight.T + bias)
        weight, bias = layers[-1]
        return z @ weight.T + bias

    return u


def _each(u: Map) -> Map:
    """Return z -> ∂u/∂z at each point, (points, in), as the gradient of the sum of u over the points."""
    return grad(lambda z: u(z).sum())


def _initial(sizes: Sequence[int], seed: int = 0) -> Tensor:
    """Return weights of variance 2 / (in + out) (Glorot, Bengio 2010) and biases of 0, flat."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        weight = torch.randn(fan_out * fan_in, generator=generator, dtype=torch.float64)
        parts += [weight * math.sqrt(2 / (fan_in + fan_out)), torch.zeros(fan_out, dtype=torch.float64)]
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------ clusters of atoms


def lennard_jones(atoms: int = 13, displacement: float = 0.05, seed: int = 0) -> Minimisation:
    """f = 4 Σ_{i<j} rᵢⱼ⁻¹² − rᵢⱼ⁻⁶, the energy of a cluster, from its best known shape with atoms displaced.

    Moving or turning the cluster changes nothing: six eigenvalues at the minimum are zero. 13 atoms end as an
    icosahedron, 38 as a truncated octahedron (Wales, Doye 1997, doi:10.1021/jp970984n). Other numbers start
    from atoms thrown at random, and nobody says where they end.
    """
    pairs = torch.triu_indices(atoms, atoms, offset=1)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(atoms, 3, generator=generator, dtype=torch.float64)
    shapes = {13: icosahedron, 38: truncated_octahedron}
    known = atoms in shapes
    start = shapes[atoms]() + displacement * noise if known else 0.6 * atoms ** (1 / 3) * noise
    minimum = {13: -44.32680142, 38: -173.92842659}.get(atoms)

    def func(x: Tensor) -> Tensor:
        positions = x.view(atoms, 3)
        inverse = (positions[pairs[0]] - positions[pairs[1]]).square().sum(1) ** -3
        return 4 * (inverse**2 - inverse).sum()

    return Minimisation(f"Lennard-Jones {atoms}", func, start.flatten(), minimum, "Wales, Doye (1997)")


def icosahedron() -> Tensor:
    """Return an atom and its twelve neighbours (13, 3), at about the distance of least energy."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0.0, a, b * golden) for a, b in itertools.product((-1, 1), repeat=2)]
    turned = [corner[shift:] + corner[:shift] for corner in corners for shift in range(3)]
    positions = torch.tensor([(0.0, 0.0, 0.0), *turned], dtype=torch.float64)
    return positions * (1.08 / math.hypot(1, golden))


def truncated_octahedron() -> Tensor:
    """Return 38 atoms (38, 3) of the cubic close packing: an octahedron of 44 less its six corners."""
    # Points of the lattice with an odd sum of coordinates; neighbours differ by (±1, ±1, 0).
    points = [p for p in itertools.product(range(-3, 4), repeat=3) if sum(p) % 2 and sum(map(abs, p)) <= 3]
    kept = [p for p in points if max(map(abs, p)) < 3]
    return torch.tensor(kept, dtype=torch.float64) * (1.1 / math.sqrt(2))


PHYSICS: dict[str, Callable[[], Minimisation]] = {
    "PINN, Poisson": poisson,
    "PINN, Burgers": burgers,
    "Lennard-Jones 13": lennard_jones,
    "Lennard-Jones 38": lambda: lennard_jones(38),
}
