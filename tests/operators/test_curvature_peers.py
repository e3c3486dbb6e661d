"""The operators beside those of curvlinops, where it is installed: an MLP, a convnet, a transformer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from hvplib import FisherOperator, GGNOperator, JacobianOperator
from tests.architectures import Case, convolutional, perceptron, transformer
from tests.curvatures import assert_same

curvlinops = pytest.importorskip("curvlinops")

F64 = torch.float64


def _without_padding(case: Case) -> list[tuple[Any, Tensor]]:
    """Batches (x, y) without ignored labels, which curvlinops does not weigh."""
    return [(x[y != -100], y[y != -100]) for x, y in case.uneven]


@pytest.mark.parametrize("make", [perceptron, convolutional])
def test_ggn_fisher_and_jacobian(make: Callable[[], Case]) -> None:
    case = make()
    data = _without_padding(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = curvlinops.GGNLinearOperator(
            case.model, nn.CrossEntropyLoss(), list(case.model.parameters()), data
        )
        empirical = curvlinops.EFLinearOperator(
            case.model, nn.CrossEntropyLoss(), list(case.model.parameters()), data
        )
        jacobian = curvlinops.JacobianLinearOperator(case.model, list(case.model.parameters()), data)
        eye = torch.eye(theirs.shape[1], dtype=F64)
        G = GGNOperator.from_module(case.model, nn.CrossEntropyLoss(), data)
        F_ = FisherOperator.from_module(case.model, nn.CrossEntropyLoss(), data)
        E = FisherOperator.from_module(case.model, nn.CrossEntropyLoss(), data, kind="empirical")
        assert_same(G.to_dense(), theirs @ eye)
        assert_same(F_.to_dense(), theirs @ eye)
        assert_same(E.to_dense(), empirical @ eye)
        assert_same(JacobianOperator.from_module(case.model, data).to_dense(), jacobian @ eye)


def test_ggn_of_a_transformer() -> None:
    """Each row a batch of its own, with the labels that count: what curvlinops weighs right."""
    case = transformer()

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = case.model

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return case.forward(self.model, x)[case.labels(x) != -100]

    model = Counted()
    y = case.labels(case.whole)
    data = [(case.whole, y[y != -100])]
    # Their forward mode has no remedy for the other kernels of attention.
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        warnings.simplefilter("ignore")
        theirs = curvlinops.GGNLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            list(model.parameters()),
            data,
            batch_size_fn=lambda x: int((y != -100).sum()),
        )
        expected = theirs @ torch.eye(theirs.shape[1], dtype=F64)
    G = GGNOperator.from_module(case.model, case.loss, case.uneven, forward=case.forward)
    assert_same(G.to_dense(), expected)
