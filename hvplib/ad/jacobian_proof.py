"""Proof of the products with a Jacobian before they are used: each check sees errors that others miss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hvplib.ad.differences import Evaluate, compare_value, ladder
from hvplib.ad.linearization import DOUBLE_BACKWARD, FORWARD, Linearization, first_line, pushed_forward
from hvplib.ad.objective import Objective
from hvplib.ad.report import Attempt, Check
from hvplib.ad.select import is_missing_derivative, refuse_cut_off
from hvplib.ad.strategies import Outcome
from hvplib.ad.vectors import dot, entry_size, moved, norm
from hvplib.ad.verify import agreement, probes, repeatability, symmetry
from hvplib.errors import DerivativeError

__all__ = ["prove"]

_NAME = "difference of values"
# Standard deviations of the noise that a difference quotient may be off by.
_TRUST = 10.0
# Relative error that a difference quotient may have beside noise.
_TOLERANCE = 1e-3


def prove(linearization: Linearization, objective: Objective, primals: Sequence[Tensor]) -> None:
    """Make sure of both products of a linearisation, or raise DerivativeError.

    For random u and v: ⟨u, J v⟩ = ⟨Jᵀu, v⟩; each product comes out the same twice; J v by double backward
    agrees with forward mode; and a difference of ⟨u, r⟩ along v does not contradict ⟨Jᵀu, v⟩. Where J v by
    double backward does not stand and forward mode does, the linearisation is switched to forward mode.
    """
    proof = _Proof(linearization, objective, primals)
    if not linearization.facts.reached:
        proof.refuse_cut_off()
    linearization.checks[:] = proof.run()


class _Proof:
    def __init__(self, linearization: Linearization, objective: Objective, primals: Sequence[Tensor]) -> None:
        self.linearization = linearization
        self.objective = objective
        self.primals = [x.detach() for x in primals]
        (self.v,) = probes(primals, 1)
        ((self.u,),) = probes([linearization.value], 1, seed=1)
        self.precision = objective.precision(self.primals)
        # A product that should be zero may come out as this much for each unit of a direction.
        size = norm([linearization.value]) / entry_size(primals)
        self.noise = 100 * torch.finfo(self.precision).eps * size
        # ⟨u, r⟩, whose gradient is Jᵀu.
        self.projection = objective.then(self._projected)

    def _projected(self, output: object) -> Tensor:
        return self.linearization.space.flatten(output) @ self.u

    def refuse_cut_off(self) -> None:
        """Raise if r changes with x though its graph does not say so."""
        value = self.linearization.value @ self.u
        with self.objective.session():
            refuse_cut_off(self.projection, self.primals, self.v, Outcome(value, [], []))

    def run(self) -> list[Check]:
        """The checks that speak for the way in use."""
        lin = self.linearization
        pulled = lin.vjp(self.u)
        difference = self._difference(pulled)
        common = [repeatability(pulled, lin.vjp(self.u), self.precision, self.noise), difference]
        forward = self._forward()
        own = None
        if lin.strategy != FORWARD:
            own = self._double_backward(pulled, forward, difference)
        if own is None:
            lin.strategy = FORWARD
            if not isinstance(forward, Tensor):
                raise self._refusal(common, forward) from forward
            own = [self._adjoint(forward, pulled)]
        if any(check.passed is False for check in (*common, *own)):
            raise self._refusal([*common, *own])
        return [*common, *own]

    def _double_backward(
        self, pulled: list[Tensor], forward: Tensor | Exception, difference: Check
    ) -> list[Check] | None:
        """What speaks for J v by double backward, None if it cannot be trusted."""
        lin = self.linearization
        pushed = lin.jvp(self.v)
        if lin.strategy == FORWARD:  # there turned out to be no other way
            return None
        again = lin.jvp(self.v)
        checks = [
            self._adjoint(pushed, pulled),
            repeatability([pushed], [again], self.precision, self.noise * norm(self.v)),
        ]
        if isinstance(forward, Tensor):
            names = f"{DOUBLE_BACKWARD} against {FORWARD}"
            both = agreement([pushed], [forward], names, self.precision, self.noise * norm(self.v))
            # A difference that agrees with the one decides between the two.
            outvoted = both.passed is False and difference.passed
            checks.append(replace(both, passed=None, detail="the difference decides") if outvoted else both)
        else:
            lin.attempts.append(Attempt(FORWARD, first_line(forward)))
        # Without a second way it rests on the formula of a custom backward: that needs the difference.
        unconfirmed = not isinstance(forward, Tensor) and lin.facts.custom and not difference.passed
        if unconfirmed or any(check.passed is False for check in checks):
            lin.attempts.append(Attempt(DOUBLE_BACKWARD, "; ".join(map(str, checks))))
            return None
        return checks

    def _adjoint(self, pushed: Tensor, pulled: list[Tensor]) -> Check:
        """⟨u, J v⟩ = ⟨Jᵀu, v⟩."""
        check = symmetry(self.v, [pushed], [self.u], pulled, self.precision, self.noise)
        return replace(check, name="adjoint")

    def _difference(self, pulled: list[Tensor]) -> Check:
        try:
            with self.objective.session():
                evaluate = self.projection.frozen(self.primals)
                check = compare_value(evaluate, self.primals, self.v, pulled, self.precision)
                if check.passed is False and self._rough(evaluate, dot(pulled, self.v)):
                    check = replace(check, passed=None, detail="func is rough here")
            return replace(check, name=_NAME)
        except IndexError:
            return Check(_NAME, math.inf, 0.0, None, "func takes another path nearby")
        finally:
            self.projection.stops.forget()

    def _rough(self, evaluate: Evaluate, expected: float) -> bool:
        """Whether no difference quotient can speak against `expected`, for a kink or for rounding in func.

        Of seven values along v at each step h: their fourth differences tell how far they are from smooth, as
        noise σ, and a sixth-order quotient is believed to within 10 σ / h.

        Source: of the noise from a table of differences, J. J. Moré, S. M. Wild 2011, 10.1137/100786125.
        """
        scale = max(abs(expected), norm([self.u]) * norm(self.v) * torch.finfo(self.precision).tiny)
        contradictions = 0
        for step in ladder(self.primals, self.v, self.precision):
            at = torch.tensor(
                [float(evaluate(moved(self.primals, self.v, k * step)).detach()) for k in range(-3, 4)],
                dtype=torch.float64,
            )
            if bool((at == at[0]).all()):
                continue  # the steps of rounding are wider than this one
            quotient = float(at @ at.new_tensor([-1, 9, -45, 0, 45, -9, 1])) / (60 * step)
            # (4!)² / 8! makes of the mean square of fourth differences the variance of the noise.
            noise = math.sqrt(float(at.diff(n=4).square().mean()) / 70)
            allowed = _TRUST * noise / step + _TOLERANCE * scale
            contradictions += not abs(quotient - expected) <= allowed
        return contradictions < 2

    def _forward(self) -> Tensor | Exception:
        """J v by dual numbers, the second of two calls; the exception where torch has no formula."""
        space = self.linearization.space
        try:
            pushed_forward(self.objective, self.primals, self.v, space)
            return pushed_forward(self.objective, self.primals, self.v, space)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            if not is_missing_derivative(error):
                raise
            return error

    def _refusal(self, checks: list[Check], error: Exception | None = None) -> DerivativeError:
        lines = [*map(str, self.linearization.attempts), *map(str, checks)]
        if error is not None:
            lines.append(f"{FORWARD}: {first_line(error)}")
        text = "\n  ".join(dict.fromkeys(lines))
        return DerivativeError(
            f"no way of multiplying with the Jacobian of func stands up to the checks:\n  {text}\n"
            "func may treat part of its argument as a constant, or use an operation whose derivative is wrong"
        )
