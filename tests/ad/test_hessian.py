"""hessian: every promise of a superset of torch.func.hessian, and what that one gets wrong."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint

from hvplib import DerivativeError, OutputError, hessian, hvp
from hvplib.ad import memory
from tests.ad.problems import (
    F64,
    PROBLEMS,
    Cube,
    CutCube,
    NoGradientField,
    Problem,
    difference_hessian,
    flat,
    normal,
    relative,
)

X, Y = normal(3, seed=40), normal(2, 4, seed=41)
Point = namedtuple("Point", ["w", "b"])
EXACT = ["auto", "forward-over-reverse", "reverse-over-reverse"]
ALL = [*EXACT, "finite-difference"]


def cubic(x: Tensor) -> Tensor:
    return (x**3).sum() + x.prod()


def cubic_hessian(x: Tensor) -> Tensor:
    off = x.prod() / torch.outer(x, x)
    return torch.diag(6 * x) + off - off.diag().diag()


def mixed(x: Tensor, y: Tensor) -> Tensor:
    """Σx³ Σy + Σy²: blocks in closed form below."""
    return (x**3).sum() * y.sum() + (y * y).sum()


def mixed_blocks(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    xy = (3 * x**2)[:, None, None].expand(x.numel(), *y.shape)
    eye = torch.eye(y.numel(), dtype=y.dtype).reshape(*y.shape, *y.shape)
    return {"xx": torch.diag(6 * x) * y.sum(), "xy": xy, "yx": xy.permute(1, 2, 0), "yy": 2 * eye}


B = mixed_blocks(X, Y)


def assert_tree(got: Any, expected: Any, tolerance: float = 1e-12) -> None:
    """Same containers, shapes, dtypes and numbers."""
    left, left_spec = tree_flatten(got)
    right, right_spec = tree_flatten(expected)
    assert left_spec == right_spec
    for a, b in zip(left, right, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=F64)


# ------------------------------------------------------------------------------------ numbers, two oracles


@pytest.mark.parametrize("chunk_size", ["auto", None, 1, 2, 1000])
@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_equals_the_closed_form(problem: Problem, strategy: str, chunk_size: Any) -> None:
    is_tuple = type(problem.primals) is tuple
    args = problem.primals if is_tuple else (problem.primals,)
    argnums = tuple(range(len(args))) if is_tuple else 0
    got = hessian(problem.func, argnums, strategy=strategy, chunk_size=chunk_size)(*args)
    leaves = tree_leaves(problem.primals)
    sizes, shapes = [x.numel() for x in leaves], [x.shape for x in leaves]
    blocks = [
        block.reshape((*s, *t))
        for row, s in zip(problem.dense.split(sizes), shapes, strict=True)
        for block, t in zip(row.split(sizes, dim=1), shapes, strict=True)
    ]
    found = tree_leaves(got)
    assert [h.shape for h in found] == [b.shape for b in blocks]
    assert relative(found, blocks) < (1e-7 if strategy == "finite-difference" else 1e-13)


@pytest.mark.parametrize("strategy", ALL)
def test_equals_differences_of_gradients(strategy: str) -> None:
    def f(x: Tensor) -> Tensor:
        return (x.sin() @ torch.linalg.inv(torch.eye(3, dtype=F64) + torch.outer(x, x)) @ x.exp()).tanh()

    tolerance = 1e-7 if strategy == "finite-difference" else 1e-10
    assert relative(hessian(f, strategy=strategy)(X), difference_hessian(f, X)) < tolerance


# -------------------------------------------------------------------------------------- the table of shapes


def test_shapes_of_tensor_outputs() -> None:
    diagonal = torch.zeros(3, 3, 3, dtype=F64)
    diagonal[range(3), range(3), range(3)] = -X.sin()
    assert_tree(hessian(torch.sin)(X), diagonal)
    assert_tree(hessian(lambda t: t**3)(X[0]), 6 * X[0])
    assert_tree(hessian(lambda x: cubic(x)[None])(X), cubic_hessian(X)[None])
    pair = lambda x: torch.stack([cubic(x), x.sin().sum()])  # noqa: E731
    assert_tree(hessian(pair)(X), torch.stack([cubic_hessian(X), torch.diag(-X.sin())]))
    assert_tree(hessian(lambda y: (y * y).sum())(Y), B["yy"])
    matrix = hessian(lambda y: y[:, :2] ** 2)(Y)
    assert matrix.shape == (2, 2, 2, 4, 2, 4)
    assert float(matrix[1, 0, 1, 0, 1, 0]) == pytest.approx(2.0, rel=1e-14)
    assert float(matrix.abs().sum()) == pytest.approx(8.0, rel=1e-14)


def test_argnums() -> None:
    h = lambda argnums: hessian(mixed, argnums)(X, Y)  # noqa: E731
    assert_tree(h(0), B["xx"])
    assert_tree(h(1), B["yy"])
    assert_tree(h(True), B["yy"])
    assert_tree(h((0, 1)), ((B["xx"], B["xy"]), (B["yx"], B["yy"])))
    assert_tree(h((1, 0)), ((B["yy"], B["yx"]), (B["xy"], B["xx"])))
    assert_tree(h((0,)), ((B["xx"],),))
    assert_tree(h((1,)), ((B["yy"],),))


@pytest.mark.parametrize(("negative", "positive"), [(-1, 1), (-2, 0), ((-1, 0), (1, 0)), ((-1,), (1,))])
def test_negative_argnums_count_from_the_end(negative: Any, positive: Any) -> None:
    assert_tree(hessian(mixed, negative)(X, Y), hessian(mixed, positive)(X, Y))
    assert float(hessian(mixed, -1)(X, Y).abs().max()) > 1, "torch.func.hessian gives zeros"


def test_containers_of_the_arguments() -> None:
    of_dict = lambda d: mixed(d["b"], d["w"])  # noqa: E731
    rows = {"w": {"w": B["yy"], "b": B["yx"]}, "b": {"w": B["xy"], "b": B["xx"]}}
    assert_tree(hessian(of_dict)({"w": Y, "b": X}), rows)
    ordered = hessian(of_dict)(OrderedDict(w=Y, b=X))
    assert type(ordered) is OrderedDict and type(ordered["w"]) is OrderedDict
    assert_tree(
        ordered, OrderedDict(w=OrderedDict(w=B["yy"], b=B["yx"]), b=OrderedDict(w=B["xy"], b=B["xx"]))
    )
    assert_tree(hessian(lambda t: mixed(*t))([X, Y]), [[B["xx"], B["xy"]], [B["yx"], B["yy"]]])
    assert_tree(hessian(lambda t: mixed(*t))((X, Y)), ((B["xx"], B["xy"]), (B["yx"], B["yy"])))
    named = hessian(lambda p: mixed(p.b, p.w))(Point(w=Y, b=X))
    assert_tree(named, Point(w=Point(w=B["yy"], b=B["yx"]), b=Point(w=B["xy"], b=B["xx"])))
    nested = hessian(lambda t: mixed(t["n"][0]["x"], t["y"]))({"n": [{"x": X}], "y": Y})
    assert_tree(nested["n"][0]["x"], {"n": [{"x": B["xx"]}], "y": B["xy"]})


def test_the_tuple_of_argnums_lies_outside_the_containers() -> None:
    got = hessian(lambda d, z: d["k"].pow(2).sum() * z.sum(), (0, 1))({"k": X}, Y)
    ones = torch.ones_like(Y)
    cross = (2 * X)[:, None, None] * ones
    assert_tree(got[0]["k"], ({"k": 2 * torch.eye(3, dtype=F64) * Y.sum()}, cross))
    assert_tree(got[1], ({"k": cross.permute(1, 2, 0)}, zeros(2, 4, 2, 4)))


def test_containers_of_the_output_lie_outermost() -> None:
    def outputs(x: Tensor, y: Tensor) -> dict[str, Any]:
        return {"l": mixed(x, y), "v": [x**2, (x.sum() * y[0],)]}

    both = hessian(outputs, (0, 1))(X, Y)
    assert_tree(both["l"], ((B["xx"], B["xy"]), (B["yx"], B["yy"])))
    squares = torch.zeros(3, 3, 3, dtype=F64)
    squares[range(3), range(3), range(3)] = 2
    assert_tree(both["v"][0], ((squares, zeros(3, 3, 2, 4)), (zeros(3, 2, 4, 3), zeros(3, 2, 4, 2, 4))))
    cross = torch.zeros(4, 3, 2, 4, dtype=F64)
    cross[range(4), :, 0, range(4)] = 1
    assert_tree(both["v"][1][0][0][1], cross)
    one = hessian(lambda x: (cubic(x), {"s": x.sum()}))(X)
    assert_tree(one, (cubic_hessian(X), {"s": zeros(3, 3)}))


def test_empty_independent_linear_and_detached() -> None:
    nothing = torch.empty(0, dtype=F64)
    assert_tree(hessian(lambda x: x.sum())(nothing), zeros(0, 0))
    assert_tree(
        hessian(lambda x, e: cubic(x) + e.sum(), (0, 1))(X, nothing)[0], (cubic_hessian(X), zeros(3, 0))
    )
    assert hessian(lambda x: x[:0] ** 2)(X).shape == (0, 3, 3)
    for func in (lambda x: torch.ones((), dtype=F64), lambda x: x.sum(), lambda x: (x.detach() ** 2).sum()):
        assert_tree(hessian(func)(X), zeros(3, 3))
    assert_tree(hessian(lambda x: torch.ones(2, dtype=F64))(X), zeros(2, 3, 3))
    assert_tree(hessian(lambda x, y: cubic(x), (0, 1))(X, Y)[1], (zeros(2, 4, 3), zeros(2, 4, 2, 4)))


def test_other_arguments_may_be_anything() -> None:
    def func(
        scale: float, x: Tensor, mode: str, flags: dict[str, Any] | None = None, *, power: int = 2
    ) -> Tensor:
        assert mode == "sum"
        return scale * (x**power).sum() * (flags or {}).get("factor", 1)

    assert_tree(hessian(func, 1)(3.0, X, "sum"), 6 * torch.eye(3, dtype=F64))
    assert_tree(hessian(func, 1)(3.0, X, mode="sum"), 6 * torch.eye(3, dtype=F64))
    assert_tree(hessian(func, 1)(3.0, X, "sum", power=3), torch.diag(18 * X))
    assert_tree(hessian(func, 1)(3.0, X, mode="sum", flags={"factor": 2}, power=3), torch.diag(36 * X))


def test_metadata_of_the_function() -> None:
    def loss(x: Tensor) -> Tensor:
        """Words."""
        return x.sum()

    wrapped = hessian(loss)
    assert (wrapped.__name__, wrapped.__doc__, wrapped.__wrapped__) == ("loss", "Words.", loss)


def test_has_aux() -> None:
    got, aux = hessian(lambda x: (cubic(x), {"twice": 2 * x, "n": 3}), has_aux=True)(X)
    assert_tree(got, cubic_hessian(X))
    assert torch.equal(aux["twice"], 2 * X) and aux["n"] == 3
    got, aux = vmap(hessian(lambda x: (cubic(x), x + 1), has_aux=True))(X.repeat(2, 1))
    assert_tree(got, cubic_hessian(X).repeat(2, 1, 1))
    assert torch.equal(aux, X.repeat(2, 1) + 1)
    with pytest.raises(OutputError, match=r"func must return \(output, aux\) with has_aux=True, got Tensor"):
        hessian(cubic, has_aux=True)(X)


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("argnums", "text"),
    [
        ((0, 0), "argnums elements must be unique"),
        ((0, -2), "argnums elements must be unique"),
        ((), "argnums must be non-empty"),
        (5, "Got argnum=5, but only 2 positional inputs"),
        (-3, "Got argnum=-3, but only 2 positional inputs"),
        ((0, 2), "Got argnum=2, but only 2 positional inputs"),
        ([0], r"argnums must be int or Tuple\[int, ...\]"),
        (None, r"argnums must be int or Tuple\[int, ...\]"),
        ("0", r"argnums must be int or Tuple\[int, ...\]"),
        ((0, "1"), r"argnums must be int or Tuple\[int, ...\]"),
    ],
)
def test_bad_argnums_raise_what_torch_raises(argnums: Any, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        hessian(mixed, argnums)(X, Y)


@pytest.mark.parametrize(
    ("func", "args", "kind", "text"),
    [
        (lambda x: 1.0, (X,), RuntimeError, r"got float \(expected f\(\*primals\) to return only tensors\)"),
        (
            lambda x: None,
            (X,),
            RuntimeError,
            "return only tensors of real floating point numbers, got NoneType",
        ),
        (lambda x: (cubic(x), 3), (X,), RuntimeError, "got int"),
        (lambda x: x.long(), (X,), RuntimeError, "got torch.int64"),
        (lambda x: x + 0j, (X,), RuntimeError, "got torch.complex128"),
        (
            cubic,
            (torch.ones(3, dtype=torch.int64),),
            ValueError,
            "primals must be floating point, got torch.int64",
        ),
        (lambda d: d["a"].sum(), ({"a": X, "b": 3},), TypeError, r"primals\['b'\] must be a tensor, got int"),
        (
            lambda d: d["a"].sum(),
            ({"a": X, "b": "s"},),
            TypeError,
            r"primals\['b'\] must be a tensor, got str",
        ),
        (cubic, (X.to(torch.complex64),), RuntimeError, "all arguments must be real, got a complex tensor"),
        (lambda x, c: cubic(x), (X, [torch.ones(1) * 1j]), RuntimeError, "all arguments must be real"),
        (cubic, (X.to("meta"),), ValueError, "meta device"),
        (cubic, (X.to_sparse(),), ValueError, "must be dense"),
        (lambda d: cubic(X), ({},), ValueError, "empty pytree"),
    ],
)
def test_bad_arguments_and_outputs(func: Any, args: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        hessian(func)(*args)


def test_complex_intermediates_are_fine() -> None:
    got = hessian(lambda x: torch.fft.fft(x).abs().square().sum())(X)
    assert_tree(got, 6 * torch.eye(3, dtype=F64), 1e-12)


@pytest.mark.parametrize("chunk_size", [0, -1, 1.5, "all", True and "AUTO"])
def test_bad_chunk_size(chunk_size: Any) -> None:
    with pytest.raises(ValueError, match='chunk_size must be "auto", None or a positive int, got'):
        hessian(cubic, chunk_size=chunk_size)


def test_extra_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        hessian(cubic, 0, 4)  # type: ignore[misc]


# ------------------------------------------------------------------------------------- dtypes and grad mode


def test_rows_decide_the_dtype() -> None:
    tree = {"a": X.float(), "b": Y}
    got = hessian(lambda d: mixed(d["a"].double(), d["b"]))(tree)
    assert {k: {j: h.dtype for j, h in row.items()} for k, row in got.items()} == {
        "a": {"a": torch.float32, "b": torch.float32},
        "b": {"a": F64, "b": F64},
    }
    blocks = mixed_blocks(X.float().double(), Y)
    assert relative(got["a"], (blocks["xx"], blocks["xy"])) < 1e-6
    assert relative(got["b"], (blocks["yx"], blocks["yy"])) < 1e-6


def test_rows_decide_the_dtype_in_other_ways_too() -> None:
    """For vectors, in transforms, with a graph, and where the shorter side is pushed."""
    func = lambda d: mixed(d["a"].double(), d["b"])  # noqa: E731
    tree = {"a": X.float(), "b": Y}
    batched = vmap(hessian(func))(tree_map(lambda t: t[None], tree))
    vector = hessian(lambda d: torch.stack([func(d), func(d)]))(tree)
    connected = hessian(func)(tree_map(lambda t: t.clone().requires_grad_(), tree))
    part = hessian(func, columns="a")(tree)
    for got in (batched, vector, connected, part):
        assert got["a"]["a"].dtype == torch.float32 and got["b"]["a"].dtype == F64


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize("strategy", EXACT)
def test_lower_precision_is_kept(dtype: torch.dtype, tolerance: float, strategy: str) -> None:
    x = torch.tensor([0.5, -0.75, 1.25], dtype=dtype)
    got = hessian(cubic, strategy=strategy)(x)
    assert got.dtype == dtype
    assert relative(got, cubic_hessian(x.double())) < tolerance


def test_the_dtype_of_the_output_does_not_matter() -> None:
    assert hessian(lambda x: cubic(x).float())(X).dtype == F64
    assert hessian(lambda x: cubic(x).double())(X.float()).dtype == torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_around_is_ignored(mode: Any) -> None:
    with mode():
        assert_tree(hessian(cubic)(X), cubic_hessian(X))
        assert_tree(hessian(torch.sin)(X)[0, 0, 0], -X[0].sin())


@pytest.mark.parametrize("strategy", EXACT)
def test_a_no_grad_block_inside_is_respected(strategy: str) -> None:
    def func(x: Tensor) -> Tensor:
        with torch.no_grad():
            factor = (x**2).sum()
        return factor * (x**2).sum()

    assert_tree(hessian(func, strategy=strategy)(X), 2 * (X @ X) * torch.eye(3, dtype=F64))


def test_graph_to_the_arguments_and_to_captured_tensors() -> None:
    x = X.clone().requires_grad_()
    a = torch.tensor(2.0, dtype=F64, requires_grad=True)
    for strategy in EXACT:
        got = hessian(lambda x: a * (x**4).sum(), strategy=strategy)(x)
        gx, ga = torch.autograd.grad(got.sum(), (x, a))
        assert_tree(got.detach(), torch.diag(24 * X**2))
        assert_tree(gx, 48 * X)
        assert relative(ga, 12 * (X**2).sum()) < 1e-12
        only = hessian(lambda x: a * (x**4).sum(), strategy=strategy)(X)
        assert relative(torch.autograd.grad(only.sum(), a), 12 * (X**2).sum()) < 1e-12
    assert not hessian(cubic)(X).requires_grad
    with torch.no_grad():
        assert not hessian(cubic)(x).requires_grad


# ------------------------------------------------------------------------------------------- composability


@pytest.mark.parametrize("strategy", EXACT)
def test_under_vmap(strategy: str) -> None:
    points = normal(7, 3, seed=42)
    expected = torch.stack([cubic_hessian(x) for x in points])
    assert_tree(vmap(hessian(cubic, strategy=strategy))(points), expected)
    assert_tree(vmap(hessian(cubic, strategy=strategy, chunk_size=2))(points), expected)
    (xx, xy), (yx, yy) = vmap(hessian(mixed, (0, 1), strategy=strategy), in_dims=(0, None))(points, Y)
    blocks = [mixed_blocks(x, Y) for x in points]
    for got, name in ((xx, "xx"), (xy, "xy"), (yx, "yx"), (yy, "yy")):
        assert_tree(got, torch.stack([b[name] for b in blocks]))


@pytest.mark.parametrize("strategy", EXACT)
def test_under_grad_and_jvp(strategy: str) -> None:
    quartic_diagonal = hessian(lambda x: (x**4).sum(), strategy=strategy)
    assert_tree(grad(lambda x: quartic_diagonal(x).sum())(X), 24 * X)
    value, tangent = jvp(quartic_diagonal, (X,), (Y[0, :3],))
    assert_tree(value, torch.diag(12 * X**2))
    assert_tree(tangent, torch.diag(24 * X * Y[0, :3]))


def test_hessian_of_a_hessian() -> None:
    fourth = torch.zeros(3, 3, 3, 3, dtype=F64)
    fourth[range(3), range(3), range(3), range(3)] = 24
    assert_tree(hessian(hessian(lambda x: (x**4).sum()))(X), fourth)


def test_hessian_inside_a_product_and_the_other_way() -> None:
    v = Y[0, :3].clone()
    trace = lambda x: hessian(lambda x: (x**4).sum())(x).diagonal().sum()  # noqa: E731
    assert_tree(hvp(trace, X, v), 24 * v)
    assert_tree(hessian(lambda x: v @ hvp(lambda x: (x**4).sum(), x, v))(X), torch.diag(24 * v * v))


def test_partial_hessians_under_vmap() -> None:
    points = normal(5, 3, seed=43)
    got = vmap(hessian(cubic, rows=[2], columns=[0, 1]))(points)
    assert_tree(got, torch.stack([cubic_hessian(x)[2:, :2] for x in points]))


# ------------------------------------------------------------------------------------------- partial Hessians

TREE = {"w": Y, "b": X}
DENSE = torch.cat(
    [
        torch.cat([B["yy"].reshape(8, 8), B["yx"].reshape(8, 3)], 1),
        torch.cat([B["xy"].reshape(3, 8), B["xx"]], 1),
    ]
)


def of_tree(t: dict[str, Tensor]) -> Tensor:
    return mixed(t["b"], t["w"])


@pytest.mark.parametrize("strategy", ALL)
@pytest.mark.parametrize(
    ("rows", "columns", "picked"),
    [
        ([0, 9, 2], slice(1, 3), DENSE[[0, 9, 2]][:, 1:3]),
        (slice(None, None, 3), [10], DENSE[::3][:, [10]]),
        (torch.tensor([-1, 0]), torch.tensor([4, 4]), DENSE[[-1, 0]][:, [4, 4]]),
        ([10, 3, 3], range(11), DENSE[[10, 3, 3]]),
        (slice(0, 11), slice(7, 9), DENSE[:, 7:9]),
        (slice(0, 0), slice(2, 4), DENSE[:0, 2:4]),
        ([3], slice(0, 0), DENSE[[3], :0]),
    ],
)
def test_rows_and_columns_by_index(rows: Any, columns: Any, picked: Tensor, strategy: str) -> None:
    got = hessian(of_tree, rows=rows, columns=columns, strategy=strategy)(TREE)
    assert_tree(got, picked, 1e-6 if strategy == "finite-difference" else 1e-12)


def test_rows_by_index_and_all_columns_in_their_containers() -> None:
    rows = hessian(of_tree, rows=[0, 9, 2])(TREE)
    assert_tree(rows, {"w": DENSE[[0, 9, 2], :8].reshape(3, 2, 4), "b": DENSE[[0, 9, 2], 8:]})
    columns = hessian(of_tree, columns=[0, 9])(TREE)
    assert_tree(columns, {"w": DENSE[:8][:, [0, 9]].reshape(2, 4, 2), "b": DENSE[8:][:, [0, 9]]})


@pytest.mark.parametrize("strategy", EXACT)
def test_rows_and_columns_by_path(strategy: str) -> None:
    h = lambda **sides: hessian(of_tree, strategy=strategy, **sides)(TREE)  # noqa: E731
    assert_tree(h(rows="b", columns="w"), {"b": {"w": B["xy"]}})
    assert_tree(h(rows="w", columns="b"), {"w": {"b": B["yx"]}})
    assert_tree(h(columns="b"), {"w": {"b": B["yx"]}, "b": {"b": B["xx"]}})
    assert_tree(h(rows=["b", "w"], columns=[8]), {"b": B["xx"][:, :1], "w": B["yx"][..., :1]})


def test_paths_into_nested_arguments_and_patterns() -> None:
    tree = {"layers": [{"weight": Y, "bias": X}, {"weight": Y + 1, "bias": X + 1}]}
    func = lambda t: mixed(t["layers"][0]["bias"], t["layers"][1]["weight"])  # noqa: E731
    got = hessian(func, rows="layers.0.bias", columns="*.weight")(tree)
    assert list(got) == ["layers.0.bias"] and list(got["layers.0.bias"]) == [
        "layers.0.weight",
        "layers.1.weight",
    ]
    assert_tree(got["layers.0.bias"]["layers.1.weight"], B["xy"])
    assert float(got["layers.0.bias"]["layers.0.weight"].abs().max()) == 0
    assert_tree(hessian(mixed, (0, 1), rows="1", columns="0")(X, Y), {"1": {"0": B["yx"]}})


def test_parts_of_vector_valued_functions() -> None:
    vector = lambda t: torch.stack([of_tree(t), 2 * of_tree(t)])  # noqa: E731
    cycle = [9, 0, 3]  # no permutation that is its own inverse
    assert_tree(hessian(vector, rows=cycle, columns=range(11))(TREE)[1], 2 * DENSE[cycle])
    assert_tree(hessian(vector, rows=range(11), columns=cycle)(TREE)[0], DENSE[:, cycle])
    got = hessian(vector, rows=[9, 0], columns=[1])(TREE)
    assert_tree(got, torch.stack([DENSE[[9, 0]][:, [1]], 2 * DENSE[[9, 0]][:, [1]]]))
    assert_tree(hessian(vector, rows="w", columns="b")(TREE)["w"]["b"], torch.stack([B["yx"], 2 * B["yx"]]))


def test_a_part_costs_the_part() -> None:
    """One row of 400 is one product, not 400: told by the calls of func where nothing is kept."""
    calls = 0

    def func(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (x**3).sum()

    x = normal(400)
    rows = hessian(func, rows=[7], strategy="finite-difference")(x)
    assert_tree(rows, torch.nn.functional.pad((6 * x[7])[None], (7, 392))[None], 1e-7)
    few = calls
    hessian(func, columns=[7, 9], strategy="finite-difference")(x)
    assert few < 60 and calls - few < 2 * 60


@pytest.mark.parametrize(
    ("choice", "kind", "text"),
    [
        ("c", ValueError, "no tensor of the primals is called 'c'; there are w, b"),
        (["w", "x*"], ValueError, r"is called 'x\*'"),
        ([11], IndexError, r"must lie in \[-11, 11\)"),
        ([-12], IndexError, r"must lie in \[-11, 11\)"),
        ([0.5], TypeError, r"must be None, a path or pattern .* indices into the 11 flattened"),
        ([True, False], TypeError, "must be None, a path"),
        (3, TypeError, "must be None, a path"),
        (slice(None, None, -1), TypeError, "a slice with a positive step"),
        ([[0, 1]], TypeError, "must be None, a path"),
    ],
)
@pytest.mark.parametrize("side", ["rows", "columns"])
def test_bad_parts(side: str, choice: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=f"{side}.*{text}"):
        hessian(of_tree, **{side: choice})(TREE)


# ----------------------------------------------------------------- where torch.func.hessian is silently wrong


def _network(norm: nn.Module) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2)).double()
    data = normal(5, 3, seed=44)
    p = {name: q.detach() for name, q in net.named_parameters()}
    return (lambda p: functional_call(net, p, (data,)).pow(2).sum()), p


def _matrix(tree: Any, names: list[str]) -> Tensor:
    sizes = {k: tree[k][k].numel() ** 0.5 for k in names}
    return torch.cat(
        [torch.cat([tree[i][j].reshape(int(sizes[i]), int(sizes[j])) for j in names], 1) for i in names]
    )


@pytest.mark.parametrize("strategy", EXACT)
@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)],
    ids=["LayerNorm", "BatchNorm", "BatchNorm without statistics"],
)
def test_normalisation_agrees_with_differences_of_gradients(norm: nn.Module, strategy: str) -> None:
    func, p = _network(norm)
    truth = difference_hessian(func, p, step=1e-3)
    assert relative(_matrix(hessian(func, strategy=strategy)(p), list(p)), truth) < 1e-7


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.BatchNorm1d(4, track_running_stats=False)],
                         ids=["LayerNorm", "BatchNorm"])  # fmt: skip
def test_torch_falls_into_that_trap(norm: nn.Module) -> None:
    """If this fails torch has mended it: the test above is then no regression test of the trap any more."""
    func, p = _network(norm)
    truth = difference_hessian(func, p, step=1e-3)
    assert relative(_matrix(torch.func.hessian(func)(p), list(p)), truth) > 1e-3


def test_normalisation_under_vmap() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1)).double()
    func = lambda x: functional_call(net, dict(net.named_parameters()), (x,)).sum()  # noqa: E731
    points = normal(4, 3, seed=45)
    with torch.no_grad():
        got = vmap(hessian(func))(points)
    for h, x in zip(got, points, strict=True):
        assert relative(h, difference_hessian(func, x, step=1e-3)) < 1e-7


@pytest.mark.parametrize("where", ["plain", "vmap", "grad wanted"])
@pytest.mark.parametrize("strategy", EXACT)
def test_inputs_whose_elements_share_memory(strategy: str, where: str) -> None:
    number = torch.tensor([0.7], dtype=F64, requires_grad=where == "grad wanted")
    expected = cubic_hessian(torch.full((3,), 0.7, dtype=F64))
    h = hessian(cubic, strategy=strategy)
    if where == "vmap":
        got = vmap(h)(number.expand(2, 3))[0]
        assert_tree(vmap(lambda s, x: s * h(x), in_dims=(0, None))(X, number.expand(3))[1], X[1] * expected)
    else:
        got = h(number.expand(3))
    assert_tree(got.detach(), expected)


@pytest.mark.parametrize("where", ["plain", "grad wanted"])
@pytest.mark.parametrize("strategy", EXACT)
def test_overlapping_windows(strategy: str, where: str) -> None:
    x = normal(4).requires_grad_(where == "grad wanted").as_strided((3, 2), (1, 1))
    got = hessian(lambda x: cubic(x.reshape(-1)), strategy=strategy)(x)
    assert_tree(got.detach().reshape(6, 6), cubic_hessian(x.detach().reshape(-1)))


# --------------------------------------------------------------------------- where torch.func.hessian refuses


def test_dropout_sees_one_noise_everywhere() -> None:
    torch.manual_seed(9)
    state = torch.get_rng_state()
    mask = F.dropout(torch.ones(3, dtype=F64), 0.5)
    torch.set_rng_state(state)
    got = hessian(lambda x: (F.dropout(x, 0.5) ** 3).sum())(X)
    assert_tree(got, torch.diag(6 * X * mask**3))
    assert torch.equal(torch.get_rng_state(), state)
    vector = hessian(lambda x: F.dropout(x, 0.5) ** 3)(X)
    assert_tree(vector.sum(0), torch.diag(6 * X * mask**3))
    connected = hessian(lambda x: (F.dropout(x, 0.5) ** 3).sum())(X.clone().requires_grad_())
    assert_tree(connected.detach(), torch.diag(6 * X * mask**3))


@pytest.mark.parametrize("chunk_size", ["auto", 1])
def test_custom_functions_without_forward_mode(chunk_size: Any) -> None:
    assert_tree(hessian(lambda x: Cube.apply(x).sum(), chunk_size=chunk_size)(X), torch.diag(6 * X))
    assert_tree(hessian(Cube.apply, chunk_size=chunk_size)(X), torch.diag_embed(torch.diag(6 * X)))


def test_custom_functions_that_forget_a_derivative_are_refused() -> None:
    for func in (lambda x: CutCube.apply(x).sum(), CutCube.apply):
        with pytest.raises(DerivativeError, match=r"custom torch\.autograd\.Function"):
            hessian(func)(X)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing(reentrant: bool) -> None:
    got = hessian(lambda x: checkpoint(cubic, x, use_reentrant=reentrant))(X)
    assert_tree(got, cubic_hessian(X))


def test_attention() -> None:
    q = normal(1, 2, 3, 4, seed=46)
    func = lambda x: F.scaled_dot_product_attention(x, q, q).pow(2).sum()  # noqa: E731

    def reference(x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return func(x)

    truth = difference_hessian(reference, q, step=1e-3)
    assert relative(hessian(func)(q).reshape(24, 24), truth) < 1e-9


@pytest.mark.parametrize("loss", [F.mse_loss, F.huber_loss, F.soft_margin_loss], ids=lambda f: f.__name__)
def test_losses_without_forward_mode(loss: Any) -> None:
    target = torch.tensor([1.0, -1.0, 1.0], dtype=F64)
    assert (
        relative(hessian(lambda x: loss(x, target))(X), difference_hessian(lambda x: loss(x, target), X))
        < 1e-9
    )


def test_writing_into_fresh_buffers_and_clones() -> None:
    def func(x: Tensor) -> Tensor:
        buffer = torch.zeros(3, dtype=F64)
        buffer[0] = x[0] ** 3
        return (buffer + x.clone().mul_(x)).sum() + torch.zeros(3, dtype=F64).copy_(x**2).sum()

    expected = torch.diag(torch.full((3,), 4.0, dtype=F64))
    expected[0, 0] += 6 * X[0]
    assert_tree(hessian(func)(X), expected)


def test_writing_into_an_argument_is_refused_as_torch_does() -> None:
    x = X.clone()
    with pytest.raises(RuntimeError, match="in-place"):
        hessian(lambda x: x.mul_(2).pow(2).sum())(x)
    assert torch.equal(x, X)


def test_control_flow_that_depends_on_values() -> None:
    def func(x: Tensor) -> Tensor:
        positive = x[x > 0]
        return (positive**3).sum() if x.sum().item() > -100 else x.sum()

    assert_tree(hessian(func)(X), torch.diag(6 * X.clamp(min=0)))


@pytest.mark.parametrize(
    "func", [F.relu, lambda x: x.norm(), lambda x: x.abs().max()], ids=["relu", "norm", "max"]
)
def test_conventions_at_kinks_are_those_of_torch(func: Any) -> None:
    x = torch.zeros(3, dtype=F64)
    assert_tree(hessian(func)(x), torch.func.hessian(func)(x))


def test_nothing_is_symmetrised() -> None:
    """H[i][j] is the derivative of the i-th entry of the gradient, also where that is no gradient."""
    x = torch.tensor([2.0, 3.0], dtype=F64)
    got = hessian(NoGradientField.apply, strategy="reverse-over-reverse")(x)
    assert_tree(got, torch.tensor([[0.0, 6.0], [0.0, 0.0]], dtype=F64))


# -------------------------------------------------------------------------------------------------- memory


def test_refuses_with_numbers_before_it_allocates() -> None:
    with pytest.raises(MemoryError) as info:
        hessian(lambda x: (x**2).sum())(torch.zeros(10_000_000))
    text = str(info.value)
    assert "the dense Hessian (10000000 x 10000000) of 1 output(s) needs 363.8 TiB" in text
    assert "are free on cpu; use hvplib.HessianOperator, which never forms it" in text
    assert "rows= or columns=" in text


def test_a_part_of_what_does_not_fit() -> None:
    x = torch.arange(1_000_000.0, dtype=F64)
    got = hessian(lambda x: (x**3).sum(), rows=[5, 7], columns=[7, 5, 0])(x)
    assert_tree(got, torch.tensor([[0.0, 30.0, 0.0], [42.0, 0.0, 0.0]], dtype=F64))


def test_backs_off_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks wider than two fail as torch's allocator on the CPU does; the answer comes all the same."""
    from hvplib.ad.engines import GraphEngine

    widths: list[int] = []
    rows = GraphEngine.rows

    def starved(self: GraphEngine, leaf: int, vectors: Tensor) -> Any:
        widths.append(len(vectors))
        if len(vectors) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return rows(self, leaf, vectors)

    def starved_batch(_self: GraphEngine, tangents: Any) -> Any:
        widths.append(len(tangents[0]))
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(GraphEngine, "rows", starved)
    monkeypatch.setattr(GraphEngine, "batch", starved_batch)
    x = normal(9, seed=47)
    assert_tree(hessian(cubic, chunk_size=None)(x), cubic_hessian(x))
    assert widths.pop(0) == 10  # all rows and one more vector, at once
    assert widths.pop(0) == 2  # that vector beside another
    assert widths[:4] == [9, 4, 2, 2] and sum(w for w in widths if w <= 2) == 9


