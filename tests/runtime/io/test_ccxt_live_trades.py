"""Seamless §5: live trades through real ccxt.pro from the paper exchange, each id once."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.ccxt_live_feed import CcxtProConfig, CcxtProLiveFeed
from qmtl.runtime.io.history_rows import list_trades
from qmtl.runtime.io.live_rows import LiveTrades
from qmtl.runtime.sdk.brokerage.result import SandboxUnavailable
from qmtl.services.paper_exchange.faults import FaultKind
from qmtl.services.paper_exchange.market import Trade
from tests.runtime.io.history_rig import configure
from tests.runtime.io.live_rig import AGGREGATES, BARS, TRADES, Live, live

__all__ = ["configure", "live"]


class Tape:
    """Prints numbered trades at the exchange's present time."""

    def __init__(self, place: Live) -> None:
        self.place = place
        self.next_id = 5_000

    def print(self, count: int) -> None:
        now_ms = self.place.clock.now_ms()
        trades = [
            Trade(self.next_id + n, now_ms, 100.0 + n, 0.25, is_buyer_maker=n % 2 == 0) for n in range(count)
        ]
        self.next_id += count
        self.place.exchange.print_trades("BTCUSDT", trades)

    async def run(self, seconds: float, each: int = 3) -> None:
        """Print a few trades every half second."""
        for _ in range(round(seconds * 2)):
            self.print(each)
            await self.place.pass_time(0.5)


async def start(place: Live, **fields: Any) -> Tape:
    place.listen(place.make(mode="trades", **fields), TRADES, 1)
    await place.until(place.is_heard)
    return Tape(place)


def ids(place: Live) -> list[str]:
    return [name for _, _, frame in place.items for name in frame["id"].to_list()]


def expected(tape: Tape) -> list[str]:
    return [str(number) for number in range(5_000, tape.next_id)]


async def test_trades_of_a_stream_are_those_of_history(live: Live) -> None:
    tape = await start(live)
    await tape.run(5)
    await live.pass_until(lambda: len(ids(live)) == 30)
    assert ids(live) == expected(tape)
    _, last_ts, frame = live.items[0]
    assert frame.columns == ["ts", "ts_ms", "id", "price", "amount", "side"]
    assert frame.row(0)[2:] == ("5000", 100.0, 0.25, "sell")
    assert last_ts == frame["ts"][-1]


async def test_17_a_stall_of_trades_is_noticed_within_5_seconds(live: Live) -> None:
    tape = await start(live)
    await tape.run(3)
    stalled = live.fault(FaultKind.STALL, AGGREGATES, seconds=60, times=1)
    tape.print(1)
    await live.until(lambda: stalled.hits)
    began_s = live.clock.real_ms() / 1000
    while not live.dropped_s:
        await tape.run(0.5)
    assert live.dropped_s[0] - began_s <= 5.0
    await tape.run(70)
    await live.pass_until(lambda: len(ids(live)) == len(expected(tape)))
    assert ids(live) == expected(tape)
    times = [ts for _, _, frame in live.items for ts in frame["ts_ms"].to_list()]
    assert times == sorted(times)


async def test_breaks_duplicates_and_losses_leave_each_trade_once(live: Live) -> None:
    tape = await start(live)
    before = SEAMLESS.live_reconnects.labels("binance")._value.get()
    await tape.run(2)
    live.fault(FaultKind.DUPLICATE, AGGREGATES, chance=0.2)
    live.fault(FaultKind.CLOSE, AGGREGATES, schedule=[5, 30, 31])
    await tape.run(15)
    await live.pass_until(lambda: len(ids(live)) == len(expected(tape)))
    assert ids(live) == expected(tape)
    assert SEAMLESS.live_reconnects.labels("binance")._value.get() - before >= 2


async def test_a_quiet_market_is_not_reconnected(live: Live) -> None:
    tape = await start(live)
    await tape.run(2)
    questions = live.exchange.faults
    rule = live.fault(FaultKind.STATUS, "GET /api/v3/aggTrades", times=0)
    await live.pass_time(300, 1.0)
    # Asked after 5, 10, 20, 40, 60, 60, 60 seconds of silence.
    assert live.dropped_s == []
    assert 5 <= rule.seen <= 8
    assert questions.rules
    await tape.run(1)
    await live.pass_until(lambda: ids(live) == expected(tape))


