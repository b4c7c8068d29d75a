"""The typed client: signing, weights, clock, reach, paging, secrets."""

import hmac
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from urllib.parse import parse_qsl

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer

from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_rest import BinanceError
from qmtl.runtime.sdk.brokerage.result import VenueConfigurationError, VenueUnavailable
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.conftest import MINUTE_MS, Room
from tests.runtime.leap_clock import LeapClock

KEY, SECRET = "planted-key-7", "planted-secret-7"


class Double:
    """A tiny venue: answers what the test scripts, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str, dict[str, str]]] = []
        self.answers: list[web.Response] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append((request.method, request.path, request.query_string, dict(request.headers)))
        return self.answers.pop(0) if self.answers else web.json_response({})


@pytest.fixture
async def double() -> AsyncIterator[tuple[Double, TestServer]]:
    venue = Double()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", venue.handle)
    server = TestServer(app)
    await server.start_server()
    yield venue, server
    await server.close()


@pytest.fixture
async def client(double: tuple[Double, TestServer]) -> AsyncIterator[BinanceFuturesClient]:
    made = BinanceFuturesClient(
        KEY, SECRET, str(double[1].make_url("")), clock=LeapClock(), random=SeededRandom(3)
    )
    yield made
    await made.aclose()


async def test_requests_are_signed_over_what_is_sent(
    double: tuple[Double, TestServer], client: BinanceFuturesClient
) -> None:
    await client.call("POST", "/fapi/v1/order", {"symbol": "BTCUSDT", "newClientOrderId": "q_1-a"})
    method, path, query, headers = double[0].requests[0]
    signed, _, signature = query.rpartition("&signature=")
    assert (method, path, headers["X-MBX-APIKEY"]) == ("POST", "/fapi/v1/order", KEY)
    assert signature == hmac.new(SECRET.encode(), signed.encode(), sha256).hexdigest()
    fields = dict(parse_qsl(signed))
    assert fields["timestamp"] == "1700000000000"
    assert fields["recvWindow"] == "3000"


async def test_what_the_venue_says_is_a_typed_error_without_secrets(
    double: tuple[Double, TestServer], client: BinanceFuturesClient
) -> None:
    with structlog.testing.capture_logs() as logs:
        double[0].answers += [
            web.json_response({"code": -2019, "msg": "Margin is insufficient."}, status=400),
            web.json_response({"code": -1003, "msg": "slow down"}, status=429, headers={"Retry-After": "3"}),
        ]
        with pytest.raises(BinanceError, match="Margin is insufficient") as caught:
            await client.call("POST", "/fapi/v1/order")
        assert (caught.value.code, caught.value.http_status) == (-2019, 400)
        with pytest.raises(BinanceError) as limited:
            await client.call("GET", "/fapi/v1/openOrders")
        assert limited.value.retry_after_s == 3
    text = f"{client!r} {caught.value!r} {limited.value!r} {json.dumps(logs, default=str)}"
    assert KEY not in text
    assert SECRET not in text


async def test_a_ban_without_header_is_read_from_its_words(
    double: tuple[Double, TestServer], client: BinanceFuturesClient
) -> None:
    until = client.now_ms() + 30_000
    body = {"code": -1003, "msg": f"Way too many requests; IP banned until {until}."}
    double[0].answers += [web.json_response(body, status=418)]
    with pytest.raises(BinanceError) as caught:
        await client.call("GET", "/fapi/v1/openOrders")
    assert caught.value.retry_after_s == pytest.approx(30)
    await client.call("GET", "/fapi/v1/openOrders")
    assert sum(client.clock.slept) == pytest.approx(30)  # type: ignore[attr-defined]


async def test_harmless_calls_are_repeated_orders_are_not(
    double: tuple[Double, TestServer], client: BinanceFuturesClient
) -> None:
    double[0].answers += [web.json_response({}, status=503) for _ in range(3)] + [web.json_response([])]
    assert await client.open_orders() == []
    assert len(double[0].requests) == 4
    double[0].answers += [web.json_response({}, status=503) for _ in range(9)]
    with pytest.raises(VenueUnavailable, match="openOrders"):
        await client.open_orders()
    assert len(double[0].requests) == 8


async def test_near_the_weight_limit_it_waits_for_the_next_minute(
    double: tuple[Double, TestServer], client: BinanceFuturesClient
) -> None:
    used = web.json_response([], headers={"X-MBX-USED-WEIGHT-1M": "2150"})
    double[0].answers += [used]
    await client.open_orders()
    assert client.weight_share == pytest.approx(2150 / 2400)
    assert client.clock.slept == []  # type: ignore[attr-defined]
    await client.call("DELETE", "/fapi/v1/order", is_urgent=True)
    assert client.clock.slept == []  # type: ignore[attr-defined]
    double[0].answers += [web.json_response([], headers={"X-MBX-USED-WEIGHT-1M": "40"})]
    await client.open_orders()
    # 1,700,000,000 s is 20 s into its minute.
    assert client.clock.slept == [pytest.approx(40, abs=0.1)]  # type: ignore[attr-defined]


async def test_a_wrong_clock_is_measured_and_stamps_are_corrected(
    double: tuple[Double, TestServer], client: BinanceFuturesClient
) -> None:
    theirs = {"serverTime": 1_700_000_060_000}
    double[0].answers += [
        web.json_response({"code": -1021, "msg": "Timestamp …"}, status=400),
        web.json_response(theirs),
    ]
    with pytest.raises(BinanceError):
        await client.call("GET", "/fapi/v3/balance")
    assert client.clock_offset_ms == -60_000
    double[0].answers += [web.json_response([])]
    await client.balances()
    assert "timestamp=1700000060000" in double[0].requests[-1][2]
    double[0].answers += [web.json_response(theirs)]
    checked = await client.sync_clock()
    assert (checked.ts_ms, checked.offset_ms) == (1_700_000_060_000, -60_000)


@pytest.mark.parametrize(("speed", "offset_ms"), [(1.0, -60_000), (60.0, -1_000), (600.0, -100)])
async def test_an_offset_is_real_time_at_every_speed(
    double: tuple[Double, TestServer], speed: float, offset_ms: int
) -> None:
    """A minute of exchange time on a clock that runs 60 times faster is a second of ours."""
    url = str(double[1].make_url(""))
    clock = VirtualClock(1_700_000_000_000, speed)
    made = BinanceFuturesClient(KEY, SECRET, url, clock=clock, random=SeededRandom(3))
    double[0].answers += [web.json_response({"serverTime": 1_700_000_060_000})]
    assert (await made.sync_clock()).offset_ms == offset_ms
    assert made.now_ms() == 1_700_000_060_000
    await made.aclose()


@pytest.mark.parametrize(
    ("url", "reach"),
    [
        ("https://fapi.binance.com", "live"),
        ("https://testnet.binancefuture.com", "sandbox"),
        ("https://demo-fapi.binance.com", "sandbox"),
        ("https://demo-fapi.binance.com.evil.example", "live"),
    ],
)
async def test_reach_by_name(url: str, reach: str) -> None:
    client = BinanceFuturesClient(base_url=url, clock=LeapClock(), random=SeededRandom(1))
    assert client.reach == "live"
    assert await client.verify_reach() == reach


async def test_loopback_is_sandbox_only_when_it_says_so(
    room: Room, double: tuple[Double, TestServer], client: BinanceFuturesClient
) -> None:
    assert await room.client.verify_reach() == "sandbox"
    assert await client.verify_reach() == "live"
    await double[1].close()
    with pytest.raises(VenueUnavailable):
        await client.verify_reach()


async def test_klines_are_closed_only_and_paged(room: Room) -> None:
    await room.step(6)
    bars = await room.client.klines("BTCUSDT", "1m", limit=2000)
    opens = [bar.open_ms for bar in bars]
    assert len(opens) == 2000
    assert opens == list(range(opens[0], opens[0] + 2000 * MINUTE_MS, MINUTE_MS))
    assert opens[-1] + MINUTE_MS <= room.clock.now_ms()
    part = await room.client.klines("BTCUSDT", "1m", opens[10], opens[20])
    assert [bar.open_ms for bar in part] == opens[10:20]


async def test_settings_that_are_already_so_are_fine(room: Room) -> None:
    await room.client.set_margin_mode("BTCUSDT", "isolated")
    await room.client.set_margin_mode("BTCUSDT", "isolated")
    assert await room.client.set_leverage("BTCUSDT", 3) == 3
    await room.client.set_hedge_mode(is_on=False)
    assert await room.client.is_hedge_mode() is False
    with pytest.raises(VenueConfigurationError, match="leverage"):
        await room.client.set_leverage("BTCUSDT", 5000)
    assert (await room.client.restrictions()).enableWithdrawals is False
    info = await room.client.exchange_info()
    assert info.instruments["BTCUSDT"].settle == "USDT"
    assert (await room.client.account()).totalWalletBalance == 10_000
    await room.client.countdown_cancel_all("BTCUSDT", 0)


async def test_an_unreachable_venue_is_one_named_error(room: Room) -> None:
    room.fault(FaultKind.REFUSE, "GET /fapi/v1/time")
    with pytest.raises(VenueUnavailable, match="GET /fapi/v1/time"):
        await room.client.sync_clock()
