"""How many broken decisions `qmtl parity` found, in a file beside the journal, for the trader's metrics."""

from pathlib import Path

from qmtl.engine.journal import JournalError


def record_path(journal: Path) -> Path:
    """Return where the record of a journal lies."""
    return journal.with_name(journal.name + ".parity")


def read_breaks(journal: Path) -> int:
    """Return how many breaks were found in all; 0 without a record that can be read."""
    try:
        return int(record_path(journal).read_text("ascii"))
    except (OSError, ValueError):
        return 0


def add_breaks(journal: Path, count: int) -> None:
    """Add breaks to the record; JournalError when it cannot be written."""
    path = record_path(journal)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(str(read_breaks(journal) + count), "ascii")
        temporary.replace(path)
    except OSError as error:
        raise JournalError(f"{path}: cannot record the breaks: {error.strerror}") from None
