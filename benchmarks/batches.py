"""The cost of a product over mini-batches: `python -m benchmarks.batches`.

The Hessian of the mean loss of a 784-512-512-10 classifier over 20 batches of 512 examples, times one vector,
in units of one eager gradient over the same 20 batches. Set-up and verification excluded.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import flat
from benchmarks.contest import contest
from benchmarks.problems import Problem, mlp3
from benchmarks.product import PEERS, UNIT, cell
from benchmarks.tables import arguments, publish, table

Batches = list[tuple[Tensor, Tensor]]


def batches(count: int, size: int = 512) -> Batches:
    """Return random images and labels in the shapes of the problem."""
    torch.manual_seed(1)
    return [(torch.randn(size, 784), torch.randint(10, (size,))) for _ in range(count)]


def loss_of(problem: Problem) -> Callable[..., Tensor]:
    """Return loss(parameters ..., (images, labels)): the mean cross-entropy of one batch."""
    model, criterion = problem.model, problem.loss
    assert model is not None and criterion is not None
    names = [name for name, _ in model.named_parameters()]

    def loss(*arguments: Any) -> Tensor:
        *params, (x, y) = arguments
        return criterion(torch.func.functional_call(model, dict(zip(names, params, strict=True)), (x,)), y)

    return loss


def gradient(problem: Problem, data: Batches) -> Callable[[], Any]:
    """Return the sum of one eager gradient per batch."""
    loss = loss_of(problem)

    def compute() -> list[Tensor]:
        leaves = [p.detach().requires_grad_() for p in problem.params]
        total = [torch.zeros_like(p) for p in leaves]
        for batch in data:
            grads = torch.autograd.grad(loss(*leaves, batch), leaves)
            for sum_, grad in zip(total, grads, strict=True):
                sum_ += grad
        return total

    return compute


def hvplib_operator(problem: Problem, data: Batches, **options: Any) -> Callable[[], Any]:
    import hvplib

    operator = hvplib.HessianOperator(loss_of(problem), problem.params, data, **options)
    v = flat(problem.tangents())
    return lambda: operator @ v


def by_hand(problem: Problem, data: Batches, *, kept: bool) -> Callable[[], Any]:
    leaves = [p.detach().requires_grad_() for p in problem.params]
    v, loss = problem.tangents(), loss_of(problem)

    def graph(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss(*leaves, batch), leaves, create_graph=True)

    graphs = [graph(batch) for batch in data] if kept else None

    def compute() -> list[Tensor]:
        total = [torch.zeros_like(p) for p in leaves]
        for grads in graphs if graphs is not None else map(graph, data):
            product = torch.autograd.grad(grads, leaves, v, retain_graph=kept)
            for sum_, part in zip(total, product, strict=True):
                sum_ += part / len(data)
        return total

    return compute


def curvlinops(problem: Problem, data: Batches) -> Callable[[], Any]:
    from curvlinops import HessianLinearOperator

    model = copy.deepcopy(problem.model)
    assert model is not None
    operator = HessianLinearOperator(
        model, problem.loss, list(model.parameters()), data, check_deterministic=False
    )
    v = list(problem.tangents())
    return lambda: operator @ v


def hessian_eigenthings(problem: Problem, data: Batches) -> Callable[[], Any]:
    from hessian_eigenthings.operators import HessianOperator

    model, criterion = copy.deepcopy(problem.model), problem.loss
    assert model is not None and criterion is not None
    operator = HessianOperator(model, data, lambda module, batch: criterion(module(batch[0]), batch[1]))
    v = flat(problem.tangents())
    return lambda: operator.matvec(v)


def pyhessian(problem: Problem, data: Batches) -> Callable[[], Any]:
    from pyhessian import hessian

    kept = hessian(copy.deepcopy(problem.model), problem.loss, dataloader=data, cuda=False)
    # Its list of parameters starts out with gradients that are None.
    kept.params = [p for p in kept.model.parameters() if p.requires_grad]
    v = list(problem.tangents())
    return lambda: kept.dataloader_hv_product(v)[1]


CONTENDERS: dict[str, Callable[[Problem, Batches], Callable[[], Any]]] = {
    "**hvplib.HessianOperator**, linearisations kept": hvplib_operator,
    "**hvplib.HessianOperator**, recomputed each pass": partial(hvplib_operator, memory_budget=0),
    "by hand: graphs retained": partial(by_hand, kept=True),
    "by hand: double backward": partial(by_hand, kept=False),
    "curvlinops": curvlinops,
    "hessian-eigenthings": hessian_eigenthings,
    "PyHessian": pyhessian,
}


def main() -> None:
    """Run the comparison and print it."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the peers' own
    data, problem = batches(3 if options.quick else 20), mlp3()
    right = flat(by_hand(problem, data, kept=False)())

    def error(name: str, result: Any) -> float:
        return 0.0 if name == UNIT else float((flat(result) - right).norm() / right.norm())

    builders = {name: partial(contender, problem, data) for name, contender in CONTENDERS.items()}
    scores = contest(
        {UNIT: partial(gradient, problem, data)} | builders,
        UNIT,
        error,
        budget=3.0 if options.quick else 60.0,
        at_least=3,
    )
    rows = {name: [cell(name, score)] for name, score in scores.items()}
    publish(
        "batches",
        f"A product over {len(data)} mini-batches of 512 (784-512-512-10)",
        {"In gradients over the same data": table("", ["cost"], rows)},
        packages=PEERS,
        save=options.save,
    )


if __name__ == "__main__":
    main()
