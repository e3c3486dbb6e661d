"""What is differentiated: the operations, their in-place variants and the modules of torch's database."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

MAX_NUMBERS = 4000

_ROUNDS = "rounds its input to a narrower type, so that a difference quotient sees steps"
_SIGNS = "the sample differentiates the target, whose only values are 1 and -1"
LEFT_OUT = {
    "op:bfloat16": _ROUNDS,
    "op:cfloat": _ROUNDS,
    "op:chalf": _ROUNDS,
    "op:float": _ROUNDS,
    "op:half": _ROUNDS,
    "op:nn.functional.cosine_embedding_loss": _SIGNS,
    "op:nn.functional.hinge_embedding_loss": _SIGNS,
    "module:nn.CosineEmbeddingLoss": _SIGNS,
    "module:nn.HingeEmbeddingLoss": _SIGNS,
}


@dataclass(frozen=True)
class Sample:
    """One call: where it is differentiated, and a function of that point that returns its floating outputs.

    `prepare()` copies all constants and gives a function that may write to the copies.
    """

    primals: list[Tensor]
    prepare: Callable[[], Callable[[Sequence[Tensor]], list[Tensor]]]
    text: str


@dataclass(frozen=True)
class Unit:
    """One operation, in-place variant or module, with its samples."""

    name: str
    generate: Callable[[], Iterator[Sample]]

    def samples(self, limit: int) -> list[Sample]:
        """The first samples that have something to differentiate and are not too large."""
        chosen: list[Sample] = []
        torch.manual_seed(0)
        for sample in self.generate():
            size = sum(x.numel() for x in sample.primals)
            if 0 < size <= MAX_NUMBERS and _depends(sample):
                chosen.append(sample)
            if len(chosen) == limit:
                break
        return chosen


def units() -> list[Unit]:
    """All units of the database that have a gradient in float64, in a fixed order; none is left out here."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    found = []
    for op in op_db:
        if torch.float64 not in op.supported_dtypes("cpu"):
            continue
        name = f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name
        if op.supports_autograd:
            found.append(Unit(f"op:{name}", lambda op=op: _op_samples(op, op.op, inplace=False)))
        if op.inplace_variant is not None and op.supports_inplace_autograd:
            inplace = op.inplace_variant
            found.append(Unit(f"inplace:{name}", lambda op=op, f=inplace: _op_samples(op, f, inplace=True)))
    for info in module_db:
        if torch.float64 not in info.supported_dtypes("cpu"):
            continue
        for training in (True, False) if info.train_and_eval_differ else (False,):
            suffix = ".train" if training else ""
            found.append(
                Unit(f"module:{info.name}{suffix}", lambda i=info, t=training: _module_samples(i, training=t))
            )
    return found


def _is_primal(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.requires_grad
        and value.dtype == torch.float64
        and value.layout == torch.strided
        and not value.is_nested
    )


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) and not value.is_nested else value


def _floating_outputs(result: Any) -> list[Tensor]:
    outputs = []
    for value in tree_flatten(result)[0]:
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            dense = value if value.layout == torch.strided else value.to_dense()
            outputs.append(torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense)
    return outputs


def _op_samples(op: Any, function: Callable[..., Any], *, inplace: bool) -> Iterator[Sample]:
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        if inplace and sample.broadcasts_input:
            continue
        leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
        where = [index for index, leaf in enumerate(leaves) if _is_primal(leaf)]
        if inplace and 0 not in where:
            continue
        process = sample.output_process_fn_grad

        def prepare(
            leaves: list[Any] = leaves, spec: Any = spec, where: list[int] = where, process: Any = process
        ) -> Callable[[Sequence[Tensor]], list[Tensor]]:
            constants = [None if index in where else _copy(leaf) for index, leaf in enumerate(leaves)]

            def outputs(primals: Sequence[Tensor]) -> list[Tensor]:
                filled = list(constants)
                for index, primal in zip(where, primals, strict=True):
                    filled[index] = primal
                first, args, kwargs = tree_unflatten(filled, spec)
                if inplace:
                    first = first.clone()
                result = op.gradcheck_wrapper(function, first, *args, **kwargs)
                return _floating_outputs(process(result) if process is not None else result)

            return outputs

        text = f"{_describe(sample.input)}, {_describe(sample.args)}, {_describe(sample.kwargs)}"
        yield Sample([leaves[index].detach().clone() for index in where], prepare, text)


