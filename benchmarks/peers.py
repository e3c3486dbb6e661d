"""The peers' own operators of the digits network's Hessian, and their algorithms on products that are given.

An operator is a product X (n, k) -> H X (n, k), in the order of the model's parameters. Each peer has a copy
of the network of its own, on which it may leave what it likes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.eigenproblems import digits_network, digits_operator

if TYPE_CHECKING:
    from benchmarks.eigensolvers import Products

__all__ = ["OPERATORS", "Product", "curvlinops_of", "eigenthings_of", "in_float64", "pyhessian_of"]

F64 = torch.float64

Product = Callable[[Tensor], Tensor]


# ------------------------------------------------------------------------------------------------ operators


def curvlinops() -> Product:
    from curvlinops import HessianLinearOperator

    model, batch = copy.deepcopy(digits_network())
    A = HessianLinearOperator(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [batch], check_deterministic=False
    )
    return lambda X: A @ X


def eigenthings() -> Product:
    from hessian_eigenthings.operators import HessianOperator

    model, batch = copy.deepcopy(digits_network())
    A = HessianOperator(model, [batch], lambda model, batch: cross_entropy(model(batch[0]), batch[1]))
    return lambda X: _columns(A.matvec, X)


def pyhessian() -> Product:
    from pyhessian import hessian
    from pyhessian.utils import hessian_vector_product

    model, batch = copy.deepcopy(digits_network())
    with in_float64():
        A = hessian(model, nn.CrossEntropyLoss(), data=batch, cuda=False)
    sizes = [p.numel() for p in A.params]

    def product(x: Tensor) -> Tensor:
        v = [part.view_as(p) for part, p in zip(x.split(sizes), A.params, strict=True)]
        return torch.cat([part.reshape(-1) for part in hessian_vector_product(A.gradsH, A.params, v)])

    return lambda X: _columns(product, X)


def _columns(product: Product, X: Tensor) -> Tensor:
    if X.shape[1] == 1:
        return product(X[:, 0].contiguous()).unsqueeze(1)
    return torch.stack([product(x) for x in X.mT.contiguous()]).mT


OPERATORS: dict[str, Callable[[], Product]] = {
    "hvplib": lambda: digits_operator()._product,
    "curvlinops": curvlinops,
    "hessian-eigenthings": eigenthings,
    "PyHessian": pyhessian,
}


# ------------------------------------------------------------------- what their algorithms take for operators


def curvlinops_of(products: Products, n: int) -> Any:
    class Known(SimpleNamespace):
        def __matmul__(self, X: Tensor) -> Tensor:
            return products.vector(X) if X.ndim == 1 else products(X)

    return Known(shape=(n, n), dtype=F64, device=torch.device("cpu"))


def eigenthings_of(products: Products, n: int) -> Any:
    from hessian_eigenthings.operators import LambdaOperator

    return LambdaOperator(products.vector, n, dtype=F64)


def pyhessian_of(products: Products, n: int) -> Any:
    from pyhessian import hessian

    class Known(hessian):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self.model, self.device, self.full_dataset = nn.Module(), "cpu", True
            self.params = [torch.zeros(n, dtype=F64)]

        def dataloader_hv_product(self, v: list[Tensor]) -> tuple[float, list[Tensor]]:
            product = products.vector(v[0])
            return float(product @ v[0]), [product]

    return Known()


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Let what draws numbers of no stated dtype draw float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
