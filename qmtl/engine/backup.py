"""Copies of a journal that are whole: its SQLite file by the online backup, its segments beside it."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from qmtl.engine.halt_marker import HaltMarker, write_marker
from qmtl.engine.journal import JournalError, open_journal
from qmtl.engine.owner import AccountLock, require_local
from qmtl.engine.segments import folder_of


class JournalSummary(msgspec.Struct, frozen=True):
    """What a journal holds: its last record, how many orders, when its last record was (UTC ms)."""

    account: str
    last_seq: int
    orders: int
    last_ms: int
    epochs: int


class Restored(msgspec.Struct, frozen=True):
    """What a restore did: the journal now, the one that was there before and where it was kept.

    `before` is None without one, and when it could not be read.
    """

    journal: JournalSummary
    before: JournalSummary | None
    kept: Path | None


def lock_path(journal: Path) -> Path:
    """Return the lock file of the process that writes this journal."""
    return journal.with_name(journal.name + ".lock")


def summarize(journal: Path) -> JournalSummary:
    """Count what is in a journal; JournalError when it is none, damaged or of another version."""
    with closing(open_journal(journal)) as db:
        try:
            sealed = db.execute("SELECT coalesce(max(last_seq), 0) FROM segments").fetchone()[0]
            last, at_ms = db.execute(
                "SELECT coalesce(max(seq), 0), coalesce(max(ts_ms), 0) FROM records"
            ).fetchone()
            orders = db.execute("SELECT count(*) FROM records WHERE type = 'IntentRecorded'").fetchone()[0]
            account = db.execute("SELECT value FROM meta WHERE key = 'account'").fetchone()
            epochs = db.execute("SELECT count(*) FROM epochs").fetchone()[0]
        except sqlite3.Error as error:
            raise JournalError(f"{journal}: {error}") from None
    return JournalSummary(
        "" if account is None else str(account[0]), max(last, sealed), orders, at_ms, epochs
    )


def back_up(journal: Path, folder: Path, *, stamp: str, keep: int = 48) -> Path:
    """Copy a journal, in use or not, to `folder` as NAME-STAMP.db and drop all but the `keep` newest.

    Returns the copy. A copy is complete or absent: it gets its name last. JournalError names what failed.
    """
    target = folder / f"{journal.stem}-{stamp}.db"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(journal, target)
        for old in find_backups(journal, folder)[:-keep]:
            old.unlink(missing_ok=True)
            shutil.rmtree(folder_of(old), ignore_errors=True)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"{target}: backup failed: {error}") from None
    return target


def find_backups(journal: Path, folder: Path) -> list[Path]:
    """Return the backups of a journal in `folder`, oldest first."""
    return sorted(folder.glob(f"{journal.stem}-*.db"), key=lambda path: path.name)


def restore(backup: Path, journal: Path, *, who: str, now_ms: int, stamp: str) -> Restored:
    """Put a backup in a journal's place; a journal that was there is kept beside it, renamed.

    The next start begins HALTED and with a new epoch, so no order id is ever minted twice. Raises
    JournalError naming a damaged backup, or the process that owns the journal.
    """
    wanted = summarize(backup)
    with closing(open_journal(backup)) as db:
        verdict = db.execute("PRAGMA integrity_check").fetchone()[0]
    if verdict != "ok":
        raise JournalError(f"{backup}: damaged: {verdict}")
    require_local(journal)
    lock = AccountLock(lock_path(journal), account=wanted.account, started_ms=now_ms)
    lock.acquire()
    try:
        before = _summarize_if_whole(journal)
        if before is not None and before.account != wanted.account:
            raise JournalError(f"{backup}: is of account {wanted.account}, {journal} is of {before.account}")
        write_marker(journal, HaltMarker(who, f"restored from {backup.name}", now_ms))
        kept = _set_aside(journal, stamp, is_whole=before is not None) if journal.exists() else None
        _set_leftovers_aside(journal, stamp)
        _copy(backup, journal)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"{journal}: restore failed: {error}") from None
    finally:
        lock.release()
    return Restored(summarize(journal), before, kept)


def _summarize_if_whole(journal: Path) -> JournalSummary | None:
    """Count what is in the journal a restore replaces; None without one, or when it cannot be read."""
    try:
        return summarize(journal) if journal.exists() else None
    except JournalError:
        return None


def _set_leftovers_aside(journal: Path, stamp: str) -> None:
    """Move away what a journal that is gone left behind: SQLite would read its log into the new file."""
    kept = _kept_name(journal, stamp)
    for end in ("-wal", "-shm"):
        left = journal.with_name(journal.name + end)
        if left.exists():
            left.replace(kept.with_name(kept.name + end))
    if folder_of(journal).exists():
        folder_of(journal).replace(folder_of(kept))


def _kept_name(journal: Path, stamp: str) -> Path:
    return journal.with_name(f"{journal.stem}.before-{stamp}.db")


def _set_aside(journal: Path, stamp: str, *, is_whole: bool) -> Path:
    kept = _kept_name(journal, stamp)
    if not is_whole:
        return journal.replace(kept)
    with closing(sqlite3.connect(journal)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for end in ("-wal", "-shm"):
        journal.with_name(journal.name + end).unlink(missing_ok=True)
    if folder_of(journal).exists():
        folder_of(journal).replace(folder_of(kept))
    return journal.replace(kept)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(target.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with closing(open_journal(source)) as db, closing(sqlite3.connect(temporary)) as copy:
        db.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")
        names = [row[0] for row in copy.execute("SELECT file FROM segments")]
    if names:
        folder_of(target).mkdir(parents=True, exist_ok=True)
    for name in names:
        _share(folder_of(source) / name, folder_of(target) / name)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


def _share(source: Path, target: Path) -> None:
    # A sealed segment never changes, so a second name for it is a copy that costs nothing.
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
