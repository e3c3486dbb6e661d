"""GGNOperator: Jᵀ ∇²ℓ J by loops is the judge, on batches as on one, kept and frugal; its refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hvplib import DerivativeError, GGNOperator, HessianOperator, check_operator, solve
from hvplib.ad.outer_loss import NotConvexError
from tests.architectures import CASES, Case, perceptron, transformer
from tests.curvatures import assert_same, flat_function, gauss_newton, numbers

F64 = torch.float64
BUDGETS = ["auto", 0]


def ggn(case: Case, data: list[Any], **options: Any) -> GGNOperator:
    return GGNOperator.from_module(case.model, case.loss, data, forward=case.forward, **options)


def dense(case: Case) -> Tensor:
    function, at = flat_function(case.model, lambda m: case.forward(m, case.whole))
    y = case.labels(case.whole)
    return gauss_newton(function, at, lambda z: F.cross_entropy(z.view(len(y), -1), y))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("make", CASES)
def test_the_dense_matrix_is_the_judge(make: Callable[[], Case], budget: Any) -> None:
    case = make()
    expected = dense(case)
    for data in ([case.whole], case.uneven):
        G = ggn(case, data, memory_budget=budget)
        assert_same(G.to_dense(), expected)
        v = numbers(G.shape[0])
        assert_same(G @ v, expected @ v)
        assert G.num_kept == (len(data) if budget == "auto" else 0)
        assert G.positive_semidefinite and G.report is not None


@pytest.mark.parametrize("budget", BUDGETS)
def test_value_and_gradient_are_the_losses(budget: Any) -> None:
    case = transformer()
    G = ggn(case, case.uneven, memory_budget=budget)
    H = HessianOperator.from_module(case.model, lambda m, b: case.loss(case.forward(m, b), b), case.uneven)
    assert_same(G.value, H.value)
    assert_same(G.flat_gradient, H.flat_gradient)
    assert G.total_weight == H.total_weight


@pytest.mark.parametrize("budget", BUDGETS)
def test_it_is_the_hessian_of_a_linear_model(budget: Any) -> None:
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(3, 4).double(), (numbers(9, 3), torch.arange(9) % 4)
    data = [(x[:5], y[:5]), (x[5:], y[5:])]
    G = GGNOperator.from_module(model, nn.CrossEntropyLoss(), data, memory_budget=budget)
    H = HessianOperator.from_module(model, nn.CrossEntropyLoss(), data)
    assert_same(G.to_dense(), H.to_dense())


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "square": lambda z, y: (z - y).square().mean(),
    "huber": lambda z, y: F.huber_loss(z, y, delta=0.7),
    "softplus": lambda z, y: F.softplus(z * y.sign()).mean(),
    "log cosh": lambda z, y: (z - y).cosh().log().mean(),
    "log-sum-exp": lambda z, y: (z - y).logsumexp(-1).mean(),
    "quartic": lambda z, y: ((z - y) ** 4).mean(),
    "poisson": lambda z, y: F.poisson_nll_loss(z, y.abs()),
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", LOSSES)
def test_any_convex_loss(name: str, budget: Any) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = numbers(5, 2), numbers(5, 2, seed=1)
    function, at = flat_function(model, lambda m: m(x))
    expected = gauss_newton(function, at, lambda z: LOSSES[name](z.view(5, 2), y))
    data = [(x[:3], y[:3]), (x[3:], y[3:])]
    G = GGNOperator.from_module(model, lambda z, b: LOSSES[name](z, b[1]), data, memory_budget=budget)
    assert_same(G.to_dense(), expected)


@pytest.mark.parametrize("budget", BUDGETS)
def test_outputs_and_points_may_be_pytrees(budget: Any) -> None:
    def model(a: Tensor, b: dict[str, Tensor], batch: Tensor) -> dict[str, Any]:
        return {"u": (a * batch).sum(), "v": [b["w"] ** 2, a.prod()]}

    def loss(z: dict[str, Any], batch: Tensor) -> Tensor:
        return z["u"] ** 2 + (z["v"][0].sum() + z["v"][1]) ** 2

    point = (numbers(2), {"w": numbers(3, seed=1)})
    batch = torch.tensor([2.0, -1.0], dtype=F64)
    G = GGNOperator(model, loss, point, [batch], reduction="sum", memory_budget=budget)

    def flat(x: Tensor) -> Tensor:
        z = model(x[:2], {"w": x[2:]}, batch)
        return torch.stack([z["u"], z["v"][0].sum() + z["v"][1]])

    expected = gauss_newton(flat, torch.cat([point[0], point[1]["w"]]), lambda z: z.square().sum())
    assert_same(G.to_dense(), expected)
    product = G @ (torch.ones(2, dtype=F64), {"w": torch.zeros(3, dtype=F64)})
    assert_same(torch.cat([product[0], product[1]["w"]]), expected[:, :2].sum(1))


# Weights, noise, state.


def test_a_batch_of_weight_zero_counts_for_nothing() -> None:
    case = perceptron()
    nothing = (case.whole[0][:2], torch.full((2,), -100))
    for budget in BUDGETS:
        G = ggn(case, [nothing, *case.uneven], memory_budget=budget)
        assert_same(G.to_dense(), dense(case))


def test_weights_and_sums() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(2, 1).double(), numbers(5, 2), numbers(5, 1, seed=1)
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    weighted = GGNOperator.from_module(
        model, lambda z, b: F.mse_loss(z, b[1]), data, weight=lambda b: 3.0 * len(b[0])
    )
    plain = GGNOperator.from_module(model, nn.MSELoss(), data)
    summed = GGNOperator.from_module(model, nn.MSELoss(reduction="sum"), data, reduction="sum")
    assert weighted.total_weight == 15
    assert_same(weighted.to_dense(), plain.to_dense())
    assert_same(summed.to_dense(), 5 * plain.to_dense())


@pytest.mark.parametrize("budget", BUDGETS)
def test_dropout_keeps_one_noise_and_generators_stand_still(budget: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2)).double()
    data = [(numbers(4, 3), torch.tensor([0, 1, 1, 0])), (numbers(3, 3, seed=1), torch.tensor([0, 0, 1]))]
    before = torch.random.get_rng_state()
    G = GGNOperator.from_module(model, nn.CrossEntropyLoss(), data, memory_budget=budget)
    H = HessianOperator.from_module(model, nn.CrossEntropyLoss(), data)
    v = numbers(G.shape[0])
    assert torch.equal(G @ v, G @ v)
    assert_same(G.flat_gradient, H.flat_gradient)  # the same noise
    other = GGNOperator.from_module(model, nn.CrossEntropyLoss(), data, seed=1)
    assert float((other @ v - G @ v).norm()) > 1e-3 * float((G @ v).norm())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert G.notes == ("1 (Dropout, train mode) keeps one noise, or the statistics of each batch",)


@pytest.mark.parametrize("budget", BUDGETS)
def test_nothing_of_the_module_changes(budget: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().train()
    before = copy.deepcopy(model.state_dict())
    G = GGNOperator.from_module(
        model, nn.CrossEntropyLoss(), [(numbers(6, 3), torch.arange(6) % 2)], memory_budget=budget
    )
    _ = G @ numbers(G.shape[0])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training


def test_batch_norm_in_training_and_shared_and_frozen_parameters() -> None:
    torch.manual_seed(4)
    shared = nn.Linear(3, 3).double()
    model = nn.Sequential(shared, nn.BatchNorm1d(3), nn.Tanh(), shared, nn.Linear(3, 2)).double().train()
    model[4].weight.requires_grad_(False)
    x, y = numbers(6, 3), torch.arange(6) % 2
    function, at = flat_function(model, lambda m: m(x))
    expected = gauss_newton(function, at, lambda z: F.cross_entropy(z.view(6, 2), y))
    for budget in BUDGETS:
        G = GGNOperator.from_module(model, nn.CrossEntropyLoss(), [(x, y)], memory_budget=budget)
        assert_same(G.to_dense(), expected)


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_part_of_the_parameters(budget: Any) -> None:
    case = perceptron()
    full, part = ggn(case, [case.whole]), ggn(case, case.uneven, params="0.weight", memory_budget=budget)
    i = full.domain.indices("0.weight")
    assert_same(part.to_dense(), full.to_dense()[i][:, i])


def test_float32_and_one_example() -> None:
    case, exact = perceptron(torch.float32), perceptron()
    for budget in BUDGETS:
        G = ggn(case, case.uneven, memory_budget=budget)
        assert G.torch_dtype == torch.float32
        assert_same(G.to_dense().double(), dense(exact), 1e-4)
    x, y = exact.whole
    one = GGNOperator.from_module(exact.model, nn.CrossEntropyLoss(), [(x[:1], y[:1])])
    function, at = flat_function(exact.model, lambda m: m(x[:1]))
    assert_same(one.to_dense(), gauss_newton(function, at, lambda z: F.cross_entropy(z.view(1, -1), y[:1])))


def test_the_point_is_copied_and_at_moves_it() -> None:
    x = torch.ones(2, dtype=F64)
    G = GGNOperator(lambda x: x**2, lambda z: z.square().sum() / 2, x, memory_budget=0)
    x.zero_()
    assert_same(G.to_dense(), 4 * torch.eye(2, dtype=F64))
    moved = G.at(torch.full((2,), 2.0, dtype=F64))
    assert_same(moved.to_dense(), 16 * torch.eye(2, dtype=F64))
    assert_same(
        moved.at(torch.full((2,), 3.0, dtype=F64), memory_budget="auto").to_dense(),
        36 * torch.eye(2, dtype=F64),
    )


def test_it_passes_its_own_check_and_solves() -> None:
    case = perceptron()
    G = ggn(case, case.uneven)
    assert check_operator(G).ok
    b = numbers(G.shape[0])
    x = solve(G, b, damping=0.1).x
    assert_same(x, torch.linalg.solve(dense(case) + 0.1 * torch.eye(len(b), dtype=F64), b), 1e-4)


# Refusals.


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_loss_that_is_not_convex_is_noticed(budget: Any) -> None:
    point = torch.tensor([1.0, 2.0, 0.3], dtype=F64)
    with pytest.raises(
        NotConvexError, match=r"not convex in the outputs.*HessianOperator.*positive_semidefinite=False"
    ):
        GGNOperator(lambda x: x**2, lambda z: z.cos().sum(), point, memory_budget=budget) @ torch.eye(
            3, dtype=F64
        )


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("budget", BUDGETS)
def test_one_concave_direction_among_many(dtype: torch.dtype, budget: Any) -> None:
    """Only the product along it can tell; the others are right."""
    scale = torch.ones(40, dtype=dtype)
    scale[7] = -1e-2
    G = GGNOperator(
        lambda x: 2 * x,
        lambda z: (scale * z.square()).sum() / 2,
        torch.ones(40, dtype=dtype),
        memory_budget=budget,
    )
    e = torch.eye(40, dtype=dtype)
    assert_same(G @ e[3], 4 * e[3], 1e-6)
    with pytest.raises(NotConvexError):
        G @ e[7]
    with pytest.raises(NotConvexError):
        G @ e[:, 5:9]


@pytest.mark.parametrize("budget", BUDGETS)
def test_it_is_had_all_the_same_on_request(budget: Any) -> None:
    point = torch.tensor([1.0, 2.0, 0.3], dtype=F64)
    G = GGNOperator(
        lambda x: x**2, lambda z: z.cos().sum(), point, positive_semidefinite=False, memory_budget=budget
    )
    assert G.symmetric and not G.positive_semidefinite
    assert_same(G.to_dense(), torch.diag(-4 * point**2 * (point**2).cos()))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("height", [1.0, 30.0, 500.0])
def test_rounding_is_no_concavity(height: float, budget: Any, dtype: torch.dtype) -> None:
    """Saturated softmax, and the direction that moves all logits alike: the curvature is rounding."""
    z = height * numbers(20, 5, dtype=dtype)
    y = z.argmax(1)
    G = GGNOperator(
        lambda shift: z + shift,
        lambda z: F.cross_entropy(z, y),
        torch.zeros(20, 5, dtype=dtype),
        memory_budget=budget,
    )
    for v in (torch.ones(100, dtype=dtype), *numbers(5, 100, dtype=dtype), torch.eye(100, dtype=dtype)[3]):
        assert float((G @ v).norm()) < 1.0


def test_a_wrong_derivative_is_refused() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return 2.5 * x**2 * g

        @staticmethod
        def jvp(ctx: Any, t: Tensor) -> Tensor:
            return t

    for budget in BUDGETS:
        with pytest.raises(DerivativeError):
            GGNOperator(
                Wrong.apply, lambda z: z.square().sum(), torch.ones(3, dtype=F64), memory_budget=budget
            ) @ torch.ones(3, dtype=F64)


def test_a_loss_with_a_wrong_second_derivative_is_refused() -> None:
    class Quartic(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            ctx.save_for_backward(z)
            return (z**4).sum()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (z,) = ctx.saved_tensors
            return (4 * z.detach() ** 2 * z) * g  # right, with a wrong derivative of its own

    for budget in BUDGETS:
        with pytest.raises(DerivativeError):
            GGNOperator(
                lambda x: x, Quartic.apply, torch.tensor([1.0, 2.0], dtype=F64), memory_budget=budget
            ) @ torch.ones(2, dtype=F64)


def test_a_model_that_changes_is_noticed() -> None:
    calls: list[int] = []

    def model(x: Tensor) -> Tensor:
        calls.append(1)
        return x * len(calls)

    with pytest.raises(RuntimeError, match="not deterministic"):
        GGNOperator(model, lambda z: z.square().sum(), torch.ones(2, dtype=F64))


def test_errors_of_arguments() -> None:
    model, x, y = nn.Linear(2, 2), torch.ones(3, 2), torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match='has reduction="sum"; pass the operator the same'):
        GGNOperator.from_module(model, nn.CrossEntropyLoss(reduction="sum"), [(x, y)])
    with pytest.raises(TypeError, match="got dict; pass forward=, a function of"):
        GGNOperator.from_module(model, nn.CrossEntropyLoss(), [{"x": x, "y": y}])
    with pytest.raises(TypeError, match=r"got dict; pass a function loss\(outputs, batch\)"):
        GGNOperator.from_module(model, nn.CrossEntropyLoss(), [{"x": x}], forward=lambda m, b: m(b["x"]))
    with pytest.raises(TypeError, match="loss must be a function of"):
        GGNOperator.from_module(model, "mse", [(x, y)])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one tensor"):
        GGNOperator(lambda x: x, lambda z: z.sum(), {})
    with pytest.raises(TypeError, match="data must be an iterable of batches"):
        GGNOperator.from_module(model, nn.CrossEntropyLoss(), (x, y))
    with pytest.raises(ValueError, match="returns a weight and weight= gives another"):
        GGNOperator(lambda p, b: p, lambda z, b: (z.sum(), 1.0), x, [x], weight=len)


def test_a_gaussian_likelihood_with_two_outputs() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2).double(), numbers(6, 3), numbers(6, seed=1)

    def forward(m: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        mean, raw = m(batch[0]).unbind(-1)
        return mean, F.softplus(raw)

    G = GGNOperator.from_module(
        model,
        nn.GaussianNLLLoss(),
        [(x[:2], y[:2]), (x[2:], y[2:])],
        forward=forward,
        positive_semidefinite=False,
    )
    function, at = flat_function(model, lambda m: torch.stack(forward(m, (x, y))))
    expected = gauss_newton(function, at, lambda z: F.gaussian_nll_loss(z[:6], y, z[6:]))
    assert_same(G.to_dense(), expected)
