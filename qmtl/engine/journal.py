"""The journal: one append-only record per account in one SQLite file."""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from qmtl.core.event import AnyEvent, IntentRecorded, StateChanged, dump_event, parse_event
from qmtl.core.interval import DAY_MS
from qmtl.core.order import UNSETTLED, BrokerageError
from qmtl.core.reason import TradingState
from qmtl.engine.intents import IntentEntry, Intents
from qmtl.engine.ports import EventJournal
from qmtl.engine.segments import SegmentError, drop_segments, read_records, seal_days

SCHEMA_VERSION = 1
_SEAL_WAIT_S = 60.0

# One index, and that for safety: an intent is written once. Every further index is a page more in each
# commit that an order waits for; people's questions can wait for a scan.
_SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE records(
  seq INTEGER PRIMARY KEY, ts_ms INTEGER NOT NULL, type TEXT NOT NULL, client_order_id TEXT,
  body BLOB NOT NULL);
CREATE UNIQUE INDEX records_intent ON records(client_order_id) WHERE type = 'IntentRecorded';
CREATE TABLE epochs(
  epoch TEXT PRIMARY KEY, opened_ms INTEGER NOT NULL, after_seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots(
  seq INTEGER PRIMARY KEY, ts_ms INTEGER NOT NULL, hash TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE segments(
  day INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, rows INTEGER NOT NULL,
  file TEXT NOT NULL, digest TEXT NOT NULL);
"""


class JournalError(BrokerageError):
    """The journal is not durable, not ours, or not readable; nothing was sent."""


class DivergenceError(Exception):
    """Replaying decided something else than what is recorded; the message names the record."""


class SqliteJournal:
    """One SQLite file (WAL, synchronous=FULL): a committed group is on disk when `commit` returns."""

    def __init__(self, path: Path, epoch: str, *, account: str = "", opened_ms: int = 0) -> None:
        """Open or create; every opening adds an epoch. JournalError names what does not fit.

        A journal belongs to one account; another account's is refused, and so is one of a newer program.
        """
        self.path = path
        self.epoch = epoch
        self._buffer: list[tuple[int, int, str, str | None, bytes]] = []
        # The engine writes on its loop, a broker client given this journal on the SDK's.
        self._lock = threading.RLock()
        self._db = _open(path, account)
        self._seq = self._last_seq()
        try:
            self._db.execute("INSERT INTO epochs VALUES (?, ?, ?)", (epoch, opened_ms, self._seq))
        except sqlite3.Error as error:
            self._db.close()
            raise _failure(path, error) from error

    @property
    def seq(self) -> int:
        """Number of the last appended record."""
        return self._seq

    def append(self, event: AnyEvent) -> None:
        """See ports.EventJournal."""
        body = dump_event(event)
        key = getattr(event, "client_order_id", None)
        with self._lock:
            self._seq += 1
            self._buffer.append((self._seq, event.ts_ms, type(event).__name__, key or None, body))

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """See ports.EventJournal."""
        for event in events:
            self.append(event)

    @property
    def pending(self) -> int:
        """How many appended records are not yet durable."""
        return len(self._buffer)

    def commit(self) -> None:
        """See ports.EventJournal: one transaction, on disk when this returns."""
        with self._lock:
            if not self._buffer:
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?)", self._buffer)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise _failure(self.path, error) from error
            self._buffer.clear()

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """See ports.EventJournal; sealed segments are read in their place."""
        self.commit()
        yield from read_events(self._db, self.path, after_seq)

    def read_orders(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """Yield (seq, event) of all that concerns orders and the trading state, in order."""
        self.commit()
        query = (
            "SELECT seq, body FROM records WHERE seq > ?"
            " AND (client_order_id IS NOT NULL OR type = 'StateChanged') ORDER BY seq"
        )
        with self._lock:
            rows = self._db.execute(query, (after_seq,)).fetchall()
        for seq, body in rows:
            yield seq, parse_event(body)

    def snapshot(self) -> tuple[int, bytes] | None:
        """Return (seq, body) of the newest snapshot, or None."""
        try:
            row = self._db.execute("SELECT seq, body FROM snapshots ORDER BY seq DESC LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise _failure(self.path, error) from error
        return None if row is None else (row[0], row[1])

    def store_snapshot(self, body: bytes, digest: str, ts_ms: int) -> None:
        """Keep the engine's state as of the last appended record, the one before, and each day's last."""
        self.commit()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute(
                "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?)", (self._seq, ts_ms, digest, body)
            )
            self._db.execute(
                "DELETE FROM snapshots WHERE seq NOT IN (SELECT seq FROM snapshots ORDER BY seq DESC LIMIT 2)"
                " AND seq NOT IN (SELECT max(seq) FROM snapshots GROUP BY ts_ms / ?)",
                (DAY_MS,),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise _failure(self.path, error) from error

    def seal(self, before_day: int, keep_from_day: int = 0) -> None:
        """Move market data of UTC days before `before_day` that a snapshot covers into sealed segments.

        Segments of days before `keep_from_day` go. May run in a thread beside the writer.
        """
        try:
            with closing(sqlite3.connect(self.path, timeout=_SEAL_WAIT_S, isolation_level=None)) as db:
                # Only the order of its transactions matters; the writer's are the ones to be safe at once.
                db.execute("PRAGMA synchronous=NORMAL")
                (covered_seq,) = db.execute("SELECT max(seq) FROM snapshots").fetchone()
                if covered_seq is not None:
                    seal_days(db, self.path, before_day, covered_seq)
                    drop_segments(db, self.path, keep_from_day)
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{self.path}: {error}") from error

    def intents(self) -> Iterator[IntentRecorded]:
        """Yield every intent ever recorded, in order."""
        self.commit()
        for (body,) in self._db.execute(
            "SELECT body FROM records WHERE type = 'IntentRecorded' ORDER BY seq"
        ):
            event = parse_event(body)
            if isinstance(event, IntentRecorded):
                yield event

    def history(self, client_order_id: str) -> Iterator[tuple[int, AnyEvent]]:
        """Yield (seq, event) of everything recorded about one order."""
        self.commit()
        query = "SELECT seq, body FROM records WHERE client_order_id = ? ORDER BY seq"
        for seq, body in self._db.execute(query, (client_order_id,)):
            yield seq, parse_event(body)

    def close(self) -> None:
        """See ports.EventJournal."""
        try:
            self.commit()
        finally:
            self._db.close()

    def _last_seq(self) -> int:
        row = self._db.execute(
            "SELECT max((SELECT coalesce(max(seq), 0) FROM records),"
            " (SELECT coalesce(max(last_seq), 0) FROM segments),"
            " (SELECT coalesce(max(seq), 0) FROM snapshots))"
        ).fetchone()
        return int(row[0])


class IntentJournal:
    """Intents of broker clients and where each stands: durable in `journal` before anything is sent.

    Several clients and accounts may share one; it owns epoch, ordinals and blocked instruments. Also over
    an engine's journal: there it knows the engine's intents and adds its own beside them.
    """

    def __init__(self, journal: EventJournal) -> None:
        """Fold what `journal` holds; JournalError when it cannot be read."""
        self.journal = journal
        self.intents = Intents()
        self._ordinals: dict[str, int] = {}
        self._seq = 0
        self.refresh()
        entries = self.intents.entries
        self.interrupted = {key for key, e in entries.items() if e.body and e.order.status in UNSETTLED}
        """Orders that a process which ended may have been sending; their clients look them up."""

    @property
    def epoch(self) -> str:
        """Random per opening; part of every client order id."""
        return self.journal.epoch

    def next_ordinal(self, strategy: str) -> int:
        """Count one more intent of `strategy`."""
        self._ordinals[strategy] = ordinal = self._ordinals.get(strategy, 0) + 1
        return ordinal

    def refresh(self) -> None:
        """Make durable what was appended, and fold what is new; JournalError when it cannot be."""
        self.journal.commit()
        read = getattr(self.journal, "read_orders", self.journal.read)
        for seq, event in read(self._seq):
            self.intents.fold(event)
            self._seq = seq

    def find(self, client_order_id: str) -> IntentEntry | None:
        """Return what is known of an intent, None when it was never recorded."""
        known = self.intents.entries.get(client_order_id)
        if (
            known is None
            and self.intents.has_forgotten
            and (history := getattr(self.journal, "history", None)) is not None
        ):
            past = Intents()
            for _, event in history(client_order_id):
                past.fold(event)
            # Its fills are counted: only the order itself comes back.
            if (known := past.entries.get(client_order_id)) is not None:
                self.intents.entries[client_order_id] = known
        return known

    def record(self, event: IntentRecorded) -> IntentEntry:
        """Write an intent: SUBMITTED once durable; after a JournalError it stays INITIALIZED."""
        entry = self.intents.add(event)
        self.journal.append(event)
        self.refresh()
        return entry

    def report(self, event: AnyEvent) -> None:
        """Write where an order stands now, or that an intent was refused; JournalError when not durable."""
        self.journal.append(event)
        self.refresh()

    def set_state(self, state: TradingState, who: str, why: str, ts_ms: int) -> None:
        """Change the trading state of every account in this journal; it survives restarts."""
        self.journal.append(StateChanged(ts_ms, state, who, why))
        self.refresh()

    def close(self) -> None:
        """Commit and release."""
        self.journal.close()


def read_events(db: sqlite3.Connection, path: Path, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
    """Yield (seq, event) of the journal at `path`; JournalError when a record or segment is damaged."""
    try:
        for seq, body in read_records(db, path, after_seq):
            yield seq, parse_event(body)
    except (SegmentError, msgspec.DecodeError, sqlite3.Error) as error:
        message = f"{path}: {error}"
        raise JournalError(message) from error


def open_journal(path: Path) -> sqlite3.Connection:
    """Open an existing journal read-only; JournalError when it is none, or of another version."""
    if not path.is_file():
        message = f"{path}: no such journal"
        raise JournalError(message)
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise _failure(path, error) from error
    try:
        _check_version(db, path)
    except JournalError:
        db.close()
        raise
    return db


def _open(path: Path, account: str) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        message = f"{path}: {error}"
        raise JournalError(message) from error
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        _create(db, account)
        _check_version(db, path)
        _check_account(db, path, account)
    except sqlite3.Error as error:
        db.close()
        raise _failure(path, error) from error
    except JournalError:
        db.close()
        raise
    return db


def _create(db: sqlite3.Connection, account: str) -> None:
    """Write the schema into an empty file, whole or not at all; other people's databases stay as they are."""
    if db.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
        return
    db.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA.split(";"):
        if statement.strip():
            db.execute(statement)
    db.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
    db.execute("INSERT INTO meta VALUES ('account', ?)", (account,))
    db.execute("COMMIT")


def _check_version(db: sqlite3.Connection, path: Path) -> None:
    try:
        row = db.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise _failure(path, error) from error
        row = None
    except sqlite3.Error as error:
        message = f"{path}: not a qmtl journal ({error})"
        raise JournalError(message) from error
    if row is None or not str(row[0]).isdigit():
        message = f"{path}: not a qmtl journal"
        raise JournalError(message)
    version = int(row[0])
    if version > SCHEMA_VERSION:
        known = f"this one reads up to {SCHEMA_VERSION}"
        message = f"{path}: written by a newer qmtl (journal version {version}; {known})"
        raise JournalError(message)


def _check_account(db: sqlite3.Connection, path: Path, account: str) -> None:
    row = db.execute("SELECT value FROM meta WHERE key = 'account'").fetchone()
    owner = "" if row is None else row[0]
    if account and owner and owner != account:
        message = f"{path}: this journal is of account {owner}, not {account}"
        raise JournalError(message)
    if account and not owner:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('account', ?)", (account,))


def _failure(path: Path, error: sqlite3.Error) -> JournalError:
    return JournalError(f"{path}: {error}")
