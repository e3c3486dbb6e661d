from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

from hvplib.ad.trace import replay
from hvplib.ad.trace.replay import Program, Replay
from tests.ad.problems import normal
from tests.ad.trace.programs import agree, made

aten: Any = torch.ops.aten
X, Y, W = normal(3, 4, seed=1), normal(3, 4, seed=2), normal(3, 4, seed=3)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record at the first call."""
    monkeypatch.setattr(replay, "_CALLS", 0)
    monkeypatch.setattr(replay, "_PER_OPERATION", 0)


class Counted:
    """A computation that counts its calls."""

    def __init__(self, compute: Callable[..., Sequence[Tensor]]) -> None:
        self.compute = compute
        self.calls = 0

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        self.calls += 1
        return self.compute(*inputs)


def recorded(compute: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> tuple[Replay, Counted]:
    """A replay of it that has been called once."""
    of, counted = Replay(10), Counted(compute)
    assert agree(of(counted, inputs), compute(*inputs))
    counted.calls = 0
    return of, counted


# ------------------------------------------------------------------------------------- when a record is made


def test_a_record_is_made_when_as_much_was_spent_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that tells a second for each call: a record costs 3 calls and 1 s for each 10 operations.

    Made, it is held to one more call, and to so many that 100 numbers have been compared.
    """
    seconds = iter(range(1000))
    monkeypatch.setattr(replay, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    monkeypatch.setattr(replay, "_CALLS", 3)
    monkeypatch.setattr(replay, "_PER_OPERATION", 0.1)
    for operations, calls in ((10, 5), (50, 9), (0, 4)):
        of, counted = Replay(operations), Counted(lambda x: [x * W])
        for _ in range(calls - 1):
            of(counted, [X])
        assert of.program is None and counted.calls == calls - 1
        of(counted, [X])
        assert of.program is not None and counted.calls == calls + 1 + 9
        of(counted, [X])
        assert counted.calls == calls + 1 + 9


def test_what_must_not_be_recorded_is_not(at_once: None) -> None:
    of, counted = Replay(None), Counted(lambda x: [x * W])
    assert torch.equal(of(counted, [X])[0], X * W)
    assert of.program is None and "custom" in of.reason


# ------------------------------------------------------------------------------------------ the same numbers


def random_program(seed: int) -> Callable[..., list[Tensor]]:
    """A pure function of two (3, 4) tensors, of operations that the passes and the memory plan deal with."""

    def compute(x: Tensor, y: Tensor) -> list[Tensor]:
        rng = random.Random(seed)
        w = W.cos()
        pool = [x, y, W, w]
        row = x.sum(0)

        def pick() -> Tensor:
            return rng.choice(pool[-6:])

        def written() -> Tensor:
            z = (pick() + x).contiguous()
            rng.choice(
                (lambda: z.add_(pick()), lambda: z[0].mul_(3), lambda: z.view(12)[2:5].copy_(x.view(12)[:3]))
            )()
            return z

        choices: list[Callable[[], Tensor]] = [
            lambda: pick() * pick(),
            lambda: pick() + pick(),
            lambda: pick() - pick(),
            lambda: -pick(),
            lambda: aten.mul.Scalar(pick(), rng.choice((2.0, -0.5, 3.0))),
            lambda: torch.add(pick(), pick(), alpha=0.3),
            lambda: pick() / (pick() * pick() + 1.0),
            lambda: row.expand(3, 4).clone(),
            lambda: row.expand(3, 4),
            lambda: pick().sum(1, True).expand(3, 4),
            lambda: pick().sum(0, True).view(4).expand(3, 4),
            lambda: pick().t().t(),
            lambda: pick().t().contiguous().t(),
            lambda: pick().reshape(4, 3).t().contiguous(),
            lambda: pick().reshape(12).view(3, 4),
            lambda: torch.where(W > 0, pick(), pick()),
            lambda: aten.tanh_backward(pick(), w),
            lambda: aten.threshold_backward(pick(), W, 0.0),
            lambda: torch.cat([pick()[:1], pick()[1:]]),
            lambda: pick().split([1, 2])[1].sum(0).expand(3, 4),
            lambda: pick().mm(W.t()).mm(pick()),
            lambda: pick().detach(),
            written,
        ]
        for _ in range(24):
            pool.append(rng.choice(choices)())
        return [*rng.sample(pool, 3), pool[-1], pool[-2][1:], pool[-1].t()]

    return compute


@pytest.mark.parametrize(
    "seed", [*range(60), *(pytest.param(s, marks=pytest.mark.slow) for s in range(60, 1500))]
)
def test_random_programs_give_the_same_bits(seed: int) -> None:
    compute = random_program(seed)
    program = Program(compute, [X, Y])
    assert program.holds
    w = W.clone()
    for scale in (1.0, 0.0, 1e-3, 1e5):
        inputs = [scale * normal(3, 4, seed=50 + seed), normal(3, 4, seed=51 + seed)]
        kept = [x.clone() for x in inputs]
        assert agree(program.run(*inputs), compute(*inputs))
        assert agree(program.run(inputs[0], inputs[0]), compute(inputs[0], inputs[0]))  # one tensor twice
        assert agree(inputs, kept) and agree([W], [w])


def test_writes_that_cannot_be_undone_singly_are_undone_together() -> None:
    def compute(x: Tensor) -> list[Tensor]:
        y = x * 2
        z = y.view(12)
        y[0].copy_(x[1])
        z.mul_(3)
        return [y * z.view(3, 4)]

    program = Program(compute, [X])
    assert agree(program.run(Y), compute(Y))


def test_vectors_of_all_layouts(at_once: None) -> None:
    of, counted = recorded(lambda x: [(x * W).sum(1), x.t().mm(W)], X)
    base = normal(8, 12, seed=9)
    layouts = {
        "transposed": base[:4, :3].t(),
        "strided": base[::2, ::3][:3],
        "expanded": base[:1, :4].expand(3, 4),
        "in the middle": base[2:3].view(12).view(3, 4),
        "negative": torch._neg_view(base[:3, :4].contiguous()),
        "with a history": base[:3, :4].clone().requires_grad_(),
        "a result": base[:3, :4].clone().requires_grad_() * 2,
        "a parameter": torch.nn.Parameter(base[:3, :4].clone()),
    }
    for name, v in layouts.items():
        plain = v.detach().contiguous().clone()
        got = of(counted, [v])
        assert agree(got, counted.compute(plain)), name
        assert not any(x.requires_grad for x in got), name
    assert counted.calls == 0


def test_a_first_vector_of_another_layout(at_once: None) -> None:
    first = normal(2, 3, 4, 4, seed=8).to(memory_format=torch.channels_last)
    of, counted = Replay(10), Counted(lambda x: [x.mean((2, 3)), x * 2, x.view(2, 48)])
    of(counted, [first])
    assert of.program is not None
    counted.calls = 0
    for v in (2 * first, normal(2, 3, 4, 4, seed=9)):
        assert agree(of(counted, [v]), counted.compute(v.contiguous()))
    assert counted.calls == 0


def test_a_vector_of_zeros_or_units_does_not_hide_what_a_program_depends_on(at_once: None) -> None:
    """What is read by NumPy cannot be seen; the numbers of other vectors tell."""

    def smuggled(x: Tensor) -> list[Tensor]:
        return [x * 2 + torch.from_numpy(x.detach().numpy().copy())]

    for v in (torch.zeros(3, 4, dtype=torch.float64), torch.eye(12, dtype=torch.float64)[0].view(3, 4), X):
        of, counted = recorded(smuggled, v)
        assert of.program is None and "other numbers" in of.reason
        assert torch.equal(of(counted, [Y])[0], 3 * Y)


# --------------------------------------------------------------------------------- refused, and never raised


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a branch": (lambda x: x if x.sum() > 0 else x * 2, "depends on values"),
    "noise": (lambda x: x + torch.randn_like(x), "random numbers"),
    "not finite": (lambda x: x * torch.nan, "not finite"),
    "infinite in part": (lambda x: torch.cat([x, x[:1] / 0]), "not finite"),
    "sparse": (lambda x: x.to_sparse().to_dense(), ""),
    "a write outside": (lambda x: (W.clone().detach(), STATE.add_(x.sum()), x)[2], "writes into"),
    "a count outside": (lambda x: (STATE.add_(1), x * 1)[1], "writes into"),
    "an error of its own": (lambda x: FRAGILE(x), "ZeroDivisionError: once"),
}
STATE = torch.zeros((), dtype=torch.float64)


