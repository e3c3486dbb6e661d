"""f(A) b: against eigenvectors, SciPy and closed forms; the error stated, and refusals."""

from __future__ import annotations

import math
import signal
import time
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from hvplib.estimate import arguments
from hvplib.estimate.funm import funm_multiply
from hvplib.operators import Diagonal, FunctionOperator, HessianOperator, Matrix
from hvplib.results import ConvergenceError, Progress, Status
from tests.estimate.matrices import FUNCTIONS, known, python_handles_ctrl_c, spectra
from tests.krylov.systems import normal

F64 = torch.float64
N = 60
B = normal(N, 3, seed=2)


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("spectrum", ["even", "clustered at the lower end", "one far above", "repeated"])
def test_named_functions(spectrum: str, name: str, reorthogonalize: bool) -> None:
    A = known(spectra()[spectrum])
    result = funm_multiply(A.A, name, B, rtol=1e-10, reorthogonalize=reorthogonalize)
    exact = A.apply(FUNCTIONS[name], B)
    errors = torch.linalg.vector_norm(result.x - exact, dim=0)
    assert result.success and bool((errors <= result.errors).all())
    assert bool((result.errors <= 1e-10 * torch.linalg.vector_norm(exact, dim=0) * (1 + 1e-6)).all())
    assert not bool(result.certain.any())


SCIPY = {
    "exp": scipy.linalg.expm,
    "log": scipy.linalg.logm,
    "sqrt": scipy.linalg.sqrtm,
    "sign": scipy.linalg.signm,
    "inverse": scipy.linalg.inv,
}


@pytest.mark.parametrize("name", SCIPY)
def test_against_scipy(name: str) -> None:
    spectrum = torch.cat([-1 - torch.linspace(0, 1, 20, dtype=F64), 1 + torch.linspace(0, 1, 40, dtype=F64)])
    A = known(spectrum if name in ("sign", "exp", "inverse") else spectrum.abs()).A.numpy()
    result = funm_multiply(A, name, B.numpy(), rtol=1e-11)
    expected = SCIPY[name](A).real @ B.numpy()
    assert isinstance(result.x, np.ndarray)
    np.testing.assert_allclose(result.x, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_against_expm_multiply_on_a_grid() -> None:
    n = 300
    laplacian = scipy.sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n)).tocsr()
    b = normal(n, seed=3).numpy()
    result = funm_multiply(-10 * laplacian, "exp", b, rtol=1e-12, interval=(-40, 0))
    expected = scipy.sparse.linalg.expm_multiply(-10 * laplacian, b)
    assert np.linalg.norm(result.x - expected) <= 1e-11 * np.linalg.norm(expected)
    assert bool(result.certain) and result.num_matvecs < 60
    # The eigenvectors of this matrix are sines.
    k = np.arange(1, n + 1)
    sines = np.sqrt(2 / (n + 1)) * np.sin(np.pi * np.outer(k, k) / (n + 1))
    root = funm_multiply(laplacian, "sqrt", b, rtol=1e-10, interval=(0, 4))
    exact = sines @ (2 * np.sin(k * np.pi / (2 * (n + 1))) * (sines @ b))
    assert np.linalg.norm(root.x - exact) <= float(root.errors) <= 1.001e-10 * np.linalg.norm(exact)
    assert bool(root.certain)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("spectrum", spectra())
def test_bounds_are_bounds_at_each_step(spectrum: str, name: str) -> None:
    A = known(spectra()[spectrum])
    ends = float(A.spectrum[0]), float(A.spectrum[-1])
    exact = A.apply(FUNCTIONS[name], B)
    for steps in (1, 2, 3, 5, 8, 13, 21, 34, 55):
        result = funm_multiply(A.A, name, B, rtol=0.0, interval=ends, max_iter=steps, throw=False)
        errors = torch.linalg.vector_norm(result.x - exact, dim=0)
        assert bool(result.certain.all())
        assert bool((errors <= result.errors).all()), (steps, errors, result.errors)


