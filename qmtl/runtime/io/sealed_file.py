"""Files that are whole or not there, and JSON that notices a changed byte."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SEAL = "seal"
_PIECE = 1 << 20


class SealError(ValueError):
    """A sealed file is not what was written; the message names it."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, waiting for it: one writer at a time, released by the kernel when it dies.

    What a writer that died left half written is removed.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for left in folder.glob(".*.new"):
            left.unlink()
        yield
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents so that a power cut cannot take them away again."""
    missing = []
    here = folder
    while not here.is_dir():
        missing.append(here)
        here = here.parent
    for made in reversed(missing):
        try:
            made.mkdir()
        except FileExistsError:  # another writer was faster
            continue
        _sync_folder(made.parent)


def replace_file(path: Path, body: bytes) -> None:
    """Write a file durably; readers see the old one or the new one. Needs the folder's lock."""
    beside = _write_beside(path, body)
    beside.replace(path)
    _sync_folder(path.parent)


def create_file(path: Path, body: bytes) -> None:
    """Write a file durably if there is none; FileExistsError else. Needs the folder's lock."""
    beside = _write_beside(path, body)
    try:
        os.link(beside, path)
    finally:
        beside.unlink()
    _sync_folder(path.parent)


def _write_beside(path: Path, body: bytes) -> Path:
    """Write next to `path` under a name that the next writer removes, should this one die."""
    beside = path.with_name(f".{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        left = memoryview(body)
        while left:
            left = left[os.write(fd, left[:_PIECE]) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    return beside


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def seal(body: Mapping[str, Any]) -> bytes:
    """Return an object as canonical JSON that carries its own SHA-256."""
    return _dump({**body, _SEAL: _digest(body)})


def unseal(path: Path) -> dict[str, Any]:
    """Read a sealed file; SealError when any byte of it changed, FileNotFoundError when it is not there."""
    raw = path.read_bytes()
    try:
        body = json.loads(raw)
    except ValueError as error:
        raise SealError(f"{path}: is no JSON: {error}") from error
    if not isinstance(body, dict) or _dump(body) != raw:
        raise SealError(f"{path}: is not as it was written")
    if body.pop(_SEAL, None) != _digest(body):
        raise SealError(f"{path}: its seal does not fit")
    return body


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(body)).hexdigest()


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
