"""What a row of the awkward tables is: a function, a point, the truth, and the verdict that is due."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

__all__ = [
    "Case",
    "Row",
    "Table",
    "difference",
    "directions",
    "error_between",
    "forward_over_reverse",
    "reverse_over_reverse",
    "seed_noise",
    "truth_of",
]

SEED = 20
F64 = torch.float64


@dataclass(frozen=True)
class Case:
    """A function and a point.

    Attributes:
        func: What is differentiated, called as func(*primals).
        primals: Tuple of arguments.
        truth: A function of the same arguments that is free of the trap and runs in float64 (constants of
            autograd frozen); None where the plain gradient of func itself is to be trusted.
        product: The closed form v -> H v (a tuple like the primals), where there is one.
        rtol: Largest relative error that counts as right.
        step: Length of the difference step; short where kinks lie near.
        differences: Whether differences of the gradient tell the truth here (not where the gradient itself is
            patched by convention).
    """

    func: Callable[..., Any]
    primals: tuple[Any, ...]
    truth: Callable[..., Tensor] | None = None
    product: Callable[..., tuple[Any, ...]] | None = None
    rtol: float = 1e-6
    step: float = 1e-3
    differences: bool = True


@dataclass(frozen=True)
class Row:
    """A builder and what must come of it.

    Attributes:
        verdict: "right"; "refused"; "not finite" (or refused; where the gradient is not finite either); "not
            wrong" (right or refused; where the answer depends on what the function remembers).
        forward, reverse: What bare torch gives (`jvp(grad)`; `autograd.grad` twice): "right", "wrong",
            "raises". They prove that the trap is there; a release of torch that mends one shows here.
        raises: The error that is due where the verdict is "refused".
        match: Pattern that its text must hold, if any.
    """

    name: str
    build: Callable[[], Case]
    verdict: str
    forward: str
    reverse: str
    raises: type[Exception] | tuple[type[Exception], ...] | None = None
    match: str | None = None
    slow: bool = False

    def case(self) -> Case:
        """A fresh case, the same each time."""
        torch.manual_seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # legacy interfaces announce their end when they are built
            return self.build()


class Table:
    """Rows of one theme, filled by the decorators `right`, `refused`, `not_finite`."""

    def __init__(self, theme: str) -> None:
        self.theme = theme
        self.rows: list[Row] = []

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def right(
        self, *, forward: str = "right", reverse: str = "right", slow: bool = False
    ) -> Callable[..., Any]:
        return self._add("right", forward, reverse, slow=slow)

    def not_finite(self) -> Callable[..., Any]:
        return self._add("not finite", "wrong", "wrong")

    def not_wrong(self, *, forward: str = "wrong", reverse: str = "wrong") -> Callable[..., Any]:
        return self._add("not wrong", forward, reverse)

    def refused(
        self,
        *,
        forward: str = "raises",
        reverse: str = "raises",
        raises: type[Exception] | tuple[type[Exception], ...] | None = None,
        match: str | None = None,
        slow: bool = False,
    ) -> Callable[..., Any]:
        return self._add("refused", forward, reverse, raises=raises, match=match, slow=slow)

    def _add(self, verdict: str, forward: str, reverse: str, **options: Any) -> Callable[..., Any]:
        def decorate(build: Callable[[], Case]) -> Callable[[], Case]:
            name = f"{self.theme}.{getattr(build, '__name__', '')}"
            self.rows.append(Row(name, build, verdict, forward, reverse, **options))
            return build

        return decorate


def seed_noise() -> None:
    """Put the global generator where every evaluation of every way starts from."""
    torch.manual_seed(SEED + 1)


def directions(primals: Any, seed: int = 5) -> Any:
    """A random direction of length 1, like the primals (overlapping elements apart)."""
    generator = torch.Generator().manual_seed(seed)
    leaves, spec = tree_flatten(primals)
    v = [torch.randn(x.shape, generator=generator, dtype=F64) for x in leaves]
    length = max(float(sum((x * x).sum() for x in v)) ** 0.5, 1e-300)
    return tree_unflatten([(x / length).to(leaf.dtype) for x, leaf in zip(v, leaves, strict=True)], spec)


def difference(func: Callable[..., Tensor], primals: tuple[Any, ...], v: Any, step: float) -> Any:
    """4th-order central difference of the plain reverse gradient, the noise repeated at each evaluation."""
    leaves, spec = tree_flatten(primals)
    direction = tree_flatten(v)[0]

    def gradient(t: float) -> list[Tensor]:
        moved = [(x.detach() + t * d).requires_grad_() for x, d in zip(leaves, direction, strict=True)]
        seed_noise()
        with torch.enable_grad():
            value = func(*tree_unflatten(moved, spec))
            if not value.requires_grad:
                return [torch.zeros_like(x) for x in moved]
            return list(torch.autograd.grad(value, moved, allow_unused=True, materialize_grads=True))

    near = zip(gradient(step), gradient(-step), strict=True)
    far = zip(gradient(2 * step), gradient(-2 * step), strict=True)
    product = [(8 * (a - b) - (c - d)) / (12 * step) for (a, b), (c, d) in zip(near, far, strict=True)]
    return tree_unflatten(product, spec)


def forward_over_reverse(func: Callable[..., Tensor], primals: tuple[Any, ...], v: Any) -> Any:
    """`jvp(grad)` by torch.func, as a user would write it."""
    numbers = tuple(range(len(primals)))
    seed_noise()
    detached = tree_map(lambda x: x.detach(), primals)
    return torch.func.jvp(torch.func.grad(func, argnums=numbers), detached, v)[1]


def reverse_over_reverse(func: Callable[..., Tensor], primals: tuple[Any, ...], v: Any) -> Any:
    """`autograd.grad` twice, as a user would write it (zero where the gradient has no graph)."""
    leaves, spec = tree_flatten(primals)
    xs = [x.detach().clone().requires_grad_() for x in leaves]
    seed_noise()
    with torch.enable_grad():
        value = func(*tree_unflatten(xs, spec))
        gradient = torch.autograd.grad(
            value, xs, create_graph=True, allow_unused=True, materialize_grads=True
        )
        live = [(g, d) for g, d in zip(gradient, tree_flatten(v)[0], strict=True) if g.requires_grad]
        if not live:
            return tree_unflatten([torch.zeros_like(x) for x in xs], spec)
        product = torch.autograd.grad(
            [g for g, _ in live], xs, [d for _, d in live], allow_unused=True, materialize_grads=True
        )
    return tree_unflatten(list(product), spec)


def error_between(got: Any, expected: Any) -> float:
    """Relative distance of two pytrees, in float64; infinite if something is not finite."""
    pairs = list(zip(tree_flatten(got)[0], tree_flatten(expected)[0], strict=True))
    distance = float(sum(((a.detach().to(F64) - b.to(F64)) ** 2).sum() for a, b in pairs)) ** 0.5
    scale = float(sum((b.to(F64) ** 2).sum() for _, b in pairs)) ** 0.5
    error = distance / scale if scale > 0 else distance
    return error if error == error else float("inf")


def truth_of(case: Case, v: Any) -> Any:
    """H v from two independent oracles, which must agree with each other first."""
    double = tree_map(lambda x: x.detach().to(F64).clone(), case.primals)
    v = tree_map(lambda x: x.to(F64), v)
    answers = []
    if case.product is not None:
        answers.append(case.product(*v))
    if case.differences:
        answers.append(difference(case.truth or case.func, double, v, case.step))
    if case.truth is not None:
        answers.append(forward_over_reverse(case.truth, double, v))
    for other in answers[1:]:
        assert error_between(other, answers[0]) < 1e-6, "the oracles of this case contradict one another"
    return tree_map(lambda x: x.detach(), answers[0])
