from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hvplib.ad.trace.recorder import Places, record, writes
from hvplib.errors import TraceError
from tests.ad.problems import normal
from tests.ad.trace.programs import calls, made, run

aten: Any = torch.ops.aten
X, Y, W = normal(5, seed=1), normal(5, seed=2), normal(5, seed=3)


def test_what_is_recorded_holds_for_other_inputs() -> None:
    result = made(lambda x, y: [x * y.exp() + 2.0, (x - y).sum()], X, Y)
    assert calls(result) == [
        aten.exp.default,
        aten.mul.Tensor,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.sum.default,
    ]
    a, b = normal(5, seed=4), normal(5, seed=5)
    first, second = run(result, a, b)
    assert torch.equal(first, a * b.exp() + 2.0) and torch.equal(second, (a - b).sum())
    assert torch.equal(result.results[0], X * Y.exp() + 2.0)


def test_an_input_given_twice_is_two_inputs_and_unused_ones_are_there() -> None:
    result = made(lambda x, y, z: [x - y], X, X, X)
    assert [node.op for node in result.graph.nodes].count("placeholder") == 3
    assert torch.equal(run(result, X, Y, W)[0], X - Y)


def test_detached_inputs_are_still_inputs() -> None:
    result = made(lambda x: [x.detach() * 2, torch.ops.aten.alias(x) * 3, x.data * 4], X)
    assert calls(result) == [aten.mul.Tensor] * 3
    assert [torch.equal(r, c * Y) for r, c in zip(run(result, Y), (2, 3, 4), strict=True)] == [True] * 3


def test_results_that_the_inputs_have_no_part_in() -> None:
    result = made(lambda x: [x, W, W.cos()], X)
    x, w, cosine = run(result, Y)
    assert torch.equal(x, Y) and torch.equal(w, W) and torch.equal(cosine, W.cos())


def test_what_the_inputs_have_no_part_in_enters_by_value() -> None:
    w = W.clone()
    result = made(lambda x: [x * w.cos(), x * w], X)
    assert calls(result) == [aten.mul.Tensor] * 2
    assert [torch.equal(c, e) for c, e in zip(result.constants.values(), (w.cos(), w), strict=True)] == [
        True,
        True,
    ]
    ((source, version),) = {id(t): (t, n) for t, n in result.versions}.values()
    assert source is w and version == w._version
    w.add_(1)
    assert source._version == version + 1


def test_tensors_that_share_memory_but_not_their_count_of_writes_are_both_watched() -> None:
    w = W.clone()
    apart = w.data
    for first, second in ((w, apart), (apart, w)):
        result = made(lambda x, f=first, s=second: [x * f, x * s], X)
        assert {id(t) for t, _ in result.versions} == {id(w), id(apart)}


def test_what_is_made_on_the_way_is_not_watched_and_may_be_written_to() -> None:
    def compute(x: Tensor) -> list[Tensor]:
        sums = torch.zeros(5, dtype=torch.float64)
        sums.add_(W)
        sums[1:].mul_(2)
        return [x * sums]

    result = made(compute, X)
    expected = torch.cat([W[:1], 2 * W[1:]])
    assert torch.equal(run(result, Y)[0], Y * expected)
    assert [t is W for t, _ in result.versions] == [True]


def test_an_alias_that_a_new_operation_returns_is_not_taken_for_made() -> None:
    """_unsafe_view does not say that it gives back memory of its argument."""
    result = made(lambda x: [x * aten._unsafe_view(W, [5])], X)
    assert any(t.data_ptr() == W.data_ptr() for t, _ in result.versions)


WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "without the inputs": lambda w, x: w.add_(1),
    "through a view": lambda w, x: w[1:].mul_(2),
    "through data": lambda w, x: w.data.add_(1),
    "of the inputs": lambda w, x: w.add_(x),
    "of the inputs through a view": lambda w, x: w[:2].copy_(x[:2]),
    "with out": lambda w, x: torch.mul(x, 2, out=w),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("read", [False, True])
def test_writing_to_what_was_there_before_is_refused(name: str, read: bool) -> None:
    w = W.clone()

    def compute(x: Tensor) -> list[Tensor]:
        before = [x * w] if read else [x]
        WRITES[name](w, x)
        return before

    with pytest.raises(TraceError, match=r"writes into a tensor|is written to"):
        record(compute, [X])


