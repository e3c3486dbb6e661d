"""Bad input of every kind gets one clear error; contexts around the call change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor, nn

import hvplib

X = torch.tensor([0.5, -0.3, 0.8], dtype=torch.float64)
V = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)


def quartic(x: Tensor) -> Tensor:
    return (x**4).sum() + x.sum() ** 3


PRODUCT = 12 * X**2 * V + 6 * X.sum() * V.sum()

# name, primal, error, pattern that names what came and the remedy
BAD_PRIMALS: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    ("integer", lambda: torch.arange(3), ValueError, r"primals.*floating point.*int64.*convert"),
    (
        "boolean",
        lambda: torch.ones(3, dtype=torch.bool),
        ValueError,
        r"primals.*floating point.*bool.*convert",
    ),
    (
        "complex",
        lambda: torch.ones(3, dtype=torch.complex64),
        RuntimeError,
        r"primals.*real.*complex64.*view_as_real",
    ),
    ("sparse coo", lambda: torch.eye(3).to_sparse(), ValueError, r"primals.*dense.*sparse_coo.*to_dense"),
    ("sparse csr", lambda: torch.eye(3).to_sparse_csr(), ValueError, r"primals.*dense.*sparse_csr.*to_dense"),
    ("meta", lambda: torch.ones(3, device="meta"), ValueError, r"primals.*meta.*materialise"),
    (
        "lazy",
        lambda: nn.LazyLinear(3).weight,
        ValueError,
        r"primals.*uninitialised lazy parameter.*run the module",
    ),
    ("float", lambda: 1.0, TypeError, r"primals.*tensor.*float"),
    ("numpy", lambda: np.ones(3), TypeError, r"primals.*tensor.*ndarray"),
    ("none", lambda: None, TypeError, r"primals.*tensor.*NoneType"),
    ("inside a dict", lambda: {"a": X, "b": [torch.arange(3)]}, ValueError, r"primals\['b'\]\[0\].*int64"),
    ("nothing", lambda: {}, ValueError, r"primals.*at least one tensor"),
    ("no argument", lambda: (), ValueError, r"primals.*at least one tensor"),
]


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)", "ignore:Lazy modules")
@pytest.mark.parametrize(
    ("make", "error", "pattern"), [pytest.param(*row[1:], id=row[0]) for row in BAD_PRIMALS]
)
def test_bad_primals(make: Callable[[], Any], error: type[Exception], pattern: str) -> None:
    x = make()
    with pytest.raises(error, match=pattern):
        hvplib.hvp(lambda *_: X.sum(), x, x)
    with pytest.raises(error, match=pattern):
        hvplib.local_model(lambda *_: X.sum(), x)
    with pytest.raises(error, match=pattern):
        hvplib.check_hvp(lambda *_: X.sum(), x)


BAD_TANGENTS: list[tuple[str, Any, type[Exception], str]] = [
    ("other float dtype", V.float(), ValueError, r"dtype.*float64.*float32.*never mixed"),
    ("integers", torch.ones(3, dtype=torch.int64), ValueError, r"dtype.*float64.*int64"),
    ("complex", V.to(torch.complex128), ValueError, r"dtype.*float64.*complex128"),
    ("other shape", torch.ones(4, dtype=torch.float64), ValueError, r"shape.*\(3,\).*\(4,\)"),
    ("that would broadcast", torch.ones(1, dtype=torch.float64), ValueError, r"shape.*\(3,\).*\(1,\)"),
    ("other structure", [V], ValueError, r"structure"),
    ("more leaves", (V, V), ValueError, r"structure"),
    ("numpy", np.ones(3), TypeError, r"tensor.*ndarray.*as_tensor"),
    ("float", 1.0, TypeError, r"tensor.*float"),
    ("other device", torch.ones(3, dtype=torch.float64, device="meta"), ValueError, r"device.*cpu.*meta"),
]


@pytest.mark.parametrize(
    ("v", "error", "pattern"), [pytest.param(*row[1:], id=row[0]) for row in BAD_TANGENTS]
)
def test_bad_tangents(v: Any, error: type[Exception], pattern: str) -> None:
    with pytest.raises(error, match=rf"(?s)^tangents.*{pattern}"):
        hvplib.hvp(quartic, X, v)
    with pytest.raises(error, match=rf"(?s)^v\b.*{pattern}"):
        hvplib.local_model(quartic, X).hvp(v)


BAD_OUTPUTS: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("float", lambda x: float(x.detach().sum()), r"scalar tensor, got float"),
    ("none", lambda x: None, r"scalar tensor, got NoneType|scalar tensor, got None"),
    ("numpy", lambda x: x.detach().numpy().sum(), r"scalar tensor, got float64"),
    ("tuple", lambda x: (x.sum(), x), r"scalar tensor, got tuple"),
    ("dict", lambda x: {"loss": x.sum()}, r"scalar tensor, got dict"),
    ("vector", lambda x: x**2, r"scalar, got shape \(3,\).*\.sum\(\)"),
    ("empty", lambda x: x[:0] ** 2, r"scalar, got shape \(0,\)"),
    ("complex", lambda x: x.sum().to(torch.complex128), r"real scalar, got torch.complex128.*real part"),
    ("integer", lambda x: (x > 0).sum(), r"floating point scalar, got torch.int64"),
    ("boolean", lambda x: (x > 0).any(), r"floating point scalar, got torch.bool"),
]


@pytest.mark.parametrize(("func", "pattern"), [pytest.param(*row[1:], id=row[0]) for row in BAD_OUTPUTS])
@pytest.mark.parametrize("strategy", hvplib.ad.inputs.STRATEGIES)
def test_bad_outputs(func: Callable[[Tensor], Any], pattern: str, strategy: str) -> None:
    with pytest.raises(hvplib.OutputError, match=pattern):
        hvplib.hvp(func, X, V, strategy=strategy)
    with pytest.raises(hvplib.OutputError, match=pattern):
        hvplib.local_model(func, X, strategy=strategy).hvp(V)


def test_aux_that_is_missing() -> None:
    with pytest.raises(hvplib.OutputError, match="has_aux"):
        hvplib.local_model(quartic, X, has_aux=True)


def test_unknown_strategy() -> None:
    with pytest.raises(ValueError, match=r"strategy must be one of 'auto'.*got 'reverse-over-forward'"):
        hvplib.hvp(quartic, X, V, strategy="reverse-over-forward")


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("strategy", ["auto", "forward-over-reverse", "reverse-over-reverse"])
def test_context_around_the_call(context: Callable[[], Any], strategy: str) -> None:
    with context():
        product = hvplib.hvp(quartic, X, V, strategy=strategy)
        model = hvplib.local_model(quartic, X, strategy=strategy)
        again = model.hvp(V)
    torch.testing.assert_close(product, PRODUCT, rtol=1e-12, atol=0)
    torch.testing.assert_close(again, PRODUCT, rtol=1e-12, atol=0)
    torch.testing.assert_close(model.hvp(V), PRODUCT, rtol=1e-12, atol=0)
    with context():
        torch.testing.assert_close(model.hvp(V), PRODUCT, rtol=1e-12, atol=0)


def test_inference_tensors_as_primal_and_tangent() -> None:
    with torch.inference_mode():
        x, v = X.clone(), V.clone()
        inside = hvplib.hvp(quartic, x, v)
    torch.testing.assert_close(inside, PRODUCT, rtol=1e-12, atol=0)
    torch.testing.assert_close(hvplib.hvp(quartic, x, v), PRODUCT, rtol=1e-12, atol=0)
    torch.testing.assert_close(hvplib.local_model(quartic, x).hvp(v), PRODUCT, rtol=1e-12, atol=0)


def test_inside_dual_numbers_of_the_user() -> None:
    """Dual numbers do not nest in torch: the product is right all the same, with its own tangent."""
    with fwAD.dual_level():
        plain = hvplib.hvp(quartic, X, V)
        torch.testing.assert_close(plain, PRODUCT, rtol=1e-12, atol=0)
        dual = hvplib.hvp(quartic, fwAD.make_dual(X, V), V)
        primal, tangent = fwAD.unpack_dual(dual)
        torch.testing.assert_close(primal, PRODUCT, rtol=1e-12, atol=0)
        assert tangent is not None, "the third derivative must not be lost"
        torch.testing.assert_close(tangent, 24 * X * V**2 + 6 * V.sum() ** 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_not_finite_stays_not_finite(value: float) -> None:
    x = torch.tensor([0.5, value], dtype=torch.float64)
    product = hvplib.hvp(lambda x: (x**4).sum() * x.sum(), x, torch.ones_like(x))
    assert not product.isfinite().all()


@pytest.mark.parametrize("layout", ["expanded", "transposed", "strided", "negative"])
def test_tangents_of_every_layout(layout: str) -> None:
    base = torch.arange(1.0, 7.0, dtype=torch.float64)
    v = {
        "expanded": lambda: base[:2, None].expand(2, 3),
        "transposed": lambda: base.reshape(3, 2).T,
        "strided": lambda: torch.cat([base, base]).reshape(2, 6)[:, ::2],
        "negative": lambda: torch.complex(base, base).conj().imag.reshape(2, 3),
    }[layout]()
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    expected = 12 * x**2 * v + 6 * x.sum() * v.sum()
    for strategy in ("auto", "forward-over-reverse", "reverse-over-reverse"):
        torch.testing.assert_close(
            hvplib.hvp(quartic, x, v, strategy=strategy), expected, rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(hvplib.local_model(quartic, x).hvp(v), expected, rtol=1e-12, atol=1e-12)
