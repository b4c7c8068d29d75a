"""A paper exchange in this process, moved by hand, and a client that signs."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest

from qmtl.engine.clock import VirtualClock
from qmtl.engine.ports import Clock
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.auth import sign
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig

START_MS = 1_700_000_040_000
"""On the minute: 2023-11-14 22:14 UTC; the exchange starts a millisecond before."""
FORM = "application/x-www-form-urlencoded"


class Reply(msgspec.Struct):
    status: int
    body: Any
    headers: dict[str, str]


class Caller:
    """A client of the exchange's REST side; `speak` signs and sends as venues' clients do."""

    def __init__(self, server: PaperExchange, urls: dict[str, str], session: aiohttp.ClientSession) -> None:
        self.server = server
        self.urls = urls
        self.session = session
        self.key = self.secret = "paper"

    async def ask(self, path: str, **params: Any) -> Reply:
        """An unsigned GET."""
        return await self._send("GET", f"{path}?{urlencode(params)}" if params else path, "", {})

    async def speak(self, method: str, path: str, **params: Any) -> Reply:
        """A signed request: query string for GET and DELETE, form body otherwise."""
        params.setdefault("timestamp", self.server.clock.now_ms())
        query = urlencode(params)
        query += f"&signature={sign(self.secret, query)}"
        if method in {"GET", "DELETE"}:
            return await self._send(method, f"{path}?{query}", "", {})
        return await self._send(method, path, query, {"Content-Type": FORM})

    async def order(self, **params: Any) -> Reply:
        given = {"symbol": "BTCUSDT", "newOrderRespType": "RESULT", **params}
        return await self.speak("POST", "/fapi/v1/order", **given)

    async def limit(self, side: str, price: float, quantity: float, **params: Any) -> Reply:
        given = {"timeInForce": "GTC", **params}
        return await self.order(side=side, type="LIMIT", price=price, quantity=quantity, **given)

    async def algo(self, **params: Any) -> Reply:
        given = {"symbol": "BTCUSDT", "algoType": "CONDITIONAL", **params}
        return await self.speak("POST", "/fapi/v1/algoOrder", **given)

    async def listen_key(self) -> str:
        reply = await self._send("POST", "/fapi/v1/listenKey", "", {})
        return str(reply.body["listenKey"])

    async def _send(self, method: str, target: str, body: str, headers: dict[str, str]) -> Reply:
        from yarl import URL

        url = URL(self.urls["rest"] + target, encoded=True)
        given = {"X-MBX-APIKEY": self.key, **headers}
        async with self.session.request(method, url, data=body or None, headers=given) as answer:
            raw = await answer.read()
            return Reply(answer.status, msgspec.json.decode(raw) if raw else None, dict(answer.headers))


Start = Callable[..., Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """`await start(**config)`: a running exchange and its client; moved by hand unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def run(clock: Clock | None = None, **config: Any) -> Caller:
            given = {"is_manual": True, "balance": Decimal(100_000), **config}
            server = PaperExchange(PaperExchangeConfig(**given), clock or VirtualClock(START_MS - 1))
            urls = await server.start()
            stack.push_async_callback(server.stop)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Caller(server, urls, session)

        yield run


@pytest.fixture
def candle_csv(tmp_path: Path) -> Callable[..., tuple[MarketSettings, ...]]:
    """`candle_csv((o, h, l, c), ..., volume=8)`: a market whose first candle opens at START_MS.

    One quiet candle at the first open precedes it, so that there is a price to start from.
    """

    def write(*candles: tuple[float, float, float, float], volume: float = 8.0) -> tuple[MarketSettings, ...]:
        first = candles[0][0]
        rows = [(first, first, first, first), *candles]
        lines = ["timestamp,open,high,low,close,volume"]
        for number, row in enumerate(rows):
            open_ms = START_MS + (number - 1) * 60_000
            lines.append(",".join(str(value) for value in (open_ms, *row, volume)))
        path = tmp_path / "candles.csv"
        path.write_text("\n".join(lines) + "\n")
        return (MarketSettings(candles=path),)

    return write
