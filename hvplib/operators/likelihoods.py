"""The predictive distribution p(y | z) of a model with outputs z: what the Fisher information is taken of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal, kl_divergence

from hvplib.operators.module_parts import is_criterion, targets_beside

__all__ = ["Likelihood", "as_likelihood"]

Targets = Callable[[Any], Any] | None
# Bytes of the probabilities that are drawn from at once.
_CHUNK = 8 * 2**20


class Likelihood(ABC):
    """Independent terms i with negative log-likelihoods −log p(y_i | z), and their weights.

    Args:
        targets: From a batch to y.
    """

    reduction: str | None = None

    def __init__(self, targets: Targets) -> None:
        self._targets = targets

    @abstractmethod
    def expected(self, z: Any, anchor: Any, arguments: tuple[Any, ...]) -> Tensor:
        """E[−log p(y_i | z)] over y ~ p(· | anchor), up to what does not depend on z.

        Its Hessian at the anchor is the Fisher information of the terms.
        """

    @abstractmethod
    def terms(self, z: Any, y: Any, arguments: tuple[Any, ...]) -> Tensor:
        """−log p(y_i | z), up to what does not depend on z."""

    @abstractmethod
    def sample(self, z: Any, arguments: tuple[Any, ...]) -> Any:
        """y ~ p(· | z) by the global generators."""

    def weights(self, z: Any, arguments: tuple[Any, ...]) -> Tensor | None:
        """What each term counts for, like the terms; None where each counts for one."""
        return None

    def targets(self, z: Any, arguments: tuple[Any, ...]) -> Any:
        """y of a batch."""
        if self._targets is not None:
            y = self._targets(*arguments)
            return y.to(z.device) if isinstance(y, Tensor) and isinstance(z, Tensor) else y
        if not arguments:
            raise ValueError("there is no data to take y from; pass targets=, a function without arguments")
        return targets_beside(z, arguments[0])


class FromDistribution(Likelihood):
    """What a function from outputs to a `torch.distributions.Distribution` says.

    Args:
        factory: From (z, batch), or z without data, to the distribution, or to it and the weights of its
            terms, which are the entries of its batch shape.
    """

    def __init__(self, factory: Callable[..., Any], targets: Targets) -> None:
        super().__init__(targets)
        self._factory = factory

    def expected(self, z: Any, anchor: Any, arguments: tuple[Any, ...]) -> Tensor:
        here, there = self._made(anchor, arguments)[0], self._made(z, arguments)[0]
        try:
            return kl_divergence(here, there)
        except NotImplementedError:
            raise ValueError(
                f"torch knows no divergence between two distributions of type {type(here).__name__}, from "
                'which the exact Fisher information is computed; use kind="mc", or register one with '
                "torch.distributions.register_kl"
            ) from None

    def terms(self, z: Any, y: Any, arguments: tuple[Any, ...]) -> Tensor:
        terms: Tensor = -self._made(z, arguments)[0].log_prob(y)
        return terms

    def sample(self, z: Any, arguments: tuple[Any, ...]) -> Any:
        return self._made(z, arguments)[0].sample()

    def weights(self, z: Any, arguments: tuple[Any, ...]) -> Tensor | None:
        distribution, weights = self._made(z, arguments)
        return None if weights is None else weights.expand(distribution.batch_shape)

    def _made(self, z: Any, arguments: tuple[Any, ...]) -> tuple[Distribution, Tensor | None]:
        made = self._factory(z, *arguments)
        distribution, weights = made if type(made) is tuple and len(made) == 2 else (made, None)
        if not isinstance(distribution, Distribution):
            raise TypeError(
                "the likelihood must return a torch.distributions.Distribution, or one and the weights of "
                f"its terms, got {type(distribution).__name__}"
            )
        return distribution, weights


class Categorical(Likelihood):
    """Softmax of the outputs along their second dimension: of `nn.CrossEntropyLoss`."""

    def __init__(self, criterion: nn.CrossEntropyLoss, targets: Targets) -> None:
        super().__init__(targets)
        if criterion.weight is not None or criterion.label_smoothing:
            raise ValueError(
                "with class weights or label smoothing the loss is no negative log-likelihood, and has no "
                "Fisher information; use GGNOperator, or give a distribution with weights of its terms"
            )
        self._ignored = criterion.ignore_index
        self.reduction = criterion.reduction

    def expected(self, z: Any, anchor: Any, arguments: tuple[Any, ...]) -> Tensor:
        # Labels shift the loss by something linear in z only.
        return self.terms(z, self._labels(z, arguments), arguments)

    def terms(self, z: Any, y: Any, arguments: tuple[Any, ...]) -> Tensor:
        return F.cross_entropy(z, y, ignore_index=self._ignored, reduction="none")

    def sample(self, z: Any, arguments: tuple[Any, ...]) -> Any:
        labels = self._labels(z, arguments)
        rows = z.movedim(1, -1).reshape(-1, z.shape[1])
        count = max(1, _CHUNK // (rows.shape[1] * rows.element_size()))
        drawn = [torch.multinomial(torch.softmax(part, 1), 1) for part in rows.split(count)]
        return torch.where(labels == self._ignored, labels, torch.cat(drawn).view(labels.shape))

    def weights(self, z: Any, arguments: tuple[Any, ...]) -> Tensor | None:
        return (self._labels(z, arguments) != self._ignored).to(z.dtype)

    def _labels(self, z: Tensor, arguments: tuple[Any, ...]) -> Tensor:
        y: Tensor = self.targets(z, arguments)
        return y.argmax(1) if y.is_floating_point() else y


class Bernoulli(Likelihood):
    """Each output the logit of a probability: of `nn.BCEWithLogitsLoss`."""

    def __init__(self, criterion: nn.BCEWithLogitsLoss, targets: Targets) -> None:
        super().__init__(targets)
        if criterion.pos_weight is not None or criterion.weight is not None:
            raise ValueError(
                "with weight= or pos_weight= the loss is no negative log-likelihood, and has no Fisher "
                "information; use GGNOperator, or give a distribution with weights of its terms"
            )
        self.reduction = criterion.reduction

    def expected(self, z: Any, anchor: Any, arguments: tuple[Any, ...]) -> Tensor:
        return self.terms(z, torch.sigmoid(anchor), arguments)

    def terms(self, z: Any, y: Any, arguments: tuple[Any, ...]) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, y.to(z.dtype), reduction="none")

    def sample(self, z: Any, arguments: tuple[Any, ...]) -> Any:
        return torch.bernoulli(torch.sigmoid(z))


class Gaussian(Likelihood):
    """Each output the mean of a normal distribution of variance ½: of `nn.MSELoss`, which is (z − y)²."""

    def __init__(self, criterion: nn.MSELoss, targets: Targets) -> None:
        super().__init__(targets)
        self.reduction = criterion.reduction

    def expected(self, z: Any, anchor: Any, arguments: tuple[Any, ...]) -> Tensor:
        return F.mse_loss(z, anchor, reduction="none")

    def terms(self, z: Any, y: Any, arguments: tuple[Any, ...]) -> Tensor:
        return F.mse_loss(z, y, reduction="none")

    def sample(self, z: Any, arguments: tuple[Any, ...]) -> Any:
        return z + 0.5**0.5 * torch.randn_like(z)


class Poisson(Likelihood):
    """Each output a rate, or its logarithm: of `nn.PoissonNLLLoss`."""

    def __init__(self, criterion: nn.PoissonNLLLoss, targets: Targets) -> None:
        super().__init__(targets)
        self._criterion = criterion
        self.reduction = criterion.reduction

    def expected(self, z: Any, anchor: Any, arguments: tuple[Any, ...]) -> Tensor:
        return self.terms(z, self._rate(anchor), arguments)

    def terms(self, z: Any, y: Any, arguments: tuple[Any, ...]) -> Tensor:
        log_input, eps = self._criterion.log_input, self._criterion.eps
        return F.poisson_nll_loss(z, y, log_input=log_input, eps=eps, reduction="none")

    def sample(self, z: Any, arguments: tuple[Any, ...]) -> Any:
        return torch.poisson(self._rate(z))

    def _rate(self, z: Tensor) -> Tensor:
        return torch.exp(z) if self._criterion.log_input else z + self._criterion.eps


_CRITERIA: dict[type[nn.Module], Callable[[Any, Targets], Likelihood]] = {
    nn.CrossEntropyLoss: Categorical,
    nn.BCEWithLogitsLoss: Bernoulli,
    nn.MSELoss: Gaussian,
    nn.PoissonNLLLoss: Poisson,
}


def as_likelihood(likelihood: Any, targets: Targets) -> Likelihood:
    """What the user gave, a loss module of torch.nn or a function to a distribution, as a likelihood."""
    if isinstance(likelihood, nn.GaussianNLLLoss):
        found: Likelihood = FromDistribution(
            lambda z, *_: Normal(z[0], z[1].clamp(min=likelihood.eps).sqrt()), targets
        )
        found.reduction = likelihood.reduction
    elif is_criterion(likelihood):
        make = _CRITERIA.get(type(likelihood))
        if make is None:
            known = ", ".join(kind.__name__ for kind in (*_CRITERIA, nn.GaussianNLLLoss))
            raise ValueError(
                f"{type(likelihood).__name__} is not known as the negative log-likelihood of a distribution; "
                f"use one of {known}, or a function from outputs to a torch.distributions.Distribution"
            )
        found = make(likelihood, targets)
    elif callable(likelihood):
        found = FromDistribution(likelihood, targets)
    else:
        raise TypeError(
            "likelihood must be a loss module of torch.nn or a function from outputs to a "
            f"torch.distributions.Distribution, got {type(likelihood).__name__}"
        )
    if found.reduction == "none":
        raise ValueError('the loss has reduction="none"; use "mean" or "sum"')
    return found
