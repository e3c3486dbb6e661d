"""Constants with tangents of zeros: the same derivatives, without torch's detour through Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from hvplib import hessian, hvp
from hvplib.ad.tangents import ARITHMETIC, with_tangents
from tests.ad.problems import F64, normal

X, V, Y = normal(3, 2, seed=1), normal(3, 2, seed=2), normal(3, 2, seed=3).abs() + 1

CONSTANTS: dict[str, Any] = {
    "a tensor": Y,
    "a row": Y[0],
    "a number": 2.5,
    "an integer": 3,
    "a tensor without dimensions": torch.tensor(0.7, dtype=F64),
    "float32": Y.float(),
    "integers": torch.tensor([2, 3]),
    "bool": True,
    "expanded": Y[:1].expand(3, 2),
    "transposed": normal(2, 3, seed=5).mT,
}


NAMES = [(n, c) for n in ("add", "sub", "mul", "div") for c in CONSTANTS if (n, c) != ("sub", "bool")]


@pytest.mark.parametrize(("name", "kind"), NAMES)
def test_derivatives_are_those_of_torch(name: str, kind: str) -> None:
    operation, constant = getattr(Tensor, name), CONSTANTS[kind]
    assert operation in ARITHMETIC
    with fwAD.dual_level():
        dual = fwAD.make_dual(X, V)
        found = fwAD.unpack_dual(operation(*with_tangents((dual, constant))))
        expected = fwAD.unpack_dual(operation(dual, constant))
        assert torch.equal(found.primal, expected.primal) and found.primal.dtype == expected.primal.dtype
        assert torch.equal(found.tangent, expected.tangent)
        if isinstance(constant, Tensor):
            found = fwAD.unpack_dual(operation(*with_tangents((constant, dual))))
            expected = fwAD.unpack_dual(operation(constant, dual))
            torch.testing.assert_close(found.tangent, expected.tangent, rtol=1e-15, atol=0)


def is_dual(value: Any) -> bool:
    return isinstance(value, Tensor) and fwAD.unpack_dual(value).tangent is not None


def test_what_is_left_as_it_is() -> None:
    with torch.inference_mode():
        inference = torch.ones(2, dtype=F64)
    with fwAD.dual_level():
        dual = fwAD.make_dual(X, V)
        for value in (
            torch.ones(2**14 + 1, dtype=F64),
            torch.ones(2, dtype=F64, requires_grad=True),
            torch.ones(2, dtype=torch.complex128),
            torch.eye(2, dtype=F64).to_sparse(),
            Y[:1].expand(3, 2),
            inference,
            True,
            2j,
        ):
            assert with_tangents((dual, value))[1] is value
        assert with_tangents((Y, Y)) == (Y, Y)
        half = fwAD.make_dual(X.half(), V.half())
        number = 2.3
        assert with_tangents((half, number))[1] is number  # float16 would round it
        assert not is_dual(Y)  # the caller's own tensor has no tangent


def test_large_constants_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with fwAD.dual_level():
        dual = fwAD.make_dual(X, V)
        assert is_dual(with_tangents((dual, Y))[1])
        monkeypatch.setattr("hvplib.ad.tangents._FEW", 5)
        assert not is_dual(with_tangents((dual, Y))[1])


@pytest.mark.parametrize(
    "func",
    [
        lambda x: ((x - Y) ** 2 / Y + 2 * x - 1).square().sum(),
        lambda x: (1 - x).div(2).mul(x.sin()).sum() * 3.0,
        lambda x: torch.true_divide(torch.add(x, Y, alpha=2), 1 + x.exp()).sum(),
    ],
)
def test_products_are_right_and_leave_torchs_zeros_alone(
    func: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = hvp(func, X, V, strategy="reverse-over-reverse")
    monkeypatch.setattr("hvplib.ad.tangents.with_tangents", lambda args: args)
    slow = hvp(func, X, V, strategy="forward-over-reverse")
    monkeypatch.undo()
    fast = hvp(func, X, V, strategy="forward-over-reverse")
    torch.testing.assert_close(fast, exact, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(fast, slow, rtol=1e-14, atol=1e-14)


def test_numbers_in_transforms_meet_no_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as torch's own overloads give, mapped and differentiated."""

    def func(x: Tensor) -> Tensor:
        return ((x * 3 - 0.5).div(2) ** 3 + 1).sum() + torch.true_divide(x, 7).add(2).prod()

    points = normal(5, 4, seed=11)
    mapped = torch.func.vmap(hessian(func))
    found = mapped(points)
    met: list[Any] = []

    def watched(operation: Any, args: tuple[Any, ...]) -> Any:
        met.append(operation)
        return operation(*args)

    monkeypatch.setattr("hvplib.ad.remedies.arithmetic", watched)
    assert torch.equal(mapped(points), found) and len(met) >= 6
    monkeypatch.undo()
    torch.testing.assert_close(found, torch.func.vmap(torch.func.hessian(func))(points), rtol=1e-13, atol=0)
    (third,) = torch.autograd.grad(hessian(func)(x := points[0].clone().requires_grad_()).sum(), x)
    expected = torch.func.grad(lambda x: torch.func.hessian(func)(x).sum())(points[0])
    torch.testing.assert_close(third, expected, rtol=1e-12, atol=1e-12)
