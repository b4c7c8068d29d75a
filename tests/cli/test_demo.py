"""The demo and what talks to it, in processes of their own: the real command, the real wire."""

import asyncio
import json
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from qmtl.core.event import DecisionMade, dump_event, parse_event
from qmtl.core.reason import Reason
from tests.cli.command import environment, qmtl, start, wait_for

KEYS = "candles decisions orders fills open_position wallet pnl fees reconnects state_hash journal"
SETTLED = ("\nqmtl_ready 1.0\n", "\nqmtl_position{", '\nqmtl_feed_fresh{stream="btcusdt@kline_1m"} 1.0\n')


def ask(home: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = qmtl(*arguments, "--json", home=home)
    return done.returncode, json.loads(done.stdout or "{}") or {"error": done.stderr}


@contextmanager
def demo(home: Path, **extra: str) -> Iterator[subprocess.Popen[str]]:
    with start("demo", "--port", "0", "--speed", "240", home=home, **extra) as process:
        try:
            yield process
        finally:
            process.kill()


def test_json_ends_with_one_object_and_replay_repeats_it(
    home: Path, recorded_file: Callable[[str], Path]
) -> None:
    data = recorded_file("candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather")
    done = qmtl(
        *("demo", "--data", str(data), "--speed", "600", "--for", "4", "--json", "--no-open", "--port", "0"),
        home=home,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    result = json.loads(done.stdout)
    assert set(KEYS.split()) <= set(result)
    assert result["decisions"] == result["candles"] >= 50
    assert sum(result["reasons"].values()) == result["decisions"]
    assert Path(result["journal"]).parent == home / ".qmtl" / "demo"
    code, replayed = ask(home, "replay", result["journal"])
    assert code == 0
    assert replayed["state_hash"] == result["state_hash"]
    assert replayed["wallet"] == result["wallet"]
    code, early = ask(home, "replay", result["journal"], "--until", "100")
    assert (code, early["seq"] < replayed["seq"], early["state_hash"] != result["state_hash"]) == (
        0,
        True,
        True,
    )
    seq = tamper(Path(result["journal"]))
    diverged = qmtl("replay", result["journal"], home=home)
    assert (diverged.returncode, diverged.stderr.count("\n")) == (3, 1), diverged.stderr
    assert f"record {seq}: " in diverged.stderr


def tamper(path: Path) -> int:
    """Change the reason of the last closed bar; return its record."""
    with closing(sqlite3.connect(path)) as db, db:
        query = "SELECT seq, body FROM records WHERE type = 'DecisionMade' ORDER BY seq DESC LIMIT 1"
        seq, body = db.execute(query).fetchone()
        decision = parse_event(body)
        assert isinstance(decision, DecisionMade)
        wrong = Reason.REFILLED if decision.reason is not Reason.REFILLED else Reason.HOLDING
        body = dump_event(msgspec.structs.replace(decision, reason=wrong))
        db.execute("UPDATE records SET body = ? WHERE seq = ?", (body, seq))
    return int(seq)


async def test_ctrl_c_ends_cleanly_with_the_last_line(home: Path) -> None:
    with demo(home) as process:
        assert process.stdout is not None
        banner = process.stdout.readline()
        assert re.match(r"SYNTHETIC · paper exchange 127\.0\.0\.1:\d+ · BTCUSDT 1m x240", banner)
        await wait_for(home, lambda status: status["counts"]["fills"] > 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        lines = out.splitlines()
        # A slow machine may have refused a decision before.
        trade = r"\d\d:\d\d:\d\d (LONG|SHORT) 0\.01 BTCUSDT @ [\d,.]+ · why: (above|below) band"
        assert any(re.match(trade, line) for line in lines), out
        assert "loses after fees on recorded data" in lines[-2]
        last = r"entries off · \d+ orders? cancelled · position .* · journal ~/\.qmtl/demo/\d{8}T\d{6}\.db"
        assert re.fullmatch(last, lines[-1])


def test_a_second_ctrl_c_leaves_at_once_with_130(home: Path) -> None:
    code = (
        "import asyncio\n"
        "from qmtl.trader.rt_trader import RealTimeTrader\n"
        "async def slow(self, why=''):\n"
        "    print('stopping', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "RealTimeTrader.stop = slow\n"
        "from qmtl.cli.app import main\n"
        "main(['demo', '--port', '0'])\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment(home), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("SYNTHETIC")
            process.send_signal(signal.SIGINT)
            while process.stdout.readline() != "stopping\n":
                pass
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 130
        finally:
            process.kill()


async def test_a_running_trader_obeys_the_command_line(home: Path) -> None:
    with demo(home):
        status = await wait_for(home, lambda status: status["positions"])
        name = status["account"]
        assert name.startswith("demo-")
        assert status["last_decision"]["reason"]
        code, flat = ask(home, "flatten", "--account", name, "--why", "enough")
        assert (code, flat["positions"], flat["state"]) == (0, [], "HALTED")
        status = await wait_for(home, lambda status: not status["orders"])
        assert status["state_why"] == "enough"
        assert "@" in status["state_who"]
        assert ask(home, "pause")[1]["state"] == "HALTED"
        text = qmtl("status", home=home).stdout
        assert "HALTED: enough (by " in text
        assert "closed bars:" in text

        code, refused = ask(home, "resume", "--account", "other")
        assert code == 2
        assert f"no trader of account other runs here; running here: {name}" in refused["error"]
        assert ask(home, "resume", "--account", name)[1]["state"] == "ACTIVE"
        assert ask(home, "pause", "--why", "lunch") == (0, {"state": "REDUCING", "asked": "REDUCING"})
        assert ask(home, "set-limit", "max_order_notional", "1000")[1]["to"] == "1000"
        assert ask(home, "set-limit", "max_order_notional", "none")[0] == 2
        assert ask(home, "halt")[1]["state"] == "HALTED"


async def test_health_and_metrics_are_served_while_it_trades(home: Path) -> None:
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    supervisor.bind(str(home / "notify"))
    supervisor.settimeout(90)
    with supervisor, demo(home, NOTIFY_SOCKET=str(home / "notify")):
        assert [supervisor.recv(64), supervisor.recv(64)] == [b"READY=1", b"WATCHDOG=1"]
        status = await wait_for(home, lambda status: status["is_ready"] and status["positions"])
        async with aiohttp.ClientSession(status["control"]["url"]) as session:
            answer = await session.get("/healthz")
            assert (answer.status, (await answer.json())["ok"]) == (200, True)
            # Between the status and these pages the position may be gone, or a stream late: they come back.
            async with asyncio.timeout(90):
                while not (await (await session.get("/readyz")).json())["ok"]:
                    await asyncio.sleep(0.1)
                text = ""
                while not all(sign in text for sign in SETTLED):
                    await asyncio.sleep(0.1)
                    text = await (await session.get("/metrics")).text()
            assert (await session.get("/v1/status")).status == 401
            token = (home / ".qmtl" / "run" / f"{status['account']}.token").read_text("ascii").strip()
            headers = {"Authorization": f"Bearer {token}"}
            assert (await session.get("/v1/status", headers=headers)).status == 200
    values = {name: float(value) for name, value in re.findall(r"^(qmtl_[^ ]+) (\S+)$", text, re.MULTILINE)}
    assert values["qmtl_ready"] == 1
    assert values['qmtl_trading_state{state="ACTIVE"}'] == 1
    assert abs(values['qmtl_position{side="BOTH",symbol="BTCUSDT"}']) == 0.01
    assert 9_000 < values["qmtl_equity"] < 11_000
    assert values["qmtl_journal_write_seconds_count"] > 0
    assert values["qmtl_order_latency_seconds_count"] > 0
    assert values["qmtl_decision_latency_seconds_count"] > 0
    assert values["qmtl_disk_free_bytes"] > 0
    assert values['qmtl_feed_fresh{stream="btcusdt@kline_1m"}'] == 1


async def test_a_running_journal_is_read_copied_and_guarded(home: Path) -> None:
    with demo(home) as process:
        status = await wait_for(home, lambda status: status["counts"]["fills"])
        journal = status["journal"]
        code, copy = ask(home, "backup", "--journal", journal)
        assert code == 0
        refused = qmtl("restore", copy["backup"], "--journal", journal, home=home)
        assert refused.returncode == 2
        assert f"owned by pid {process.pid} " in refused.stderr
        code, log = ask(home, "logs", "--last", "30d", "--journal", journal)
        assert code == 0
        fill = next(record for record in log["records"] if record["event"] == "OrderFilled")
        life = qmtl("logs", "--order", fill["client_order_id"], "--journal", journal, home=home).stdout
        assert re.search(r"IntentRecorded .*OrderFilled ", life, re.DOTALL)
        assert "OrderAccepted" in life
