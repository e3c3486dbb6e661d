"""Spectral densities of the demo's network beside the peers': `python -m benchmarks.density`.

The Hessian of the mean loss of a 64-20-10 network on all 1797 digits, n = 1510. All multiply by the same
product and make the same number of Lanczos steps from as many random vectors. What is compared is how far the
nodes and weights that come of it are from the true spectrum, by two measures that no smoothing of the
contenders' own enters: the area between the distributions, as a share of the spectrum's range, and
∫ |φ − φ_true| of densities smoothed with the same Gaussian, of 1 % of the range.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.eigenproblems import digits_operator, digits_spectrum
from benchmarks.eigensolvers import Products
from benchmarks.peers import curvlinops_of, eigenthings_of, in_float64, pyhessian_of
from benchmarks.tables import arguments, figure, limited, prepare, publish, table
from benchmarks.timing import clock, take_cpu_time
from hvplib import FunctionOperator, spectral_density

F64 = torch.float64
PROBES, STEPS, WIDTH = 5, 80, 0.01
PACKAGES = ("hvplib", "curvlinops-for-pytorch", "hessian-eigenthings", "pyhessian")


@dataclass(frozen=True)
class Masses:
    """What a contender found: nodes (m,), weights of sum one, and what it says of its error."""

    nodes: Tensor
    weights: Tensor
    bounds: str


# (products, n, seed, random vectors, steps) -> what was found.
Contender = Callable[[Products, int, int, int, int], Masses]


def ours(reorthogonalize: bool, outliers: int | None = None) -> Contender:
    def run(products: Products, n: int, seed: int, probes: int, steps: int) -> Masses:
        A = FunctionOperator(products, (n, n), dtype=F64, symmetric=True)
        found = spectral_density(
            A,
            num_probes=probes,
            krylov_dim=steps,
            reorthogonalize=reorthogonalize,
            outliers=outliers,
            generator=seed,
            method="slq",
        )
        share = (n - len(found.outliers)) / n / probes
        nodes = torch.cat([found.nodes.nan_to_num(0.0).reshape(-1), found.outliers])
        weights = torch.cat([share * found.weights.reshape(-1), torch.full_like(found.outliers, 1 / n)])
        spread = float((found.cdf_bounds[:, 1] - found.cdf_bounds[:, 0]).mean())
        return Masses(nodes, weights, f"F(t) within {spread:.3f} on average, at 95 %")

    return run


def eigenthings(products: Products, n: int, seed: int, probes: int, steps: int) -> Masses:
    from hessian_eigenthings.algorithms.spectral_density import spectral_density as theirs

    found = theirs(eigenthings_of(products, n), num_runs=probes, lanczos_steps=steps, seed=1000 * seed)
    return Masses(found.raw_eigenvalues.reshape(-1), found.raw_weights.reshape(-1) / probes, "none")


def curvlinops(products: Products, n: int, seed: int, probes: int, steps: int) -> Masses:
    """Its Lanczos iteration alone: the boundaries that it looks for before cost more products."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    A = curvlinops_of(products, n)
    torch.manual_seed(seed)
    runs = [fast_lanczos(A, steps) for _ in range(probes)]
    nodes = torch.cat([torch.as_tensor(values) for values, _ in runs])
    weights = torch.cat([torch.as_tensor(vectors)[0].square() for _, vectors in runs]) / probes
    return Masses(nodes, weights, "none")


@contextlib.contextmanager
def _eig() -> Iterator[None]:
    """`torch.eig` as it was before torch 1.9, without which PyHessian's density fails."""

    def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eig(T)
        return torch.view_as_real(values), vectors.real

    gone, torch.eig = torch.eig, eig  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.eig = gone  # type: ignore[attr-defined]


