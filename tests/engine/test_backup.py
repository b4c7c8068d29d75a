import sqlite3
import threading
from decimal import Decimal
from pathlib import Path

import pytest

from qmtl.core.event import BarClosed, IntentRecorded, TimerFired
from qmtl.core.interval import DAY_MS
from qmtl.core.order import OrderIntent, Side
from qmtl.engine.backup import back_up, find_backups, lock_path, restore, summarize
from qmtl.engine.halt_marker import HaltMarker, clear_marker, marker_path, read_marker, write_marker
from qmtl.engine.journal import JournalError, SqliteJournal, open_journal, read_events
from qmtl.engine.owner import AccountLock
from qmtl.engine.segments import folder_of


def intent(number: int) -> IntentRecorded:
    order = OrderIntent(symbol="BTCUSDT", side=Side.BUY, quantity=Decimal("0.01"))
    return IntentRecorded(number, f"q{number}", number, order)


def fill(journal: SqliteJournal, start: int, count: int) -> None:
    for number in range(start, start + count):
        journal.append(intent(number))
    journal.commit()


def records(path: Path) -> list[int]:
    db = open_journal(path)
    try:
        return [seq for seq, _ in read_events(db, path)]
    finally:
        db.close()


def test_a_backup_of_a_journal_in_use_is_whole_and_restores(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    journal = SqliteJournal(path, "epoch-1", account="desk")
    fill(journal, 1, 500)
    running = threading.Event()

    def write() -> None:
        with_own = SqliteJournal(path, "epoch-2", account="desk")
        for number in range(1_000, 1_200):
            with_own.append(intent(number))
            with_own.commit()
            running.set()
        with_own.close()

    writer = threading.Thread(target=write)
    writer.start()
    assert running.wait(60)
    copy = back_up(path, tmp_path / "backups", stamp="20261121T120000")
    writer.join()
    journal.close()
    found = records(copy)
    assert 501 <= len(found) <= 700
    assert found == list(range(1, len(found) + 1))
    assert summarize(copy).orders == len(found)


def test_restore_sets_aside_marks_halted_and_tells_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    journal = SqliteJournal(path, "epoch-1", account="desk")
    fill(journal, 1, 10)
    copy = back_up(path, tmp_path / "backups", stamp="1")
    fill(journal, 11, 1_000)
    journal.close()
    done = restore(copy, path, who="tester", now_ms=5, stamp="2")
    assert done.before is not None
    assert (done.before.orders - done.journal.orders, done.journal.last_seq) == (1_000, 10)
    assert done.kept == tmp_path / "desk.before-2.db"
    assert len(records(done.kept)) == 1_010
    marker = read_marker(path)
    assert marker == HaltMarker("tester", "restored from desk-1.db", 5)
    again = SqliteJournal(path, "epoch-2", account="desk")
    fill(again, 20_000, 1)
    again.close()
    assert summarize(path).epochs == 2


def test_what_a_lost_journal_left_behind_does_not_reach_the_restored_one(tmp_path: Path) -> None:
    """SQLite reads any log of the right name into the file: of a killed trader's, and of a moved file's."""
    path = tmp_path / "desk.db"
    log, segments = path.with_name("desk.db-wal"), folder_of(path)
    journal = SqliteJournal(path, "epoch-1", account="desk")
    fill(journal, 1, 20)
    backup = back_up(path, tmp_path / "backups", stamp="1")
    fill(journal, 21, 300)
    left = log.read_bytes()
    journal.close()
    path.unlink()
    log.write_bytes(left)
    segments.mkdir()
    (segments / "0.seg").write_text("of another life")
    done = restore(backup, path, who="ops", now_ms=5, stamp="2")
    assert (done.journal.orders, done.before, done.kept) == (20, None, None)
    assert records(path) == list(range(1, 21))
    assert not segments.exists()
    assert (tmp_path / "desk.before-2.db-wal").read_bytes() == left


def test_a_damaged_journal_is_set_aside_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    journal = SqliteJournal(path, "epoch-1", account="desk")
    fill(journal, 1, 20)
    backup = back_up(path, tmp_path / "backups", stamp="1")
    journal.close()
    path.write_bytes(b"no database" * 100)
    done = restore(backup, path, who="ops", now_ms=5, stamp="2")
    assert (done.journal.orders, done.before) == (20, None)
    assert done.kept is not None
    assert done.kept.read_bytes().startswith(b"no database")
    assert records(path) == list(range(1, 21))


def test_sealed_segments_travel_with_the_backup(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    journal = SqliteJournal(path, "epoch", account="desk")
    for day in range(3):
        journal.append(BarClosed(day * DAY_MS, "BTCUSDT", day * DAY_MS, 1, 1, 1, 1, 1))
    journal.append(TimerFired(3 * DAY_MS))
    journal.store_snapshot(b"state", "hash", 3 * DAY_MS)
    journal.seal(3)
    journal.close()
    copy = back_up(path, tmp_path / "backups", stamp="1")
    restored = tmp_path / "clean" / "desk.db"
    restored.parent.mkdir()
    restore(copy, restored, who="tester", now_ms=1, stamp="2")
    assert records(restored) == records(path) == [1, 2, 3, 4]


def test_only_the_newest_backups_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    journal = SqliteJournal(path, "epoch", account="desk")
    fill(journal, 1, 1)
    journal.close()
    for number in range(5):
        back_up(path, tmp_path / "b", stamp=f"0{number}", keep=2)
    assert [copy.name for copy in find_backups(path, tmp_path / "b")] == ["desk-03.db", "desk-04.db"]


def test_a_running_owner_is_named_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    journal = SqliteJournal(path, "epoch", account="desk")
    fill(journal, 1, 3)
    journal.close()
    copy = back_up(path, tmp_path / "b", stamp="1")
    lock = AccountLock(lock_path(path), account="desk")
    lock.acquire()
    with pytest.raises(JournalError, match=r"account desk is owned by pid \d+"):
        restore(copy, path, who="tester", now_ms=1, stamp="2")
    lock.release()
    assert read_marker(path) is None
    assert len(records(path)) == 3


def test_bad_backups_are_refused_by_name(tmp_path: Path) -> None:
    target = tmp_path / "desk.db"
    with pytest.raises(JournalError, match=r"none\.db: no such journal"):
        restore(tmp_path / "none.db", target, who="t", now_ms=1, stamp="1")
    (tmp_path / "text.db").write_text("not a database, but long enough to look like one", "utf-8")
    with pytest.raises(JournalError, match=r"text\.db"):
        restore(tmp_path / "text.db", target, who="t", now_ms=1, stamp="1")
    for name, account in (("one.db", "desk"), ("two.db", "other")):
        SqliteJournal(tmp_path / name, "epoch", account=account).close()
    with pytest.raises(JournalError, match=r"is of account other, .* is of desk"):
        restore(tmp_path / "two.db", tmp_path / "one.db", who="t", now_ms=1, stamp="1")
    with sqlite3.connect(tmp_path / "two.db") as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    db.close()
    with pytest.raises(JournalError, match="written by a newer qmtl"):
        restore(tmp_path / "two.db", target, who="t", now_ms=1, stamp="1")
    assert not target.exists()


def test_a_marker_that_cannot_be_read_still_halts(tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    assert read_marker(path) is None
    write_marker(path, HaltMarker("a", "b", 1))
    marker_path(path).write_text("{", "utf-8")
    marker = read_marker(path)
    assert marker is not None
    assert "cannot be read" in marker.why
    clear_marker(path)
    clear_marker(path)
    assert read_marker(path) is None
