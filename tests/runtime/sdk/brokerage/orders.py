"""Orders and clients the broker tests share."""

from typing import Any

from qmtl.runtime.sdk.brokerage.http_client import HttpBrokerageClient
from tests.runtime.leap_clock import LeapClock, MidRandom
from tests.runtime.sdk.brokerage.http_broker import BookHandle

CLIENTS: list[HttpBrokerageClient] = []
"""What a test made; closed after it, or its settling would go on."""


class CountingRandom(MidRandom):
    """Always in the middle; every draw of bytes is another."""

    draws = 0

    def randbytes(self, n: int) -> bytes:
        CountingRandom.draws += 1
        return CountingRandom.draws.to_bytes(n)


def buy(**fields: Any) -> dict[str, Any]:
    return {"symbol": "BTC/USDT", "side": "BUY", "quantity": 1, "type": "limit", "limit_price": 100, **fields}


def client_of(book: BookHandle, **options: Any) -> HttpBrokerageClient:
    """A client whose waits cost nothing; `client.clock.slept` keeps them."""
    options = {"journal": "orders.db", "clock": LeapClock(), "random": CountingRandom(), **options}
    client = HttpBrokerageClient(book.url, **options)
    CLIENTS.append(client)
    return client


def slept_s(client: HttpBrokerageClient) -> float:
    assert isinstance(client.clock, LeapClock)
    return sum(client.clock.slept)