def test_writing_to_a_constant_of_its_own_making_after_it_was_read_is_refused() -> None:
    def compute(x: Tensor) -> list[Tensor]:
        factor = W.cos()
        y = x * factor
        factor.add_(1)
        return [y * factor]

    with pytest.raises(TraceError, match="written to after it was read"):
        record(compute, [X])


def test_writing_into_an_input_is_refused() -> None:
    with pytest.raises(TraceError, match="not of its own making"):
        record(lambda x: [x.add_(1)], [X.clone()])


def test_an_inference_tensor_is_refused() -> None:
    with torch.inference_mode():
        w = W.clone()
    with pytest.raises(TraceError, match="inference tensor"):
        record(lambda x: [x * w], [X])


RESTRICTED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "item": (lambda x: x * x.sum().item(), "_local_scalar_dense"),
    "a branch": (lambda x: x if x.sum() > 0 else -x, "_local_scalar_dense"),
    "equal": (lambda x: x * torch.equal(x, x), "equal"),
    "nonzero": (lambda x: x.nonzero() * 1.0, "nonzero"),
    "a mask": (lambda x: W[x > 0] * 1.0, "index"),
    "a mask by name": (lambda x: W.masked_select(x > 0), "masked_select"),
    "an assertion": (lambda x: (torch._assert_async((x == x).all()), x)[1], "reads a value"),
    "noise": (lambda x: torch.nn.functional.dropout(x), "random"),
    "noise like it": (lambda x: x + torch.randn_like(x), "random"),
    "noise beside it": (lambda x: x + torch.randn(5), "random"),
    "absolute strides": (lambda x: x.as_strided((2,), (2,), 0) * 1.0, "beginning"),
}


@pytest.mark.parametrize("name", RESTRICTED)
def test_what_holds_for_these_values_only_says_so(name: str) -> None:
    compute, reason = RESTRICTED[name]
    result = record(lambda x: [compute(x)], [X])
    assert re.search(reason, result.restriction), result.restriction


def test_numbers_of_constants_may_be_read() -> None:
    result = made(lambda x: [x * W.sum().item()], X)
    assert torch.equal(run(result, Y)[0], Y * W.sum().item())


def test_masks_and_indices_that_are_constant_are_recorded() -> None:
    result = made(lambda x: [x[W > 0], x.masked_select(W > 0), x[torch.tensor([4, 4])]], X)
    masked, selected, indexed = run(result, Y)
    assert torch.equal(masked, Y[W > 0]) and torch.equal(selected, masked)
    assert torch.equal(indexed, Y[[4, 4]])


def test_strided_views_of_intermediates_and_checked_factorisations_are_recorded() -> None:
    A = normal(5, 5, seed=9)
    result = made(lambda x: [(x * 1.0).as_strided((2,), (2,)), torch.linalg.solve(A, x)], X)
    strided, solution = run(result, Y)
    assert torch.equal(strided, Y[:4:2])
    torch.testing.assert_close(A @ solution, Y)


def test_several_results_of_one_operation() -> None:
    result = made(lambda x: [part * 2 for part in x.split([2, 3])] + [x.sort().values], X)
    first, second, ordered = run(result, Y)
    assert torch.equal(first, 2 * Y[:2]) and torch.equal(second, 2 * Y[2:])
    assert torch.equal(ordered, Y.sort().values)


def test_intermediates_are_not_kept() -> None:
    alive: list[Any] = []

    def compute(x: Tensor) -> list[Tensor]:
        y = x * 2
        alive.append(weakref.ref(y))
        z = y.exp()
        del y
        assert alive[0]() is None
        return [z]

    made(compute, X)


def test_wholeness() -> None:
    square = normal(3, 4, seed=6)
    places = Places()
    assert places.trait(square).whole and places.trait(square.T).whole
    assert places.trait(square[:, None]).whole and places.trait(square.view(12)).whole
    assert not places.trait(square[1:]).whole
    assert not places.trait(square[:1].expand(3, 4)).whole  # as many bytes as there are, but not those
    assert not places.trait(torch._neg_view(square)).whole
    assert not places.trait(torch.complex(square, square).conj()).whole


def test_places_tell_storages_apart_for_ever() -> None:
    places = Places()
    seen = [places.of(torch.empty(4)) for _ in range(50)]  # each gone when the next one comes
    assert len(set(seen)) == 50
    assert places.of(W) == places.of(W[1:]) == places.of(W.data) != places.of(W.clone())


def test_operations_that_write() -> None:
    assert writes(aten.add_.Tensor) and writes(aten.mul.out)
    assert not writes(aten.add.Tensor) and not writes(aten.view.default) and not writes(torch.add)