def _module_samples(info: Any, *, training: bool) -> Iterator[Sample]:
    inputs = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    )
    for entry in inputs:
        construct, forward = entry.constructor_input, entry.forward_input
        if forward is None:
            continue
        module = info.module_cls(*construct.args, **construct.kwargs).to(torch.float64).train(training)
        if info.is_lazy:
            with torch.no_grad():
                module(*forward.args, **forward.kwargs)
        leaves, spec = tree_flatten((forward.args, forward.kwargs))
        where = [index for index, leaf in enumerate(leaves) if _is_primal(leaf)]
        names = [name for name, parameter in module.named_parameters() if _is_primal(parameter)]

        def prepare(
            module: Any = module,
            leaves: list[Any] = leaves,
            spec: Any = spec,
            where: list[int] = where,
            names: list[str] = names,
        ) -> Callable[[Sequence[Tensor]], list[Tensor]]:
            constants = [None if index in where else _copy(leaf) for index, leaf in enumerate(leaves)]
            buffers = {name: _copy(buffer) for name, buffer in module.named_buffers()}

            def outputs(point: Sequence[Tensor]) -> list[Tensor]:
                filled = list(constants)
                for index, primal in zip(where, point[len(names) :], strict=True):
                    filled[index] = primal
                args, kwargs = tree_unflatten(filled, spec)
                state = {**buffers, **dict(zip(names, point, strict=False))}
                return _floating_outputs(torch.func.functional_call(module, state, args, kwargs))

            return outputs

        parameters = dict(module.named_parameters())
        primals = [parameters[name] for name in names] + [leaves[index] for index in where]
        text = f"{_describe(construct.args)}, {_describe(construct.kwargs)} on {_describe(forward.args)}"
        yield Sample([x.detach().clone() for x in primals], prepare, text)


def _depends(sample: Sample) -> bool:
    """Whether the operation runs and its outputs carry a gradient back to the primals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outputs = sample.prepare()([x.clone().requires_grad_() for x in sample.primals])
        except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError):
            return False  # the database holds samples that want another device or another type
    return any(o.requires_grad and o.numel() for o in outputs)


def with_first_only(sample: Sample) -> Sample:
    """The same call with its first primal differentiated and the others constant, as in training."""
    rest = [x.clone() for x in sample.primals[1:]]

    def prepare() -> Callable[[Sequence[Tensor]], list[Tensor]]:
        function = sample.prepare()
        constants = [x.clone() for x in rest]
        return lambda primals: function([*primals, *constants])

    return Sample(sample.primals[:1], prepare, sample.text + ", first only")


def scalar(sample: Sample) -> Callable[[], Callable[..., Tensor]]:
    """Makes f = Σ w·o + ½ w₂·o² of the outputs o, with fixed random weights: linear operations get curvature.

    Call the result to get a fresh f(*primals) with its own copies of all constants.
    """
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    shapes = [o.shape for o in sample.prepare()([x.clone() for x in sample.primals])]
    weights = [
        tuple(torch.randn(s, generator=generator, dtype=torch.float64) for _ in range(2)) for s in shapes
    ]

    def fresh() -> Callable[..., Tensor]:
        function = sample.prepare()

        def f(*primals: Tensor) -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            for output, (w, w2) in zip(function(primals), weights, strict=True):
                total = total + (w * output).sum() + 0.5 * (w2 * output * output).sum()
            return total

        return f

    return fresh


def _describe(value: Any) -> str:
    described = tree_map(lambda x: list(x.shape) if isinstance(x, Tensor) else x, value)
    return str(described)[:200]
