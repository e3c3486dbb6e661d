"""The minimisers that the benchmarks compare, each counted, timed and stopped in the same way.

A contender takes a problem and a `Watch`, and returns an `Answer`. What it claims is not believed: `judged`
looks at the value and the gradient where it ended.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from benchmarks.contest import Absent
from benchmarks.problems import Minimisation
from hvplib import scipy_objective
from hvplib.optim import minimize
from hvplib.optim.methods import NAMES

__all__ = ["CONTENDERS", "MAX_ITER", "Answer", "Contender", "Outcome", "Watch", "run", "value_and_gradient"]

MAX_ITER = 2000
# Methods that form the Hessian are left out above this many unknowns.
_DENSE = 600


class OutOfTime(Exception):
    """A contender has had the time that it is given."""


@dataclass
class Watch:
    """The clock, and the best point that was evaluated: what remains of a contender that has to be stopped.

    Attributes:
        seconds: The time that a contender has.
        points: Evaluations so far, each of value and gradient.
        products: Products with the Hessian so far.
        x: The point with the lowest value so far (n,).
        value: The value there.
    """

    grace: ClassVar[float] = 5.0  # seconds beyond the limit for a contender that does not look at the clock

    seconds: float
    points: int = 0
    products: int = 0
    x: Tensor | None = None
    value: float = math.inf

    def __post_init__(self) -> None:
        self._begun = time.process_time()

    @property
    def elapsed(self) -> float:
        """Seconds of the processor since the contender was started."""
        return time.process_time() - self._begun

    def check(self) -> None:
        """Raise `OutOfTime` if there is no more time."""
        if self.elapsed > self.seconds:
            raise OutOfTime("time limit")

    def note(self, x: Tensor, value: float) -> None:
        """Keep x if it is the best so far."""
        if value < self.value:
            self.x, self.value = x.detach().clone(), value

    @contextlib.contextmanager
    def alarm(self) -> Iterator[None]:
        """Raise `OutOfTime` in whatever runs on, evaluating nothing, when its time is over."""

        def ring(*_: object) -> None:
            raise OutOfTime("time limit, in a loop without evaluations")

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self.seconds + self.grace)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Answer:
    """Where a contender ended, and whether it claims success."""

    x: Tensor
    success: bool
    message: str


Contender = Callable[[Minimisation, Watch], Answer]


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        value: f where the contender ended.
        gradient: ‖∇f‖∞ there.
        points: Evaluations of value and gradient.
        products: Products with the Hessian.
        seconds: In all.
        success: Whether the contender claims success.
        solved: Whether ‖∇f‖∞ ≤ 1e-6 max(1, |f|) or f ≤ f* + 1e-8 max(1, |f*|).
        message: What it says.
    """

    value: float
    gradient: float
    points: int
    products: int
    seconds: float
    success: bool
    solved: bool
    message: str

    @property
    def cost(self) -> int:
        """Gradients and products: each a few times the work of a value."""
        return self.points + self.products

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if self.solved:
            return "solved" if self.success else f"solved, says: {self.message}"
        return "**false success**" if self.success else f"not solved, says: {self.message}"


