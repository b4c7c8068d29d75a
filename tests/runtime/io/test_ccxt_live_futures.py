"""Seamless §5 on USDT-margined contracts: the same feed, other addresses and other hubs."""

from qmtl.services.paper_exchange.faults import FaultKind
from qmtl.services.paper_exchange.market import Trade
from tests.runtime.io.history_rig import configure
from tests.runtime.io.live_rig import START_MS, Live, live

__all__ = ["configure", "live"]
BARS = "ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m"
TRADES = "trades:binanceusdm:BTC/USDT%3AUSDT"
FIRST = START_MS // 1000


async def test_bars_of_contracts_are_filled_over_a_break(live: Live) -> None:
    feed = live.make(exchange="binanceusdm", symbols=["BTC/USDT:USDT"])
    live.listen(feed, BARS)
    await live.until(live.is_heard)
    await live.pass_until(lambda: len(live.closed()) >= 1)
    live.fault(FaultKind.CLOSE, "ws btcusdt@kline_1m", schedule=[1, 2])
    await live.pass_until(lambda: len(live.closed()) >= 4)
    rows = live.closed()
    assert [row[0] for row in rows] == [FIRST + 60 * n for n in range(len(rows))]
    assert rows == live.truth(FIRST, rows[-1][0])


async def test_trades_of_contracts_have_the_ids_of_history(live: Live) -> None:
    feed = live.make(exchange="binanceusdm", symbols=["BTC/USDT:USDT"], mode="trades")
    live.listen(feed, TRADES, 1)
    await live.until(live.is_heard)
    for start in range(0, 40, 4):
        now_ms = live.clock.now_ms()
        trades = [Trade(7_000 + start + n, now_ms, 100.5, 0.25, is_buyer_maker=False) for n in range(4)]
        live.exchange.print_trades("BTCUSDT", trades)
        await live.pass_time(1.0, 1.0)
        if start == 16:
            for hub in live.exchange.hubs:
                hub.disconnect()
    ids = [str(7_000 + n) for n in range(40)]
    await live.pass_until(lambda: sum(frame.height for _, _, frame in live.items) == len(ids))
    assert [name for _, _, frame in live.items for name in frame["id"].to_list()] == ids
    assert {side for _, _, frame in live.items for side in frame["side"].to_list()} == {"buy"}
