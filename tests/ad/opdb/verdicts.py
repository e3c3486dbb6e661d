"""How one unit fares under one strategy."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import hvplib
from hvplib import DerivativeError
from tests.ad.opdb.reference import Function, Reference, flat, reference, second_difference
from tests.ad.opdb.units import Sample, Unit, scalar, with_first_only

# All primals against the reference; the first primal only, the others constant; a block of products against
# the loop; the dense Hessian, which is assembled by vmap, against products; and that of a function called
# before, which is recorded where it can be, in chunks.
MODES = ("all", "first", "batched", "dense", "known")
RTOL = 1e-6
BATCH_RTOL = 1e-12
MAX_DENSE = 64
_BEFORE, _CHUNK = 6, 5
# Of a value or gradient of size 1 this much is rounding in a second derivative that is zero.
ROUNDING = 1e-12
# From best to worst; a unit gets the worst verdict of its samples.
VERDICTS = ("unjudged", "right", "refused", "raised", "nan", "wrong", "died")


@dataclass
class Verdict:
    """The verdict on a unit, with what speaks for it."""

    unit: str
    verdict: str
    detail: str = ""
    judged: int = 0
    worst: float = 0.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def _tangents(primals: Sequence[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    v = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in primals]
    length = math.sqrt(sum(float(t.square().sum()) for t in v))
    return [t / length for t in v]


def jvp_of_grad(f: Function, primals: tuple[Tensor, ...], v: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The textbook product without any remedy, for comparison."""
    everything = tuple(range(len(primals)))
    return torch.func.jvp(torch.func.grad(f, argnums=everything), primals, v)[1]


