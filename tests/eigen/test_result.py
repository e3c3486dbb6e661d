from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hvplib import Diagonal, EigenResult, HessianOperator, Lanczos, Status, eigsh
from hvplib.space import Space

F64 = torch.float64


def made(**changes: Any) -> EigenResult:
    numbers = torch.tensor([9.0, 4.0], dtype=F64)
    fields: dict[str, Any] = {
        "eigenvalues": numbers,
        "eigenvectors": torch.eye(5, 2, dtype=F64),
        "residual_norms": torch.tensor([1e-9, 2e-3], dtype=F64),
        "converged": torch.tensor([True, False]),
        "enclosures": torch.tensor([[8.5, 9.5], [3.0, 5.0]], dtype=F64),
        "gap_bounds": torch.tensor([1e-17, math.nan], dtype=F64),
        "status": Status.MAX_ITER,
        "miss_probability": 1e-3,
        "miss_resolution": 0.25,
        "confirmed": True,
        "num_matvecs": 33,
        "matvecs": {"iteration": 30, "confirmation": 3},
        "num_mass_matvecs": 0,
        "num_iter": 30,
        "operator_norm": 9.0,
        "asymmetry": 1e-16,
        "history": torch.zeros(0, 3, dtype=F64),
        "method": Lanczos(krylov_dim=20),
    }
    return EigenResult(**(fields | changes))


def test_text_says_what_there_is() -> None:
    text = str(made(note="a word more"))
    lines = text.splitlines()
    assert lines[0].startswith("2 eigenpairs by Lanczos(krylov_dim=20, ") and str(Status.MAX_ITER) in lines[0]
    assert lines[1] == "a word more"
    assert lines[3].split() == ["9", "1.0e-09", "5.0e-01", "1.0e-17"]
    assert lines[4].split() == ["4", "2.0e-03", "1.0e+00", "nan", "not", "converged"]
    assert "33 products (30 iteration, 3 confirmation)" in text
    assert (
        lines[-1] == "an eigenvalue more than 0.25 beyond the last was missed with probability at most 0.001"
    )
    assert "a word more" not in str(made())


def test_text_of_numpy_and_of_nothing() -> None:
    numpy = made(eigenvalues=torch.tensor([9.0, 4.0]).numpy())
    assert "       9      1.0e-09" in str(numpy)
    none = torch.zeros(0, dtype=F64)
    empty = made(
        eigenvalues=none,
        residual_norms=none,
        converged=none.bool(),
        enclosures=torch.zeros(0, 2, dtype=F64),
        gap_bounds=none,
    )
    assert str(empty).startswith("0 eigenpairs by Lanczos")


def test_what_was_not_looked_for_is_said() -> None:
    assert str(made(miss_probability=math.nan)).endswith("\nwhether an eigenvalue was missed is not known")
    A = Diagonal(torch.arange(100.0, dtype=F64))
    assert str(eigsh(A, 2, method="lobpcg")).endswith("whether an eigenvalue was missed is not known")


def test_representation_leaves_the_space_out() -> None:
    assert "space=" not in repr(made(space=Space.of({"w": torch.ones(5)})))


def test_vectors_as_a_pytree() -> None:
    A = HessianOperator(
        lambda p: (p["w"] ** 2).sum() * 3 + p["b"] ** 2 + p["b"] * p["w"].sum(),
        {"w": torch.ones(2, 3, dtype=F64), "b": torch.ones((), dtype=F64)},
    )
    result = eigsh(A, 2, which="LA")
    own = result.vectors_as()
    assert own["w"].shape == (2, 2, 3) and own["b"].shape == (2,)
    for index in range(2):
        vector = {name: leaf[index] for name, leaf in own.items()}
        image = A @ vector
        for name in ("w", "b"):
            torch.testing.assert_close(image[name], result.eigenvalues[index] * vector[name])
    named = result.vectors_as({"one": torch.ones(4, dtype=F64), "other": torch.ones(3, dtype=F64)})
    assert named["one"].shape == (2, 4)
    flat = torch.cat([named["one"], named["other"]], dim=1)
    assert torch.equal(flat.mT, result.eigenvectors)


def test_vectors_as_from_numpy() -> None:
    matrix = torch.diag(torch.arange(5.0, dtype=F64)).numpy()
    result = eigsh(matrix, 2)
    tree = result.vectors_as({"a": torch.ones(2, dtype=F64), "b": torch.ones(3, dtype=F64)})
    assert tree["b"].shape == (2, 3)


def test_vectors_as_what_they_are_not() -> None:
    result = eigsh(Diagonal(torch.arange(5.0, dtype=F64)), 2)
    with pytest.raises(ValueError, match="params must be given: the operator acts on flat vectors"):
        result.vectors_as()
    with pytest.raises(ValueError, match="params must have 5 entries in all, got 4"):
        result.vectors_as({"a": torch.ones(4, dtype=F64)})
