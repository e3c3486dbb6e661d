"""Results in files, by suffix; and what can be told beforehand of a file that cannot be written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hvplib.cli.problem import UsageError
from hvplib.eigen.checkpoint import replacing
from hvplib.io import save
from hvplib.space import Space

__all__ = ["check_outputs", "plain", "write"]

_PICTURES = (".png", ".svg", ".pdf")
_ARRAYS = (".npz", ".safetensors")
# Arrays of more numbers are for .npz.
_MOST = 10_000


def check_outputs(command: str, paths: list[str], drawn: Mapping[str, Any]) -> None:
    """Refuse what could not be written, before anything is computed."""
    for text in paths:
        path = Path(text)
        suffix = path.suffix.lower()
        if suffix not in (".json", *_ARRAYS, *_PICTURES):
            raise UsageError(
                f"--output must end in .json, {', '.join(_ARRAYS)}, {', '.join(_PICTURES)}, got {text!r}"
            )
        if suffix in _PICTURES and command not in drawn:
            raise UsageError(f"{command} has no picture; write .json or .npz, got {text!r}")
        for suffixes, library, extra in (
            (_PICTURES, "matplotlib", "plots"),
            ((".safetensors",),) + ("safetensors",) * 2,
        ):
            if suffix in suffixes and find_spec(library) is None:
                raise UsageError(f"{text!r} needs {library}: `pip install hvplib[{extra}]`")
        folder = path.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"--output {text!r}: there is no folder {str(folder)!r} to write to")


def write(path: str, result: Any, told: dict[str, Any], draw: Callable[[Any, Any], Any] | None) -> None:
    """One file.

    Args:
        path: Its name.
        result: The result.
        told: What the JSON says beside it.
        draw: (result, axes) ↦ the picture.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _ARRAYS:
        save(result, path, note=f"hvplib {told['command']} {told['target']}")
        return
    with replacing(path, "output", "an earlier file") as file:
        if suffix == ".json":
            text = json.dumps(
                {**told, "result": plain(result)}, indent=2, allow_nan=False, ensure_ascii=False
            )
            file.write(text.encode() + b"\n")
        else:
            from matplotlib.figure import Figure

            assert draw is not None
            figure = Figure(figsize=(7, 4.2), layout="constrained")
            draw(result, figure.subplots())
            figure.savefig(file, format=suffix[1:], dpi=160)


def plain(value: Any) -> Any:
    """The value for JSON, to be read by anyone: statuses as name and message, methods as text.

    NaN becomes null and infinities strings, which JSON has no numbers for. Of arrays of more than 10 000
    numbers only the shape is given.
    """
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().double().numpy() if isinstance(value, Tensor) else value
        return (
            plain(array.tolist()) if array.size <= _MOST else {"shape": list(array.shape), "left out": True}
        )
    if isinstance(value, Enum):
        return {
            "name": value.name,
            "success": bool(getattr(value, "success", True)),
            "message": _message(value),
        }
    if isinstance(value, Space):
        return {"names": list(value.names), "sizes": list(value.sizes)}
    if is_dataclass(value) and hasattr(value, "status"):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if is_dataclass(value) and type(value).__name__ == "Iterate":
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float | np.floating):
        number = float(value)
        return number if math.isfinite(number) else None if math.isnan(number) else str(number)
    return str(value)


def _message(value: Enum) -> str:
    return str(getattr(value, "message", value.value))


def versions() -> dict[str, str]:
    """Of what made the numbers."""
    return {"torch": torch.__version__, "numpy": np.__version__}
