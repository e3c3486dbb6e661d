"""Dense Hessians from half of their blocks: equal to the others', and held to a product all the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

import hvplib.ad.mirrored as module
import hvplib.ad.row_source as sources
from hvplib import hessian
from hvplib.ad.engines import GraphEngine
from tests.ad.problems import NewCube, difference_hessian, normal, relative

SHAPES = ((20, 20), (20,), (20, 8), (8,))
SIZES = [torch.Size(shape).numel() for shape in SHAPES]  # 588 in all
DATA = normal(7, 20, seed=9)


def network(w: Tensor, b: Tensor, u: Tensor, c: Tensor) -> Tensor:
    return ((DATA.to(w) @ w + b).tanh() @ u + c).tanh().square().sum()


def of_a_vector(x: Tensor) -> Tensor:
    return network(*(part.view(shape) for part, shape in zip(x.split(SIZES), SHAPES, strict=True)))


POINT = tuple(0.3 * normal(*shape, seed=k) for k, shape in enumerate(SHAPES))
VECTOR = torch.cat([x.reshape(-1) for x in POINT])


def matrix(blocks: Any, sizes: Sequence[int]) -> Tensor:
    rows = [torch.cat([b.reshape(m, -1) for b in row], 1) for m, row in zip(sizes, blocks, strict=True)]
    return torch.cat(rows)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call was answered by a mirrored matrix."""
    seen: list[bool] = []
    whole = sources.whole_matrix

    def watched(*args: Any) -> Any:
        found = whole(*args)
        seen.append(found is not None)
        return found

    monkeypatch.setattr("hvplib.ad.dense.whole_matrix", watched)
    return seen


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each pass takes."""
    seen: list[int] = []
    mapped = module.mapped

    def watched(func: Any, tensors: Sequence[Tensor]) -> Any:
        seen.append(len(tensors[0]))
        return mapped(func, tensors)

    monkeypatch.setattr(module, "mapped", watched)
    return seen


RIGHT = torch.func.hessian(of_a_vector)(VECTOR)


@pytest.mark.parametrize("chunk_size", ["auto", None, 50, 1000])
def test_equals_torch_where_torch_is_right(made: list[bool], chunk_size: Any) -> None:
    blocks = hessian(network, (0, 1, 2, 3), chunk_size=chunk_size)(*POINT)
    assert relative(matrix(blocks, SIZES), RIGHT) < 1e-14
    assert relative(hessian(of_a_vector, chunk_size=chunk_size)(VECTOR), RIGHT) < 1e-14
    assert made == [True, True]
    assert torch.equal(blocks[0][2].permute(2, 3, 0, 1), blocks[2][0])


def test_equals_differences_of_gradients(made: list[bool]) -> None:
    found = hessian(of_a_vector)(VECTOR)
    assert relative(found, difference_hessian(of_a_vector, VECTOR)) < 1e-8
    assert made == [True]


def test_in_single_precision(made: list[bool]) -> None:
    blocks = hessian(network, (0, 1, 2, 3))(*(x.float() for x in POINT))
    assert all(b.dtype == torch.float32 for b in tree_leaves(blocks))
    assert relative(matrix(blocks, SIZES).double(), RIGHT) < 1e-6
    assert made == [True]


def test_slices_in_any_order_and_entries_that_do_not_matter(made: list[bool]) -> None:
    def func(x: Tensor, scale: Tensor) -> Tensor:
        _unused, late, early = x[500:].split([100, 20, 80])
        return (x[:100].view(10, 10).exp() @ early[:10]).sum() * scale[0] + late.prod() * x[
            150:250
        ].sum() ** 3

    x, scale = 0.1 * normal(700, seed=11), normal(2, seed=12)
    found = hessian(func, (0, 1))(x, scale)
    right = torch.func.hessian(func, (0, 1))(x, scale)
    for a, b in zip(tree_leaves(found), tree_leaves(right), strict=True):
        assert relative(a, b) < 1e-13 and a.shape == b.shape
    assert made == [True]


def test_linear_and_separate_parts(made: list[bool]) -> None:
    func = lambda x, y, z: (x**3).sum() + y.sin().sum() * z[0].exp() + 2 * z[1:].sum() + x[0]  # noqa: E731
    x, y, z, never = normal(300, seed=13), normal(300, seed=14), normal(5, seed=15), normal(70, seed=16)
    found = hessian(lambda x, y, z, _n: func(x, y, z), (0, 1, 2, 3))(x, y, z, never)
    assert relative(found[0][0], torch.diag(6 * x)) < 1e-15
    assert relative(found[1][2][:, 0], y.cos() * z[0].exp()) < 1e-15
    assert torch.equal(found[1][2], found[2][1].mT)
    zeros = [
        found[0][1],
        found[1][0],
        found[0][2],
        found[2][0],
        found[1][2][:, 1:],
        *found[3],
        found[2][2][1:],
    ]
    assert all(block.shape.numel() and not block.any() for block in zeros)
    assert made == [True]


def test_the_shape_of_the_output_is_kept(made: list[bool]) -> None:
    found = hessian(lambda x: of_a_vector(x).reshape(1, 1))(VECTOR)
    assert found.shape == (1, 1, 588, 588) and relative(found[0, 0], RIGHT) < 1e-14
    assert made == [True]


# ----------------------------------------------------------------------------------------------------- passes


def test_late_rows_pass_by_early_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    led: list[tuple[int, int]] = []
    pulled = module._pulled

    def watched(gradients: Any, across: Any, cotangents: Any) -> Any:
        led.append((len(cotangents[0]), len(across)))
        return pulled(gradients, across, cotangents)

    monkeypatch.setattr(module, "_pulled", watched)
    hessian(of_a_vector)(VECTOR)
    assert led == [(28, 4), (400, 2), (160, 1)], "the biases together; then w to w and u; then u to itself"


@pytest.mark.parametrize("form", ["tuple", "vector"])
def test_very_many_rows_of_one_tensor(monkeypatch: pytest.MonkeyPatch, made: list[bool], form: str) -> None:
    """Their own linearisation takes the place of the graph, where they are those of a whole tensor."""
    monkeypatch.setattr(module, "_VERY_MANY", 160)
    asked: list[int] = []
    pulled = module._pulled

    def watched(gradients: Any, across: Any, cotangents: Any) -> Any:
        asked.append(len(cotangents[0]))
        return pulled(gradients, across, cotangents)

    monkeypatch.setattr(module, "_pulled", watched)
    if form == "tuple":
        assert relative(matrix(hessian(network, (0, 1, 2, 3))(*POINT), SIZES), RIGHT) < 1e-14
        assert asked == [28]
    else:
        assert relative(hessian(of_a_vector)(VECTOR), RIGHT) < 1e-14
        assert asked == [28, 400, 160]
    assert made == [True]


def test_chunks_follow_the_budget(monkeypatch: pytest.MonkeyPatch, widths: list[int]) -> None:
    room: list[int] = []
    monkeypatch.setattr(module, "chunk_width", lambda per_vector, count, device: min(count, *room))
    for width, expected in (
        (400, [28, 400, 160]),
        (210, [28, 400, 160]),  # twice as wide rather than in two
        (190, [28, 190, 190, 20, 160]),
        (13, [13, 13, 2, *30 * [13], 10, *12 * [13], 4]),
    ):
        widths.clear()
        room[:] = [width]
        assert relative(hessian(of_a_vector)(VECTOR), RIGHT) < 1e-14
        assert widths == expected


def test_all_at_once_if_asked_for(monkeypatch: pytest.MonkeyPatch, widths: list[int]) -> None:
    monkeypatch.setattr(module, "chunk_width", lambda per_vector, count, device: 10)
    assert relative(hessian(of_a_vector, chunk_size=None)(VECTOR), RIGHT) < 1e-14
    assert widths == [28, 400, 160]
    assert relative(hessian(of_a_vector, chunk_size=250)(VECTOR), RIGHT) < 1e-14
    assert widths[3:] == [28, 250, 150, 160]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_in_any_grad_mode(mode: Any, made: list[bool]) -> None:
    with mode():
        assert relative(hessian(of_a_vector)(VECTOR), RIGHT) < 1e-14
        assert relative(hessian(of_a_vector)(VECTOR.clone()), RIGHT) < 1e-14
    assert made == [True, True]


def test_backs_off_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch, made: list[bool]) -> None:
    mapped = module.mapped

    def starved(func: Any, tensors: Sequence[Tensor]) -> Any:
        if len(tensors[0]) > 30:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return mapped(func, tensors)

    monkeypatch.setattr(module, "mapped", starved)
    assert relative(hessian(of_a_vector)(VECTOR), RIGHT) < 1e-14
    assert made == [True]


# ------------------------------------------------------------------------------------------- right or refused


@pytest.mark.parametrize(
    "wrong",
    [
        lambda p: 1.01 * p,
        lambda p: p.mean(0, keepdim=True).expand_as(p),
        lambda p: torch.cat([torch.zeros_like(p[-1:]), p[1:]]),
    ],
    ids=["scaled", "mixed up", "a row lost"],
)
def test_a_wrong_matrix_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, made: list[bool], wrong: Callable[[Tensor], Tensor]
) -> None:
    pulled = module._pulled

    def spoilt(*args: Any) -> Any:
        return [None if p is None else wrong(p) for p in pulled(*args)]

    monkeypatch.setattr(module, "_pulled", spoilt)
    assert relative(hessian(of_a_vector)(VECTOR), RIGHT) < 1e-14
    assert made == [False]


class NoGradient(torch.autograd.Function):
    """A backward that is the gradient of no function: (B y, C x) with B ≠ Cᵀ."""

    B, C = normal(300, 300, seed=21), normal(300, 300, seed=22)

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        return x.sum() * 0

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, y = ctx.saved_tensors
        return g * (NoGradient.B @ y), g * (NoGradient.C @ x)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Tensor:
        return torch.zeros((), dtype=torch.float64)


def test_what_is_not_symmetric_is_not_mirrored(made: list[bool]) -> None:
    """Where that is no gradient, the rows are products with unit vectors, as they are elsewhere."""
    x, y = normal(300, seed=23), normal(300, seed=24)
    found = hessian(NoGradient.apply, (0, 1))(x, y)
    assert made == [False]
    assert relative(found[0][1], NoGradient.C.mT) < 1e-14 and relative(found[1][0], NoGradient.B.mT) < 1e-14
    assert not found[0][0].any() and not found[1][1].any()


ELSEWHERE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a convolution": lambda x, y: F.conv1d(x[None, None], y[None, None, :3]).square().sum() + (y**3).sum(),
    "different dtypes": lambda x, y: (x.double().sin() * y.sum() ** 2).sum(),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_not_for_this_way(made: list[bool], name: str) -> None:
    func = ELSEWHERE[name]
    x, y = normal(500, seed=17), normal(40, seed=18)
    if name == "different dtypes":
        x = x.float()
    found = hessian(func, (0, 1))(x, y)
    exact = torch.func.hessian(func, (0, 1))(x.double(), y)
    tolerance = 1e-6 if x.dtype == torch.float32 else 1e-13
    for a, b in zip(tree_leaves(found), tree_leaves(exact), strict=True):
        assert relative(a.double(), b) < tolerance
    assert made == [False]


def test_custom_functions_and_hooks(made: list[bool]) -> None:
    x, y = normal(500, seed=19), normal(70, seed=20)
    expected = torch.diag(6 * x * y.sum())
    found = hessian(lambda x, y: NewCube.apply(x).sum() * y.sum(), (0, 1))(x, y)
    assert relative(found[0][0], expected) < 1e-13
    assert relative(found[0][1], (3 * x**2)[:, None].expand(500, 70)) < 1e-13
    looked = []

    def hooked(x: Tensor, y: Tensor) -> Tensor:
        cube = x**3
        if cube.requires_grad:
            cube.register_hook(looked.append)
        return cube.sum() * y.sum()

    found = hessian(hooked, (0, 1))(x, y)
    assert relative(found[0][0], expected) < 1e-13 and looked
    assert made == [True, False]


def test_what_is_learnt_serves_the_next_calls(made: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    known = hessian(of_a_vector)
    judged: list[int] = []
    judge = sources.judge
    monkeypatch.setattr("hvplib.ad.dense.judge", lambda *args: judged.append(1) or judge(*args))
    first = known(VECTOR)
    for k in range(8):
        assert relative(known(VECTOR), first) < 1e-13
        other = VECTOR + 0.01 * normal(588, seed=30 + k)
        assert relative(known(other), torch.func.hessian(of_a_vector)(other)) < 1e-13
    assert judged == [1] and all(made) and len(made) >= 3


def test_the_next_calls_take_the_vector_apart_too(made: list[bool], widths: list[int]) -> None:
    known = hessian(of_a_vector)
    assert relative(known(VECTOR), RIGHT) < 1e-14 and relative(known(VECTOR), RIGHT) < 1e-14
    assert widths == 2 * [28, 400, 160] and made == [True, True]


def test_the_next_calls_are_held_to_a_product_of_their_graph(
    made: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = hessian(of_a_vector)
    assert relative(known(VECTOR), RIGHT) < 1e-14
    pulled = module._pulled
    monkeypatch.setattr(
        module, "_pulled", lambda *args: [None if p is None else 1.01 * p for p in pulled(*args)]
    )
    assert relative(known(VECTOR), RIGHT) < 1e-14
    assert made == [True, False]


def test_the_engine_is_the_one_that_was_pushed_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """One evaluation of the function, as its draws would show."""
    calls = []
    monkeypatch.setattr(GraphEngine, "build", None)

    def func(x: Tensor) -> Tensor:
        calls.append(1)
        return of_a_vector(x)

    hessian(func)(VECTOR)
    assert len(calls) == 1