def test_bounds_are_not_far_off() -> None:
    A = known(spectra()["even"])
    ends = float(A.spectrum[0]), float(A.spectrum[-1])
    for name, f in FUNCTIONS.items():
        exact = A.apply(f, B)
        result = funm_multiply(A.A, name, B, rtol=0.0, interval=ends, max_iter=8, throw=False)
        errors = torch.linalg.vector_norm(result.x - exact, dim=0)
        assert bool((result.errors <= 10 * errors).all()), name


def test_estimates_hold_nearly_always() -> None:
    """Without an interval: over spectra, functions and steps."""
    held = total = 0
    for seed, spectrum in enumerate(spectra().values()):
        A = known(spectrum, seed=seed)
        b = normal(N, 4, seed=seed)
        for name in (*FUNCTIONS, "cos"):
            f: Any = torch.cos if name == "cos" else FUNCTIONS[name]
            exact = A.apply(f, b)
            for steps in (3, 6, 12, 24, 48):
                given = f if name == "cos" else name
                result = funm_multiply(A.A, given, b, rtol=0.0, max_iter=steps, throw=False)
                errors = torch.linalg.vector_norm(result.x - exact, dim=0)
                held += int((errors <= result.errors).sum())
                total += 4
    assert held / total >= 0.97, f"{held} of {total}"


def test_a_function_of_your_own_and_its_signs() -> None:
    A = known(spectra()["even"])

    def cube_root(values: Tensor) -> Tensor:
        return values ** (1 / 3)

    exact = A.apply(cube_root, B)
    result = funm_multiply(A.A, cube_root, B, derivative_signs=(-1, 1), interval=(0.4, None), rtol=1e-9)
    assert bool(result.certain.all()) and result.f == "cube_root"
    assert bool((torch.linalg.vector_norm(result.x - exact, dim=0) <= result.errors).all())
    by_numpy = funm_multiply(A.A, lambda x: np.cbrt(x.numpy()), B, rtol=1e-9)
    torch.testing.assert_close(by_numpy.x, exact, rtol=0, atol=1e-8)


def test_kinds_of_vectors() -> None:
    A = known(spectra()["even"])
    exact = A.apply(torch.sqrt, B)
    single = funm_multiply(Matrix(A.A), "sqrt", B[:, 0])
    assert single.x.shape == (N,)
    torch.testing.assert_close(single.x, exact[:, 0], rtol=0, atol=1e-6)
    params = {"w": torch.ones(2, 3, dtype=F64), "c": torch.zeros(2, dtype=F64)}
    weights = torch.arange(1.0, 9.0, dtype=F64)
    H = HessianOperator(
        lambda p: (weights[:6].view(2, 3) * p["w"] ** 2).sum() / 2 + (p["c"] ** 2).sum(), params
    )
    tree = funm_multiply(H, "sqrt", params)
    torch.testing.assert_close(tree.x["w"], weights[:6].view(2, 3).sqrt(), rtol=0, atol=1e-7)
    assert tree.x["c"].shape == (2,)


def test_float32() -> None:
    A = known(spectra()["spread"])
    exact = A.apply(torch.log, B.double())
    result = funm_multiply(A.A.float(), "log", B.float())
    errors = torch.linalg.vector_norm(result.x.double() - exact, dim=0)
    assert result.x.dtype == torch.float32
    assert bool((errors <= result.errors).all()) and bool((errors <= 1e-3 * exact.norm(dim=0)).all())


def test_a_tolerance_that_rounding_hides() -> None:
    A = known(spectra()["spread"])
    with pytest.raises(ConvergenceError, match="rounding stops") as caught:
        funm_multiply(A.A.float(), "inverse", B.float(), rtol=1e-9)
    result = caught.value.result
    errors = torch.linalg.vector_norm(result.x.double() - A.apply(torch.reciprocal, B), dim=0)
    assert bool((errors <= result.errors).all())


