"""Dense curvature matrices by loops over torch's plain first and second derivatives: the judges."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Params = Mapping[str, Tensor]


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters that require grad, each once."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def flat_function(
    model: nn.Module, forward: Callable[[nn.Module], Tensor]
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """θ (n,) ↦ the outputs of `forward(model)` as a vector, and the present θ."""
    model = copy.deepcopy(model)  # functional_call does not put back a module that stands in two places
    theta = parameters(model)
    sizes = [p.numel() for p in theta.values()]

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return forward(self.model)

    def function(vector: Tensor) -> Tensor:
        parts = vector.split(sizes)
        state = {f"model.{n}": v.view_as(p) for (n, p), v in zip(theta.items(), parts, strict=True)}
        state |= {f"model.{n}": b.clone() for n, b in model.named_buffers()}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(Caller(), state).reshape(-1)

    return function, torch.cat([p.reshape(-1) for p in theta.values()])


def jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Row by row."""
    x = at.clone().requires_grad_()
    y = function(x)
    rows = [torch.autograd.grad(part, x, retain_graph=True, allow_unused=True)[0] for part in y]
    return torch.stack([torch.zeros_like(x) if row is None else row for row in rows])


def hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Row by row, by double backward."""
    x = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x), x, create_graph=True)
    if not gradient.requires_grad:
        return at.new_zeros(at.numel(), at.numel())
    rows = [torch.autograd.grad(part, x, retain_graph=True, allow_unused=True)[0] for part in gradient]
    return torch.stack([torch.zeros_like(x) if row is None else row for row in rows])


def gauss_newton(
    function: Callable[[Tensor], Tensor], at: Tensor, loss: Callable[[Tensor], Tensor]
) -> Tensor:
    """Jᵀ ∇²ℓ J, with the loss a function of the flat outputs."""
    J = jacobian(function, at)
    return J.mT @ hessian(loss, function(at).detach()) @ J


def second_moment(function: Callable[[Tensor], Tensor], at: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i g_i g_iᵀ of the gradients of the entries of a function."""
    B = jacobian(function, at)
    return B.mT @ (weights.reshape(-1, 1) * B)


def assert_same(left: Tensor, right: Tensor, tolerance: float = 1e-10) -> None:
    """The same within a share of the largest entry."""
    scale = float(right.abs().max()) or 1.0
    assert left.shape == right.shape
    assert float((left - right).abs().max()) <= tolerance * scale, float((left - right).abs().max()) / scale


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """Reproducible normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
