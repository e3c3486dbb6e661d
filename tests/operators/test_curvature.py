"""HessianOperator: right against closed forms and the dense Hessian, on batches as on one; its errors."""

from __future__ import annotations

import copy
import gc
import random
import re
import weakref
from collections import UserDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from hvplib import DerivativeError, HessianOperator, hessian, supervised
from hvplib.ad.local_model import LocalModel
from tests.ad.problems import normal
from tests.contracts import numbers
from tests.problems import PROBLEMS, Problem

F64 = torch.float64


def loss_of(model: Any, batch: Any) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def examples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, generator=rng, dtype=F64), torch.randint(3, (count,), generator=rng)


def dense_of(func: Any, tree: Any, operator: HessianOperator) -> Tensor:
    """The Hessian of the flattened function, by the library's dense path."""
    space = operator.domain
    return hessian(lambda v: func(space.unflatten(v)))(space.flatten(tree))


def assert_same(left: Tensor, right: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(
        left, right, rtol=tolerance, atol=tolerance * max(1.0, float(right.abs().max()))
    )


# Closed forms.


@pytest.mark.parametrize("strategy", ["auto", "forward-over-reverse"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_closed_forms(problem: Problem, strategy: str) -> None:
    operator = HessianOperator(problem.func, problem.point, strategy=strategy)
    assert_same(operator.value, problem.func(problem.point))
    assert_same(operator.gradient, problem.gradient)
    assert_same(operator.to_dense(), problem.hessian, 1e-11)


def test_it_mirrors_trees_and_tuples_of_arguments() -> None:
    operator = HessianOperator(
        lambda x, y: (x**2 * y["b"]).sum(), (torch.ones(2), {"b": torch.full((2,), 3.0)})
    )
    gradient = operator.gradient
    assert isinstance(gradient, tuple)
    assert torch.equal(gradient[0], torch.full((2,), 6.0)) and torch.equal(gradient[1]["b"], torch.ones(2))
    product = operator @ (torch.ones(2), {"b": torch.zeros(2)})
    assert torch.equal(product[0], torch.full((2,), 6.0)) and torch.equal(
        product[1]["b"], torch.full((2,), 2.0)
    )


def test_the_point_is_copied() -> None:
    x = torch.ones(2)
    operator = HessianOperator(lambda x: (x**3).sum(), x, memory_budget=0)
    x.zero_()
    assert torch.equal(operator @ torch.ones(2), torch.full((2,), 6.0))


def test_at_moves_the_point() -> None:
    operator = HessianOperator(lambda x: (x**3).sum(), torch.ones(2))
    assert torch.equal(operator.at(torch.full((2,), 2.0)) @ torch.ones(2), torch.full((2,), 12.0))


def test_an_expanded_point() -> None:
    operator = HessianOperator(lambda x: (x**3).sum(), torch.tensor(2.0).expand(3))
    assert torch.equal(operator @ torch.ones(3), torch.full((3,), 12.0))


# Batches.


@pytest.mark.parametrize("budget", ["auto", 0, 3000])
@pytest.mark.parametrize("sizes", [[5], [4, 1], [1, 1, 3], [2, 2, 1]])
def test_uneven_batches_give_the_hessian_of_one_batch(sizes: list[int], budget: Any) -> None:
    model, (x, y) = classifier(), examples(5)
    data = list(zip(x.split(sizes), y.split(sizes), strict=True))
    whole = HessianOperator.from_module(model, loss_of, [(x, y)])
    parts = HessianOperator.from_module(model, loss_of, data, memory_budget=budget)
    assert_same(parts.to_dense(), whole.to_dense())
    assert_same(parts.value, whole.value)
    assert_same(parts.flat_gradient, whole.flat_gradient)
    assert parts.total_weight == 5 and parts.num_batches == len(sizes)
    assert parts.num_kept == {"auto": len(sizes), 0: 0}.get(budget, parts.num_kept)
    v = torch.ones(whole.shape[0], dtype=F64)
    assert torch.equal(parts @ v, parts @ v)


def test_a_budget_keeps_some_batches_and_recomputes_the_rest() -> None:
    model, (x, y) = classifier(), examples(6)
    data = list(zip(x.split(2), y.split(2), strict=True))
    one = HessianOperator.from_module(model, loss_of, data[:1])._sum._nbytes[0]
    operator = HessianOperator.from_module(model, loss_of, data, memory_budget=int(1.5 * one))
    assert (operator.num_batches, operator.num_kept) == (3, 1)
    assert_same(operator.to_dense(), HessianOperator.from_module(model, loss_of, [(x, y)]).to_dense())


def test_the_dense_hessian_is_the_judge() -> None:
    model, (x, y) = classifier(), examples(7)
    loader = DataLoader(TensorDataset(x, y), batch_size=3)
    operator = HessianOperator.from_module(model, loss_of, loader)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    dense = dense_of(
        lambda t: F.cross_entropy(torch.func.functional_call(model, t, (x,)), y), theta, operator
    )
    assert_same(operator.to_dense(), dense, 1e-11)


def test_tokens_are_weighted_by_what_counts() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7)).double()
    tokens, targets = torch.randint(7, (5, 6)), torch.randint(7, (5, 6))
    targets[0, 2:] = -100
    targets[3] = -100

    def loss(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        logits = model(batch["tokens"]).flatten(0, 1)
        valid = (batch["targets"] != -100).sum()
        return F.cross_entropy(logits, batch["targets"].flatten()), valid

    def batches(sizes: list[int]) -> list[dict[str, Tensor]]:
        parts = zip(tokens.split(sizes), targets.split(sizes), strict=True)
        return [{"tokens": a, "targets": b} for a, b in parts]

    whole = HessianOperator.from_module(model, loss, batches([5]))
    # The fourth batch holds no valid token at all: its mean is 0/0, and it must count for nothing.
    for sizes in ([1, 2, 2], [1, 1, 1, 1, 1], [3, 1, 1]):
        for budget in ("auto", 0):
            operator = HessianOperator.from_module(model, loss, batches(sizes), memory_budget=budget)
            assert operator.total_weight == 20
            assert_same(operator.value, whole.value)
            assert_same(operator.to_dense(), whole.to_dense())


def test_the_three_sources_of_weights() -> None:
    x = torch.tensor([1.0, 2.0, 5.0], dtype=F64)

    def f(p: Tensor, batch: Tensor) -> Tensor:
        return 0.5 * (p**2).sum() * batch.mean()

    batches = [x[:2], x[2:]]
    point = torch.ones(1, dtype=F64)
    eye = torch.ones(1, 1, dtype=F64)
    assert_same(HessianOperator(f, point, batches).to_dense(), eye * (2 * 1.5 + 5) / 3)
    by_weight = HessianOperator(f, point, batches, weight=lambda batch: batch.sum())
    assert_same(by_weight.to_dense(), eye * (3 * 1.5 + 5 * 5) / 8)
    returned = HessianOperator(lambda p, b: (f(p, b), 4.0 if len(b) == 2 else 1), point, batches)
    assert_same(returned.to_dense(), eye * (4 * 1.5 + 5) / 5)
    total = HessianOperator(f, point, batches, reduction="sum")
    assert_same(total.to_dense(), eye * 6.5)
    assert_same(total.value, 0.5 * torch.tensor(6.5, dtype=F64))


class Batch:
    def __init__(self, inputs: Tensor, labels: Tensor) -> None:
        self.inputs, self.labels = inputs, labels


def test_batches_of_any_structure() -> None:
    model, (x, y) = classifier(), examples(5)
    expected = HessianOperator.from_module(model, loss_of, [(x, y)]).to_dense()
    structures = {
        "dict": (lambda a, b: {"inputs": a, "labels": b}, lambda d: (d["inputs"], d["labels"])),
        "user dict": (lambda a, b: UserDict(inputs=a, labels=b), lambda d: (d["inputs"], d["labels"])),
        "nested": (
            lambda a, b: {"n": "name", "x": [None, {"a": a}], "y": b},
            lambda d: (d["x"][1]["a"], d["y"]),
        ),
        "object": (Batch, lambda d: (d.inputs, d.labels)),
        "arrays": (lambda a, b: (a.numpy(), b.numpy()), lambda d: tuple(map(torch.as_tensor, d))),
    }
    for pack, unpack in structures.values():
        data = [pack(x[:4], y[:4]), pack(x[4:], y[4:])]
        operator = HessianOperator.from_module(
            model, lambda model, batch, unpack=unpack: loss_of(model, unpack(batch)), data, memory_budget=0
        )
        assert_same(operator.to_dense(), expected)


def test_blocks_equal_their_columns_and_count_as_such() -> None:
    model, (x, y) = classifier(), examples(5)
    operator = HessianOperator.from_module(model, loss_of, [(x[:3], y[:3]), (x[3:], y[3:])])
    block = numbers(operator.shape[0], 5, dtype=F64)
    before = operator.num_matvecs
    assert_same(operator @ block, torch.stack([operator @ v for v in block.mT], dim=1))
    assert operator.num_matvecs - before == 10


# Architectures.


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (3, 1)).expand(-1, -1, 4) * torch.arange(1.0, 5.0, dtype=x.dtype)
        return self.out(self.norm(x + self.attend(x, x, x, need_weights=False)[0]).mean(1))


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.gelu(self.norm(self.conv(x.unsqueeze(1)))).mean(2))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize(
    ("make", "size"),
    [(Attention, 103), (lambda: Convolution().eval(), 35), (Convolution, 35), (Tied, 12)],
    ids=["attention", "convolution", "convolution, batch statistics", "tied"],
)
def test_architectures_against_differences_of_gradients(make: Any, size: int) -> None:
    torch.manual_seed(0)
    model, data = make().double(), [examples(5)]
    operator = HessianOperator.from_module(model, loss_of, data)
    assert operator.shape == (size, size)
    dense = operator.to_dense()
    assert_same(dense, dense.mT, 1e-12)
    v, h = numbers(size, dtype=F64), 1e-5
    space = operator.domain
    assert space is not None
    x = space.flatten(operator.primals)
    ahead, behind = (operator.at(space.unflatten(x + s * h * v)).flat_gradient for s in (1, -1))
    assert_same(operator @ v, (ahead - behind) / (2 * h), 1e-7)


