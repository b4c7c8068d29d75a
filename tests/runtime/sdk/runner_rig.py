"""Strategies, providers, sinks and a broker that counts, for the tests of the Runner."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qmtl.runtime.sdk.node_run import SubmitResult
from qmtl.runtime.sdk.nodes.base import View
from qmtl.runtime.sdk.nodes.processing import ProcessingNode
from qmtl.runtime.sdk.nodes.publishing import TradeOrderPublisherNode
from qmtl.runtime.sdk.nodes.sources import StreamInput
from qmtl.runtime.sdk.strategy import Strategy

MINUTE = 60
KEY = "ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m"


class FiringTradeOrderPublisher(ProcessingNode):
    """Publishes whatever it reads."""


def firing(source: StreamInput, **kw: Any) -> FiringTradeOrderPublisher:
    def latest(view: View) -> Any:
        return view[source][source.grid_s][-1][1]

    return FiringTradeOrderPublisher(source, latest, name="fire", interval=source.interval, period=1, **kw)


def publish(runner: Any, *payloads: Any) -> None:
    """Let one bare publisher give `payloads`, one a minute."""
    source = StreamInput(interval=MINUTE, period=1)
    firing(source)
    for place, payload in enumerate(payloads):
        runner.feed_queue_data(source, "q", MINUTE, MINUTE * (place + 1), payload)


def order(side: str = "BUY", **changes: Any) -> dict[str, Any]:
    return {"symbol": "BTC/USDT", "side": side, "type": "market", "quantity": 0.01, **changes}


class Bars:
    """A history provider of rising closes; remembers what it was asked."""

    def __init__(self, count: int = 9, first: int = 600) -> None:
        self.rows = [
            {"ts": first + MINUTE * k, "open": c, "high": c + 1, "low": c - 1, "close": c, "volume": 1.0}
            for k, c in ((k, 100.0 + k) for k in range(count))
        ]
        self.asked: list[dict[str, Any]] = []

    async def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> list[dict[str, Any]]:
        self.asked.append({"start": start, "end": end, "node_id": node_id, "interval": interval})
        return [row for row in self.rows if start <= row["ts"] < end]


class EveryBar(Strategy):
    """Buys a little at every bar."""

    provider: Any = None

    def setup(self) -> None:
        self.price = StreamInput(interval="1m", period=1, history_provider=self.provider, data_key=KEY)

        def signal(view: View) -> dict[str, Any]:
            return {"action": "BUY", "size": 0.01, "symbol": "BTC/USDT"}

        node = ProcessingNode(self.price, signal, name="signal", interval="1m", period=1)
        self.publisher = TradeOrderPublisherNode(node)
        self.add_nodes([self.price, [node, self.publisher]])


def price_of(result: SubmitResult) -> StreamInput:
    assert isinstance(result.strategy, EveryBar)
    return result.strategy.price


class Sink:
    """A duck-typed broker: remembers payloads, answers or raises what it is told."""

    def __init__(self, answer: Any = None, reach: str | None = None) -> None:
        self.orders: list[Mapping[str, Any]] = []
        self.answer = answer
        if reach is not None:
            self.reach = reach

    def post_order(self, payload: Mapping[str, Any]) -> Any:
        self.orders.append(payload)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Broker:
    """What a loopback broker was asked: (method, path, JSON body)."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[str, str, Any]] = []

    def methods(self) -> list[str]:
        return [method for method, _, _ in self.calls]


@contextmanager
def serve_broker() -> Iterator[Broker]:
    """A broker process's HTTP face on loopback: accepts every order, cancels every id."""
    broker = Broker()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            broker.calls.append((self.command, self.path, body))
            text = json.dumps({"id": str(len(broker.calls)), "status": "open"}).encode()
            if self.command == "DELETE":
                text = json.dumps({"id": self.path.rpartition("/")[2], "status": "canceled"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    broker.url = f"http://127.0.0.1:{server.server_port}/orders"
    try:
        yield broker
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
