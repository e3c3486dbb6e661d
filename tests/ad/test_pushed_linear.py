"""Forward mode through F.linear in place is torch's own formula."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor

from hvplib.ad.dual import load_forward_formulas
from hvplib.ad.pushed_linear import LinearInPlace

F64 = torch.float64


@pytest.fixture(autouse=True)
def _formulas() -> None:
    """torch loads its formulas of forward mode, with a warning of its own that is kept away here."""
    load_forward_formulas()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3), (0, 3)])
def test_every_choice_of_tangents(shape: tuple[int, ...], with_bias: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    parts = [torch.randn(s, generator=rng, dtype=F64) for s in (shape, (5, 3), (5,))][: 2 + with_bias]
    tangents = [torch.randn(p.shape, generator=rng, dtype=F64) for p in parts]
    for chosen in itertools.product([False, True], repeat=len(parts)):
        with fwAD.dual_level():
            duals = [
                fwAD.make_dual(p, t) if c else p for p, t, c in zip(parts, tangents, chosen, strict=True)
            ]
            expected = fwAD.unpack_dual(F.linear(*duals))
            with LinearInPlace():
                found = fwAD.unpack_dual(F.linear(*duals))
            assert torch.equal(found.primal, expected.primal)
            assert (found.tangent is None) == (expected.tangent is None)
            if expected.tangent is not None:
                torch.testing.assert_close(found.tangent, expected.tangent, rtol=1e-13, atol=1e-13)
                tangent: Tensor = found.tangent
                assert tangent.shape == expected.tangent.shape
