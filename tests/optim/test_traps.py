"""Never success at a point that is not stationary of second order, and each end called by its name."""

from __future__ import annotations

import pytest

from hvplib.optim import minimize
from hvplib.optim.methods import NAMES
from tests.optim.traps import TRAPS, Trap, is_second_order_stationary


@pytest.mark.parametrize("method", [*NAMES])
@pytest.mark.parametrize("trap", TRAPS, ids=str)
def test_traps(trap: Trap, method: str) -> None:
    result = minimize(trap.func, trap.start, method=method, max_iter=150)
    assert result.status in trap.endings, (result.message, result.x, result.fun, result.nit)
    assert result.message == result.status.message
    if result.success:
        assert is_second_order_stationary(trap, result.x, result.fun)
        assert result.certificate in trap.certificates, result.min_eigenvalue
        if trap.values:
            assert min(abs(result.fun - value) for value in trap.values) <= 1e-6 * max(1, abs(result.fun))


def test_there_are_enough() -> None:
    assert len({trap.name for trap in TRAPS}) == len(TRAPS) >= 25
