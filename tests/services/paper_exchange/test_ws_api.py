"""The WebSocket order API: envelopes, signatures, limits, refusals, and what goes wrong on purpose."""

from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.engine.clock import VirtualClock
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.auth import sign
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import PaperExchangeConfig
from qmtl.services.paper_exchange.ws_api import check_ws_signature
from tests.services.paper_exchange.conftest import START_MS, Caller, Start
from tests.services.paper_exchange.listening import PATIENCE_S

ORDER = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01"}


class Line:
    """One connection to the WebSocket API."""

    def __init__(self, caller: Caller, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.caller = caller
        self.socket = socket

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        await self.socket.send_bytes(msgspec.json.encode({"id": "7", "method": method, "params": params}))
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self.socket.receive_json(timeout=PATIENCE_S)
        return answer

    async def speak(self, method: str, secret: str = "paper", **params: Any) -> dict[str, Any]:
        params = {"apiKey": "paper", "timestamp": self.caller.server.clock.now_ms(), **params}
        text = "&".join(f"{name}={params[name]}" for name in sorted(params))
        return await self.ask(method, **params, signature=sign(secret, text))


async def open_line(start: Start, path: str = "/ws-fapi/v1", **config: Any) -> Line:
    caller: Caller = await start(**config)
    return Line(caller, await caller.session.ws_connect(caller.urls["ws"] + path))


async def test_an_order_lives_and_ends_over_the_socket(start: Start) -> None:
    line = await open_line(start)
    placed = await line.speak("order.place", **ORDER, price="58000", newClientOrderId="mine")
    assert (placed["id"], placed["status"]) == ("7", 200)
    assert (placed["result"]["status"], placed["result"]["clientOrderId"]) == ("NEW", "mine")
    assert [(row["rateLimitType"], row["interval"], row["count"]) for row in placed["rateLimits"]] == [
        ("REQUEST_WEIGHT", "MINUTE", 0),
        ("ORDERS", "SECOND", 1),
        ("ORDERS", "MINUTE", 1),
    ]
    modified = await line.speak(
        "order.modify", symbol="BTCUSDT", side="BUY", origClientOrderId="mine", quantity="0.02", price="57000"
    )
    assert (modified["result"]["origQty"], modified["result"]["price"]) == ("0.02", "57000")
    rest = await line.caller.speak("GET", "/fapi/v1/order", symbol="BTCUSDT", origClientOrderId="mine")
    asked = await line.speak("order.status", symbol="BTCUSDT", origClientOrderId="mine")
    assert asked["result"] == rest.body
    gone = await line.speak("order.cancel", symbol="BTCUSDT", origClientOrderId="mine")
    assert gone["result"]["status"] == "CANCELED"
    again = await line.speak("order.cancel", symbol="BTCUSDT", origClientOrderId="mine")
    assert again["status"] == 400
    assert again["error"] == {"code": -2011, "msg": "Unknown order sent."}


@pytest.mark.parametrize(
    ("method", "route"),
    [
        ("account.status", "/fapi/v2/account"),
        ("v2/account.status", "/fapi/v3/account"),
        ("account.balance", "/fapi/v2/balance"),
        ("v2/account.balance", "/fapi/v3/balance"),
        ("account.position", "/fapi/v2/positionRisk"),
        ("v2/account.position", "/fapi/v3/positionRisk"),
    ],
)
async def test_account_methods_answer_what_rest_answers(start: Start, method: str, route: str) -> None:
    line = await open_line(start)
    await line.speak("order.place", symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.01")
    rest = await line.caller.speak("GET", route)
    assert (await line.speak(method))["result"] == rest.body
    assert rest.body


async def test_public_methods_need_no_key(start: Start) -> None:
    line = await open_line(start)
    assert (await line.ask("ping"))["result"] == {}
    assert (await line.ask("time"))["result"] == {"serverTime": START_MS - 1}
    price = (await line.ask("ticker.price", symbol="BTCUSDT"))["result"]
    book = (await line.ask("ticker.book", symbol="BTCUSDT"))["result"]
    depth = (await line.ask("depth", symbol="BTCUSDT", limit=5))["result"]
    assert float(book["bidPrice"]) < float(price["price"]) < float(book["askPrice"])
    assert (depth["bids"][0][0], len(depth["bids"])) == (book["bidPrice"], 5)


async def test_a_listen_key_opened_here_carries_events(start: Start) -> None:
    line = await open_line(start)
    key = (await line.ask("userDataStream.start", apiKey="paper"))["result"]["listenKey"]
    assert (await line.ask("userDataStream.ping", apiKey="paper"))["result"] == {"listenKey": key}
    stream = await line.caller.session.ws_connect(f"{line.caller.urls['ws']}/private/ws/{key}")
    await line.speak("order.place", **ORDER, price="58000")
    assert (await stream.receive_json(timeout=PATIENCE_S))["e"] == "ORDER_TRADE_UPDATE"
    assert (await line.ask("userDataStream.stop", apiKey="paper"))["result"] == {}


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("order.place", {**ORDER, "price": "58000", "timestamp": START_MS - 60_000}, -1021),
        ("order.place", {**ORDER, "price": "58000", "timestamp": START_MS + 60_000}, -1021),
        ("order.place", {**ORDER}, -1102),
        ("order.place", {**ORDER, "symbol": "NOPE", "price": "58000"}, -1121),
        ("order.place", {**ORDER, "type": "STOP_MARKET", "stopPrice": "58000"}, -4120),
        ("session.logon", {}, -4056),
        ("order.guess", {}, -5000),
    ],
)
async def test_refusals_say_why(start: Start, method: str, params: dict[str, Any], code: int) -> None:
    line = await open_line(start, is_manual=False, clock=VirtualClock(START_MS))
    refused = await line.speak(method, **params)
    assert (refused["status"], refused["error"]["code"]) == (400, code)
    assert (await line.caller.speak("GET", "/fapi/v1/openOrders")).body == []


