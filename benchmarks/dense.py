"""The dense Hessian, time and peak memory: `python -m benchmarks.dense`.

Small tanh networks with N near 100, 1000 and 5000 unknowns on 64 examples, the unknowns once as a tuple of
tensors (as a model has them) and once as one vector. Speed is the median over rounds of the time of
`torch.func.hessian` over that of the contender in the same round. The peak is how far the contender raises
the resident memory of a fresh process, in units of the Hessian's own bytes.

And the Hessians of one small function at a thousand points, by `torch.func.vmap`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.contest import Absent, Score, contest
from benchmarks.memory import measured_in_child, peak_growth
from benchmarks.problems import DENSE, Problem, in_double
from benchmarks.tables import arguments, figure, prepare, publish, table

UNIT = "torch.func.hessian"
FORMS = ("a tuple of tensors", "one vector")
POINTS = 1000
_CHUNK = 128


@dataclass(frozen=True)
class Task:
    """A function of tensors, its arguments, and which of them are the unknowns."""

    func: Callable[..., Tensor]
    args: tuple[Tensor, ...]
    argnums: int | tuple[int, ...]
    problem: Problem | None = None


def task(problem: Problem, form: str) -> Task:
    """Return the problem with its unknowns as they are or laid end to end."""
    if form == FORMS[0]:
        return Task(problem.func, problem.params, tuple(range(len(problem.params))), problem)
    sizes = [p.numel() for p in problem.params]

    def func(x: Tensor) -> Tensor:
        parts = zip(x.split(sizes), problem.params, strict=True)
        return problem.func(*(part.view(p.shape) for part, p in parts))

    return Task(func, (torch.cat([p.reshape(-1) for p in problem.params]),), 0)


def hvplib_hessian(of: Task) -> Any:
    import hvplib

    return hvplib.hessian(of.func, of.argnums)(*of.args)


def torch_hessian(of: Task) -> Any:
    return torch.func.hessian(of.func, of.argnums)(*of.args)


def chunked_reverse(of: Task) -> Any:
    grad = torch.func.grad(of.func, of.argnums)
    return torch.func.jacrev(grad, of.argnums, chunk_size=_CHUNK)(*of.args)


def forward_of_grad(of: Task) -> Any:
    return torch.func.jacfwd(torch.func.grad(of.func, of.argnums), of.argnums)(*of.args)


def autograd_vectorized(of: Task) -> Any:
    return torch.autograd.functional.hessian(of.func, of.args, vectorize=True)


def autograd_loop(of: Task) -> Any:
    return torch.autograd.functional.hessian(of.func, of.args)


def hvplib_known(of: Task) -> Callable[[], Any]:
    import hvplib

    known = hvplib.hessian(of.func, of.argnums)
    for _ in range(8):  # proven at the first call, recorded by the sixth
        known(*of.args)
    return lambda: known(*of.args)


def jax_hessian(of: Task) -> Callable[[], Any]:
    import jax

    from benchmarks.problems.in_jax import in_jax

    if of.problem is None:
        raise Absent("–")  # the unknowns as one vector: the same for JAX
    func, params = in_jax(of.problem)
    compiled = jax.jit(jax.hessian(func, argnums=tuple(range(len(params)))))
    jax.block_until_ready(compiled(*params))

    def call() -> Any:
        blocks = jax.block_until_ready(compiled(*params))
        return [torch.from_numpy(np.asarray(leaf)) for leaf in jax.tree.leaves(blocks)]

    return call


# Set up first, not timed: what has been compiled, or called before.
PREPARED: dict[str, Callable[[Task], Callable[[], Any]]] = {
    "**hvplib.hessian, called before**": hvplib_known,
    "jax.hessian, jit": jax_hessian,
}
CONTENDERS: dict[str, Callable[[Task], Any]] = {
    "**hvplib.hessian**": hvplib_hessian,
    UNIT: torch_hessian,
    "jacfwd(grad)": forward_of_grad,
    f"jacrev(grad, chunk_size={_CHUNK})": chunked_reverse,
    "torch.autograd.functional.hessian, vectorize": autograd_vectorized,
    "torch.autograd.functional.hessian": autograd_loop,
}
ONE_FORM = {"jax.hessian, jit"}  # the unknowns as one vector: the same for JAX
_TOO_SLOW = {"torch.autograd.functional.hessian": 2000}  # unknowns from which a contender is left out


def started(name: str, of: Task) -> Callable[[], Any]:
    """Return what is timed of a contender."""
    return PREPARED[name](of) if name in PREPARED else partial(CONTENDERS[name], of)


def matrix(blocks: Any, size: int) -> Tensor:
    """Return the blocks of a Hessian, in whatever containers, as an (N, N) matrix."""
    leaves = tree_leaves(blocks)
    count = round(len(leaves) ** 0.5)
    if count == 1:
        return leaves[0].reshape(size, size)
    heights = [_height(leaves[i * count : (i + 1) * count], size) for i in range(count)]
    return torch.cat(
        [
            torch.cat([b.reshape(height, -1) for b in leaves[i * count : (i + 1) * count]], 1)
            for i, height in enumerate(heights)
        ]
    )


def _height(row: list[Tensor], size: int) -> int:
    return sum(block.numel() for block in row) // size


def compare(problem: Problem, form: str, names: Sequence[str], *, quick: bool) -> dict[str, list[str]]:
    """Return for each contender named its time and its speed beside the unit's."""
    of, size = task(problem, form), problem.size
    right = matrix(chunked_reverse(task(in_double(problem), form)), size)

    def error(_name: str, result: Any) -> float:
        return float((matrix(result, size).double() - right).norm() / right.norm())

    def builder(name: str) -> Callable[[], object]:
        if size > _TOO_SLOW.get(name, size):
            raise Absent("–")
        return started(name, of)

    builders = {name: partial(builder, name) for name in names}
    scores = contest(builders, UNIT, error, budget=1.0 if quick else 6.0, at_least=3)
    return {name: cells(score) for name, score in scores.items()}


