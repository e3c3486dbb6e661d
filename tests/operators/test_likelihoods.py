"""What losses say of y: expectations against sums over outcomes, samples against their moments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from hvplib.operators.likelihoods import as_likelihood

F64 = torch.float64
Z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
LABELS = torch.tensor([0, 1, 2, -100, 1, 0])


def second(function: Any, at: Tensor) -> Tensor:
    found: Tensor = torch.func.hessian(lambda z: function(z).sum())(at)
    return found.reshape(at.numel(), at.numel())


def test_softmax() -> None:
    likelihood = as_likelihood(nn.CrossEntropyLoss(), None)
    batch = (None, LABELS)
    found = second(lambda z: likelihood.expected(z, Z, (batch,)), Z).reshape(6, 3, 6, 3)
    p = Z.softmax(1)
    for i in range(6):
        own = torch.diag(p[i]) - torch.outer(p[i], p[i])
        torch.testing.assert_close(found[i, :, i], own if LABELS[i] != -100 else 0 * own)
    weights = likelihood.weights(Z, (batch,))
    assert weights is not None and weights.tolist() == [1, 1, 1, 0, 1, 1]
    torch.manual_seed(0)
    draws = torch.stack([likelihood.sample(Z, (batch,)) for _ in range(4000)])
    assert bool((draws[:, 3] == -100).all())
    shares = torch.stack([(draws[:, 0] == k).double().mean() for k in range(3)])
    assert float((shares - p[0]).abs().max()) < 0.04


def test_labels_may_be_probabilities_and_outputs_have_positions() -> None:
    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    y = torch.randint(3, (2, 4), generator=torch.Generator().manual_seed(2))
    likelihood = as_likelihood(nn.CrossEntropyLoss(), lambda batch: batch["labels"])
    torch.manual_seed(0)
    assert likelihood.sample(z, ({"labels": y},)).shape == (2, 4)
    soft = F.one_hot(LABELS.clamp(min=0), 3).double()
    plain = as_likelihood(nn.CrossEntropyLoss(), None)
    torch.testing.assert_close(plain.weights(Z, ((None, soft),)), torch.ones(6, dtype=F64))


@pytest.mark.parametrize(
    ("criterion", "variance"),
    [
        (nn.BCEWithLogitsLoss(), lambda z: z.sigmoid() * (1 - z.sigmoid())),
        (nn.MSELoss(), lambda z: torch.full_like(z, 2.0)),
        (nn.PoissonNLLLoss(), torch.exp),
    ],
)
def test_information_is_the_variance_of_the_score(criterion: nn.Module, variance: Any) -> None:
    likelihood = as_likelihood(criterion, None)
    found = second(lambda z: likelihood.expected(z, Z, ()), Z)
    torch.testing.assert_close(found, torch.diag(variance(Z).reshape(-1)))
    # And by samples: the mean square of the scores is the same.
    torch.manual_seed(0)
    z = Z[0].expand(20_000, 3).contiguous().requires_grad_()
    (score,) = torch.autograd.grad(likelihood.terms(z, likelihood.sample(z.detach(), ()), ()).sum(), z)
    torch.testing.assert_close(score.square().mean(0), variance(Z[0]), rtol=0.06, atol=0.0)


def test_a_rate_that_is_no_logarithm() -> None:
    criterion = nn.PoissonNLLLoss(log_input=False)
    rate = Z.abs() + 0.5
    found = second(lambda z: as_likelihood(criterion, None).expected(z, rate, ()), rate)
    torch.testing.assert_close(found, torch.diag(1 / (rate + 1e-8).reshape(-1)))
    torch.manual_seed(0)
    draws = as_likelihood(criterion, None).sample(rate.expand(20_000, 6, 3), ())
    torch.testing.assert_close(draws.mean(0), rate, rtol=0.05, atol=0.0)


def test_a_pair_of_mean_and_variance() -> None:
    mean, variance = Z[:, 0], Z[:, 1].abs() + 0.1
    likelihood = as_likelihood(nn.GaussianNLLLoss(), None)
    found = torch.func.hessian(lambda z: likelihood.expected(z, (mean, variance), ()).sum())((mean, variance))
    torch.testing.assert_close(found[0][0], torch.diag(1 / variance))
    torch.testing.assert_close(found[1][1], torch.diag(1 / (2 * variance**2)))
    torch.testing.assert_close(found[0][1], torch.zeros(6, 6, dtype=F64))
    assert likelihood.reduction == "mean"


def test_distributions_with_weights_and_targets() -> None:
    def factory(z: Tensor, batch: Any) -> tuple[Distribution, Tensor]:
        return Normal(z, 2.0), torch.tensor(0.5, dtype=F64)

    likelihood = as_likelihood(factory, lambda batch: batch)
    weights = likelihood.weights(Z, (Z,))
    assert weights is not None and weights.shape == Z.shape and bool((weights == 0.5).all())
    torch.testing.assert_close(likelihood.terms(Z, Z + 2, (Z,)), -Normal(Z, 2.0).log_prob(Z + 2))
    assert likelihood.targets(Z, (LABELS,)) is LABELS


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        (nn.CrossEntropyLoss(label_smoothing=0.1), ValueError, "with class weights or label smoothing"),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), ValueError, "with class weights or label smoothing"),
        (nn.BCEWithLogitsLoss(pos_weight=torch.ones(3)), ValueError, "with weight= or pos_weight="),
        (nn.MSELoss(reduction="none"), ValueError, 'the loss has reduction="none"'),
        (nn.HuberLoss(), ValueError, "HuberLoss is not known as the negative log-likelihood"),
        (3, TypeError, "likelihood must be a loss module of torch.nn or a function .* got int"),
    ],
)
def test_refusals(given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        as_likelihood(given, None)


def test_refusals_when_asked() -> None:
    with pytest.raises(ValueError, match="there is no data to take y from; pass targets="):
        as_likelihood(nn.MSELoss(), None).targets(Z, ())
    with pytest.raises(TypeError, match="the likelihood must return a torch"):
        as_likelihood(lambda z: z, None).sample(Z, ())