def run(contender: Contender, problem: Minimisation, seconds: float) -> Outcome:
    """Let a contender minimise, stop it when its time is over, and judge what came of it.

    Raises:
        Absent: The contender is not installed, or not made for this problem.
    """
    watch = Watch(seconds)
    watch.note(problem.x0, float(problem.func(problem.x0)))
    with warnings.catch_warnings(), watch.alarm():
        warnings.simplefilter("ignore")  # the peers' own
        try:
            answer = contender(problem, watch)
        except (Absent, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever it is, the contender has not solved the problem
            assert watch.x is not None
            words = str(error) if isinstance(error, OutOfTime) else f"{type(error).__name__}: {error}"
            answer = Answer(watch.x, False, words)
    return judged(problem, answer, watch, watch.elapsed)


def judged(problem: Minimisation, answer: Answer, watch: Watch, elapsed: float) -> Outcome:
    """Return the value and the gradient at the answer, and whether they solve the problem."""
    x = answer.x.detach().clone().requires_grad_()
    f = problem.func(x)
    (g,) = torch.autograd.grad(f, x)
    value, gradient = float(f.detach()), float(g.abs().max())
    return Outcome(
        value=value,
        gradient=gradient,
        points=watch.points,
        products=watch.products,
        seconds=elapsed,
        success=answer.success,
        solved=solves(problem, value, gradient),
        message=answer.message.split(";")[0].split("\n")[0][:80],
    )


def solves(problem: Minimisation, value: float, gradient: float) -> bool:
    """Whether ‖∇f‖∞ ≤ 1e-6 max(1, |f|) or f ≤ f* + 1e-8 max(1, |f*|); never, where there is no minimum."""
    if not math.isfinite(value) or problem.minimum == -math.inf:
        return False
    if gradient <= 1e-6 * max(1, abs(value)):
        return True
    return problem.minimum is not None and value <= problem.minimum + 1e-8 * max(1, abs(problem.minimum))


# ----------------------------------------------------------------------------------------------- contenders


def by_hvplib(method: str, problem: Minimisation, watch: Watch) -> Answer:
    """`hvplib.minimize`, with its own tolerances."""
    if method == "trust-exact":
        _only_small(problem)
    result = minimize(
        problem.func, problem.x0, method=method, max_iter=MAX_ITER, time_limit=watch.seconds, gtol=1e-6
    )
    watch.points, watch.products = result.nfev, result.nhev
    return Answer(result.x, bool(result.success), str(result.message))


class Watched:
    """f, ∇f and products for `scipy.optimize`, with the clock looked at before each."""

    def __init__(self, problem: Minimisation, watch: Watch) -> None:
        self._objective, self._watch = scipy_objective(problem.func, problem.x0), watch
        self.x0 = self._objective.x0

    def fun(self, x: np.ndarray) -> float:
        return self._counted(lambda: self._objective.fun(x), x)

    def jac(self, x: np.ndarray) -> np.ndarray:
        return self._counted(lambda: self._objective.jac(x))

    def hessp(self, x: np.ndarray, p: np.ndarray) -> np.ndarray:
        return self._counted(lambda: self._objective.hessp(x, p))

    def _counted(self, call: Callable[[], Any], x: np.ndarray | None = None) -> Any:
        self._watch.check()
        result = call()
        self._watch.points = self._objective.num_points
        self._watch.products = self._objective.num_matvecs
        if x is not None:
            self._watch.note(torch.from_numpy(x), result)
        return result


# Tolerances with which the methods stop about where the verdict looks: SciPy's trust regions compare the
# Euclidean norm of the gradient, Newton-CG the mean of the last step.
_SCIPY: dict[str, dict[str, float]] = {
    "trust-krylov": {"gtol": 1e-6},
    "trust-ncg": {"gtol": 1e-6},
    "Newton-CG": {"xtol": 1e-8},
}


def by_scipy(method: str, problem: Minimisation, watch: Watch) -> Answer:
    """`scipy.optimize.minimize` on the derivatives of this library."""
    f = Watched(problem, watch)
    options = {"maxiter": MAX_ITER, **_SCIPY[method]}
    result = scipy_minimize(f.fun, f.x0, jac=f.jac, hessp=f.hessp, method=method, options=options)
    return Answer(torch.from_numpy(result.x), bool(result.success), str(result.message))


def value_and_gradient(problem: Minimisation, x: np.ndarray) -> tuple[float, np.ndarray]:
    """Return f(x) and ∇f(x) by one pass forward and one backward, and keep nothing for a Hessian."""
    point = torch.tensor(x, requires_grad=True)
    value = problem.func(point)
    (gradient,) = torch.autograd.grad(value, point)
    return float(value.detach()), gradient.numpy()


def by_lbfgs(problem: Minimisation, watch: Watch) -> Answer:
    """SciPy's L-BFGS-B on gradients alone."""

    def watched(x: np.ndarray) -> tuple[float, np.ndarray]:
        watch.check()
        watch.points += 1
        value, gradient = value_and_gradient(problem, x)
        watch.note(torch.from_numpy(x), value)
        return value, gradient

    # The largest entry of the gradient ends it; the other limits are not to be met.
    options = {"maxiter": MAX_ITER, "gtol": 1e-6, "ftol": 1e-16, "maxfun": 100_000}
    result = scipy_minimize(watched, problem.x0.numpy(), jac=True, method="L-BFGS-B", options=options)
    return Answer(torch.from_numpy(result.x), bool(result.success), str(result.message))


class CountedHessian:
    """pytorch-minimize's operator, with its products counted."""

    def __init__(self, operator: Any, watch: Watch) -> None:
        self._operator, self._watch = operator, watch

    def mv(self, vector: Tensor) -> Tensor:
        self._watch.check()
        self._watch.products += 1
        return self._operator.mv(vector)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._operator, name)


def by_torchmin(method: str, problem: Minimisation, watch: Watch) -> Answer:
    """pytorch-minimize, which differentiates by itself."""
    try:
        import torchmin.function
    except ModuleNotFoundError as error:
        raise Absent("not installed: pip install pytorch-minimize") from error
    if method in ("newton-exact", "trust-exact"):
        _only_small(problem)
    make = torchmin.function.jacobian_linear_operator

    def func(x: Tensor) -> Tensor:
        watch.check()
        watch.points += 1
        value = problem.func(x)
        watch.note(x, float(value.detach()))
        return value

    tolerance = {"xtol": 1e-8} if method.startswith("newton") else {"gtol": 1e-6}
    torchmin.function.jacobian_linear_operator = lambda *a, **k: CountedHessian(make(*a, **k), watch)
    try:
        result = torchmin.minimize(func, problem.x0, method, max_iter=MAX_ITER, options=tolerance)
    finally:
        torchmin.function.jacobian_linear_operator = make
    if method in ("newton-exact", "trust-exact"):
        watch.products += problem.size * result.nit
    return Answer(result.x, bool(result.success), str(result.message))


def _only_small(problem: Minimisation) -> None:
    if problem.size > _DENSE:
        raise Absent(f"dense: only to n = {_DENSE}")


CONTENDERS: dict[str, Contender] = {
    **{f"**hvplib {name}**": partial(by_hvplib, name) for name in NAMES},
    **{f"SciPy {name}": partial(by_scipy, name) for name in _SCIPY},
    "SciPy L-BFGS-B": by_lbfgs,
    **{
        f"pytorch-minimize {name}": partial(by_torchmin, name)
        for name in ("trust-ncg", "trust-krylov", "trust-exact", "newton-cg", "newton-exact", "l-bfgs")
    },
}