# Noise.


def dropout_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("budget", ["auto", 0])
def test_dropout_is_one_fixed_noise(budget: Any) -> None:
    model, (x, y) = dropout_model(), examples(6)
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    state = torch.get_rng_state()
    operator = HessianOperator.from_module(model, loss_of, data, memory_budget=budget)
    v = torch.ones(operator.shape[0], dtype=F64)
    first = operator @ v
    torch.set_rng_state(state)
    torch.rand(3)
    moved = torch.get_rng_state()
    assert torch.equal(operator @ v, first)
    dense = operator.to_dense()
    assert_same(dense, dense.mT)
    assert torch.equal(torch.get_rng_state(), moved), "a product must not advance the user's generator"
    again = HessianOperator.from_module(model, loss_of, data, memory_budget=budget)
    assert torch.equal(again @ v, first)
    other = HessianOperator.from_module(model, loss_of, data, memory_budget=budget, seed=1)
    assert not torch.allclose(other @ v, first)
    assert operator.notes == ("2 (Dropout, train mode) keeps one noise, or the statistics of each batch",)


@pytest.mark.parametrize("strategy", ["auto", "forward-over-reverse"])
def test_products_that_call_the_function_again_leave_the_generators(strategy: str) -> None:
    model = dropout_model()
    operator = HessianOperator.from_module(model, loss_of, [examples(4)], strategy=strategy)
    np.random.random()
    before, arrays = torch.get_rng_state(), np.random.get_state()[1].copy()
    x = torch.ones(operator.shape[0], dtype=F64)
    assert torch.equal(operator @ x, operator @ x)
    block = torch.stack([x, 2 * x], dim=1)
    assert torch.equal(operator @ block, operator @ block)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(arrays, np.random.get_state()[1])


