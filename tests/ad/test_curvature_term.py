"""The proof of the way that keeps nothing: what it looks at, and how many vectors it holds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.gauss_newton import GaussNewtonModel
from hvplib.errors import DerivativeError
from tests.ad.problems import F64, normal

N = 1237  # no other tensor of the process has so many entries


def func(x: Tensor) -> Tensor:
    return torch.stack([x[:600].dot(x[600:1200]), x.sin().sum(), (x * x).sum()])


def squares(z: Tensor, _anchor: Any) -> tuple[Tensor, float]:
    return z.square().sum(), 1.0


class Watched(GaussNewtonModel):
    """Notes how many vectors like the parameters are alive when a product begins, and bends its results."""

    alive: list[int]
    bend: Callable[[int, Tensor], Tensor] = staticmethod(lambda call, product: product)

    def _frugal_products(self, columns: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        gc.collect()
        tensors = [t for t in gc.get_objects() if type(t) is Tensor and t.numel() == N]
        self.alive.append(len({t.untyped_storage().data_ptr() for t in tensors}))
        found = super()._frugal_products(columns)
        return [[self.bend(len(self.alive), x) for x in product] for product in found]


def watched(*, may_keep: Callable[[int], bool] = lambda _: False, proven: set[str] | None = None) -> Watched:
    options: dict[str, Any] = {"convex": True, "anchored": False, "verify": True}
    term = Watched(
        func, squares, normal(N), may_keep=may_keep, proven=set() if proven is None else proven, **options
    )
    term.alive = []
    return term


def test_few_vectors_are_held_beside_each_product() -> None:
    term = watched()
    names = [check.name for check in term.report.checks]
    assert all(check.passed for check in term.report.checks)
    assert names[:2] == ["symmetry", "called twice"] and "curvature against differences of the loss" in names
    assert term.alive == [2, 2, 2]  # the point, and what is multiplied


def test_products_are_those_of_the_dense_matrix_either_way() -> None:
    x, v = normal(N), normal(N, seed=1)
    J = torch.func.jacrev(func)(x)
    expected = 2 * J.mT @ (J @ v)
    for keep in (True, False):
        term = watched(may_keep=lambda _, keep=keep: keep)
        torch.testing.assert_close(term.hvp(v), expected, rtol=1e-11, atol=1e-11)
        block = term.hvp_block(torch.stack([v, x]))
        torch.testing.assert_close(block[0], expected, rtol=1e-11, atol=1e-11)
        assert ("nothing kept" in term.report.strategy) is not keep


@pytest.mark.parametrize(
    ("call", "check"),
    [(2, "called twice: failed"), (3, "symmetry: failed")],
)
def test_each_check_sees_its_error(call: int, check: str) -> None:
    term = watched()
    term.bend = lambda number, x: x + (number == call) * normal(N, seed=3) * x.norm()  # type: ignore[method-assign]
    with pytest.raises(DerivativeError, match="no way of multiplying with the curvature stands up") as caught:
        term.hvp(normal(N))
    assert check in str(caught.value).lower().replace("wrong", "failed"), str(caught.value)


def test_a_consistent_error_is_seen_by_differences_of_the_loss() -> None:
    term = watched()
    term.bend = lambda _, x: 1.5 * x  # type: ignore[method-assign]
    with pytest.raises(DerivativeError, match="curvature against differences of the loss"):
        term.hvp(normal(N))


def test_what_is_proven_is_not_proven_again() -> None:
    proven: set[str] = set()
    first, second = watched(proven=proven), watched(proven=proven)
    first.hvp(normal(N))
    assert proven == {"nothing kept"} and len(first.alive) == 4
    second.hvp(normal(N))
    assert len(second.alive) == 1 and second.checks == []


def test_after_release() -> None:
    term = watched()
    value = float(term.value)
    term.release()
    assert float(term.value) == value == pytest.approx(float(func(normal(N)).square().sum()), rel=1e-12)
    assert term.gradient.dtype is F64 and term.aux == 1.0
    with pytest.raises(RuntimeError, match="this term was released; make a new one"):
        term.hvp(normal(N))
