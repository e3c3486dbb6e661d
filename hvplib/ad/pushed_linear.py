"""Forward mode through linear layers with two arrays like the result, where torch's formula takes four."""

from __future__ import annotations

from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hvplib.ad.dual import make_dual

__all__ = ["LinearInPlace"]

_dual: Any = fwAD  # its functions carry no types


class LinearInPlace(TorchFunctionMode):
    """While it is active, `F.linear` of dual numbers adds up its tangent in place; for no graph around it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            if given["input"].dim() > 1 and given["weight"].dim() == 2:
                return _linear(given["input"], given["weight"], given.get("bias"))
        return func(*args, **kwargs)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    (x, dx), (weight, dweight) = _dual.unpack_dual(x), _dual.unpack_dual(weight)
    bias, dbias = (None, None) if bias is None else _dual.unpack_dual(bias)
    value = F.linear(x, weight, bias)
    if dx is None and dweight is None and dbias is None:
        return value
    rows = value.reshape(-1, value.shape[-1])
    tangent = torch.zeros_like(rows) if dbias is None else dbias.expand_as(rows).clone()
    if dx is not None:
        tangent.addmm_(dx.reshape(-1, dx.shape[-1]), weight.mT)
    if dweight is not None:
        tangent.addmm_(x.reshape(-1, x.shape[-1]), dweight.mT)
    return make_dual(value, tangent.view(value.shape))
