"""GPT-2, BERT and Llama of Hugging Face transformers: tiny, random, in float64, as they come."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

import hvplib

pytest.importorskip("transformers")

F64 = torch.float64
VOCABULARY, LENGTH, BATCH = 11, 5, 2
Params = dict[str, Tensor]


def _model(family: str, attention: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the imports warn of is not the subject here
        import transformers

    common: dict[str, Any] = {"vocab_size": VOCABULARY, "attn_implementation": attention}
    if family == "gpt2":
        sizes: dict[str, Any] = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": LENGTH}
        config = transformers.GPT2Config(**common, **sizes, bos_token_id=1, eos_token_id=2)
        model = transformers.GPT2LMHeadModel(config)
    elif family == "bert":
        # token 0 is BERT's padding row and occurs in the data
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
        model = transformers.BertForMaskedLM(
            transformers.BertConfig(**common, **sizes, max_position_embeddings=8)
        )
    else:
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
        config = transformers.LlamaConfig(
            **common,
            **sizes,
            num_key_value_heads=1,
            max_position_embeddings=8,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = transformers.LlamaForCausalLM(config)
    return model.double()


@functools.cache
def _built(family: str, attention: str) -> nn.Module:
    torch.manual_seed(0)
    return _model(family, attention)


def _batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (BATCH, LENGTH), generator=generator)
    mask = torch.ones_like(tokens)
    tokens[1, 3:] = 0
    mask[1, 3:] = 0
    return {"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}


class _KeepDouble(TorchFunctionMode):
    """Leaves float64 alone where a model casts it down to float32 (its loss, its norms, its softmax).

    Those casts are the model's own; without them the comparison can be made to the accuracy of float64.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], Tensor) and args[0].dtype == F64:
            if func is Tensor.float or (func is Tensor.to and args[1:2] == (torch.float32,)):
                return args[0]
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = F64
        return func(*args, **kwargs)


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> Callable[[Params], Tensor]:
    def func(params: Params) -> Tensor:
        with _KeepDouble():
            return functional_call(model, params, (), batch).loss

    return func


def _loss_as_it_comes(model: nn.Module, batch: dict[str, Tensor]) -> Callable[[Params], Tensor]:
    return lambda params: functional_call(model, params, (), batch).loss


def _point(model: nn.Module) -> Params:
    """Parameters away from the module's own, where a checkpoint that recomputes with those goes wrong."""
    generator = torch.Generator().manual_seed(2)
    return {
        k: p.detach() + 0.1 * torch.randn(p.shape, generator=generator, dtype=F64)
        for k, p in model.named_parameters()
    }


def _direction(params: Params) -> Params:
    generator = torch.Generator().manual_seed(3)
    v = {k: torch.randn(p.shape, generator=generator, dtype=F64) for k, p in params.items()}
    length = sum(float((t * t).sum()) for t in v.values()) ** 0.5
    return {k: t / length for k, t in v.items()}


def _frozen_padding(
    model: nn.Module, func: Callable[[Params], Tensor], params: Params
) -> Callable[[Params], Tensor]:
    """`func` with the padding rows of embeddings held at `params`, as autograd holds them in the look-up.

    A tied output layer uses the row as well, and that use is differentiated: so only the look-up is replaced.
    """
    frozen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            frozen[id(module)] = params[f"{name}.weight"][module.padding_idx].clone()

    def forward(self: nn.Embedding, tokens: Tensor) -> Tensor:
        rows = self.weight[tokens]
        if id(self) in frozen:
            rows = torch.where((tokens == self.padding_idx)[..., None], frozen[id(self)], rows)
        return rows

    def call(params: Params) -> Tensor:
        original = nn.Embedding.forward
        nn.Embedding.forward = forward  # type: ignore[method-assign]
        try:
            return func(params)
        finally:
            nn.Embedding.forward = original  # type: ignore[method-assign]

    return call


def _difference(func: Callable[[Params], Tensor], params: Params, v: Params, step: float = 1e-3) -> Params:
    """4th-order central difference of the plain gradient, the noise repeated, checkpoints off."""

    def gradient(t: float) -> list[Tensor]:
        at = {k: (p + t * v[k]).requires_grad_() for k, p in params.items()}
        torch.manual_seed(4)
        return list(
            torch.autograd.grad(func(at), list(at.values()), allow_unused=True, materialize_grads=True)
        )

    near = zip(gradient(step), gradient(-step), strict=True)
    far = zip(gradient(2 * step), gradient(-2 * step), strict=True)
    parts = [(8 * (a - b) - (c - d)) / (12 * step) for (a, b), (c, d) in zip(near, far, strict=True)]
    return dict(zip(params, parts, strict=True))