def double_backward(f: Function, primals: tuple[Tensor, ...], v: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The other textbook product without any remedy, for comparison."""
    leaves = tuple(x.detach().clone().requires_grad_() for x in primals)
    grads = torch.autograd.grad(
        f(*leaves), leaves, create_graph=True, allow_unused=True, materialize_grads=True
    )
    live = [(g, t) for g, t in zip(grads, v, strict=True) if g.requires_grad]
    if not live:
        return tuple(torch.zeros_like(x) for x in leaves)
    outputs, weights = zip(*live, strict=True)
    return torch.autograd.grad(outputs, leaves, weights, allow_unused=True, materialize_grads=True)


PLAIN: dict[str, Callable[..., Any]] = {"jvp-of-grad": jvp_of_grad, "double-backward": double_backward}


def product(strategy: str, f: Function, primals: Sequence[Tensor], v: Sequence[Tensor]) -> Tensor:
    torch.manual_seed(0)
    if strategy in PLAIN:
        return flat(PLAIN[strategy](f, tuple(primals), tuple(v)))
    return flat(hvplib.hvp(f, tuple(primals), tuple(v), strategy=strategy))


def judge(unit: Unit, strategy: str, mode: str, limit: int) -> Verdict:
    """The worst verdict over the first `limit` samples; mode is one of MODES."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about prototypes and deprecations; none is about products
        return _judge(unit, strategy, mode, limit)


def _judge(unit: Unit, strategy: str, mode: str, limit: int) -> Verdict:
    start = time.perf_counter()
    result = Verdict(unit.name, "unjudged")
    samples = unit.samples(limit)
    if not samples:
        result.detail = "no sample with something to differentiate"
    for number, sample in enumerate(samples):
        if mode == "first":
            if len(sample.primals) == 1:
                continue
            sample = with_first_only(sample)
        verdict, detail, error = _judge_sample(sample, strategy, mode)
        result.worst = max(result.worst, error)
        result.judged += verdict != "unjudged"
        if verdict != "right" or detail:
            result.notes.append(f"sample {number} ({sample.text}): {verdict}: {detail}")
        if VERDICTS.index(verdict) > VERDICTS.index(result.verdict):
            result.verdict, result.detail = verdict, f"{detail} [sample {number}: {sample.text}]"
        elif verdict == "unjudged" and not result.detail:
            result.detail = detail
    if result.verdict == "right":
        result.detail = ""
    result.seconds = time.perf_counter() - start
    return result


def _judge_sample(sample: Sample, strategy: str, mode: str) -> tuple[str, str, float]:
    fresh, primals = scalar(sample), sample.primals
    v, u = _tangents(primals, 2), _tangents(primals, 3)
    if mode == "batched":
        return _judge_batched(fresh(), primals, strategy)
    if mode in ("dense", "known"):
        return _judge_dense(fresh, primals, strategy, before=_BEFORE if mode == "known" else 0)
    truth = reference(fresh, primals, v, u)
    if not bool(torch.isfinite(truth.product).all()):
        return "unjudged", "the reference is not finite", 0.0
    scale = float(truth.product.abs().max())
    if truth.error > 1e-3 * scale + 1e-6 * truth.gradient_size:
        return "unjudged", f"the steps of the reference disagree ({truth.error:.1e} of {scale:.1e})", 0.0
    try:
        found = product(strategy, fresh(), primals, v)
    except DerivativeError as error:
        named = bool(error.op) and str(error.op) in str(error)
        return ("refused" if named else "raised"), f"DerivativeError(op={error.op}): {_line(error)}", 0.0
    except Exception as error:
        return "raised", f"{type(error).__name__}: {_line(error)}", 0.0
    if not bool(torch.isfinite(found).all()):
        return "nan", "not finite where the reference is", math.inf
    return _compare(fresh, primals, v, found, truth)


def _compare(
    fresh: Callable[[], Function],
    primals: Sequence[Tensor],
    v: Sequence[Tensor],
    found: Tensor,
    truth: Reference,
) -> tuple[str, str, float]:
    scale = float(truth.product.abs().max())
    difference = float((found - truth.product).abs().max())
    relative = difference / scale if scale else difference
    bar = RTOL * scale + 20 * truth.error + ROUNDING * (truth.gradient_size + abs(float(fresh()(*primals))))
    if difference <= bar and (truth.gradient_is_derivative or truth.symmetric):
        return "right", "", relative
    if truth.gradient_is_derivative:
        known = truth.error / (scale or 1)
        return "wrong", f"relative error {relative:.1e} (reference good to {known:.0e})", relative
    # torch's gradient is not the derivative of the value: the values alone decide.
    worst = 0.0
    for seed in (5, 6, 7):
        w = _tangents(primals, seed)
        truth_w, error_w = second_difference(fresh, primals, w, v)
        gap = abs(float(torch.dot(flat(w), found)) - truth_w)
        if gap > 1e-5 * float(found.abs().max()) + 20 * error_w:
            return "wrong", f"by values: {gap:.1e} off in u.Hv = {truth_w:.1e}", gap
        worst = max(worst, gap)
    return "right", "judged by values: torch's own gradient is not the derivative of the value", 0.0


def _judge_batched(f: Function, primals: Sequence[Tensor], strategy: str) -> tuple[str, str, float]:
    """Whether a block of products equals the products one by one."""
    vectors = [_tangents(primals, seed) for seed in (2, 3, 4)]
    block = tuple(torch.stack(parts) for parts in zip(*vectors, strict=True))
    torch.manual_seed(0)
    try:
        model = hvplib.local_model(f, tuple(primals), strategy=strategy)
        single = torch.stack([flat(model.hvp(tuple(v))) for v in vectors])
    except Exception as error:
        return "unjudged", f"no single product: {type(error).__name__}: {_line(error)}", 0.0
    if not bool(torch.isfinite(single).all()):
        return "unjudged", "the single products are not finite", 0.0
    try:
        together = torch.stack([flat([part[j] for part in model.hvp_block(block)]) for j in range(3)])
    except Exception as error:
        return "raised", f"block: {type(error).__name__}: {_line(error)}", 0.0
    scale = float(single.abs().max())
    difference = float((together - single).abs().max())
    relative = difference / scale if scale else difference
    if not difference <= BATCH_RTOL * scale + ROUNDING * (1 + abs(float(model.value))):
        return "wrong", f"block differs from the loop by {relative:.1e}", relative
    return "right", "", relative


def _judge_dense(
    fresh: Callable[[], Function], primals: Sequence[Tensor], strategy: str, before: int
) -> tuple[str, str, float]:
    """Whether the dense Hessian times a vector equals the product with that vector.

    Args:
        fresh: Makes the function.
        primals: The point.
        strategy: As for `hessian`.
        before: How often it has been called before.
    """
    size = sum(x.numel() for x in primals)
    if size > MAX_DENSE:
        return "unjudged", f"more than {MAX_DENSE} numbers", 0.0
    vectors = [_tangents(primals, seed) for seed in (2, 3, 4)]
    try:
        single = torch.stack([product(strategy, fresh(), primals, v) for v in vectors])
    except Exception as error:
        return "unjudged", f"no single product: {type(error).__name__}: {_line(error)}", 0.0
    if not bool(torch.isfinite(single).all()):
        return "unjudged", "the single products are not finite", 0.0
    argnums = tuple(range(len(primals)))
    of = hvplib.hessian(fresh(), argnums, strategy=strategy, chunk_size=_CHUNK if before else "auto")
    try:
        for _ in range(1 + before):
            torch.manual_seed(0)
            blocks = of(*primals)
    except DerivativeError as error:
        return "refused", f"DerivativeError(op={error.op}): {_line(error)}", 0.0
    except Exception as error:
        return "raised", f"hessian: {type(error).__name__}: {_line(error)}", 0.0
    dense = torch.cat(
        [
            torch.cat([b.reshape(x.numel(), y.numel()) for b, y in zip(row, primals, strict=True)], 1)
            for row, x in zip(blocks, primals, strict=True)
        ]
    )
    scale = float(dense.abs().max())
    difference = max(float((dense @ flat(v) - p).abs().max()) for v, p in zip(vectors, single, strict=True))
    relative = difference / scale if scale else difference
    if not difference <= BATCH_RTOL * scale + ROUNDING * (1 + abs(float(fresh()(*primals)))):
        return (
            "wrong",
            f"the dense Hessian times a vector differs from the product by {relative:.1e}",
            relative,
        )
    return "right", "", relative


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else ""