def test_edges() -> None:
    one = funm_multiply(torch.tensor([[4.0]], dtype=F64), "sqrt", torch.tensor([3.0], dtype=F64))
    assert float(one.x) == pytest.approx(6.0, rel=1e-15) and one.num_matvecs == 1
    block = torch.stack([B[:, 0], torch.zeros(N, dtype=F64)], dim=1)
    zero = funm_multiply(known(spectra()["even"]).A, "log", block)
    assert bool((zero.x[:, 1] == 0).all()) and zero.success
    singular = torch.diag(torch.tensor([0.0, 1.0, 4.0], dtype=F64))
    root = funm_multiply(singular, "sqrt", torch.ones(3, dtype=F64))
    torch.testing.assert_close(root.x, torch.tensor([0.0, 1.0, 2.0], dtype=F64), rtol=0, atol=1e-7)
    null = funm_multiply(torch.zeros(3, 3, dtype=F64), "exp", torch.ones(3, dtype=F64))
    torch.testing.assert_close(null.x, torch.ones(3, dtype=F64))


def test_products_that_do_not_repeat_are_told_without_a_basis() -> None:
    A = known(spectra()["clustered at the lower end"]).A
    noise = iter(range(10_000))
    noisy = FunctionOperator(lambda X: A @ X * (1 + 1e-6 * next(noise)), A.shape, dtype=F64, symmetric=True)
    with pytest.raises(ConvergenceError, match="do not repeat themselves"):
        funm_multiply(noisy, "log", B[:, 0], reorthogonalize=False)


def test_not_a_number() -> None:
    calls = iter(range(100))

    def product(X: Tensor) -> Tensor:
        return (
            X
            * (math.nan if next(calls) == 2 else 1)
            * torch.arange(1.0, 1 + X.shape[0], dtype=F64).unsqueeze(1)
        )

    A = FunctionOperator(product, (N, N), dtype=F64, symmetric=True)
    result = funm_multiply(A, "log", B[:, 0], throw=False)
    assert result.status is Status.NON_FINITE and bool(result.errors.isnan().all())


def test_the_callback_and_the_time_limit_end_it() -> None:
    A, seen = known(spectra()["spread"]), []

    def callback(progress: Progress) -> bool:
        seen.append(progress.num_matvecs)
        return len(seen) == 5

    result = funm_multiply(A.A, "log", B, callback=callback)
    assert result.status is Status.STOPPED and seen == [3, 6, 9, 12, 15]
    exact = A.apply(torch.log, B)
    assert bool((torch.linalg.vector_norm(result.x - exact, dim=0) <= result.errors).all())

    def slow(X: Tensor) -> Tensor:
        time.sleep(0.02)
        return A.A @ X

    for reorthogonalize in (True, False):
        operator = FunctionOperator(slow, (N, N), dtype=F64, symmetric=True)
        late = funm_multiply(
            operator, "log", B[:, 0], rtol=1e-14, time_limit=0.2, reorthogonalize=reorthogonalize
        )
        assert late.status is Status.TIME_LIMIT and 3 <= late.num_iter <= 10
        assert float((late.x - exact[:, 0]).norm()) <= float(late.errors)


def test_ctrl_c_returns_what_there_is() -> None:
    A = known(spectra()["spread"])
    calls = iter(range(1000))

    def product(X: Tensor) -> Tensor:
        if next(calls) == 6:
            signal.raise_signal(signal.SIGINT)
        return A.A @ X

    operator = FunctionOperator(product, (N, N), dtype=F64, symmetric=True)
    with python_handles_ctrl_c():
        result = funm_multiply(operator, "log", B[:, 0], rtol=1e-12)
    assert result.status is Status.INTERRUPTED and result.num_iter == 7
    assert float((result.x - A.apply(torch.log, B)[:, 0]).norm()) <= float(result.errors)


