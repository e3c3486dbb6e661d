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
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from benchmarks.eigenproblems import digits_operator, digits_spectrum
from benchmarks.eigensolvers import Products
from benchmarks.memory import measured_in_child, peak_growth
from benchmarks.tables import arguments, figure, limited, publish, table
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
    from hessian_eigenthings.operators import LambdaOperator

    A = LambdaOperator(products.vector, n, dtype=F64)
    found = theirs(A, num_runs=probes, lanczos_steps=steps, seed=1000 * seed)
    return Masses(found.raw_eigenvalues.reshape(-1), found.raw_weights.reshape(-1) / probes, "none")


def curvlinops(products: Products, n: int, seed: int, probes: int, steps: int) -> Masses:
    """Its Lanczos iteration alone: the boundaries that it looks for before cost more products."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    class Known(SimpleNamespace):
        def __matmul__(self, v: Tensor) -> Tensor:
            return products.vector(v)

    A = Known(shape=(n, n), dtype=F64, device=torch.device("cpu"))
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
    from pyhessian import hessian

    class Known(hessian):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self.model, self.device, self.full_dataset = torch.nn.Module(), "cpu", True
            self.params = [torch.zeros(n, dtype=F64)]

        def dataloader_hv_product(self, v: list[Tensor]) -> tuple[float, list[Tensor]]:
            product = products.vector(v[0])
            return float(product @ v[0]), [product]

    torch.manual_seed(seed)
    with _eig():
        nodes, weights = Known().density(iter=steps, n_v=probes)
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


def to_an_area(name: str, spectrum: Tensor, target: float, seeds: int) -> list[str]:
    """Products, vectors, seconds and memory with which the root mean square of the areas is within a target.

    Random vectors in powers of two, `STEPS` steps each.
    """
    contender, _ = CONTENDERS[name]
    for probes in (1, 2, 4, 8, 16, 32):
        areas, seconds, spent = [], [], 0
        for seed in range(seeds):
            products = Products(digits_operator()._product)
            begun = clock()
            try:
                found = contender(products, len(spectrum), seed, probes, STEPS)
            except (AttributeError, ModuleNotFoundError, RuntimeError) as error:
                return [f"fails: {str(error).splitlines()[0][:60]}", "", "", "", ""]
            seconds.append(clock() - begun)
            areas.append(area(found, spectrum) ** 2)
            spent = products.count
        error = statistics.mean(areas) ** 0.5
        if error <= target:
            index = str(list(CONTENDERS).index(name))
            memory = measured_in_child("benchmarks.density", ["--memory", index, str(probes)], timeout=600)
            peak = memory if isinstance(memory, str) else f"{memory / 2**20:.0f}"
            return [str(spent), str(probes), f"{error:.1e}", figure(statistics.median(seconds)), peak]
    return [f"> {spent}", "> 32", f"{error:.1e}", "", ""]


AREA = 5e-4
AREA_COLUMNS = ("products", "random vectors", "area between distributions", "CPU seconds", "peak MiB")


def memory_of(index: int, probes: int) -> int:
    """Bytes by which one density raises the peak, the operator made before."""
    contender, _ = list(CONTENDERS.values())[index]
    product = digits_operator()._product
    n = digits_operator().shape[0]
    return peak_growth(
        lambda: contender(Products(product), n, 0, probes, STEPS),
        lambda: contender(Products(product), n, 1, 1, 3),
    )


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument("--memory", nargs=2, type=int, help="for the script itself")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the peers' own
    if options.memory:
        print(memory_of(*options.memory))
        return
    take_cpu_time()
    seeds = 3 if options.quick else 11
    with limited(options.threads):
        spectrum = digits_spectrum()
        rows = {name: row(run, kept, spectrum, seeds) for name, (run, kept) in CONTENDERS.items()}
        equal = {name: to_an_area(name, spectrum, AREA, seeds) for name in CONTENDERS}
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
            ),
            f"To an area of {AREA:g}, {STEPS} steps each, in the root mean square of {seeds} seeds": table(
                "", AREA_COLUMNS, equal
            ),
        },
        packages=PACKAGES,
        save=options.save,
        dtype="float64",
    )


if __name__ == "__main__":
    main()
