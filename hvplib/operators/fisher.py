"""The Fisher information of a model's predictive distribution, over data, as an operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hvplib.ad.gauss_newton import GaussNewtonModel
from hvplib.ad.inputs import call
from hvplib.ad.modules import Selection
from hvplib.ad.scores import ScoreModel
from hvplib.operators.batches import Budget, MayKeep, Term
from hvplib.operators.likelihoods import Likelihood, as_likelihood
from hvplib.operators.module_parts import model_outputs
from hvplib.operators.noise import seeded
from hvplib.operators.over_data import DataOperator, DataOptions

__all__ = ["FisherOperator"]

_KINDS = ("exact", "mc", "empirical")
# Told apart from the noise of the model, which is drawn from (seed, index).
_SAMPLES = 1


class FisherOperator(DataOperator):
    """v ↦ F v, F = (1/m) Σ_i E[∇log p(y_i | z) ∇log p(y_i | z)ᵀ]: the Fisher information of the parameters.

    The m terms i are those that the likelihood is a product over: examples, the tokens of a sequence, the
    numbers of a vector. The gradients are by the parameters, through the outputs z of the model. What is
    taken for y_i is the `kind`:

    * "exact": the expectation over the model's own predictive distribution, F = Jᵀ I(z) J with the
      information I(z) of the distribution. It is the Gauss-Newton matrix of the loss where that is the
      negative log-likelihood of an exponential family in its natural parameter (softmax, logit, Poisson's
      log rate), and differs from it elsewhere (a probit link).
    * "mc": the mean over `samples` draws of y from the predictive distribution, drawn once, so that the
      operator is fixed; an unbiased estimate of the exact one, of rank at most m · samples.
    * "empirical": y is what the data say. That is the second moment of the gradients, and *not* the Fisher
      information: it approaches it only where the model is right and the sample large. Close to a good fit
      its gradients vanish, and it with them.

    Args:
        model_func: z(x), or z(x, batch) with data, as for `GGNOperator`.
        likelihood: p(y | z): a loss module of torch.nn that is a negative log-likelihood (`CrossEntropyLoss`,
            `BCEWithLogitsLoss`, `MSELoss` (of variance ½), `PoissonNLLLoss`, `GaussianNLLLoss` with outputs
            (mean, variance)); or a function of (z, batch), of z without data, that returns a
            `torch.distributions.Distribution`, or one and the weights of its terms (0 for padding). The
            terms of a distribution are the entries of its batch shape.
        primals: x.
        data: As for `HessianOperator`.
        kind: "exact", "mc" or "empirical".
        samples: Draws for each term with kind="mc".
        generator: Draws them: a torch generator, which advances by one number, or a seed; `seed` if None.
        targets: From a batch to y; y of (x, y) if None. It is read for kind="empirical", and by
            `CrossEntropyLoss` for the positions to ignore.
        weight: Function of a batch that gives its weight; the number of its terms, or the sum of their
            weights, if None.
        reduction: "mean" as above; "sum" for Σ_i.
        verify, check_deterministic, memory_budget, seed, progress: As for `HessianOperator`.

    Attributes:
        primals, report, notes, num_batches, num_kept, total_weight: As for `HessianOperator`.

    Raises:
        DerivativeError, RuntimeError, TypeError, ValueError: As for `GGNOperator`.

    Source: J. Martens (2020), New insights and perspectives on the natural gradient method,
    https://jmlr.org/papers/v21/17-678.html; F. Kunstner, L. Balles, P. Hennig (2019), Limitations of the
    empirical Fisher approximation for natural gradient descent, https://arxiv.org/abs/1905.12558.

    Example:
        >>> import torch
        >>> from torch.distributions import Bernoulli
        >>> a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> def probit(z):
        ...     return Bernoulli(probs=torch.special.ndtr(z))
        >>> x = torch.zeros(2, dtype=torch.float64)
        >>> F = FisherOperator(lambda x: a @ x, probit, x, reduction="sum")
        >>> (F.to_dense() * torch.pi / 2).round(decimals=9)  # 4 φ(0)² = 2 / π for each row of a
        tensor([[3., 3.],
                [3., 5.]], dtype=torch.float64)
    """

    def __init__(
        self,
        model_func: Callable[..., Any],
        likelihood: Callable[..., Any],
        primals: Any,
        data: Iterable[Any] | None = None,
        *,
        kind: Literal["exact", "mc", "empirical"] = "exact",
        samples: int = 1,
        generator: torch.Generator | int | None = None,
        targets: Callable[[Any], Any] | None = None,
        weight: Callable[[Any], Any] | None = None,
        reduction: Literal["mean", "sum"] = "mean",
        verify: bool = True,
        check_deterministic: bool = True,
        memory_budget: Budget = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        options = DataOptions(
            data, weight, reduction, verify, check_deterministic, memory_budget, seed, progress
        )
        if kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, _KINDS))}, got {kind!r}")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be a positive integer, got {samples!r}")
        if samples != 1 and kind != "mc":
            raise ValueError(f'samples is for kind="mc"; leave it out with kind={kind!r}')
        made = as_likelihood(likelihood, targets)
        if made.reduction not in (None, reduction):
            raise ValueError(f'the loss has reduction="{made.reduction}"; pass the operator the same')
        draws = _Draws(made, kind, samples, _seed_of(generator, seed))
        linearize = partial(
            _information if kind == "exact" else _scores, model_func, made, draws, options, set()
        )
        super().__init__(
            linearize,
            primals,
            options,
            noisy_modules=getattr(model_func, "noisy_modules", list)(),
            positive_semidefinite=True,
            with_gradient=False,
        )
        self.kind = kind
        self._elsewhere: Callable[..., FisherOperator] = partial(
            cast(Any, type(self)),
            model_func,
            likelihood,
            kind=kind,
            samples=samples,
            generator=draws.seed,
            targets=targets,
            **self._options_elsewhere(),
        )

    @classmethod
    def from_module(
        cls,
        model: nn.Module,
        likelihood: Callable[..., Any],
        data: Iterable[Any] | None = None,
        *,
        params: Selection = None,
        forward: Callable[..., Any] | None = None,
        **options: Any,
    ) -> FisherOperator:
        """The Fisher information of a module's parameters, as they are now.

        Args:
            model: As for `GGNOperator.from_module`.
            likelihood: As for `FisherOperator`.
            data: As for `HessianOperator`.
            params: As for `HessianOperator.from_module`.
            forward: As for `GGNOperator.from_module`.
            options: As for `FisherOperator`.

        Example:
            >>> import torch
            >>> from hvplib import GGNOperator
            >>> model = torch.nn.Linear(3, 2).double()
            >>> x, y = torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1])
            >>> F = FisherOperator.from_module(model, torch.nn.CrossEntropyLoss(), [(x, y)])
            >>> G = GGNOperator.from_module(model, torch.nn.CrossEntropyLoss(), [(x, y)])
            >>> torch.allclose(F.to_dense(), G.to_dense())
            True
        """
        func, theta = model_outputs(model, params, forward)
        return cls(func, likelihood, theta, data, **options)

    def at(self, primals: Any, **changes: Any) -> FisherOperator:
        """The Fisher information of the same model at another point, with draws from there.

        Args:
            primals: The point, like the present one.
            changes: Options that are to differ, as for `FisherOperator`.
        """
        return self._elsewhere(primals, **changes)


class _Draws:
    """y for each batch: what the data say, or samples, which are drawn once and kept."""

    def __init__(self, likelihood: Likelihood, kind: str, samples: int, seed: int) -> None:
        self._likelihood, self._kind, self._samples, self.seed = likelihood, kind, samples, seed
        self._drawn: dict[int, list[Any]] = {}

    def of(self, z: Any, arguments: tuple[Any, ...], index: int) -> list[Any]:
        """One y, or one for each sample."""
        if self._kind == "empirical":
            return [self._likelihood.targets(z, arguments)]
        if index not in self._drawn:
            with seeded(self.seed, index, _SAMPLES), torch.no_grad():
                draws = range(self._samples)
                self._drawn[index] = [self._likelihood.sample(z, arguments) for _ in draws]
        return self._drawn[index]


def _information(
    model_func: Callable[..., Any],
    likelihood: Likelihood,
    _draws: _Draws,
    options: DataOptions,
    proven: set[str],
    primals: Any,
    arguments: tuple[Any, ...],
    index: int,
    _verify: bool,
    _value: Tensor | None,
    may_keep: MayKeep,
) -> Term:
    def loss(z: Any, anchor: Any) -> tuple[Tensor, Any]:
        terms = likelihood.expected(z, anchor, arguments)
        weights = likelihood.weights(anchor, arguments)
        total = (terms if weights is None else terms * weights).sum()
        if options.reduction == "sum":
            return total, 1.0
        count = float(terms.numel()) if weights is None else weights.sum()
        return total / count, _batch_weight(options, arguments, count)

    with seeded(options.seed, index):
        return GaussNewtonModel(
            lambda *at: model_func(*at, *arguments),
            loss,
            primals,
            convex=False,
            anchored=True,
            verify=options.verify,
            may_keep=may_keep,
            proven=proven,
        )


def _scores(
    model_func: Callable[..., Any],
    likelihood: Likelihood,
    draws: _Draws,
    options: DataOptions,
    proven: set[str],
    primals: Any,
    arguments: tuple[Any, ...],
    index: int,
    _verify: bool,
    _value: Tensor | None,
    may_keep: MayKeep,
) -> Term:
    with seeded(options.seed, index), torch.no_grad():
        z = tree_map(Tensor.detach, call(lambda *at: model_func(*at, *arguments), primals))
    targets = draws.of(z, arguments, index)
    weights = likelihood.weights(z, arguments)
    if weights is None:
        weights = torch.ones_like(likelihood.terms(z, targets[0], arguments))
    del z
    weights = weights.reshape(-1).repeat(len(targets)) / len(targets)
    count = weights.sum()
    if options.reduction == "mean":
        weights = weights / count.clamp(min=torch.finfo(weights.dtype).tiny)

    def terms(*at: Any) -> Tensor:
        z = model_func(*at, *arguments)
        return torch.cat([likelihood.terms(z, y, arguments).reshape(-1) for y in targets])

    aux = 1.0 if options.reduction == "sum" else _batch_weight(options, arguments, count)
    with seeded(options.seed, index):
        return ScoreModel(
            terms, weights, primals, aux=aux, verify=options.verify, may_keep=may_keep, proven=proven
        )


def _batch_weight(options: DataOptions, arguments: tuple[Any, ...], count: Any) -> Any:
    if not arguments:
        return 1.0
    return count if options.weight is None else options.weight(arguments[0])


def _seed_of(generator: torch.Generator | int | None, seed: int) -> int:
    if generator is None:
        return seed
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**62, (), generator=generator, device=generator.device))
    if isinstance(generator, int) and generator >= 0:
        return generator
    raise TypeError(f"generator must be a torch.Generator or a non-negative seed, got {generator!r}")
