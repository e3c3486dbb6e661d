"""Physics-informed networks and clusters of atoms, by another hand and at known solutions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from benchmarks.problems.physics import (
    PHYSICS,
    burgers,
    icosahedron,
    lennard_jones,
    poisson,
    truncated_octahedron,
)
from hvplib import check_hvp, scipy_objective

Array = np.ndarray


def network(theta: Array, inputs: int, width: int, z: Array) -> Array:
    """The same network in NumPy: (points, inputs) -> (points,)."""
    used = 0
    for fan_in, fan_out in ((inputs, width), (width, width), (width, 1)):
        weight = theta[used : used + fan_in * fan_out].reshape(fan_out, fan_in)
        bias = theta[used + fan_in * fan_out : used + fan_in * fan_out + fan_out]
        used += (fan_in + 1) * fan_out
        z = (np.tanh(z) if used > (inputs + 1) * width else z) @ weight.T + bias
    return z[:, 0]


@pytest.mark.parametrize("name", PHYSICS)
def test_products(name: str) -> None:
    problem = PHYSICS[name]()
    assert problem.name == name and problem.x0.dtype == torch.float64
    report = check_hvp(problem.func, problem.x0)
    assert report.ok, str(report)


def test_poisson_with_derivatives_by_differences() -> None:
    problem = poisson(width=4, points=20)
    assert problem.size == 4 + 4 + 16 + 4 + 4 + 1
    theta = problem.x0.numpy() + 0.1 * np.sin(np.arange(problem.size))
    x, h = (np.arange(20)[:, None] + 0.5) / 20, 1e-4
    left, middle, right = (network(theta, 1, 4, x + step) for step in (-h, 0, h))
    residual = (left - 2 * middle + right) / h**2 + math.pi**2 * np.sin(math.pi * x[:, 0])
    ends = network(theta, 1, 4, np.array([[0.0], [1.0]]))
    value = float(problem.func(torch.from_numpy(theta)))
    assert value == pytest.approx((residual**2).mean() + (ends**2).sum(), rel=1e-6)


def test_burgers_with_derivatives_by_differences() -> None:
    problem = burgers(width=4, points=30, viscosity=0.3)
    theta = problem.x0.numpy() + 0.1 * np.sin(np.arange(problem.size))
    random = torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    z = random * [1, 2] - [0, 1]
    assert (np.abs(z) <= 1).all() and (z[:, 0] >= 0).all()

    def u(t: float = 0.0, x: float = 0.0) -> Array:
        return network(theta, 2, 4, z + np.array([t, x]))

    h = 1e-4
    first = (u(t=h) - u(t=-h)) / (2 * h) + u() * (u(x=h) - u(x=-h)) / (2 * h)
    equation = first - 0.3 * (u(x=h) - 2 * u() + u(x=-h)) / h**2
    line = np.linspace(-1, 1, 41)
    initial = network(theta, 2, 4, np.stack([0 * line, line], 1)) + np.sin(math.pi * line)
    walls = np.array([(t, end) for end in (-1, 1) for t in np.linspace(0, 1, 21)])
    expected = (equation**2).mean() + (initial**2).mean() + (network(theta, 2, 4, walls) ** 2).mean()
    assert float(problem.func(torch.from_numpy(theta))) == pytest.approx(expected, rel=1e-6)


def test_energy_in_loops() -> None:
    problem = lennard_jones(5, seed=3)
    atoms = problem.x0.view(5, 3).tolist()
    energy = 0.0
    for i in range(5):
        for j in range(i):
            distance = math.dist(atoms[i], atoms[j])
            energy += 4 * (distance**-12 - distance**-6)
    assert float(problem.func(problem.x0)) == pytest.approx(energy, rel=1e-13)
    assert problem.minimum is None


def test_shapes_of_clusters() -> None:
    for shape, atoms, neighbours in ((icosahedron(), 13, 12 + 30), (truncated_octahedron(), 38, 144)):
        distances = torch.pdist(shape)
        assert shape.shape == (atoms, 3)
        assert int((distances < 1.25 * distances.min()).sum()) == neighbours
        assert 1.0 < distances.min() < 1.15


def test_icosahedron_is_regular() -> None:
    # Twelve corners at the distance R from the atom in the middle; thirty edges of length R / sin(2π/5).
    radii = icosahedron().norm(dim=1)[1:]
    edges = torch.pdist(icosahedron()[1:]).sort().values[:30]
    torch.testing.assert_close(radii, torch.full_like(radii, 1.08), rtol=1e-14, atol=0)
    expected = torch.full_like(edges, 1.08 / math.sin(2 * math.pi / 5))
    torch.testing.assert_close(edges, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("atoms", [13, 38])
def test_clusters_fall_to_their_known_minima(atoms: int) -> None:
    problem = lennard_jones(atoms)
    f = scipy_objective(problem.func, problem.x0)
    found = minimize(f.fun, f.x0, jac=f.jac, method="L-BFGS-B", options={"gtol": 1e-7, "ftol": 1e-15})
    assert found.fun == pytest.approx(problem.minimum, rel=1e-9)
    assert f.fun(f.x0) > found.fun + 0.1
    hessian = torch.autograd.functional.hessian(problem.func, torch.from_numpy(found.x)).numpy()
    values = np.linalg.eigvalsh(hessian)
    assert np.abs(values[:6]).max() < 1e-4 and values[6] > 1


@pytest.mark.slow
def test_the_network_becomes_the_solution() -> None:
    problem = poisson()
    f = scipy_objective(problem.func, problem.x0)
    found = minimize(f.fun, f.x0, jac=f.jac, method="L-BFGS-B", options={"maxiter": 300, "maxfun": 400})
    x = np.linspace(0, 1, 101)[:, None]
    error = network(found.x, 1, 16, x) - np.sin(math.pi * x[:, 0])
    assert found.fun < 1e-3 and np.abs(error).max() < 1e-2