def test_noise_is_independent_between_batches() -> None:
    masks = []

    def f(p: Tensor, batch: Tensor) -> Tensor:
        mask = torch.rand(8)
        masks.append(mask)
        return ((p * mask) ** 2).sum()

    HessianOperator(f, torch.ones(8), [torch.ones(1), torch.ones(1)], verify=False)
    assert len({tuple(mask.tolist()) for mask in masks}) == 2


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_noise_from_every_global_generator_is_replayed(source: str) -> None:
    def f(p: Tensor, batch: Tensor) -> Tensor:
        draw = {"torch": lambda: torch.rand(()).item(), "numpy": np.random.random, "python": random.random}
        return draw[source]() * (p**2).sum() * batch.mean()

    operator = HessianOperator(f, torch.ones(2, dtype=F64), [torch.ones(2, dtype=F64)], memory_budget=0)
    v = torch.ones(2, dtype=F64)
    assert torch.equal(operator @ v, operator @ v)


def test_batch_norm_in_train_mode_leaves_its_buffers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    before = copy.deepcopy(model.state_dict())
    operator = HessianOperator.from_module(model, loss_of, [examples(6)], memory_budget=0)
    dense = operator.to_dense()
    assert_same(dense, dense.mT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert operator.notes == ("1 (BatchNorm1d, train mode) keeps one noise, or the statistics of each batch",)
    theta = {name: p.detach() for name, p in model.named_parameters()}
    x, y = examples(6)
    clean = copy.deepcopy(model)
    clean[1].track_running_stats = False
    clean[1].running_mean = clean[1].running_var = None
    assert_same(
        dense,
        dense_of(lambda t: F.cross_entropy(torch.func.functional_call(clean, t, (x,)), y), theta, operator),
        1e-10,
    )


# Determinism of the data.


class Counting(Dataset):
    """Two numbers and a noise that changes with each read."""

    def __init__(self) -> None:
        self.reads = 0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        return torch.tensor([float(index), float(self.reads)])


def square(p: Tensor, batch: Tensor) -> Tensor:
    return ((batch.to(p) @ p) ** 2).mean()


def test_a_shuffling_loader_with_its_own_generator_is_named() -> None:
    x = torch.arange(12.0).reshape(6, 2)
    loader = DataLoader(x, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        RuntimeError, match=r"another batch number 0; the loader shuffles .*RandomSampler.*list\("
    ):
        HessianOperator(square, torch.ones(2), loader)
    frozen = HessianOperator(square, torch.ones(2), list(loader))
    torch.testing.assert_close(frozen.to_dense(), 2 * x.mT @ x / 6)


def test_a_shuffling_loader_on_the_global_generator_is_replayed() -> None:
    x = torch.arange(12.0, dtype=F64).reshape(6, 2)
    loader = DataLoader(x, batch_size=2, shuffle=True)
    state = torch.get_rng_state()
    operator = HessianOperator(square, torch.ones(2, dtype=F64), loader, memory_budget=0)
    v = torch.ones(2, dtype=F64)
    first = operator @ v
    torch.rand(1)
    assert torch.equal(operator @ v, first)
    assert_same(operator.to_dense(), 2 * x.mT @ x / 6)
    torch.set_rng_state(state)
    operator @ v
    assert torch.equal(torch.get_rng_state(), state), (
        "neither loading nor products advance the user's generator"
    )


def test_data_that_change_at_each_read_are_refused() -> None:
    loader = DataLoader(Counting(), batch_size=2)
    with pytest.raises(RuntimeError, match=r"another batch number 0; it may shuffle, augment at random"):
        HessianOperator(square, torch.ones(2), loader)


def test_data_that_change_later_are_refused_at_the_product() -> None:
    data = [torch.ones(2, 2), torch.ones(2, 2)]
    operator = HessianOperator(square, torch.ones(2), data, memory_budget=0)
    data[1].add_(1)
    with pytest.raises(RuntimeError, match="another batch number 1"):
        operator @ torch.ones(2)
    data[1].sub_(1)
    data.append(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="more than the 2 batches of the first"):
        operator @ torch.ones(2)
    del data[1:]
    with pytest.raises(RuntimeError, match="1 batches instead of 2"):
        operator @ torch.ones(2)


class OnceOnly:
    """An iterable that is empty from its second pass on."""

    def __init__(self) -> None:
        self.items = [torch.ones(2, 2)]

    def __iter__(self) -> Any:
        while self.items:
            yield self.items.pop()


def test_an_iterable_that_runs_dry_is_refused() -> None:
    with pytest.raises(RuntimeError, match="a later pass gave 0 batches instead of 1"):
        HessianOperator(square, torch.ones(2), OnceOnly())


def test_a_function_with_state_is_refused() -> None:
    calls = []

    def f(p: Tensor) -> Tensor:
        calls.append(1)
        return len(calls) * (p**2).sum()

    with pytest.raises(RuntimeError, match=r"the function itself has another gradient when called again"):
        HessianOperator(f, torch.ones(2))


class OwnNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.random = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.random.random()


def test_noise_from_a_hidden_generator_names_the_noisy_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), OwnNoise()).double()
    with pytest.raises(
        RuntimeError, match=re.escape("perhaps through 1 (Dropout, train mode), has another gradient")
    ):
        HessianOperator.from_module(model, loss_of, [examples(4)])