def cells(score: Score) -> list[str]:
    """Return the time and the speed of one contender."""
    if score.seconds is None or score.ratio is None:
        return [score.remark, ""]
    return [f"{figure(1e3 * score.seconds)} ms {score.remark}".strip(), f"{figure(1 / score.ratio)}×"]


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def logistic(x: Tensor) -> Tensor:
    data = torch.linspace(-1, 1, 20 * x.numel(), dtype=x.dtype).cos().view(20, -1)
    return torch.nn.functional.softplus(data @ x).sum() + x @ x


MAPPED: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "Rosenbrock, n=4": (rosenbrock, 4),
    "Rosenbrock, n=10": (rosenbrock, 10),
    "logistic regression, n=4": (logistic, 4),
    "logistic regression, n=10": (logistic, 10),
}


def compare_mapped(label: str, *, quick: bool) -> dict[str, list[str]]:
    """Return for each contender its time, and its speed beside the unit's, at many points at once."""
    import hvplib

    func, size = MAPPED[label]
    points = torch.randn(POINTS, size, generator=torch.Generator().manual_seed(0))
    makers = {"**hvplib.hessian**": hvplib.hessian, UNIT: torch.func.hessian}
    right = torch.func.vmap(torch.func.hessian(func))(points.double())

    def error(_name: str, result: Any) -> float:
        return float((result.double() - right).norm() / right.norm())

    builders = {name: partial(partial, torch.func.vmap(make(func)), points) for name, make in makers.items()}
    scores = contest(builders, UNIT, error, budget=1.0 if quick else 4.0, at_least=3)
    return {name: cells(score) for name, score in scores.items()}


def peaks(label: str, form: str, names: Sequence[str], threads: int) -> list[str]:
    """Return for each contender named how a fresh process's peak grows, in units of the Hessian's bytes."""
    size = DENSE[label]().size
    found = []
    for name in names:
        if size > _TOO_SLOW.get(name, size) or (name in ONE_FORM and form != FORMS[0]):
            found.append("–")
            continue
        arguments_ = ["--measure", label, form, name, "--threads", str(threads)]
        grown = measured_in_child("benchmarks.dense", arguments_)
        found.append(grown if isinstance(grown, str) else f"{figure(grown / (4 * size * size))} H")
    return found


def measure(label: str, form: str, name: str) -> int:
    """Return the bytes by which one contender raises this process's peak."""
    importlib.import_module("torch._dynamo")  # torch loads it sooner or later; it takes 50 MB
    small = task(next(iter(DENSE.values()))(), form)
    of = task(DENSE[label](), form)
    return peak_growth(lambda: started(name, of)(), lambda: started(name, small)())


def main() -> None:
    """Run the comparison and print it."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--measure", nargs=3, metavar=("PROBLEM", "FORM", "CONTENDER"), help="peak of one run"
    )
    options = parser.parse_args()
    prepare(options)
    if options.measure:
        print(measure(*options.measure))
        return
    names = ["**hvplib.hessian**", *PREPARED, *list(CONTENDERS)[1:]]
    names = names[:4] if options.quick else names
    sections = {}
    for form in FORMS:
        columns: list[str] = []
        rows: dict[str, list[str]] = {name: [] for name in names}
        for label, build in DENSE.items():
            # Below a megabyte the peak is the allocator's, not the contender's.
            with_peak = build().size > 500
            columns += [label, "speed", *(["peak"] * with_peak)]
            timed = compare(build(), form, names, quick=options.quick)
            peak = peaks(label, form, names, options.threads) if with_peak else []
            for index, name in enumerate(names):
                rows[name] += [*timed[name], *peak[index : index + 1]]
        sections[f"The unknowns as {form}"] = table("", columns, rows)
    columns = [cell for label in MAPPED for cell in (label, "speed")]
    mapped = {label: compare_mapped(label, quick=options.quick) for label in MAPPED}
    rows = {
        name: [cell for of in mapped.values() for cell in of[name]] for name in ("**hvplib.hessian**", UNIT)
    }
    sections[f"One function at {POINTS} points, by torch.func.vmap"] = table("", columns, rows)
    publish("dense", "The dense Hessian", sections, packages=("hvplib", "jax"), save=options.save)


if __name__ == "__main__":
    main()
