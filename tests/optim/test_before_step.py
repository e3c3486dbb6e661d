"""What is put back where a step comes to nothing."""

from __future__ import annotations

import pytest
import torch

from hvplib.optim.before_step import BeforeStep


def test_parameters_and_grads_are_put_back_bit_for_bit() -> None:
    a, b, c = (torch.randn(3, requires_grad=True) for _ in range(3))
    a.grad, b.grad = torch.ones(3), torch.zeros(3)
    kept, values = a.grad, [p.detach().clone() for p in (a, b, c)]
    before = BeforeStep([a, b, c])
    with torch.no_grad():
        for p in (a, b, c):
            p.mul_(1 / 3)
    a.grad.add_(1)
    b.grad = None
    c.grad = torch.ones(3)
    before.restore()
    assert all(torch.equal(p.detach(), value) for p, value in zip((a, b, c), values, strict=True))
    assert a.grad is kept and torch.equal(kept, torch.ones(3))
    assert b.grad is not None and torch.equal(b.grad, torch.zeros(3))
    assert c.grad is None


@pytest.mark.parametrize("had_grad", [False, True])
def test_a_closure_that_writes_into_grad_is_told(had_grad: bool) -> None:
    w = torch.ones(2, requires_grad=True)
    w.grad = torch.ones(2) if had_grad else None

    def closure() -> torch.Tensor:
        loss = w.square().sum()
        torch.autograd.backward(loss, retain_graph=True)
        return loss

    with pytest.raises(RuntimeError, match=r"changed \.grad.*without calling\s*backward\(\)"):
        BeforeStep([w]).watched(closure)()
    before = BeforeStep([w])
    assert before.watched(lambda: 3)() == 3
