"""The ways of multiplying a vector by a Hessian that the benchmarks compare, the library's and its peers'.

Each builder takes a problem and returns a function of a tangent, a tuple like the parameters. What a builder
does before it returns is set-up and is not timed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.contest import Absent
from benchmarks.problems import Problem

__all__ = ["BLOCKS", "FIXED_POINT", "ONE_OFF", "Builder", "flat", "gradient"]

Tangent = tuple[Tensor, ...]
Builder = Callable[[Problem], Callable[[Tangent], Any]]


def flat(tensors: Any) -> Tensor:
    """Return all entries of a tensor or of several, or of arrays, as one vector."""
    parts = [tensors] if isinstance(tensors, Tensor) else tensors
    return torch.cat(
        [torch.as_tensor(np.array(t) if not isinstance(t, Tensor) else t).reshape(-1) for t in parts]
    )


def gradient(problem: Problem) -> Callable[[], Any]:
    """Return one eager gradient: the unit in which products are counted."""

    def compute() -> tuple[Tensor, ...]:
        leaves = [p.detach().requires_grad_() for p in problem.params]
        return torch.autograd.grad(problem.func(*leaves), leaves)

    return compute


# ------------------------------------------------------------------------------- a product, nothing kept


def hvplib_hvp(problem: Problem) -> Callable[[Tangent], Any]:
    import hvplib

    return lambda v: hvplib.hvp(problem.func, problem.params, v)


def jvp_of_grad(problem: Problem) -> Callable[[Tangent], Any]:
    grad = torch.func.grad(problem.func, argnums=tuple(range(len(problem.params))))
    return lambda v: torch.func.jvp(grad, problem.params, v)[1]


def double_backward(problem: Problem) -> Callable[[Tangent], Any]:
    def product(v: Tangent) -> tuple[Tensor, ...]:
        leaves = [p.detach().requires_grad_() for p in problem.params]
        grads = torch.autograd.grad(problem.func(*leaves), leaves, create_graph=True)
        return torch.autograd.grad(grads, leaves, v)

    return product


def functional_hvp(problem: Problem) -> Callable[[Tangent], Any]:
    return lambda v: torch.autograd.functional.hvp(problem.func, problem.params, v)[1]


def functional_vhp(problem: Problem) -> Callable[[Tangent], Any]:
    return lambda v: torch.autograd.functional.vhp(problem.func, problem.params, v)[1]


# ------------------------------------------------------------------------------- a product at a fixed point


def hvplib_local_model(problem: Problem, engine: Any = "record") -> Callable[[Tangent], Any]:
    import hvplib

    return hvplib.local_model(problem.func, problem.params, engine=engine).hvp


def hvplib_operator(problem: Problem) -> Callable[[Tangent], Any]:
    import hvplib

    operator = hvplib.HessianOperator(problem.func, problem.params, engine="record")
    return lambda v: operator @ v


def jax_linearize(
    problem: Problem, *, constants: bool = True, block: bool = False
) -> Callable[[Tangent], Any]:
    """Its linearisation of the gradient, compiled; the tangent is an array of its own already.

    What is linearised are constants of the compiled function, which is mostly fastest, or its arguments.
    """
    import jax

    from benchmarks.problems.in_jax import in_jax

    func, params = in_jax(problem)
    _, push = jax.linearize(jax.grad(func, argnums=tuple(range(len(params)))), *params)
    linear, residuals = push, ()
    if not constants:
        linear, residuals = jax.closure_convert(push, *params)
    elif problem.name == "conv":
        raise Absent("–")  # XLA would fold them for minutes
    apply = jax.vmap(linear, in_axes=(0,) * len(params) + (None,) * len(residuals)) if block else linear
    compiled = jax.jit(apply)
    arrays: dict[int, Any] = {}  # converted once, outside the timing

    def product(v: Tangent) -> Any:
        if id(v) not in arrays:
            arrays[id(v)] = [jax.numpy.asarray(t.numpy()) for t in v]
        return jax.block_until_ready(compiled(*arrays[id(v)], *residuals))

    return product


def retained_graph(problem: Problem) -> Callable[[Tangent], Any]:
    leaves = [p.detach().requires_grad_() for p in problem.params]
    grads = torch.autograd.grad(problem.func(*leaves), leaves, create_graph=True)
    return lambda v: torch.autograd.grad(grads, leaves, v, retain_graph=True)


def linearize(problem: Problem) -> Callable[[Tangent], Any]:
    # Not for F.mse_loss(reduction="mean"): tracing forward mode through it ends the process in torch 2.13.
    grad = torch.func.grad(problem.func, argnums=tuple(range(len(problem.params))))
    _, push = torch.func.linearize(grad, *problem.params)
    return lambda v: push(*v)


def hvplib_block(problem: Problem, engine: Any = "record") -> Callable[[Tangent], Any]:
    import hvplib

    return hvplib.local_model(problem.func, problem.params, engine=engine).hvp_block


def looped(problem: Problem) -> Callable[[Tangent], Any]:
    """Our own products, one by one."""
    single = hvplib_local_model(problem)

    def product(v: Tangent) -> list[Tensor]:
        columns = [single(tuple(t[j] for t in v)) for j in range(v[0].shape[0])]
        return [torch.stack(parts) for parts in zip(*columns, strict=True)]

    return product


def batched_grads(problem: Problem) -> Callable[[Tangent], Any]:
    leaves = [p.detach().requires_grad_() for p in problem.params]
    grads = torch.autograd.grad(problem.func(*leaves), leaves, create_graph=True)
    return lambda v: torch.autograd.grad(grads, leaves, v, retain_graph=True, is_grads_batched=True)


def vmapped(problem: Problem) -> Callable[[Tangent], Any]:
    grad = torch.func.grad(problem.func, argnums=tuple(range(len(problem.params))))
    return lambda v: torch.func.vmap(lambda *t: torch.func.jvp(grad, problem.params, t)[1])(*v)


def curvlinops(problem: Problem) -> Callable[[Tangent], Any]:
    from curvlinops import HessianLinearOperator

    model, loss, batch = _module(problem)
    operator = HessianLinearOperator(
        model, loss, list(model.parameters()), [batch], check_deterministic=False
    )
    return lambda v: operator @ list(v)


def hessian_eigenthings(problem: Problem) -> Callable[[Tangent], Any]:
    from hessian_eigenthings.operators import HessianOperator

    model, loss, batch = _module(problem)
    operator = HessianOperator(model, [batch], lambda module, data: loss(module(data[0]), data[1]))
    vectors: dict[int, Tensor] = {}  # its own form of a vector is flat: converted once, outside the timing

    def product(v: Tangent) -> Tensor:
        if id(v) not in vectors:
            vectors[id(v)] = flat(v)
        return operator.matvec(vectors[id(v)])

    return product


def pyhessian(problem: Problem) -> Callable[[Tangent], Any]:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    model, loss, batch = _module(problem)
    kept = hessian(model, loss, data=batch, cuda=False)
    return lambda v: hessian_vector_product(kept.gradsH, kept.params, list(v))


def _module(problem: Problem) -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]:
    """Return a copy of the model (peers leave gradients behind), its loss and its batch."""
    if problem.model is None or problem.loss is None or problem.batch is None:
        raise Absent("–")
    return copy.deepcopy(problem.model), problem.loss, problem.batch


ONE_OFF: dict[str, Builder] = {
    "**hvplib.hvp**": hvplib_hvp,
    "torch.func: jvp(grad)": jvp_of_grad,
    "double backward by hand": double_backward,
    "torch.autograd.functional.hvp": functional_hvp,
    "torch.autograd.functional.vhp": functional_vhp,
}

BLOCKS: dict[str, Builder] = {
    "**hvplib.local_model(...).hvp_block**": hvplib_block,
    "**the same, compiled**": partial(hvplib_block, engine="compile"),
    "a loop over our own products": looped,
    "autograd.grad(is_grads_batched=True)": batched_grads,
    "torch.func: vmap(jvp(grad))": vmapped,
    "JAX: jit(vmap(linearize(grad)))": partial(jax_linearize, block=True),
    "JAX: the same, with arguments": partial(jax_linearize, constants=False, block=True),
}

FIXED_POINT: dict[str, Builder] = {
    "**hvplib.local_model(...).hvp**": hvplib_local_model,
    "**the same, compiled**": partial(hvplib_local_model, engine="compile"),
    "**the same, the graph**": partial(hvplib_local_model, engine="graph"),
    "**hvplib.HessianOperator @ v**": hvplib_operator,
    "retained graph by hand": retained_graph,
    "torch.func.linearize(grad)": linearize,
    "JAX: jit(linearize(grad))": jax_linearize,
    "JAX: the same, with arguments": partial(jax_linearize, constants=False),
    "curvlinops": curvlinops,
    "hessian-eigenthings": hessian_eigenthings,
    "PyHessian": pyhessian,
}
