"""Seamless §16, 19: ten thousand trades a second, none lost, in bounded memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
RATE = 10_000


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_19_a_flood_of_trades_loses_none_and_memory_stays(
    home: Path, count: Callable[[int, int], int]
) -> None:
    seconds = count(3, 60)
    total, first = RATE * seconds, RATE * count(2, 10)
    pipe = subprocess.PIPE

    def start(name: str, *arguments: object, **settings: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(HERE / name), *map(str, arguments)]
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env={**os.environ, **settings}
        )

    def say(process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    server = start("tape_server.py", RATE, seconds)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        reader = start("tape_reader.py", total, first, seconds + 120, QMTL_CONNECTORS__CCXT_BASE_URL=url)
        try:
            assert reader.stdout is not None
            found = json.loads(reader.stdout.readline())
        finally:
            reader.kill()
            reader.communicate()
        say(server)
        server.communicate(timeout=60)
    finally:
        server.kill()
        server.communicate()
    print(found)
    assert (found["count"], found["missing"], found["twice"], found["out_of_order"]) == (total, 0, 0, 0)
    assert found["rss_first_kb"] > 0
    assert found["rss_end_kb"] - found["rss_first_kb"] <= 20 * 1024
