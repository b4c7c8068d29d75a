"""Seamless §4 without ccxt: bars of USDT-M contracts over our own client, from the paper exchange."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from qmtl.runtime.io.binance_history import BinanceFuturesFetcher
from qmtl.runtime.io.ccxt_fetcher import CcxtBackfillConfig
from qmtl.runtime.sdk.history import (
    EmptySpan,
    FatalFetchError,
    InvalidPayloadError,
    RateLimitedError,
    RetryableFetchError,
)
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.history_rig import T0, History, bar, configure, history
from tests.runtime.leap_clock import MidRandom

__all__ = ["configure", "history"]
NODE = "ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m"
KLINES = "GET /fapi/v1/klines"
LATER_S = T0 + 90 * 86_400


def make(place: History, **fields: Any) -> BinanceFuturesFetcher:
    config = CcxtBackfillConfig(**{"exchange": "binanceusdm", **fields})
    return BinanceFuturesFetcher(config, base_url=place.url, clock=place.clock, rng=MidRandom())


async def ask(fetcher: BinanceFuturesFetcher, minutes: int = 10, node_id: str = NODE) -> Any:
    return await fetcher.fetch_report(T0, T0 + 60 * minutes, node_id=node_id, interval=60)


@pytest.mark.parametrize(("bars", "limit"), [(1440, 500), (1000, 1000), (1001, 1000), (7, 3)])
async def test_07_n_bars_take_ceil_n_requests_and_no_ccxt(
    history: Callable[..., Any], bars: int, limit: int
) -> None:
    had_ccxt = "ccxt" in sys.modules
    place = await history(range(-5, bars + 5), LATER_S)
    klines = place.count(KLINES)
    report = await ask(make(place, batch_limit=limit), bars)
    assert report.frame["ts"].to_list() == list(range(T0, T0 + 60 * bars, 60))
    assert report.frame.rows()[3] == (T0 + 180, *bar(3))
    assert report.requests == klines.seen == -(-bars // limit)
    assert had_ccxt or "ccxt" not in sys.modules


async def test_06_an_outage_is_confirmed_empty(history: Callable[..., Any]) -> None:
    place = await history([*range(400), *range(700, 1110)], LATER_S)
    report = await ask(make(place), 1110)
    assert report.frame.height == 810
    assert report.confirmed_empty == [EmptySpan(T0 + 60 * 400, T0 + 60 * 700, permanent=True)]


async def test_08_the_forming_bar_is_left_out(history: Callable[..., Any]) -> None:
    place = await history(range(100), T0 + 60 * 50 + 1)
    report = await ask(make(place), 60)
    assert report.frame["ts"][-1] == T0 + 60 * 48, "a bar is closed two seconds after its end"


async def test_09_what_cannot_help_is_asked_once(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    klines = place.count(KLINES)
    with pytest.raises(FatalFetchError, match="-1121 Invalid symbol") as caught:
        await ask(make(place), node_id="ohlcv:binanceusdm:NOPE/USDT%3AUSDT:1m")
    assert (caught.value.symbol, caught.value.attempts, klines.seen) == ("NOPE/USDT:USDT", 1, 1)
    with pytest.raises(
        FatalFetchError, match="has no market BTC/USDT; its contracts are named like BTC/USDT:U"
    ):
        await ask(make(place), node_id="ohlcv:binanceusdm:BTC/USDT:1m")
    with pytest.raises(FatalFetchError, match="-1120 Invalid interval"):
        await make(place).fetch(T0, T0 + 60, node_id=NODE.replace("1m", "5s"), interval=5)
    with pytest.raises(NodeIdError):
        await ask(make(place), node_id="ohlcv:binance:BTC/USDT:1m")
    with pytest.raises(ValueError, match="expected binanceusdm, got bybit"):
        make(place, exchange="bybit")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [(FaultKind.REFUSE, {}), (FaultKind.DROP, {}), (FaultKind.STATUS, {"status": 503})],
)
async def test_09_what_may_pass_is_resent(
    history: Callable[..., Any], kind: FaultKind, fields: dict[str, Any]
) -> None:
    place = await history(range(100), LATER_S)
    klines = place.count(KLINES)
    rule = place.fault(kind, KLINES, times=2, **fields)
    assert (await ask(make(place))).frame.height == 10
    assert (klines.seen, rule.hits) == (3, 2)
    place.fault(kind, KLINES, **fields)
    with pytest.raises(RetryableFetchError) as caught:
        await ask(make(place, max_retries=1))
    assert caught.value.attempts == 2


async def test_09_retry_after_holds_every_request(history: Callable[..., Any]) -> None:
    place = await history(range(100), LATER_S)
    place.fault(FaultKind.STATUS, KLINES, status=429, seconds=7, times=1)
    before_ms = place.clock.real_ms()
    assert (await ask(make(place))).frame.height == 10
    assert place.clock.real_ms() - before_ms >= 7_000
    place.fault(FaultKind.STATUS, KLINES, status=429, seconds=7)
    with pytest.raises(RateLimitedError):
        await ask(make(place, max_retries=0))


async def test_an_answer_that_is_no_answer_is_invalid(
    history: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await history(range(100), LATER_S)
    fetcher = make(place)

    async def broken(*given: object, **named: object) -> bytes:
        return b'[[1, "x"]]'

    monkeypatch.setattr(fetcher._source._rest, "call", broken)  # type: ignore[attr-defined]
    with pytest.raises(InvalidPayloadError):
        await ask(fetcher)


def test_the_exchange_s_own_hosts_are_production(configure: Callable[..., None]) -> None:
    own = BinanceFuturesFetcher(base_url="https://fapi.binance.com")
    assert (own.environment, own.endpoint) == ("production", None)
    assert BinanceFuturesFetcher().environment == "production"
    for url in ("https://testnet.binancefuture.com", "https://demo-fapi.binance.com", "http://127.0.0.1:1"):
        test = BinanceFuturesFetcher(base_url=url)
        assert (test.environment, test.endpoint) == ("test", url)
