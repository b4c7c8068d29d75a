"""A paper exchange on a thread of its own, and configuration that sends ccxt to it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qmtl.engine.clock import SystemClock
from qmtl.runtime.sdk import runtime
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig

KEYS = {"apiKey": "paper", "secret": "paper"}
SEED_KEYS = {"<TESTNET_KEY>": "<TESTNET_SECRET>"}


class Venue:
    """A running exchange: `url`, its faults, its accounts."""

    def __init__(self, server: PaperExchange, url: str) -> None:
        self.server = server
        self.url = url

    @property
    def faults(self) -> Any:
        return self.server.exchange.faults

    def orders(self) -> list[Any]:
        """Every contract order of the account, conditional ones apart."""
        return list(self.server.exchange.account("paper").orders.values())


@pytest.fixture
def configure(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`configure(ccxt_base_url=...)`: settings of `connectors`; orders are journaled in memory."""
    monkeypatch.chdir(home)

    def put(**connectors: object) -> None:
        for name, value in connectors.items():
            monkeypatch.setenv(f"QMTL_CONNECTORS__{name.upper()}", str(value))
        runtime.reload()
        runtime.TEST_MODE = True

    put()
    yield put
    monkeypatch.undo()
    runtime.reload()


@pytest.fixture
def paper(configure: Callable[..., None]) -> Iterator[Venue]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    config = PaperExchangeConfig(
        markets=(MarketSettings(seed=3, history=50, min_notional=Decimal(5)),),
        accounts={"paper": "paper", **SEED_KEYS},
        balance=Decimal(100_000),
        is_manual=False,
    )
    server = PaperExchange(config, SystemClock())
    urls = asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
    configure(ccxt_base_url=urls["rest"])
    yield Venue(server, urls["rest"])
    asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


@pytest.fixture
def requests_of() -> Callable[[Any], list[str]]:
    """`requests_of(client)`: a list that fills with "METHOD path?query body" of every request it makes."""

    def record(client: Any) -> list[str]:
        seen: list[str] = []
        fetch = client.exchange.fetch

        async def recorded(url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
            seen.append(f"{method} /{url.split('/', 3)[3]} {body or ''}".strip())
            return await fetch(url, method, headers, body)

        client.exchange.fetch = recorded
        return seen

    return record
