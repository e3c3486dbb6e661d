"""Who may import whom: `docs/architecture.md`, held by reading every import of the library."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hvplib

PACKAGE = Path(__file__).parent.parent / "hvplib"

# Layer of each room (a module or a folder directly under hvplib/).  A room may import rooms of lower layers.
LAYERS = {
    "errors": 0,
    "interrupt": 0,
    "results": 0,
    "space": 1,
    "ad": 1,
    "krylov": 1,
    "operators": 2,
    "linear": 3,
    "eigen": 3,
    "estimate": 3,
    "optim": 4,
    "distributed": 5,
    "io": 5,
    "plots": 5,
    "progress": 5,
    "cli": 6,
    "__main__": 7,
}
# Siblings are blind to each other but for these.
SIBLINGS = {("ad", "space"), ("estimate", "eigen")}
# An adapter to an optional dependency, which rooms below it may reach for at the moment of use.
ON_DEMAND = {"progress"}

PLAIN = {"torch"}
NUMERIC = {"torch", "numpy", "scipy"}
OPTIONAL = {"matplotlib", "safetensors", "tqdm"}


@dataclass(frozen=True)
class Import:
    """One import of `target` (a dotted name) in `room`."""

    room: str
    target: str
    inside_function: bool
    for_types_only: bool
    where: str


def _absolute(node: ast.ImportFrom, module: tuple[str, ...]) -> str:
    """The dotted name that `from ... import` names, in a module whose package is `module`."""
    base = module[: len(module) - node.level + 1] if node.level else ()
    return ".".join((*base, *([node.module] if node.module else [])))


def _targets(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, package)
        # `from hvplib import space` names a room, `from hvplib.space import Space` does not.
        return [f"{base}.{alias.name}" for alias in node.names] if base == "hvplib" else [base]
    return []


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(source: str, path: str) -> Iterator[Import]:
    """Every import in a module of the library at `path` (relative to hvplib/), wherever it stands."""
    parts = Path(path).with_suffix("").parts
    room, package = parts[0], ("hvplib", *parts[:-1])

    def visit(node: ast.AST, inside: bool, types: bool) -> Iterator[Import]:
        for target in _targets(node, package):
            yield Import(room, target, inside, types, f"hvplib/{path}:{getattr(node, 'lineno', 0)}")
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        types = types or _is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, types)

    yield from visit(ast.parse(source), False, False)


def offence(found: Import) -> str | None:
    """Why this import may not be, or None."""
    top, _, rest = found.target.partition(".")
    if top == "hvplib":
        return _offence_inside(found, rest.partition(".")[0])
    if top in sys.stdlib_module_names:
        return None
    layer = LAYERS[found.room]
    if top in (PLAIN if layer <= 1 else NUMERIC):
        return None
    if top in OPTIONAL and layer >= 2:
        return None if found.inside_function or found.for_types_only else f"imports {top} outside a function"
    return f"layer {layer} may not import {top}"


def _offence_inside(found: Import, room: str) -> str | None:
    if room == found.room:
        return None
    if room not in LAYERS:
        return f"imports {found.target}: name the module that defines it, not the public face"
    if LAYERS[room] < LAYERS[found.room] or (found.room, room) in SIBLINGS:
        return None
    if room in ON_DEMAND and found.inside_function:
        return None
    return f"layer {LAYERS[found.room]} may not import {room} of layer {LAYERS[room]}"


def offences(source: str, path: str) -> list[str]:
    """What is wrong with the imports of one module."""
    return [f"{i.where}: {reason}" for i in imports(source, path) if (reason := offence(i)) is not None]


def modules() -> list[str]:
    """Paths of all modules, relative to hvplib/."""
    return sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def test_modules_are_found() -> None:
    assert "space.py" in modules() and "ad/hvp.py" in modules()


@pytest.mark.parametrize("path", [path for path in modules() if path != "__init__.py"])
def test_module_imports_only_what_its_layer_may(path: str) -> None:
    room = Path(path).with_suffix("").parts[0]
    assert room in LAYERS, f"{room} has no layer: give it one here and in docs/architecture.md"
    assert offences((PACKAGE / path).read_text(), path) == []


def _face() -> list[ast.stmt]:
    return ast.parse((PACKAGE / "__init__.py").read_text()).body


def test_public_face_holds_names_and_nothing_else() -> None:
    kinds = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    other = [node for node in _face() if not isinstance(node, kinds) and not _is_type_checking(node)]
    assert [getattr(node, "name", ast.unparse(node)) for node in other] == ["__getattr__", "__dir__"]


def test_public_face_gives_the_interpreter_what_it_shows_to_type_checkers() -> None:
    (shown,) = [node for node in _face() if _is_type_checking(node)]
    assert isinstance(shown, ast.If)
    homes = {
        alias.name: node.module
        for node in shown.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == hvplib._HOME
    assert sorted(homes) == sorted(hvplib.__all__)


def test_public_face_loads_no_room_by_itself() -> None:
    """Outside `if TYPE_CHECKING`, only the standard library is imported."""
    outside = [node for node in _face() if isinstance(node, (ast.Import, ast.ImportFrom))]
    found = {target.partition(".")[0] for node in outside for target in _targets(node, ("hvplib",))}
    assert found <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("ad/hvp.py", "import numpy as np", "layer 1 may not import numpy"),
        ("ad/hvp.py", "from scipy.linalg import eigh", "layer 1 may not import scipy"),
        ("ad/hvp.py", "from hvplib.operators.base import Operator", "may not import operators of layer 2"),
        ("ad/hvp.py", "from ..operators import base", "may not import operators of layer 2"),
        ("ad/hvp.py", "from hvplib import operators", "may not import operators of layer 2"),
        ("ad/hvp.py", "from hvplib import hvp", "not the public face"),
        ("ad/hvp.py", "def f():\n    import scipy", "layer 1 may not import scipy"),
        ("space.py", "import hvplib.ad.hvp", "layer 1 may not import ad of layer 1"),
        ("errors.py", "from hvplib.space import Space", "layer 0 may not import space of layer 1"),
        ("operators/base.py", "import tqdm", "imports tqdm outside a function"),
        ("operators/base.py", "try:\n    import sklearn\nexcept ImportError: pass", "not import sklearn"),
        ("operators/base.py", "from hvplib.progress import bar", "may not import progress of layer 5"),
    ],
)
def test_offending_import_is_caught(path: str, source: str, reason: str) -> None:
    (found,) = offences(source, path)
    assert reason in found and found.startswith(f"hvplib/{path}:")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ad/hvp.py", "import math\nimport torch\nfrom torch import nn\nfrom . import select"),
        ("ad/hvp.py", "from hvplib.space import Space\nfrom hvplib.errors import DerivativeError"),
        ("operators/base.py", "from scipy.sparse.linalg import LinearOperator\nfrom hvplib.ad import hvp"),
        ("operators/base.py", "def f():\n    from tqdm import tqdm\n    from hvplib.progress import bar"),
        ("operators/base.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tqdm"),
    ],
)
def test_allowed_import_is_let_through(path: str, source: str) -> None:
    assert offences(source, path) == []
