"""Spectral densities against eigenvalues: brackets always, bands and standard errors at their rate."""

from __future__ import annotations

import math
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hvplib import Diagonal, FunctionOperator, Matrix, eigsh, spectral_density
from hvplib.estimate import probed
from hvplib.results import ConvergenceError, SpectralDensity, Status
from tests.estimate.matrices import known, python_handles_ctrl_c
from tests.krylov.systems import normal

F64 = torch.float64


def cdf(spectrum: Tensor, x: Tensor) -> Tensor:
    return (spectrum.unsqueeze(0) <= x.unsqueeze(1)).double().mean(1)


def smoothed(spectrum: Tensor, t: Tensor, width: float) -> Tensor:
    apart = (t.unsqueeze(1) - spectrum) / width
    return torch.exp(-apart.square() / 2).mean(1) / (math.sqrt(2 * math.pi) * width)


def spectrum_of(seed: int, n: int) -> Tensor:
    """Varied: even, semicircle, gapped, clustered, repeated, heavy-tailed, indefinite with outliers."""
    rng = torch.Generator().manual_seed(seed)
    draws, t = torch.randn(n, generator=rng, dtype=F64), torch.linspace(0, 1, n, dtype=F64)
    return (
        [
            t,
            draws,
            torch.cat([t[: n // 2], t[n // 2 :] + 2]),
            t**6,
            torch.randint(5, (n,), generator=rng).double(),
            torch.exp(2 * draws),
            torch.cat([t[:-3] - 0.5, torch.tensor([-9.0, 30.0, 31.0], dtype=F64)]),
            torch.cat([torch.zeros(n // 3, dtype=F64), t[n // 3 :]]),
        ][seed % 8]
        .sort()
        .values
    )


def judge(spectrum: Tensor, found: SpectralDensity) -> bool:
    """Whether the band holds on the grid; the grid has every jump in it."""
    low, high = found.cdf_bounds.unbind(1)
    exact = cdf(spectrum, found.grid)
    return bool((low <= exact + 1e-12).all()) and bool((exact <= high + 1e-12).all())


def dense_grid(spectrum: Tensor) -> Tensor:
    distinct = spectrum.unique()
    gap = 1e-7 * max(1.0, float(distinct.abs().max()))
    return torch.cat([distinct, distinct - gap, distinct + gap]).unique()


def own_measure(A: Any, spectrum: Tensor, vectors: Tensor, seed: int, probes: int, x: Tensor) -> Tensor:
    """The mean over the probes that `spectral_density` draws of vᵀ 1[A ≤ x] v, by eigenvectors."""
    V = probed.sphere(A, seed).block(probes).double()
    V = V / torch.linalg.vector_norm(V, dim=0)
    shares = (vectors.mT @ V).square().mean(1)
    return ((spectrum.unsqueeze(0) <= x.unsqueeze(1)) * shares).sum(1)


def bracket_holds(seed: int, *, dtype: torch.dtype = F64, reorthogonalize: bool = True, n: int = 40) -> bool:
    spectrum = spectrum_of(seed, n)
    A = known(spectrum, seed=seed % 5)
    operator = Matrix(A.A.to(dtype), symmetric=True)
    probes = 1 + seed % 3
    x = dense_grid(A.spectrum)
    found = spectral_density(
        operator,
        num_probes=probes,
        krylov_dim=2 + seed % 17,
        generator=seed,
        grid=x,
        method="slq",
        reorthogonalize=reorthogonalize,
    )
    exact = own_measure(operator, A.spectrum, A.vectors, seed, probes, x)
    low, high = found.cdf_bracket.unbind(1)
    # Within `shift` of an eigenvalue the two may differ by what rounding moves.
    away = (x.unsqueeze(1) - A.spectrum).abs().amin(1) > found.shift
    away |= dtype == F64
    return bool((low <= exact + 1e-12)[away].all()) and bool((exact <= high + 1e-12)[away].all())


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_the_bracket_of_the_probes_own_measure_always_holds(reorthogonalize: bool) -> None:
    held = [bracket_holds(seed, reorthogonalize=reorthogonalize) for seed in range(64)]
    assert all(held), [seed for seed, ok in enumerate(held) if not ok]


@pytest.mark.slow
@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_the_bracket_always_holds_over_1000_instances(dtype: torch.dtype, reorthogonalize: bool) -> None:
    held = [
        bracket_holds(seed, dtype=dtype, reorthogonalize=reorthogonalize, n=40 + seed % 30)
        for seed in range(1200)
    ]
    assert all(held), [seed for seed, ok in enumerate(held) if not ok]


def rates(seeds: range) -> tuple[float, float, float]:
    """How often the band holds for all t, the density's bounds for all t, and 1.96 standard errors at a t."""
    band = bounds = errors = total = 0
    for seed in seeds:
        spectrum = spectrum_of(seed, 200)
        found = spectral_density(
            Diagonal(spectrum),
            num_probes=3,
            krylov_dim=30,
            generator=seed,
            method="slq",
            width=0.5,
            grid=torch.cat([dense_grid(spectrum), torch.linspace(-3, 3, 20, dtype=F64)]).unique(),
        )
        band += judge(spectrum, found)
        exact = smoothed(spectrum, found.grid, 0.5)
        low, high = found.density_bounds.unbind(1)
        bounds += bool((low <= exact + 1e-12).all() and (exact <= high + 1e-12).all())
        at = torch.randint(len(exact), (1,), generator=torch.Generator().manual_seed(seed))
        off = (found.density - exact).abs()[at]
        errors += int(off <= 1.96 * found.density_stderr[at] + 1e-3 * exact.max())
        total += 1
    return band / total, bounds / total, errors / total


def test_bands_hold_at_their_rate() -> None:
    band, bounds, errors = rates(range(60))
    assert band >= 0.95 and bounds >= 0.95 and errors >= 0.85


@pytest.mark.slow
def test_bands_hold_at_their_rate_over_1000_seeds() -> None:
    band, bounds, errors = rates(range(1200))
    assert band >= 0.95 and bounds >= 0.95 and errors >= 0.93, (band, bounds, errors)


def test_the_density_is_unbiased() -> None:
    spectrum = spectrum_of(6, 100)
    t = torch.linspace(-2, 2, 9, dtype=F64)
    sums, squares, seeds = torch.zeros(9, dtype=F64), torch.zeros(9, dtype=F64), 200
    for seed in range(seeds):
        found = spectral_density(
            Diagonal(spectrum), num_probes=2, krylov_dim=40, generator=seed, method="slq", width=0.4, grid=t
        )
        sums, squares = sums + found.density, squares + found.density_stderr.square()
    off = (sums / seeds - smoothed(spectrum, t, 0.4)).abs()
    assert bool((off <= 4 * (squares / seeds / seeds).sqrt() + 1e-9).all())


def test_the_standard_error_is_that_of_random_directions() -> None:
    spectrum, t = spectrum_of(1, 60), torch.tensor([0.0, 1.0], dtype=F64)
    runs = [
        spectral_density(
            Diagonal(spectrum), num_probes=2, krylov_dim=50, generator=seed, method="slq", width=0.3, grid=t
        )
        for seed in range(250)
    ]
    seen = torch.stack([run.density for run in runs]).std(0)
    stated = torch.stack([run.density_stderr.square() for run in runs]).mean(0).sqrt()
    torch.testing.assert_close(stated, seen, rtol=0.2, atol=0)
    moments = torch.stack([run.moments for run in runs])
    errors = torch.stack([run.moment_stderrs.square() for run in runs]).mean(0).sqrt()
    torch.testing.assert_close(errors, moments.std(0), rtol=0.2, atol=0)
    exact = torch.stack([(spectrum**j).mean() for j in range(1, 5)])
    assert bool(((moments.mean(0) - exact).abs() <= 4 * moments.std(0) / 15).all())


def test_a_semicircle() -> None:
    n = 600
    G = normal(n, n, seed=5)
    A = (G + G.mT) / math.sqrt(2 * n)
    t = torch.linspace(-1.8, 1.8, 41, dtype=F64)
    found = spectral_density(A, num_probes=8, krylov_dim=40, width=0.1, grid=t, method="slq")
    law = (4 - t.square()).sqrt() / (2 * math.pi)
    assert float((found.density - law).abs().max()) < 0.06
    exact = smoothed(torch.linalg.eigvalsh(A), t, 0.1)
    assert bool(((found.density - exact).abs() <= 4 * found.density_stderr + 1e-6).all())
    primitive = 0.5 + t * (4 - t.square()).sqrt() / (4 * math.pi) + torch.arcsin(t / 2) / math.pi
    assert float((found.cdf - primitive).abs().max()) < 0.05


def test_toeplitz_with_known_eigenvalues() -> None:
    n = 3000
    A = FunctionOperator(
        lambda X: (
            2 * X
            - torch.nn.functional.pad(X[1:], (0, 0, 0, 1))
            - torch.nn.functional.pad(X[:-1], (0, 0, 1, 0))
        ),
        (n, n),
        dtype=F64,
        positive_semidefinite=True,
    )
    spectrum = 2 - 2 * torch.cos(math.pi * torch.arange(1, n + 1, dtype=F64) / (n + 1))
    found = spectral_density(A, num_probes=2, krylov_dim=60, interval=(0, 4))
    assert judge(spectrum, found) and found.num_matvecs == 120
    assert float((found.cdf - cdf(spectrum, found.grid)).abs().max()) < 0.05
    exact = smoothed(spectrum, found.grid, found.width)
    low, high = found.density_bounds.unbind(1)
    assert bool((low <= exact).all()) and bool((exact <= high).all())
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("given", ["number", "result"])
def test_outliers_are_counted_and_taken_out(given: str) -> None:
    spectrum = spectrum_of(6, 500)
    A = known(spectrum)
    operator = Matrix(A.A, symmetric=True)
    outliers: Any = 3 if given == "number" else eigsh(operator, 3)
    with_them = spectral_density(operator, num_probes=2, krylov_dim=30, outliers=outliers, method="slq")
    without = spectral_density(operator, num_probes=2, krylov_dim=30, method="slq")
    assert with_them.outliers.sort().values.tolist() == pytest.approx([-9, 30, 31], abs=1e-6)
    assert with_them.width < without.width / 20
    assert judge(spectrum, with_them)
    assert with_them.cdf_bracket[-1].tolist() == pytest.approx([1, 1], abs=0.1)
    top = with_them.grid > 20
    exact = smoothed(spectrum, with_them.grid, with_them.width)
    torch.testing.assert_close(with_them.density[top], exact[top], rtol=1e-3, atol=1e-6)
    assert ("outliers" in with_them.matvecs) == (given == "number")


def test_outliers_that_are_hardly_converged_are_allowed_for() -> None:
    spectrum = spectrum_of(6, 100)
    A = known(spectrum)
    operator = Matrix(A.A, symmetric=True)
    rough = eigsh(operator, 3, method="lobpcg", rtol=0.05, throw=False)
    assert float(rough.residual_norms.max()) > 1e-4
    found = spectral_density(
        operator, num_probes=2, krylov_dim=40, outliers=rough, method="slq", grid=dense_grid(spectrum)
    )
    assert judge(spectrum, found) and found.shift > 1e-4


def test_small_matrices_are_exact() -> None:
    spectrum = spectrum_of(2, 50)
    A = known(spectrum)
    found = spectral_density(A.A, grid=dense_grid(A.spectrum))
    assert found.status is Status.EXACT and found.num_matvecs == 50
    assert found.band == 0 and found.confidence == 1 and float(found.density_stderr.max()) == 0
    assert judge(A.spectrum, found)
    away = (found.grid.unsqueeze(1) - A.spectrum).abs().amin(1) > found.shift
    torch.testing.assert_close(found.cdf[away], cdf(A.spectrum, found.grid)[away], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.density, smoothed(A.spectrum, found.grid, found.width))
    assert float(found.moments[1]) == pytest.approx(float((A.spectrum**2).mean()))


def test_log_scale() -> None:
    n = 400
    spectrum = torch.cat(
        [
            10 ** torch.linspace(-1, 1, n - 100, dtype=F64),
            torch.zeros(60, dtype=F64),
            -torch.ones(40, dtype=F64),
        ]
    )
    found = spectral_density(
        Diagonal(spectrum), scale="log", num_probes=8, krylov_dim=60, width=0.2, method="slq"
    )
    exact = spectral_density(Diagonal(spectrum), scale="log", width=0.2, method="dense", grid=found.grid)
    assert found.mass_left_out == pytest.approx(0.25, abs=0.08)
    assert exact.mass_left_out == pytest.approx(0.25, abs=1e-12)
    t = found.grid.log10()
    positive = spectrum[spectrum > 0].log10()
    torch.testing.assert_close(exact.density, 0.75 * smoothed(positive, t, 0.2), rtol=1e-8, atol=1e-12)
    low, high = found.density_bounds.unbind(1)
    assert bool((low <= exact.density).all()) and bool((exact.density <= high).all())
    assert float((found.density - exact.density).abs().max()) < 0.1
    assert judge(spectrum, found)
    assert "decades" in str(found) and "0.25 not positive" in str(exact)


def test_without_a_basis_copies_carry_the_right_weight() -> None:
    spectrum = spectrum_of(6, 300)
    A = Diagonal(spectrum)
    runs = [
        spectral_density(A, num_probes=2, krylov_dim=120, width=0.05, reorthogonalize=keep, method="slq")
        for keep in (True, False)
    ]
    both = [
        spectral_density(
            A, num_probes=2, krylov_dim=120, width=0.05, reorthogonalize=keep, method="slq", grid=runs[0].grid
        )
        for keep in (True, False)
    ]
    assert int((runs[1].nodes > 29).sum()) > 4  # copies
    torch.testing.assert_close(both[0].density, both[1].density, rtol=0, atol=0.02)
    torch.testing.assert_close(both[0].moments, both[1].moments, rtol=1e-6, atol=1e-6)


def test_blocks_change_nothing_but_the_order() -> None:
    A = Diagonal(spectrum_of(1, 300))
    t = torch.linspace(-2, 2, 11, dtype=F64)
    one, many = (
        spectral_density(A, num_probes=5, krylov_dim=20, block_size=size, generator=3, grid=t, method="slq")
        for size in (1, 5)
    )
    torch.testing.assert_close(one.density, many.density)
    again = spectral_density(A, num_probes=5, krylov_dim=20, block_size=5, generator=3, grid=t, method="slq")
    assert torch.equal(many.density, again.density)


def test_memory_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    A = Diagonal(spectrum_of(1, 300))
    monkeypatch.setattr(probed, "free_bytes", lambda device: 2 * 300 * 8 * 12)
    found = spectral_density(A, num_probes=5, krylov_dim=20, method="slq")
    assert "not reorthogonalised" in found.method and found.num_matvecs == 100
    with pytest.raises(MemoryError, match="reorthogonalize=True keeps 20 vectors"):
        spectral_density(A, num_probes=5, krylov_dim=20, method="slq", reorthogonalize=True)


def test_few_eigenvalues_end_early_and_exactly() -> None:
    spectrum = torch.tensor([0.0, 1.0, 4.0], dtype=F64).repeat(100)
    found = spectral_density(Diagonal(spectrum), num_probes=2, krylov_dim=30, method="slq")
    assert found.num_steps.tolist() == [3, 3] and found.num_matvecs == 6
    assert judge(spectrum.sort().values, found)
    identity = spectral_density(Diagonal(torch.ones(50, dtype=F64)), method="slq")
    assert judge(torch.ones(50, dtype=F64), identity)
    one = spectral_density(torch.tensor([[2.0]], dtype=F64), method="slq")
    assert one.nodes.tolist() == [[2.0]] * 10 and one.band == 0


def test_it_can_be_ended_early() -> None:
    spectrum = spectrum_of(0, 300)
    for end in ("callback", "interrupt", "time"):
        calls: list[int] = []

        def product(X: Tensor, end: str = end, calls: list[int] = calls) -> Tensor:
            calls.append(X.shape[1])
            if end == "interrupt" and len(calls) == 12:
                signal.raise_signal(signal.SIGINT)
            return spectrum.unsqueeze(1) * X

        A = FunctionOperator(product, (300, 300), dtype=F64, symmetric=True)
        options: dict[str, Any] = {
            "callback": {"callback": lambda progress: progress.num_iter == 12},
            "interrupt": {},
            "time": {"time_limit": 1e-9},
        }[end]
        with python_handles_ctrl_c():
            found = spectral_density(A, num_probes=4, krylov_dim=40, block_size=2, method="slq", **options)
        expected = {"callback": Status.STOPPED, "interrupt": Status.INTERRUPTED, "time": Status.TIME_LIMIT}
        assert found.status is expected[end] and found.num_probes == 2
        assert found.num_steps.tolist() == [1 if end == "time" else 12] * 2
        assert judge(spectrum, found)


def test_what_is_not_finite() -> None:
    A = FunctionOperator(lambda X: X * math.nan, (300, 300), dtype=F64, symmetric=True)
    for method in ("slq", "dense"):
        with pytest.raises(ConvergenceError, match="nothing is known of the spectrum: a product"):
            spectral_density(A, method=method)  # type: ignore[arg-type]
    calls = iter(range(100))

    def product(X: Tensor) -> Tensor:
        return X * torch.linspace(0, 1, 300, dtype=F64).unsqueeze(1) + (math.nan if next(calls) == 7 else 0)

    B = FunctionOperator(product, (300, 300), dtype=F64, symmetric=True)
    with pytest.raises(ConvergenceError, match="NaN or infinity"):
        spectral_density(B, method="slq", num_probes=2, block_size=1, krylov_dim=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_probes": 0}, "num_probes must be a positive integer"),
        ({"krylov_dim": 2.5}, "krylov_dim must be a positive integer"),
        ({"width": 0.0}, 'width must be positive, or "auto"'),
        ({"scale": "sqrt"}, 'scale must be "linear" or "log"'),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"method": "kpm"}, 'method must be "slq", "dense" or None'),
        ({"grid": 1}, "grid must have at least 2 points"),
        ({"grid": torch.tensor([1.0, 0.0])}, "grid must be a number of points, or finite points"),
        ({"grid": torch.tensor([-1.0, 1.0]), "scale": "log"}, "grid must lie above"),
        ({"outliers": 300}, "outliers must be an EigenResult, or a number below n = 300"),
        ({"block_size": 0}, "block_size must be at least 1"),
        ({"interval": (0.0, 0.5)}, "interval must hold the spectrum of A"),
        ({"time_limit": -1.0}, "time_limit must be positive"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    A = Diagonal(torch.linspace(0, 1, 300, dtype=F64))
    with pytest.raises(ValueError, match=message):
        spectral_density(A, **({"method": "slq", "krylov_dim": 20} | options))


def test_log_scale_of_what_is_nowhere_positive() -> None:
    with pytest.raises(ValueError, match="none was met"):
        spectral_density(-torch.eye(3, dtype=F64), scale="log")


def test_kinds_and_report() -> None:
    A = np.diag(np.linspace(0, 1, 300))
    found = spectral_density(A.astype(np.float32), num_probes=2, krylov_dim=20, method="slq")
    assert found.density.dtype == F64
    text = str(found)
    for part in ("estimated", "300 eigenvalues", "2 probes of 20 steps", "certain to", "40: 40 iteration"):
        assert part in text, text
