"""bᵀ f(A) b: bounds that hold at each step, and estimates that nearly always do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hvplib.estimate.quadratic_form import quadratic_form
from hvplib.operators import FunctionOperator, HessianOperator
from hvplib.results import ConvergenceError, Status
from tests.estimate.matrices import FUNCTIONS, known, spectra
from tests.krylov.systems import normal

F64 = torch.float64
N = 60
B = normal(N, 3, seed=2)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("spectrum", spectra())
def test_bounds_hold_at_each_step(spectrum: str, name: str) -> None:
    A = known(spectra()[spectrum])
    ends = float(A.spectrum[0]), float(A.spectrum[-1])
    exact = A.form(FUNCTIONS[name], B)
    for steps in (1, 2, 3, 5, 8, 13, 21, 34, 55):
        found = quadratic_form(A.A, name, B, rtol=0.0, interval=ends, max_iter=steps, throw=False)
        assert bool(found.certain.all())
        assert bool(((found.lower <= exact) & (exact <= found.upper)).all()), (steps, found, exact)
        assert bool(((found.lower <= found.values) & (found.values <= found.upper)).all())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gauss_is_certain_on_one_side_without_an_interval(name: str) -> None:
    A = known(spectra()["random"])
    exact = A.form(FUNCTIONS[name], B)
    below = name in ("exp", "inverse", "inv_sqrt")
    for steps in (1, 2, 4, 8, 16):
        found = quadratic_form(A.A, name, B, rtol=0.0, max_iter=steps, throw=False)
        # 1/x is convex on either side of zero only, and nothing says that A is definite.
        certain = [[below and name != "inverse", not below]] * 3
        if name == "inverse":
            certain = [[True, False]] * 3
        assert found.certain.tolist() == certain
        side = found.lower <= exact if below else exact <= found.upper
        assert bool(side.all())


@pytest.mark.parametrize("name", [*FUNCTIONS, "cos"])
@pytest.mark.parametrize("spectrum", ["even", "clustered at the lower end", "one far above", "repeated"])
def test_it_converges(spectrum: str, name: str) -> None:
    A = known(spectra()[spectrum])
    f: Any = torch.cos if name == "cos" else name
    exact = A.form(torch.cos if name == "cos" else FUNCTIONS[name], B)
    for keep in (True, False):
        found = quadratic_form(A.A, f, B, rtol=1e-9, reorthogonalize=keep)
        assert found.success and bool(((found.values - exact).abs() <= 2e-9 * exact.abs() + 1e-12).all())
        assert bool((found.upper - found.lower <= 2.0001e-9 * found.values.abs() + 1e-11).all())


def test_estimates_hold_nearly_always() -> None:
    held = total = 0
    for seed, spectrum in enumerate(spectra().values()):
        A = known(spectrum, seed=seed)
        b = normal(N, 4, seed=seed)
        for name in (*FUNCTIONS, "cos"):
            f: Any = torch.cos if name == "cos" else name
            exact = A.form(torch.cos if name == "cos" else FUNCTIONS[name], b)
            for steps in (3, 8, 20):
                found = quadratic_form(A.A, f, b, rtol=0.0, max_iter=steps, throw=False)
                held += int(((found.lower <= exact) & (exact <= found.upper)).sum())
                total += 4
    assert held / total >= 0.95, f"{held} of {total}"


def test_it_costs_half_the_steps_of_the_vector() -> None:
    from hvplib.estimate.funm import funm_multiply

    A = known(spectra(300)["even"])
    b = normal(300, seed=1)
    ends = (0.5, 1.5)
    form = quadratic_form(A.A, "inverse", b, rtol=1e-10, interval=ends)
    vector = funm_multiply(A.A, "inverse", b, rtol=1e-10, interval=ends)
    assert form.num_matvecs <= 0.6 * vector.num_matvecs


def test_nodes_and_weights_are_the_rule() -> None:
    A = known(spectra()["even"])
    found = quadratic_form(A.A, "log", B, rtol=1e-6)
    rule = (found.weights * found.nodes.nan_to_num(1.0).log()).sum(1)
    torch.testing.assert_close(rule, found.gauss)
    torch.testing.assert_close(found.weights.sum(1), B.square().sum(0))


def test_kinds_of_vectors() -> None:
    A = known(spectra()["even"])
    single = quadratic_form(A.A.numpy(), "sqrt", B[:, 0].numpy())
    assert single.values.shape == () and single.certain.shape == (2,)
    assert float(single.values) == pytest.approx(float(A.form(torch.sqrt, B[:, :1])), rel=1e-7)
    assert quadratic_form(A.A.numpy(), "sqrt", B.numpy()).values.shape == (3,)
    params = {"w": torch.ones(2, 3, dtype=F64), "c": torch.zeros(2, dtype=F64)}
    H = HessianOperator(lambda p: (3 * p["w"] ** 2).sum() / 2 + (p["c"] ** 2).sum(), params)
    assert float(quadratic_form(H, "sqrt", params).values) == pytest.approx(6 * math.sqrt(3), rel=1e-12)


def test_float32() -> None:
    A = known(spectra()["spread"])
    exact = A.form(torch.log, B)
    found = quadratic_form(A.A.float(), "log", B.float(), interval=(1e-3, 1.0))
    assert bool(((found.lower <= exact) & (exact <= found.upper)).all())


def test_edges() -> None:
    one = quadratic_form(np.array([[4.0]]), "log", np.array([3.0]))
    assert float(one.values) == pytest.approx(9 * math.log(4), rel=1e-14) and one.certain.tolist() == [
        True,
        True,
    ]
    zero = quadratic_form(np.eye(3), "exp", np.zeros(3))
    assert float(zero.values) == 0 and zero.num_matvecs == 0 and zero.success
    with pytest.raises(ValueError, match=r"f = log is not defined at or below 0, .* -0"):
        quadratic_form(np.diag([-1.0, 2.0, 3.0]), "log", np.ones(3))


def test_not_converged_and_not_finite() -> None:
    A = known(spectra()["spread"])
    with pytest.raises(ConvergenceError, match="iteration limit") as caught:
        quadratic_form(A.A, "log", B, max_iter=3)
    assert caught.value.result.num_matvecs == 9
    bad = FunctionOperator(lambda X: X * math.nan, (N, N), dtype=F64, symmetric=True)
    found = quadratic_form(bad, "log", B, throw=False)
    assert found.status is Status.NON_FINITE and bool(found.values.isnan().all())


def test_report() -> None:
    text = str(quadratic_form(known(spectra()["even"]).A, "exp", B, interval=(None, 1.5)))
    assert "bᵀ exp(A) b: estimated" in text and "products" in text and "(estimated)" not in text
