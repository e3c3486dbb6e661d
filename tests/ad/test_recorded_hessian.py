"""The whole Hessian from programs for its parts: right whatever the parts are, at a fraction of the work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hvplib.ad.recorded_hessian import RecordedHessian
from hvplib.ad.trace.second_order import SecondOrder
from hvplib.errors import TraceError
from tests.ad.functions_of_parts import FUNCTIONS, OfParts
from tests.ad.problems import difference_hessian


def program(of: OfParts) -> SecondOrder:
    point, vectors = of.point(0), of.point(50)

    def compute(*inputs: Tensor) -> Sequence[Tensor]:
        leaves, v = inputs[: len(point)], inputs[len(point) :]
        leaves = tuple(x.detach().requires_grad_() for x in leaves)
        with torch.enable_grad():
            value = of.func(*leaves)
            gradients = torch.autograd.grad(value, leaves, create_graph=True)
            live = [(g, t) for g, t in zip(gradients, v, strict=True) if g.requires_grad]
            products = torch.autograd.grad(
                [g for g, _ in live],
                leaves,
                [t for _, t in live],
                allow_unused=True,
                materialize_grads=True,
            )
        return [value, *gradients, *products]

    return SecondOrder(compute, point, [], vectors)


def matrix(blocks: Sequence[Sequence[Tensor]]) -> Tensor:
    return torch.cat([torch.cat(list(row), 1) for row in blocks])


def double_backward(of: OfParts, point: tuple[Tensor, ...]) -> Tensor:
    blocks = torch.autograd.functional.hessian(of.func, point)
    sizes = [x.numel() for x in point]
    return matrix([[b.reshape(m, n) for b, n in zip(r, sizes, strict=True)]
                   for r, m in zip(blocks, sizes, strict=True)])  # fmt: skip


def made(of: OfParts, limit: int | None = None) -> tuple[SecondOrder, RecordedHessian]:
    point, recorded = of.point(0), program(of)
    return recorded, RecordedHessian(recorded, recorded.residuals(point, []), point, limit)


@pytest.mark.parametrize(
    ("name", "limit"),
    [*((name, limit) for name in FUNCTIONS for limit in (None, 5)), ("network", 1), ("a linear part", 1)],
)
def test_it_is_the_hessian_at_other_points(name: str, limit: int | None) -> None:
    of = FUNCTIONS[name]
    recorded, whole = made(of, limit)
    for seed in (0, 200):
        point = of.point(seed)
        found, right = matrix(whole(recorded.residuals(point, []))), double_backward(of, point)
        assert (found - right).abs().max() <= 1e-12 * max(1.0, float(right.abs().max()))
    truth = difference_hessian(of.func, point)
    assert (found - truth).abs().max() <= 1e-7 * max(1.0, float(truth.abs().max()))


@pytest.mark.parametrize("name", ["network", "network, last layer first", "network as one vector"])
def test_rows_of_late_layers_take_less_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third and more of the multiplications are with zeros, or give what symmetry gives as well."""
    monkeypatch.setattr("hvplib.ad.recorded_hessian._OPERATION", 0.0)
    of = FUNCTIONS[name]
    _, whole = made(of, 5)
    numbers = [whole._linear.cost(group.rows, group.columns)[1] for group in whole._groups]
    sizes = [sum(len(whole._parts[number]) for number in group.rows) for group in whole._groups]
    everything = range(len(whole._parts))
    spent = sum(n * size for n, size in zip(numbers, sizes, strict=True))
    assert len(whole._groups) > 2
    assert spent < 0.66 * whole._linear.cost(everything, everything)[1] * sum(sizes)


def test_few_rows_are_one_chunk_that_is_unfolded_beforehand() -> None:
    _, whole = made(FUNCTIONS["network"])
    (rows,) = whole._rows
    assert rows.starts == [0]
    assert len(made(FUNCTIONS["network"], 5)[1]._rows) > 1


def test_chunks_are_as_equal_as_can_be_and_never_wider_than_allowed() -> None:
    _, whole = made(FUNCTIONS["network"], 9)
    widths = [rows.width for rows in whole._rows]
    assert max(widths) <= 9
    for rows in whole._rows:
        starts = rows.starts
        assert starts[0] == 0 and starts[-1] + rows.width == rows.size
        assert all(b - a <= rows.width for a, b in pairwise(starts))


def test_there_are_not_too_many_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvplib.ad.recorded_hessian._OPERATION", 1e-9)
    monkeypatch.setattr("hvplib.ad.recorded_hessian._PROGRAMS", 2)
    of = FUNCTIONS["network"]
    recorded, whole = made(of, 5)
    assert len(whole._rows) <= 2
    found = matrix(whole(recorded.residuals(of.point(7), [])))
    torch.testing.assert_close(found, double_backward(of, of.point(7)), rtol=1e-12, atol=1e-12)


def test_blocks_are_contiguous_and_their_own() -> None:
    of = FUNCTIONS["network"]
    recorded, whole = made(of, 5)
    blocks = whole(recorded.residuals(of.point(1), []))
    assert all(block.is_contiguous() for row in blocks for block in row)
    before = [block.clone() for block in blocks[0]]
    blocks[1][0].zero_()
    assert all(map(torch.equal, blocks[0], before))


def test_primals_of_several_dtypes_are_left_to_others() -> None:
    of = FUNCTIONS["weights on both sides"]
    recorded = program(of)
    x, y = of.point(0)
    with pytest.raises(TraceError, match="not all of one dtype and device, or some are empty"):
        RecordedHessian(recorded, recorded.residuals([x, y], []), [x, y.float()], None)
    with pytest.raises(TraceError, match="some are empty"):
        RecordedHessian(recorded, recorded.residuals([x, y], []), [x, y[:0]], None)
