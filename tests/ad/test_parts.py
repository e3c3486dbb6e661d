"""What a function takes of its primals, by the graph of its value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hvplib.ad.backward import pulled_back
from hvplib.ad.parts import Part, parts_of
from tests.ad.problems import normal

N = 100
Func = Callable[[Tensor], Tensor]


def parts(func: Callable[..., Tensor], *leaves: Tensor) -> tuple[Tensor, list[Part]]:
    for leaf in leaves:
        leaf.requires_grad_()
    value = func(*leaves)
    return value, parts_of(value, leaves)


def network(w: Tensor, b: Tensor) -> Tensor:
    return (w.tanh().sum(0) * b).exp().sum()


TAKEN: dict[str, tuple[Func, list[tuple[int, int, tuple[int, ...]]]]] = {
    "split into sizes": (
        lambda x: (lambda w, b: network(w.view(9, 10), b))(*x.split([90, 10])),
        [(0, 90, (9, 10)), (90, 100, (10,))],
    ),
    "split into equal ones and a rest": (
        lambda x: sum(p.sin().sum() ** k for k, p in enumerate(x.split(30), 1)),  # type: ignore[misc]
        [(0, 30, (30,)), (30, 60, (30,)), (60, 90, (30,)), (90, 100, (10,))],
    ),
    "slices from both ends": (
        lambda x: network(x[:40].reshape(8, 5), x[-5:]),
        [(0, 40, (8, 5)), (95, 100, (5,))],
    ),
    "a slice and a single entry": (
        lambda x: x[10:].unflatten(0, (9, 10)).sin().sum() * x[0].exp() + x[1] ** 3,
        [(0, 1, ()), (1, 2, ()), (10, 100, (9, 10))],
    ),
    "an entry from the end": (lambda x: x[:-1].sin().sum() * x[-1], [(0, 99, (99,)), (99, 100, ())]),
    "narrow": (lambda x: x.narrow(0, 20, 30).exp().sum(), [(20, 50, (30,))]),
    "a slice used twice": (
        lambda x: (lambda w: (w.view(10, 5) @ torch.ones(5, dtype=w.dtype)).sum() + w.exp().sum())(x[:50]),
        [(0, 50, (50,))],
    ),
    "a slice viewed twice": (
        lambda x: x[:50].exp().sum() + (lambda w: w.view(10, 5).sin().sum() * w.view(5, 10)[0].sum())(x[50:]),
        [(0, 50, (50,)), (50, 100, (50,))],
    ),
    "a part that does not matter": (
        lambda x: (lambda a, _, c: a.exp().sum() * c.sin().sum())(*x.split([20, 50, 30])),
        [(0, 20, (20,)), (20, 70, (50,)), (70, 100, (30,))],
    ),
    "without a start": (lambda x: torch.ops.aten.slice(x, 0, None, 20).exp().sum(), [(0, 20, (20,))]),
    "beyond the end": (lambda x: x[60:200].exp().sum(), [(60, 100, (40,))]),
}

WHOLE: dict[str, Func] = {
    "used by itself, too": lambda x: x[:50].sin().sum() * x[50:].sum() + x.exp().sum(),
    "neighbours": lambda x: (x[1:] * x[:-1]).sum(),
    "every second": lambda x: x[::2].exp().sum(),
    "every second, and the others": lambda x: x[::2].exp().sum() * x[1::2].sin().sum(),
    "a view": lambda x: x.view(10, 10).exp().sum(),
    "every entry by itself": lambda x: torch.stack([x[i] for i in range(N)]).exp().sum(),
    "unbound": lambda x: torch.stack(x.unbind()).exp().sum(),
    "indices": lambda x: x[[3, 5]].exp().sum(),
}


@pytest.mark.parametrize("name", TAKEN)
def test_slices_of_a_vector(name: str) -> None:
    func, expected = TAKEN[name]
    x = normal(N, seed=1)
    value, found = parts(func, x)
    assert [(p.start, p.stop, p.shape) for p in found] == expected
    assert not any(p.whole for p in found) and [len(p) for p in found] == [b - a for a, b, _ in expected]
    ends = pulled_back([value], [p.end for p in found], [torch.ones_like(value)], retain_graph=True)
    (gradient,) = torch.autograd.grad(value, x)
    for part, end in zip(found, ends, strict=True):
        own = gradient[part.start : part.stop]
        assert torch.equal(torch.zeros_like(own) if end is None else end.reshape(-1), own)
    rest = torch.ones(N, dtype=torch.bool)
    for p in found:
        rest[p.start : p.stop] = False
    assert not gradient[rest].any()


@pytest.mark.parametrize("name", WHOLE)
def test_other_uses_are_of_the_whole(name: str) -> None:
    x = normal(N, seed=2)
    _, (part,) = parts(WHOLE[name], x)
    assert part.end is x and part.whole and (part.start, part.stop, part.shape) == (0, N, (N,))


def test_each_of_several_tensors_by_itself() -> None:
    x, w, small = normal(N, seed=3), normal(4, 5, seed=4), normal(6, seed=5)
    _, found = parts(lambda x, w, s: network(w, x[:5]) + x[5:].exp().sum() * s[:3].sum(), x, w, small)
    told = [(p.leaf, p.start, p.stop, p.whole) for p in found]
    assert told == [(0, 0, 5, False), (0, 5, N, False), (1, 0, 20, True), (2, 0, 6, True)]
