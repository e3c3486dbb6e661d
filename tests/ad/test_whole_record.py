"""The whole Hessian by a record: held to a product once, and to the function at each call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_structure

from hvplib import DerivativeError, hessian
from hvplib.ad.known import Memory
from hvplib.ad.recorded_hessian import RecordedHessian
from hvplib.ad.trace.unit_rows import UnitRows
from hvplib.ad.whole_record import WholeRecord
from tests.ad.functions_of_parts import FUNCTIONS, OfParts
from tests.ad.problems import F64, difference_hessian, normal, relative

CALLS = 7


def record(of: Any) -> WholeRecord | None:
    """What `hessian(f)` keeps of the one kind of calls that it has seen."""
    memory = next(c.cell_contents for c in of.__closure__ if isinstance(c.cell_contents, Memory))
    (known,) = memory._known.values()
    return known._record


def learnt(func: Any, *args: Any, argnums: Any = 0, **options: Any) -> Any:
    of = hessian(func, argnums, **options)
    for _ in range(CALLS):
        of(*args)
    return of


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_what_a_first_call_gives(name: str) -> None:
    of = FUNCTIONS[name]
    numbers = tuple(range(len(of.shapes)))
    known = learnt(of.func, *of.point(3), argnums=numbers)
    point = of.point(300)
    found, first = known(*point), hessian(of.func, numbers)(*point)
    kept = record(known)
    assert kept is None or kept._rows is not None, kept._reason  # "a linear part": no graph for it
    assert tree_structure(found) == tree_structure(first)
    for block, right in zip(tree_leaves(found), tree_leaves(first), strict=True):
        assert block.shape == right.shape and block.dtype == right.dtype
        assert (block - right).abs().max() <= 1e-12 * max(1.0, float(right.abs().max()))


def test_containers_and_the_shape_of_the_output() -> None:
    func = lambda p, k: (k * p["a"].sin().sum() * (p["b"][0] ** 3).sum()).reshape(1)  # noqa: E731
    point = {"a": normal(3, seed=1), "b": [normal(2, 2, seed=2)]}
    known = learnt(func, point, 2.0)
    other = {"a": normal(3, seed=5), "b": [normal(2, 2, seed=6)]}
    found = known(other, 2.0)
    assert record(known)._rows is not None  # type: ignore[union-attr]
    assert found["b"][0]["a"].shape == (1, 2, 2, 3)
    right = torch.func.hessian(func)(other, 2.0)
    assert tree_structure(found) == tree_structure(right)
    assert relative(found, right) < 1e-13


def test_the_first_matrix_is_held_to_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = UnitRows.__call__

    def wrong(self: UnitRows, *args: Any) -> Any:
        return [chunk * (1 + 1e-6) for chunk in rows(self, *args)]

    of = FUNCTIONS["network"]
    monkeypatch.setattr(UnitRows, "__call__", wrong)
    known = learnt(of.func, *of.point(3), argnums=tuple(range(6)))
    kept = record(known)
    assert kept is not None and kept._rows is None
    assert "the recorded rows are not those of the recorded products" in kept._reason
    found = known(*of.point(4))
    right = hessian(of.func, tuple(range(6)))(*of.point(4))
    assert relative(found, right) < 1e-13


def test_a_wrong_copy_of_symmetric_blocks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    of = FUNCTIONS["network"]
    call = RecordedHessian.__call__

    def wrong(self: RecordedHessian, residuals: Any) -> Any:
        blocks = call(self, residuals)
        blocks[4][0] = blocks[4][0].flip(1)
        return blocks

    monkeypatch.setattr(RecordedHessian, "__call__", wrong)
    kept = record(learnt(of.func, *of.point(3), argnums=tuple(range(6)), chunk_size=5))
    assert kept is not None and "not those of the recorded products" in kept._reason


def test_what_raises_beside_the_point_is_right_at_it() -> None:
    """The cross-entropy of what is no probability: a point so near to 1 that a step beside leads past it."""
    target = torch.ones(3, dtype=F64)
    known = learnt(lambda p: F.binary_cross_entropy(p, target, reduction="sum"), 0.5 * target)
    assert record(known)._rows is not None  # type: ignore[union-attr]
    p = torch.tensor([1 - 1e-5, 0.25, 0.5], dtype=F64)
    assert relative(known(p), torch.diag(p**-2)) < 1e-12
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        known(p + 1)


def test_a_factorisation_that_fails_at_the_point_raises_there() -> None:
    """Beside it, a thousandth away, the matrix is positive definite."""
    func = lambda x: torch.linalg.cholesky(x.diag() + 1e-6 * torch.eye(3)).sum()  # noqa: E731
    x = torch.ones(3, dtype=F64)
    known = learnt(func, x)
    assert relative(known(2 * x), difference_hessian(func, 2 * x)) < 1e-7
    with pytest.raises(torch.linalg.LinAlgError):
        known(torch.tensor([1.0, -2e-6, 1.0], dtype=F64))


Y = normal(3, seed=9)
SINGULAR = {
    "norm": lambda x: x.norm() ** 2,
    "hypot": lambda x: torch.hypot(x, Y).square().sum(),
    "atan2": lambda x: torch.atan2(x, Y).sum() ** 2,
    "normalize": lambda x: F.normalize(x, dim=0).pow(4).sum(),
    "cosine similarity": lambda x: F.cosine_similarity(x, Y, dim=0) ** 2,
    "distance": lambda x: F.pairwise_distance(x[None], Y[None]).sum() ** 2,
}


@pytest.mark.parametrize("name", SINGULAR)
def test_what_has_singular_points_is_never_recorded(name: str) -> None:
    """A record would not tell when it is at one."""
    assert record(learnt(SINGULAR[name], normal(3, seed=1))) is None


def test_a_singular_point_is_proven_there() -> None:
    known = learnt(SINGULAR["norm"], normal(3, seed=1))
    with pytest.raises(DerivativeError, match="difference of gradients"):
        known(torch.zeros(3, dtype=F64))


def test_memory_is_asked_for_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    known = learnt(lambda x: (x**3).sum(), normal(40, seed=1))
    monkeypatch.setattr("hvplib.ad.memory._WORTH_A_LOOK", 0)
    monkeypatch.setattr("hvplib.ad.memory.free_bytes", lambda _: 1000)
    with pytest.raises(MemoryError, match=r"the dense Hessian.*needs 12\.5 KiB, 1000 bytes are free on cpu"):
        known(normal(40, seed=2))


def test_points_without_numbers_are_not_recorded_at() -> None:
    of = hessian(lambda x: x.log().square().sum())
    x = normal(3, seed=1).abs() + 0.5
    for _ in range(5):
        of(x)
    bad = torch.tensor([1.0, -1.0, 2.0], dtype=F64)
    assert bool(of(bad).isnan().any())
    assert relative(of(x), torch.diag(2 * (1 - x.log()) / x**2)) < 1e-13
    kept = record(of)
    assert kept is not None and kept._rows is not None and not kept._reason


def test_float32_is_kept_to_its_precision() -> None:
    of = FUNCTIONS["network"]

    def func(*p: Tensor) -> Tensor:
        return of.func(*(x.double() for x in p)).float()

    single = OfParts(func, of.shapes)
    point = tuple(x.float() for x in single.point(3))
    known = learnt(func, *point, argnums=tuple(range(6)))
    right = hessian(of.func, tuple(range(6)))(*(x.double() for x in point))
    assert relative(known(*point), right) < 1e-6


def test_under_no_grad_and_inference_mode() -> None:
    x = normal(4, seed=1)
    known = learnt(lambda x: (x**4).sum(), x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert relative(known(x), torch.diag(12 * x**2)) < 1e-14