def pyhessian(products: Products, n: int, seed: int, probes: int, steps: int) -> Masses:
    torch.manual_seed(seed)
    with _eig(), in_float64():
        nodes, weights = pyhessian_of(products, n).density(iter=steps, n_v=probes)
    return Masses(torch.tensor(nodes).reshape(-1), torch.tensor(weights).reshape(-1) / probes, "none")


CONTENDERS: dict[str, tuple[Contender, str]] = {
    "**hvplib.spectral_density**": (ours(True), f"{PROBES * STEPS}, all at once"),
    "**hvplib.spectral_density**, reorthogonalize=False": (ours(False), f"{3 * PROBES}, all at once"),
    "**hvplib.spectral_density**, outliers=10": (ours(True, 10), f"{PROBES * STEPS} and 10, all at once"),
    "hessian-eigenthings": (eigenthings, f"{STEPS}"),
    "curvlinops (Lanczos alone)": (curvlinops, "3"),
    "PyHessian, given the torch.eig that it needs": (pyhessian, f"{2 * STEPS}"),
}


def area(found: Masses, spectrum: Tensor) -> float:
    """∫ |F − F_true| / range."""
    nodes = torch.cat([found.nodes, spectrum])
    signed = torch.cat([found.weights, torch.full_like(spectrum, -1 / len(spectrum))])
    order = nodes.argsort()
    nodes, gaps = nodes[order], signed[order].cumsum(0)
    return float((gaps[:-1].abs() * nodes.diff()).sum() / (spectrum[-1] - spectrum[0]))


def distance(found: Masses, spectrum: Tensor) -> float:
    """∫ |φ − φ_true|."""
    width = WIDTH * float(spectrum[-1] - spectrum[0])
    t = torch.linspace(float(spectrum[0]) - 4 * width, float(spectrum[-1]) + 4 * width, 4000, dtype=F64)

    def smoothed(nodes: Tensor, weights: Tensor) -> Tensor:
        nodes, weights = nodes.double(), weights.double()  # a peer may answer in float32
        bumps = torch.exp(-(((t.unsqueeze(1) - nodes) / width) ** 2) / 2) / (width * (2 * torch.pi) ** 0.5)
        return bumps @ weights

    exact = smoothed(spectrum, torch.full_like(spectrum, 1 / len(spectrum)))
    return float(torch.trapezoid((smoothed(found.nodes, found.weights) - exact).abs(), t))


def row(contender: Contender, kept: str, spectrum: Tensor, seeds: int) -> list[str]:
    areas, distances, outside, spent, bounds = [], [], [], 0, ""
    for seed in range(seeds):
        products = Products(digits_operator()._product)
        begun = clock()
        try:
            found = contender(products, len(spectrum), seed, PROBES, STEPS)
        except (AttributeError, RuntimeError) as error:
            return [f"fails: {str(error).splitlines()[0][:60]}", "", kept, "", "", ""]
        outside.append(clock() - begun - products.seconds)
        areas.append(area(found, spectrum))
        distances.append(distance(found, spectrum))
        spent, bounds = products.count, found.bounds
    median = statistics.median
    return [
        str(spent),
        f"{1e3 * median(outside):.0f}",
        kept,
        f"{median(areas):.2e}",
        figure(median(distances)),
        bounds,
    ]


def main() -> None:
    """Run the comparison and print it."""
    options = arguments(__doc__).parse_args()
    prepare(options)
    take_cpu_time()
    seeds = 3 if options.quick else 11
    with limited(options.threads):
        spectrum = digits_spectrum()
        rows = {name: row(run, kept, spectrum, seeds) for name, (run, kept) in CONTENDERS.items()}
    columns = (
        "products",
        "ms of the processor outside them",
        "vectors kept",
        "area between distributions",
        "distance of densities",
        "what it says of its error",
    )
    publish(
        "density",
        "Spectral density of the Hessian of a network on digits",
        {
            f"{PROBES} random vectors, {STEPS} Lanczos steps each; medians over {seeds} seeds": table(
                "", columns, rows
            )
        },
        packages=PACKAGES,
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
