"""The search for k eigenpairs: thick-restart Lanczos, and a second start for what the first has missed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from hvplib.eigen.decoupling import decoupling
from hvplib.eigen.missed import End, miss_bound, resolution_of
from hvplib.eigen.products import Products
from hvplib.eigen.restart import kept
from hvplib.krylov.ends import Ends, Which
from hvplib.krylov.lanczos import Factorization, Ritz
from hvplib.results.status import Progress, Status

__all__ = ["Search", "Task"]

# Above this, relative to ‖A‖, the products contradict symmetry beyond doubt, and no iteration will help.
_ASYMMETRY = 1e-2
# The estimates of the residuals and the recomputed ones agree to rounding; where they do not, the products
# are noisy, and a few more steps show whether the tolerance can be reached all the same.
_CONFIRMATIONS = 3
# What the second start finds is confirmed at the end only, so its estimates keep some distance.
_ESTIMATE = 0.5


@dataclass(frozen=True)
class Task:
    """What is searched for.

    Attributes:
        k: Pairs wanted.
        which: Which of them.
        rtol: ‖A x − θ x‖ ≤ max(rtol |θ|, floor ‖A‖).
        floor: Of the tolerance, relative to ‖A‖: what rounding leaves.
        miss_probability: See `Lanczos`.
        max_matvecs: Bound on the products.
    """

    k: int
    which: Which
    rtol: float
    floor: float
    miss_probability: float | None
    max_matvecs: int


class Search:
    """One search, a step at a time; between steps it can be left, put away and taken up again.

    Numbers are in units of the products (`Products.unit`).

    Args:
        task: What is searched for.
        factorization: Lanczos factorisation, just started from a random block.
        products: X ↦ A X.
        random: k ↦ a block (n, k) of independent normal numbers.
        drawn: Whether the start was drawn by `random`: only then do the probabilities hold for it.

    Attributes:
        status: How it ended; None as long as it has not.
        values, residual_norms: Of the locked pairs (l,), the best first, as confirmed.
        confirmed: Whether these norms are of products made for them.
        elsewhere: Interval (1, 2) that holds all other eigenvalues of the deflated operator, but for the
            probability asked for; (−∞, ∞) as long as no start has looked for them.
        miss_probability, miss_resolution: See `EigenResult`.
        history: Rows (num_matvecs, converged pairs, largest residual / tolerance).
    """

    def __init__(
        self,
        task: Task,
        factorization: Factorization,
        products: Products,
        random: Callable[[int], Tensor],
        *,
        drawn: bool,
    ) -> None:
        self.task = task
        self.ends = Ends(task.which, task.k, 0, 0)
        self.factorization = factorization
        self.products = products
        self.random = random
        self.status: Status | None = None
        self.values = self.residual_norms = torch.zeros(0, dtype=torch.float64)
        self.miss_probability = self.miss_resolution = math.nan
        self.elsewhere = torch.tensor([[-math.inf, math.inf]], dtype=torch.float64)
        self.history: list[list[float]] = []
        self.num_iter = 0
        self._drawn = drawn
        self._phase: Literal["iteration", "missed members"] = "iteration"
        self._due = 0  # steps until the small problem is solved again
        self._strictness = 1.0  # of the estimates, beside the tolerance
        self._confirmations = 0
        self._uncut = 0  # steps since the last start, before the first restart
        self._span = torch.zeros(0, dtype=torch.float64)  # extreme Ritz values at that restart
        self._found = False  # whether the second start has brought something
        self.confirmed = False
        self._first: list[End] = []  # what the first start has shown
        self._values = torch.full((task.k,), math.nan, dtype=torch.float64)  # as last looked at
        self._norms = self._values

    # What there is to show at any time.

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The best so far: values (j,), vectors (n, j), residual norms (j,), j ≤ k."""
        F = self.factorization
        if F.locked:
            best = self.ends.wanted(self.values)
            return (
                self.values[best],
                F.basis[: F.locked][:, best.to(F.basis.device)],
                self.residual_norms[best],
            )
        if not F.active:
            none = torch.zeros(0, dtype=torch.float64)
            return none, F.basis[:0], none
        ritz = F.ritz()
        wanted = self.ends.wanted(ritz.values)
        return ritz.values[wanted], F.combine(ritz.vectors[:, wanted]), ritz.residual_norms[wanted]

    @property
    def asymmetry(self) -> float:
        """Largest difference between ⟨x, A y⟩ and ⟨A x, y⟩ met, relative to ‖A‖."""
        F = self.factorization
        return F.asymmetry / F.norm if F.norm else 0.0

    def progress(self) -> Progress:
        """What a callback is told."""
        unit = self.products.unit or 1.0
        return Progress(self.num_iter, self.products.total, self._norms * unit, self._values * unit)

    def tolerances(self, values: Tensor) -> Tensor:
        """What a residual norm may be."""
        rounding = self.task.floor * self.factorization.norm
        return (self.task.rtol * values.abs()).clamp(min=max(rounding, torch.finfo(torch.float64).tiny))

    @property
    def spent(self) -> int:
        """Products made, but for those that show whether a saved search belongs to this operator."""
        return self.products.total - self.products.by_purpose.get("resume", 0)

    @property
    def exhausted(self) -> bool:
        """Whether another step, and to confirm what there is, would take more products than are allowed."""
        reserved = 0 if self.confirmed else self.task.k
        return self.spent + self.factorization.width + reserved > self.task.max_matvecs

    # Steps.

    def step(self) -> Status | None:
        """One product with the next block, and what follows from it; the status, once it has ended."""
        self._step()
        return self.status

    def _step(self) -> None:
        F = self.factorization
        if self.exhausted:
            return self._give_up(Status.MAX_ITER)
        if F.width == 0 and F.count < F.size:
            F.renew(self.random(1))  # the start given was zero
        if not F.full and F.width and not F.expand(self.products.made_for(self._phase), self.random):
            return self._end(Status.NON_FINITE)
        self.num_iter += 1
        self._due -= 1
        if not (F.full or F.width == 0 or self._due <= 0):
            return None
        if self.asymmetry > _ASYMMETRY:
            return self._give_up(Status.NOT_SYMMETRIC)
        ritz = F.ritz()
        return self._iterate(ritz) if self._phase == "iteration" else self._check(ritz)

    def _end(self, status: Status) -> None:
        self.status = status

    def _give_up(self, status: Status) -> None:
        """End before all pairs have converged, with the residuals of those there are recomputed."""
        F = self.factorization
        if not F.locked and F.active:
            ritz = F.ritz()
            wanted = self.ends.wanted(ritz.values)
            found = self._recomputed(F.combine(ritz.vectors[:, wanted]), ritz.values[wanted])
            F.restart(ritz.vectors[:, wanted])
            F.lock(len(wanted))
            self._keep(*found)
            self.confirmed = True
        elif F.locked:
            self._reconfirmed()
        self._end(status)

    def _iterate(self, ritz: Ritz) -> None:
        F, task = self.factorization, self.task
        if F.active < task.k:
            self._due = 1
            return
        wanted = self.ends.wanted(ritz.values)
        ratios = ritz.residual_norms[wanted] / self.tolerances(ritz.values[wanted])
        worst = float(ratios.max())
        self._values, self._norms = ritz.values[wanted], ritz.residual_norms[wanted]
        self.history.append([self.spent, int((ratios <= 1).sum()), worst])
        if worst <= self._strictness or F.width == 0:
            self._confirm(ritz, wanted)
        elif F.full:
            self._restart(ritz, *self._counts(ritz.values[wanted]))
        else:
            # The residuals of Lanczos fall by less than a digit a step but at the very end: no need to look
            # at each.
            self._due = 1 + int(math.log10(max(worst / self._strictness, 1.0)))

    def _counts(self, values: Tensor) -> tuple[int, int]:
        """How many of the wanted values are at the upper end, and how many at the lower."""
        k = self.task.k
        if self.task.which == "LM":
            highest = int((values > 0).sum())
            return highest, k - highest
        return {"LA": (k, 0), "SA": (0, k), "BE": ((k + 1) // 2, k // 2)}[self.task.which]

    def _restart(self, ritz: Ritz, highest: int, lowest: int) -> None:
        F = self.factorization
        columns = kept(ritz.values, highest, lowest, capacity=F.capacity, width=F.width)
        F.restart(ritz.vectors[:, columns])
        if not self._uncut:
            self._uncut, self._span = F.num_steps, ritz.values[[0, -1]]
        self._due = 0

    def _confirm(self, ritz: Ritz, wanted: Tensor) -> None:
        """Recompute the residuals, and lock the pairs if they hold."""
        F = self.factorization
        # Confirmed is what will be stored, if that is in fewer digits.
        X = F.combine(ritz.vectors[:, wanted]).to(F.basis.rows.dtype).to(F.basis.dtype)
        values, norms = self._recomputed(X, ritz.values[wanted])
        worst = float((norms / self.tolerances(values)).max())
        if not math.isfinite(worst):
            return self._end(Status.NON_FINITE)
        self._confirmations += 1
        if not worst <= 1 and F.width and self._confirmations < _CONFIRMATIONS:
            self._strictness *= 0.5 * max(1 / worst, 1e-3)
            return self._restart(ritz, *self._counts(ritz.values[wanted])) if F.full else None
        self._first = self._seen(ritz.values, ritz.residual_norms, self._uncut or F.num_steps)
        if F.width > 1:  # of a block, only the bound on what has not converged is proven
            self._first = [replace(end, residual_norm=math.inf) for end in self._first]
        F.restart(ritz.vectors[:, wanted])
        F.basis.put(F.locked, X)
        F.lock(len(wanted))
        self._keep(values, norms)
        self.confirmed = True
        return self._go_on(worst)

    def _recomputed(self, X: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Rayleigh quotients and true residual norms of unit vectors X (n, j)."""
        F = self.factorization
        AX = self.products.made_for("confirmation")(X)
        quotients = F.inner.columns(X, AX) / F.inner.columns(X, X)
        R = AX - X * quotients
        small = torch.stack([quotients, F.inner.columns(R, R).sqrt()]).to("cpu", torch.float64)
        lengths = torch.hypot(small[0], small[1])
        F.norm = max(F.norm, float(lengths.nan_to_num(nan=0.0, posinf=0.0).max()))
        return small[0], small[1]

    def _keep(self, values: Tensor, norms: Tensor) -> None:
        """Take note of newly locked pairs."""
        self.values = torch.cat([self.values, values])
        self.residual_norms = torch.cat([self.residual_norms, norms])
        self._show()

    def _show(self) -> None:
        best = self.ends.wanted(self.values)
        self._values, self._norms = self.values[best], self.residual_norms[best]

    def _sort(self) -> None:
        """Bring the locked pairs into order, and drop those that others have pushed out."""
        best = self.ends.wanted(self.values)
        if best.tolist() != list(range(self.factorization.locked)):
            self.factorization.keep_locked(best.tolist())
            self.values, self.residual_norms = self.values[best], self.residual_norms[best]

    # The second start.

    def _go_on(self, worst: float) -> None:
        """After pairs were locked: what is left to do.

        Args:
            worst: Largest of their residuals, relative to the tolerance.
        """
        F, task = self.factorization, self.task
        if not worst <= 1:
            return self._end(Status.NON_FINITE if math.isnan(worst) else Status.STAGNATED)
        if F.locked == F.size:
            return self._complete(self.values[:0])
        _, marks, nexts = self._marks()
        if task.miss_probability is not None and self._is_open(nexts):
            return self._renew()
        return self._rest_on_first(marks)

    def _rest_on_first(self, marks: list[float]) -> None:
        """No missed copy would change anything; that nothing else was missed, the first start says."""
        task, scale = self.task, 4 * self.factorization.norm
        if self._drawn and task.miss_probability is not None:
            self.miss_probability = task.miss_probability
            self.miss_resolution = resolution_of(self._first, marks, task.miss_probability, scale=scale)
        self._finish()

    def _finish(self) -> None:
        """All is found: recompute the residuals of what was taken in."""
        worst = self._reconfirmed()
        if worst <= 1:
            return self._end(Status.CONVERGED)
        return self._end(Status.NON_FINITE if math.isnan(worst) else Status.STAGNATED)

    def _reconfirmed(self) -> float:
        """The largest residual norm of the locked pairs, relative to its tolerance."""
        F = self.factorization
        self._sort()
        if not self.confirmed:
            self.values, self.residual_norms = self._recomputed(F.basis[: F.locked], self.values)
            self.confirmed = True
            self._sort()
        return float((self.residual_norms / self.tolerances(self.values)).max())

    def _complete(self, others: Tensor) -> None:
        """The basis spans the whole space: these (m,) are all other eigenvalues."""
        self.miss_probability = self.miss_resolution = 0.0
        low, high = (float(others.min()), float(others.max())) if others.numel() else (math.inf, -math.inf)
        self.elsewhere = torch.tensor([[low, high]], dtype=torch.float64)
        self._finish()

    def _renew(self) -> None:
        # A single vector: a block would show several copies at once, but takes more products for each.
        self._phase, self._due, self._uncut, self._found = "missed members", 0, 0, False
        self._span = self._span[:0]
        self._sort()
        self.factorization.renew(self.random(1))

    def _check(self, ritz: Ritz) -> None:
        """Look whether the second start has found something beyond the wanted pairs."""
        F = self.factorization
        beyond = self._beyond(ritz.values)
        # What it has in common with the locked pairs is no error: see `_take_in`.
        converged = ritz.deflated_norms <= _ESTIMATE * self._strictness * self.tolerances(ritz.values)
        if bool((beyond & converged).any()) or (bool(beyond.any()) and F.width == 0):
            return self._take_in(ritz, (beyond & (converged | (F.width == 0))).nonzero().flatten())
        if not bool(beyond.any()):
            if self._found:  # there may be more copies, which only another start shows
                return self._renew()
            if F.width == 0:
                return self._complete(ritz.values)
            if self._surely_complete(ritz):
                return self._finish()
        if F.full:
            self._restart(ritz, *self._sought(ritz.values, beyond))
        return None

    def _sought(self, values: Tensor, beyond: Tensor) -> tuple[int, int]:
        """How many Ritz pairs to go on with at the upper and at the lower end: those beyond, and the next.

        Of many, only as many as leave room for steps: the outermost converge first, and others drop out then.
        """
        signs = _signs(self.task.which, self.task.k)
        most = max(1, self.factorization.capacity // (2 * len(signs)))
        upper, lower = (min(1 + int((beyond & (sign * values > 0)).sum()), most) for sign in (1, -1))
        return upper if 1 in signs else 0, lower if -1 in signs else 0

    def _beyond(self, values: Tensor) -> Tensor:
        """Which of the values lie beyond the last wanted one, by more than its tolerance."""
        signs, marks, _ = self._marks()
        beyond = torch.zeros(values.numel(), dtype=torch.bool)
        for sign, mark in zip(signs, marks, strict=True):
            beyond |= sign * values > mark + float(self.tolerances(torch.tensor(mark)))
        return beyond

    def _take_in(self, ritz: Ritz, found: Tensor) -> None:
        """Lock what was found, by Rayleigh–Ritz on it and what is locked already.

        The locked pairs are exact to their own tolerance only, which beside a value near zero may be far too
        coarse; as long as the new vectors were orthogonal to them, so was what these could be. What they
        push out of the wanted pairs stays locked for the rest of this run: the active columns are
        orthogonal to it, and what they have to do with it is known only as long as it is there.
        """
        F = self.factorization
        norms = torch.cat([self.residual_norms, ritz.deflated_norms[found]])
        rest = torch.ones(ritz.values.numel(), dtype=torch.bool)
        rest[found] = False
        F.restart(torch.cat([ritz.vectors[:, found], ritz.vectors[:, rest]], dim=1))
        F.lock(len(found))
        before = F.T[: F.locked, : F.locked].diagonal()
        G = decoupling(F.T[: F.locked, : F.locked], self.tolerances(before))
        F.turn_locked(G)
        T = F.T[: F.locked, : F.locked]
        self.values = T.diagonal().clone()
        left = torch.linalg.vector_norm(T - T.diagonal().diag(), dim=0)
        self.residual_norms = torch.hypot(norms @ G.abs(), left)
        self._show()
        self._found, self._due, self.confirmed = True, 0, False
        _, marks, nexts = self._marks()
        return None if self._is_open(nexts) else self._rest_on_first(marks)

    def _is_open(self, nexts: list[float]) -> bool:
        """Whether a missed eigenvalue would change what was found: a copy, or any if the start was given."""
        return not self._drawn or any(math.isfinite(far) for far in nexts)

    def _surely_complete(self, ritz: Ritz) -> bool:
        """Whether a missed eigenvalue would have shown, but for the probability allowed for."""
        F, task = self.factorization, self.task
        assert task.miss_probability is not None
        _, marks, nexts = self._marks()
        ends = self._seen(ritz.values, ritz.deflated_norms, self._uncut or F.num_steps)
        concerned = [trio for trio in zip(ends, marks, nexts, strict=True) if math.isfinite(trio[2])]
        if not self._drawn and not self._ends_shown(ends, marks):
            return False
        self.elsewhere = self._bounded(ends)
        if not concerned:  # no start was random but this one: it says how far beyond the marks it would see
            self.miss_probability = task.miss_probability
            self.miss_resolution = resolution_of(ends, marks, task.miss_probability, scale=4 * F.norm)
            return True
        self.miss_probability = miss_bound([e for e, _, _ in concerned], [far for _, _, far in concerned])
        self.miss_resolution = min(far - mark for _, mark, far in concerned)
        # Below the floor a residual is rounding, and more products bring no more certainty.
        rounding = task.floor * F.norm
        return self.miss_probability <= task.miss_probability or all(
            e.residual_norm <= rounding for e, _, _ in concerned
        )

    def _bounded(self, ends: list[End]) -> Tensor:
        """The interval (1, 2) that holds all that this start might have shown, but for the probability."""
        assert self.task.miss_probability is not None
        interval = [-math.inf, math.inf]
        for sign, end in zip(_signs(self.task.which, self.task.k), ends, strict=True):
            allowed = self.task.miss_probability / len(ends)
            beyond = resolution_of([end], [end.value], allowed, scale=4 * self.factorization.norm)
            interval[1 if sign > 0 else 0] = sign * (end.value + beyond)
        return torch.tensor([interval], dtype=torch.float64)

    def _ends_shown(self, ends: list[End], marks: list[float]) -> bool:
        """Whether this start has shown what there is: its outermost pair converged, or surely far inside."""
        tolerances = self.tolerances(torch.tensor([end.value for end in ends], dtype=torch.float64)).tolist()
        allowed = (self.task.miss_probability or 0.0) / len(ends)
        return all(
            end.residual_norm <= tolerance or end.probability(mark) <= allowed
            for end, mark, tolerance in zip(ends, marks, tolerances, strict=True)
        )

    def _marks(self) -> tuple[list[int], list[float], list[float]]:
        """The ends that a missed eigenvalue may lie at: sign, last wanted value, next distinct one beyond it.

        At an end with the sign −1, values are negated. A missed copy of the last wanted value changes
        nothing, nor does one of a value that equals it within the tolerances; one of the next beyond does.
        """
        values = self.values[self.ends.wanted(self.values)]
        _, lowest = self._counts(values)
        upper, lower = {
            "LA": (values, values[:0]),
            "SA": (values[:0], -values),
            "BE": (values[lowest:], -values[:lowest]),
            "LM": (values.abs(), values.abs()),
        }[self.task.which]
        signs, marks, nexts = [], [], []
        for sign, group in ((1, upper), (-1, lower)):
            if group.numel():  # the ends are those of _signs
                mark = float(group.min())
                distinct = group[group > mark + 2 * float(self.tolerances(group).max())]
                signs.append(sign)
                marks.append(mark)
                nexts.append(float(distinct.min()) if distinct.numel() else math.inf)
        return signs, marks, nexts

    def _outermost(self, values: Tensor) -> list[int]:
        """The index of the outermost value at each end that matters."""
        signs = _signs(self.task.which, self.task.k)
        return [int((sign * values).argmax()) for sign in signs]

    def _seen(self, values: Tensor, norms: Tensor, steps: int) -> list[End]:
        """What the active Ritz pairs show at each end that matters."""
        F = self.factorization
        ends = []
        for sign, first in zip(_signs(self.task.which, self.task.k), self._outermost(values), strict=True):
            sorted_values = (sign * values).sort(descending=True).values.tolist()
            second = sorted_values[1] if len(sorted_values) > 1 else -math.inf
            lowest = float((sign * torch.cat([values, self._span])).min())
            ends.append(End(F.size - F.locked, sorted_values[0], float(norms[first]), second, lowest, steps))
        return ends

    # A search can be put away and taken up again.

    _NUMBERS = ("values", "residual_norms", "elsewhere", "_values", "_norms", "_span")
    _PLAIN = (
        "miss_probability",
        "miss_resolution",
        "history",
        "num_iter",
        "_drawn",
        "_phase",
        "_due",
        "_strictness",
        "_confirmations",
        "_uncut",
        "_found",
        "confirmed",
    )

    def state(self) -> dict[str, Any]:
        """All that `load` needs to go on bit for bit, but for the generator's state."""
        plain = {name: getattr(self, name) for name in self._PLAIN}
        return {
            **{name: getattr(self, name) for name in self._NUMBERS},
            **plain,
            "history": [list(row) for row in self.history],
            "first": [list(astuple(end)) for end in self._first],
            "factorization": self.factorization.state(),
            "unit": self.products.unit,
            "by_purpose": dict(self.products.by_purpose),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become the search whose `state` this is."""
        self.factorization.load(state["factorization"])
        for name in (*self._NUMBERS, *self._PLAIN):
            setattr(self, name, state[name])
        self._first = [End(*fields) for fields in state["first"]]
        self.products.unit, self.products.by_purpose = state["unit"], dict(state["by_purpose"])


def _signs(which: Which, k: int) -> list[int]:
    """The ends of the spectrum that hold wanted pairs, or might: 1 the upper, −1 the lower."""
    return {"LA": [1], "SA": [-1], "BE": [1, -1] if k > 1 else [1], "LM": [1, -1]}[which]
