"""Market data moves into sealed daily segments; nothing a replay reads changes by it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from qmtl.core import event as ev
from qmtl.core.interval import DAY_MS
from qmtl.engine import segments
from qmtl.engine.journal import JournalError, SqliteJournal, open_journal, read_events
from qmtl.engine.segments import first_snapshot, folder_of

DAYS = 4


def price(ts_ms: int) -> ev.PriceUpdated:
    return ev.PriceUpdated(ts_ms, "BTCUSDT", ts_ms, 1.0, 1.0, 1.0, 1.0, 1.0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    """Four days of one price, one timer each quarter."""
    opened = SqliteJournal(tmp_path / "a.db", "e")
    for quarter in range(DAYS * 4):
        ts_ms = quarter * DAY_MS // 4
        opened.extend([price(ts_ms), ev.TimerFired(ts_ms)])
    opened.commit()
    yield opened
    opened.close()


def table_rows(journal: SqliteJournal) -> int:
    return int(journal._db.execute("SELECT count(*) FROM records").fetchone()[0])


def test_nothing_is_sealed_that_no_snapshot_covers(journal: SqliteJournal) -> None:
    journal.seal(DAYS)
    assert table_rows(journal) == DAYS * 8


@pytest.mark.parametrize("after", [0, 1, 7, 8, 9, 20, 31, 32])
def test_reading_is_the_same_before_and_after_sealing(journal: SqliteJournal, after: int) -> None:
    before = list(journal.read(after))
    journal.store_snapshot(b"state", "hash", 5)
    journal.seal(DAYS - 1)
    assert table_rows(journal) == DAYS * 8 - (DAYS - 1) * 4
    assert sorted(path.name for path in folder_of(journal.path).iterdir()) == ["0.seg", "1.seg", "2.seg"]
    assert list(journal.read(after)) == before
    journal.append(ev.TimerFired(99))
    assert [seq for seq, _ in journal.read(after)][-1] == DAYS * 8 + 1


def test_sealing_again_changes_nothing(journal: SqliteJournal) -> None:
    journal.store_snapshot(b"state", "hash", 5)
    journal.seal(2)
    before = {path.name: path.read_bytes() for path in folder_of(journal.path).iterdir()}
    journal.seal(2)
    assert {path.name: path.read_bytes() for path in folder_of(journal.path).iterdir()} == before


def test_numbers_go_on_when_every_record_is_sealed(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    journal.extend([price(1), price(2)])
    journal.store_snapshot(b"state", "hash", 5)
    journal.seal(1)
    journal.close()
    journal = SqliteJournal(tmp_path / "a.db", "f")
    assert journal.seq == 2
    assert [seq for seq, _ in journal.read()] == [1, 2]
    journal.close()


def test_segments_are_opened_one_after_the_other(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A year of segments must not lie in memory at once."""
    journal.store_snapshot(b"state", "hash", 5)
    journal.seal(DAYS)
    opened: list[str] = []
    read = segments._read

    def watched(path: Path, digest: str, after_seq: int) -> Iterator[tuple[int, bytes]]:
        opened.append(path.name)
        return read(path, digest, after_seq)

    monkeypatch.setattr(segments, "_read", watched)
    seen = []
    for seq, _ in journal.read():
        seen.append((seq, len(opened)))
    assert [count for seq, count in seen if seq in {1, 9, 17, 25}] == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_segment_is_named(journal: SqliteJournal, damage: str) -> None:
    journal.store_snapshot(b"state", "hash", 5)
    journal.seal(2)
    path = folder_of(journal.path) / "1.seg"
    body = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(body[:-3] if damage == "cut" else bytes([body[0] ^ 1]) + body[1:])
    with pytest.raises(JournalError, match=r"1\.seg") as error:
        list(journal.read())
    assert "\n" not in str(error.value)


def test_a_seal_that_cannot_be_written_keeps_the_records(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.store_snapshot(b"state", "hash", 5)
    folder_of(journal.path).write_text("in the way")
    with pytest.raises(JournalError):
        journal.seal(2)
    assert table_rows(journal) == DAYS * 8
    assert len(list(journal.read())) == DAYS * 8


def test_of_one_day_two_snapshots_are_kept_and_the_newest_is_given(journal: SqliteJournal) -> None:
    for number in range(4):
        journal.append(ev.TimerFired(number))
        journal.store_snapshot(b"%d" % number, "hash", number)
    assert journal.snapshot() == (DAYS * 8 + 4, b"3")
    assert journal._db.execute("SELECT count(*) FROM snapshots").fetchone() == (2,)


def test_old_segments_go_with_their_files(journal: SqliteJournal) -> None:
    journal.store_snapshot(b"state", "hash", 5)
    journal.seal(3, keep_from_day=2)
    assert [path.name for path in folder_of(journal.path).iterdir()] == ["2.seg"]
    kept = [event for _, event in journal.read() if isinstance(event, ev.PriceUpdated)]
    assert {event.ts_ms // DAY_MS for event in kept} == {2, 3}


def test_what_a_replay_starts_from_outlives_the_days_before_it(tmp_path: Path) -> None:
    """Each day's last snapshot is kept, until the day's prices are dropped and an older one is of no use."""
    journal = SqliteJournal(tmp_path / "a.db", "e")
    for day in range(DAYS):
        for hour in range(4):
            ts_ms = day * DAY_MS + hour * 3_600_000
            journal.append(price(ts_ms))
            journal.store_snapshot(b"%d.%d" % (day, hour), "hash", ts_ms)
    with closing(open_journal(journal.path)) as db:
        kept = [row[0] for row in db.execute("SELECT body FROM snapshots ORDER BY seq")]
        assert kept == [b"0.3", b"1.3", b"2.3", b"3.2", b"3.3"]
        assert first_snapshot(db) is None
        journal.seal(3, keep_from_day=2)
        assert first_snapshot(db) == (8, b"1.3")
        assert [seq for seq, _ in read_events(db, journal.path, 8)] == list(range(9, 17))
    journal.close()


def test_a_seal_that_was_interrupted_shows_nothing_twice_and_is_finished(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(journal.read())
    journal.store_snapshot(b"state", "hash", 5)
    monkeypatch.setattr(segments, "_delete", lambda *_: None)
    journal.seal(2)
    assert table_rows(journal) == DAYS * 8
    assert list(journal.read()) == before
    monkeypatch.undo()
    journal.seal(2)
    assert table_rows(journal) == DAYS * 8 - 2 * 4
    assert list(journal.read()) == before


def test_the_writer_goes_on_while_a_day_is_sealed(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    journal.extend([price(n) for n in range(20_000)])
    journal.store_snapshot(b"state", "hash", 5)
    sealing = threading.Thread(target=journal.seal, args=(1,))
    sealing.start()
    written = 0
    while sealing.is_alive() or not written:
        journal.append(price(DAY_MS + written))
        journal.commit()
        written += 1
        sealing.join(0.001)
    sealing.join()
    assert table_rows(journal) == written
    assert [seq for seq, _ in journal.read()] == list(range(1, 20_001 + written))
    journal.close()


def test_a_reader_sees_the_segments_too(journal: SqliteJournal) -> None:
    journal.store_snapshot(b"state", "hash", 5)
    journal.seal(2)
    db = open_journal(journal.path)
    try:
        assert list(read_events(db, journal.path)) == list(journal.read())
        with pytest.raises(sqlite3.OperationalError):
            db.execute("DELETE FROM records")
    finally:
        db.close()
