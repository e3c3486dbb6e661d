"""The function as if it were called once: noise, captured state, stop-gradients, aux, clear errors."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from hvplib.ad.objective import Objective, scalar
from hvplib.errors import OutputError

X = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
LEAF = tree_flatten(X)[1]


def test_the_leaves_are_put_into_the_structure() -> None:
    spec = tree_flatten(({"a": X}, X))[1]
    objective = Objective(lambda d, y: (d["a"] * y).sum(), spec)
    assert float(objective([X, X + 1], "plain")) == 2 + 2 + 12


@pytest.mark.parametrize("source", ["torch", "numpy", "python", "named"])
def test_noise_repeats_and_the_generators_are_put_back(source: str) -> None:
    own = torch.Generator().manual_seed(3)
    draw = {
        "torch": lambda: float(torch.rand(())),
        "numpy": lambda: float(np.random.rand()),
        "python": random.random,
        "named": lambda: float(torch.rand((), generator=own)),
    }[source]
    seen: list[float] = []

    def func(x: Tensor) -> Tensor:
        seen.append(draw())
        return x.sum() * seen[-1]

    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), own.get_state()
    objective = Objective(func, LEAF)
    with objective.session():
        objective([X], "plain")
        objective([X], "plain")
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert torch.equal(own.get_state(), states[3])
    outside = draw()
    later = draw()
    assert outside == seen[0] != later
    now = torch.get_rng_state(), own.get_state()
    with objective.session():
        objective([X], "plain")
    assert len(set(seen)) == 1 and len(seen) == 3
    assert torch.equal(torch.get_rng_state(), now[0]) and torch.equal(own.get_state(), now[1])


def test_captured_tensors_are_put_back_and_seen_alike_by_each_evaluation() -> None:
    counter, seen = torch.zeros(1), []

    def func(x: Tensor) -> Tensor:
        seen.append(float(counter))
        counter.add_(1)
        return x.sum()

    objective = Objective(func, LEAF)
    with objective.session():
        objective([X], "plain")
        objective([X], "plain")
    assert float(counter) == 0 and seen == [0, 0]


def test_session_puts_back_after_an_error() -> None:
    counter, state = torch.zeros(1), torch.get_rng_state()

    def func(x: Tensor) -> Tensor:
        counter.add_(torch.rand(1))
        raise KeyError("mine")

    objective = Objective(func, LEAF)
    with pytest.raises(KeyError, match="mine"), objective.session():
        objective([X], "plain")
    assert float(counter) == 0 and torch.equal(torch.get_rng_state(), state)


def test_frozen_keeps_the_constants_of_the_point() -> None:
    objective = Objective(lambda x: (x * x.detach()).sum(), LEAF)
    frozen = objective.frozen([X])
    assert float(frozen([X + 1]).detach()) == float(((X + 1) * X).sum())
    objective.stops.forget()
    assert float(objective([X + 1], "plain")) == float(((X + 1) ** 2).sum())


def test_then_reduces_with_the_same_noise() -> None:
    objective = Objective(lambda x: x * torch.rand(3, dtype=x.dtype), LEAF)
    with objective.session():
        output = objective.evaluate([X], "plain")
        assert torch.equal(objective.then(lambda y: y.sum())([X], "plain"), output.sum())
        assert torch.equal(objective.then(lambda y: y[1])([X], "plain"), output[1])


def test_aux_is_kept_and_must_be_there() -> None:
    objective = Objective(lambda x: (x.sum(), "extra"), LEAF, has_aux=True)
    assert float(objective([X], "plain")) == 2 and objective.aux == "extra"
    with pytest.raises(OutputError, match=r"\(scalar, aux\).*got Tensor"):
        Objective(lambda x: x.sum(), LEAF, has_aux=True)([X], "plain")


def test_precision_is_the_coarsest_that_was_seen() -> None:
    objective = Objective(lambda x: (x.float() ** 2).sum(), LEAF)
    assert objective.precision([X]) == torch.float64
    objective([X.clone().requires_grad_()], "plain")
    assert objective.precision([X]) == torch.float32


def test_captured_inference_tensors_are_cloned() -> None:
    with torch.inference_mode():
        weight = torch.full((3,), 2.0, dtype=torch.float64)
    objective, x = Objective(lambda x: (x * weight).sum(), LEAF), X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective([x], "plain"), x)
    assert gradient.tolist() == [2, 2, 2] and "inference tensors cloned" in objective.used


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (None, "got None"),
        (1.5, "got float"),
        (torch.tensor(1j), "real scalar"),
        (torch.tensor(1), "integers have no derivative"),
        (torch.ones(2), r"got shape \(2,\)"),
    ],
)
def test_what_is_no_scalar_is_refused(output: Any, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        scalar(output)


def test_one_number_in_any_shape_is_a_scalar() -> None:
    assert scalar(torch.full((1, 1), 3.0)).shape == () and float(scalar(torch.full((1, 1), 3.0))) == 3