async def test_a_slow_reader_gets_dropped_trades_by_rest(live: Live) -> None:
    feed = live.make(mode="trades", buffer_rows=20)
    items = feed.subscribe(TRADES, 1)
    first = asyncio.ensure_future(anext(items))
    await live.until(live.is_heard)
    tape = Tape(live)
    tape.print(1)
    await live.until(first.done)
    seen = first.result()[1]["id"].to_list()
    for _ in range(30):
        tape.print(10)
        await live.pass_time(1.0, 1.0)

    async def drain() -> None:
        async for _, frame in items:
            seen.extend(frame["id"].to_list())

    live.tasks.append(asyncio.create_task(drain()))
    await live.pass_until(lambda: len(seen) >= 301, 20)
    assert seen == expected(tape)


def test_only_nameless_trades_collapse() -> None:
    def trade(ts_ms: int, name: str | None) -> dict[str, Any]:
        return {"timestamp": ts_ms, "price": 1.0, "amount": 2.0, "side": "buy", "id": name}

    told = [trade(1_000, "a"), trade(1_000, "b"), trade(1_000, None), trade(1_000, None), trade(1_001, None)]
    rows = list_trades(told, {})
    assert len(LiveTrades(100).take(rows)) == 5
    assert [row[2] for row in LiveTrades(100, collapses_nameless=True).take(rows)][:2] == ["a", "b"]
    assert len(LiveTrades(100, collapses_nameless=True).take(rows)) == 4
    held = LiveTrades(100)
    assert held.take(rows)
    assert held.take(rows) == []
    assert not held.is_new(rows)
    assert len(LiveTrades(100, dedupes=False).take([*rows, *rows])) == 10
    # Memory is bounded: what was forgotten would come again.
    small = LiveTrades(2)
    small.take(list_trades([trade(n, str(n)) for n in range(1, 5)], {}))
    assert len(small._seen) == 2


async def test_a_sandbox_is_proven_or_refused(configure: Callable[..., None]) -> None:
    ccxtpro: Any = pytest.importorskip("ccxt.pro")
    production = ccxtpro.binance()
    feed = CcxtProLiveFeed(CcxtProConfig(exchange="binance", sandbox=True), exchange=production)
    with pytest.raises(SandboxUnavailable):
        await feed.is_live_available(BARS, 60)
    production.set_sandbox_mode(True)
    assert await feed.is_live_available(BARS, 60)
    assert feed.environment == "test"
    own = CcxtProLiveFeed(CcxtProConfig(exchange="binance", sandbox=True))
    assert await own.is_live_available(BARS, 60)
    assert "testnet" in str(own.endpoint)
    with pytest.raises(SandboxUnavailable):
        await CcxtProLiveFeed(CcxtProConfig(exchange="kraken", sandbox=True)).is_live_available(
            "ohlcv:kraken:BTC/USD:1m", 60
        )
    plain = CcxtProLiveFeed(CcxtProConfig(exchange="binance"), exchange=ccxtpro.binance())
    assert plain.environment == "production"


async def test_41_ccxt_missing_names_the_feed(
    configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ccxt", None)
    feed = CcxtProLiveFeed(CcxtProConfig(exchange="binance"))
    with pytest.raises(RuntimeError) as caught:
        await feed.is_live_available(BARS, 60)
    assert str(caught.value) == "ccxt is required for CcxtProLiveFeed; run: uv pip install -e .[ccxt]"


def test_03_alias_pairs_of_the_feed_and_its_defaults() -> None:
    for given in ({"exchange": "okx"}, {"exchange_id": "okx"}, {"exchange": "okx", "exchange_id": "okx"}):
        config = CcxtProConfig(**given)  # type: ignore[arg-type]
        assert (config.exchange, config.exchange_id, config.mode) == ("okx", "okx", "ohlcv")
    with pytest.raises(ValueError, match="are unequal"):
        CcxtProConfig(exchange="okx", exchange_id="kraken")
    config = CcxtProConfig(exchange="okx")
    assert (config.stall_timeout_s, config.buffer_rows, config.verify_closed) == (15, 10_000, True)
    assert CcxtProConfig(exchange="okx", mode="trades").stall_timeout_s == 5


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mode": "book"}, "mode"),
        ({"mode": []}, "mode"),
        ({"dedupe_by": "id"}, "dedupe_by"),
        ({"sandbox": "no"}, "sandbox"),
        ({"verify_closed": 1}, "verify_closed"),
        ({"reconnect_backoff_s": 0}, "reconnect_backoff_s"),
        ({"reconnect_backoff_ms": [100, -1]}, "reconnect_backoff_ms"),
        ({"max_backoff_s": float("nan")}, "max_backoff_s"),
        ({"stall_timeout_s": 0}, "stall_timeout_s"),
        ({"buffer_rows": 0}, "buffer_rows"),
        ({"timeframe": "7m"}, "timeframe"),
        ({"symbols": ["a\nb"]}, "symbols"),
    ],
)
def test_36_hostile_configuration_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CcxtProConfig(**{"exchange": "binance", **fields})
