"""BatchSum with terms of its own: what is kept and verified, how a block is cut when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib import HessianOperator, local_model
from hvplib.ad.report import Report
from hvplib.operators.batches import BatchSum
from hvplib.space import Space


class Scale:
    """The term of ½ a ‖x‖²: H = a I. It records what is done with it."""

    def __init__(self, factor: float, log: list[Any], nbytes: int, limit: int, space: Space) -> None:
        self.factor, self.log, self.limit = factor, log, limit
        self.nbytes = self.bytes_per_vector = nbytes
        self.transferable = nbytes > 0
        self.value = torch.tensor(factor)
        self._space = space
        self.aux = 1.0
        self.report = Report("by hand")

    @property
    def gradient(self) -> Any:
        self.log.append(("gradient", self.factor))
        return self._space.unflatten(torch.full((self._space.size,), self.factor))

    def hvp(self, v: Tensor) -> Tensor:
        self.log.append(("hvp", self.factor))
        return self.factor * v

    def hvp_block(self, V: Tensor) -> Tensor:
        if V.shape[0] > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate too much")
        self.log.append(("block", self.factor, V.shape[0]))
        return self.factor * V

    def release(self) -> None:
        self.log.append(("release", self.factor))


def make(
    data: list[float],
    *,
    budget: int = 10**9,
    nbytes: int = 100,
    limit: int = 10**9,
    verify: bool = False,
    with_gradient: bool = True,
) -> tuple[BatchSum, list[Any]]:
    space = Space.of(torch.ones(3))
    log: list[Any] = []

    def linearize(
        arguments: tuple[Any, ...], index: int, verify: bool, value: Tensor | None, may_keep: Any
    ) -> Scale:
        log.append(("linearize", arguments[0], index, verify))
        return Scale(arguments[0], log, nbytes, limit, space)

    total = BatchSum(
        linearize,
        data,
        space=space,
        memory_budget=budget,
        verify=verify,
        check_deterministic=False,
        seed=0,
        suspect="it",
        bar=lambda items, description, count: items,
        with_gradient=with_gradient,
    )
    return total, log


def test_kept_terms_are_never_linearised_again() -> None:
    total, log = make([1.0, 2.0, 4.0])
    del log[:]
    assert torch.equal(total.product(torch.ones(3, 1)), torch.full((3, 1), 7.0))
    assert log == [("hvp", 1.0), ("hvp", 2.0), ("hvp", 4.0)]
    assert total.value == 7 and torch.equal(total.gradient, torch.full((3,), 7.0))


@pytest.mark.parametrize("budget", [10**9, 150, 0])
def test_gradients_are_summed_at_once_or_when_they_are_asked_for(budget: int) -> None:
    at_once, log = make([1.0, 2.0, 4.0], budget=budget)
    assert [entry for entry in log if entry[0] == "gradient"] == [("gradient", x) for x in (1.0, 2.0, 4.0)]
    later, log = make([1.0, 2.0, 4.0], budget=budget, with_gradient=False)
    assert not any(entry[0] == "gradient" for entry in log)
    for _ in range(2):  # the second time it is there
        assert torch.equal(later.gradient, at_once.gradient) and later.gradient[0] == 7
        assert sum(entry[0] == "gradient" for entry in log) == 3


def test_what_does_not_fit_is_released_and_linearised_at_each_pass() -> None:
    total, log = make([1.0, 2.0, 4.0], budget=250)
    assert total.num_kept == 2 and ("release", 4.0) in log
    del log[:]
    total.product(torch.ones(3, 1))
    assert [entry for entry in log if entry[0] != "hvp"] == [("linearize", 4.0, 2, False), ("release", 4.0)]


def test_a_block_pays_a_batch_once() -> None:
    total, log = make([1.0, 2.0], budget=0)
    del log[:]
    block = torch.randn(4, 3).mT
    torch.testing.assert_close(total.product(block), 3 * block)
    assert [entry[0] for entry in log] == ["linearize", "block", "release"] * 2


def test_the_first_term_is_verified_and_the_rest_only_where_nothing_is_kept() -> None:
    _, log = make([1.0, 2.0, 4.0], verify=True)
    assert [entry[3] for entry in log if entry[0] == "linearize"] == [True, False, False]
    total, log = make([1.0, 2.0, 4.0], verify=True, nbytes=0)
    assert [entry[3] for entry in log if entry[0] == "linearize"] == [True, True, True]
    assert total.verify_again


def test_a_block_is_halved_when_memory_runs_out() -> None:
    total, log = make([1.0, 2.0], limit=2)
    block = torch.randn(7, 3).mT
    torch.testing.assert_close(total.product(block), 3 * block)
    assert max(entry[2] for entry in log if entry[0] == "block") <= 2


def test_a_block_that_never_fits_says_so() -> None:
    total, _ = make([1.0], limit=0)
    with pytest.raises(RuntimeError, match="allocate memory"):
        total.product(torch.randn(3, 2))


SHARED: list[Callable[[Tensor], Tensor]] = [
    lambda v: v,
    lambda v: (1 * v[..., :1]).expand(v.shape),
    lambda v: torch._efficientzerotensor(v.shape),
]


@pytest.mark.parametrize("shared", SHARED)
def test_a_product_lies_in_memory_of_its_own(shared: Callable[[Tensor], Tensor]) -> None:
    total, _ = make([1.0])
    assert total.only is not None
    total.only.hvp = total.only.hvp_block = shared  # type: ignore[method-assign]
    for X in (torch.ones(1, 3).mT, torch.ones(2, 3).mT):
        right = shared(X.mT).mT + 1
        product = total.product(X)
        assert product.mT.is_contiguous() and torch.equal(product.add_(1), right)
        assert X.min() == X.max() == 1


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float32, torch.float64)])
@pytest.mark.parametrize("budget", [0, 10**9])
def test_products_are_summed_leaf_by_leaf(dtypes: tuple[torch.dtype, torch.dtype], budget: int) -> None:
    def func(w: Tensor, b: Tensor, batch: tuple[Tensor, float]) -> Tensor:
        return ((w @ batch[0]).tanh() + b.square()).square().sum()

    w, b = torch.randn(3, 2, dtype=dtypes[0]), torch.randn(3, dtype=dtypes[1])
    data = [(torch.randn(2, dtype=dtypes[0]), float(weight)) for weight in range(2, 9)]
    H = HessianOperator(func, (w, b), data, weight=lambda batch: batch[1], memory_budget=budget)
    space = Space.of((w, b))
    v = space.random(generator=0)
    models = [local_model(lambda w, b, batch=batch: func(w, b, batch), (w, b)) for batch in data]
    products = [space.flatten(model.hvp(space.unflatten(v))) for model in models]
    right = sum((batch[1] * p for batch, p in zip(data, products, strict=True)), torch.zeros(9)) / 35
    for _ in range(3):
        torch.testing.assert_close(H @ v, right.to(v), rtol=2e-6, atol=1e-6)


def test_an_empty_block() -> None:
    total, log = make([1.0])
    del log[:]
    assert total.product(torch.empty(3, 0)).shape == (3, 0) and log == []
