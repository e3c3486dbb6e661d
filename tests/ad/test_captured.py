"""Writes to tensors that outlive a function are undone; its own tensors keep their values."""

from __future__ import annotations

import torch
from torch import Tensor

from hvplib import hvp, local_model
from hvplib.ad.captured import Writes


def test_a_write_to_a_captured_tensor_is_undone() -> None:
    buffer, writes = torch.zeros(3), Writes()
    writes.note(buffer)
    buffer.add_(1)
    writes.note(buffer)  # the first state counts
    buffer.add_(1)
    writes.undo()
    assert buffer.tolist() == [0, 0, 0]


def test_a_write_through_a_view_is_undone() -> None:
    buffer, writes = torch.zeros(2, 2), Writes()
    writes.note(buffer[1])
    buffer[1].fill_(5)
    buffer[0].fill_(7)  # the whole base is kept
    writes.undo()
    assert buffer.tolist() == [[0, 0], [0, 0]]


def test_a_tensor_that_the_function_made_keeps_its_value() -> None:
    writes = Writes()
    alias = torch.zeros(2)
    own = alias.detach()  # same memory; after the next line only the record holds this object
    writes.note(own)
    own.fill_(4)
    del own
    writes.undo()
    assert alias.tolist() == [4, 4]


def test_keep_restores_nothing_of_the_ids_given() -> None:
    kept, other, writes = torch.zeros(1), torch.zeros(1), Writes()
    for tensor in (kept, other):
        writes.note(tensor)
        tensor.fill_(3)
    writes.undo(keep={id(kept)})
    assert (float(kept), float(other)) == (3, 0)


def test_the_record_is_empty_after_undo() -> None:
    buffer, writes = torch.zeros(1), Writes()
    writes.note(buffer)
    writes.undo()
    buffer.fill_(2)
    writes.undo()
    assert float(buffer) == 2


def test_a_tensor_with_a_graph_is_not_recorded() -> None:
    x, writes = torch.ones(1, requires_grad=True), Writes()
    y = x * 2
    writes.note(y)
    y.mul_(3)
    writes.undo()
    assert float(y.detach()) == 6


def test_what_was_not_written_to_is_left_alone() -> None:
    # As by `requires_grad_`: to put the same value back would spoil graphs that refer to it.
    kept = torch.ones(3)
    writes = Writes()
    writes.note(kept)
    kept.requires_grad_()
    version = kept._version
    writes.undo()
    assert kept._version == version


def test_tensors_without_a_count_of_writes_are_put_back() -> None:
    with torch.inference_mode():
        kept = torch.ones(3)
        writes = Writes()
        writes.note(kept)
        kept.add_(1)
        writes.undo()
        assert kept.tolist() == [1, 1, 1]


def test_derivatives_inside_a_function_keep_its_graph() -> None:
    # As in physics-informed networks.
    t = torch.linspace(0, 1, 8, dtype=torch.float64)[:, None]

    def func(w: Tensor, b: Tensor, u: Tensor) -> Tensor:
        x = t.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad((torch.tanh(x @ w + b) @ u).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return (bend + torch.sin(3 * x)).square().mean()

    generator = torch.Generator().manual_seed(0)
    point = tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in ((1, 5), (5,), (5, 1)))
    direction = tuple(torch.ones_like(p) for p in point)
    model = local_model(func, point)
    product = model.hvp(direction)
    assert model.report.strategy == "reverse-over-reverse (graph kept)"
    exact = hvp(func, point, direction, strategy="forward-over-reverse")
    for ours, theirs in zip(product, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
