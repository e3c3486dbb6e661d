"""Functions with Hessians in closed form, and two ways of getting one that share no code with the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=F64).to(dtype)


def directions(primals: Any, seed: int = 1) -> Any:
    """A random pytree like `primals`."""
    leaves, spec = tree_flatten(primals)
    vectors = [normal(*x.shape, seed=seed + i).to(x.dtype) for i, x in enumerate(leaves)]
    return tree_unflatten(vectors, spec)


def flat(tree: Any) -> Tensor:
    """The leaves of a pytree in one vector of float64."""
    return torch.cat([leaf.detach().to(F64).reshape(-1) for leaf in tree_flatten(tree)[0]])


def relative(got: Any, expected: Any) -> float:
    """‖got − expected‖ / ‖expected‖ over all leaves (absolute where expected is zero)."""
    left, right = flat(got), flat(expected)
    scale = right.norm()
    return float((left - right).norm() / (scale if scale > 0 else 1.0))


def difference_hessian(func: Callable[..., Tensor], primals: Any, step: float = 3e-3) -> Tensor:
    """(n, n): 6th-order central differences of plain reverse-mode gradients, column by column.

    At this step truncation and rounding are both about 1e-12 of the numbers at hand.
    """
    leaves, spec = tree_flatten(primals)
    sizes = [x.numel() for x in leaves]

    def slope(vector: Tensor) -> Tensor:
        parts = [
            p.reshape(x.shape).clone().requires_grad_()
            for p, x in zip(vector.split(sizes), leaves, strict=True)
        ]
        tree = tree_unflatten(parts, spec)
        with torch.enable_grad():
            value = func(*tree) if type(tree) is tuple else func(tree)
            grads = torch.autograd.grad(value, parts, allow_unused=True, materialize_grads=True)
        return flat(grads)

    point, columns = flat(primals), []
    for unit in step * torch.eye(sum(sizes), dtype=F64):
        odd = [slope(point + k * unit) - slope(point - k * unit) for k in (1, 2, 3)]
        columns.append((45 * odd[0] - 9 * odd[1] + odd[2]) / (60 * step))
    return torch.stack(columns, dim=1)


@dataclass(frozen=True)
class Problem:
    """A function, a point and its Hessian (n, n) there over the flattened primals, in closed form."""

    name: str
    func: Callable[..., Tensor]
    primals: Any
    dense: Tensor

    def product(self, tangents: Any) -> Tensor:
        return self.dense @ flat(tangents)


def _cubic() -> Problem:
    x = normal(4)
    off = x.prod() / torch.outer(x, x)
    return Problem(
        "cubic and product",
        lambda x: (x**3).sum() + x.prod(),
        x,
        torch.diag(6 * x) + off - off.diag().diag(),
    )


def _rosenbrock() -> Problem:
    x = torch.tensor([-1.2, 1.0, 0.7], dtype=F64)
    dense = torch.zeros(3, 3, dtype=F64)
    for i in range(2):
        dense[i, i] += 2 - 400 * (x[i + 1] - 3 * x[i] ** 2)
        dense[i + 1, i + 1] += 200
        dense[i, i + 1] = dense[i + 1, i] = -400 * x[i]
    return Problem(
        "rosenbrock",
        lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(),
        x,
        dense,
    )


def _logistic() -> Problem:
    features, weights = normal(20, 3, seed=2), normal(3, seed=3)
    labels = (normal(20, seed=4) > 0).to(F64)
    p = torch.sigmoid(features @ weights)
    return Problem(
        "logistic regression",
        lambda w: torch.nn.functional.binary_cross_entropy_with_logits(features @ w, labels),
        weights,
        features.T @ ((p * (1 - p) / 20)[:, None] * features),
    )


def _log_sum_exp() -> Problem:
    x = normal(2, 3, seed=5)
    p = x.flatten().softmax(0)
    return Problem("log-sum-exp", lambda x: x.flatten().logsumexp(0), x, p.diag() - torch.outer(p, p))


def _quartic_norm() -> Problem:
    x = normal(5, seed=6)
    return Problem(
        "norm to the fourth",
        lambda x: (x * x).sum() ** 2,
        x,
        4 * (x @ x) * torch.eye(5, dtype=F64) + 8 * torch.outer(x, x),
    )


def _bilinear_arguments() -> Problem:
    a, x, y = normal(3, 2, seed=7), normal(3, seed=8), normal(2, seed=9)
    dense = torch.zeros(5, 5, dtype=F64)
    dense[:3, 3:], dense[3:, :3] = a, a.T
    return Problem("bilinear, two arguments", lambda x, y: x @ a @ y, (x, y), dense)


def _nested_tree() -> Problem:
    tree = {"w": [normal(2, seed=10), normal(1, 2, seed=11)], "s": normal(seed=12)}
    w, z, s = flat(tree["w"][0]), flat(tree["w"][1]), tree["s"]
    # the leaves of a dict come in the order of insertion
    dense = torch.zeros(5, 5, dtype=F64)
    dense[0:2, 0:2] = s * z.sum() * torch.diag(2 * torch.ones(2, dtype=F64))
    dense[0:2, 2:4] = (s * 2 * w)[:, None].expand(2, 2)
    dense[2:4, 0:2] = dense[0:2, 2:4].T
    dense[0:2, 4] = dense[4, 0:2] = 2 * w * z.sum()
    dense[2:4, 4] = dense[4, 2:4] = (w * w).sum()
    return Problem("nested pytree", lambda t: t["s"] * (t["w"][0] ** 2).sum() * t["w"][1].sum(), tree, dense)


def _one_number() -> Problem:
    x = torch.tensor(0.4, dtype=F64)
    return Problem("one number", lambda x: x.exp() * x.sin(), x, (2 * x.exp() * x.cos()).reshape(1, 1))


def _bordered() -> Problem:
    n = 4
    x, b = normal(n, seed=13), normal(n, seed=14)
    spd = torch.eye(n, dtype=F64) + 0.1 * torch.outer(b, b)
    inverse = torch.linalg.inv(spd + torch.diag(x * x))
    # f = log det(S + diag(x²)): ∂ᵢf = 2 xᵢ (A⁻¹)ᵢᵢ, ∂ᵢⱼf = 2 δᵢⱼ (A⁻¹)ᵢᵢ − 4 xᵢ xⱼ (A⁻¹)ᵢⱼ²
    dense = torch.diag(2 * inverse.diag()) - 4 * torch.outer(x, x) * inverse**2
    return Problem("log determinant", lambda x: torch.logdet(spd + torch.diag(x * x)), x, dense)


PROBLEMS = [
    build()
    for build in (
        _cubic,
        _rosenbrock,
        _logistic,
        _log_sum_exp,
        _quartic_norm,
        _bilinear_arguments,
        _nested_tree,
        _one_number,
        _bordered,
    )
]


class Cube(torch.autograd.Function):
    """x³ with a right second derivative and no forward-mode formula."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class NewCube(torch.autograd.Function):
    """x³ with both derivatives given, and no batching rule."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * t


class CutCube(torch.autograd.Function):
    """x³ whose backward forgets that its residual depends on x: reverse mode sees no second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.x = x.detach()
        return x**3

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 3 * ctx.x**2 * g


class NoGradientField(torch.autograd.Function):
    """A backward that is the gradient of no function: (x₁², 0), whose derivative is not symmetric."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x[0] * x[1] ** 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return g * torch.stack([x[1] ** 2, 0 * x[0]])
