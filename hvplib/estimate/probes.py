"""Random vectors z with E[z zᵀ] = I, in blocks."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from hvplib.operators.base import Operator

__all__ = ["Distribution", "Probes", "generator_of"]

Distribution = Literal["rademacher", "normal", "sphere"]

# An arbitrary fixed number: equal calls give equal bits.
_SEED = 0x50726F6265


class Probes:
    """z_1, z_2, ... (n,), independent, with E[z] = 0 and E[z zᵀ] = I.

    "rademacher" has entries ±1 with equal odds: of all these, its zᵀA z varies least, by 2 Σ_{i≠j} a_ij² for
    a symmetric A, and not at all for a diagonal one. "normal" varies by 2 ‖A‖_F². "sphere" is normal, scaled
    to the length √n: its direction is uniform, and zᵀz does not vary.

    Which vectors come does not depend on how they are divided into blocks. A seed, or a generator on the CPU,
    gives the same vectors on every device.

    Args:
        n: Length.
        dtype, device: Of the vectors.
        generator: Advances; or a seed. Without one, equal calls give equal bits.
        distribution: Of the entries.

    Attributes:
        num_drawn: Vectors drawn so far.

    Example:
        >>> import torch
        >>> Probes(3, torch.float64, generator=1).block(2)
        tensor([[ 1., -1.],
                [ 1.,  1.],
                [-1.,  1.]], dtype=torch.float64)
    """

    def __init__(
        self,
        n: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        generator: torch.Generator | int | None = None,
        distribution: Distribution = "rademacher",
    ) -> None:
        if distribution not in get_args(Distribution):
            names = ", ".join(map(repr, get_args(Distribution)))
            raise ValueError(f"distribution must be one of {names}, got {distribution!r}")
        self._n, self._dtype, self._device = n, dtype, torch.device(device)
        self._generator = generator_of(generator)
        self._distribution = distribution
        self.num_drawn = 0

    @classmethod
    def of(
        cls,
        operator: Operator,
        *,
        generator: torch.Generator | int | None = None,
        distribution: Distribution = "rademacher",
    ) -> Probes:
        """Vectors that `operator` multiplies."""
        return cls(
            operator.shape[1],
            operator.torch_dtype,
            operator.device,
            generator=generator,
            distribution=distribution,
        )

    def block(self, columns: int) -> Tensor:
        """The next vectors, as columns (n, columns)."""
        self.num_drawn += columns
        rows = torch.empty(columns, self._n, dtype=self._dtype, device=self._generator.device)
        # Row by row: generators do not promise the same numbers for one call as for several.
        for row in rows:
            self._fill(row)
        return rows.to(self._device).mT

    def _fill(self, row: Tensor) -> None:
        if self._distribution == "rademacher":
            row.random_(2, generator=self._generator).mul_(2).sub_(1)
            return
        row.normal_(generator=self._generator)
        if self._distribution == "sphere":
            row.mul_(math.sqrt(self._n) / torch.linalg.vector_norm(row))


def generator_of(generator: torch.Generator | int | None) -> torch.Generator:
    """The generator itself, or a new one with that seed, or with a fixed one."""
    if isinstance(generator, torch.Generator):
        return generator
    if generator is not None and (isinstance(generator, bool) or not isinstance(generator, int)):
        raise TypeError(f"generator must be a torch.Generator, a seed or None, got {generator!r}")
    return torch.Generator().manual_seed(_SEED if generator is None else generator)
