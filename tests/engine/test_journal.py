"""The SQLite journal: durable where it says so, one line where it cannot be."""

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from qmtl.core import event as ev
from qmtl.core.order import OrderIntent, Side
from qmtl.engine.journal import SCHEMA_VERSION, JournalError, SqliteJournal, open_journal, read_events
from tests.engine.rig import intent

ROOT = Path(__file__).parents[2]


def timer(number: int) -> ev.TimerFired:
    return ev.TimerFired(number)


def recorded(number: int, what: OrderIntent | None = None) -> ev.IntentRecorded:
    return ev.IntentRecorded(number, f"q{number:026}", number, what or intent(Side.BUY))


def one_line(error: pytest.ExceptionInfo[JournalError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def run_writer(path: Path, body: str) -> subprocess.CompletedProcess[bytes]:
    program = f"""
        import os, signal, sys, resource
        from pathlib import Path
        from qmtl.core.event import TimerFired
        from qmtl.engine.journal import JournalError, SqliteJournal
        journal = SqliteJournal(Path(sys.argv[1]), "e")
        {body}
        os.kill(os.getpid(), signal.SIGKILL)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("[journal.append(TimerFired(n)) for n in (1, 2)]", []),
        ("[journal.append(TimerFired(n)) for n in (1, 2)]; journal.commit()", [1, 2]),
        ("journal.append(TimerFired(1)); journal.commit(); journal.append(TimerFired(2))", [1]),
    ],
)
def test_a_killed_process_leaves_exactly_what_it_committed(
    tmp_path: Path, body: str, kept: list[int]
) -> None:
    path = tmp_path / "a.db"
    done = run_writer(path, body)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    journal = SqliteJournal(path, "later")
    assert [event.ts_ms for _, event in journal.read()] == kept
    journal.append(timer(9))
    journal.commit()
    assert journal.seq == len(kept) + 1
    journal.close()


def test_a_full_disk_is_a_journal_error_and_keeps_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    body = """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal.append(TimerFired(1)); journal.commit()
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            for n in range(2, 40):
                for _ in range(500):
                    journal.append(TimerFired(n))
                journal.commit()
        except JournalError as error:
            print(error, flush=True)
        else:
            print("wrote it all", flush=True)
    """
    done = run_writer(path, textwrap.indent(textwrap.dedent(body).strip(), "        ").strip())
    text = done.stdout.decode().strip()
    assert text.startswith(str(path)), (text, done.stderr.decode())
    assert "\n" not in text
    journal = SqliteJournal(path, "later")
    kept = [event.ts_ms for _, event in journal.read()]
    journal.close()
    assert kept[0] == 1
    # Whole groups or nothing.
    assert all(kept.count(number) == 500 for number in set(kept[1:]))


def test_a_failed_commit_loses_nothing_that_a_later_one_can_write(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    journal = SqliteJournal(path, "e")
    journal.append(timer(1))
    journal._db.execute("PRAGMA query_only = ON")
    with pytest.raises(JournalError) as error:
        journal.commit()
    one_line(error, path)
    assert journal.pending == 1
    journal._db.execute("PRAGMA query_only = OFF")
    journal.append(timer(2))
    assert [seq for seq, _ in journal.read()] == [1, 2]
    journal.close()


def test_an_event_that_cannot_be_written_leaves_no_hole_in_the_numbers(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    with pytest.raises(TypeError):
        journal.append(ev.DecisionMade(1, "BTCUSDT", 1, "entered", "", {"x": object()}))  # type: ignore[arg-type,dict-item]
    journal.append(timer(1))
    assert [seq for seq, _ in journal.read()] == [1]
    journal.close()


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99])
def test_a_newer_journal_is_refused_in_one_line(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.db"
    SqliteJournal(path, "e").close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (str(version),))
    db.close()
    for attempt in (lambda: SqliteJournal(path, "f"), lambda: open_journal(path)):
        with pytest.raises(JournalError) as error:
            attempt()
        assert f"journal version {version}" in one_line(error, path)


def test_another_accounts_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SqliteJournal(path, "e", account="mine").close()
    with pytest.raises(JournalError) as error:
        SqliteJournal(path, "f", account="yours")
    assert "of account mine, not yours" in one_line(error, path)
    SqliteJournal(path, "g", account="mine").close()
    SqliteJournal(path, "h").close()


def test_a_journal_without_account_belongs_to_the_first_that_names_one(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SqliteJournal(path, "e").close()
    SqliteJournal(path, "f", account="mine").close()
    with pytest.raises(JournalError, match="of account mine"):
        SqliteJournal(path, "g", account="yours")


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be read as one" * 100, b"\0" * 4096]
)
def test_a_damaged_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(JournalError) as error:
        SqliteJournal(path, "e")
    one_line(error, path)


def test_somebody_elses_database_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE notes(text)")
    db.close()
    with pytest.raises(JournalError, match="not a qmtl journal"):
        SqliteJournal(path, "e")
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("notes",)]
    db.close()


def test_a_locked_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    journal = SqliteJournal(path, "e")
    journal._db.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    journal.append(timer(1))
    with pytest.raises(JournalError, match="locked") as error:
        journal.commit()
    one_line(error, path)
    other.execute("ROLLBACK")
    other.close()
    journal.close()
    assert [e.ts_ms for _, e in read_events(open_journal(path), path)] == [1]


def test_a_missing_journal_and_a_bad_place_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such journal"):
        open_journal(tmp_path / "none.db")
    (tmp_path / "file").write_text("x")
    path = tmp_path / "file" / "a.db"
    with pytest.raises(JournalError) as error:
        SqliteJournal(path, "e")
    one_line(error, path)


def test_an_intent_is_written_once(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    journal.append(recorded(1))
    journal.commit()
    journal.append(recorded(1))
    with pytest.raises(JournalError, match="UNIQUE"):
        journal.commit()
    journal._buffer.clear()
    journal.close()


def test_an_epoch_opens_a_journal_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SqliteJournal(path, "e").close()
    with pytest.raises(JournalError, match="UNIQUE"):
        SqliteJournal(path, "e")


def test_intents_and_the_history_of_one_order(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    journal.extend([recorded(1), timer(2), ev.OrderAccepted(3, f"q{1:026}", "v"), recorded(4)])
    assert [event.ordinal for event in journal.intents()] == [1, 4]
    assert [seq for seq, _ in journal.history(f"q{1:026}")] == [1, 3]
    journal.close()


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    journal = SqliteJournal(path, "e")
    journal.extend([timer(1), timer(2)])
    journal.commit()
    journal._db.execute("UPDATE records SET body = x'9301' WHERE seq = 2")
    with pytest.raises(JournalError) as error:
        list(journal.read())
    one_line(error, path)
    journal.close()