# Nothing of the user's changes.


def snapshot(model: nn.Module) -> Any:
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [
            (p.requires_grad, p._version, None if p.grad is None else p.grad.clone())
            for p in model.parameters()
        ],
        [(m.training, len(m._forward_hooks), len(m._buffers)) for m in model.modules()],
        torch.get_rng_state(),
    )


def assert_unchanged(before: Any, after: Any) -> None:
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    for (required, version, grad), (required2, version2, grad2) in zip(before[1], after[1], strict=True):
        assert (required, version) == (required2, version2)
        assert (grad is None) == (grad2 is None) and (grad is None or torch.equal(grad, grad2))
    assert before[2] == after[2] and torch.equal(before[3], after[3])


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)).double()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    calls = []
    model.register_forward_hook(lambda *_: None)
    before = snapshot(model)

    def loss(model: Any, batch: Any) -> Tensor:
        calls.append(1)
        if fails and len(calls) > 2:
            raise ArithmeticError("no loss today")
        return loss_of(model, batch)

    data = [examples(4), examples(4, seed=1)]
    if fails:
        with pytest.raises(ArithmeticError, match="no loss today"):
            HessianOperator.from_module(model, loss, data)
    else:
        operator = HessianOperator.from_module(model, loss, data, memory_budget=0)
        operator @ torch.ones(operator.shape[0], dtype=F64)
        assert operator.shape[0] == 12 + 8 + 15
    assert_unchanged(before, snapshot(model))


