"""Connectors §10 item 1: every snippet of the published page, in both languages, unchanged."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web

from qmtl.config import load
from qmtl.engine.clock import SystemClock
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig
from tests.seeds.loopback_tls import make_authority

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((Path(__file__).parent / "pages").glob("connectors.*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

# What each Python snippet must have led to, run after it in its own namespace.
AFTER = [
    """
print(resp.id, resp.status, resp["status"])
assert client.poll_order_status(resp).filled == resp.quantity
client.close()
""",
    """
print(resp.status, resp.symbol, resp["status"], client.reach)
print(client.cancel_order(resp.id).status)
client.close()
""",
    """
print(resp.status, resp.symbol, resp["status"], client.reach)
print(client.cancel_order(resp.id).status)
client.close()
""",
    """
import asyncio
print(feed.state, await fake.emit({"event": "queue_update"}))
await feed.start()
for _ in range(500):
    if feed.state == "open":
        break
    await asyncio.sleep(0.01)
print(feed.state)
await feed.stop()
""",
    """
from qmtl.runtime.sdk import StreamInput, TradeOrderPublisherNode
Runner.set_trade_mode("live")
source = StreamInput(interval="1m", period=1)
TradeOrderPublisherNode(source)
Runner.set_activation_manager(type("Closed", (), {"allow_side": lambda self, side: side != "SELL"})())
for minute, action in enumerate(["BUY", "SELL"]):
    signal = {"action": action, "size": 0.01, "symbol": "BTC/USDT"}
    Runner.feed_queue_data(source, "q", 60, 60 * minute, signal)
await Runner.shutdown_async()
print(sorted(Runner.road.counts.items()))
""",
]


def snippets(page: Path, kind: str) -> list[str]:
    return [text for found, text in FENCE.findall(page.read_text("utf-8")) if found == kind]


class Hosts:
    """The page's broker and gateway behind TLS, and a paper exchange."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, Any], str]] = []
        self.tokens: list[str] = []
        self.port = 0
        self.rest = ""
        self.trusted = Path()

    async def post(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.posts.append((body, request.headers["Idempotency-Key"]))
        return web.json_response({"id": "b1", "status": "filled", "quantity": body["quantity"]}, status=201)

    async def get(self, request: web.Request) -> web.Response:
        return web.json_response({"id": "b1", "status": "filled", "quantity": 0.01})

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        self.tokens.append(request.headers.get("Authorization", ""))
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"event": "queue_update"})
        async for message in socket:
            assert message.type is not aiohttp.WSMsgType.ERROR
        return socket


@pytest.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    served = Hosts()
    served.trusted, context = make_authority(tmp_path, "broker", "gateway")
    app = web.Application()
    app.router.add_post("/api/orders", served.post)
    app.router.add_get("/api/orders/{id}", served.get)
    app.router.add_get("/ws", served.stream)
    config = PaperExchangeConfig(
        markets=(MarketSettings(seed=3, history=50, min_notional=Decimal(5)),),
        accounts={"<TESTNET_KEY>": "<TESTNET_SECRET>"},
        balance=Decimal(100_000),
    )
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        served.port = runner.addresses[0][1]
        paper = PaperExchange(config, SystemClock())
        served.rest = (await paper.start())["rest"]
        stack.push_async_callback(paper.stop)
        yield served


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
async def test_1_the_pages_snippets_run_unchanged(page: Path, hosts: Hosts, home: Path) -> None:
    texts = snippets(page, "python")
    assert len(texts) == len(AFTER)
    work = {
        "hosts": {"broker": hosts.port, "gateway": hosts.port},
        "snippets": texts,
        "after": AFTER,
    }
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SSL_CERT_FILE": str(hosts.trusted),
        "QMTL_CONNECTORS__CCXT_BASE_URL": hosts.rest,
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.seeds.snippet_process"),
        cwd=home,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(child.communicate(json.dumps(work).encode()), 60)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == 0, err.decode()
    said = [line for line in out.decode().splitlines() if "[warning" not in line]
    assert said == [
        "b1 filled filled",
        "accepted BTC/USDT open sandbox",
        "canceled",
        "accepted BTC/USDT:USDT open sandbox",
        "canceled",
        "stopped False",
        "open",
        "[('denied', 1), ('sent', 1)]",
    ], err.decode()
    bodies = [body for body, _ in hosts.posts]
    assert [(b["symbol"], b["side"], b["quantity"]) for b in bodies] == [("BTC/USDT", "BUY", 0.01)] * 2
    assert len({key for _, key in hosts.posts}) == 2
    assert "Bearer <jwt>" in hosts.tokens
    assert (home / ".qmtl" / "orders.db").is_file(), "the Runner's and the clients' one journal"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_1_the_minimal_configuration_means_what_it_says(page: Path, home: Path) -> None:
    (text,) = snippets(page, "yaml")
    path = home / "qmtl.yml"
    path.write_text(text)
    connectors = load(path).connectors
    stated = yaml.safe_load(text)["connectors"]
    assert {name: getattr(connectors, name) for name in stated} == stated
    assert connectors.model_fields_set == set(stated)
    assert connectors.trade_backoff == 0.1
    assert connectors.execution_domain == "live"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_pages_are_the_published_ones(page: Path, recorded_data: Path) -> None:
    original = recorded_data.parent / "seeds" / page.name
    if not original.is_file():
        pytest.skip(f"no published page beside the recorded data: {original.name}")
    assert page.read_bytes() == original.read_bytes()
