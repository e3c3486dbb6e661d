"""Random vectors: their moments, their bits, and where they come from."""

from __future__ import annotations

import math

import pytest
import torch

from hvplib import Diagonal
from hvplib.estimate.probes import Probes, generator_of

F64 = torch.float64
DISTRIBUTIONS = ["rademacher", "normal", "sphere"]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_mean_zero_and_covariance_one(distribution: str, dtype: torch.dtype) -> None:
    k = 20_000
    Z = Probes(4, dtype, generator=3, distribution=distribution).block(k).double()
    # A mean of k products of two entries of variance at most 3 strays by √(3 / k) about.
    assert float(Z.mean(1).abs().max()) < 5 / math.sqrt(k)
    assert float((Z @ Z.mT / k - torch.eye(4, dtype=F64)).abs().max()) < 5 * math.sqrt(3 / k)


def test_what_the_distributions_are() -> None:
    signs = Probes(50, F64, generator=0).block(20)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    sphere = Probes(50, F64, generator=0, distribution="sphere").block(20)
    torch.testing.assert_close(sphere.square().sum(0), torch.full((20,), 50.0, dtype=F64))
    normal = Probes(50, F64, generator=0, distribution="normal").block(20)
    torch.testing.assert_close(sphere, normal / normal.norm(dim=0) * math.sqrt(50))
    # Its fourth moment is 3; of 100 000 numbers it strays by √(96 / 100 000) about.
    many = Probes(100, F64, generator=0, distribution="normal").block(1000)
    assert abs(float(many.pow(4).mean()) - 3) < 5 * math.sqrt(96 / 1e5)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("n", [1, 7, 64])
def test_blocks_do_not_change_the_vectors(distribution: str, n: int) -> None:
    one = Probes(n, F64, generator=11, distribution=distribution)
    several = Probes(n, F64, generator=11, distribution=distribution)
    assert torch.equal(one.block(7), torch.cat([several.block(k) for k in (1, 4, 2)], dim=1))
    assert one.num_drawn == several.num_drawn == 7


def test_bits_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    first = Probes(30, torch.float32).block(3)
    assert torch.equal(first, Probes(30, torch.float32).block(3))
    assert not torch.equal(first, Probes(30, torch.float32, generator=1).block(3))
    generator = torch.Generator().manual_seed(1)
    assert torch.equal(
        Probes(30, torch.float32, generator=generator).block(3),
        Probes(30, torch.float32, generator=1).block(3),
    )
    assert not torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state()), "it advances"
    assert torch.equal(state, torch.get_rng_state())


def test_columns_lie_as_products_want_them() -> None:
    block = Probes.of(Diagonal(torch.ones(5)), generator=0).block(3)
    assert block.shape == (5, 3) and block.dtype == torch.float32 and block.mT.is_contiguous()


def test_unknown_distributions_and_seeds_are_refused() -> None:
    with pytest.raises(
        ValueError, match="distribution must be one of 'rademacher', 'normal', 'sphere', got 'x'"
    ):
        Probes(3, F64, distribution="x")  # type: ignore[arg-type]
    for bad in (1.5, True, "1"):
        with pytest.raises(TypeError, match=r"generator must be a torch.Generator, a seed or None, got"):
            generator_of(bad)  # type: ignore[arg-type]
