"""FILE.py:NAME or package.module:NAME ↦ the problem that the function of this name returns."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hvplib.operators.base import Operator
from hvplib.operators.curvature import HessianOperator

__all__ = ["Problem", "UsageError", "load_problem"]

_OPTIONS = ("weight", "reduction", "strategy", "verify", "check_deterministic", "memory_budget", "seed")
_SHAPES = (
    "an hvplib operator; (func, params) or (func, params, data); or a dict with func and params, or model "
    f"and loss, and perhaps data and {', '.join(_OPTIONS)}"
)


class UsageError(Exception):
    """The command, the file or the name is not as described: exit status 2."""


@dataclass(frozen=True)
class Problem:
    """What is to be examined: an operator, or a function with a point and perhaps data.

    Attributes:
        given: The operator, if the function returned one.
        func: func(params) or func(params, batch), or None.
        params: The point.
        data: Batches, or None.
        options: For `HessianOperator`.
    """

    given: Operator | None = None
    func: Callable[..., Any] | None = None
    params: Any = None
    data: Iterable[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def operator(self) -> Operator:
        """The operator given, or the Hessian of the function."""
        if self.given is not None:
            return self.given
        assert self.func is not None
        return HessianOperator(self.func, self.params, self.data, **self.options)

    def function(self, command: str) -> tuple[Callable[..., Any], Any, Iterable[Any] | None]:
        """The function, the point and the data, for a command that needs them."""
        if self.func is None:
            raise UsageError(
                f"{command} needs a function: the target must return func and params, got an operator"
            )
        return self.func, self.params, self.data


def load_problem(target: str, device: torch.device | None, dtype: torch.dtype | None) -> Problem:
    """Call the target's function and see what it returns.

    Args:
        target: "FILE.py:NAME" or "package.module:NAME". Of files and modules, only this one is run (and what
            it imports).
        device: Where params, the model and the data are moved, if given.
        dtype: What their floating point tensors are converted to, if given.

    Raises:
        UsageError: There is no such file or name, or what it returns is no problem.
    """
    place, _, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise UsageError(f"target must be FILE.py:NAME or package.module:NAME, got {target!r}")
    found = _found(_imported(place), place, name)
    return _problem(found if isinstance(found, Operator) else _called(found, name), name, device, dtype)


def _imported(place: str) -> ModuleType:
    path = Path(place)
    if path.suffix != ".py" and len(path.parts) == 1 and not path.exists():
        return _by_name(place)
    if not path.is_file():
        raise UsageError(f"there is no file {place!r}; a target is FILE.py:NAME or package.module:NAME")
    if path.suffix != ".py":
        raise UsageError(f"{place!r} is no Python file; its name must end in .py")
    # A name of its own, so that a file called json.py takes the place of nothing.
    spec = importlib.util.spec_from_file_location(f"_hvplib_target_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _find_beside(path.resolve().parent)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UsageError(f"{place} cannot be read: {error}") from error
    return module


def _by_name(place: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"there is no file {place!r}, and it is no module's name")
    _find_beside(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UsageError(
                f"there is no module {place!r}; for a file give its path, ending in .py"
            ) from None
        raise


def _find_beside(folder: Path) -> None:
    """Modules in this folder can be imported, as when Python runs a file there."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _found(module: ModuleType, place: str, name: str) -> Any:
    if hasattr(module, name):
        return getattr(module, name)
    here = [
        other
        for other, value in vars(module).items()
        if not other.startswith("_")
        and callable(value)
        and getattr(value, "__module__", None) == module.__name__
    ]
    near = difflib.get_close_matches(name, here, 1)
    hint = f"did you mean {near[0]}?" if near else f"its functions are {', '.join(here) or 'none'}"
    raise UsageError(f"{place} has no {name!r}; {hint}")


def _called(function: Any, name: str) -> Any:
    if not callable(function):
        return function
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} must be a function without required arguments: {error}") from error
    required = [
        p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        raise UsageError(
            f"{name} must be a function without required arguments that returns the problem, but it takes "
            f"{', '.join(required)}"
        )
    return function()


def _problem(returned: Any, name: str, device: torch.device | None, dtype: torch.dtype | None) -> Problem:
    if isinstance(returned, Operator):
        if device is not None or dtype is not None:
            raise UsageError(f"{name} returns an operator, which has its device and dtype; choose them there")
        return Problem(given=returned)
    move = _Move(device, dtype)
    if isinstance(returned, Mapping):
        return _from_mapping(dict(returned), name, move)
    if isinstance(returned, tuple) and len(returned) in (2, 3) and callable(returned[0]):
        func, params, *data = returned
        return Problem(func=func, params=move(params), data=move.data(data[0] if data else None))
    raise UsageError(f"{name} must return {_SHAPES}; got {_kind(returned)}")


def _from_mapping(told: dict[str, Any], name: str, move: _Move) -> Problem:
    known = {"func", "params", "data", "model", "loss", *_OPTIONS}
    unknown = [str(key) for key in told if key not in known]
    pair = {"func", "params"} <= told.keys() and not {"model", "loss"} & told.keys()
    module = {"model", "loss"} <= told.keys() and "func" not in told
    if unknown or not (pair or module):
        wrong = (
            f"an unknown {', '.join(unknown)}"
            if unknown
            else f"only {', '.join(map(str, told)) or 'no keys'}"
        )
        raise UsageError(f"{name} must return {_SHAPES}; got a dict with {wrong}")
    options = {key: told[key] for key in _OPTIONS if key in told}
    data = move.data(told.get("data"))
    if pair:
        if not callable(told["func"]):
            raise UsageError(f"func of {name} must be a function, got {_kind(told['func'])}")
        return Problem(func=told["func"], params=move(told["params"]), data=data, options=options)
    from hvplib.ad.modules import functional_loss

    if not isinstance(told["model"], nn.Module):
        raise UsageError(f"model of {name} must be a torch.nn.Module, got {_kind(told['model'])}")
    model = told["model"].to(device=move.device, dtype=move.dtype)
    func, theta = functional_loss(model, told["loss"], told.get("params"))
    if func.reduction is not None:
        options.setdefault("reduction", func.reduction)
    return Problem(func=func, params=theta, data=data, options=options)


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple of {', '.join(type(item).__name__ for item in value) or 'nothing'}"
    return type(value).__name__


@dataclass(frozen=True)
class _Move:
    """Tensors to a device, and those of floating point to a dtype."""

    device: torch.device | None
    dtype: torch.dtype | None

    def __call__(self, tree: Any) -> Any:
        return tree_map(self._leaf, tree) if self.device is not None or self.dtype is not None else tree

    def _leaf(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device=self.device, dtype=self.dtype if leaf.is_floating_point() else None)

    def data(self, data: Any) -> Any:
        """The data, whose batches are moved when they come."""
        if data is None or (self.device is None and self.dtype is None):
            return data
        return _Moved(data, self)


class _Moved:
    """Batches of `data`, moved."""

    def __init__(self, data: Iterable[Any], move: _Move) -> None:
        self._data, self._move = data, move

    def __iter__(self) -> Iterator[Any]:
        return map(self._move, self._data)

    def __len__(self) -> int:
        return len(self._data)  # type: ignore[arg-type]  # raises TypeError as the data themselves do
