"""Attention: the flash kernels have neither forward mode nor a double backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.ad.awkward.case import F64, Case, Table
from tests.ad.awkward.layers import inputs, parameters, squares

table = Table("attention")
raises_everywhere = table.right(forward="raises", reverse="raises")


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q kᵀ / √d + mask) v, written out."""
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def _case(
    call: Callable[..., Tensor], truth: Callable[..., Tensor], *, heads: bool = True, dtype: torch.dtype = F64
) -> Case:
    shape = (1, 2, 4, 4) if heads else (2, 4, 4)
    primals = tuple(inputs(*shape, dtype=dtype) for _ in range(3))
    rtol = {F64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 2e-1}[dtype]
    return Case(lambda *qkv: squares(call(*qkv)), primals, lambda *qkv: squares(truth(*qkv)), rtol=rtol)


CAUSAL = torch.full((4, 4), -torch.inf, dtype=F64).triu(1)


@raises_everywhere
def four_dimensions() -> Case:
    return _case(F.scaled_dot_product_attention, attention)


@raises_everywhere
def four_dimensions_float32() -> Case:
    return _case(F.scaled_dot_product_attention, attention, dtype=torch.float32)


@raises_everywhere
def four_dimensions_bfloat16() -> Case:
    return _case(F.scaled_dot_product_attention, attention, dtype=torch.bfloat16)


@raises_everywhere
def causal() -> Case:
    return _case(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: attention(q, k, v, CAUSAL),
    )


@raises_everywhere
def boolean_mask() -> Case:
    mask = torch.tensor([True, True, False, True])
    return _case(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        lambda q, k, v: attention(q, k, v, torch.zeros(4, dtype=F64).masked_fill(~mask, -torch.inf)),
    )


@raises_everywhere
def scaled() -> Case:
    return _case(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
        lambda q, k, v: attention(0.6 * q, k, v),
    )


@table.right()
def three_dimensions() -> Case:
    return _case(F.scaled_dot_product_attention, attention, heads=False)


@table.right()
def with_dropout() -> Case:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.4)

    return _case(call, call)


@table.right()
def where_the_user_chose_the_math_kernel() -> Case:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(q, k, v)

    return _case(call, attention)


@raises_everywhere
def where_the_user_chose_the_flash_kernel() -> Case:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v)

    return _case(call, attention)


@raises_everywhere
def functorch_gradient_inside() -> Case:
    """The remedy must reach into an inner torch.func transform."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.func.vmap(lambda a, b, c: F.scaled_dot_product_attention(a[None], b[None], c[None])[0])(
            q, k, v
        )

    return _case(call, attention)


def _math(module: nn.Module, call: Callable[[dict[str, Tensor]], Tensor], **options: Any) -> Case:
    """The truth is the same call under the math kernel, whose derivatives torch has."""

    def truth(p: dict[str, Tensor]) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return call(p)

    return Case(call, (parameters(module, 0.02),), truth, **options)


def _multihead(**options: Any) -> Case:
    layer = nn.MultiheadAttention(4, 2, batch_first=True).double()
    layer.train(options.pop("train", True))
    x = inputs(2, 3, 4)
    return _math(layer, lambda p: squares(functional_call(layer, p, (x, x, x), options)[0]))


@table.right()
def multihead_with_weights() -> Case:
    return _multihead(need_weights=True)


@raises_everywhere
def multihead_without_weights() -> Case:
    return _multihead(need_weights=False)


@raises_everywhere
def multihead_without_weights_in_evaluation() -> Case:
    return _multihead(need_weights=False, train=False)


@raises_everywhere
def multihead_with_padding_mask() -> Case:
    mask = torch.tensor([[False, False, True], [False, False, False]])
    return _multihead(need_weights=False, key_padding_mask=mask)


def _encoder_layer(dropout: float = 0.0) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(4, 2, 6, dropout=dropout, batch_first=True, activation="gelu")


@raises_everywhere
def transformer_encoder() -> Case:
    net = nn.TransformerEncoder(_encoder_layer(), 2).double()
    x = inputs(2, 3, 4)
    return _math(net, lambda p: squares(functional_call(net, p, (x,))))


@raises_everywhere
def transformer_encoder_in_evaluation_with_padding() -> Case:
    net = nn.TransformerEncoder(_encoder_layer(0.1), 1, enable_nested_tensor=False).double().eval()
    x, mask = inputs(2, 3, 4), torch.tensor([[False, False, True], [False, False, False]])
    return _math(net, lambda p: squares(functional_call(net, p, (x,), {"src_key_padding_mask": mask})))


@table.right(forward="wrong")
def transformer_encoder_layer_with_dropout() -> Case:
    """Under torch.func the same seed draws other noise; dual numbers over autograd see the same."""
    net, x = _encoder_layer(0.2).double(), inputs(2, 3, 4)
    return Case(lambda p: squares(functional_call(net, p, (x,))), (parameters(net, 0.02),))


@raises_everywhere
def transformer_decoder_layer() -> Case:
    net = nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0, batch_first=True, activation="gelu").double()
    x, memory = inputs(2, 3, 4), inputs(2, 2, 4)
    return _math(net, lambda p: squares(functional_call(net, p, (x, memory))))


@raises_everywhere
def whole_transformer() -> Case:
    net = nn.Transformer(4, 2, 1, 1, 6, dropout=0.0, batch_first=True, activation="gelu").double()
    x, y = inputs(2, 3, 4), inputs(2, 2, 4)
    return _math(net, lambda p: squares(functional_call(net, p, (x, y))))
