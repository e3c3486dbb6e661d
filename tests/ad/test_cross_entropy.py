"""Cross entropy by rows is torch's own, to the second derivative and in forward mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor

import hvplib.ad.cross_entropy as module
from hvplib.ad.cross_entropy import RowByRow
from hvplib.ad.dual import load_forward_formulas

F64 = torch.float64


@pytest.fixture(autouse=True)
def _formulas() -> None:
    """torch loads its formulas of forward mode, with a warning of its own that is kept away here."""
    load_forward_formulas()


def everything(z: Tensor, y: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    """Value, gradient, product and tangent of a function of the loss."""
    z = z.clone().requires_grad_()
    value = F.cross_entropy(z.sinh(), y, **options).square().sum()
    (gradient,) = torch.autograd.grad(value, z, create_graph=True)
    (product,) = torch.autograd.grad(gradient, z, v)
    with fwAD.dual_level():
        dual = F.cross_entropy(fwAD.make_dual(z.detach(), v).sinh(), y, **options)
        tangent = fwAD.unpack_dual(dual).tangent
    return [value.detach(), gradient.detach(), product, tangent]


@pytest.mark.parametrize("chunk", [1, 200, 10**6])
@pytest.mark.parametrize("shape", [(11, 7), (3, 5, 2), (2, 4, 3, 2), (1, 1)])
@pytest.mark.parametrize(
    "options", [{}, {"reduction": "sum"}, {"reduction": "none"}, {"weight": True}, {"ignore_index": 0}]
)
def test_it_is_torchs(
    shape: tuple[int, ...], options: dict[str, Any], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rng = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, *shape, generator=rng, dtype=F64)
    y = torch.randint(shape[1], (shape[0], *shape[2:]), generator=rng)
    if y.numel() > 1 and "ignore_index" not in options:
        y.view(-1)[1] = -100
    if "weight" in options:
        options = {"weight": torch.rand(shape[1], generator=rng, dtype=F64) + 0.1}
    expected = everything(z, y, v, **options)
    with RowByRow():
        found = everything(z, y, v, **options)
    if bool((y == options.get("ignore_index", -100)).all()):  # 0 / 0 has no derivatives to compare
        found, expected = found[:1], expected[:1]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_what_it_does_not_cover_goes_to_torch() -> None:
    z = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y, soft = torch.tensor([0, 2, 1, 1]), torch.full((4, 3), 1 / 3, dtype=F64)
    for args, options in [((z, soft), {}), ((z, y), {"label_smoothing": 0.1}), ((z[0], y[0]), {})]:
        with RowByRow():
            found = F.cross_entropy(*args, **options)
        assert torch.equal(found, F.cross_entropy(*args, **options))
        assert "_Losses" not in str(found.grad_fn)
    with RowByRow():
        assert F.cross_entropy(z.half(), y).dtype == torch.float16


def test_large_logits_do_not_overflow() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float32, requires_grad=True)
    with RowByRow():
        value = F.cross_entropy(z, torch.tensor([0]))
    assert float(value.detach()) == 0
    (gradient,) = torch.autograd.grad(value, z)
    assert torch.equal(gradient, torch.zeros(1, 3))
