"""Diagonals of sparse operators: unit vectors that do not meet are multiplied as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from hvplib.estimate.probes import Probes
from hvplib.estimate.products import Products

__all__ = ["colored_diagonal", "colors", "neighbours"]

# Two products with the same entries agree to so many eps of the largest number in them.
_ROUNDING = 1000.0


def neighbours(pattern: Any, n: int) -> scipy.sparse.csr_array:
    """The entries beside the diagonal where A or Aᵀ may differ from zero, as a boolean matrix.

    Raises:
        TypeError: The pattern is no matrix.
        ValueError: It is not of A's shape.
    """
    if isinstance(pattern, Tensor):
        if pattern.layout == torch.strided:
            pattern = scipy.sparse.coo_array(pattern.detach().cpu().numpy() != 0)
        else:
            entries = pattern.detach().to_sparse().coalesce().cpu()
            rows, columns = entries.indices().numpy()
            pattern = scipy.sparse.coo_array(
                (np.ones(len(rows), bool), (rows, columns)), tuple(pattern.shape)
            )
    elif isinstance(pattern, np.ndarray):
        pattern = scipy.sparse.coo_array(pattern != 0)
    elif not scipy.sparse.issparse(pattern):
        raise TypeError(
            "pattern must be a SciPy sparse matrix, a torch sparse tensor, or a dense array or tensor, got "
            f"{type(pattern).__name__}"
        )
    if tuple(pattern.shape) != (n, n):
        raise ValueError(f"pattern must have A's shape, ({n}, {n}), got {tuple(pattern.shape)}")
    rows, columns = scipy.sparse.coo_array(pattern).coords
    off = rows != columns
    ones = np.ones(2 * int(off.sum()), dtype=bool)
    both = np.concatenate([rows[off], columns[off]]), np.concatenate([columns[off], rows[off]])
    return scipy.sparse.coo_array((ones, both), (n, n)).tocsr()


def colors(graph: scipy.sparse.csr_array) -> Tensor:
    """A colour (n,) for each vertex, other than its neighbours': greedily, those of most neighbours first.

    At most one colour more than the largest number of neighbours.

    Source: Curtis, Powell, Reid (1974), 10.1093/imamat/13.1.117, for the idea; Welsh, Powell (1967),
    10.1093/comjnl/10.1.85, for the order.
    """
    starts, ends = graph.indptr[:-1], graph.indptr[1:]
    found = np.full(graph.shape[0], -1)
    for vertex in np.argsort(-(ends - starts), kind="stable"):
        taken = set(found[graph.indices[starts[vertex] : ends[vertex]]].tolist())
        colour = 0
        while colour in taken:
            colour += 1
        found[vertex] = colour
    return torch.from_numpy(found)


def colored_diagonal(products: Products, colour: Tensor, probes: Probes, block_size: int) -> Tensor:
    """a_ii (n,) in float64, from one product for each colour, and one more to verify it.

    Σ_j e_j over the vertices of one colour meets none of their neighbours: A times it has a_ii in row i. The
    same with random weights in place of ones has to give the same a_ii; an entry that the pattern lacks
    shows with probability one.

    Args:
        products: X ↦ A X.
        colour: Of each column of A (n,).
        probes: Draws the weights, normal.
        block_size: Vectors multiplied at a time.

    Raises:
        ValueError: The pattern is too small.
    """
    operator = products.operator
    n, count = colour.numel(), int(colour.max()) + 1
    colour = colour.to(operator.device)
    found = torch.zeros(n, dtype=torch.float64, device=operator.device)
    for start in range(0, count, block_size):
        classes = torch.arange(start, min(start + block_size, count), device=operator.device)
        member = colour.unsqueeze(1) == classes
        ones = member.to(operator.torch_dtype).mT.contiguous().mT
        # A weight near zero would hide its row.
        weights = probes.block(1).sign() * (1 + probes.block(1).abs())
        once = products.of_random(ones, "colours").double()
        again = products(ones * weights, "verification").double()
        found += torch.where(member, once, 0.0).sum(1)
        off = torch.where(member, again - weights.double() * once, 0.0).abs().max()
        scale = torch.maximum(once.abs().max(), again.abs().max())
        _check(float(off), float(scale), torch.finfo(operator.torch_dtype).eps)
    return found


def _check(off: float, scale: float, eps: float) -> None:
    if off > _ROUNDING * eps * scale:
        raise ValueError(
            "pattern is too small: A has entries beside the diagonal that it lacks, or its products are not "
            f"the same each time (two products that should agree differ by {off:.2g}); give a pattern that "
            "holds all entries, or leave it out"
        )
