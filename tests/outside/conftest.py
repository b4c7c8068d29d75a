"""A paper exchange at speed 1 with candles that end now, published faster than a minute each."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from decimal import Decimal
from itertools import pairwise
from math import sin
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.bar import Bar
from qmtl.engine.clock import SystemClock
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig
from qmtl.services.paper_exchange.spot_venue import SpotVenue

ROOT = Path(__file__).resolve().parents[2]
KEY, SECRET = "outside-key", "outside-secret"
PACE_S = 0.25
LIMIT_S = 100
HISTORY, AHEAD = 2_000, 2_000
THIN = 0.08
"""Volume of a candle: a quarter of it, 0.02 coins, trades on one update, so that one coin fills in parts."""

RunClient = Callable[..., Awaitable[dict[str, Any]]]


def thin_candles(count: int) -> list[Bar]:
    """A calm market around 60,000: limits 5 % away never trade by themselves."""
    closes = [round(60_000 + 40 * sin(k / 15) + 10 * sin(k / 2), 1) for k in range(count + 1)]
    return [
        Bar(60_000 * k, opened, max(opened, closed) + 1, min(opened, closed) - 1, closed, THIN)
        for k, (opened, closed) in enumerate(pairwise(closes))
    ]


@pytest.fixture(scope="session")
def candle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outside") / "thin.csv"
    rows = [
        f"{bar.open_ms},{bar.open},{bar.high},{bar.low},{bar.close},{bar.volume}"
        for bar in thin_candles(HISTORY + AHEAD)
    ]
    path.write_text("\n".join(["timestamp,open,high,low,close,volume", *rows]) + "\n")
    return path


@pytest.fixture
async def addresses(candle_file: Path) -> AsyncIterator[dict[str, str]]:
    """A running exchange with candles that end now.

    Once somebody listens or trades, the next update comes every quarter second, whatever its minute says.
    """
    market = MarketSettings(candles=candle_file, is_shifted=True, ahead=AHEAD)
    config = PaperExchangeConfig(
        markets=(market,),
        accounts={KEY: SECRET},
        balance=Decimal(1_000_000),
        # Hurried publications count as exchange time, a minute a second: keys must outlive that.
        listen_key_ms=24 * 3_600_000,
    )
    server = PaperExchange(config, SystemClock())
    where = await server.start()

    exchange = server.exchange
    owners = [getattr(watcher, "__self__", None) for watcher in exchange.watchers]
    hubs = [exchange.hub, *(owner.hub for owner in owners if isinstance(owner, SpotVenue))]

    def is_wanted() -> bool:
        return any(hub.names_of("btcusdt") for hub in hubs) or any(
            a.orders for a in exchange.accounts.values()
        )

    async def hurry() -> None:
        while not is_wanted():
            await asyncio.sleep(PACE_S)
        while True:
            await asyncio.sleep(PACE_S)
            await server.step()

    pacer = asyncio.create_task(hurry())
    yield where
    pacer.cancel()
    with suppress(asyncio.CancelledError):
        await pacer
    await server.stop()


@pytest.fixture
def run_client(addresses: dict[str, str]) -> RunClient:
    """`run_client(module, environment)`: run a script to its end and return its report.

    A missing environment skips the test and is named; a script that fails shows what it said.
    """

    async def run(module: str, environment: str = "") -> dict[str, Any]:
        python = Path(sys.executable)
        if environment:
            python = ROOT / ".venvs" / environment / "bin" / "python"
            if not python.exists():
                pytest.skip(f"no environment .venvs/{environment}: `make outside` creates it")
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-m", f"tests.outside.{module}"),
            *("--rest", addresses["rest"], "--ws", addresses["ws"], "--key", KEY, "--secret", SECRET),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = out.decode().strip().splitlines()
        report: dict[str, Any] = json.loads(said[-1]) if said else {}
        if process.returncode or report.get("failed"):
            pytest.fail(f"{module} failed at {report.get('failed')!r}: {report}\n{err.decode()[-4_000:]}")
        return report

    return run
