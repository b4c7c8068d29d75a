"""`qmtl data fetch` from a running exchange: the paper exchange and the command in processes of their own."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmtl.runtime.io.artifacts import ArtifactReader
from tests.cli.command import environment, qmtl, start
from tests.servers import pick_port

DEADLINE_S = 90


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a synthetic paper exchange that has been running for two days."""
    port = pick_port()
    server = start("paper-exchange", "--port", str(port), home=tmp_path_factory.mktemp("exchange"))
    assert server.stdout is not None
    assert f"127.0.0.1:{port}" in server.stdout.readline()
    yield f"http://127.0.0.1:{port}"
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)


def set_faults(url: str, method: str, rules: bytes) -> None:
    asked = urllib.request.Request(f"{url}/paper/faults", rules, method=method)
    urllib.request.urlopen(asked, timeout=DEADLINE_S).close()


def run(home: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return qmtl("data", *words, home=home, timeout_s=DEADLINE_S, QMTL_ACCOUNT__BASE_URL=url)


def test_the_quickstart_line_and_a_second_fetch(home: Path, exchange: str) -> None:
    series = ("BTCUSDT", "1m")
    first = run(home, exchange, "fetch", *series, "--since", "1d")
    assert (first.returncode, first.stderr) == (0, "")
    line = first.stdout.splitlines()[0]
    assert line.startswith("binanceusdm BTC/USDT:USDT 1m 1,440/1,440 · 0 holes · ")
    store = home / ".qmtl_seamless_store"
    assert [path.name for path in store.iterdir()] == ["test"], "rows of a test venue are kept apart"
    listed = json.loads(run(home, exchange, "coverage", *series, "--json").stdout)["series"][0]
    assert (listed["cells"], listed["holes"]) == (1_440, [])
    start_s, end_s = str(listed["start"]), str(listed["end"] - 600)
    # What is stored and no longer young is not asked for again.
    again = run(home, exchange, "fetch", *series, "--start", start_s, "--end", end_s, "--json")
    assert json.loads(again.stdout)["filled"] == 1_430
    assert run(home, exchange, "verify", *series).stdout == "1 series · 0 differences\n"


def test_before_the_first_bar_is_confirmed_empty(home: Path, exchange: str) -> None:
    told = run(home, exchange, "fetch", "BTCUSDT", "1h", "--since", "10d", "--json")
    body = json.loads(told.stdout)
    assert told.returncode == 0, told.stderr
    assert (body["cells"], len(body["holes"])) == (240, 1)
    hole = body["holes"][0]
    assert (hole["start"], hole["reason"]) == (body["start"], "confirmed_empty")
    assert body["filled"] + (hole["end"] - hole["start"]) // 3_600 == 240


def test_a_symbol_nobody_lists_is_bad_input(home: Path, exchange: str) -> None:
    told = run(home, exchange, "fetch", "ABCUSDT", "1m", "--since", "1h")
    assert (told.returncode, told.stdout) == (2, "")
    assert "ABC/USDT" in told.stderr
    assert told.stderr.count("\n") == 1


def test_an_exchange_that_is_down_leaves_the_hole_failed(home: Path, free_port: int) -> None:
    told = run(home, f"http://127.0.0.1:{free_port}", "fetch", "BTCUSDT", "1m",
               "--start", "2025-02-01", "--end", "2025-02-02")  # fmt: skip
    assert told.returncode == 1
    assert told.stdout.splitlines()[1:] == [
        "  hole 2025-02-01 00:00 → 2025-02-02 00:00 · 1,440 bars · failed"
    ]
    assert told.stderr.startswith("error: binanceusdm BTC/USDT:USDT")


def test_progress_is_shown_on_a_terminal_and_ctrl_c_exits_130(home: Path, exchange: str) -> None:
    main, terminal = pty.openpty()
    set_faults(exchange, "POST", b'[{"kind": "delay", "route": "GET /fapi/v1/klines", "seconds": 300}]')
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from qmtl.cli.app import main; main()",
            "data",
            "fetch",
            "BTCUSDT",
            "1m",
            "--since",
            "1d",
        ],
        cwd=home,
        env=environment(home) | {"QMTL_ACCOUNT__BASE_URL": exchange, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    deadline = time.monotonic() + DEADLINE_S
    while b"/1,440 bars" not in shown and time.monotonic() < deadline:
        shown += os.read(main, 4096)
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=DEADLINE_S)
    with contextlib.suppress(OSError):  # Linux says EIO at the end of a terminal
        while piece := os.read(main, 4096):
            shown += piece
    os.close(main)
    set_faults(exchange, "DELETE", b"")
    assert b"interrupted; what was brought is stored" in shown
    assert b"binanceusdm BTC/USDT:USDT 1m" in shown
    assert child.returncode == 130
    assert b"Traceback" not in shown + out


def test_a_fetch_publishes_what_it_brought(home: Path, exchange: str) -> None:
    (home / "qmtl.yml").write_text("seamless: {artifacts_enabled: true, artifact_dir: kept}\n")
    begun_s = time.time()
    told = run(home, exchange, "fetch", "BTCUSDT", "1m", "--since", "2h", "--json")
    minutes = time.time() // 60 - begun_s // 60
    assert (told.returncode, told.stderr) == (0, "")
    body = json.loads(told.stdout)
    kept = next((home / "kept" / "test").iterdir())
    reader = ArtifactReader(kept)
    assert kept.name == exchange.removeprefix("http://").replace(":", "_")
    frame = reader.open(body["dataset_fingerprint"])
    # Two bars at the end were young: they are stored, and not yet in an artifact. Of two one is enough while
    # the newest minute does not count as closed, and minutes may pass meanwhile.
    assert body["filled"] == 120
    assert 117 <= frame.height <= min(119 + minutes, 120)


def test_01_funding_comes_with_the_candles(home: Path, exchange: str) -> None:
    """quickstart §1: after `data fetch` a backtest knows what funding cost."""
    assert qmtl("new", "band_break.py", home=home).returncode == 0
    assert run(home, exchange, "fetch", "BTCUSDT", "1m", "--since", "1d").returncode == 0
    words = ("backtest", "band_break.py", "--json")
    told = qmtl(*words, home=home, timeout_s=DEADLINE_S, QMTL_ACCOUNT__BASE_URL=exchange)
    assert told.returncode == 0, told.stderr
    body = json.loads(told.stdout)
    assert body["holes"] == []
    assert body["coverage"] == {"BTCUSDT": 1.0}
    assert list((home / ".qmtl_seamless_store").rglob("funding/binanceusdm_BTC_USDT_USDT.parquet"))


def test_a_backtest_names_the_test_venue_and_a_range_without_candles(home: Path, exchange: str) -> None:
    address = {"QMTL_ACCOUNT__BASE_URL": exchange}
    qmtl("new", "band_break.py", home=home)
    words = ("backtest", "band_break.py", "--start", "2025-01-01", "--end", "2025-01-02")
    empty = qmtl(*words, home=home, timeout_s=DEADLINE_S, **address)
    assert empty.returncode == 2
    told = "the exchange has no candles from 2025-01-01 00:00 to 2025-01-02 00:00"
    assert empty.stderr == f"error: binanceusdm BTC/USDT:USDT 1m: {told}\n"
    done = qmtl("backtest", "band_break.py", "--since", "1h", "--json", home=home, timeout_s=90, **address)
    record = json.loads((home / json.loads(done.stdout)["run"] / "run.json").read_text())
    host = exchange.removeprefix("http://")
    assert record["data"][0]["source"] == f"binanceusdm at {host} (a test venue)"
