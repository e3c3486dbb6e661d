"""Operations that compute something wherever they are, and raise nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx as fx

from hvplib.ad.trace.recorder import part_of

__all__ = ["is_total"]

aten: Any = torch.ops.aten

_TOTAL: set[Any] = {
    part_of,
    # views and copies
    *(aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default),
    *(aten.t.default, aten.transpose.int, aten.permute.default, aten.unsqueeze.default),
    *(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.select.int, aten.slice.Tensor),
    *(aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int, aten.diagonal.default),
    *(aten.clone.default, aten.alias.default, aten.detach.default, aten.cat.default, aten.stack.default),
    *(aten.constant_pad_nd.default, aten.flip.default, aten.roll.default, aten.unfold.default),
    *(aten.slice_backward.default, aten.select_backward.default, aten.diagonal_backward.default),
    # new tensors
    *(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default, aten.scalar_tensor.default),
    *(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.zeros.default),
    *(aten.ones.default, aten.full.default, aten.empty_like.default, aten.new_empty.default),
    # products
    *(aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.vdot.default),
    *(aten.addmm.default, aten.addmv.default, aten.baddbmm.default, aten.addbmm.default),
    *(aten.convolution.default, aten.convolution_backward.default),
    # sums and their like
    *(aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim, aten.cumsum.default),
    *(aten.prod.default, aten.prod.dim_int, aten.logsumexp.default, aten.amax.default, aten.amin.default),
    *(aten.var.correction, aten._softmax.default, aten._log_softmax.default),
    *(aten._softmax_backward_data.default, aten._log_softmax_backward_data.default),
    *(aten.mse_loss.default, aten.mse_loss_backward.default, aten.log_sigmoid_forward.default),
}


def is_total(graph: fx.Graph) -> bool:
    """Whether running this graph raises nothing, whatever numbers its inputs hold.

    What factorises a matrix may raise, and so may what takes indices if they are made of the inputs; of
    operations that are not listed nothing is known.
    """
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    return all(target in _TOTAL or torch.Tag.pointwise in getattr(target, "tags", ()) for target in called)
