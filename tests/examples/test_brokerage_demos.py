"""The demos as a user runs them: without keys, and at the paper exchange."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.sdk.brokerage.through_ccxt.conftest import Venue, configure, paper

__all__ = ["configure", "paper"]
ROOT = Path(__file__).parent.parent.parent
DEMOS = {
    "ccxt_binance_sandbox_demo": ("BINANCE_API_KEY", "BINANCE_API_SECRET"),
    "ccxt_binance_futures_sandbox_demo": ("BINANCE_FUT_API_KEY", "BINANCE_FUT_API_SECRET"),
}


def run(demo: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, str(ROOT / "qmtl/examples/brokerage_demo" / f"{demo}.py")],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("demo", DEMOS)
@pytest.mark.parametrize("given", [0, 1])
def test_44_without_keys_nothing_is_contacted(demo: str, given: int, home: Path) -> None:
    names = DEMOS[demo]
    # A proxy that refuses everything would be named in the error, had anything been sent.
    answer = run(demo, home, **dict.fromkeys(names[:given], "key"), HTTPS_PROXY="http://127.0.0.1:1")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == f"error: set {names[0]} and {names[1]} to Binance test keys\n"


@pytest.mark.parametrize("demo", DEMOS)
def test_44_a_demo_places_prints_and_cancels(demo: str, home: Path, paper: Venue) -> None:
    keys = dict.fromkeys(DEMOS[demo], "paper")
    answer = run(demo, home, QMTL_CONNECTORS__CCXT_BASE_URL=paper.url, **keys)
    assert (answer.returncode, answer.stderr) == (0, "")
    created, status, cancelled = answer.stdout.splitlines()
    assert created.startswith("create_order: ")
    assert created.endswith(" open")
    assert (status, cancelled) == ("status: accepted", "cancel_order: canceled")
    assert "key" not in answer.stdout


@pytest.mark.parametrize("demo", DEMOS)
def test_a_refusal_is_one_line(demo: str, home: Path, paper: Venue) -> None:
    keys = dict(zip(DEMOS[demo], ("paper", "wrong-secret"), strict=True))
    answer = run(demo, home, QMTL_CONNECTORS__CCXT_BASE_URL=paper.url, **keys)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("error: ")
    assert "wrong-secret" not in answer.stderr
    assert answer.stderr.count("\n") == 1
