"""`save` and `load`: results in one file, whole or refused."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from hvplib.eigen.checkpoint import replacing
from hvplib.io.encoding import Decoder, Encoder
from hvplib.io.fingerprint import Fingerprint

__all__ = ["ResultFileError", "describe", "load", "save"]

_FORMAT = "hvplib result"
_VERSION = 1
_HEADER = "header.json"
_SUFFIXES = (".npz", ".safetensors")

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class ResultFileError(ValueError):
    """A file is damaged, of another format or version, or of another problem."""


def save(result: Any, path: str | os.PathLike[str], *, problem: Any = None, note: str = "") -> None:
    """Put a result into the file: after the call it is on the disk, and at any instant the file is whole.

    A ".npz" file is a ZIP archive of NumPy arrays without pickles, with a header in JSON (`numpy.load` opens
    it); a ".safetensors" file has the same header in its metadata. The header names the kind of result, the
    versions of hvplib, torch and NumPy, and the problem. Bits are kept: of tensors, arrays and numbers.

    Args:
        result: What a verb returned (`EigenResult`, `SingularResult`, `Solution`, `Estimate`,
            `DiagonalEstimate`, `SpectralDensity`, `OptimizeResult`), or tensors, arrays, numbers, strings,
            None, and lists, tuples and dicts of them, such as the `state()` of a factorisation.
        path: File, ".npz" or ".safetensors" (needs safetensors); its folder must exist.
        problem: The operator that the result belongs to. One product is spent on its fingerprint, by which
            `load` tells it from others.
        note: Words of your own, for `describe`.

    Raises:
        OSError: It could not be written. The previous file is as it was.
        TypeError: The result holds something that no file can; the message says where.
        ValueError: Another suffix.
        ImportError: safetensors is not installed.

    Example:
        >>> import tempfile, torch
        >>> from hvplib import Diagonal, eigsh
        >>> from hvplib.io import load, save
        >>> A = Diagonal(torch.arange(1.0, 9.0).double())
        >>> path = tempfile.mkdtemp() + "/top.npz"
        >>> save(eigsh(A, 2, which="LA"), path, problem=A)
        >>> load(path, problem=A).eigenvalues
        tensor([8., 7.], dtype=torch.float64)
    """
    suffix = _suffix(path)
    encoder = Encoder()
    content = encoder.encode(result)
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": type(result).__name__,
        "versions": {"hvplib": _own_version(), "torch": torch.__version__, "numpy": np.__version__},
        "problem": None if problem is None else Fingerprint.of(problem).as_json(),
        "note": note,
        "sha256": _digest(encoder.arrays),
        "content": content,
    }
    text = json.dumps(header, allow_nan=False)
    with replacing(path, "result", "an earlier file") as file:
        (_write_npz if suffix == ".npz" else _write_safetensors)(file, text, encoder.arrays)


def load(path: str | os.PathLike[str], *, problem: Any = None) -> Any:
    """What `save` put into the file, bit for bit; tensors on the CPU. Nothing in the file is executed.

    Args:
        path: File.
        problem: The operator that it has to belong to, for one product. None takes any.

    Raises:
        FileNotFoundError: There is no such file.
        ResultFileError: The file is damaged, none of `save`'s, of a version that is not known, or of another
            problem.
        ImportError: safetensors is not installed.
    """
    header, arrays = _read(path)
    if header["sha256"] != _digest(arrays):
        raise _refused(path, "is damaged: its arrays are not those that were saved")
    if problem is not None:
        _check_problem(path, header, problem)
    try:
        return Decoder(arrays).decode(header["content"])
    except (KeyError, TypeError, ValueError, ImportError, AttributeError) as error:
        wrote = header["versions"].get("hvplib")
        raise _refused(path, f"holds what this version of hvplib cannot read ({wrote} wrote it)") from error


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the header of a file says: "kind", "versions", "problem" (or None), "note".

    Raises:
        FileNotFoundError, ResultFileError, ImportError: As `load`.
    """
    header, _ = _read(path)
    return {name: header[name] for name in ("kind", "versions", "problem", "note")}


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(f'path must end in ".npz" or ".safetensors", got {os.fspath(path)!r}')
    return suffix


def _own_version() -> str:
    try:
        return version("hvplib")
    except PackageNotFoundError:  # used from a folder of sources
        return "unknown"


def _digest(arrays: Arrays) -> str:
    sha256 = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        sha256.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha256.hexdigest()


def _write_npz(file: BinaryIO, header: str, arrays: Arrays) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(_HEADER, header)
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _write_safetensors(file: BinaryIO, header: str, arrays: Arrays) -> None:
    file.write(_safetensors().save(dict(arrays), metadata={"hvplib": header}))


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """The header, checked, and the arrays."""
    suffix = _suffix(path)
    with open(path, "rb") as file:
        text, arrays = (_read_npz if suffix == ".npz" else _read_safetensors)(file, path)
    try:
        header = json.loads(text)
    except ValueError as error:
        raise _refused(path, "is no file of hvplib.io: its header is not JSON") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise _refused(path, "is no file of hvplib.io")
    if header.get("version") != _VERSION:
        raise _refused(
            path,
            f"has format {header.get('version')}, and this version of hvplib reads {_VERSION}; read it with "
            f"hvplib {header.get('versions', {}).get('hvplib', 'of another version')}, or make it again",
        )
    return header, arrays


def _read_npz(file: BinaryIO, path: Any) -> tuple[str, dict[str, np.ndarray[Any, Any]]]:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if _HEADER not in names:
                raise _refused(path, "is no file of hvplib.io: it has no header")
            for name in names:
                with archive.open(name) as entry:
                    if name == _HEADER:
                        text = entry.read().decode()
                    else:
                        array = np.lib.format.read_array(entry, allow_pickle=False)
                        arrays[name.removesuffix(".npy")] = array
    except (zipfile.BadZipFile, EOFError, OSError, UnicodeDecodeError) as error:
        raise _refused(
            path, "is damaged, or no file of hvplib.io: it ends too early or was changed"
        ) from error
    except ResultFileError:
        raise
    except ValueError as error:
        raise _refused(path, "is damaged, or no file of hvplib.io") from error
    return text, arrays


def _read_safetensors(file: BinaryIO, path: Any) -> tuple[str, dict[str, np.ndarray[Any, Any]]]:
    library = _safetensors()
    data = file.read()
    try:
        arrays = library.load(data)
        length = int.from_bytes(data[:8], "little")
        text = json.loads(data[8 : 8 + length])["__metadata__"]["hvplib"]
    except Exception as error:
        raise _refused(path, "is damaged, or no file of hvplib.io") from error
    return text, {name: np.array(array) for name, array in arrays.items()}


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            'a ".safetensors" file needs safetensors: `pip install hvplib[safetensors]`, or use ".npz"'
        ) from error
    return safetensors.numpy


def _check_problem(path: Any, header: dict[str, Any], problem: Any) -> None:
    if header["problem"] is None:
        raise _refused(path, "does not say of which problem it is: it was saved without problem=; load it so")
    differences = Fingerprint.of(problem).differences(Fingerprint.from_json(header["problem"]))
    if differences:
        raise _refused(path, f"belongs to another problem: {'; '.join(differences)}")


def _refused(path: str | os.PathLike[str], reason: str) -> ResultFileError:
    return ResultFileError(f"{os.fspath(path)!r} {reason}")
