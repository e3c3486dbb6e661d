"""Which functions of torch 2.13 are replaced, and by what, so that their second derivatives are right.

A function mode sees the objects on the left; the functions on the right take the same arguments and give the
same value, and are twice differentiable by forward over reverse and by reverse over reverse. Names that a
replacement cannot stand in for are in `WRONG_BY_FORWARD` and `WRONG_BY_REVERSE`: that way of differentiating
them is wrong without an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hvplib.ad.decompositions import activation, ctc, layout, linalg, special
from hvplib.ad.decompositions import embedding as embeddings
from hvplib.ad.decompositions import grid as grids
from hvplib.ad.decompositions import index as indexing
from hvplib.ad.decompositions import loss as losses

__all__ = ["REPLACEMENTS", "WRONG_BY_FORWARD", "WRONG_BY_REVERSE"]

REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    # linear algebra and distances
    torch._weight_norm: linalg.weight_norm,
    torch.cdist: linalg.cdist,
    torch.pdist: linalg.pdist,
    torch.cholesky: linalg.cholesky,
    Tensor.cholesky: linalg.cholesky,
    torch.cholesky_inverse: linalg.cholesky_inverse,
    Tensor.cholesky_inverse: linalg.cholesky_inverse,
    torch.triangular_solve: linalg.triangular_solve,
    Tensor.triangular_solve: linalg.triangular_solve,
    torch.ormqr: linalg.ormqr,
    Tensor.ormqr: linalg.ormqr,
    # activations
    F.hardsigmoid: activation.hardsigmoid,
    torch._C._nn.hardsigmoid: activation.hardsigmoid,
    torch._C._nn.hardsigmoid_: activation.hardsigmoid_,
    F.rrelu: activation.rrelu,
    torch.rrelu_: activation.rrelu_,
    torch.sinc: special.sinc,
    Tensor.sinc: special.sinc,
    torch.special.sinc: special.sinc,
    # losses
    F.mse_loss: losses.mse_loss,
    F.huber_loss: losses.huber_loss,
    F.binary_cross_entropy: losses.binary_cross_entropy,
    F.soft_margin_loss: losses.soft_margin_loss,
    F.multi_margin_loss: losses.multi_margin_loss,
    F.multilabel_margin_loss: losses.multilabel_margin_loss,
    F.linear_cross_entropy: losses.linear_cross_entropy,
    F.ctc_loss: ctc.ctc_loss,
    # lookups, reductions by index, copies to other places
    F.embedding: embeddings.embedding,
    torch.embedding: embeddings.embedding_lookup,
    F.embedding_bag: embeddings.embedding_bag,
    torch.scatter_reduce: indexing.scatter_reduce,
    Tensor.scatter_reduce: indexing.scatter_reduce,
    Tensor.scatter_reduce_: indexing.scatter_reduce_,
    torch.index_reduce: indexing.index_reduce,
    Tensor.index_reduce: indexing.index_reduce,
    Tensor.index_reduce_: indexing.index_reduce_,
    torch.segment_reduce: indexing.segment_reduce,
    torch.tensor_split: layout.tensor_split,
    Tensor.tensor_split: layout.tensor_split,
    torch.as_strided_scatter: layout.as_strided_scatter,
    Tensor.as_strided_scatter: layout.as_strided_scatter,
    F.max_unpool1d: layout.max_unpool1d,
    F.max_unpool2d: layout.max_unpool2d,
    F.max_unpool3d: layout.max_unpool3d,
    # sampling
    F.grid_sample: grids.grid_sample,
    torch.grid_sampler: grids.grid_sampler,
    torch.grid_sampler_2d: grids.grid_sampler,
    torch.grid_sampler_3d: grids.grid_sampler,
}

# The same operations called by their raw names, which take other arguments than the public functions.
_ATEN = torch.ops.aten
WRONG_BY_FORWARD: frozenset[Callable[..., Any]] = frozenset(
    {
        _ATEN.cholesky_inverse,
        _ATEN.cholesky_inverse.default,
        _ATEN.scatter_reduce,
        _ATEN.scatter_reduce.two,
        _ATEN.triangular_solve,
        _ATEN.triangular_solve.default,
    }
)
WRONG_BY_REVERSE: frozenset[Callable[..., Any]] = frozenset(
    {
        _ATEN._weight_norm,
        _ATEN._weight_norm.default,
        _ATEN.as_strided_scatter,
        _ATEN.as_strided_scatter.default,
        torch._C._nn.max_unpool3d,
        _ATEN.max_unpool3d,
        _ATEN.max_unpool3d.default,
    }
)
