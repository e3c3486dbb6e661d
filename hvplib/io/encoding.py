"""Nested results as JSON and arrays, and back: what is written holds no code and runs none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from hvplib.io.records import class_named, is_enum, name_of
from hvplib.space import Space

__all__ = ["Decoder", "Encoder"]

# What NumPy has no type for is kept as the integers that have the same bits.
_BITS = {torch.bfloat16: torch.int16}
_DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


class Encoder:
    """value ↦ what JSON can hold, with the arrays set aside.

    Numbers, strings, None, lists and tuples, dicts with string keys, tensors, arrays, and the classes of
    `hvplib.io.records`. Each value that JSON does not know is an object with one key, its kind.

    Attributes:
        arrays: By the names that stand for them in the JSON.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}

    def encode(self, value: Any, where: str = "result") -> Any:
        """The value for JSON.

        Raises:
            TypeError: It holds something of another kind; the message says where.
        """
        if (name := name_of(value)) is not None:
            return self._record(name, value, where)
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, np.ndarray | np.generic | Tensor):
            return self._array(value, where)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": self._entries(value, where)}
        if isinstance(value, torch.dtype | torch.device):
            return {"dtype" if isinstance(value, torch.dtype) else "device": str(value)}
        if isinstance(value, Space):
            leaves = [
                {"shape": list(shape), "dtype": str(dtype)}
                for shape, dtype in zip(value.shapes, value.dtypes, strict=True)
            ]
            numbered = tree_unflatten(list(range(len(leaves))), value.spec)
            return {"space": {"leaves": leaves, "tree": self.encode(numbered, f"{where} (its structure)")}}
        raise TypeError(
            f"{where} cannot be saved: it is of type {type(value).__name__}, and a file holds results of "
            "hvplib, tensors, arrays, numbers, strings, None, and lists, tuples and dicts of them with "
            "string keys; convert it"
        )

    def _entries(self, value: Mapping[str, Any], where: str) -> dict[str, Any]:
        return {key: self.encode(entry, f"{where}.{key}") for key, entry in value.items()}

    def _record(self, name: str, value: Any, where: str) -> Any:
        kind = type(value)
        if is_enum(kind):
            return {"enum": [name, value.name]}
        if issubclass(kind, list):
            return {"record": name, "items": [self.encode(v, f"{where}[{i}]") for i, v in enumerate(value)]}
        entries = (
            {field.name: getattr(value, field.name) for field in fields(value)}
            if is_dataclass(value)
            else dict(value)
        )
        return {"record": name, "fields": self._entries(entries, where)}

    def _array(self, value: Any, where: str) -> Any:
        """A reference. Blocks (n, k) that are the `.mT` of a contiguous (k, n) stay so."""
        told: dict[str, Any] = {"kind": "numpy"}
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.dtype.is_complex:
                raise TypeError(f"{where} must be a dense, real tensor, got {value.layout}, {value.dtype}")
            tensor = value.detach().cpu()
            told = {"kind": "torch", "dtype": str(tensor.dtype)}
            value = (tensor.view(_BITS[tensor.dtype]) if tensor.dtype in _BITS else tensor).numpy()
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{where} must be an array of real numbers, got dtype {array.dtype}")
        if array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous:
            told["columns"], array = True, array.T
        name = f"a{len(self.arrays)}"
        self.arrays[name] = np.ascontiguousarray(array).reshape(array.shape)
        return {"array": name, **told}


class Decoder:
    """The inverse of `Encoder`.

    Args:
        arrays: By name.

    Raises (all methods):
        KeyError, TypeError, ValueError: The JSON is not one that an `Encoder` made.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._arrays = arrays

    def decode(self, value: Any) -> Any:
        """The value that was encoded; tensors on the CPU."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind = next(iter(value))
        content = value[kind]
        if kind == "float":
            return float(content)
        if kind == "tuple":
            return tuple(self.decode(item) for item in content)
        if kind == "dict":
            return {key: self.decode(entry) for key, entry in content.items()}
        if kind == "dtype":
            return _DTYPES[content]
        if kind == "device":
            return torch.device(content)
        if kind == "array":
            return self._array(value)
        if kind == "space":
            return self._space(content)
        if kind == "enum":
            return _known(content[0])[content[1]]
        if kind == "record":
            return self._record(value)
        raise ValueError(f"a value of the unknown kind {kind!r}")

    def _record(self, value: dict[str, Any]) -> Any:
        kind = _known(value["record"])
        if "items" in value:
            return kind(self.decode(item) for item in value["items"])
        entries = {name: self.decode(entry) for name, entry in value["fields"].items()}
        return kind(**entries) if is_dataclass(kind) else kind(entries)

    def _space(self, content: dict[str, Any]) -> Space:
        # Without memory: only the shapes and dtypes of the leaves are looked at.
        leaves = [
            torch.empty(1, dtype=_DTYPES[leaf["dtype"]]).expand(leaf["shape"]) for leaf in content["leaves"]
        ]
        return Space.of(_numbered(self.decode(content["tree"]), leaves))

    def _array(self, value: dict[str, Any]) -> Any:
        array = self._arrays[value["array"]]
        if value["kind"] == "numpy":
            return array.T if value.get("columns") else array
        tensor = torch.from_numpy(array)
        dtype = _DTYPES[value["dtype"]]
        tensor = tensor.view(dtype) if dtype in _BITS else tensor
        return tensor.mT if value.get("columns") else tensor


def _known(name: str) -> type[Any]:
    kind = class_named(name)
    if kind is None:
        raise ValueError(f"a record of the unknown class {name!r}")
    return kind


def _numbered(tree: Any, leaves: list[Tensor]) -> Any:
    """The tree with each number replaced by the leaf of that number."""
    if isinstance(tree, int):
        return leaves[tree]
    if isinstance(tree, dict):
        return {key: _numbered(entry, leaves) for key, entry in tree.items()}
    return type(tree)(_numbered(entry, leaves) for entry in tree)
