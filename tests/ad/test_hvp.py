"""hvp: closed forms, differences of gradients, containers, dtypes, transforms, graphs, noise, refusals."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.utils._pytree import tree_flatten, tree_map

from hvplib import DerivativeError, hvp
from tests.ad.problems import (
    F64,
    PROBLEMS,
    Cube,
    CutCube,
    Problem,
    difference_hessian,
    directions,
    flat,
    normal,
    relative,
)

EXACT = ["auto", "forward-over-reverse", "reverse-over-reverse"]
ALL = [*EXACT, "finite-difference"]
Point = namedtuple("Point", ["p", "q"])

every_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
every_strategy = pytest.mark.parametrize("strategy", ALL)
exact_strategies = pytest.mark.parametrize("strategy", EXACT)


def quartic(x: Tensor) -> Tensor:
    """Σ x⁴ + Π x: second and third derivatives are known."""
    return (x**4).sum() + x.prod()


def quartic_hessian(x: Tensor) -> Tensor:
    off = x.prod() / torch.outer(x, x)
    return torch.diag(12 * x**2) + off - off.diag().diag()


def quartic_third(x: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """∇(vᵀ H(x) w), from the closed form of H."""
    with torch.enable_grad():
        point = x.detach().clone().requires_grad_()
        return torch.autograd.grad(v @ quartic_hessian(point) @ w, point)[0]


X, V, W = normal(3, seed=20), normal(3, seed=21), normal(3, seed=22)


# ------------------------------------------------------------------------------- the definition, two oracles


@every_problem
@every_strategy
def test_equals_the_closed_form(problem: Problem, strategy: str) -> None:
    v = directions(problem.primals)
    tolerance = 1e-8 if strategy == "finite-difference" else 1e-13
    assert relative(hvp(problem.func, problem.primals, v, strategy=strategy), problem.product(v)) < tolerance


@every_problem
def test_closed_forms_equal_differences_of_gradients(problem: Problem) -> None:
    assert relative(difference_hessian(problem.func, problem.primals), problem.dense) < 1e-10


@exact_strategies
def test_network_equals_differences_of_gradients(strategy: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2), nn.GELU()).double()
    data, target = normal(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])

    def loss(p: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(net, p, data), target)

    p = {name: q.detach() for name, q in net.named_parameters()}
    dense = difference_hessian(loss, p)
    v = directions(p)
    assert relative(hvp(loss, p, v, strategy=strategy), dense @ flat(v)) < 1e-9


@every_strategy
def test_linear_in_the_tangents_and_symmetric(strategy: str) -> None:
    tolerance = 1e-7 if strategy == "finite-difference" else 1e-13
    hv, hw = (hvp(quartic, X, t, strategy=strategy) for t in (V, W))
    assert relative(hvp(quartic, X, 2 * V - 3 * W, strategy=strategy), 2 * hv - 3 * hw) < tolerance
    assert abs(float(W @ hv - V @ hw)) < tolerance * float(hv.norm() * W.norm())


@every_strategy
def test_zero_tangents_give_exact_zeros(strategy: str) -> None:
    assert torch.equal(hvp(quartic, X, torch.zeros_like(X), strategy=strategy), torch.zeros_like(X))


@every_strategy
@pytest.mark.parametrize(
    "func",
    [
        lambda x: x.sum(),
        lambda x: (3 * x).sum() + 1,
        lambda x: torch.ones((), dtype=F64),
        lambda x: x.detach().sum(),
    ],
    ids=["linear", "affine", "constant", "detached"],
)
def test_functions_without_curvature_give_zeros(func: Any, strategy: str) -> None:
    assert torch.equal(hvp(func, X, V, strategy=strategy), torch.zeros_like(X))


@every_strategy
def test_an_argument_that_func_ignores(strategy: str) -> None:
    first, second = hvp(lambda x, y: quartic(x), (X, W), (V, W), strategy=strategy)
    assert relative(first, quartic_hessian(X) @ V) < 1e-8
    assert torch.equal(second, torch.zeros_like(W))


# -------------------------------------------------------------------------------------- containers and shapes


@pytest.mark.parametrize(
    "tree",
    [
        X,
        (X,),
        (X, W),
        [X, W],
        {"b": X, "a": W},
        OrderedDict(z=X, y=W),
        Point(X, W),
        {"deep": [(X,), {"k": Point(W, [X + 1])}]},
    ],
    ids=["tensor", "one-tuple", "arguments", "list", "dict", "ordered dict", "named tuple", "nested"],
)
def test_result_mirrors_the_containers(tree: Any) -> None:
    def func(*args: Any) -> Tensor:
        leaves = tree_flatten(args)[0]
        return sum((quartic(x) for x in leaves), start=torch.zeros((), dtype=F64))

    v = directions(tree)
    got = hvp(func, tree, v)
    assert type(got) is type(tree)
    leaves, spec = tree_flatten(got)
    assert spec == tree_flatten(tree)[1]
    for h, x, t in zip(leaves, tree_flatten(tree)[0], tree_flatten(v)[0], strict=True):
        assert relative(h, quartic_hessian(x) @ t) < 1e-13


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_outputs_of_one_number_are_scalars(shape: tuple[int, ...]) -> None:
    for strategy in ALL:
        got = hvp(lambda x: quartic(x).reshape(shape), X, V, strategy=strategy)
        assert relative(got, quartic_hessian(X) @ V) < 1e-8


@every_strategy
def test_empty_tensors_among_the_primals(strategy: str) -> None:
    nothing = torch.empty(0, 3, dtype=F64)
    got = hvp(lambda x, e: quartic(x) + (e**2).sum(), (X, nothing), (V, nothing), strategy=strategy)
    assert relative(got[0], quartic_hessian(X) @ V) < 1e-8
    assert got[1].shape == (0, 3)


@pytest.mark.parametrize("grad_wanted", [False, True])
@exact_strategies
@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.expand(3),
        lambda x: x.as_strided((3,), (0,)),
        lambda x: x.repeat(2)[::2].expand(3),
    ],
    ids=["expanded", "as_strided", "expanded slice"],
)
def test_primals_whose_elements_share_memory(view: Any, strategy: str, grad_wanted: bool) -> None:
    """The Hessian of func at that point, of all its entries: not that of the one number behind them."""
    x = view(torch.tensor([0.7], dtype=F64, requires_grad=grad_wanted))
    assert x.stride() == (0,)
    assert (
        relative(hvp(quartic, x, V, strategy=strategy), quartic_hessian(torch.full((3,), 0.7, dtype=F64)) @ V)
        < 1e-13
    )


@pytest.mark.parametrize("where", ["plain", "vmap"])
@pytest.mark.parametrize("grad_wanted", [False, True])
@exact_strategies
def test_overlapping_windows_as_primals(strategy: str, grad_wanted: bool, where: str) -> None:
    x = normal(4).requires_grad_(grad_wanted).as_strided((3, 2), (1, 1))
    v = normal(3, 2, seed=3)
    expected = quartic_hessian(x.detach().reshape(-1)) @ v.reshape(-1)

    def product(v: Tensor) -> Tensor:
        return hvp(quartic_of_matrix, x, v, strategy=strategy)

    got = product(v) if where == "plain" else vmap(product)(v[None])[0]
    assert relative(got, expected) < 1e-13


@every_strategy
@pytest.mark.parametrize(
    ("x", "v"),
    [
        (normal(3, 2).T, normal(2, 3, seed=1)),
        (normal(2, 3), normal(3, 2, seed=1).T),
        (normal(4, 3)[::2], normal(1, 3, seed=1).expand(2, 3)),
        (normal(2, 3).flip(0), normal(2, 6, seed=1)[:, ::2]),
    ],
    ids=["transposed primal", "transposed tangent", "expanded tangent", "strided tangent"],
)
def test_memory_layout_does_not_matter(x: Tensor, v: Tensor, strategy: str) -> None:
    got = hvp(quartic_of_matrix, x, v, strategy=strategy)
    assert got.shape == x.shape
    assert relative(got, quartic_hessian(x.reshape(-1)) @ v.reshape(-1)) < 1e-8


def quartic_of_matrix(x: Tensor) -> Tensor:
    return quartic(x.reshape(-1))


# --------------------------------------------------------------------------------------------------- dtypes


@every_strategy
@pytest.mark.parametrize(
    ("dtype", "exact", "difference"),
    [(torch.float32, 1e-6, 1e-3), (torch.bfloat16, 3e-2, 0.3), (torch.float16, 4e-3, 5e-2)],
)
def test_lower_precision_to_its_eps(
    dtype: torch.dtype, exact: float, difference: float, strategy: str
) -> None:
    x, v = (torch.tensor(t, dtype=dtype) for t in ([0.5, -0.75, 1.25], [1.0, 0.5, -0.25]))
    got = hvp(quartic, x, v, strategy=strategy)
    assert got.dtype == dtype
    tolerance = difference if strategy == "finite-difference" else exact
    assert relative(got, quartic_hessian(x.double()) @ v.double()) < tolerance


@exact_strategies
def test_each_leaf_keeps_its_dtype(strategy: str) -> None:
    tree = {"half": X.bfloat16(), "single": X.float(), "double": X}
    got = hvp(
        lambda t: sum(quartic(x.double()) for x in t.values()), tree, directions(tree), strategy=strategy
    )
    assert {k: h.dtype for k, h in got.items()} == {k: x.dtype for k, x in tree.items()}
    assert relative(got["double"], quartic_hessian(X) @ directions(tree)["double"]) < 1e-13


def test_a_float32_loss_of_float64_parameters() -> None:
    got = hvp(lambda x: quartic(x).float(), X, V)
    assert got.dtype == F64
    assert relative(got, quartic_hessian(X) @ V) < 1e-6


# ------------------------------------------------------------------------------------------- modes and graphs


@every_strategy
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_same_bits_in_every_mode(mode: Any, strategy: str) -> None:
    plain = hvp(quartic, X, V, strategy=strategy)
    with mode():
        again = hvp(quartic, X, V, strategy=strategy)
    assert torch.equal(plain, again)
    assert not again.requires_grad


@every_strategy
def test_inference_tensors(strategy: str) -> None:
    with torch.inference_mode():
        x, v, scale = X.clone(), V.clone(), torch.full((3,), 2.0, dtype=F64)
    assert x.is_inference()
    for primal, tangent in ((x, v), (X, v), (x, V)):
        got = hvp(lambda x: quartic(x * scale), primal, tangent, strategy=strategy)
        assert relative(got, 4 * quartic_hessian(2 * X) @ V) < 1e-8
    with torch.inference_mode():
        assert relative(hvp(quartic, x, v, strategy=strategy), quartic_hessian(X) @ V) < 1e-8


@exact_strategies
def test_no_graph_where_nothing_requires_grad(strategy: str) -> None:
    assert not hvp(quartic, X, V, strategy=strategy).requires_grad
    primal = X.clone().requires_grad_()
    with torch.no_grad():
        assert not hvp(quartic, primal, V, strategy=strategy).requires_grad


@exact_strategies
def test_third_derivatives_by_backward(strategy: str) -> None:
    x, v = X.clone().requires_grad_(), V.clone().requires_grad_()
    (W @ hvp(quartic, x, v, strategy=strategy)).backward()
    assert relative(x.grad, quartic_third(X, V, W)) < 1e-12
    assert relative(v.grad, quartic_hessian(X) @ W) < 1e-12


@exact_strategies
def test_graph_to_captured_tensors(strategy: str) -> None:
    a = torch.tensor(2.0, dtype=F64, requires_grad=True)
    got = hvp(lambda x: a**3 * quartic(x), X, V, strategy=strategy)
    got.sum().backward()
    assert relative(a.grad, 12 * (quartic_hessian(X) @ V).sum()) < 1e-12


@exact_strategies
def test_primals_behind_a_graph(strategy: str) -> None:
    """A primal that is itself a result: derivatives flow on to what it was computed from."""
    z = X.clone().requires_grad_()
    (W @ hvp(quartic, z.sin(), V, strategy=strategy)).backward()
    assert relative(z.grad, quartic_third(X.sin(), V, W) * X.cos()) < 1e-12


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of torch's own import
def test_inside_a_level_of_dual_numbers() -> None:
    """Dual numbers do not nest; the derivative of H v along w must come out right all the same."""
    with fwAD.dual_level():
        dual = fwAD.make_dual(X, W)
        for strategy in EXACT:
            primal, tangent = fwAD.unpack_dual(hvp(quartic, dual, V, strategy=strategy))
            assert relative(primal, quartic_hessian(X) @ V) < 1e-13
            assert relative(tangent, quartic_third(X, V, W)) < 1e-12


def test_parameters_keep_everything() -> None:
    p = nn.Parameter(X.clone())
    p.grad = W.clone()
    seen: list[Tensor] = []
    p.register_hook(seen.append)
    hvp(quartic, p, V)
    assert torch.equal(p.grad, W) and p.requires_grad and torch.equal(p, X)
    assert X.grad is None and not X.requires_grad and not V.requires_grad


# ------------------------------------------------------------------------------------------------ transforms


@exact_strategies
def test_vmap_over_tangents_points_and_both(strategy: str) -> None:
    points, vectors = normal(5, 3, seed=30), normal(5, 3, seed=31)

    def product(x: Tensor, v: Tensor) -> Tensor:
        return hvp(quartic, x, v, strategy=strategy)

    both = torch.stack([quartic_hessian(x) @ v for x, v in zip(points, vectors, strict=True)])
    assert relative(vmap(product)(points, vectors), both) < 1e-13
    assert relative(vmap(product, in_dims=(None, 0))(X, vectors), vectors @ quartic_hessian(X)) < 1e-13
    assert (
        relative(
            vmap(product, in_dims=(0, None))(points, V), torch.stack([quartic_hessian(x) @ V for x in points])
        )
        < 1e-13
    )
    assert relative(vmap(product, in_dims=1, out_dims=1)(points.T, vectors.T), both.T) < 1e-13
    nested = vmap(vmap(product, in_dims=(None, 0)), in_dims=(0, None))(points, vectors)
    assert relative(nested, torch.stack([vectors @ quartic_hessian(x) for x in points])) < 1e-13


@exact_strategies
def test_grad_jvp_and_jacrev_of_a_product(strategy: str) -> None:
    def product(x: Tensor) -> Tensor:
        return hvp(quartic, x, V, strategy=strategy)

    assert relative(grad(lambda x: W @ product(x))(X), quartic_third(X, V, W)) < 1e-12
    value, slope = jvp(product, (X,), (W,))
    assert relative(value, quartic_hessian(X) @ V) < 1e-13
    assert relative(slope, quartic_third(X, V, W)) < 1e-12
    assert relative(jacrev(product)(X) @ W, quartic_third(X, V, W)) < 1e-12
    assert relative(jacrev(lambda v: hvp(quartic, X, v, strategy=strategy))(V), quartic_hessian(X)) < 1e-13


def test_per_example_products() -> None:
    data = normal(4, 3, seed=33)
    got = vmap(lambda a: hvp(lambda x: (a @ x) ** 3, X, V))(data)
    assert relative(got, torch.stack([6 * (a @ X) * (a @ V) * a for a in data])) < 1e-13


def test_hvp_of_an_hvp_is_the_fourth_derivative() -> None:
    """f = Σ x⁴ + Π x; ∇²(Vᵀ H V) by differences of the closed form of its gradient."""
    inner = lambda x: V @ hvp(quartic, x, V)  # noqa: E731
    step = 1e-4
    expected = (quartic_third(X + step * W, V, V) - quartic_third(X - step * W, V, V)) / (2 * step)
    assert relative(hvp(inner, X, W), expected) < 1e-7


def test_vmapped_dropout_with_the_same_noise() -> None:
    vectors = normal(4, 3, seed=34)
    torch.manual_seed(3)
    mask = F.dropout(torch.ones(3, dtype=F64), 0.5)
    torch.manual_seed(3)
    got = vmap(lambda v: hvp(lambda x: (F.dropout(x, 0.5) ** 3).sum(), X, v), randomness="same")(vectors)
    assert relative(got, vectors * 6 * X * mask**3) < 1e-13


def test_finite_differences_refuse_transforms() -> None:
    with pytest.raises(DerivativeError, match=r"cannot run inside a torch\.func transform; call it outside"):
        vmap(lambda v: hvp(quartic, X, v, strategy="finite-difference"))(V[None])


# ------------------------------------------------------------------------------------------------- randomness


@every_strategy
def test_dropout_is_replayed_and_the_generator_is_left_alone(strategy: str) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    mask = F.dropout(torch.ones(3, dtype=F64), 0.5)
    torch.set_rng_state(state)
    got = hvp(lambda x: (F.dropout(x, 0.5) ** 3).sum() + quartic(x), X, V, strategy=strategy)
    assert torch.equal(torch.get_rng_state(), state)
    assert relative(got, (torch.diag(6 * X * mask**3) + quartic_hessian(X)) @ V) < 1e-8


def test_generators_passed_by_name_are_replayed() -> None:
    named = torch.Generator().manual_seed(7)
    before = named.get_state()
    noise = torch.rand(3, generator=torch.Generator().manual_seed(7), dtype=F64)
    got = hvp(lambda x: (torch.rand(3, generator=named, dtype=F64) * x**3).sum(), X, V)
    assert torch.equal(named.get_state(), before)
    assert relative(got, 6 * noise * X * V) < 1e-13


@every_strategy
def test_two_equal_calls_are_bitwise_equal(strategy: str) -> None:
    assert torch.equal(hvp(quartic, X, V, strategy=strategy), hvp(quartic, X, V, strategy=strategy))


# -------------------------------------------------------------------------------------- fall-back and refusal


def test_a_custom_function_without_forward_mode_is_right_by_double_backward() -> None:
    got = hvp(lambda x: Cube.apply(x).sum() * x.sin().sum(), X, V)
    truth = difference_hessian(lambda x: (x**3).sum() * x.sin().sum(), X)
    assert relative(got, truth @ V) < 1e-10


def test_a_custom_function_that_forgets_its_residual_is_refused() -> None:
    with pytest.raises(DerivativeError, match=r"in the way is a custom torch\.autograd\.Function") as info:
        hvp(lambda x: CutCube.apply(x).sum(), X, V)
    assert info.value.op == "a custom torch.autograd.Function"
    text = str(info.value)
    assert (
        "forward-over-reverse: " in text and "reverse-over-reverse: difference of gradients: FAILED" in text
    )
    assert 'strategy="finite-difference" by name' in text
    assert (
        relative(hvp(lambda x: CutCube.apply(x).sum(), X, V, strategy="finite-difference"), 6 * X * V) < 1e-8
    )


def test_the_same_under_vmap_is_refused_too() -> None:
    with pytest.raises(DerivativeError):
        vmap(lambda v: hvp(lambda x: CutCube.apply(x).sum(), X, v))(V[None])


def test_a_named_strategy_that_a_difference_contradicts_is_refused() -> None:
    for func in (lambda x: CutCube.apply(x).sum(), lambda x: (CutCube.apply(x) * x).sum()):
        with pytest.raises(DerivativeError, match="reverse-over-reverse: difference of gradients: FAILED"):
            hvp(func, X, V, strategy="reverse-over-reverse")
    got = hvp(lambda x: Cube.apply(x).sum(), X, V, strategy="reverse-over-reverse")
    assert relative(got, 6 * X * V) < 1e-13


def test_a_named_strategy_that_cannot_is_refused() -> None:
    with pytest.raises(DerivativeError, match="Tried:\n  forward-over-reverse: ") as info:
        hvp(lambda x: Cube.apply(x).sum(), X, V, strategy="forward-over-reverse")
    assert "reverse-over-reverse" not in str(info.value)


@pytest.mark.parametrize(
    "error", [ValueError, KeyError, ZeroDivisionError, RuntimeError, AssertionError, TypeError]
)
@every_strategy
def test_errors_of_func_pass_through_as_they_are(error: type[Exception], strategy: str) -> None:
    def func(x: Tensor) -> Tensor:
        raise error("mine")

    with pytest.raises(error, match="mine") as info:
        hvp(func, X, V, strategy=strategy)
    assert type(info.value) is error


def test_an_error_in_func_leaves_nothing_behind() -> None:
    state = torch.get_rng_state()

    def func(x: Tensor) -> Tensor:
        torch.rand(1)
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        hvp(func, X, V)
    assert torch.equal(torch.get_rng_state(), state)
    assert fwAD._current_level == -1
    assert relative(hvp(quartic, X, V), quartic_hessian(X) @ V) < 1e-13


def test_running_out_of_memory_is_not_taken_for_a_missing_derivative() -> None:
    def func(x: Tensor) -> Tensor:
        return torch.empty(2**55, dtype=F64).sum() * x.sum()

    with pytest.raises(RuntimeError, match="allocate memory") as info:
        hvp(func, X, V)
    assert not isinstance(info.value, DerivativeError)


def test_a_value_that_left_the_graph_is_refused() -> None:
    with pytest.raises(DerivativeError, match="func's value changes with primals but carries no derivative"):
        hvp(lambda x: torch.tensor(float((x**3).sum())), X, V)


# ----------------------------------------------------------------------------------------------- side effects


def test_buffers_and_mode_of_a_training_network_stay() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1)).double().train()
    data = normal(8, 3)
    before = {k: t.clone() for k, t in net.state_dict().items()}
    p = {k: q.detach() for k, q in net.named_parameters()}
    for strategy in ALL:
        hvp(lambda p: functional_call(net, p, (data,)).square().mean(), p, directions(p), strategy=strategy)
    after = net.state_dict()
    assert all(torch.equal(after[k], t) for k, t in before.items())
    assert net.training and all(q.grad is None and q.requires_grad for q in net.parameters())


def test_primals_and_tangents_are_not_written_to() -> None:
    x, v = X.clone(), V.clone()
    tree_map(lambda _: None, hvp(lambda x: quartic(x.mul(1).add_(0)), x, v))
    assert torch.equal(x, X) and torch.equal(v, V)


def test_a_result_is_never_a_view_of_an_argument() -> None:
    got = hvp(lambda x: 0.5 * (x**2).sum(), X, V)
    assert got.data_ptr() not in (X.data_ptr(), V.data_ptr())
