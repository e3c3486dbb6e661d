"""How often eigenvalues are wrong: `python -m benchmarks.spectra`.

The random instances of prescribed spectra that the tests judge by dense algebra (`tests/eigen/gallery.py`),
put to hvplib.eigsh with method="lanczos" and to SciPy's eigsh, with the same tolerance, √ε, and the same
start where the instance has one. Right: the k wanted eigenvalues, with their multiplicities, each within its
residual of an eigenvalue of its own. Refused: the solver says that it has not converged, or raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from benchmarks.tables import arguments, limited, prepare, publish, table
from tests.eigen.gallery import FAMILIES, Family, Instance
from tests.eigen.judge import norms, rounding, wrong_values

VERDICTS = ("right", "refused", "wrong")


def by_hvplib(instance: Instance) -> tuple[Tensor, Tensor] | None:
    """Return eigenvalues and eigenvectors; None if refused."""
    import hvplib

    shape = instance.n, instance.n
    A = hvplib.FunctionOperator(instance.product, shape, dtype=instance.dtype, symmetric=True)
    options = {"which": instance.which, "v0": instance.v0, "method": "lanczos"}
    result = hvplib.eigsh(A, instance.k, **options, throw=False)
    return (result.eigenvalues, result.eigenvectors) if result.status.success else None


def by_scipy(instance: Instance) -> tuple[Tensor, Tensor] | None:
    """Return eigenvalues and eigenvectors; None if it raises."""
    dtype = np.float32 if instance.dtype == torch.float32 else np.float64

    def matvec(x: np.ndarray) -> np.ndarray:
        return instance.product(torch.from_numpy(x).reshape(-1, 1)).numpy()

    A = LinearOperator((instance.n, instance.n), matvec=matvec, dtype=dtype)
    rng = np.random.default_rng(0)
    start = rng.standard_normal(instance.n) if instance.v0 is None else instance.v0.numpy()
    try:
        pairs = eigsh(A, instance.k, which=instance.which, tol=instance.rtol, v0=start.astype(dtype))
    except Exception:  # no convergence, a start that it calls zero, k = n
        return None
    return torch.from_numpy(pairs[0]), torch.from_numpy(pairs[1])


def verdict(instance: Instance, solver: Callable[[Instance], tuple[Tensor, Tensor] | None]) -> str:
    pairs = solver(instance)
    if pairs is None:
        return "refused"
    values, vectors = (part.to(torch.float64) for part in pairs)
    radii = norms(instance.exactly(vectors) - vectors * values) + rounding(instance, instance.dtype)
    return "wrong" if wrong_values(instance, values, radii) else "right"


def row(family: Family, count: int) -> dict[str, Counter[str]]:
    """Return what each solver got, over the first instances of a family."""
    counts = {"hvplib": Counter[str](), "SciPy": Counter[str]()}
    for seed in range(count):
        instance = family.instance(seed)
        if instance.k == instance.n:
            continue  # SciPy does not take these
        counts["hvplib"][verdict(instance, by_hvplib)] += 1
        counts["SciPy"][verdict(instance, by_scipy)] += 1
    return counts


def main() -> None:
    """Run the comparison and print it."""
    options = arguments(__doc__).parse_args()
    prepare(options)
    rows, totals = {}, {"hvplib": Counter[str](), "SciPy": Counter[str]()}
    with limited(options.threads):
        for family in FAMILIES:
            counts = row(family, min(family.count, 4) if options.quick else family.count)
            if not counts["SciPy"]:
                continue
            rows[family.name] = cells(counts)
            for name, total in totals.items():
                total.update(counts[name])
    rows["**all**"] = cells(totals)
    columns = ("instances", *(f"{name}: {what}" for name in totals for what in VERDICTS))
    publish(
        "spectra",
        "Eigenvalues of prescribed spectra, held against dense algebra",
        {"Instances with k < n": table("spectrum", columns, rows)},
        packages=("hvplib", "scipy", "numpy"),
        save=options.save,
        dtype="float64 unless said otherwise",
    )


def cells(counts: dict[str, Counter[str]]) -> list[str]:
    each = [str(count[what]) if count[what] else "" for count in counts.values() for what in VERDICTS]
    return [str(counts["SciPy"].total()), *each]


if __name__ == "__main__":
    main()
