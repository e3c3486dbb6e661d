"""Recorded products against those of the graph that they were recorded from, bit for bit."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import hvplib
from hvplib.ad.engines import GraphEngine
from hvplib.ad.pullback import Pullback
from hvplib.ad.trace import replay
from tests.ad.opdb.units import Sample, Unit, scalar
from tests.ad.opdb.verdicts import Verdict, judge

WIDTHS = (2, 3)
RECORDED = "recorded"


def force() -> None:
    """Let every product be recorded at the first call in this process."""
    replay._CALLS = 0
    replay._PER_OPERATION = 0


def judge_by_force(unit: Unit, strategy: str, mode: str, limit: int) -> Verdict:
    """The usual verdict on a unit, with everything recorded at once. For a process of its own."""
    force()
    return judge(unit, strategy, mode, limit)


def judge_record(unit: Unit, limit: int) -> Verdict:
    """ "right" if programs give what the graph gives; the notes are what became of each, see `tally`."""
    force()
    start = time.perf_counter()
    result = Verdict(unit.name, "unjudged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, sample in enumerate(unit.samples(limit)):
            try:
                fates = _fates(sample)
            except Exception as error:
                result.notes.append(f"no product: {type(error).__name__}")
                continue
            result.judged += 1
            result.notes += fates
            different = [fate for fate in fates if fate.startswith("different")]
            if different:
                result.verdict, result.detail = "wrong", f"{different[0]} [sample {number}: {sample.text}]"
            elif result.verdict == "unjudged":
                result.verdict = "right"
    result.seconds = time.perf_counter() - start
    return result


def _fates(sample: Sample) -> list[str]:
    """What became of the products with one vector and with blocks: recorded, different, or why not."""
    torch.manual_seed(0)
    model = hvplib.local_model(scalar(sample)(), tuple(sample.primals))
    vectors = _vectors(sample.primals)
    model.hvp(tuple(vectors[0]))
    engine: Any = model._engine
    if not isinstance(engine, GraphEngine):
        return ["no graph is kept"]
    pull = engine._pullback
    fates = [_fate(pull._single, pull._pull, [_live(pull, v) for v in vectors])]
    for width in WIDTHS:
        blocks = [
            [torch.stack([x] * (width - 1) + [y]) for x, y in zip(v, vectors[0], strict=True)]
            for v in vectors
        ]
        engine.block(blocks[0], width)
        if width in pull._blocks:
            fate = _fate(pull._blocks[width], pull._pull_block, [_live(pull, b) for b in blocks])
            if pull.batched is False and pull._blocks[width].program is None:
                fate = "vectors one by one"
            fates.append(f"{fate} (block)" if fate != RECORDED else fate)
    return fates


def _vectors(primals: Sequence[Tensor]) -> list[list[Tensor]]:
    """Dense, large, small, with one entry, zero, and with entries that are no numbers."""
    generator = torch.Generator().manual_seed(7)
    dense = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in primals]
    unit = [torch.zeros_like(x) for x in primals]
    unit[0].view(-1)[-1:] = 1
    odd = [x.clone() for x in dense]
    odd[0].view(-1)[:1] = torch.nan
    odd[-1].view(-1)[-1:] = torch.inf
    scaled = ([c * x for x in dense] for c in (1e6, 1e-6))
    return [dense, *scaled, unit, [torch.zeros_like(x) for x in primals], odd, [-x for x in dense]]


def _live(pull: Pullback, vectors: Sequence[Tensor]) -> list[Tensor]:
    return [vectors[index] for index in pull._live]


def _fate(of: replay.Replay, compute: Callable[..., Sequence[Tensor]], vectors: list[list[Tensor]]) -> str:
    if of.program is None:
        return of.reason or "not recorded in spite of force"
    for v in vectors:
        if not all(map(replay.same_bits, of(compute, v), compute(*v))):
            return f"different for {[x.tolist() for x in v]}"[:300]
    return RECORDED


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many units and products were recorded, and why the others were not."""
    fates = Counter(fate for v in verdicts for fate in v.notes)
    units = [v for v in verdicts if v.judged]
    whole = sum(all(note == RECORDED for note in v.notes) for v in units)
    some = sum(any(note == RECORDED for note in v.notes) for v in units)
    different = sum(v.verdict == "wrong" for v in verdicts)
    died = sum(v.verdict == "died" for v in verdicts)
    head = f"{len(units)} units: {whole} recorded, {some - whole} in part, {len(units) - some} not; "
    head += f"{different} different, {died} died"
    return "\n".join([head, *(f"{count:6} {fate}" for fate, count in fates.most_common())])
