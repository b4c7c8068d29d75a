"""Connectors §9: the example as a process, in each domain."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.sdk.runner_rig import serve_broker

ROOT = Path(__file__).resolve().parents[3]
MODULE = "qmtl.examples.strategies.dryrun_live_switch_strategy"


def run(home: Path, **connectors: str) -> subprocess.CompletedProcess[str]:
    settings = {f"QMTL_CONNECTORS__{name.upper()}": value for name, value in connectors.items()}
    return subprocess.run(
        [sys.executable, "-m", MODULE],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_dry_run_is_the_default_and_calls_no_broker(home: Path) -> None:
    with serve_broker() as broker:
        done = run(home, broker_url=broker.url, ws_url=broker.url.replace("http", "ws"))
        assert done.stdout.splitlines() == [
            f"execution_domain=dryrun broker=simulated ws={broker.url.replace('http', 'ws')}",
            "feed: backoff",
            "Strategy submitted: active",
        ]
        assert done.returncode == 0, done.stderr
        assert "POST" not in broker.methods()


def test_live_wires_the_broker(home: Path) -> None:
    with serve_broker() as broker:
        done = run(home, execution_domain="live", broker_url=broker.url)
        assert done.stdout.splitlines() == [
            f"execution_domain=live broker={broker.url} ws=None",
            "Strategy submitted: active",
        ]
        assert (done.returncode, done.stderr) == (0, "")
        assert broker.calls == [], "nobody fed a row, so nothing was ordered"
    assert (home / ".qmtl" / "orders.db").is_file(), "a live Runner owns its account"


@pytest.mark.parametrize(
    ("domain", "words"),
    [
        ("live", "connectors.broker_url must be set for the live domain"),
        ("backtest", "connectors.execution_domain must be dryrun or live for this example, not backtest"),
        ("shadow", "connectors.execution_domain must be dryrun or live for this example, not shadow"),
    ],
)
def test_44_what_cannot_work_ends_with_2(home: Path, domain: str, words: str) -> None:
    done = run(home, execution_domain=domain)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {words}\n")


def test_44_a_configuration_that_makes_no_sense_ends_with_2(home: Path) -> None:
    done = run(home, broker_ur="https://broker")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: QMTL_CONNECTORS__BROKER_UR: connectors.broker_ur: unknown key")