def FRAGILE(x: Tensor) -> Tensor:
    """Works outside of a recording only."""
    if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
        raise ZeroDivisionError("once")
    return x * 2


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_recorded_is_computed(name: str, at_once: None) -> None:
    compute, reason = REFUSED[name]
    of = Replay(10)
    of(lambda x: [compute(x)], [X])
    assert of.program is None and of.reason and reason in of.reason, of.reason
    torch.manual_seed(0)
    got = of(lambda x: [compute(x)], [Y])
    torch.manual_seed(0)
    assert agree(got, [compute(Y)])


def test_what_a_wrong_program_gives_is_not_used(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the passes do: a program is held to the computation at two vectors."""
    right = replay.emit
    for damage in (
        lambda r: r + 1e-16 * r.sign(),
        lambda r: r.t().contiguous().t(),
        lambda r: r.float().double(),
    ):
        monkeypatch.setattr(
            replay, "emit", lambda *a, d=damage: (lambda run: lambda *x: tuple(map(d, run(*x))))(right(*a))
        )
        of, counted = recorded(lambda x: [x * W], X)
        assert of.program is None and "other numbers" in of.reason
        assert torch.equal(of(counted, [Y])[0], Y * W)


def test_agreement_is_of_bits_and_strides() -> None:
    nan, zero = torch.tensor([torch.nan, 1.0]), torch.tensor([0.0, 1.0])
    assert agree([nan], [nan.clone()]) and agree([X], [X.clone()])
    assert not agree([zero], [-zero * torch.tensor([1.0, -1.0])])  # -0 is not 0
    assert not agree([X], [X.t().contiguous().t()]) and not agree([X], [X.float()])
    assert not agree([nan], [torch.tensor([1.0, torch.nan])]) and not agree([X], [Y])
    assert agree([X[:1].expand(3, 4).clone()], [X[:1].expand(3, 4)])
    with pytest.raises(ValueError, match="longer"):
        agree([X], [X, X])


# ------------------------------------------------------------------------------- when a program does not run


def test_a_write_to_a_constant_ends_it(at_once: None) -> None:
    w = W.clone()
    for write in (lambda: w.add_(1), lambda: w[0].mul_(2), lambda: w.detach().add_(1)):
        of, counted = recorded(lambda x: [x * w.cos() + w], X)
        assert of.program is not None and of.program.holds
        of(counted, [Y])
        assert counted.calls == 0
        write()
        assert not of.program.holds
        assert torch.equal(of(counted, [Y])[0], Y * w.cos() + w) and counted.calls == 1


def test_a_write_to_one_of_two_tensors_in_the_same_memory_ends_it(at_once: None) -> None:
    w = W.clone()
    apart = w.data  # counts its writes by itself
    for first, second in ((w, apart), (apart, w)):
        of, counted = recorded(lambda x, f=first, s=second: [x * f.cos(), x * s], X)
        w.add_(1)
        assert torch.equal(of(counted, [Y])[0], Y * w.cos()) and counted.calls == 1


def test_other_inputs_than_it_was_made_for_are_computed(at_once: None) -> None:
    class Own(Tensor):
        pass

    of, counted = recorded(lambda x: [x * 2], X)
    others = [X.float(), X[:2], X.view(1, 3, 4), X.as_subclass(Own), X.to("meta")]
    for number, other in enumerate(others):
        assert of(counted, [other])[0].shape == other.shape and counted.calls == number + 1
    of(counted, [X])
    assert counted.calls == len(others)


SPECIAL: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "dual numbers": fwAD.dual_level,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", SPECIAL)
def test_nothing_is_recorded_or_run_where_torch_computes_otherwise(name: str, at_once: None) -> None:
    x, w = X.float(), W.float()
    of, counted = Replay(10), Counted(lambda x: [x.t().mm(w)])
    with SPECIAL[name]():
        of(counted, [x])
        assert of.program is None and not of.reason
    of(counted, [x])
    assert of.program is not None
    counted.calls = 0
    with SPECIAL[name]():
        special = of(counted, [x])
        assert counted.calls == 1 and special[0].dtype == counted.compute(x)[0].dtype
    assert torch.equal(of(counted, [x])[0], x.t().mm(w)) and counted.calls == 1


def test_inside_transforms_it_is_computed(at_once: None) -> None:
    of, counted = recorded(lambda x: [x * W], X)
    mapped = torch.func.vmap(lambda v: of(counted, [v])[0])(torch.stack([X, Y]))
    assert torch.equal(mapped, torch.stack([X * W, Y * W])) and counted.calls == 1
    _, tangent = torch.func.jvp(lambda v: of(counted, [v])[0], (X,), (Y,))
    assert torch.equal(tangent, Y * W) and counted.calls == 2


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, lambda: torch.device("meta")])
def test_modes_that_do_not_matter(mode: Callable[[], Any], at_once: None) -> None:
    of, counted = recorded(lambda x: [x * W + 1.0, torch.zeros(2)], X)
    with mode():
        got = of(counted, [Y])
    assert counted.calls == 0 and not got[0].requires_grad
    assert agree(got, [Y * W + 1.0, torch.zeros(2)])


def test_function_modes_do_not_see_it(at_once: None) -> None:
    seen: list[Any] = []

    class Doubles(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            seen.append(func)
            return result * 2 if func is torch.mul else result

    of, counted = recorded(lambda x: [aten.mul(x, W)], X)
    with Doubles():
        got = of(counted, [Y])
    assert torch.equal(got[0], Y * W) and torch.mul not in seen and counted.calls == 0


# --------------------------------------------------------------------------------------------------- threads


def test_threads_that_record_at_the_same_time(at_once: None) -> None:
    for _ in range(10):
        of = Replay(10)
        start = threading.Barrier(4)
        failures: list[Any] = []

        def work(
            seed: int, of: Replay = of, start: threading.Barrier = start, failures: list[Any] = failures
        ) -> None:
            start.wait()
            for turn in range(10):
                v = normal(3, 4, seed=100 * seed + turn)
                if not agree(of(lambda x: [x * W.cos(), x.sum(0)], [v]), [v * W.cos(), v.sum(0)]):
                    failures.append(v)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures and of.program is not None


def test_what_is_recorded_holds_no_state_of_torch(at_once: None) -> None:
    of, _ = recorded(lambda x: [x * W], X)
    assert of.program is not None
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0
    with pytest.raises(ZeroDivisionError):
        made(lambda x: [x, 1 / 0], X)
    assert torch.utils._python_dispatch._len_torch_dispatch_stack() == 0