async def test_who_asks_is_checked(start: Start) -> None:
    line = await open_line(start)
    assert (await line.speak("account.status", secret="wrong"))["error"]["code"] == -1022
    assert (await line.ask("account.status", apiKey="paper", timestamp=1))["error"]["code"] == -1102
    assert (await line.speak("account.status", apiKey="stranger"))["error"]["code"] == -2015
    assert (await line.ask("account.status"))["error"]["code"] == -2014
    await line.socket.send_str("{not json")
    assert (await line.hear())["error"]["code"] == -1135


async def test_rate_limits_are_shown_unless_declined(start: Start) -> None:
    line = await open_line(start)
    assert "rateLimits" in await line.ask("ping")
    assert "rateLimits" not in await line.ask("ping", returnRateLimits=False)
    url = line.caller.urls["ws"] + "/ws-fapi/v1?returnRateLimits=false"
    silent = Line(line.caller, await line.caller.session.ws_connect(url))
    assert "rateLimits" not in await silent.ask("ping")
    status = (await silent.ask("session.status", returnRateLimits=True))["result"]
    assert (status["apiKey"], status["returnRateLimits"]) == (None, False)


@pytest.mark.parametrize(
    ("kind", "answer", "taken"),
    [
        (FaultKind.REFUSE, None, 0),
        (FaultKind.DROP, None, 1),
        (FaultKind.STATUS, 503, 0),
        (FaultKind.LOST_ANSWER, 503, 1),
    ],
)
async def test_faults_strike_here_too(start: Start, kind: FaultKind, answer: int | None, taken: int) -> None:
    line = await open_line(start)
    line.caller.server.exchange.faults.add(FaultRule(kind=kind, route="WS order.place", times=1))
    if answer is None:
        with pytest.raises(aiohttp.WSMessageTypeError):
            await line.speak("order.place", **ORDER, price="58000")
    else:
        failed = await line.speak("order.place", **ORDER, price="58000")
        assert (failed["status"], failed["error"]["code"]) == (answer, -1007)
    assert len((await line.caller.speak("GET", "/fapi/v1/openOrders")).body) == taken


async def test_stopping_the_exchange_ends_the_connections() -> None:
    async with AsyncExitStack() as stack:
        server = PaperExchange(PaperExchangeConfig(is_manual=True), VirtualClock(START_MS))
        urls = await server.start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        sockets = [
            await session.ws_connect(urls["ws"] + path) for path in ("/ws-fapi/v1", "/ws", "/ws-api/v3")
        ]
        await server.stop()
        assert {(await socket.receive(timeout=PATIENCE_S)).type for socket in sockets} == {
            aiohttp.WSMsgType.CLOSE
        }


@given(
    params=st.dictionaries(
        st.from_regex("[a-zA-Z]{1,8}", fullmatch=True).filter(lambda name: name != "signature"),
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12),
        min_size=1,
    ),
    other=st.text("0123456789abcdef", min_size=64, max_size=64),
)
def test_both_ways_of_writing_the_signed_text_are_taken_and_nothing_else(
    params: dict[str, str], other: str
) -> None:
    ordered = sorted(params.items())
    for text in ("&".join(f"{name}={value}" for name, value in ordered), urlencode(ordered)):
        check_ws_signature("paper", params | {"signature": sign("paper", text)})
    with pytest.raises(VenueError, match="-1022"):
        check_ws_signature("paper", params | {"signature": other})
