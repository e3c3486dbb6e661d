"""`NewtonCG`: Hessian-free optimisation with the manners of `torch.optim`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hvplib.ad.guard import interrupts_between_derivatives
from hvplib.optim.before_step import BeforeStep
from hvplib.optim.closure_curvature import GGN, HESSIAN
from hvplib.optim.damping_rule import FIRST, factor
from hvplib.optim.newton_step import Attempt, Diagonal, Settings, StepReport, Weights
from hvplib.results.status import Status
from hvplib.space import Space

__all__ = ["NewtonCG"]

# Of the options of a group, those that all groups must have alike.
_SHARED = (
    "curvature",
    "adapt_damping",
    "min_damping",
    "max_cg_iter",
    "cg_rtol",
    "warm_start",
    "line_search",
    "verify",
)
_OWN = ("lr", "damping", "weight_decay")
_COUNTS = ("num_steps", "num_rejected", "num_evaluations", "num_matvecs")


class NewtonCG(torch.optim.Optimizer):
    """θ ← θ + lr s with (B + λ I) s = −∇f(θ), solved by conjugate gradients through products with B.

    B is the generalised Gauss-Newton matrix of the batch or its Hessian, and f(θ) = loss(θ) + ½ decay ‖θ‖².
    Give it large batches: it finds out more from one than a gradient step does.

    A step calls the closure twice (more with a line search), makes at most `max_cg_iter` + 3 products, and

    * starts the conjugate gradients from `warm_start` times the last s, where that lowers the model, and ends
      them at ‖(B + λ I) s + ∇f‖ ≤ cg_rtol ‖∇f‖ or after `max_cg_iter` steps;
    * is not made if f would rise or be no number: the parameters then stay as they are, bit for bit;
    * adapts λ by ρ, the decrease of f beside the one that the quadratic model foretold: 3/2 λ for ρ < 1/4,
      2/3 λ for ρ > 3/4, 4 λ after a step that was not made.

    The first step proves the products first: symmetry, a second call, and differences. All calls of the
    closure in a step see the same random numbers and the same buffers; at its end generators and running
    statistics are as after one call. `.grad` is not used and not changed. After an exception, Ctrl-C among
    them, everything is as before the step.

    Args:
        params: Parameters or parameter groups, on one device. A group may have its own `lr`, `damping` and
            `weight_decay`; the rest holds for all.
        lr: Share of s that is added.
        curvature: "ggn", for which the closure returns (loss, outputs), or "hessian". The first is positive
            semidefinite for convex losses; where the second is not, the step follows directions of negative
            curvature.
        damping: λ at first; `param_groups[i]["damping"]` holds the present one. The λ of several groups are
            multiplied by the same factor.
        adapt_damping: Whether λ is adapted.
        min_damping: The least λ that it is adapted to; for noisy small batches.
        max_cg_iter: Most steps of the conjugate gradients.
        cg_rtol: Their tolerance.
        warm_start: Share of the last s that they start from; 0 for a start from zero.
        line_search: Whether to halve a step that lowers f by less than 1e-4 of its slope, up to ten times.
        weight_decay: Of the L2 penalty, which takes part exactly: in f, its gradient and B.
        verify: Whether the first step proves the products, at the cost of about ten calls of the closure.
        maximize: Not supported.

    Attributes:
        last_step: A `StepReport` of the last step; None before the first.

    Raises:
        TypeError, ValueError: An argument is not as described.

    References:
        J. Martens (2010), Deep learning via Hessian-free optimization, ICML; J. J. Moré (1978), The
        Levenberg-Marquardt algorithm, doi:10.1007/BFb0067700; N. N. Schraudolph (2002), Fast curvature
        matrix-vector products for second-order gradient descent, doi:10.1162/08997660260028683.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False).double()
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
        >>> y = torch.tensor([[3.0], [7.0]], dtype=torch.float64)
        >>> optimizer = NewtonCG(model.parameters(), damping=0.0, cg_rtol=1e-12)
        >>> def closure():
        ...     output = model(x)
        ...     return torch.nn.functional.mse_loss(output, y), output
        >>> loss = optimizer.step(closure)  # the loss before the step; a quadratic function needs only one
        >>> [round(w, 6) for w in model.weight.flatten().tolist()]
        [1.0, 1.0]
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        *,
        curvature: str = GGN,
        damping: float = 0.1,
        adapt_damping: bool = True,
        min_damping: float = 0.0,
        max_cg_iter: int = 20,
        cg_rtol: float = 0.1,
        warm_start: float = 0.95,
        line_search: bool = False,
        weight_decay: float = 0.0,
        verify: bool = True,
        maximize: bool = False,
    ) -> None:
        if maximize:
            raise ValueError("NewtonCG minimises only, got maximize=True; return -loss from the closure")
        defaults = {
            "lr": lr,
            "damping": damping,
            "weight_decay": weight_decay,
            "curvature": curvature,
            "adapt_damping": adapt_damping,
            "min_damping": min_damping,
            "max_cg_iter": max_cg_iter,
            "cg_rtol": cg_rtol,
            "warm_start": warm_start,
            "line_search": line_search,
            "verify": verify,
        }
        self._proven = False
        self.last_step: StepReport | None = None
        super().__init__(params, defaults)

    @property
    def counts(self) -> dict[str, int]:
        """What was spent so far: num_steps, num_rejected, num_evaluations (calls) and num_matvecs (products).

        Each step also takes one gradient, out of its first call. The checks of the first step do not count.
        """
        kept = self.state.get(self._first, {})
        return {name: kept.get(name, 0) for name in _COUNTS}

    @property
    def _first(self) -> Tensor:
        """The parameter whose state holds what is not of one parameter, as in `torch.optim.LBFGS`."""
        first: Tensor = next(p for group in self.param_groups for p in group["params"])
        return first

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; see `torch.optim.Optimizer.add_param_group`."""
        options = {**self.defaults, **param_group}
        _check_options(options)
        if self.param_groups:
            for name in _SHARED:
                if options[name] != self.param_groups[0][name]:
                    raise ValueError(
                        f"{name} holds for all groups of NewtonCG alike, {self.param_groups[0][name]!r}, got "
                        f"{options[name]!r} for one; leave it out of the group"
                    )
        super().add_param_group(param_group)
        try:
            _check_params([p for group in self.param_groups for p in group["params"]])
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._proven = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state that `state_dict` gave: the next step is the same, bit for bit.

        The options of the groups are taken up too, as by all optimizers of torch.
        """
        for group in state_dict.get("param_groups", []):
            if missing := [name for name in (*_OWN, *_SHARED) if name not in group]:
                raise ValueError(
                    f"state_dict must be that of a NewtonCG, but a group lacks {', '.join(missing)}; give "
                    "what its state_dict() returned"
                )
            _check_options(group)
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # torch keeps defaults, state and groups only when it copies or pickles an optimizer.
        self.__dict__.setdefault("_proven", False)
        self.__dict__.setdefault("last_step", None)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self,
        closure: Callable[[], Any] | None = None,
        curvature_closure: Callable[[], Any] | None = None,
    ) -> Tensor:
        """Make one step.

        Args:
            closure: Returns (loss, outputs): the loss, 0-d, and the tensor, or pytree of tensors, that it is
                computed from, say the output of the model. The loss must depend on the parameters through
                the outputs alone. For the Hessian a loss alone will do. It must not call `backward()`, and
                must use the same batch at each call: draw it before.
            curvature_closure: The same for another batch, whose curvature is used instead.

        Returns:
            The loss before the step, without graph.

        Raises:
            DerivativeError: The products do not stand up to the checks.
            TypeError, ValueError, RuntimeError: The closure does not do as described.
        """
        if not callable(closure):
            raise TypeError(
                f"step needs a closure that returns the loss, got {closure!r}; write step(closure), where "
                "closure() returns (loss, outputs) and does not call backward()"
            )
        params = [p for group in self.param_groups for p in group["params"] if p.requires_grad]
        _check_params(params)
        if not params:
            raise ValueError("no parameter requires grad; set requires_grad_(True) on those to be trained")
        # A step is made whole or not at all: nothing that puts things away, or back, can be interrupted.
        with interrupts_between_derivatives():
            return self._whole_step(params, closure, curvature_closure)

    def _whole_step(
        self,
        params: Sequence[Tensor],
        closure: Callable[[], Any],
        curvature_closure: Callable[[], Any] | None,
    ) -> Tensor:
        before = BeforeStep(params)
        space = Space.of([p.detach() for p in params])
        attempt = Attempt(
            params,
            space,
            before,
            closure,
            curvature_closure,
            weights=self._weights(space),
            settings=self._settings(),
        )
        verify = self.param_groups[0]["verify"] and not self._proven
        try:
            report = attempt.run(self._warm_start(params, space), verify=verify)
            attempt.settle()
            self._keep(params, space, attempt.solution, report)
        except BaseException:
            before.restore()
            raise
        return attempt.loss

    def _settings(self) -> Settings:
        group = self.param_groups[0]
        return Settings(group["curvature"], group["max_cg_iter"], group["cg_rtol"], group["line_search"])

    def _weights(self, space: Space) -> Weights:
        return Weights(**{name: self._diagonal(name, space) for name in _OWN})

    def _diagonal(self, name: str, space: Space) -> Diagonal:
        """An option as a number if all groups agree, and as a diagonal (n, 1) if not."""
        values = [
            (float(group[name]), sum(p.numel() for p in group["params"] if p.requires_grad))
            for group in self.param_groups
        ]
        if len({value for value, _ in values}) == 1:
            return values[0][0]
        parts = [torch.full((count,), value, dtype=space.dtype) for value, count in values]
        return torch.cat(parts).to(space.device).unsqueeze(1)

    def _warm_start(self, params: Sequence[Tensor], space: Space) -> Tensor | None:
        """Where the conjugate gradients start (n, 1); None for zero."""
        share = self.param_groups[0]["warm_start"]
        kept = [self.state[p].get("solution") if p in self.state else None for p in params]
        if share == 0 or all(part is None for part in kept):
            return None
        parts = [torch.zeros_like(p) if x is None else x for x, p in zip(kept, params, strict=True)]
        start: Tensor = space.flatten(parts).unsqueeze(1) * share
        return start

    def _keep(
        self, params: Sequence[Tensor], space: Space, solution: Tensor | None, report: StepReport
    ) -> None:
        """Put away what the next step needs; all of it is in `state` and `param_groups`."""
        for p in params:
            self.state[p].pop("solution", None)
        if solution is not None:
            for p, part in zip(params, space.unflatten(solution[:, 0]), strict=True):
                self.state[p]["solution"] = part.clone()
        rejected = int(report.step_norm > 0 and not report.accepted)
        spent = (1, rejected, report.num_evaluations, report.num_matvecs)
        counts = self.counts
        for name, count in zip(_COUNTS, spent, strict=True):
            self.state[self._first][name] = counts[name] + count
        if self.param_groups[0]["adapt_damping"]:
            self._adapt(report)
        self.last_step = report
        self._proven = self._proven or report.cg_status is not Status.NON_FINITE

    def _adapt(self, report: StepReport) -> None:
        change = factor(report.ratio, report.accepted)
        largest = max(group["damping"] for group in self.param_groups)
        for group in self.param_groups:
            damping = group["damping"] * change
            if largest == 0 and change > 1:
                damping = FIRST * (abs(report.curvature) or 1.0)
            group["damping"] = max(damping, group["min_damping"])


