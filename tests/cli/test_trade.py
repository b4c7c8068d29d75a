"""`qmtl paper-exchange` and `qmtl trade` as two processes: start-up is recovery, also after SIGKILL."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from qmtl.engine.halt_marker import read_marker
from qmtl.engine.journal import open_journal
from tests.cli.command import qmtl, start, wait_for

SPEED = "120"


@contextmanager
def exchange(home: Path) -> Iterator[str]:
    """A paper exchange and a qmtl.yml that trades on it; gives its address."""
    with start("paper-exchange", "--port", "0", "--speed", SPEED, "--json", home=home) as process:
        try:
            assert process.stdout is not None
            urls = json.loads(process.stdout.readline())
            write_settings(home, urls["rest"], urls["ws"])
            yield urls["rest"]
        finally:
            process.kill()


def write_settings(home: Path, rest: str, ws: str, more: str = "") -> None:
    where = f"base_url: '{rest}', ws_url: '{ws}'"
    text = f"account: {{name: desk, api_key: paper, secret: paper, {where}, fills: venue}}\n"
    (home / "qmtl.yml").write_text(text + more, "utf-8")


@contextmanager
def trader(home: Path) -> Iterator[subprocess.Popen[str]]:
    with start("trade", "-q", home=home) as process:
        try:
            yield process
        finally:
            process.kill()


def holds(status: dict[str, Any]) -> Any:
    """A position whose stop rests at the venue."""
    return status["positions"] and status["positions"][0]["stop"]


async def books(rest: str) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{rest}/paper/state") as answer:
        account: dict[str, Any] = (await answer.json())["accounts"]["paper"]
        return account


async def test_a_killed_trader_comes_back_to_the_same_position_and_stop(home: Path) -> None:
    with exchange(home) as rest:
        with trader(home) as process:
            before = await wait_for(home, holds)
            assert qmtl("pause", home=home).returncode == 0
            before = await wait_for(home, lambda status: True)
            process.send_signal(signal.SIGKILL)
            process.wait()
        with trader(home):
            after = await wait_for(home, lambda status: status["is_ready"])
            assert after["state"] == "REDUCING"
            assert after["epoch"] != before["epoch"]
            truth = await books(rest)
            held = {
                name: row["quantity"] for name, row in truth["positions"].items() if float(row["quantity"])
            }
            assert {p["symbol"]: p["quantity"] for p in after["positions"]} == held
            assert all(count == 1 for count in truth["venue_orders"].values())
            if after["positions"] and before["positions"]:
                stop = {o["client_order_id"] for o in before["orders"] if o["role"] == "protection"}
                assert stop == {o["client_order_id"] for o in after["orders"] if o["role"] == "protection"}


async def test_the_account_is_owned_once_and_halted_directly_when_its_owner_died(home: Path) -> None:
    with exchange(home) as rest:
        with trader(home) as process:
            await wait_for(home, holds)
            second = qmtl("trade", "-q", home=home)
            assert second.returncode == 2
            assert f"account desk is owned by pid {process.pid} on " in second.stderr
            other = (home / "qmtl.yml").read_text("utf-8").replace("name: desk", "name: other")
            (home / "other.yml").write_text(other, "utf-8")
            same_key = qmtl("trade", "-q", "-c", "other.yml", home=home)
            assert same_key.returncode == 2
            assert f"account other is owned by pid {process.pid} on " in same_key.stderr
            process.send_signal(signal.SIGKILL)
            process.wait()
        halted = qmtl("halt", "--direct", "--why", "smoke", "--json", home=home)
        assert halted.returncode == 0, halted.stderr
        truth = await books(rest)
        working = [row for row in truth["orders"] if row["status"] in {"NEW", "PARTIALLY_FILLED"}]
        assert all(row["reduceOnly"] or row["closePosition"] for row in working)
        journal = home / ".qmtl" / "desk.db"
        assert read_marker(journal) is not None

        with trader(home):
            status = await wait_for(home, lambda status: status["state"] == "HALTED")
            assert status["state_why"] == "smoke"
            assert read_marker(journal) is None

        wrong = qmtl("flatten", "--direct", "--account", "task", home=home)
        assert (wrong.returncode, "'desk'" in wrong.stderr) == (2, True)
        flat = qmtl("flatten", "--direct", "--account", "desk", "--json", home=home)
        assert flat.returncode == 0, flat.stderr
        truth = await books(rest)
        assert not any(float(row["quantity"]) for row in truth["positions"].values())


def test_what_stands_against_a_start_is_one_line(home: Path) -> None:
    write_settings(home, "http://127.0.0.1:9", "ws://127.0.0.1:9")
    done = qmtl("trade", home=home)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "127.0.0.1:9" in done.stderr
    with exchange(home) as rest:
        write_settings(home, rest, rest.replace("http", "ws"), "trader: {symbol: DOGEUSDT}\n")
        done = qmtl("trade", home=home)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "DOGEUSDT is not listed" in done.stderr


async def test_a_clock_off_by_a_minute_is_one_line_and_worth_a_restart(home: Path) -> None:
    with exchange(home) as rest:
        body = [{"kind": "skew", "seconds": 60.0 * int(SPEED)}]
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{rest}/paper/faults", json=body) as answer,
        ):
            assert answer.status == 200, await answer.text()
        done = qmtl("trade", home=home)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "clock" in done.stderr


def test_dryrun_simulates_fills_and_sends_nothing(home: Path) -> None:
    with exchange(home) as rest:
        write_settings(home, rest, rest.replace("http", "ws"))
        text = (home / "qmtl.yml").read_text("utf-8").replace("fills: venue", "fills: simulated")
        (home / "qmtl.yml").write_text(text, "utf-8")
        done = qmtl("trade", "--for", "3", "--json", home=home)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert result["candles"] > 0
        assert result["wallet"] == "10000" or result["fills"]
        with closing(open_journal(home / ".qmtl" / "desk.db")) as db:
            assert db.execute("SELECT count(*) FROM records WHERE type = 'SessionStarted'").fetchone() == (1,)


async def test_a_restored_backup_starts_halted_and_learns_what_it_missed(home: Path) -> None:
    with exchange(home) as rest:
        with trader(home) as process:
            await wait_for(home, lambda status: status["counts"]["fills"] >= 1)
            copied = qmtl("backup", "--json", home=home)
            early = json.loads(copied.stdout)
            await wait_for(home, lambda status: status["counts"]["fills"] >= 4)
            process.send_signal(signal.SIGKILL)
            process.wait()
        (home / "moved").mkdir()
        (home / ".qmtl" / "desk.db").rename(home / "moved" / "desk.db")
        restored = qmtl("restore", early["backup"], home=home)
        assert restored.returncode == 0, restored.stderr
        assert "the next start begins HALTED" in restored.stdout
        with trader(home):
            status = await wait_for(home, lambda status: status["state"] == "HALTED")
            assert "restored from desk-" in status["state_why"]
            truth = await books(rest)
            held = {name: row["quantity"] for name, row in truth["positions"].items()}
            held = {name: quantity for name, quantity in held.items() if float(quantity)}
            status = await wait_for(home, lambda now: shown(now) == held)
            assert all(count == 1 for count in (await books(rest))["venue_orders"].values())


def shown(status: dict[str, Any]) -> dict[str, str]:
    return {position["symbol"]: position["quantity"] for position in status["positions"]}
