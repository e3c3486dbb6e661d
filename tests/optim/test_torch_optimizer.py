"""NewtonCG: right steps, the manners of torch.optim, and nothing touched that is not its own."""

from __future__ import annotations

import copy
import io
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hvplib.ad.randomness import RandomState
from hvplib.errors import DerivativeError
from hvplib.optim.newton_step import Attempt
from hvplib.optim.torch_optimizer import NewtonCG
from hvplib.results.status import Status

Pair = Callable[[], tuple[Tensor, Tensor]]
X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % 3


def mlp(*middle: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *middle, nn.Linear(6, 3)).double()


def classify(model: nn.Module, x: Tensor = X, y: Tensor = LABELS) -> Pair:
    def closure() -> tuple[Tensor, Tensor]:
        z = model(x)
        return F.cross_entropy(z, y), z

    return closure


def values(module: nn.Module) -> list[Tensor]:
    return [t.detach().clone() for t in module.state_dict().values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(map(torch.equal, left, right))


def quadratic(n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """A, b and a parameter for ½ wᵀA w − bᵀw."""
    M = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    A = M @ M.mT + torch.eye(n, dtype=torch.float64)
    return A, torch.arange(1.0, n + 1, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


# ------------------------------------------------------------------------------------------- right steps


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_a_quadratic_function_is_minimised_in_one_step(curvature: str) -> None:
    A, b, start = quadratic()
    w = start.clone().requires_grad_()
    optimizer = NewtonCG([w], curvature=curvature, damping=0.0, cg_rtol=1e-13, max_cg_iter=50)

    def closure() -> tuple[Tensor, Tensor]:
        z = 1.0 * w
        return 0.5 * z @ A @ z - b @ z, z

    loss = optimizer.step(closure)
    assert loss.item() == pytest.approx(float(0.5 * start @ A @ start - b @ start), rel=1e-14)
    assert not loss.requires_grad
    torch.testing.assert_close(w.detach(), torch.linalg.solve(A, b), rtol=1e-10, atol=1e-11)
    report = optimizer.last_step
    assert report is not None and report.accepted
    assert report.ratio == pytest.approx(1.0, abs=1e-10)


def test_a_step_solves_the_damped_system_with_decay_and_lr() -> None:
    A, b, start = quadratic()
    w = start.clone().requires_grad_()
    optimizer = NewtonCG(
        [w], lr=0.5, curvature="hessian", damping=0.7, weight_decay=0.2, cg_rtol=1e-13, max_cg_iter=50
    )
    optimizer.step(lambda: 0.5 * w @ A @ w - b @ w)
    eye = torch.eye(6, dtype=torch.float64)
    s = torch.linalg.solve(A + (0.2 + 0.7) * eye, -(A @ start - b + 0.2 * start))
    torch.testing.assert_close(w.detach(), start + 0.5 * s, rtol=1e-10, atol=1e-11)
    report = optimizer.last_step
    assert report is not None
    penalised = A + 0.2 * eye
    decrease = float(-(penalised @ start - b) @ (0.5 * s) - 0.125 * s @ penalised @ s)
    assert report.predicted == pytest.approx(decrease, rel=1e-10)
    assert report.value - report.trial_value == pytest.approx(decrease, rel=1e-9)


def test_groups_have_their_own_lr_damping_and_decay() -> None:
    A, b, start = quadratic()
    u, v = (start[:2].clone().requires_grad_(), start[2:].clone().requires_grad_())
    groups = [{"params": [u], "lr": 0.3, "damping": 2.0}, {"params": [v], "weight_decay": 0.5}]
    optimizer = NewtonCG(groups, curvature="hessian", damping=0.1, cg_rtol=1e-13, max_cg_iter=50)

    def closure() -> Tensor:
        w = torch.cat([u, v])
        return 0.5 * w @ A @ w - b @ w

    optimizer.step(closure)
    decay = torch.tensor([0.0] * 2 + [0.5] * 4, dtype=torch.float64)
    damping = torch.tensor([2.0] * 2 + [0.1] * 4, dtype=torch.float64)
    lr = torch.tensor([0.3] * 2 + [1.0] * 4, dtype=torch.float64)
    s = torch.linalg.solve(A + torch.diag(decay + damping), -(A @ start - b + decay * start))
    torch.testing.assert_close(torch.cat([u, v]).detach(), start + lr * s, rtol=1e-10, atol=1e-11)
    report = optimizer.last_step
    assert report is not None and report.ratio is not None and report.ratio > 0.75
    assert [group["damping"] for group in optimizer.param_groups] == [2.0 * 2 / 3, 0.1 * 2 / 3]


def test_full_batch_newton_steps_converge_quadratically() -> None:
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    y = (X.sum(dim=1) + 0.3 * torch.sin(9 * X[:, 0]) > 0).double()
    optimizer = NewtonCG(
        [w], curvature="hessian", damping=0.0, adapt_damping=False, weight_decay=0.1, cg_rtol=1e-12
    )
    norms = []
    for _ in range(7):
        optimizer.step(lambda: F.binary_cross_entropy_with_logits(X @ w, y))
        assert optimizer.last_step is not None
        norms.append(optimizer.last_step.gradient_norm)
    assert norms[-1] < 1e-12
    assert norms[3] < 50 * norms[2] ** 2


@pytest.mark.parametrize("curvature", ["ggn", "hessian"])
def test_the_loss_never_rises_on_one_batch(curvature: str) -> None:
    model = mlp()
    optimizer = NewtonCG(model.parameters(), curvature=curvature)
    losses = [optimizer.step(classify(model)).item() for _ in range(25)]
    assert all(after <= before for before, after in pairwise(losses))
    assert losses[-1] < 0.5 * losses[0]


def test_negative_curvature_leads_away_from_near_a_saddle() -> None:
    w = torch.tensor([0.5, 1e-3], dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian")
    for _ in range(30):
        optimizer.step(lambda: w[0] ** 2 - w[1] ** 2 + w[1] ** 4)
    torch.testing.assert_close(w.detach().abs(), torch.tensor([0.0, 0.5**0.5]).double(), rtol=1e-6, atol=1e-6)


def test_a_linear_function_without_damping_gets_some() -> None:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian", damping=0.0)
    for _ in range(3):
        optimizer.step(lambda: w.sum())
    assert optimizer.param_groups[0]["damping"] > 0
    assert float(w.detach().sum()) < 0


def test_the_curvature_may_be_that_of_another_batch() -> None:
    model = mlp()
    theta = [p.detach().clone() for p in model.parameters()]
    optimizer = NewtonCG(model.parameters(), curvature="hessian", damping=0.5, cg_rtol=1e-12, max_cg_iter=99)
    first, other = classify(model, X[:12], LABELS[:12]), classify(model, X[12:], LABELS[12:])
    optimizer.step(first, curvature_closure=other)
    moved = torch.cat([(p.detach() - t).reshape(-1) for p, t in zip(model.parameters(), theta, strict=True)])

    reference = mlp()
    params, names = list(reference.parameters()), [name for name, _ in reference.named_parameters()]
    g = torch.cat(
        [t.reshape(-1) for t in torch.autograd.grad(classify(reference, X[:12], LABELS[:12])()[0], params)]
    )

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in params])
        state = {n: part.reshape(p.shape) for n, part, p in zip(names, parts, params, strict=True)}
        return F.cross_entropy(torch.func.functional_call(reference, state, (X[12:],)), LABELS[12:])

    H = torch.func.hessian(loss)(torch.cat([p.detach().reshape(-1) for p in params]))
    assert torch.linalg.eigvalsh(H)[0] > -0.5
    expected = torch.linalg.solve(H + 0.5 * torch.eye(len(g), dtype=torch.float64), -g)
    torch.testing.assert_close(moved, expected, rtol=1e-8, atol=1e-10)
    assert optimizer.counts["num_evaluations"] == 3


# ---------------------------------------------------------------------------------- damping, rejected steps


def scalar_steps(optimizer: NewtonCG, losses: list[Callable[[], Tensor]]) -> list[float]:
    found = []
    for loss in losses:
        optimizer.step(loss)
        found.append(optimizer.param_groups[0]["damping"])
    return found


def test_damping_follows_the_ratio_by_hand() -> None:
    # f = w⁴ at 1: g = 4, B = 12. With λ = 4 the step is −1/4: −q = 1 − 12/32 = 0.625, f falls by 1 − (3/4)⁴.
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian", damping=4.0, cg_rtol=1e-12, warm_start=0.0)
    optimizer.step(lambda: w.pow(4).sum())
    report = optimizer.last_step
    assert report is not None
    assert w.item() == pytest.approx(0.75, rel=1e-14)
    assert report.predicted == pytest.approx(0.625, rel=1e-14)
    assert report.ratio == pytest.approx((1 - 0.75**4) / 0.625, rel=1e-13)
    assert report.curvature == pytest.approx(12.0)
    assert optimizer.param_groups[0]["damping"] == 4.0 * 2 / 3


def test_damping_rises_after_a_poor_step_and_more_after_a_rejected_one() -> None:
    # f = √(1 + w²) at 2: Newton's step goes to −w³ = −8, where f is higher.
    w = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian", damping=0.01, cg_rtol=1e-12, warm_start=0.0)
    optimizer.step(lambda: (1 + w.square()).sqrt().sum())
    report = optimizer.last_step
    assert report is not None and not report.accepted and report.share == 0.0
    assert report.trial_value > report.value
    assert w.item() == 2.0
    assert optimizer.param_groups[0]["damping"] == 0.04
    assert optimizer.counts["num_rejected"] == 1
    # λ = 0.14: the step from 2 goes beyond the minimum, to about −1.9, for little of what was foretold.
    optimizer.param_groups[0]["damping"] = 0.14
    optimizer.step(lambda: (1 + w.square()).sqrt().sum())
    report = optimizer.last_step
    assert report is not None and report.accepted and report.ratio is not None
    assert 0 <= report.ratio < 0.25
    assert optimizer.param_groups[0]["damping"] == pytest.approx(0.21)


def test_damping_keeps_to_its_limits() -> None:
    model = mlp()
    optimizer = NewtonCG(model.parameters(), damping=0.1, min_damping=0.05)
    for _ in range(5):
        optimizer.step(classify(model))
    assert optimizer.param_groups[0]["damping"] == 0.05
    fixed = NewtonCG(model.parameters(), damping=0.3, adapt_damping=False)
    fixed.step(classify(model))
    assert fixed.param_groups[0]["damping"] == 0.3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_to_where_the_loss_is_no_number_is_not_made(bad: float) -> None:
    w = torch.full((3,), 0.1, dtype=torch.float64, requires_grad=True)
    before = w.detach().clone()
    optimizer = NewtonCG([w], curvature="hessian", damping=1e-3, verify=False)

    def closure() -> Tensor:
        loss = (w - 1).square().sum()
        return loss if bool((w < 0.5).all()) else loss * bad

    optimizer.step(closure)
    assert torch.equal(w.detach(), before)
    assert optimizer.param_groups[0]["damping"] == 4e-3
    for _ in range(12):
        optimizer.step(closure)
    assert 0.1 < float(w.detach()[0]) < 0.5  # with more damping it moves


def test_no_step_is_made_from_a_loss_or_gradient_that_is_no_number() -> None:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian")
    for loss in (lambda: (w * torch.nan).sum(), lambda: w.abs().sqrt().sum()):
        optimizer.step(loss)
        assert optimizer.last_step is not None and optimizer.last_step.cg_status is Status.NON_FINITE
        assert not w.detach().any()
    assert optimizer.counts["num_steps"] == 2


def test_a_stationary_point_is_left_alone() -> None:
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian")
    optimizer.step(lambda: w.square().sum())
    assert optimizer.param_groups[0]["damping"] == 0.1 and not w.detach().any()
    assert optimizer.counts["num_rejected"] == 0


def test_line_search_halves_the_step_until_it_pays() -> None:
    w = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian", damping=0.0, line_search=True)
    optimizer.step(lambda: (1 + w.square()).sqrt().sum())
    report = optimizer.last_step
    assert report is not None and report.accepted and report.share == 0.25  # −10: from 2 to −8, −3, −0.5
    assert report.ratio is not None and report.ratio < 0


@pytest.mark.parametrize(("line_search", "share"), [(False, 1.0), (True, 0.5)])
def test_line_search_asks_for_a_share_of_the_slope(line_search: bool, share: float) -> None:
    # From 2 to −1.9999: lower by 9e-5, of a slope of 3.6.
    w = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], lr=0.39999, curvature="hessian", damping=0.0, line_search=line_search)
    optimizer.step(lambda: (1 + w.square()).sqrt().sum())
    assert optimizer.last_step is not None and optimizer.last_step.share == share