def test_gives_up_when_a_single_vector_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from hvplib.ad.engines import GraphEngine

    def starved(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(GraphEngine, "rows", starved)
    monkeypatch.setattr(GraphEngine, "batch", starved)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        hessian(cubic)(X)


def test_auto_chunks_follow_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    from hvplib.ad import mirrored

    widths: list[int] = []
    mapped = mirrored.mapped

    def watched(func: Any, tensors: Any) -> Any:
        widths.append(len(tensors[0]))
        return mapped(func, tensors)

    monkeypatch.setattr(mirrored, "mapped", watched)
    x = normal(600, seed=48)
    expected = torch.diag(6 * x)
    assert_tree(hessian(lambda x: (x**3).sum())(x), expected)
    assert widths == [600]
    widths.clear()
    monkeypatch.setitem(memory._CHUNK_BYTES, "cpu", 2**17)
    assert_tree(hessian(lambda x: (x**3).sum())(x), expected)
    assert sum(widths) == 600 and max(widths) < 100
    assert max(widths) * x.numel() * x.element_size() <= 2**17


def test_chunk_size_bounds_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    kept = torch.func.vmap

    def watched(func: Any, *args: Any, **kwargs: Any) -> Any:
        inner = kept(func, *args, **kwargs)
        return lambda *a: seen.append(a[-1].shape[0]) or inner(*a)

    monkeypatch.setattr(torch.func, "vmap", watched)
    x = normal(7, seed=49)
    assert_tree(hessian(cubic, chunk_size=3, strategy="forward-over-reverse")(x), cubic_hessian(x))
    assert seen == [3, 3, 1]


# --------------------------------------------------------------------------------------------- side effects


def test_nothing_of_the_user_changes() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.4), nn.Linear(4, 1)).double().train()
    before = {k: t.clone() for k, t in net.state_dict().items()}
    state = torch.get_rng_state()
    p = dict(net.named_parameters())
    hessian(lambda p: functional_call(net, p, (normal(6, 3),)).square().mean())(p)
    assert all(torch.equal(net.state_dict()[k], t) for k, t in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training and all(q.grad is None and q.requires_grad for q in net.parameters())


def test_equal_calls_are_bitwise_equal() -> None:
    func, p = _network(nn.LayerNorm(4))
    first = flat(hessian(func)(p))
    assert all(torch.equal(flat(hessian(func)(p)), first) for _ in range(8))
