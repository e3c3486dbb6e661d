"""The quadratic model in a ball and a box: conjugate gradients on free variables, projected searches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hvplib.krylov.cg import cg
from hvplib.krylov.outcome import LinearOutcome
from hvplib.optim.box import Box
from hvplib.optim.ending import Ended, Ending
from hvplib.optim.evaluation import Point
from hvplib.optim.steihaug import SteihaugStep
from hvplib.results.status import Status

__all__ = ["BoundedSteihaug"]

Block = Callable[[Tensor], Tensor]

# Share of what the slope promises that a projected step has to lower the model by.
_SUFFICIENT = 0.01
# Products of a search for the Cauchy point, at most.
_TRIALS = 8
# Faces of the box on which the model is minimised, at most, for one step.
_FACES = 10


@dataclass(frozen=True)
class _Inside:
    """A step that stays in the box.

    Attributes:
        s: (n, 1).
        Hs: ∇²f s.
        value: ∇fᵀs + ½ sᵀ∇²f s.
    """

    s: Tensor
    Hs: Tensor
    value: float


class BoundedSteihaug:
    """s ≈ argmin ∇fᵀs + ½ sᵀ∇²f s in ‖s‖_M ≤ Δ with x + s in the box.

    Conjugate gradients minimise the model over the free variables, those that −∇f does not push against
    their bounds. If the minimiser lies in the box, it is the step, and each product is as in the
    unconstrained case. Otherwise it is projected onto the box along a search that lowers the model, held
    against the Cauchy point of the projected gradient, and the model is minimised again over the variables
    that are still between their bounds, until its gradient there is at most rtol of the first one.

    Args:
        point: Of the model.
        box: Holds the point.
        rtol: Relative tolerance on the model's gradient over the free variables.
        max_iter: Most products of conjugate gradients on one face.
        precondition: P = M⁻¹, of which the block of the free variables is used.

    Source: C.-J. Lin, J. J. Moré 1999, 10.1137/S1052623498345075.
    """

    def __init__(
        self, point: Point, box: Box, rtol: float, *, max_iter: int, precondition: Block | None
    ) -> None:
        self._point, self._box, self._rtol, self._max_iter = point, box, rtol, max_iter
        self._precondition = precondition
        self._free = box.free(point.x, point.gradient).to(point.x.dtype).unsqueeze(1)

    def leave(self) -> None:
        """Nothing of it serves elsewhere."""

    def ball(self, radius: float) -> SteihaugStep:
        """The step for a radius.

        Raises:
            Ended: A product was not finite, before any step was made.
        """
        downhill = -self._free * self._point.gradient
        newton = self._minimised(downhill, self._free, float(downhill.norm()), radius)
        if newton.statuses[0] is Status.NON_FINITE and not _gain(newton) > 0:
            raise Ended(Ending.NON_FINITE)
        reached = newton.statuses[0] is Status.BOUNDARY
        if bool((self._box.step(self._point.x, newton.x) == newton.x).all()):
            return SteihaugStep(newton.x, _gain(newton), _length(newton), reached)
        # ‖s‖_M of a projected step is not known without M: the step before tells about it.
        euclidean = float(newton.x.norm())
        unit = _length(newton) / euclidean if euclidean > 0 else 1.0
        step = self._projected(newton.x, self._origin())
        cauchy = self._cauchy(downhill, radius / unit)
        step = min(step, cauchy, key=lambda found: found.value)
        step, reached = self._on_faces(step, float(downhill.norm()), radius, reached)
        # Each face may have added Δ: a step that fails must be followed by a shorter one all the same.
        length = min(unit * float(step.s.norm()), radius)
        return SteihaugStep(step.s, -step.value, length, reached)

    def _origin(self) -> _Inside:
        zero = torch.zeros_like(self._point.gradient)
        return _Inside(zero, zero, 0.0)

    def _minimised(self, rhs: Tensor, face: Tensor, first: float, radius: float) -> LinearOutcome:
        """Conjugate gradients for the model over the variables of a face, from what `rhs` belongs to."""
        precondition = self._precondition
        return cg(
            lambda V: face * self._point.hvp(face * V),
            rhs,
            precondition=None if precondition is None else lambda R: face * precondition(face * R),
            rtol=0.0,
            atol=self._rtol * first,
            max_iter=self._max_iter,
            radius=radius,
        )

    def _on_faces(self, step: _Inside, first: float, radius: float, reached: bool) -> tuple[_Inside, bool]:
        """Go on from a step on the bounds: minimise over what is between bounds, again and again."""
        for _ in range(_FACES):
            between = self._box.interior(self._box.moved(self._point.x, step.s)).unsqueeze(1)
            face = self._free * between
            residual = -face * (self._point.gradient + step.Hs)
            if not float(residual.norm()) > self._rtol * first:
                return step, reached
            further = self._minimised(residual, face, first, radius)
            whole = step.s + further.x
            if bool((self._box.step(self._point.x, whole) == whole).all()):
                # What the recurrence says of the model will do: no product is needed to know the end.
                value = step.value - _gain(further)
                return _Inside(whole, step.Hs, value), further.statuses[0] is Status.BOUNDARY
            found = self._projected(further.x, step)
            if not found.value < step.value:
                return step, reached
            step, reached = found, further.statuses[0] is Status.BOUNDARY
        return step, reached

    def _projected(self, w: Tensor, start: _Inside) -> _Inside:
        """A point of t ↦ P(x + s + t w), 0 < t ≤ 1, with the model lower in proportion to its slope."""
        within = self._room(w, start)
        halves = [t for t in (1.0, 0.5, 0.25, 0.125) if t > within]
        # To the first bound the model is known to fall.
        for t in (*halves, within):
            found = self._at(self._box.step(self._point.x, start.s + t * w))
            slope = self._slope(start, found)
            if found.value - start.value <= _SUFFICIENT * min(slope, 0.0) and found.value < start.value:
                return found
        return start

    def _room(self, w: Tensor, start: _Inside) -> float:
        """The largest t ≤ 1 for which x + s + t w is in the box: along it the model is known to fall."""
        x = self._point.x.unsqueeze(1) + start.s
        bound = torch.where(w > 0, self._box.upper.unsqueeze(1), self._box.lower.unsqueeze(1))
        ratios = torch.where(w != 0, (bound - x) / w, torch.inf)
        return float(ratios.min().clamp(0.0, 1.0))

    def _cauchy(self, downhill: Tensor, radius: float) -> _Inside:
        """A point of t ↦ P(x − t ∇f) in the ball with the model lower in proportion to its slope."""
        origin = self._origin()
        t = radius / float(downhill.norm())
        for _ in range(_TRIALS):
            found = self._at(self._box.step(self._point.x, t * downhill))
            slope = self._slope(origin, found)
            if found.value <= 0.1 * slope < 0:
                return found
            curvature = 2 * (found.value - slope)
            best = -slope / curvature if curvature > 0 else 0.5
            t *= min(max(best, 0.01), 0.5)
        return origin

    def _slope(self, start: _Inside, found: _Inside) -> float:
        """The model's gradient at `start`, times the way to `found`."""
        return float(((self._point.gradient + start.Hs) * (found.s - start.s)).sum())

    def _at(self, s: Tensor) -> _Inside:
        """The model at a step: one product."""
        Hs = self._point.hvp(s)
        value = float(((self._point.gradient + Hs / 2) * s).sum())
        return _Inside(s, Hs, value if math.isfinite(value) else math.inf)


def _gain(outcome: LinearOutcome) -> float:
    assert outcome.decrease is not None
    return float(outcome.decrease)


def _length(outcome: LinearOutcome) -> float:
    assert outcome.lengths is not None
    return float(outcome.lengths)
