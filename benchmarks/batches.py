"""The cost of a product over mini-batches: `python -m benchmarks.batches`.

The Hessian of the mean loss over 20 batches, times one vector, in units of one eager gradient over the same
batches: of a 784-512-512-10 classifier on batches of 512, and of a 20-32-1 network on batches of 64. Set-up
and verification excluded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import flat
from benchmarks.contest import contest
from benchmarks.problems import Problem, mlp3, tiny
from benchmarks.product import PEERS, UNIT, cell
from benchmarks.tables import arguments, prepare, publish, table

Batches = list[tuple[Tensor, Tensor]]


def batches(count: int, size: int = 512) -> Batches:
    """Return random images and labels in the shapes of the classifier."""
    torch.manual_seed(1)
    return [(torch.randn(size, 784), torch.randint(10, (size,))) for _ in range(count)]


def small_batches(count: int, size: int = 64) -> Batches:
    """Return random examples and targets in the shapes of the small network."""
    torch.manual_seed(1)
    return [(torch.randn(size, 20), torch.randn(size, 1)) for _ in range(count)]


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

    operator = hvplib.HessianOperator(loss_of(problem), problem.params, data, engine="record", **options)
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


def compare(problem: Problem, data: Batches, *, quick: bool) -> str:
    """Return the table of one problem."""
    right = flat(by_hand(problem, data, kept=False)())

    def error(name: str, result: Any) -> float:
        return 0.0 if name == UNIT else float((flat(result) - right).norm() / right.norm())

    builders = {name: partial(contender, problem, data) for name, contender in CONTENDERS.items()}
    unit = {UNIT: partial(gradient, problem, data)}
    scores = contest(unit | builders, UNIT, error, budget=3.0 if quick else 30.0, at_least=3)
    return table("", ["cost"], {name: [cell(name, score)] for name, score in scores.items()})


def main() -> None:
    """Run the comparisons and print them."""
    options = arguments(__doc__).parse_args()
    prepare(options)
    count = 3 if options.quick else 20
    publish(
        "batches",
        "A product over mini-batches, in gradients over the same data",
        {
            f"{count} batches of 64, 20-32-1": compare(tiny(), small_batches(count), quick=options.quick),
            f"{count} batches of 512, 784-512-512-10": compare(mlp3(), batches(count), quick=options.quick),
        },
        packages=PEERS,
        save=options.save,
    )


if __name__ == "__main__":
    main()