def _check_params(params: Sequence[Tensor]) -> None:
    for p in params:
        if not p.dtype.is_floating_point:
            raise TypeError(f"parameters must be real floating point tensors, got {p.dtype}")
        if torch.nn.parameter.is_lazy(p):
            raise ValueError("a parameter is not initialised yet; run the model once on a batch first")
    if len(devices := {str(p.device) for p in params}) > 1:
        raise ValueError(
            f"the parameters must lie on one device, got {', '.join(sorted(devices))}; move the model to one"
        )


def _check_options(options: dict[str, Any]) -> None:
    """Raise ValueError unless the options of a group are as described in `NewtonCG`."""
    if options.get("maximize"):
        raise ValueError("NewtonCG minimises only, got maximize=True; return -loss from the closure")
    if options["curvature"] not in (GGN, HESSIAN):
        raise ValueError(f'curvature must be "ggn" or "hessian", got {options["curvature"]!r}')
    if not (math.isfinite(options["lr"]) and options["lr"] > 0):
        raise ValueError(f"lr must be positive, got {options['lr']!r}")
    for name in ("damping", "weight_decay", "min_damping", "cg_rtol"):
        if not (math.isfinite(options[name]) and options[name] >= 0):
            raise ValueError(f"{name} must be a number of at least 0, got {options[name]!r}")
    if not 0 <= options["warm_start"] <= 1:
        raise ValueError(f"warm_start must be in [0, 1], got {options['warm_start']!r}")
    if not (isinstance(options["max_cg_iter"], int) and options["max_cg_iter"] >= 1):
        raise ValueError(f"max_cg_iter must be an integer of at least 1, got {options['max_cg_iter']!r}")
