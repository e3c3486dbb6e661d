"""Where the caller stands: inside a torch.func transform, or outside."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.func import functionalize, grad, jvp, vjp, vmap

from hvplib.ad.transforms import in_transform, is_wrapped, mapped, outside_transforms

X = torch.tensor([1.0, 2.0])

# torch says so of its own import, the first time that forward mode is used
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def seen_inside(run: Any) -> list[tuple[bool, bool]]:
    """(in_transform, is_wrapped of the argument) as the transformed function sees them."""
    seen = []

    def func(x: Tensor) -> Tensor:
        seen.append((in_transform(), is_wrapped(x)))
        return x.sum()

    run(func)
    return seen


@pytest.mark.parametrize(
    "run",
    [
        lambda f: grad(f)(X),
        lambda f: vmap(f)(X[None]),
        lambda f: jvp(f, (X,), (X,)),
        lambda f: vjp(f, X),
        lambda f: functionalize(f)(X),
        lambda f: vmap(grad(f))(X[None]),
    ],
    ids=["grad", "vmap", "jvp", "vjp", "functionalize", "vmap of grad"],
)
def test_inside_a_transform(run: Any) -> None:
    assert not in_transform()
    assert seen_inside(run) == [(True, True)]
    assert not in_transform()


def test_plain_and_dual_numbers_are_no_transforms() -> None:
    assert seen_inside(lambda f: f(X)) == [(False, False)]
    with fwAD.dual_level():
        assert seen_inside(lambda f: f(fwAD.make_dual(X, X))) == [(False, False)]


def test_captured_tensors_are_not_wrapped() -> None:
    seen = []
    vmap(lambda x: seen.append(is_wrapped(X)) or x)(X)
    assert seen == [False]


def test_captured_tensors_can_be_written_to_outside() -> None:
    counter = torch.zeros(())

    def func(x: Tensor) -> Tensor:
        with pytest.raises(RuntimeError, match="mutate a captured Tensor"):
            counter.add_(1)
        with outside_transforms():
            assert not in_transform()
            counter.add_(1)
        assert in_transform()
        return (x**3).sum()

    assert torch.equal(grad(func)(X), 3 * X**2)
    assert counter == 1


def test_the_transforms_are_back_after_an_exception() -> None:
    def func(x: Tensor) -> Tensor:
        with pytest.raises(ZeroDivisionError), outside_transforms():
            raise ZeroDivisionError
        assert in_transform()
        return (x**2).sum()

    assert torch.equal(vmap(grad(func))(X[None]), 2 * X[None])


def test_outside_it_does_nothing() -> None:
    with outside_transforms():
        assert not in_transform()


def test_mapped_is_vmap_of_a_function_of_tensors() -> None:
    x, y = torch.randn(3, 2), torch.randn(3, 2, 2)
    func = lambda a, b: (b @ a, a.sum(), torch.ones(2))  # noqa: E731
    found = mapped(func, [x, y])
    assert len(found) == 3
    assert all(torch.equal(a, b) for a, b in zip(found, vmap(func)(x, y), strict=True))
    assert not in_transform()


def test_mapped_has_no_fallback_and_leaves_nothing_behind() -> None:
    allowed = torch._C._functorch._is_vmap_fallback_enabled()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="vmap fallback which is currently disabled"):
        mapped(lambda a: [torch.histc(a, 2)], [torch.randn(3, 4)])
    with pytest.raises(RuntimeError, match="called random operation"):
        mapped(lambda a: [a + torch.randn(4)], [torch.randn(3, 4)])
    assert not in_transform()
    assert torch._C._functorch._is_vmap_fallback_enabled() == allowed  # type: ignore[attr-defined]
    torch.testing.assert_close(vmap(lambda a: a * 2)(X), 2 * X)
