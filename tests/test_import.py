"""`import hvplib` on a machine that has only the runtime dependencies."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hvplib

# Every distribution of the extras that the library or its examples use, by the name that is imported.
EXTRAS = "matplotlib tqdm sklearn transformers pytest jax mkdocs"

PROGRAM = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS.split()!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
import hvplib
missing = [name for name in hvplib.__all__ if not hasattr(hvplib, name)]
assert not missing, missing
assert sorted(hvplib.__all__) == sorted(set(hvplib.__all__)), "a name twice"
print(*(name for name in {EXTRAS.split()!r} if name in sys.modules))
"""


def run(program: str) -> list[str]:
    """The lines that a fresh interpreter prints."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_import_needs_and_loads_no_extra() -> None:
    assert run(PROGRAM) == [""]


LAZY = """
import sys, torch
before = set(sys.modules)
import hvplib
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print(*sorted(name for name in sys.modules if name.startswith("hvplib.")))
hvplib.local_model
print(*sorted({name.split(".")[1] for name in sys.modules if name.startswith("hvplib.")}))
print(*(name for name in ("scipy", "sympy", "torch._dynamo") if name in sys.modules))
"""


def test_import_loads_nothing_and_a_name_loads_its_room() -> None:
    loaded, rooms, after, dear = run(LAZY)
    assert set(loaded.split()) <= {"hvplib"} and rooms == ""
    assert set(after.split()) <= {"ad", "errors", "space"}
    assert dear == ""


FIRST = """
import sys, torch, hvplib
x = torch.ones(3, dtype=torch.float64)
model = hvplib.local_model(lambda x: (x**4).sum(), x)
assert model.hvp(x).tolist() == [12.0] * 3 and len(model.report.checks) == 4
assert hvplib.hvp(lambda x: (x**4).sum(), x, x).tolist() == [12.0] * 3
assert "sympy" not in sys.modules
# A tangent that is zero goes through Python: torch imports SymPy for that, but need not import its compiler.
y = torch.zeros(3, dtype=torch.float64)
for func in (
    lambda x: ((x - y) ** 2).sum(),
    lambda x: ((y * x / 2 + x) ** 2).sum(),
    lambda x: torch.nn.functional.mse_loss(x, y, reduction="sum"),
):
    assert hvplib.hvp(func, x, x).tolist() == [2.0] * 3
dear = ("scipy", "torch._dynamo", "torch._inductor", "torch._decomp.decompositions_for_jvp")
print(*(name for name in dear if name in sys.modules))
"""


def test_first_product_of_a_process_loads_no_compiler() -> None:
    assert run(FIRST) == [""]


MINIMISED = """
import sys, torch, hvplib
for engine in ("record", "auto"):
    H = hvplib.HessianOperator(lambda x: (x**3).sum(), torch.zeros(4), engine=engine)
    for step in range(8):
        H.at(torch.full((4,), step / 10)) @ torch.ones(4)
print(H.report.strategy, "sympy" in sys.modules)
"""


def test_recording_loads_no_sympy() -> None:
    assert run(MINIMISED) == ["reverse-over-reverse (graph kept) False"]


def test_public_face() -> None:
    from hvplib import eigsh

    assert eigsh is hvplib.eigsh and hvplib.eigsh.__module__ == "hvplib.eigen.eigsh"
    assert dir(hvplib) == sorted(hvplib.__all__)
    assert hvplib.krylov.__name__ == "hvplib.krylov"  # a room, without importing it first
    with pytest.raises(AttributeError, match="module 'hvplib' has no attribute 'hessain'"):
        _ = hvplib.hessain