def test_the_start_is_a_share_of_the_last_solution() -> None:
    A, b, start = quadratic()
    w = start.clone().requires_grad_()
    optimizer = NewtonCG([w], lr=1e-9, curvature="hessian", damping=1.0, cg_rtol=0.9, warm_start=0.5)
    optimizer.step(lambda: 0.5 * w @ A @ w - b @ w)
    first = optimizer.state[w]["solution"].clone()
    optimizer.step(lambda: 0.5 * w @ A @ w - b @ w)  # half of it leaves a residual within 0.9 ‖g‖
    assert torch.equal(optimizer.state[w]["solution"], 0.5 * first)


def test_after_a_rejected_step_the_next_starts_from_zero() -> None:
    w = torch.full((1,), 2.0, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian", damping=1.0)
    optimizer.step(lambda: w.square().sum())
    assert "solution" in optimizer.state[w]
    with torch.no_grad():
        w.fill_(2.0)
    optimizer.param_groups[0]["damping"] = 0.0
    optimizer.step(lambda: (1 + w.square()).sqrt().sum())
    assert optimizer.last_step is not None and not optimizer.last_step.accepted
    assert "solution" not in optimizer.state[w]


def test_warm_start_begins_from_a_share_of_the_last_solution() -> None:
    A, b, start = quadratic()
    w = start.clone().requires_grad_()
    optimizer = NewtonCG(
        [w], lr=1e-3, curvature="hessian", damping=1.0, adapt_damping=False, cg_rtol=1e-2, warm_start=1.0
    )
    loss = lambda: 0.5 * w @ A @ w - b @ w  # noqa: E731
    optimizer.step(loss)
    first = optimizer.last_step
    optimizer.step(loss)  # almost the same system
    second = optimizer.last_step
    assert first is not None and second is not None
    assert second.num_matvecs < first.num_matvecs
    solution = optimizer.state[w]["solution"]
    s = torch.linalg.solve(A + torch.eye(6, dtype=torch.float64), -(A @ start - b))
    assert (solution - s).norm() < 0.05 * s.norm()


# ------------------------------------------------------------------------------------------------ manners


def test_it_is_a_torch_optimizer_and_schedulers_take_it() -> None:
    model = mlp()
    optimizer = NewtonCG(model.parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.step(classify(model))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    model(X).sum().backward()
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_frozen_and_unused_parameters_stay() -> None:
    model = mlp()
    model[0].weight.requires_grad_(False)
    spare = nn.Parameter(torch.ones(3, dtype=torch.float64))
    before = model[0].weight.detach().clone()
    optimizer = NewtonCG([*model.parameters(), spare])
    losses = [optimizer.step(classify(model)).item() for _ in range(3)]
    assert losses[2] < losses[0]
    assert torch.equal(model[0].weight, before) and torch.equal(spare.detach(), torch.ones(3).double())
    model[0].weight.requires_grad_(True)  # from here on it takes part
    optimizer.step(classify(model))
    assert not torch.equal(model[0].weight, before)


def test_add_param_group() -> None:
    model = mlp()
    optimizer = NewtonCG(model[0].parameters())
    optimizer.step(classify(model))
    optimizer.add_param_group({"params": model[2].parameters(), "lr": 0.5})
    before = model[2].weight.detach().clone()
    optimizer.step(classify(model))
    assert not torch.equal(model[2].weight, before)
    assert optimizer.counts["num_steps"] == 2


def test_tied_and_mixed_parameters() -> None:
    wide = nn.Parameter(torch.ones(3, dtype=torch.float64))
    narrow = nn.Parameter(torch.full((3,), 2.0))
    optimizer = NewtonCG([wide, narrow], curvature="hessian", damping=0.0, cg_rtol=1e-7)
    optimizer.step(lambda: (wide - 3).square().sum() + (narrow.double() + wide).square().sum())
    torch.testing.assert_close(wide.detach(), torch.full((3,), 3.0, dtype=torch.float64), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(narrow.detach(), torch.full((3,), -3.0), rtol=1e-6, atol=0.0)


def test_half_precision_parameters_train() -> None:
    model = mlp().to(torch.bfloat16)
    optimizer = NewtonCG(model.parameters())
    losses = [optimizer.step(classify(model, X.bfloat16())).item() for _ in range(6)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_mode_around_step_does_not_matter(mode: Callable[[], Any]) -> None:
    model, reference = mlp(), mlp()
    with mode():
        NewtonCG(model.parameters()).step(classify(model))
    NewtonCG(reference.parameters()).step(classify(reference))
    assert same(values(model), values(reference))


def test_grad_is_not_touched() -> None:
    model = mlp()
    model(X).sum().backward()
    grads = [p.grad for p in model.parameters()]
    kept = [g.clone() for g in grads if g is not None]
    NewtonCG(model.parameters()).step(classify(model))
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert all(torch.equal(g, k) for g, k in zip(grads, kept, strict=True) if g is not None)


@pytest.mark.parametrize("other", [False, True])
def test_generators_are_left_as_after_one_call_of_each_closure(other: bool) -> None:
    model = mlp(nn.Dropout(0.3))
    optimizer = NewtonCG(model.parameters(), line_search=True)
    for _ in range(2):  # with the proof of the first step, and without
        state = torch.get_rng_state()
        optimizer.step(classify(model), classify(model) if other else None)
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        for _ in range(1 + other):
            model(X)
        assert torch.equal(torch.get_rng_state(), after)


def test_running_statistics_move_as_by_one_forward_pass() -> None:
    model = mlp(nn.BatchNorm1d(6))
    optimizer = NewtonCG(model.parameters())
    for _ in range(2):
        reference = copy.deepcopy(model)
        reference(X)
        optimizer.step(classify(model))
        for ours, theirs in zip(model.buffers(), reference.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=0.0)
    assert int(model[2].num_batches_tracked) == 2


def test_the_proof_does_not_change_the_steps() -> None:
    models = [mlp(nn.BatchNorm1d(6), nn.Dropout(0.2)) for _ in range(2)]
    for model, verify in zip(models, (True, False), strict=True):
        torch.manual_seed(7)
        optimizer = NewtonCG(model.parameters(), verify=verify)
        for _ in range(3):
            optimizer.step(classify(model))
    assert same(values(models[0]), values(models[1]))


def test_the_proof_is_made_once_and_again_for_new_parameters() -> None:
    model = mlp()
    optimizer = NewtonCG(model[0].parameters())
    proofs = []
    for added in (None, None, model[2]):
        if added is not None:
            optimizer.add_param_group({"params": added.parameters()})
        sound = Failing(model)
        optimizer.step(sound)
        proofs.append(sound.count > 2)
    assert proofs == [True, False, True]


def test_a_first_loss_that_is_no_number_proves_nothing() -> None:
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = NewtonCG([w], curvature="hessian")
    optimizer.step(lambda: (w * torch.nan).sum())
    batches = iter(torch.arange(9.0))
    with pytest.raises(DerivativeError, match="another loss when it is called again"):
        optimizer.step(lambda: (w * next(batches)).square().sum())


# -------------------------------------------------------------------------------------------------- state


def trained(model: nn.Module, optimizer: NewtonCG, steps: int) -> list[float]:
    return [optimizer.step(classify(model)).item() for _ in range(steps)]


def make() -> tuple[nn.Module, NewtonCG]:
    model = mlp(nn.Dropout(0.2), nn.BatchNorm1d(6)).float()
    groups = [{"params": model[0].parameters(), "damping": 0.2}, {"params": model[2:].parameters()}]
    return model, NewtonCG(groups, lr=0.2, max_cg_iter=4, weight_decay=1e-3)


def make_closure(model: nn.Module) -> Pair:
    return classify(model, X.float())


def saved(model: nn.Module, optimizer: NewtonCG) -> bytes:
    buffer = io.BytesIO()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    torch.save(state, buffer)
    return buffer.getvalue()


def resumed(data: bytes) -> tuple[nn.Module, NewtonCG]:
    state = torch.load(io.BytesIO(data), weights_only=True)
    model, optimizer = make()
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return model, optimizer


def test_state_brings_back_the_next_steps_bit_for_bit() -> None:
    model, optimizer = make()
    for _ in range(4):
        optimizer.step(make_closure(model))
    data = saved(model, optimizer)
    ours = [optimizer.step(make_closure(model)).item() for _ in range(3)]
    again, other = resumed(data)
    assert other.param_groups[0]["damping"] != 0.2
    theirs = [other.step(make_closure(again)).item() for _ in range(3)]
    assert ours == theirs
    assert same(values(model), values(again))
    assert optimizer.counts == other.counts
    assert saved(model, optimizer) == saved(again, other)
    # It needs all of it: without the warm start the steps are others.
    cold, bare = resumed(data)
    for state in bare.state.values():
        state.pop("solution", None)
    assert [bare.step(make_closure(cold)).item() for _ in range(3)] != ours


def test_another_process_makes_the_same_step(tmp_path: Path) -> None:
    model, optimizer = make()
    for _ in range(3):
        optimizer.step(make_closure(model))
    (tmp_path / "saved.pt").write_bytes(saved(model, optimizer))
    optimizer.step(make_closure(model))
    program = (
        "import importlib.util, pathlib, sys, torch\n"
        "spec = importlib.util.spec_from_file_location('tests_here', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['tests_here'] = module\n"
        "spec.loader.exec_module(module)\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "model, optimizer = module.resumed((folder / 'saved.pt').read_bytes())\n"
        "optimizer.step(module.make_closure(model))\n"
        "(folder / 'after.pt').write_bytes(module.saved(model, optimizer))\n"
    )
    threads = str(torch.get_num_threads())
    root = Path(__file__).parent.parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", program, __file__, tmp_path, threads],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=root,
    )
    assert ran.returncode == 0, ran.stderr
    ours = torch.load(io.BytesIO(saved(model, optimizer)), weights_only=True)
    theirs = torch.load(tmp_path / "after.pt", weights_only=True)
    assert same(list(ours["model"].values()), list(theirs["model"].values()))
    assert torch.equal(ours["rng"], theirs["rng"])
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]


def test_copies_and_pickles_go_on() -> None:
    model = mlp()
    optimizer = NewtonCG(model.parameters())
    optimizer.step(classify(model))
    twin, other = copy.deepcopy((model, optimizer))
    assert other.last_step is None
    assert trained(model, optimizer, 2) == trained(twin, other, 2)


def test_the_state_of_another_optimizer_is_refused() -> None:
    model = mlp()
    state = torch.optim.Adam(model.parameters()).state_dict()
    with pytest.raises(ValueError, match=r"state_dict must be that of a NewtonCG.*lacks damping"):
        NewtonCG(model.parameters()).load_state_dict(state)


# --------------------------------------------------------------------------------- nothing lost by failures


class Failing:
    """A closure that fails at its nth call; `count` of a sound run says how many there are."""

    def __init__(
        self, model: nn.Module, at: int | None = None, error: type[BaseException] = KeyError
    ) -> None:
        self.closure, self.at, self.error, self.count = classify(model), at, error, 0

    def __call__(self) -> tuple[Tensor, Tensor]:
        self.count += 1
        result = self.closure()
        if self.count == self.at:
            raise self.error("mine")
        return result


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_after_an_exception_everything_is_as_before(error: type[BaseException]) -> None:
    model = mlp(nn.BatchNorm1d(6), nn.Dropout(0.2))
    optimizer = NewtonCG(model.parameters(), line_search=True)
    optimizer.step(classify(model))
    sound = Failing(copy.deepcopy(model))
    twin = NewtonCG(sound.closure.__closure__[0].cell_contents.parameters())  # type: ignore[index, union-attr]
    twin.step(sound)
    for at in range(1, sound.count + 1):
        optimizer._proven = False  # so that the proof is interrupted too
        model(X).sum().backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        before, rng, state = values(model), torch.get_rng_state(), copy.deepcopy(optimizer.state_dict())
        failing = Failing(model, at, error)
        with pytest.raises(error, match="mine"):
            optimizer.step(failing)
        assert failing.count == at
        assert same(values(model), before)
        assert torch.equal(torch.get_rng_state(), rng)
        assert same([p.grad for p in model.parameters() if p.grad is not None], grads)
        assert str(optimizer.state_dict()) == str(state)
        assert model.training


def test_ctrl_c_at_any_time_leaves_a_whole_step_or_none() -> None:
    model = mlp(nn.Dropout(0.2), nn.BatchNorm1d(6))
    reference = copy.deepcopy(model)
    torch.manual_seed(3)
    rng = torch.get_rng_state()
    begun = time.perf_counter()
    NewtonCG(reference.parameters(), verify=False).step(classify(reference))
    taken = time.perf_counter() - begun
    after_rng = torch.get_rng_state()
    before, after = values(model), values(reference)
    outcomes = set()
    for delay in (*(taken * k / 10 for k in range(12)), taken + 1.0):
        model.load_state_dict(dict(zip(model.state_dict(), before, strict=True)))
        torch.set_rng_state(rng)
        optimizer = NewtonCG(model.parameters(), verify=False)
        timer = threading.Timer(delay, signal.raise_signal, [signal.SIGINT])
        try:
            timer.start()
            optimizer.step(classify(model))
            timer.join()
            time.sleep(0.01)  # the main thread is the one that gets it
        except KeyboardInterrupt:
            timer.join()
        made = bool(optimizer.counts["num_steps"])
        assert same(values(model), after if made else before)
        assert torch.equal(torch.get_rng_state(), after_rng if made else rng)
        outcomes.add(made)
    assert True in outcomes


def test_ctrl_c_while_a_step_is_put_away_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = mlp(nn.BatchNorm1d(6)), mlp(nn.BatchNorm1d(6))
    NewtonCG(reference.parameters()).step(classify(reference))
    settle = Attempt.settle

    def interrupted(attempt: Attempt) -> None:
        signal.raise_signal(signal.SIGINT)
        settle(attempt)

    monkeypatch.setattr(Attempt, "settle", interrupted)
    optimizer = NewtonCG(model.parameters())
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(classify(model))
    assert optimizer.counts["num_steps"] == 1
    assert same(values(model), values(reference))


def test_ctrl_c_while_the_generators_are_put_back_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler must not run between two generators of a session's end."""
    model = mlp(nn.Dropout(0.2))
    before, rng = values(model), torch.get_rng_state()
    restore = RandomState.restore

    def interrupted(state: RandomState) -> None:
        signal.raise_signal(signal.SIGINT)
        restore(state)

    optimizer = NewtonCG(model.parameters())
    optimizer.step(classify(model))
    model.load_state_dict(dict(zip(model.state_dict(), before, strict=True)))
    torch.set_rng_state(rng)
    monkeypatch.setattr(RandomState, "restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step(classify(model))
    monkeypatch.undo()
    assert same(values(model), before)
    assert torch.equal(torch.get_rng_state(), rng)
    assert optimizer.counts["num_steps"] == 1


def test_ctrl_c_inside_the_closure_undoes_the_step() -> None:
    model = mlp()
    before = values(model)
    optimizer = NewtonCG(model.parameters())

    def closure() -> tuple[Tensor, Tensor]:
        signal.raise_signal(signal.SIGINT)
        return classify(model)()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert same(values(model), before)
    assert not optimizer.state


def test_a_closure_that_calls_backward_is_told_and_grad_is_as_before() -> None:
    model = mlp()
    before = values(model)
    optimizer = NewtonCG(model.parameters())

    def as_for_lbfgs() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(X), LABELS)
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match=r"must return the loss without calling backward\(\)"):
        optimizer.step(as_for_lbfgs)
    assert all(p.grad is None for p in model.parameters())
    assert same(values(model), before)


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"damping": -1.0}, "damping must be a number of at least 0"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"min_damping": float("inf")}, "min_damping must be"),
        ({"cg_rtol": -0.1}, "cg_rtol must be"),
        ({"warm_start": 1.5}, r"warm_start must be in \[0, 1\]"),
        ({"max_cg_iter": 0}, "max_cg_iter must be an integer of at least 1"),
        ({"max_cg_iter": 2.5}, "max_cg_iter must be an integer of at least 1"),
        ({"curvature": "fisher"}, 'curvature must be "ggn" or "hessian"'),
        ({"maximize": True}, "return -loss from the closure"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        NewtonCG([w], **options)
    with pytest.raises(ValueError, match=message):
        NewtonCG([{"params": [w], **options}])


def test_what_holds_for_all_groups_cannot_differ() -> None:
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = NewtonCG([a])
    with pytest.raises(ValueError, match=r"max_cg_iter holds for all groups of NewtonCG alike, 20, got 3"):
        optimizer.add_param_group({"params": [b], "max_cg_iter": 3})
    assert len(optimizer.param_groups) == 1


def test_parameters_are_checked() -> None:
    with pytest.raises(ValueError, match="must lie on one device, got cpu, meta"):
        NewtonCG([torch.ones(2, requires_grad=True), torch.ones(2, device="meta", requires_grad=True)])
    with pytest.raises(TypeError, match=r"real floating point tensors, got torch\.complex64"):
        NewtonCG([torch.ones(2, dtype=torch.complex64, requires_grad=True)])
    with pytest.raises(ValueError, match="not initialised yet"):
        NewtonCG(nn.LazyLinear(3).parameters())
    optimizer = NewtonCG([torch.ones(2, requires_grad=True)])
    with pytest.raises(ValueError, match="must lie on one device"):
        optimizer.add_param_group({"params": [torch.ones(2, device="meta")]})
    assert len(optimizer.param_groups) == 1
    frozen = NewtonCG([torch.ones(2)])
    with pytest.raises(ValueError, match="no parameter requires grad"):
        frozen.step(lambda: torch.ones(()))


def test_a_step_needs_a_closure() -> None:
    optimizer = NewtonCG([torch.ones(2, requires_grad=True)])
    with pytest.raises(TypeError, match=r"step needs a closure.*\(loss, outputs\)"):
        optimizer.step()


def test_a_loss_alone_will_not_do_for_the_gauss_newton_matrix() -> None:
    model = mlp()
    with pytest.raises(ValueError, match=r"must return \(loss, outputs\)"):
        NewtonCG(model.parameters()).step(lambda: F.cross_entropy(model(X), LABELS))
