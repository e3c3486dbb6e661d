"""The guard: nesting, threads, settings put back, Ctrl-C delivered at the end and to whom it belongs."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.utils.checkpoint as checkpointing
from torch import Tensor, nn
from torch.func import functional_call

from hvplib import hvp
from hvplib.ad.guard import derivative, interrupts_between_derivatives
from tests.ad.problems import F64, directions, normal, relative

X, V = normal(3, seed=100), normal(3, seed=101)


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum()


def settings() -> tuple[Any, ...]:
    return (
        checkpointing.CheckpointFunction,
        checkpointing._checkpoint_without_reentrant_generator,
        torch._C._get_graph_executor_optimize(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        signal.getsignal(signal.SIGINT),
        torch._C._get_cudnn_enabled(),
        torch._C._get_mkldnn_enabled(),
    )


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = settings()
    yield
    assert settings() == before


@pytest.fixture
def handler() -> Iterator[list[int]]:
    """A SIGINT handler of the user's own; the list is filled when it runs."""
    heard: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda signum, frame: heard.append(signum))
    yield heard
    signal.signal(signal.SIGINT, previous)


# ------------------------------------------------------------------------------------- nesting and settings


def test_it_nests() -> None:
    before = settings()
    with derivative():
        inside = settings()
        assert inside[0] is not before[0] and inside[1] is not before[1]
        assert inside[2] is False
        with derivative():
            pass
        assert settings()[1:3] == inside[1:3] and settings()[5] == inside[5]
    assert settings() == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_everything_is_put_back_after_an_exception(error: type[BaseException]) -> None:
    before = settings()
    with pytest.raises(error), derivative(), derivative():
        raise error
    assert settings() == before


def test_the_executor_setting_of_the_user_comes_back_whatever_it_was() -> None:
    before = torch._C._get_graph_executor_optimize()
    try:
        for value in (True, False):
            torch._C._set_graph_executor_optimize(value)
            with derivative():
                assert torch._C._get_graph_executor_optimize() is False
            assert torch._C._get_graph_executor_optimize() is value
    finally:
        torch._C._set_graph_executor_optimize(before)


def test_inference_mode_is_left_inside_and_entered_again() -> None:
    with torch.inference_mode():
        with derivative():
            assert not torch.is_inference_mode_enabled()
            assert not torch.ones(1).is_inference()
        assert torch.is_inference_mode_enabled()


# -------------------------------------------------------------------------------------------- checkpointing


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_call_straight_through_inside_only(reentrant: bool) -> None:
    calls = []

    def block(x: Tensor) -> Tensor:
        calls.append(1)
        return x.sin()

    def gradient() -> Tensor:
        x = X.clone().requires_grad_()
        y = checkpointing.checkpoint(block, x, use_reentrant=reentrant)
        return torch.autograd.grad(y.sum(), x)[0] if not reentrant else _backward(y.sum(), x)

    with derivative():
        assert relative(gradient(), X.cos()) < 1e-15
    assert len(calls) == 1, "no recomputation"
    assert relative(gradient(), X.cos()) < 1e-15
    assert len(calls) == 3, "checkpointing is back"


def _backward(value: Tensor, x: Tensor) -> Tensor:
    value.backward()
    assert x.grad is not None
    return x.grad


def test_a_function_that_raises_leaves_checkpointing_in_order() -> None:
    def func(x: Tensor) -> Tensor:
        checkpointing.checkpoint(torch.sin, x, use_reentrant=False)
        raise ValueError("mine")

    before = settings()
    with pytest.raises(ValueError, match="mine"):
        hvp(func, X, V)
    assert settings() == before


# ----------------------------------------------------------------------------------------------------- Ctrl-C


def test_an_interrupt_waits_for_the_end_and_reaches_the_handler_of_the_user(handler: list[int]) -> None:
    with derivative():
        signal.raise_signal(signal.SIGINT)
        with derivative():
            signal.raise_signal(signal.SIGINT)
        assert handler == [], "the inner end is not the end"
    assert handler == [signal.SIGINT], "once, however often it came"


def test_an_interrupt_during_a_product(handler: list[int]) -> None:
    heard_inside = []

    def func(x: Tensor) -> Tensor:
        signal.raise_signal(signal.SIGINT)
        heard_inside.append(len(handler))
        return cubic(x)

    assert relative(hvp(func, X, V), 6 * X * V) < 1e-14
    assert set(heard_inside) == {0} and handler == [signal.SIGINT]
    assert relative(hvp(cubic, X, V), 6 * X * V) < 1e-14


