"""Published covariances of logit, probit and Poisson regressions, from the operators by `solve`.

The estimates come from Newton's method in NumPy; the covariances of the operators are held against what is
published, and against weighted least squares in NumPy.

* Data of L. C. Spector, M. Mazzeo (1980), Probit analysis and economic education, Journal of Economic
  Education 11(2), 37-44; printed in W. H. Greene, Econometric Analysis. The matrices are those of Stata 11,
  as in the tests of statsmodels (Seabold, Perktold 2010): the inverse of the *observed* information, minus
  the Hessian of the log-likelihood. For logit it is the expected one too. Stata's estimates are converged to
  seven digits.
* Data of A. J. Dobson (1990), An Introduction to Generalized Linear Models, page 93, a randomised trial; the
  standard errors are those that R prints for the example of `glm`: from the *expected* information, which is
  the observed one for Poisson's log link.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm
from torch import Tensor, nn
from torch.distributions import Bernoulli

from hvplib import CG, FisherOperator, GGNOperator, HessianOperator, Operator, solve

F64 = torch.float64

# Grade point average, test score, taught by the new method, improved.
SPECTOR = np.array(
    [
        (2.66, 20, 0, 0), (2.89, 22, 0, 0), (3.28, 24, 0, 0), (2.92, 12, 0, 0), (4.00, 21, 0, 1),
        (2.86, 17, 0, 0), (2.76, 17, 0, 0), (2.87, 21, 0, 0), (3.03, 25, 0, 0), (3.92, 29, 0, 1),
        (2.63, 20, 0, 0), (3.32, 23, 0, 0), (3.57, 23, 0, 0), (3.26, 25, 0, 1), (3.53, 26, 0, 0),
        (2.74, 19, 0, 0), (2.75, 25, 0, 0), (2.83, 19, 0, 0), (3.12, 23, 1, 0), (3.16, 25, 1, 1),
        (2.06, 22, 1, 0), (3.62, 28, 1, 1), (2.89, 14, 1, 0), (3.51, 26, 1, 0), (3.54, 24, 1, 1),
        (2.83, 27, 1, 1), (3.39, 17, 1, 1), (2.67, 24, 1, 0), (3.65, 21, 1, 1), (4.00, 23, 1, 1),
        (3.10, 21, 1, 0), (2.39, 19, 1, 1),
    ]
)  # fmt: skip
X, Y = np.column_stack([SPECTOR[:, :3], np.ones(32)]), SPECTOR[:, 3]

LOGIT = [2.82611297201, 0.0951576702557, 2.37868772835, -13.0213483201]
LOGIT_COVARIANCE = [
    [1.59502033639, -0.036920566629, 0.427615725153, -4.57347950298],
    [-0.036920566629, 0.0200375937069, 0.0149126464275, -0.346255757562],
    [0.427615725153, 0.0149126464275, 1.13329715236, -2.35916128427],
    [-4.57347950298, -0.346255757562, -2.35916128427, 24.3179625937],
]
PROBIT = [1.62581025407, 0.051728948442, 1.42633236818, -7.45232041607]
PROBIT_COVARIANCE = [
    [0.481472955383, -0.01891350017, 0.105439226234, -1.1696681354],
    [-0.01891350017, 0.00703757594, 0.002471864882, -0.101172838897],
    [0.105439226234, 0.002471864882, 0.354070126802, -0.594791776765],
    [-1.1696681354, -0.101172838897, -0.594791776765, 6.46416639958],
]

COUNTS = np.array([18.0, 17, 15, 20, 10, 20, 25, 13, 12])
OUTCOME, TREATMENT = np.tile([0, 1, 2], 3), np.repeat([0, 1, 2], 3)
TRIAL = np.column_stack([np.ones(9), OUTCOME == 1, OUTCOME == 2, TREATMENT == 1, TREATMENT == 2]).astype(
    float
)
POISSON = [3.044522, -0.4542553, -0.2929871, 0.0, 0.0]
POISSON_ERRORS = [0.1708987, 0.2021708, 0.1927423, 0.2, 0.2]

Weights = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def estimated(design: np.ndarray, score_and_weight: Weights) -> np.ndarray:
    """The maximum of the likelihood, by scoring: weighted least squares again and again."""
    beta = np.zeros(design.shape[1])
    for _ in range(60):
        score, weight = score_and_weight(design @ beta)
        beta = beta + np.linalg.solve(design.T @ (weight[:, None] * design), design.T @ score)
    return beta


def logit(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-eta))
    return Y - p, p * (1 - p)


def probit(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, density = norm.cdf(eta), norm.pdf(eta)
    return density * (Y - p) / (p * (1 - p)), density**2 / (p * (1 - p))


def poisson(eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return COUNTS - np.exp(eta), np.exp(eta)


def expected(design: np.ndarray, beta: np.ndarray, score_and_weight: Weights) -> np.ndarray:
    """The inverse of the expected information, by NumPy."""
    weight = score_and_weight(design @ beta)[1]
    return np.linalg.inv(design.T @ (weight[:, None] * design))


def covariance(information: Operator) -> np.ndarray:
    """The inverse by products alone."""
    identity = torch.eye(information.shape[0], dtype=F64)
    return solve(information, identity, method=CG(rtol=1e-12)).x.numpy()


def linear(beta: np.ndarray) -> nn.Linear:
    model = nn.Linear(len(beta), 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(beta)[None])
    return model


def uneven(design: np.ndarray, y: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    x, y_ = torch.from_numpy(design), torch.from_numpy(y)[:, None]
    return list(zip(x.split([5, 1, len(x) - 6]), y_.split([5, 1, len(x) - 6]), strict=True))


def probit_loss(z: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return -torch.special.log_ndtr((2 * batch[1] - 1) * z).sum()


def information(kind: type, model: nn.Module, loss: object, data: object) -> Operator:
    if kind is HessianOperator:
        outer = loss if isinstance(loss, nn.Module) else lambda m, b: loss(m(b[0]), b)  # type: ignore[operator]
        return HessianOperator.from_module(model, outer, data, reduction="sum")
    return kind.from_module(model, loss, data, reduction="sum")


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, FisherOperator])
def test_logit(kind: type) -> None:
    beta = estimated(X, logit)
    np.testing.assert_allclose(beta, LOGIT, rtol=5e-7)
    made = covariance(information(kind, linear(beta), nn.BCEWithLogitsLoss(reduction="sum"), uneven(X, Y)))
    np.testing.assert_allclose(made, LOGIT_COVARIANCE, rtol=5e-7)
    np.testing.assert_allclose(made, expected(X, beta, logit), rtol=1e-9)


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator])
def test_probit_observed_information(kind: type) -> None:
    beta = estimated(X, probit)
    np.testing.assert_allclose(beta, PROBIT, rtol=5e-7)
    made = covariance(information(kind, linear(beta), probit_loss, uneven(X, Y)))
    np.testing.assert_allclose(made, PROBIT_COVARIANCE, rtol=5e-7)


def test_probit_expected_information_is_another() -> None:
    """What R's glm prints: there is no published matrix here, but NumPy's own."""
    beta = estimated(X, probit)
    likelihood = lambda z, _: Bernoulli(probs=torch.special.ndtr(z))  # noqa: E731
    made = covariance(FisherOperator.from_module(linear(beta), likelihood, uneven(X, Y), reduction="sum"))
    np.testing.assert_allclose(made, expected(X, beta, probit), rtol=1e-8)
    difference = np.sqrt(np.diag(made)) / np.sqrt(np.diag(PROBIT_COVARIANCE)) - 1
    assert np.abs(difference).max() > 3e-3


@pytest.mark.parametrize("kind", [HessianOperator, GGNOperator, FisherOperator])
def test_poisson(kind: type) -> None:
    beta = estimated(TRIAL, poisson)
    np.testing.assert_allclose(beta, POISSON, atol=5e-7)
    loss = nn.PoissonNLLLoss(reduction="sum")
    made = covariance(information(kind, linear(beta), loss, uneven(TRIAL, COUNTS)))
    np.testing.assert_allclose(np.sqrt(np.diag(made)), POISSON_ERRORS, atol=5.1e-8)
    np.testing.assert_allclose(made, expected(TRIAL, beta, poisson), rtol=1e-9, atol=1e-12)


def test_the_logit_matrix_is_that_of_the_dense_hessian() -> None:
    """A third way to the same numbers: autograd's dense Hessian, inverted by LAPACK."""
    beta = torch.from_numpy(estimated(X, logit))
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    H = torch.autograd.functional.hessian(
        lambda b: F.binary_cross_entropy_with_logits(x @ b, y, reduction="sum"), beta
    )
    np.testing.assert_allclose(H.inverse(), LOGIT_COVARIANCE, rtol=5e-7)
