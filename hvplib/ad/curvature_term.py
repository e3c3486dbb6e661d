"""What one batch contributes to a curvature matrix Jᵀ C J: linearised and kept, or frugal with memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from hvplib.ad.differences import compare_slope
from hvplib.ad.frugal_jacobian import FrugalJacobian
from hvplib.ad.guard import derivative
from hvplib.ad.inputs import flatten_primals, unflatten
from hvplib.ad.objective import Objective
from hvplib.ad.randomness import RandomState
from hvplib.ad.report import Attempt, Check, Report
from hvplib.ad.sketch import sketch
from hvplib.ad.vectors import all_finite, dot, norm
from hvplib.ad.verify import probes, repeatability, rounding_of, symmetry_of
from hvplib.errors import DerivativeError
from hvplib.space import Space

__all__ = ["CurvatureTerm", "Look", "Slope"]

KEPT, FRUGAL = "graphs kept", "nothing kept"


@dataclass(frozen=True)
class Look:
    """What one evaluation tells: the value, and what came beside it."""

    value: Tensor
    aux: Any


@dataclass(frozen=True)
class Slope:
    """What the proof has to know of a gradient that it does not hold: whether it is finite, ‖∇f‖, ⟨∇f, v⟩.

    v is the direction that the proof looks along.
    """

    finite: bool
    size: float
    along: float


class CurvatureTerm(ABC):
    """v ↦ Jᵀ C J v at one point, with C positive semidefinite or the Hessian of a loss.

    The graphs of J and C are kept where they may be. Otherwise each product is made of an evaluation in
    forward mode and a gradient: the memory of a gradient, about two thirds more time.

    Args:
        func: r, whose Jacobian J is.
        primals: x.
        verify: Whether to prove the way of multiplying before its first use.
        may_keep: Whether so many bytes may be kept.
        proven: Ways that need no proof any more; one that is proven here, and for other points too, is added.

    Attributes:
        value, gradient, aux: Of the loss whose curvature this is, as in a `LocalModel`. The gradient is not
            kept: it is computed when it is read.
    """

    def __init__(
        self,
        func: Callable[..., Any],
        primals: Any,
        *,
        verify: bool,
        may_keep: Callable[[int], bool],
        proven: set[str],
    ) -> None:
        leaves, self._spec = flatten_primals(primals)
        self._leaves = [x.detach() for x in leaves]
        self._verify, self._may_keep, self._proven = verify, may_keep, proven
        self._noise = RandomState()
        with derivative():
            self._func = Objective(func, self._spec, noise=self._noise)
        self._frugal = FrugalJacobian(self._func, self._leaves)
        self._domain = Space.of(primals)
        self._seen: Look | None = None
        self._way: str | None = None
        self._released = False
        self.checks: list[Check] = []

    # What a kind of curvature writes.

    @abstractmethod
    def _look(self) -> Look:
        """Value and what comes beside it, by one evaluation with a graph."""

    @abstractmethod
    def _slope(self) -> list[Tensor]:
        """The gradient, one tensor per primal."""

    @abstractmethod
    def _build(self, verify: bool) -> None:
        """Linearise, to keep it."""

    @abstractmethod
    def _kept_product(self, X: Tensor) -> Tensor:
        """The product with a block (n, k), by what was built."""

    @abstractmethod
    def _frugal_products(self, columns: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """The products with some vectors, each one tensor per primal, with nothing kept after it."""

    @abstractmethod
    def _kept_reports(self) -> dict[str, Report]:
        """What was built says of its parts."""

    @abstractmethod
    def _custom(self) -> bool:
        """Whether custom autograd functions were met."""

    @abstractmethod
    def _kept_bytes(self) -> int:
        """Bytes that what was built keeps, or would."""

    def _more_checks(self, v: list[Tensor], slope: Slope, curvature: float) -> list[Check]:
        """What else can be held against a frugal product C v with ⟨v, C v⟩ = `curvature`."""
        return []

    # What a sum over batches reads.

    @property
    def value(self) -> Tensor:
        """The loss, 0-d."""
        return self._looked.value

    @property
    def gradient(self) -> Any:
        """Its gradient, a pytree like the primals; computed anew."""
        return unflatten(self._slope(), self._spec)

    @property
    def aux(self) -> Any:
        """What the loss returned beside its value."""
        return self._looked.aux

    @property
    def nbytes(self) -> int:
        """Bytes that are kept from product to product, or would be if the budget allowed."""
        if self._frugal.space is None:
            self._look_around()
        return self._kept_bytes()

    @property
    def bytes_per_vector(self) -> int:
        """About what a block takes for each of its vectors: what is kept is there again, at most."""
        return self.nbytes

    @property
    @abstractmethod
    def transferable(self) -> bool:
        """Whether what is proven of products here holds for other batches and points too."""

    @property
    def report(self) -> Report:
        """How products are computed, and the checks that the way has passed."""
        way = self._ready()
        parts = self._kept_reports() if way == KEPT else {}
        checks = [(name, check) for name, part in parts.items() for check in part.checks]
        attempts = [(name, attempt) for name, part in parts.items() for attempt in part.attempts]
        named = ", ".join(f"{name} by {part.strategy}" for name, part in parts.items())
        return Report(
            f"Gauss-Newton: {named or 'forward mode, then a gradient'} ({way})",
            (*self._frugal.attempts, *(Attempt(f"{n}: {a.strategy}", a.reason) for n, a in attempts)),
            tuple(sorted({r for part in parts.values() for r in part.remedies} | self._func.used)),
            (
                *self.checks,
                *(Check(f"{n}: {c.name}", c.error, c.tolerance, c.passed, c.detail) for n, c in checks),
            ),
        )

    def hvp(self, v: Any) -> Any:
        """The product with a pytree like the primals."""
        if self._ready() == KEPT:
            return self._domain.unflatten(self._kept_product(self._domain.flatten(v).unsqueeze(1)).squeeze(1))
        return unflatten(self._frugal_products([tree_leaves(v)])[0], self._spec)

    def hvp_block(self, V: Any) -> Any:
        """The products with k vectors, along a leading dimension of each leaf."""
        if self._ready() == KEPT:
            return self._domain.unflatten_block(self._kept_product(self._domain.flatten_block(V)))
        leaves, _ = tree_flatten(V)
        columns = [[leaf[j] for leaf in leaves] for j in range(leaves[0].shape[0])]
        products = self._frugal_products(columns)
        return unflatten([torch.stack(parts) for parts in zip(*products, strict=True)], self._spec)

    def release(self) -> None:
        """Free what is kept; value and aux stay if they were read before."""
        self._released = True
        self._forget()

    @abstractmethod
    def _forget(self) -> None:
        """Drop what was built."""

    @property
    def _looked(self) -> Look:
        self._look_around()
        assert self._seen is not None
        return self._seen

    def _look_around(self) -> None:
        if self._seen is None and not self._released:
            self._seen = self._look()

    def _ready(self) -> str:
        """The way of multiplying, chosen and proven."""
        if self._released:
            raise RuntimeError("this term was released; make a new one")
        if self._way is None:
            self._way = KEPT if self._may_keep(1) and self._may_keep(self.nbytes) else FRUGAL
            verify = self._verify and self._way not in self._proven
            if self._way == KEPT:
                self._build(verify)
            elif verify:
                self._prove()
            if verify and self.transferable:
                self._proven.add(self._way)
        return self._way

    def _prove(self) -> None:
        """Make sure of the frugal way, or raise DerivativeError.

        It is symmetric only if J v by forward mode and Jᵀu by reverse mode belong together; it comes out the
        same twice; and differences of the loss contradict neither its gradient nor its curvature.
        """
        slope = self._seen_along(self._slope())
        if not (slope.finite and all_finite([self.value])):
            return
        precision, v = self._precision(), self._direction()
        noise = rounding_of(float(self.value), slope.size, self._leaves, norm(v), precision)
        # Vectors like the parameters weigh: beside a product none is held but the one that is multiplied.
        Cv = self._frugal_products([v])[0]
        w = self._direction(seed=1)
        first, forward, curvature, seen = (norm(v), norm(Cv)), dot(w, Cv), dot(v, Cv), sketch(Cv)
        del w, Cv
        again = sketch(self._frugal_products([v])[0])
        more = self._more_checks(v, slope, curvature)
        del v
        w = self._direction(seed=1)
        Cw = self._frugal_products([w])[0]
        second = norm(w), norm(Cw)
        del w
        defect = abs(forward - dot(self._direction(), Cw))
        repeated = repeatability([seen], [again], precision, noise)
        self.checks = [symmetry_of(defect, first, second, precision, noise), repeated, *more]
        unconfirmed = self._custom() and not self.checks[-1].passed
        if unconfirmed or any(check.passed is False for check in self.checks):
            lines = "\n  ".join(map(str, self.checks))
            raise DerivativeError(
                f"no way of multiplying with the curvature stands up to the checks:\n  {lines}\n"
                "the model may treat part of its parameters as constants, or use an operation whose "
                "derivative is wrong"
            )

    def _direction(self, *, seed: int = 0) -> list[Tensor]:
        return probes(self._leaves, 1, seed=seed)[0]

    def _seen_along(self, gradient: list[Tensor]) -> Slope:
        return Slope(all_finite(gradient), norm(gradient), dot(gradient, self._direction()))

    def _against_values(
        self, evaluate: Callable[[Sequence[Tensor]], Tensor], v: list[Tensor], slope: Slope
    ) -> Check:
        return compare_slope(evaluate, self._leaves, v, slope.along, slope.size * norm(v), self._precision())

    def _precision(self) -> torch.dtype:
        """The coarsest dtype that is computed in."""
        return self._func.precision(self._leaves)
