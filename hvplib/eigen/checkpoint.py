"""The state of an iteration in a file: whole or refused, whatever happens while it is written."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

__all__ = ["CheckpointError", "load_checkpoint", "replacing", "save_checkpoint"]

_MAGIC = b"hvplib checkpoint\n"
_VERSION = 1
# What it is, the version of the format, the length of the contents and their SHA-256.
_HEADER = struct.Struct(f"<{len(_MAGIC)}sHQ32s")
_CHUNK = 1 << 20
_PLAIN = (bool, int, float, str, type(None))


class CheckpointError(ValueError):
    """A checkpoint is damaged, of another format, or of another problem."""


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Put `state` into the file: after the call it is on the disk, and at any instant the file is whole.

    It is written to `path` + ".partial" in the same folder, which then takes the place of the file. A process
    that is killed leaves the previous state or this one, and perhaps the partial file, which the next call
    overwrites. One process at a time may save to a path.

    Args:
        path: File; its folder must exist.
        state: Dense tensors, numbers, strings, None, and lists, tuples and dicts of them with string keys.
            Of a tensor that is a view, only what it shows is written.

    Raises:
        OSError: It could not be written (no space, no permission, no folder). The previous file is as it was.
        TypeError: The state holds something else.

    Example:
        >>> import tempfile, torch
        >>> path = tempfile.mkdtemp() + "/state"
        >>> save_checkpoint(path, {"T": torch.eye(2), "num_matvecs": 40})
        >>> load_checkpoint(path)
        {'T': tensor([[1., 0.],
                [0., 1.]]), 'num_matvecs': 40}
    """
    contents = _plain(dict(state), "state")
    with replacing(path, "checkpoint", "an earlier checkpoint") as file:
        _write(file, contents)


@contextmanager
def replacing(path: str | os.PathLike[str], what: str, earlier: str) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of the one at `path` when all is written and on the disk.

    It is `path` + ".partial" until then, and is removed if anything fails.

    Args:
        path: File; its folder must exist.
        what: Is written, for the message of an error.
        earlier: What may be there, for the same.

    Raises:
        OSError: It could not be written.
    """
    target = os.path.realpath(path)
    partial = target + ".partial"
    try:
        with _removed_on_failure(partial), open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, target)
        _sync_folder(os.path.dirname(target))
    except OSError as error:
        raise OSError(
            error.errno,
            f"{what} could not be saved ({error.strerror}); free some space or give a path that can be "
            f"written; {earlier} there is as it was",
            os.fspath(path),
        ) from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The state that `save_checkpoint` put into the file, bit for bit; None if there is no file.

    Tensors come to the CPU. Nothing in the file is executed.

    Raises:
        CheckpointError: The file is damaged, or none that this version of the library writes.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115  # a missing file is no error, one that vanishes while read is
    except FileNotFoundError:
        return None
    with file:
        header = _checked_header(file, os.fspath(path))
        _check_contents(file, header, os.fspath(path))
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            # The contents are those that were written, so they were not written by `save_checkpoint`.
            raise _refused(path, "holds what no version of this library writes") from error
    return state


class _Header(NamedTuple):
    magic: bytes
    version: int
    length: int
    digest: bytes


class _Hashing:
    """A file to write to that hashes what is written.

    An exception is kept for later: torch's writer, which calls this from C++, does not let it through whole.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.length = 0
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._file.write(data)
                self.sha256.update(data)
                self.length += len(data)
            except BaseException as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """There is nothing to flush: the file's owner does."""


def _write(file: BinaryIO, contents: dict[str, Any]) -> None:
    file.write(bytes(_HEADER.size))
    hashing = _Hashing(file)
    torch.save(contents, hashing)  # type: ignore[arg-type]
    if hashing.error is not None:
        raise hashing.error
    file.seek(0)
    file.write(_HEADER.pack(_MAGIC, _VERSION, hashing.length, hashing.sha256.digest()))


@contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.remove(path)
        raise


def _sync_folder(folder: str) -> None:
    """Make the new name in the folder as durable as the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checked_header(file: BinaryIO, path: str) -> _Header:
    start = file.read(_HEADER.size)
    if start[: len(_MAGIC)] != _MAGIC[: len(start)]:
        raise _refused(path, "is no checkpoint of this library")
    if len(start) < _HEADER.size:
        raise _refused(path, "is damaged: it ends too early")
    header = _Header(*_HEADER.unpack(start))
    if header.version != _VERSION:
        raise _refused(path, f"has format {header.version}, and this version of the library reads {_VERSION}")
    return header


def _check_contents(file: BinaryIO, header: _Header, path: str) -> None:
    """Compare length and hash; leave the file at the start of the contents."""
    sha256, length = hashlib.sha256(), 0
    while chunk := file.read(_CHUNK):
        sha256.update(chunk)
        length += len(chunk)
    if length != header.length or sha256.digest() != header.digest:
        raise _refused(path, "is damaged: its contents are not those that were saved")
    file.seek(_HEADER.size)


def _refused(path: str | os.PathLike[str], reason: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {os.fspath(path)!r} {reason}; delete it to begin afresh, or give another path"
    )


def _plain(value: Any, where: str) -> Any:
    """The same without what only memory knows: views of larger storages, gradient histories."""
    if isinstance(value, Tensor) and value.layout == torch.strided:
        value = value.detach()
        shared = value.untyped_storage().nbytes() > value.numel() * value.element_size()
        return value.clone() if shared else value
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if type(value) is tuple:
        return tuple(_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if type(value) in _PLAIN:
        return value
    raise TypeError(
        f"{where} must be a dense tensor, a number, a string, None, or a list, tuple or dict of them with "
        f"string keys, got {type(value).__name__}; convert it"
    )
