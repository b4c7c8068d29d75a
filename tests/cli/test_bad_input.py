"""Bad input: one line on stderr naming the thing, exit code 2, nothing started, nothing written."""

import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from qmtl.cli import app
from qmtl.engine.backup import lock_path
from qmtl.engine.journal import SqliteJournal
from qmtl.engine.owner import AccountLock
from tests.cli.command import qmtl

MINUTE_MS = 60_000


def frame(times: list[int]) -> pl.DataFrame:
    size = len(times)
    columns = {name: [100.0] * size for name in ("open", "high", "low", "close", "volume")}
    return pl.DataFrame({"open_time": times, **columns})


def files(place: Path) -> list[str]:
    """Every file but SQLite's index of shared memory, which reading a journal makes too."""
    return sorted(str(path) for path in place.rglob("*") if not path.name.endswith(("-shm", "-wal")))


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
    (home / "keys.yml").write_text("account: {name: main, api_key: a, secret: b}", "utf-8")
    return home


class Answer(NamedTuple):
    code: int
    out: str
    err: str


Ask = Callable[[str], Answer]


@pytest.fixture
def ask(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Runs a command line in this process; tests below do it in processes of their own too."""
    monkeypatch.chdir(here)

    def answer(line: str) -> Answer:
        code = app.run(line.split())
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return answer


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("demo --data backwards.parquet", ["backwards.parquet", "row 4", "not after the row before"]),
        ("demo --data columns.csv", ["columns.csv", "missing columns close, volume"]),
        ("demo --data low.feather", ["low.feather", "row 0", "low <= open"]),
        ("demo --data junk.feather", ["junk.feather", "cannot be read"]),
        ("demo --data none.feather", ["none.feather", "no such file"]),
        ("demo --data candles.txt", ["candles.txt", ".feather, .parquet"]),
        ("demo --speed 0", ["--speed", "found '0'", "> 0"]),
        ("demo --speed -3", ["--speed", "found '-3'", "> 0"]),
        ("demo --speed fast", ["--speed", "'fast'", "a number"]),
        ("demo --for ever", ["--for", "'ever'"]),
        ("demo --port http", ["--port", "'http'", "a whole number"]),
        ("demo --for 0", ["--for", "found '0'", "> 0"]),
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
        ("halt --direct --account other -c keys.yml", ["--account", "'other'", "'main'"]),
        ("flatten --direct --account other -c keys.yml", ["--account", "'other'", "'main'"]),
        ("config show -c none.yml", ["none.yml", "no such configuration file"]),
        ("confg show", ["No such command 'confg'"]),
    ],
)
def test_one_line_exit_2_nothing_written(here: Path, ask: Ask, line: str, parts: list[str]) -> None:
    before = files(here)
    answer = ask(line)
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1
    for part in parts:
        assert part in answer.err
    assert files(here) == before


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("demo --speed 0", "--speed"),
        ("demo --data backwards.parquet", "row 4"),
        ("replay newer.db", "newer qmtl"),
        ("trade --live", "connectors.execution_domain"),
        ("demo --sped 3", "--sped"),
    ],
)
def test_a_process_of_its_own_says_the_same(here: Path, line: str, part: str) -> None:
    done = qmtl(*line.split(), home=here)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert part in done.stderr


def test_a_taken_port_is_named_with_another(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("demo", "paper-exchange"):
            answer = ask(f"{command} --port {port}")
            assert answer.code == 2
            assert f"port {port} is taken" in answer.err
            suggested = int(answer.err.split("--port ")[1])
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
    here: Path, ask: Ask, text: str, parts: list[str], command: str
) -> None:
    (here / "qmtl.yml").write_text(text, "utf-8")
    answer = ask(command)
    assert answer.code == 2, answer.err
    assert answer.err.count("\n") == 1
    for part in parts:
        assert part in answer.err
    assert not (here / ".qmtl").exists()


LIVE = """
account: {name: desk, api_key: k, secret: s, base_url: 'http://127.0.0.1:1', ws_url: 'ws://127.0.0.1:1'}
connectors: {execution_domain: live}
risk: {max_daily_loss: 50 USDT}
"""


@pytest.mark.parametrize(
    ("without", "options", "message"),
    [
        (
            "connectors",
            "--account desk --unrehearsed",
            "qmtl.yml: connectors.execution_domain: live is missing",
        ),
        (
            "account",
            "--account desk --unrehearsed",
            "qmtl.yml: account.key_file is missing; live requires it",
        ),
        (
            "risk",
            "--account desk --unrehearsed",
            "risk.max_daily_loss is missing; live requires it, e.g. 50 USDT",
        ),
        ("", "--account desk", "live needs a rehearsal certificate; --unrehearsed"),
        ("", "--unrehearsed", "live needs the account name typed, or --account desk"),
        ("", "--unrehearsed --account task", "live would trade account 'desk'; the name given is 'task'"),
    ],
)
def test_live_without_a_consent_says_which(
    here: Path, ask: Ask, without: str, options: str, message: str
) -> None:
    kept = [line for line in LIVE.splitlines() if not (without and line.startswith(without))]
    (here / "qmtl.yml").write_text("\n".join(kept), "utf-8")
    answer = ask(f"trade --live {options}")
    assert answer.code == 2
    assert message in answer.err
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


def test_nobody_to_talk_to_is_exit_1(ask: Ask) -> None:
    for command in ("status", "pause", "halt", "set-limit max_daily_loss 5"):
        answer = ask(command)
        assert answer.code == 1
        assert answer.err == "error: no trader of account binanceusdm runs here\n"
