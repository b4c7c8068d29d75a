"""A file beside the journal that makes the next start begin HALTED: written when no owner can be told."""

import os
from pathlib import Path

import msgspec

from qmtl.engine.journal import JournalError


class HaltMarker(msgspec.Struct, frozen=True):
    """Who wanted the halt, why, and when (UTC milliseconds)."""

    who: str
    why: str
    at_ms: int


def marker_path(journal: Path) -> Path:
    """Return where the marker of a journal lies."""
    return journal.with_name(journal.name + ".halt")


def write_marker(journal: Path, marker: HaltMarker) -> Path:
    """Leave the marker, durable when this returns; JournalError when it cannot be written."""
    path = marker_path(journal)
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(marker))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise JournalError(f"{path}: cannot write the halt marker: {error.strerror}") from None
    return path


def read_marker(journal: Path) -> HaltMarker | None:
    """Return the marker, None without one; one that cannot be read still halts."""
    path = marker_path(journal)
    try:
        return msgspec.json.decode(path.read_bytes(), type=HaltMarker)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError):
        return HaltMarker("unknown", f"{path} exists but cannot be read", 0)


def clear_marker(journal: Path) -> None:
    """Remove the marker once HALTED itself is journaled."""
    marker_path(journal).unlink(missing_ok=True)
