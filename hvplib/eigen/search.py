"""The search for k eigenpairs: thick-restart Lanczos, and a second start for what the first has missed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hvplib.eigen.certainty import are_shown, by_first_start, by_second_start, of_whole_space
from hvplib.eigen.neighbours import Neighbours, next_to
from hvplib.eigen.search_state import SearchState
from hvplib.eigen.start import Start
from hvplib.eigen.task import Mark
from hvplib.krylov.ritz import Ritz
from hvplib.results.status import Status

__all__ = ["Search"]

# Above this, relative to ‖A‖, the products contradict symmetry beyond doubt, and no iteration will help.
_ASYMMETRY = 1e-2
# The estimates of the residuals and the recomputed ones agree to rounding; where they do not, the products
# are noisy, and a few more steps show whether the tolerance can be reached all the same.
_CONFIRMATIONS = 3
# What the second start finds is confirmed at the end only, so its estimates keep some distance.
_ESTIMATE = 0.5


class Search(SearchState):
    """One search, a step at a time; between steps it can be left, put away and taken up again.

    It goes through two phases. *Iteration*: Lanczos from the start, restarted when the basis is full, until
    the wanted Ritz pairs have converged, and no other may outgrow them on its way outwards, as one at the
    other end may in magnitude (steps that only wait for that are booked as a search for missed members);
    their residuals are recomputed, and they are locked. *Missed members*: Lanczos from a random vector beside
    them and their neighbours, which shows what they lack; what it finds beyond the last wanted value is taken
    in, and another start is made, until one shows nothing more and surely would.
    """

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
        purpose = "missed members" if self._awaiting else self._phase
        if not F.full and F.width and not F.expand(self.products.made_for(purpose), self.random):
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
        if F.locked:
            self._recompute()
        elif F.active:
            ritz = F.ritz()
            wanted = self.task.wanted(ritz.values)
            self.locked.lock(ritz, wanted, self.locked.examined(ritz, wanted), wanted[:0])
        self._end(status)

    def _finish(self) -> None:
        """All is found: recompute the residuals of what was taken in."""
        worst = self._recompute()
        if worst <= 1:
            return self._end(Status.CONVERGED)
        return self._end(Status.NON_FINITE if math.isnan(worst) else Status.STAGNATED)

    def _recompute(self) -> float:
        """The largest residual of a locked pair, relative to its tolerance, by products made for it."""
        F = self.factorization
        if self._neighbours:  # without them what the active columns are coupled with would not be known
            F.restart(torch.zeros(F.active, 0, dtype=torch.float64))
            self._neighbours = Neighbours.none()
        return self.locked.confirm()

    def _restart(self, ritz: Ritz, highest: int, lowest: int) -> None:
        self._start.restart(ritz, highest, lowest)
        self._due = 0

    # The first phase: iteration.

    def _iterate(self, ritz: Ritz) -> None:
        F, task = self.factorization, self.task
        if F.active < task.k:
            self._due = 1
            return
        wanted = task.wanted(ritz.values)
        every = ritz.residual_norms / self.locked.tolerances(ritz.values)
        ratios, worst = every[wanted], float(every[wanted].max())
        self._values, self._norms = ritz.values[wanted], ritz.residual_norms[wanted]
        self.history.append([self.spent, int((ratios <= 1).sum()), worst])
        rivals = task.rivals(ritz.values, ritz.residual_norms, every <= 1, wanted)
        self._awaiting = worst <= self._strictness and any(rivals)
        if F.width == 0 or (worst <= self._strictness and not any(rivals)):
            self._confirm(ritz, wanted)
        elif F.full:
            highest, lowest = task.counts(ritz.values[wanted])
            self._restart(ritz, highest + rivals[0], lowest + rivals[1])
        else:
            self._due = self._steps_to(worst / self._strictness)

    @staticmethod
    def _steps_to(ratio: float) -> int:
        """Steps until it is worth while to look again at what is so many times as large as it may be.

        The residuals of Lanczos fall by less than a digit a step but at the very end, and so do the bounds on
        the probability that something was missed. Of what is not known there is nothing to expect.
        """
        return 1 + int(math.log10(ratio)) if 1 < ratio < math.inf else 1

    def _confirm(self, ritz: Ritz, wanted: Tensor) -> None:
        """Recompute the residuals, and lock the pairs if they hold."""
        F = self.factorization
        examined = self.locked.examined(ritz, wanted)
        worst = float((examined.residual_norms / self.locked.tolerances(examined.values)).max())
        if not math.isfinite(worst):
            return self._end(Status.NON_FINITE)
        self._confirmations += 1
        if not worst <= 1 and F.width and self._confirmations < _CONFIRMATIONS:
            self._strictness *= 0.5 * max(1 / worst, 1e-3)
            return self._restart(ritz, *self.task.counts(ritz.values[wanted])) if F.full else None
        self._awaiting = False
        self._first = self._start.seen(ritz.values, ritz.residual_norms)
        beside, self._neighbours = self._beside(ritz, wanted, examined.values)
        self.locked.lock(ritz, wanted, examined, beside)
        self._show()
        return self._go_on(worst)

    def _beside(self, ritz: Ritz, wanted: Tensor, values: Tensor) -> tuple[Tensor, Neighbours]:
        """Which Ritz pairs to deflate beside the wanted, in a second start.

        None where there will be no second, or the first may be blind to others, which are then to be found;
        nor in a space that may be exhausted.
        """
        F = self.factorization
        helps = self.task.miss_probability is not None and self._drawn and F.width == 1
        helps = helps and F.size > F.basis.capacity
        marks = self.task.marks(values, F.norm)
        return next_to(ritz.values, ritz.residual_norms, wanted, marks, F.capacity // 3 if helps else 0)

    def _show(self) -> None:
        best = self.locked.wanted()
        self._values, self._norms = self.locked.values[best], self.locked.residual_norms[best]

    def _go_on(self, worst: float) -> None:
        """After the pairs were locked: what is left to do.

        Args:
            worst: Largest of their residuals, relative to the tolerance.
        """
        F, task = self.factorization, self.task
        if not worst <= 1:
            return self._end(Status.NON_FINITE if math.isnan(worst) else Status.STAGNATED)
        if F.locked == F.size:
            return self._complete(self.locked.values[:0])
        marks = self._marks()
        if task.miss_probability is not None and self._is_open(marks):
            return self._renew()
        return self._rest_on_first(marks)

    def _marks(self) -> list[Mark]:
        locked = self.locked
        return self.task.marks(locked.values[locked.wanted()], self.factorization.norm)

    def _is_open(self, marks: list[Mark]) -> bool:
        """Whether a missed eigenvalue would change what was found: a copy, or any if the start was given."""
        return not self._drawn or any(math.isfinite(mark.next) for mark in marks)

    def _rest_on_first(self, marks: list[Mark]) -> None:
        """No missed copy would change anything; that nothing else was missed, the first start says."""
        if self._drawn and self.task.miss_probability is not None:
            self.certainty = by_first_start(self.task, self._first, marks, self.factorization.norm)
        self._finish()

    def _complete(self, others: Tensor) -> None:
        """The basis spans the whole space: these (m,) are all other eigenvalues."""
        self.certainty = of_whole_space(others)
        self._finish()

    # The second phase: missed members.

    def _renew(self) -> None:
        # A single vector: a block would show several copies at once, but takes more products for each.
        self._begin(self.random(1), self._neighbours)
        self._found = False

    def _begin(self, start: Tensor, neighbours: Neighbours) -> None:
        """A start beside the locked pairs, and beside the active columns too if these are the neighbours'."""
        F = self.factorization
        self._phase, self._due, self._neighbours = "missed members", 0, neighbours
        self.locked.sort()
        F.lock(len(neighbours))
        F.renew(start)
        self._start = Start(F, self.task.signs)

    def _check(self, ritz: Ritz) -> None:
        """Look whether the second start has found something beyond the wanted pairs."""
        F = self.factorization
        beyond = self.task.beyond(ritz.values, self._marks(), F.norm)
        if bool(beyond.any()) and self._neighbours:
            return self._look_closer(ritz, beyond)
        # What a vector has in common with the locked pairs is no error: see `Locked.take_in`.
        tolerances = self.locked.tolerances(ritz.values)
        converged = ritz.deflated_norms <= _ESTIMATE * self._strictness * tolerances
        if bool((beyond & converged).any()) or (bool(beyond.any()) and F.width == 0):
            return self._take_in(ritz, (beyond & (converged | (F.width == 0))).nonzero().flatten())
        if not bool(beyond.any()):
            if self._found:  # there may be more copies, which only another start shows
                return self._renew()
            if F.width == 0:
                return self._complete(ritz.values)
            if self._is_surely_complete(ritz):
                return self._finish()
            short_of = self.certainty.miss_probability / (self.task.miss_probability or math.inf)
        else:
            short_of = float((ritz.deflated_norms / tolerances)[beyond].min()) / _ESTIMATE / self._strictness
        if F.full:
            self._restart(ritz, *self._sought(ritz.values, beyond))
        else:
            self._due = self._steps_to(short_of)
        return None

    def _look_closer(self, ritz: Ritz, beyond: Tensor) -> None:
        """Something was missed: go on from it without the neighbours, which have a part in it."""
        start = self.factorization.combine(ritz.vectors[:, beyond]).sum(1, keepdim=True)
        self._begin(start, Neighbours.none())
        self._found = True  # of this start, which was not drawn, no probability is known

    def _take_in(self, ritz: Ritz, found: Tensor) -> None:
        self.locked.take_in(ritz, found)
        self._show()
        self._found, self._due = True, 0
        marks = self._marks()
        return None if self._is_open(marks) else self._rest_on_first(marks)

    def _sought(self, values: Tensor, beyond: Tensor) -> tuple[int, int]:
        """How many Ritz pairs to go on with at the upper and at the lower end: those beyond, and the next.

        Of many, only as many as leave room for steps: the outermost converge first, and others drop out then.
        """
        signs = self.task.signs
        most = max(1, self.factorization.room // (2 * len(signs)))
        upper, lower = (min(1 + int((beyond & (sign * values > 0)).sum()), most) for sign in (1, -1))
        return upper if 1 in signs else 0, lower if -1 in signs else 0

    def _is_surely_complete(self, ritz: Ritz) -> bool:
        """Whether a missed eigenvalue would have shown, but for the probability allowed for."""
        ends, norm = self._start.seen(ritz.values, ritz.deflated_norms), self.factorization.norm
        if not self._drawn and not are_shown(self.task, ends, self._marks(), norm):
            return False
        self.certainty, sure = by_second_start(self.task, ends, self._marks(), self._neighbours, norm)
        return sure