def test_it_is_freed_by_reference_count_with_its_graphs() -> None:
    model, data = classifier(), [examples(4), examples(2)]
    gc.collect()
    gc.disable()
    try:
        operator = HessianOperator.from_module(model, loss_of, data)
        operator @ torch.ones(operator.shape[0], dtype=F64)
        inner = [weakref.ref(operator), weakref.ref(operator._sum), weakref.ref(operator._sum._terms[0])]
        del operator
        assert [reference() for reference in inner] == [None] * 3
    finally:
        gc.enable()


# Errors.


def test_refusals_of_data() -> None:
    x = torch.ones(2)
    for data, message in [
        (torch.ones(3, 2), r"an iterable of batches, got one Tensor; for a single batch pass \[batch\]"),
        ({"x": torch.ones(3, 2)}, "got one dict; for a single batch pass"),
        (
            (torch.ones(3, 2), torch.ones(3)),
            r"got a tuple of tensors, which looks like one batch; pass \[\(x, y\)\]",
        ),
        (3, "data must be an iterable of batches, got int"),
        (iter([torch.ones(3, 2)]), r"can be iterated only once .* pass list\(data\)"),
        ((b for b in [torch.ones(3, 2)]), "can be iterated only once"),
    ]:
        with pytest.raises(TypeError, match=message):
            HessianOperator(square, x, data)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="data holds no batch"):
        HessianOperator(square, x, [])


