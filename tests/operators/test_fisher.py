"""FisherOperator: the score covariance by sums over all outcomes, by loops, and by published regressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

from hvplib import FisherOperator, GGNOperator, check_operator, solve
from tests.architectures import CASES, Case, perceptron, transformer
from tests.curvatures import assert_same, flat_function, jacobian, numbers, second_moment

F64 = torch.float64
BUDGETS = ["auto", 0]


def fisher(case: Case, data: list[Any], **options: Any) -> FisherOperator:
    return FisherOperator.from_module(
        case.model, nn.CrossEntropyLoss(), data, forward=case.forward, targets=case.labels, **options
    )


def information(case: Case) -> Tensor:
    """Σ_i Σ_y p(y) ∇log p(y) ∇log p(y)ᵀ over the rows that count, divided by their number."""
    function, at = flat_function(case.model, lambda m: case.forward(m, case.whole))
    counted = case.labels(case.whole) != -100
    rows = len(counted)
    logarithms = lambda x: function(x).view(rows, -1).log_softmax(1)[counted].reshape(-1)  # noqa: E731
    return second_moment(logarithms, at, logarithms(at).exp()) / counted.sum()


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("make", CASES)
def test_the_sum_over_all_labels_is_the_judge(make: Callable[[], Case], budget: Any) -> None:
    case = make()
    expected = information(case)
    for data in ([case.whole], case.uneven):
        operator = fisher(case, data, memory_budget=budget)
        assert_same(operator.to_dense(), expected)
        assert operator.positive_semidefinite and operator.num_kept == (len(data) if budget == "auto" else 0)


@pytest.mark.parametrize("make", CASES)
def test_it_is_the_gauss_newton_matrix_of_softmax(make: Callable[[], Case]) -> None:
    case = make()
    G = GGNOperator.from_module(case.model, case.loss, case.uneven, forward=case.forward)
    assert_same(fisher(case, case.uneven).to_dense(), G.to_dense())


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("make", CASES)
def test_empirical_is_the_second_moment_of_gradients(make: Callable[[], Case], budget: Any) -> None:
    case = make()
    y = case.labels(case.whole)
    function, at = flat_function(case.model, lambda m: case.forward(m, case.whole))
    terms = lambda x: F.cross_entropy(function(x).view(len(y), -1), y, reduction="none")  # noqa: E731
    expected = second_moment(terms, at, (y != -100).to(F64)) / (y != -100).sum()
    for data in ([case.whole], case.uneven):
        assert_same(fisher(case, data, kind="empirical", memory_budget=budget).to_dense(), expected)


# Distributions: (factory of outputs, outputs of the linear model, information of one term by formula).


def probit(z: Tensor) -> Distribution:
    return Bernoulli(probs=torch.special.ndtr(z))


def _density(z: Tensor) -> Tensor:
    return torch.exp(-z.square() / 2) / (2 * torch.pi) ** 0.5


FAMILIES: dict[str, tuple[Callable[[Tensor], Distribution], Callable[[Tensor], Tensor]]] = {
    "logit": (lambda z: Bernoulli(logits=z), lambda z: torch.sigmoid(z) * torch.sigmoid(-z)),
    "probit": (probit, lambda z: _density(z) ** 2 / (torch.special.ndtr(z) * torch.special.ndtr(-z))),
    "complementary log-log": (
        lambda z: Bernoulli(probs=-torch.expm1(-torch.exp(z))),
        lambda z: torch.exp(2 * z) / torch.expm1(torch.exp(z)),
    ),
    "Poisson": (lambda z: Poisson(torch.exp(z)), torch.exp),
    "Poisson, square root": (lambda z: Poisson(z**2), lambda z: torch.full_like(z, 4.0)),
    "normal mean": (lambda z: Normal(z, 3.0), lambda z: torch.full_like(z, 1 / 9)),
    "normal deviation": (lambda z: Normal(0.0, torch.exp(z)), lambda z: torch.full_like(z, 2.0)),
    "exponential": (lambda z: Exponential(torch.exp(z)), torch.ones_like),
    "binomial": (lambda z: Binomial(4, logits=z), lambda z: 4 * torch.sigmoid(z) * torch.sigmoid(-z)),
    "gamma rate": (lambda z: Gamma(torch.full_like(z, 2.5), torch.exp(z)), lambda z: torch.full_like(z, 2.5)),
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", FAMILIES)
def test_information_of_a_distribution(name: str, budget: Any) -> None:
    factory, formula = FAMILIES[name]
    A, x = numbers(6, 3), numbers(3, seed=1)
    expected = A.mT @ (formula(A @ x).unsqueeze(1) * A)
    data = [A[:4], A[4:]]
    mean = FisherOperator(lambda x, rows: rows @ x, lambda z, _: factory(z), x, data, memory_budget=budget)
    assert_same(mean.to_dense(), expected / 6)
    assert mean.total_weight == 6
    total = FisherOperator(
        lambda x, rows: rows @ x, lambda z, _: factory(z), x, data, reduction="sum", memory_budget=budget
    )
    assert_same(total.to_dense(), expected)
    assert_same(FisherOperator(lambda x: A @ x, factory, x).to_dense(), expected / 6)


def test_terms_are_the_entries_of_the_batch_shape() -> None:
    A, x = numbers(4, 2, 3), numbers(3, seed=1)
    entries = FisherOperator(lambda x: A @ x, lambda z: Normal(z, 1.0), x)
    rows = FisherOperator(lambda x: A @ x, lambda z: Independent(Normal(z, 1.0), 1), x)
    matrix = torch.eye(2, dtype=F64) + 0.3
    joint = FisherOperator(lambda x: A @ x, lambda z: MultivariateNormal(z, matrix), x)
    B = A.reshape(8, 3)
    assert_same(entries.to_dense(), B.mT @ B / 8)
    assert_same(rows.to_dense(), B.mT @ B / 4)
    assert_same(joint.to_dense(), sum(a.mT @ matrix.inverse() @ a for a in A) / 4)


@pytest.mark.parametrize("kind", ["exact", "mc", "empirical"])
def test_weights_of_terms_mask_them(kind: Any) -> None:
    A, x, y = numbers(6, 3), numbers(3, seed=1), torch.tensor([0.0, 1, 1, 0, 1, 0], dtype=F64)
    mask = torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=F64)
    some = {"kind": kind, "targets": lambda batch: batch[2]}
    operator = FisherOperator(
        lambda x, b: b[0] @ x, lambda z, b: (Bernoulli(logits=z), b[1]), x, [(A, mask, y)], **some
    )
    i = mask.bool()
    if kind == "mc":
        # What is drawn depends on how many terms there are: only that nothing of the others enters.
        rows = torch.linalg.matrix_rank(operator.to_dense() - A[i].mT @ A[i] * 0)
        assert operator.total_weight == 4 and int(rows) <= 3
        null = torch.linalg.qr(A[i][:2].mT, mode="complete").Q[:, 2:]
        only = FisherOperator(
            lambda x, b: b[0] @ x,
            lambda z, b: (Bernoulli(logits=z), b[1]),
            x,
            [(A, torch.tensor([1.0, 0, 1, 0, 0, 0], dtype=F64), y)],
            **some,
        )
        assert float((only @ null).norm()) < 1e-12
        return
    alone = FisherOperator(
        lambda x, b: b[0] @ x, lambda z, b: Bernoulli(logits=z), x, [(A[i], None, y[i])], **some
    )
    assert_same(operator.to_dense(), alone.to_dense())


# Losses of torch.nn.


def _criteria() -> list[Any]:
    return [
        (nn.BCEWithLogitsLoss(), lambda z: Bernoulli(logits=z)),
        (nn.MSELoss(), lambda z: Normal(z, 0.5**0.5)),
        (nn.PoissonNLLLoss(), lambda z: Poisson(torch.exp(z))),
        (nn.PoissonNLLLoss(log_input=False), lambda z: Poisson(z + 1e-8)),
    ]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("which", range(4))
def test_losses_stand_for_their_distributions(which: int, budget: Any) -> None:
    criterion, factory = _criteria()[which]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Softplus()).double()
    x, y = numbers(5, 3), torch.randint(2, (5, 2)).double()
    data = [(x[:3], y[:3]), (x[3:], y[3:])]
    named = FisherOperator.from_module(model, criterion, data, memory_budget=budget)
    plain = FisherOperator.from_module(model, lambda z, _: factory(z), data)
    assert_same(named.to_dense(), plain.to_dense())
    assert named.total_weight == 10
    if not (isinstance(criterion, nn.PoissonNLLLoss) and not criterion.log_input):
        G = GGNOperator.from_module(model, criterion, data)
        assert_same(named.to_dense(), G.to_dense())
    by_loss = FisherOperator.from_module(model, criterion, data, kind="empirical", memory_budget=budget)
    function, at = flat_function(model, lambda m: m(x))
    kind = type(criterion)
    options = {"log_input": criterion.log_input} if kind is nn.PoissonNLLLoss else {}
    terms = lambda v: kind(reduction="none", **options)(function(v), y.reshape(-1))  # noqa: E731
    assert_same(by_loss.to_dense(), second_moment(terms, at, torch.ones(10, dtype=F64)) / 10)


def test_gaussian_with_mean_and_variance() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2).double(), numbers(6, 3), numbers(6, seed=1)

    def forward(m: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        mean, raw = m(batch[0]).unbind(-1)
        return mean, F.softplus(raw)

    operator = FisherOperator.from_module(model, nn.GaussianNLLLoss(), [(x, y)], forward=forward)
    function, at = flat_function(model, lambda m: torch.stack(forward(m, (x, y))))
    variance = function(at)[6:]
    J = jacobian(function, at)
    expected = J.mT @ (torch.cat([1 / variance, 1 / (2 * variance**2)]).unsqueeze(1) * J) / 6
    assert_same(operator.to_dense(), expected)


def test_probabilities_as_targets() -> None:
    case = perceptron()
    x = case.whole[0]
    soft = torch.softmax(numbers(7, 3), 1)
    F_ = FisherOperator.from_module(case.model, nn.CrossEntropyLoss(), [(x, soft)])
    G = GGNOperator.from_module(case.model, nn.CrossEntropyLoss(), [(x, soft)])
    assert_same(F_.to_dense(), G.to_dense())


def test_images_of_labels() -> None:
    """Classes along the second dimension, positions behind."""
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 1).double()
    x, y = numbers(2, 1, 2, 2), torch.randint(3, (2, 2, 2))
    y[0, 0, 0] = -100
    for budget in BUDGETS:
        F_ = FisherOperator.from_module(model, nn.CrossEntropyLoss(), [(x, y)], memory_budget=budget)
        G = GGNOperator.from_module(model, nn.CrossEntropyLoss(), [(x, y)], memory_budget=budget)
        assert_same(F_.to_dense(), G.to_dense())
        assert F_.total_weight == 7


# Monte Carlo.


@pytest.mark.parametrize("budget", BUDGETS)
def test_samples_are_drawn_once(budget: Any) -> None:
    case = transformer()
    first = fisher(case, case.uneven, kind="mc", samples=3, memory_budget=budget)
    v = numbers(first.shape[0])
    assert torch.equal(first @ v, first @ v)
    assert torch.equal(first @ v, fisher(case, case.uneven, kind="mc", samples=3, memory_budget=budget) @ v)
    other = fisher(case, case.uneven, kind="mc", samples=3, generator=1, memory_budget=budget)
    assert float((other @ v - first @ v).norm()) > 1e-3 * float((first @ v).norm())
    generator = torch.Generator().manual_seed(5)
    one, two = (
        fisher(case, case.uneven, kind="mc", generator=generator, memory_budget=budget) for _ in range(2)
    )
    assert float((one @ v - two @ v).norm()) > 1e-3 * float((two @ v).norm())
    assert check_operator(first).ok


def test_kept_and_frugal_draw_the_same() -> None:
    case = transformer()
    kept, frugal = (fisher(case, case.uneven, kind="mc", samples=2, memory_budget=b) for b in BUDGETS)
    assert_same(kept.to_dense(), frugal.to_dense())


def test_the_global_generator_stands_still() -> None:
    case = perceptron()
    before = torch.random.get_rng_state()
    fisher(case, case.uneven, kind="mc", samples=2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("make", [perceptron, transformer])
def test_monte_carlo_is_unbiased(make: Callable[[], Case]) -> None:
    """Entry by entry within 5 standard errors of the mean of 40 estimates, and not so for another matrix."""
    case = make()
    expected = information(case)
    estimates = torch.stack(
        [
            fisher(
                case, [case.whole], kind="mc", samples=8, generator=s, verify=False, check_deterministic=False
            ).to_dense()
            for s in range(40)
        ]
    )
    error = estimates.std(0) / 40**0.5
    off = (estimates.mean(0) - expected).abs()
    assert bool((off <= 5 * error + 1e-12).all())
    empirical = fisher(case, [case.whole], kind="empirical").to_dense()
    assert not bool(((estimates.mean(0) - empirical).abs() <= 5 * error + 1e-12).all())


def test_monte_carlo_of_other_likelihoods_is_unbiased() -> None:
    A, x = numbers(6, 3), numbers(3, seed=1)
    for name in ("probit", "Poisson", "normal mean", "exponential"):
        factory, formula = FAMILIES[name]
        expected = A.mT @ (formula(A @ x).unsqueeze(1) * A) / 6
        estimates = torch.stack(
            [
                FisherOperator(
                    lambda x: A @ x,
                    factory,
                    x,
                    kind="mc",
                    samples=20,
                    generator=s,
                    verify=False,
                    check_deterministic=False,
                ).to_dense()
                for s in range(40)
            ]
        )
        error = estimates.std(0) / 40**0.5
        assert bool(((estimates.mean(0) - expected).abs() <= 5 * error).all()), name


def test_without_a_divergence_there_are_samples() -> None:
    A, x = numbers(4, 2), numbers(2, seed=1)
    with pytest.raises(
        ValueError, match=r'no divergence between two distributions of type StudentT.*kind="mc"'
    ):
        FisherOperator(lambda x: A @ x, lambda z: StudentT(3.0, z), x)
    # Information of the location: (ν + 1) / (ν + 3).
    drawn = FisherOperator(lambda x: A @ x, lambda z: StudentT(3.0, z), x, kind="mc", samples=400)
    assert_same(drawn.to_dense(), A.mT @ A / 4 * 4 / 6, 0.2)


# Where it differs.


def test_near_a_perfect_fit_the_empirical_one_vanishes() -> None:
    x, y = torch.tensor([[1.0], [2.0], [3.0]], dtype=F64), torch.tensor([[2.0], [4.0], [6.0]], dtype=F64)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    exact, empirical = (
        FisherOperator.from_module(model, nn.MSELoss(), [(x, y)], kind=kind)
        for kind in ("exact", "empirical")
    )
    assert float(empirical.to_dense().abs().max()) == 0 and float(exact.to_dense()) == pytest.approx(28 / 3)


def test_a_batch_that_counts_for_nothing() -> None:
    case = perceptron()
    nothing = (case.whole[0][:2], torch.full((2,), -100))
    for kind in ("exact", "empirical", "mc"):
        for budget in BUDGETS:
            F_ = fisher(case, [*case.uneven, nothing], kind=kind, memory_budget=budget)
            assert_same(F_.to_dense(), fisher(case, case.uneven, kind=kind).to_dense())


def test_at_and_float32() -> None:
    case = perceptron(torch.float32)
    F_ = fisher(case, case.uneven)
    assert F_.torch_dtype == torch.float32
    assert_same(F_.to_dense().double(), information(perceptron()), 1e-4)
    moved = F_.at({name: p + 1 for name, p in F_.primals.items()})
    assert float((moved.to_dense() - F_.to_dense()).norm()) > 0.01
    mc = fisher(case, case.uneven, kind="mc", generator=3)
    assert torch.equal(mc.at(mc.primals).to_dense(), mc.to_dense())


def test_a_damped_solve() -> None:
    case = perceptron()
    F_ = fisher(case, case.uneven)
    b = numbers(F_.shape[0])
    x = solve(F_, b, damping=0.1).x
    assert_same(x, torch.linalg.solve(information(case) + 0.1 * torch.eye(len(b), dtype=F64), b), 1e-4)


def test_errors_of_arguments() -> None:
    model, x, y = nn.Linear(2, 2), torch.ones(3, 2), torch.tensor([0, 1, 0])
    make = FisherOperator.from_module
    with pytest.raises(ValueError, match="kind must be one of 'exact', 'mc', 'empirical', got 'type-2'"):
        make(model, nn.CrossEntropyLoss(), [(x, y)], kind="type-2")
    with pytest.raises(ValueError, match='samples is for kind="mc"'):
        make(model, nn.CrossEntropyLoss(), [(x, y)], samples=2)
    with pytest.raises(ValueError, match="samples must be a positive integer"):
        make(model, nn.CrossEntropyLoss(), [(x, y)], kind="mc", samples=0)
    with pytest.raises(ValueError, match="class weights or label smoothing"):
        make(model, nn.CrossEntropyLoss(label_smoothing=0.1), [(x, y)])
    with pytest.raises(ValueError, match="pos_weight"):
        make(model, nn.BCEWithLogitsLoss(pos_weight=torch.ones(2)), [(x, x)])
    with pytest.raises(ValueError, match="HuberLoss is not known as the negative log-likelihood"):
        make(model, nn.HuberLoss(), [(x, x)])
    with pytest.raises(ValueError, match='has reduction="sum"; pass the operator the same'):
        make(model, nn.MSELoss(reduction="sum"), [(x, x)])
    with pytest.raises(ValueError, match='reduction="none"'):
        make(model, nn.MSELoss(reduction="none"), [(x, x)])
    with pytest.raises(TypeError, match=r"likelihood must be a loss module of torch\.nn or a function"):
        make(model, "normal", [(x, x)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"must return a torch\.distributions\.Distribution"):
        make(model, lambda z, b: z, [(x, x)])
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or a non-negative seed"):
        make(model, nn.MSELoss(), [(x, x)], kind="mc", generator=-1)
    with pytest.raises(ValueError, match="there is no data to take y from"):
        FisherOperator(lambda x: x, lambda z: Normal(z, 1.0), torch.ones(2), kind="empirical")
    with pytest.raises(TypeError, match="a loss module takes y of batches"):
        make(model, nn.CrossEntropyLoss(), [{"x": x}], forward=lambda m, b: m(b["x"]))


def test_categorical_distributions_with_the_last_dimension() -> None:
    case = perceptron()
    data = [(case.whole[0], torch.zeros(7, dtype=torch.int64))]
    as_loss = FisherOperator.from_module(case.model, nn.CrossEntropyLoss(), data)
    as_distribution = FisherOperator.from_module(case.model, lambda z, _: Categorical(logits=z), data)
    assert_same(as_loss.to_dense(), as_distribution.to_dense())