def _double_backward(func: Callable[[Params], Tensor], params: Params, v: Params) -> Params:
    at = {k: p.clone().requires_grad_() for k, p in params.items()}
    torch.manual_seed(4)
    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.autograd.grad(func(at), list(at.values()), create_graph=True, materialize_grads=True)
    product = torch.autograd.grad(gradient, list(at.values()), list(v.values()), materialize_grads=True)
    return dict(zip(params, product, strict=True))


def _error(got: Params, expected: Params) -> float:
    distance = sum(float(((got[k] - expected[k]) ** 2).sum()) for k in expected) ** 0.5
    return distance / sum(float((t * t).sum()) for t in expected.values()) ** 0.5


CASES = [
    pytest.param(
        family,
        attention,
        mode,
        checkpointing,
        id=f"{family}-{attention}-{mode}{'-checkpoint' * checkpointing}",
        marks=[]
        if (attention, mode, checkpointing) in (("sdpa", "train", True), ("sdpa", "eval", False))
        else [pytest.mark.slow],
    )
    for family in ("gpt2", "bert", "llama")
    for attention in ("eager", "sdpa")
    for mode in ("train", "eval")
    for checkpointing in (False, True)
]


@pytest.mark.parametrize(("family", "attention", "mode", "checkpointing"), CASES)
def test_model(family: str, attention: str, mode: str, checkpointing: bool) -> None:
    model = _built(family, attention).train(mode == "train")
    params, batch = _point(model), _batch()
    v = _direction(params)
    func = _loss(model, batch)
    model.activation_checkpointing_disable()
    truth = _frozen_padding(model, func, params)
    expected = _difference(truth, params, v)
    assert _error(_double_backward(truth, params, v), expected) < 1e-6, "the oracles contradict one another"
    if checkpointing:
        model.activation_checkpointing_enable()
    own = {k: p.detach().clone() for k, p in model.named_parameters()}

    torch.manual_seed(4)
    products = [hvplib.hvp(func, params, v) for _ in range(2)]
    local = hvplib.local_model(func, params)
    products += [
        local.hvp(v),
        local.hvp(v),
        _first(local.hvp_block({k: torch.stack([t, -t]) for k, t in v.items()})),
    ]

    for product in products:
        assert _error(product, expected) <= 1e-6
    assert all(torch.equal(products[0][k], products[1][k]) for k in v), (
        "two equal calls must be bitwise equal"
    )
    assert all(torch.equal(p, own[k]) and p.grad is None for k, p in model.named_parameters())
    assert model.training == (mode == "train")
    assert not checkpointing or model.is_activation_checkpointing


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_model_that_casts_to_float32_inside(family: str) -> None:
    """As they come: float64 parameters, some operations in float32; right to the accuracy of those."""
    model = _built(family, "sdpa").train()
    model.activation_checkpointing_enable()
    params = _point(model)
    v, func = _direction(params), _loss_as_it_comes(model, _batch())
    torch.manual_seed(4)
    products = [hvplib.hvp(func, params, v), hvplib.local_model(func, params).hvp(v)]
    model.activation_checkpointing_disable()
    expected = _double_backward(_frozen_padding(model, func, params), params, v)
    for product in products:
        assert _error(product, expected) <= 1e-4


def _first(block: Params) -> Params:
    return {k: t[0] for k, t in block.items()}


@pytest.mark.parametrize("family", ["gpt2", "bert", "llama"])
def test_bare_torch_fails_on_the_default_attention(family: str) -> None:
    """The trap: with the attention that transformers choose by default, no way of torch gives a product."""
    model = _built(family, "sdpa").eval()
    model.activation_checkpointing_disable()
    params = _point(model)
    v, func = _direction(params), _loss_as_it_comes(model, _batch())
    with pytest.raises(RuntimeError, match=r"forward AD|requires_grad_\(\)"):
        torch.func.jvp(torch.func.grad(func), (params,), (v,))
    at = {k: p.clone().requires_grad_() for k, p in params.items()}
    gradient = torch.autograd.grad(func(at), list(at.values()), create_graph=True, materialize_grads=True)
    with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
        torch.autograd.grad(gradient, list(at.values()), list(v.values()), materialize_grads=True)