def test_without_a_handler_of_its_own_it_is_a_keyboard_interrupt() -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = []

    def body() -> None:
        with derivative():
            signal.raise_signal(signal.SIGINT)
            reached.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            body()
        assert reached
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, previous)


def test_ignored_interrupts_stay_ignored() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with derivative():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_an_interrupt_is_delivered_though_the_body_raised(handler: list[int]) -> None:
    def body() -> None:
        with derivative():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        body()
    assert handler == [signal.SIGINT]


def test_interrupts_between_derivatives_come_where_one_has_ended(handler: list[int]) -> None:
    with interrupts_between_derivatives():
        signal.raise_signal(signal.SIGINT)
        assert handler == []
        with derivative():
            with derivative():
                pass
            assert handler == [], "the inner end is not the end"
        assert handler == [signal.SIGINT]
        signal.raise_signal(signal.SIGINT)
        assert handler == [signal.SIGINT]
    assert handler == [signal.SIGINT] * 2


def test_a_keyboard_interrupt_between_derivatives_leaves_the_block_in_order() -> None:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    reached = []

    def body() -> None:
        with interrupts_between_derivatives():
            try:
                with derivative():
                    signal.raise_signal(signal.SIGINT)
                    reached.append("end of the derivative")
                reached.append("after it")
            finally:
                signal.raise_signal(signal.SIGINT)
                reached.append("end of the clean-up")

    try:
        with pytest.raises(KeyboardInterrupt):
            body()
        assert reached == ["end of the derivative", "end of the clean-up"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with derivative():
            pass
    finally:
        signal.signal(signal.SIGINT, previous)


def test_ignored_interrupts_stay_ignored_between_derivatives() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_between_derivatives():
            with derivative():
                signal.raise_signal(signal.SIGINT)
            with derivative():
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_no_interrupt_no_call(handler: list[int]) -> None:
    with derivative():
        pass
    assert handler == []


def test_interrupts_at_random_moments_break_nothing() -> None:
    """Ctrl-C again and again from a timer: each product is right, or the interrupt comes after it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    old = signal.signal(signal.SIGALRM, lambda signum, frame: signal.raise_signal(signal.SIGINT))
    hits = 0
    try:
        for attempt in range(150):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + 7e-6 * attempt)
                hvp(cubic, X, V)
                time.sleep(0.0005)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                hits += 1
            assert relative(hvp(cubic, X, V), 6 * X * V) < 1e-14
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        signal.signal(signal.SIGINT, previous)
    assert hits > 50


# ---------------------------------------------------------------------------------------------------- threads


def in_threads(work: Any, count: int = 4) -> list[BaseException]:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_one_derivative_at_a_time() -> None:
    inside = []

    def work(number: int) -> None:
        with derivative(), derivative():
            inside.append(number)
            time.sleep(0.01)
            assert inside == [number]
            inside.remove(number)

    assert in_threads(work) == []


def test_other_threads_do_not_touch_signals() -> None:
    seen = []
    before = signal.getsignal(signal.SIGINT)

    def work(number: int) -> None:
        with derivative():
            seen.append(signal.getsignal(signal.SIGINT) is before)

    assert in_threads(work, 2) == []
    assert seen == [True, True]


def test_four_threads_on_one_module() -> None:
    """Bare torch raises or is wrong here: functional_call swaps the parameters of a shared module."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    data = normal(5, 3)
    own = {k: q.detach() for k, q in net.named_parameters()}
    points = [{k: q + 0.1 * n for k, q in own.items()} for n in range(4)]

    def product(n: int) -> dict[str, Tensor]:
        return hvp(  # type: ignore[no-any-return]
            lambda p: functional_call(net, p, (data,)).pow(2).sum(), points[n], directions(points[n])
        )

    expected = [product(n) for n in range(4)]

    def work(number: int) -> None:
        for _ in range(15):
            got = product(number)
            assert all(torch.equal(got[k], h) for k, h in expected[number].items())

    assert in_threads(work) == []
    assert all(torch.equal(q, own[k]) for k, q in net.named_parameters())
    assert own["0.weight"].dtype == F64
