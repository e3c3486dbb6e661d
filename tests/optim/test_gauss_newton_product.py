"""Products with the generalised Gauss-Newton matrix beside the dense Jᵀ H_L J, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from hvplib.optim.gauss_newton_product import GaussNewton

Loss = Callable[[Tensor], Tensor]
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])
NUMBERS = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(6, 3)
LOSSES: dict[str, Loss] = {
    "cross-entropy": lambda z: F.cross_entropy(z, LABELS),
    "mean square": lambda z: F.mse_loss(z, NUMBERS),
    "fourth power": lambda z: (z - NUMBERS).pow(4).sum(),
    "Poisson": lambda z: F.poisson_nll_loss(z, NUMBERS.abs()),
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def dense(model: nn.Module, x: Tensor, loss: Loss) -> Tensor:
    """Jᵀ H_L J by torch.func, from the definition."""
    theta = {name: p.detach() for name, p in model.named_parameters()}
    rows = torch.func.jacrev(lambda t: functional_call(model, t, (x,)))(theta)
    J = torch.cat([rows[name].flatten(2).flatten(0, 1) for name in theta], dim=1)
    z = model(x).detach()
    H = torch.func.hessian(loss)(z).reshape(z.numel(), z.numel())
    return J.mT @ H @ J


def matrix(G: GaussNewton, params: list[Tensor]) -> Tensor:
    """G column by column."""
    n = sum(p.numel() for p in params)
    columns = []
    for unit in torch.eye(n, dtype=params[0].dtype):
        parts = unit.split([p.numel() for p in params])
        v = [part.reshape(p.shape) for part, p in zip(parts, params, strict=True)]
        columns.append(torch.cat([g.reshape(-1) for g in G.product(v)]))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("name", LOSSES)
def test_product_is_the_dense_matrix(model: nn.Module, x: Tensor, name: str) -> None:
    params = list(model.parameters())
    z = model(x)
    G = GaussNewton(params, LOSSES[name](z), [z], torch.float64)
    torch.testing.assert_close(matrix(G, params), dense(model, x, LOSSES[name]), rtol=1e-10, atol=1e-12)


def test_for_squares_it_is_the_normal_matrix_of_the_jacobian(model: nn.Module, x: Tensor) -> None:
    params = list(model.parameters())
    z = model(x)
    G = GaussNewton(params, 0.5 * (z - NUMBERS).square().sum(), [z], torch.float64)
    J = torch.stack(
        [
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(model(x).flatten()[i], params)])
            for i in range(18)
        ]
    )
    torch.testing.assert_close(matrix(G, params), J.mT @ J, rtol=1e-10, atol=1e-12)


def test_gradient_is_that_of_autograd(model: nn.Module, x: Tensor) -> None:
    params = list(model.parameters())
    z = model(x)
    G = GaussNewton(params, LOSSES["cross-entropy"](z), [z], torch.float64)
    expected = torch.autograd.grad(LOSSES["cross-entropy"](model(x)), params)
    for ours, theirs in zip(G.gradient, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_several_outputs_couple_through_the_loss(x: Tensor) -> None:
    torch.manual_seed(1)
    a, b = nn.Linear(4, 2).double(), nn.Linear(4, 2).double()
    params = [*a.parameters(), *b.parameters()]

    def loss(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).square().sum()

    u, v = a(x), b(x)
    G = matrix(GaussNewton(params, loss(u, v), [u, v], torch.float64), params)
    # The outputs are linear in the parameters: the Gauss-Newton matrix is the Hessian.
    sizes = [p.numel() for p in params]

    def of_vector(theta: Tensor) -> Tensor:
        wa, ba, wb, bb = (part.reshape(p.shape) for part, p in zip(theta.split(sizes), params, strict=True))
        return loss(x @ wa.mT + ba, x @ wb.mT + bb)

    H = torch.func.hessian(of_vector)(torch.cat([p.detach().reshape(-1) for p in params]))
    torch.testing.assert_close(G, H, rtol=1e-10, atol=1e-12)


def test_a_parameter_that_takes_no_part_has_zero_rows(model: nn.Module, x: Tensor) -> None:
    spare = torch.ones(2, dtype=torch.float64, requires_grad=True)
    params = [spare, *model.parameters()]
    z = model(x)
    G = GaussNewton(params, LOSSES["mean square"](z), [z], torch.float64)
    assert not G.gradient[0].any()
    assert not matrix(G, params)[:2].any()


def test_a_loss_linear_in_the_outputs_has_no_curvature(model: nn.Module, x: Tensor) -> None:
    z = model(x)
    G = GaussNewton(list(model.parameters()), (z * NUMBERS).sum(), [z], torch.float64)
    assert not any(part.any() for part in G.product([torch.ones_like(p) for p in model.parameters()]))


def test_an_output_that_is_one_of_several_results_of_an_operation(model: nn.Module, x: Tensor) -> None:
    params = list(model.parameters())
    first, second = model(x).split(3)
    loss = first.square().sum() + second.pow(4).sum()
    with pytest.raises(ValueError, match="other than through the outputs"):
        GaussNewton(params, loss, [first], torch.float64)
    G = GaussNewton(params, loss, [first, second], torch.float64)
    expected = dense(model, x, lambda z: z[:3].square().sum() + z[3:].pow(4).sum())
    torch.testing.assert_close(matrix(G, params), expected, rtol=1e-10, atol=1e-12)


def test_a_penalty_inside_the_loss_is_refused_with_a_remedy(model: nn.Module, x: Tensor) -> None:
    z = model(x)
    loss = LOSSES["cross-entropy"](z) + 1e-9 * sum(p.square().sum() for p in model.parameters())
    with pytest.raises(ValueError, match=r"(?s)other than through the outputs.*weight_decay"):
        GaussNewton(list(model.parameters()), loss, [z], torch.float64)


def test_the_remedy_for_other_penalties_works(model: nn.Module, x: Tensor) -> None:
    params = list(model.parameters())
    z, w = model(x), model[0].weight.clone()
    loss = LOSSES["cross-entropy"](z) + w.pow(4).sum()
    G = matrix(GaussNewton(params, loss, [z, w], torch.float64), params)
    penalty = torch.zeros_like(G)
    penalty[:20, :20] = torch.diag(12 * model[0].weight.detach().reshape(-1).square())
    expected = dense(model, x, LOSSES["cross-entropy"]) + penalty
    torch.testing.assert_close(G, expected, rtol=1e-10, atol=1e-12)


def test_outputs_that_the_loss_does_not_come_from_are_refused(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(ValueError, match="not computed from the outputs"):
        GaussNewton(list(model.parameters()), LOSSES["mean square"](model(x)), [model(x)], torch.float64)


def test_outputs_that_come_from_one_another_are_refused(model: nn.Module, x: Tensor) -> None:
    hidden = model[1](model[0](x))
    z = model[2](hidden)
    loss = LOSSES["mean square"](z) + hidden.square().sum()
    with pytest.raises(ValueError, match="computed from another"):
        GaussNewton(list(model.parameters()), loss, [hidden, z], torch.float64)