def test_refusals_of_weights() -> None:
    x, data = torch.ones(2), [torch.ones(3, 2)]
    with pytest.raises(ValueError, match="cannot tell the number of examples of a batch of type int"):
        HessianOperator(lambda p, b: (p**2).sum(), x, [1, 2])
    with pytest.raises(ValueError, match="its first tensor has no leading dimension"):
        HessianOperator(lambda p, b: (p**2).sum(), x, [torch.tensor(1.0)])
    with pytest.raises(ValueError, match="weight of a batch must be finite and not negative, got -1"):
        HessianOperator(square, x, data, weight=lambda batch: -1)
    with pytest.raises(ValueError, match="weight of a batch must be finite and not negative, got nan"):
        HessianOperator(square, x, data, weight=lambda batch: float("nan"))
    with pytest.raises(ValueError, match="every batch has weight 0"):
        HessianOperator(square, x, data, weight=lambda batch: 0)
    with pytest.raises(ValueError, match="returns a weight and weight= gives another; keep one"):
        HessianOperator(lambda p, b: (square(p, b), 3), x, data, weight=len)
    with pytest.raises(ValueError, match=r'a sum .reduction="sum". has no use for; return the loss alone'):
        HessianOperator(lambda p, b: (square(p, b), 3), x, data, reduction="sum")
    with pytest.raises(ValueError, match="weight is for means over data"):
        HessianOperator(square, x, data, weight=len, reduction="sum")
    with pytest.raises(TypeError, match="weight must be a function of a batch, got int"):
        HessianOperator(square, x, data, weight=3)  # type: ignore[arg-type]


def test_refusals_of_options() -> None:
    x = torch.ones(2)
    with pytest.raises(ValueError, match='reduction must be "mean" or "sum", got \'none\''):
        HessianOperator(square, x, [x], reduction="none")  # type: ignore[arg-type]
    for budget in (-1, 1.5, "all"):
        with pytest.raises(
            ValueError, match=f'memory_budget must be "auto", a number of bytes.*got {budget!r}'
        ):
            HessianOperator(torch.sum, x, memory_budget=budget)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be a non-negative integer, got -3"):
        HessianOperator(torch.sum, x, seed=-3)
    with pytest.raises(ValueError, match="strategy must be one of 'auto'"):
        HessianOperator(torch.sum, x, strategy="best")
    with pytest.raises(ValueError, match=r"primals\['w'\] must be floating point, got torch.int64"):
        HessianOperator(lambda p: p["w"].sum(), {"w": torch.ones(2, dtype=torch.int64)})
    with pytest.raises(ValueError, match='the loss has reduction="sum"; pass the operator the same'):
        HessianOperator.from_module(
            classifier(), supervised(nn.CrossEntropyLoss(reduction="sum")), [examples(3)]
        )


def test_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from hvplib.operators import batches as room

    monkeypatch.setattr(room, "_WORTH_A_LOOK", 0)
    model, data = classifier(), [examples(6), examples(5), examples(4)]
    whole = HessianOperator.from_module(model, loss_of, data)
    size = sum(term.nbytes for term in whole._sum._terms if term is not None)
    monkeypatch.setattr(room, "free_bytes", lambda device: 2 * size)
    v = torch.ones(whole.shape[0], dtype=whole.torch_dtype)
    kept = {}
    for share in (0.0, 0.25, 1.0):
        H = HessianOperator.from_module(model, loss_of, data, memory_budget=share)
        kept[share] = H.num_kept
        torch.testing.assert_close(H @ v, whole @ v)
    assert kept[0.0] == 0 < kept[0.25] < kept[1.0] == 3


def test_a_sum_of_a_module_loss() -> None:
    model, (x, y) = classifier(), examples(5)
    data = [(x[:4], y[:4]), (x[4:], y[4:])]
    total = HessianOperator.from_module(model, nn.CrossEntropyLoss(reduction="sum"), data, reduction="sum")
    mean = HessianOperator.from_module(model, nn.CrossEntropyLoss(), data)
    assert_same(total.to_dense(), 5 * mean.to_dense())


