"""Bad input: one line on stderr naming the thing, exit code 2, nothing started, nothing written."""

import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from qmtl.engine.backup import lock_path
from qmtl.engine.journal import SqliteJournal
from qmtl.engine.owner import AccountLock
from tests.cli.command import qmtl

MINUTE_MS = 60_000


def frame(times: list[int]) -> pl.DataFrame:
    size = len(times)
    columns = {name: [100.0] * size for name in ("open", "high", "low", "close", "volume")}
    return pl.DataFrame({"open_time": times, **columns})


@pytest.fixture
def here(home: Path) -> Path:
    """A home with candle files and journals of every bad kind."""
    grid = [MINUTE_MS * n for n in range(1, 11)]
    frame([*grid[:4], grid[2], *grid[5:]]).write_parquet(home / "backwards.parquet")
    frame(grid).drop("close", "volume").write_csv(home / "columns.csv")
    frame(grid).with_columns(low=pl.lit(101.0)).write_ipc(home / "low.feather")
    (home / "junk.feather").write_bytes(b"no candles at all")
    (home / "candles.txt").write_text("open_time,open\n", "utf-8")
    SqliteJournal(home / "newer.db", "epoch", account="a").close()
    with closing(sqlite3.connect(home / "newer.db")) as db, db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    SqliteJournal(home / "empty.db", "epoch", account="a").close()
    return home


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("demo --data backwards.parquet", ["backwards.parquet", "row 4", "not after the row before"]),
        ("demo --data columns.csv", ["columns.csv", "missing columns close, volume"]),
        ("demo --data low.feather", ["low.feather", "row 0", "low <= open"]),
        ("demo --data junk.feather", ["junk.feather", "cannot be read"]),
        ("demo --data none.feather", ["none.feather", "no such file"]),
        ("demo --data candles.txt", ["candles.txt", ".feather, .parquet"]),
        ("demo --speed 0", ["--speed", "found 0", "> 0"]),
        ("demo --speed -3", ["--speed", "found -3", "> 0"]),
        ("demo --speed fast", ["--speed", "fast"]),
        ("demo --for 0", ["--for", "found 0", "> 0"]),
        ("demo --symbol ?", ["--symbol", "BTC/USDT:USDT"]),
        ("demo --sped 3", ["--sped"]),
        ("paper-exchange --speed 0", ["--speed", "> 0"]),
        ("paper-exchange --data backwards.parquet", ["row 4"]),
        ("replay none.db", ["none.db", "no such journal"]),
        ("replay newer.db", ["newer.db", "newer qmtl", "version 99"]),
        ("replay junk.feather", ["junk.feather", "not a database"]),
        ("replay empty.db", ["empty.db", "no session"]),
        ("replay empty.db --until 0", ["--until"]),
        ("restore none.db", ["none.db", "no such journal"]),
        ("restore newer.db", ["newer qmtl"]),
        ("backup --journal none.db", ["none.db", "no such journal"]),
        ("logs --last soon --journal empty.db", ["--last", "'soon'", "1h"]),
        ("logs", ["--order", "--last"]),
        ("flatten", ["account name", "--account"]),
        ("resume", ["account name", "--account"]),
        ("halt --direct", ["account.key_file", "--direct needs the keys"]),
        ("config show -c none.yml", ["none.yml", "no such configuration file"]),
        ("confg show", ["No such command 'confg'"]),
    ],
)
def test_one_line_exit_2_nothing_written(here: Path, line: str, parts: list[str]) -> None:
    before = sorted(str(path) for path in here.rglob("*"))
    done = qmtl(*line.split(), home=here)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert sorted(str(path) for path in here.rglob("*")) == before


def test_a_taken_port_is_named_with_another(here: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("demo", "paper-exchange"):
            done = qmtl(command, "--port", str(port), home=here)
            assert done.returncode == 2
            assert f"port {port} is taken" in done.stderr
            suggested = int(done.stderr.split("--port ")[1])
            assert port < suggested < port + 60


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("risk: {max_daily_los: 5}", ["qmtl.yml", "risk.max_daily_los", "did you mean risk.max_daily_loss?"]),
        ("trader: {quantity: -1}", ["qmtl.yml", "trader.quantity", "-1", "> 0"]),
        ("trader: {interval: 1}", ["qmtl.yml", "trader.interval"]),
        ("account: {key_file: no.keys}", ["no.keys", "no such key file"]),
        ("trader: [", ["qmtl.yml", "line 1"]),
    ],
)
@pytest.mark.parametrize("command", ["config check", "trade", "trade --live --account x"])
def test_a_bad_configuration_is_named_by_every_command(
    here: Path, text: str, parts: list[str], command: str
) -> None:
    (here / "qmtl.yml").write_text(text, "utf-8")
    done = qmtl(*command.split(), home=here)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
    assert not (here / ".qmtl").exists()


def test_a_journal_of_a_running_owner_is_not_overwritten(here: Path) -> None:
    SqliteJournal(here / "desk.db", "epoch", account="a").close()
    assert qmtl("backup", "--journal", "desk.db", "--to", "b", home=here).returncode == 0
    [copy] = (here / "b").glob("*.db")
    lock = AccountLock(lock_path(here / "desk.db"), account="a")
    lock.acquire()
    try:
        done = qmtl("restore", str(copy), "--journal", "desk.db", home=here)
    finally:
        lock.release()
    assert done.returncode == 2
    assert f"owned by pid {lock.holder_pid or ''}".strip() in done.stderr


def test_nobody_to_talk_to_is_exit_1(here: Path) -> None:
    for command in (["status"], ["pause"], ["halt"], ["set-limit", "max_daily_loss", "5"]):
        done = qmtl(*command, home=here)
        assert done.returncode == 1
        assert done.stderr == "error: no trader of account binanceusdm runs here; nothing else runs here\n"