@pytest.mark.parametrize(
    ("spectrum", "f", "options", "message"),
    [
        (
            [-1.0, 2.0, 3.0],
            "log",
            {},
            r"f = log is not defined at or below 0, but the spectrum of A reaches to -0",
        ),
        ([-1.0, 2.0, 3.0], "sqrt", {}, r"f = sqrt is not defined below 0, but .* -0"),
        ([0.0, 2.0, 3.0], "log", {}, r"reaches to .*, which is zero to within rounding"),
        ([0.0, 2.0, 3.0], "inverse", {}, r"f = inverse is not defined at zero"),
        ([1.0, 2.0, 3.0], "cosh", {}, r"f must be one of 'exp', 'log'"),
        ([1.0, 2.0, 3.0], "exp", {"derivative_signs": (1, 1)}, r"derivative_signs are known"),
        (
            [1.0, 2.0, 3.0],
            torch.sin,
            {"derivative_signs": (1, 0)},
            r"derivative_signs must be two of 1 and -1",
        ),
        ([-1.0, 2.0, 3.0], torch.log, {}, r"f must be finite on the spectrum of A, got nan at -0"),
        ([1.0, 2.0, 3.0], torch.sum, {}, r"f must return a real number for each eigenvalue"),
        (
            [1.0, 2.0, 3.0],
            "exp",
            {"interval": (1.5, 3)},
            r"its lower end 1.5 lies inside: A has an eigenvalue at 1.18",
        ),
        ([1.0, 2.0, 3.0], "exp", {"interval": (1, 2)}, r"its upper end 2 lies inside"),
        ([1.0, 2.0, 3.0], "exp", {"interval": (2, 1)}, r"interval must have its lower end first"),
        ([1.0, 2.0, 3.0], "exp", {"interval": 3}, r"interval must be two numbers"),
        ([1.0, 2.0, 3.0], "exp", {"rtol": -1}, r"rtol must be at least 0"),
        ([1.0, 2.0, 3.0], "exp", {"max_iter": 0}, r"max_iter must be at least 1"),
        ([1.0, 2.0, 3.0], "exp", {"time_limit": 0}, r"time_limit must be positive"),
    ],
)
def test_refusals(spectrum: list[float], f: Any, options: dict[str, Any], message: str) -> None:
    A = torch.diag(torch.tensor(spectrum, dtype=F64))
    with pytest.raises(ValueError, match=message):
        funm_multiply(A, f, torch.ones(3, dtype=F64), **options)


def test_declared_semidefinite_and_not() -> None:
    A = Matrix(torch.diag(torch.tensor([-1.0, 2.0], dtype=F64)), positive_semidefinite=True)
    with pytest.raises(ValueError, match="declared positive semidefinite"):
        funm_multiply(A, "exp", torch.ones(2, dtype=F64))


def test_other_refusals() -> None:
    A = Diagonal(torch.ones(3, dtype=F64))
    with pytest.raises(TypeError, match="f must be a name or a function"):
        funm_multiply(A, 3, torch.ones(3, dtype=F64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="b must be finite"):
        funm_multiply(A, "exp", torch.full((3,), math.nan, dtype=F64))
    with pytest.raises(ValueError, match="at least one column"):
        funm_multiply(A, "exp", torch.ones(3, 0, dtype=F64))


def test_a_basis_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    A = known(spectra()["even"])
    monkeypatch.setattr(arguments, "free_bytes", lambda device: 10_000)
    with pytest.raises(MemoryError, match="reorthogonalize=True keeps 60 vectors for each of 3 columns"):
        funm_multiply(A.A, "log", B, reorthogonalize=True)
    result = funm_multiply(A.A, "log", B)
    assert result.method == "Lanczos, two passes" and result.matvecs["second pass"] > 0
    torch.testing.assert_close(result.x, A.apply(torch.log, B), rtol=0, atol=1e-6)


def test_report() -> None:
    result = funm_multiply(known(spectra()["even"]).A, "log", B[:, 0], interval=(0.5, 1.5))
    for part in ("log(A) b: estimated", "certain; tolerance", "spectrum   reaches from 0.5", "iteration"):
        assert part in str(result)