def test_a_module_loss_without_data() -> None:
    model = classifier()
    operator = HessianOperator.from_module(model, lambda m: sum((p**2).sum() for p in m.parameters()))
    assert_same(operator.to_dense(), 2 * torch.eye(operator.shape[0], dtype=F64))


def test_threads_share_one_operator() -> None:
    model, data = dropout_model(), [examples(4), examples(3, seed=1)]
    for budget in ("auto", 0):
        operator = HessianOperator.from_module(model, loss_of, data, memory_budget=budget)
        v = torch.ones(operator.shape[0], dtype=F64)
        expected = operator @ v
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _, a=operator, x=v: a @ x, range(24)))
        assert all(torch.equal(result, expected) for result in results)


class OpaqueCube(torch.autograd.Function):
    """x³, with a backward that drops out of second derivatives without an error."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


def test_custom_functions_that_vanish_at_the_first_point_are_proven_at_the_next() -> None:
    def func(x: Tensor) -> Tensor:
        return (OpaqueCube.apply(x) + x**2).sum()

    H = HessianOperator(func, torch.zeros(3, dtype=torch.float64))
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(H @ (zero + 1), zero + 2)
    with pytest.raises(DerivativeError):
        H.at(zero + 1)


def test_custom_functions_that_vanish_in_the_first_batch_are_proven_in_the_next() -> None:
    def func(x: Tensor, batch: Tensor) -> Tensor:
        return (OpaqueCube.apply(x * batch) + x**2).sum()

    with pytest.raises(DerivativeError):
        HessianOperator(
            func, torch.ones(3, dtype=torch.float64), [torch.zeros(3).double(), torch.ones(3).double()]
        )


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_one_term_gives_pytrees_the_numbers_of_vectors(weight: float) -> None:
    """The way around flat vectors, for a single term of weight 1, and the way through them."""
    x = (torch.tensor([0.5, -1.0], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64))
    data = None if weight == 1.0 else [torch.ones(2)]
    H = HessianOperator(lambda a, b, *_: (a**4).sum() * b**2, x, data)
    assert (H._sum.only is not None) == (weight == 1.0)
    v = (torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor(-1.0, dtype=torch.float64))
    space = H.domain
    assert space is not None
    for _ in range(2):
        product = H @ v
        assert torch.equal(space.flatten(product), H @ space.flatten(v))
        assert [p.shape for p in product] == [t.shape for t in v]
    with pytest.raises(ValueError, match="expected a pytree like"):
        H @ (v[0], v[0])
    with pytest.raises(ValueError, match="expected a pytree like"):
        H @ {"a": v[0]}


def test_products_share_no_memory_with_directions() -> None:
    """Reverse mode hands an identity's direction on as it is."""
    x = (torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    H = HessianOperator(lambda a, b: Bilinear.apply(a, b), x, verify=False)
    v = (torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64))
    product = H @ v
    assert torch.equal(product[0], v[1]) and torch.equal(product[1], v[0])
    product[0].zero_(), product[1].zero_()
    assert v[0].tolist() == [1.0, 2.0] and v[1].tolist() == [3.0, 4.0]


class Bilinear(torch.autograd.Function):
    """⟨a, b⟩, whose backward passes on what it gets where it is 1."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return (a * b).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        a, b = ctx.saved_tensors
        return b.view_as(b), a.view_as(a)


def test_data_that_are_captured_do_not_make_blocks_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    data, x = normal(20_000, 60, seed=1), normal(60, seed=2)  # more bytes than a block may take
    H = HessianOperator(lambda x: (data @ x).cosh().log().sum(), x)
    X = normal(60, 8, seed=3)
    whole, widths = LocalModel.hvp_block, []

    def counted(self: LocalModel, V: Any) -> Any:
        widths.append(len(V))
        return whole(self, V)

    monkeypatch.setattr(LocalModel, "hvp_block", counted)
    expected = data.T @ ((1 - (data @ x).tanh().square())[:, None] * (data @ X))
    torch.testing.assert_close(H @ X, expected, rtol=1e-10, atol=1e-8)
    assert widths == [8]
