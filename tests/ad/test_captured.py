"""Writes to tensors that outlive a function are undone; its own tensors keep their values."""

from __future__ import annotations

import torch

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
