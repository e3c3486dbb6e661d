"""Curvature of blocks, against the dense matrix."""

from __future__ import annotations

import pytest
import torch

from hvplib import Diagonal, HessianOperator
from hvplib.plots import layer_curvature

POINT = {
    "a.w": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double(),
    "a.b": torch.ones(2).double(),
    "c": torch.ones(1),
}


def coupled(p: dict[str, torch.Tensor]) -> torch.Tensor:
    x = torch.cat([leaf.reshape(-1).double() for leaf in p.values()])
    weights = torch.arange(1.0, 8.0).double()
    return (weights * x**3).sum() + (x.sum()) ** 2


H = HessianOperator(coupled, {name: leaf.double() for name, leaf in POINT.items()})
DENSE = H.to_dense()
BLOCKS = {"a.w": slice(0, 4), "a.b": slice(4, 6), "c": slice(6, 7)}


def test_traces_of_blocks_come_from_the_same_products() -> None:
    before = H.num_matvecs
    found = layer_curvature(H, num_probes=400, generator=1)
    assert H.num_matvecs == before + 400 and list(found) == list(BLOCKS)
    for name, where in BLOCKS.items():
        value, error = found[name]
        assert abs(value - float(DENSE[where, where].trace())) <= 4 * error + 1e-9
    assert found["c"][1] < 1e-12 + 4 * float(DENSE[6, :6].norm()), "of one entry, only the coupling is noise"
    assert layer_curvature(H, num_probes=2, generator=2) != layer_curvature(H, num_probes=2, generator=3)
    means = layer_curvature(H, "mean", num_probes=400, generator=1)
    assert means["a.w"][0] == pytest.approx(found["a.w"][0] / 4)


def test_the_top_of_a_block_is_that_of_the_dense_one() -> None:
    found = layer_curvature(H, "top", names=["a", "c"])
    top = torch.linalg.eigvalsh(DENSE[:6, :6])[-1]
    assert found["a"][0] == pytest.approx(float(top), rel=1e-4) and abs(found["a"][0] - top) <= found["a"][1]
    assert found["c"][0] == pytest.approx(float(DENSE[6, 6]))


def test_errors() -> None:
    with pytest.raises(ValueError, match='"trace", "top" or "mean", got \'size\''):
        layer_curvature(H, "size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="A has no names of parameters"):
        layer_curvature(Diagonal(torch.ones(3)))
    with pytest.raises(ValueError, match="no leaf matches 'z'"):
        layer_curvature(H, names=["z"])
